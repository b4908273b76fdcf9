"""GPT-2 on one page, with a hook at every intermediate value.

    residual = token embedding + position embedding
    in each block:  residual += attention(LayerNorm(residual))
                    residual += MLP(LayerNorm(residual))
    logits = LayerNorm(residual) W_U

Radford et al. 2019, in Hugging Face's parametrisation. `at("attn.hook_q", q)` passes a value
through the call's hooks (see `hooks.py`); without hooks it returns at once, and attention and
LayerNorm run fused. Weights keep Hugging Face's memory layout, so loading copies nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Unpack

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import HookError, PromptError
from interp.model import formula
from interp.model.config import ModelConfig
from interp.model.generation import Generates
from interp.model.hooks import BlockHooks, Hooks
from interp.model.huggingface import (
    HuggingFaceModel,
    config_from_huggingface,
    weights_from_huggingface,
)
from interp.model.key_values import KeyValueCache
from interp.model.running import (
    ForwardOptions,
    HookedRuns,
    Resid,
    check_options,
    choose_positions,
    layers_between,
)
from interp.model.stacked import StackedWeights
from interp.model.tokens import Prompt, TokenBatch, Tokenizer

Heads = Float[Tensor, "batch pos head d_head"]
Keys = Float[Tensor, "batch key_pos head d_head"]
"""Keys or values of a prefix and of the positions that run."""
KeyMask = Bool[Tensor, "batch key_pos"]


class Embed(nn.Module):
    """Token embedding."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model))

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Resid:
        """Rows of W_E."""
        return F.embedding(tokens, self.W_E)


class PosEmbed(nn.Module):
    """Learned position embedding."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))

    def forward(self, positions: Int[Tensor, "batch pos"]) -> Resid:
        """Rows of W_pos."""
        return F.embedding(positions, self.W_pos)


class LayerNorm(nn.Module):
    """Centre, divide by the scale, then weight and bias."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(cfg.d_model))
        self.b = nn.Parameter(torch.empty(cfg.d_model))
        self.eps = cfg.eps

    def forward(
        self,
        x: Float[Tensor, "*any d_model"],
        at: Hooks | BlockHooks | None = None,
        name: str = "",
    ) -> Float[Tensor, "*any d_model"]:
        """Fused, unless somebody looks at `<name>.hook_scale` or `<name>.hook_normalized`."""
        hooked = at and (at.wants(f"{name}.hook_scale") or at.wants(f"{name}.hook_normalized"))
        if at is None or not hooked:
            return F.layer_norm(x, self.w.shape, self.w, self.b, self.eps)
        scale = at(f"{name}.hook_scale", formula.layer_norm_scale(x, self.eps))
        normalized = formula.layer_norm_normalized(x, scale)
        return at(f"{name}.hook_normalized", normalized) * self.w + self.b


class Attention(nn.Module):
    """Causal multi-head attention: softmax(Q Kᵀ / √d_head) V, mixed by W_O."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        head_shape = (cfg.n_heads, cfg.d_head)
        self.W_QKV = nn.Parameter(torch.empty(cfg.d_model, 3, *head_shape))
        self.b_QKV = nn.Parameter(torch.empty(3, *head_shape))
        self.W_O = nn.Parameter(torch.empty(*head_shape, cfg.d_model))
        self.b_O = nn.Parameter(torch.empty(cfg.d_model))
        self.layer = layer
        self.factor = cfg.score_factor(layer)
        self.upcast = cfg.reorder_and_upcast_attn

    def forward(
        self, q: Heads, k: Heads, v: Heads, at: BlockHooks, key_mask: KeyMask | None,
        past: KeyValueCache | None,
    ) -> Resid:  # fmt: skip
        """From q, k, v to what attention writes into the residual stream."""
        q, k, v = at("attn.hook_q", q), at("attn.hook_k", k), at("attn.hook_v", v)
        if past is not None:
            k, v = past.extend(self.layer, k, v)
        z = at("attn.hook_z", self.mix(q, k, v, at, key_mask))
        if at.wants("attn.hook_result"):
            result = einsum(z, self.W_O, "b p head d_head, head d_head d_model -> b p head d_model")
            return at("attn.hook_result", result).sum(dim=-2) + self.b_O
        return self.project(z)

    def mix(self, q: Heads, k: Keys, v: Keys, at: BlockHooks, key_mask: KeyMask | None) -> Heads:
        """z: values mixed by attention, for queries that are the last of the keys' positions."""
        looked_at = at.wants("attn.hook_attn_scores") or at.wants("attn.hook_pattern")
        if looked_at or (self.upcast and q.dtype.itemsize < 4):
            return self._attend_openly(q, k, v, at, key_mask)
        return self._attend(q, k, v, key_mask)

    def project(self, z: Heads) -> Resid:
        """What the heads write together: `z W_O + b_O`."""
        W_O = rearrange(self.W_O, "head d_head d_model -> d_model (head d_head)")
        return F.linear(rearrange(z, "b p head d_head -> b p (head d_head)"), W_O, self.b_O)

    def _attend_openly(
        self, q: Heads, k: Keys, v: Keys, at: BlockHooks, key_mask: KeyMask | None
    ) -> Heads:
        """With scores and pattern as tensors that can be read and edited."""
        if key_mask is None:
            key_mask = torch.ones(1, k.shape[1], dtype=torch.bool, device=k.device)
        allowed = formula.allowed_keys(q.shape[1], key_mask)
        if self.upcast:
            q, k = formula.at_least_float32(q), formula.at_least_float32(k)
        scores = formula.attention_scores(q, k, self.factor, allowed)
        pattern = formula.attention_pattern(at("attn.hook_attn_scores", scores)).to(v.dtype)
        return formula.weighted_values(at("attn.hook_pattern", pattern), v)

    def _attend(self, q: Heads, k: Keys, v: Keys, key_mask: KeyMask | None) -> Heads:
        """The same numbers without ever holding the pattern."""
        n_queries, n_keys = q.shape[1], k.shape[1]
        allowed = None
        if key_mask is None and 1 < n_queries < n_keys:
            key_mask = torch.ones(1, n_keys, dtype=torch.bool, device=k.device)
        if key_mask is not None:
            allowed = formula.allowed_keys(n_queries, key_mask)
        z = F.scaled_dot_product_attention(
            *(rearrange(x, "batch pos head d_head -> batch head pos d_head") for x in (q, k, v)),
            attn_mask=allowed,
            is_causal=allowed is None and n_queries > 1,
            scale=self.factor,
        )
        return rearrange(z, "batch head pos d_head -> batch pos head d_head")


class MLP(nn.Module):
    """Two linear maps with a non-linearity between them."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.b_in = nn.Parameter(torch.empty(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        self.b_out = nn.Parameter(torch.empty(cfg.d_model))
        self.activation = formula.activation(cfg.act_fn)

    def forward(self, x: Resid, at: BlockHooks) -> Resid:
        """`activation(x W_in + b_in) W_out + b_out`."""
        pre = at("mlp.hook_pre", F.linear(x, self.W_in.T, self.b_in))
        post = at("mlp.hook_post", self.activation(pre))
        return F.linear(post, self.W_out.T, self.b_out)


class Block(nn.Module):
    """One layer: attention and MLP, each reading and adding to the residual stream."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln1, self.attn = LayerNorm(cfg), Attention(cfg, layer)
        self.ln2, self.mlp = LayerNorm(cfg), MLP(cfg)

    def forward(
        self, residual: Resid, at: BlockHooks, key_mask: KeyMask | None, past: KeyValueCache | None
    ) -> Resid:
        """The residual stream after this block."""
        resid_pre = at("hook_resid_pre", residual)
        q, k, v = self._queries_keys_values(resid_pre, at)
        attn_out = at("hook_attn_out", self.attn(q, k, v, at, key_mask, past))
        resid_mid = at("hook_resid_mid", resid_pre + attn_out)
        mlp_in = at("hook_mlp_in", resid_mid)
        mlp_out = at("hook_mlp_out", self.mlp(self.ln2(mlp_in, at, "ln2"), at))
        return at("hook_resid_post", resid_mid + mlp_out)

    def _queries_keys_values(self, resid_pre: Resid, at: BlockHooks) -> list[Heads]:
        """All heads read one stream, unless a hook gives each head its own copy of it."""
        attn = self.attn
        qkv = F.linear(
            self.ln1(resid_pre, at, "ln1"), attn.W_QKV.flatten(1).T, attn.b_QKV.flatten()
        )
        pattern = "batch pos (qkv head d_head) -> qkv batch pos head d_head"
        projected = list(rearrange(qkv, pattern, qkv=3, head=attn.W_O.shape[0]))
        per_head = repeat(resid_pre, "b p d_model -> b p head d_model", head=attn.W_O.shape[0])
        per_head = at("hook_attn_in", per_head)
        for index, letter in enumerate("qkv"):
            if at.wants(f"hook_{letter}_input") or at.wants("hook_attn_in"):
                self._refuse_edits_of_shared_norm(at)
                own = self.ln1(at(f"hook_{letter}_input", per_head))
                weight = attn.W_QKV[:, index]
                equation = "b p head d_model, d_model head d_head -> b p head d_head"
                projected[index] = einsum(own, weight, equation) + attn.b_QKV[index]
        return projected

    @staticmethod
    def _refuse_edits_of_shared_norm(at: BlockHooks) -> None:
        if at.edits("ln1.hook_scale") or at.edits("ln1.hook_normalized"):
            raise HookError(
                "ln1 is hooked in a layer whose heads read their own inputs (hook_attn_in, "
                "hook_q_input ...), so an edit or gradient of the shared ln1 would miss them. "
                "Use one or the other."
            )


class Unembed(nn.Module):
    """From the normalised residual stream to logits over the vocabulary (or classes)."""

    b_U: nn.Parameter | None

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.d_vocab_out, cfg.d_model))
        self.register_parameter("b_U", None)

    def forward(self, x: Resid) -> Float[Tensor, "batch pos d_vocab"]:
        """`x W_U + b_U`; GPT-2 has no b_U until LayerNorms are folded."""
        return F.linear(x, self.weight, self.b_U)

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding as a map from the residual stream."""
        return self.weight.T


class HookedGPT2(HookedRuns, Generates, StackedWeights):
    """A GPT-2 whose every intermediate value has a name, and can be read and edited.

    Args:
        cfg: Sizes and switches.
        tokenizer: For text; without one the model takes token ids.
        seed: Of the random initial weights (normal, as GPT-2's).
    """

    def __init__(
        self, cfg: ModelConfig, tokenizer: Tokenizer | None = None, *, seed: int = 0
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.tokenizer = tokenizer
        with cfg.device:
            self.embed, self.pos_embed = Embed(cfg), PosEmbed(cfg)
            self.blocks = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.n_layers))
            self.ln_final, self.unembed = LayerNorm(cfg), Unembed(cfg)
        if cfg.tie_word_embeddings and cfg.n_classes is None:
            self.unembed.weight = self.embed.W_E
        self.to(cfg.dtype)
        if cfg.device.type != "meta":
            self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Normal weights, smaller where they write to the stream; zero biases; unit LayerNorms."""
        generator = torch.Generator(device=self.cfg.device).manual_seed(seed)
        std = self.cfg.init_range
        for name, parameter in self.named_parameters():
            kind = name.rpartition(".")[2]
            if kind.startswith("b"):
                nn.init.zeros_(parameter)
            elif kind == "w" and parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                writes = kind in ("W_O", "W_out")
                scale = std / (2 * self.cfg.n_layers) ** 0.5 if writes else std
                nn.init.normal_(parameter, std=scale, generator=generator)

    @classmethod
    def from_weights(
        cls,
        cfg: ModelConfig,
        weights: Mapping[str, Tensor],
        tokenizer: Tokenizer | None = None,
    ) -> "HookedGPT2":
        """Build from tensors by our names, without copying them; weights are frozen.

        Tensors need not be contiguous; `unembed.weight` may be left out when it is tied, and
        `unembed.b_U` is optional.
        """
        model = cls(replace(cfg, device=torch.device("meta")), tokenizer)
        weights = dict(weights)
        b_U = weights.pop("unembed.b_U", None)
        weights.setdefault("unembed.weight", weights["embed.W_E"])
        model.load_state_dict(weights, strict=True, assign=True)
        if cfg.tie_word_embeddings and cfg.n_classes is None:
            model.unembed.weight = model.embed.W_E
        if b_U is not None:
            model.unembed.b_U = nn.Parameter(b_U)
        model._note_device_and_dtype()
        return model.requires_grad_(False).eval()

    @classmethod
    def from_huggingface(
        cls, hf_model: HuggingFaceModel, tokenizer: Tokenizer | None = None
    ) -> "HookedGPT2":
        """Take over the weights of an in-memory `transformers` GPT-2; that model is not modified.

        Weights are copied, so that training one does not change the other.

        Raises:
            ConfigError, CheckpointError: another architecture, or settings we do not understand.
        """
        config = hf_model.config.to_dict() | {"architectures": [type(hf_model).__name__]}
        cfg = config_from_huggingface(config, hf_model.config.name_or_path or "in-memory GPT-2")
        state = {name: x.detach().clone() for name, x in hf_model.state_dict().items()}
        weights = weights_from_huggingface(state, cfg, type(hf_model).__name__)
        return cls.from_weights(cfg, weights, tokenizer)

    def _apply(self, fn, recurse: bool = True):
        """Every move between devices and types passes here: keep `cfg` true."""
        moved = super()._apply(fn, recurse)
        self._note_device_and_dtype()
        return moved

    def _note_device_and_dtype(self) -> None:
        W_E = self.embed.W_E
        self.cfg = replace(self.cfg, device=W_E.device, dtype=W_E.dtype)

    # Running

    def forward(
        self,
        input: Prompt | Resid,
        return_type: str | None = "logits",
        **options: Unpack[ForwardOptions],
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """Run the model, or a part of it.

        Args:
            input: Text, texts, token ids, a `TokenBatch`; with `start_at_layer`, a residual stream
                `batch pos d_model`.
            return_type: "logits" `[batch, pos, d_vocab]`; "loss", the mean cross-entropy of the
                next token in nats; "both"; or None.
            prepend_bos: Begin texts with the end-of-text token (default: yes).
            attention_mask: True at real tokens, of prefix and input; required if a tensor of ids
                holds padding.
            start_at_layer: Input is the stream before this block; blocks below are not run.
            stop_at_layer: Return the stream before this block; it and later ones are not run.
            past_kv_cache: Keys and values of a prefix; the input continues it.
            positions: Where logits are wanted; others are not computed.
            loss_per_token: Loss of each predicted token `[batch, pos - 1]` instead of the mean.

        Raises:
            PromptError: empty, too long, or padded without a mask.
            HookError: a hook failed, never ran, or returned something that does not fit.
        """
        check_options(options)
        hooks = Hooks(self)
        start, stop = options.get("start_at_layer"), options.get("stop_at_layer")
        layers = layers_between(self.cfg.n_layers, start, stop)
        past, mask = options.get("past_kv_cache"), options.get("attention_mask")
        mask = mask.bool() if mask is not None else None
        n_past = past.begin_run() if past else 0
        batch = None
        if start is None:
            batch, mask = self._checked_batch(input, options.get("prepend_bos"), mask, n_past)
            residual = self._embedded(batch.tokens, mask, hooks)
        else:
            residual = self._checked_residual(input, mask, n_past)
        key_mask = mask if mask is not None and formula.hides_a_key(mask) else None
        hooks.note_key_mask(key_mask)
        for layer in layers:
            residual = self.blocks[layer](residual, BlockHooks(hooks, layer), key_mask, past)
        output = residual
        if stop is None:
            output = self._output(residual, batch, mask, hooks, return_type, options)
        hooks.check_all_fired()
        if past:
            past.keep_run()
        return output if return_type is not None or stop is not None else None

    def _checked_batch(
        self, input: Prompt, prepend_bos: bool | None, mask: Tensor | None, n_past: int
    ) -> tuple[TokenBatch, KeyMask]:
        """The prompt, and a mask that covers a prefix as well."""
        batch = self.as_batch(input, prepend_bos)
        n_keys = n_past + batch.tokens.shape[1]
        if n_keys > self.cfg.n_ctx:
            raise PromptError(f"The prompt has {n_keys} tokens; the model takes {self.cfg.n_ctx}.")
        if (
            mask is None
            and not n_past
            and isinstance(input, Tensor)
            and self.looks_padded(input.reshape(batch.tokens.shape))
        ):
            raise PromptError(
                "The tokens look padded, and no attention_mask says where. Pass the texts "
                "themselves, model.to_batch(texts), or attention_mask (all True: no padding)."
            )
        if mask is None:
            before = batch.attention_mask.new_ones(len(batch.tokens), n_past)
            mask = torch.cat([before, batch.attention_mask], dim=1)
        _check_mask(mask, len(batch.tokens), n_keys)
        return TokenBatch(batch.tokens, mask[:, n_past:]), mask

    def _checked_residual(self, input: object, mask: Tensor | None, n_past: int) -> Resid:
        """A residual stream to start from: a copy, so that nobody else edits it."""
        if not (
            isinstance(input, Tensor)
            and input.is_floating_point()
            and input.ndim == 3
            and input.shape[-1] == self.cfg.d_model
        ):
            raise PromptError(
                "With start_at_layer the input is a residual stream of shape "
                f"[batch, pos, {self.cfg.d_model}], not tokens or text."
            )
        if mask is not None:
            _check_mask(mask, len(input), n_past + input.shape[1])
        return input.clone()

    def _embedded(self, tokens: Int[Tensor, "batch pos"], mask: KeyMask, hooks: Hooks) -> Resid:
        """Token plus position embedding; positions count real tokens only, a prefix's too."""
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        token_part = hooks("hook_embed", self.embed(tokens))
        return token_part + hooks("hook_pos_embed", self.pos_embed(positions))

    def _output(
        self, residual: Resid, batch: TokenBatch | None, mask: Tensor | None, hooks: Hooks,
        return_type: str | None, options: ForwardOptions,
    ) -> Tensor | tuple[Tensor, Tensor] | None:  # fmt: skip
        """Final LayerNorm and unembedding, and the loss if it is wanted."""
        normalized = self.ln_final(residual, hooks, "ln_final")
        if return_type is None:
            return None
        chosen = choose_positions(normalized, options.get("positions"), mask)
        logits = self.unembed(chosen)
        if return_type == "logits":
            return logits
        if return_type not in ("loss", "both"):
            raise PromptError(
                f'return_type must be "logits", "loss", "both" or None, got {return_type!r}.'
            )
        if batch is None or options.get("positions") is not None or options.get("past_kv_cache"):
            raise PromptError("A loss needs the tokens and the logits of the whole prompt.")
        loss = formula.next_token_loss(logits, batch.tokens, batch.attention_mask)
        if not options.get("loss_per_token"):
            n_predicted = formula.predicted(batch.attention_mask).sum()
            if not n_predicted:
                raise PromptError("One token predicts nothing; a loss needs at least two.")
            loss = loss.sum() / n_predicted
        return loss if return_type == "loss" else (logits, loss)

    def classify(
        self, input: Prompt, *, prepend_bos: bool | None = None
    ) -> Float[Tensor, "batch d_class"]:
        """Class logits of a classifier, read at each prompt's last real token.

        Equal to `GPT2ForSequenceClassification` for the same token ids.
        """
        if self.cfg.n_classes is None:
            raise PromptError(f"{self.cfg.model_name!r} has no classifier head.")
        logits = self(input, positions="last", prepend_bos=prepend_bos)
        assert isinstance(logits, Tensor)
        return logits[:, 0]


def _check_mask(mask: Tensor, n_examples: int, n_keys: int) -> None:
    if list(mask.shape) != [n_examples, n_keys]:
        raise PromptError(
            f"attention_mask has shape {list(mask.shape)}; expected {[n_examples, n_keys]}."
        )
    if not bool(mask.any(dim=-1).all()):
        raise PromptError("attention_mask leaves a prompt without any real token.")
