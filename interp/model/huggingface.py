"""Hugging Face's GPT-2 configuration and weight names, to ours and back: pure functions.

Weights are views of the given tensors wherever the layout allows, which is everywhere: nothing is
copied or transposed. A configuration key that could change a number and is not understood is
refused by name.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from einops import rearrange
from torch import Tensor

from interp.errors import CheckpointError, ConfigError
from interp.model.config import ModelConfig, check_settings
from interp.model.formula import activation


@runtime_checkable
class HuggingFaceModel(Protocol):
    """What is read of an in-memory `transformers` model."""

    config: Any

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights by name."""
        ...


ARCHITECTURES = {
    "GPT2LMHeadModel": False,
    "GPT2ForSequenceClassification": True,
    "GPT2Model": False,
}
"""Architectures we load, and whether they end in a classifier head."""

NUMBERS = {
    "n_layer": "n_layers",
    "n_head": "n_heads",
    "n_embd": "d_model",
    "n_inner": "d_mlp",
    "vocab_size": "d_vocab",
    "n_positions": "n_ctx",
    "activation_function": "act_fn",
    "layer_norm_epsilon": "eps",
    "scale_attn_weights": "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx": "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn": "reorder_and_upcast_attn",
    "tie_word_embeddings": "tie_word_embeddings",
    "initializer_range": "init_range",
}
"""Hugging Face's keys that change a number, and our field for each."""

DEFAULTS = {
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "vocab_size": 50257,
    "n_positions": 1024,
}
"""Sizes that Hugging Face assumes when the configuration leaves them out."""

SYNONYMS = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
    "n_ctx": "n_positions",
}

HARMLESS = frozenset(
    (
        *("architectures", "model_type", "name_or_path", "_name_or_path", "_commit_hash"),
        *("transformers_version", "dtype", "torch_dtype", "torchscript", "_attn_implementation"),
        *("_attn_implementation_autoset", "gradient_checkpointing", "chunk_size_feed_forward"),
        *("attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_first_dropout"),
        *("summary_activation", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
        *("tokenizer_class", "tokenizer_name", "predict_special_tokens", "prefix"),
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "is_decoder"),
        *("output_attentions", "output_hidden_states", "return_dict", "use_cache"),
        *("keys_to_ignore_at_inference", "task_specific_params"),
    )
)
"""Keys that change no number of a forward pass without dropout; generation settings among them."""

REFUSED_UNLESS_OFF = frozenset(
    ("add_cross_attention", "auto_map", "is_encoder_decoder", "pruned_heads", "quantization_config")
)
"""Keys that change what is computed, in ways we do not support; off is harmless."""


KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "model_type": ("a name", (str,)),
    "activation_function": ("a name", (str,)),
    "initializer_range": ("a number", (int, float)),
    "architectures": ("a list", (list, type(None))),
    "id2label": ("an object", (dict, type(None))),
    "num_labels": ("a whole number", (int, type(None))),
}
"""What the settings that are no size or switch must be: in words, and as Python reads JSON."""


def config_from_huggingface(config: Mapping[str, Any], model_name: str) -> ModelConfig:
    """Translate the contents of a `config.json`.

    Raises:
        ConfigError: another architecture, a key we do not understand, or an impossible size.
    """
    _refuse_wrong_kinds(config, model_name)
    if config.get("model_type", "gpt2") != "gpt2":
        raise ConfigError(
            f"{model_name!r} is a {config['model_type']!r} model, not GPT-2. Load it with "
            'backend="transformer-lens".'
        )
    architecture = next(iter(config.get("architectures") or ["GPT2LMHeadModel"]))
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ConfigError(
            f"Architecture {architecture!r} of {model_name!r} is not supported; supported: "
            f"{', '.join(sorted(ARCHITECTURES))}."
        )
    values = {SYNONYMS.get(key, key): value for key, value in config.items()}
    _refuse_unknown(values, model_name)
    ours: dict[str, Any] = {NUMBERS[key]: default for key, default in DEFAULTS.items()}
    ours |= {name: values[theirs] for theirs, name in NUMBERS.items() if theirs in values}
    if ours.get("d_mlp") is None:
        ours["d_mlp"] = 4 * ours["d_model"] if isinstance(ours["d_model"], int) else None
    for name in ("eps", "init_range"):
        if isinstance(ours.get(name), int):
            ours[name] = float(ours[name])
    check_settings(ours)
    if ARCHITECTURES[architecture]:
        ours["n_classes"] = _n_classes(values)
    activation(ours.get("act_fn", "gelu_new"))
    return ModelConfig(model_name=model_name, **ours)


def _refuse_wrong_kinds(config: Mapping[str, Any], model_name: str) -> None:
    for key, (wording, kinds) in KINDS.items():
        value = config.get(key, kinds[0]())
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ConfigError(f"{key} of {model_name!r} must be {wording}, got {value!r:.80}.")


def _refuse_unknown(values: Mapping[str, Any], model_name: str) -> None:
    known = NUMBERS.keys() | HARMLESS
    unknown = sorted(
        key
        for key, value in values.items()
        if (key in REFUSED_UNLESS_OFF and value) or key not in known | REFUSED_UNLESS_OFF
    )
    if unknown:
        shown = ", ".join(f"{key}={values[key]!r}" for key in unknown[:5])
        raise ConfigError(
            f"The configuration of {model_name!r} has settings that could change the model's "
            f"numbers and are not understood: {shown}. Remove them if they have no effect."
        )


def _n_classes(values: Mapping[str, Any]) -> int:
    labels = values.get("id2label")
    return values.get("num_labels") or (len(labels) if labels else 2)


def config_to_huggingface(cfg: ModelConfig) -> dict[str, Any]:
    """The contents of a `config.json` with which `transformers` computes the same logits."""
    architecture = "GPT2LMHeadModel" if cfg.n_classes is None else "GPT2ForSequenceClassification"
    config: dict[str, Any] = {"architectures": [architecture], "model_type": "gpt2"}
    config |= {theirs: getattr(cfg, ours) for theirs, ours in NUMBERS.items()}
    if cfg.n_classes is not None:
        config["id2label"] = {str(index): f"LABEL_{index}" for index in range(cfg.n_classes)}
        config["label2id"] = {f"LABEL_{index}": index for index in range(cfg.n_classes)}
    return config | {"dtype": str(cfg.dtype).removeprefix("torch.")}


QKV = "d_model (qkv head d_head) -> d_model qkv head d_head"
QKV_BIAS = "(qkv head d_head) -> qkv head d_head"
HEADS_OUT = "(head d_head) d_model -> head d_head d_model"


def weight_table(cfg: ModelConfig) -> Iterator[tuple[str, str, str | None]]:
    """(Hugging Face's name, our name, einops pattern if the shapes differ) of every weight."""
    yield "transformer.wte.weight", "embed.W_E", None
    yield "transformer.wpe.weight", "pos_embed.W_pos", None
    for layer in range(cfg.n_layers):
        theirs, ours = f"transformer.h.{layer}", f"blocks.{layer}"
        for their_norm, our_norm in (("ln_1", "ln1"), ("ln_2", "ln2")):
            yield f"{theirs}.{their_norm}.weight", f"{ours}.{our_norm}.w", None
            yield f"{theirs}.{their_norm}.bias", f"{ours}.{our_norm}.b", None
        yield f"{theirs}.attn.c_attn.weight", f"{ours}.attn.W_QKV", QKV
        yield f"{theirs}.attn.c_attn.bias", f"{ours}.attn.b_QKV", QKV_BIAS
        yield f"{theirs}.attn.c_proj.weight", f"{ours}.attn.W_O", HEADS_OUT
        yield f"{theirs}.attn.c_proj.bias", f"{ours}.attn.b_O", None
        for their_part, our_part in (("c_fc", "in"), ("c_proj", "out")):
            yield f"{theirs}.mlp.{their_part}.weight", f"{ours}.mlp.W_{our_part}", None
            yield f"{theirs}.mlp.{their_part}.bias", f"{ours}.mlp.b_{our_part}", None
    yield "transformer.ln_f.weight", "ln_final.w", None
    yield "transformer.ln_f.bias", "ln_final.b", None
    if cfg.n_classes is not None:
        yield "score.weight", "unembed.weight", None
    elif not cfg.tie_word_embeddings:
        yield "lm_head.weight", "unembed.weight", None


def is_redundant(name: str, cfg: ModelConfig) -> bool:
    """Whether a checkpoint's tensor carries nothing: causal masks of old files, a tied head."""
    tied_head = name == "lm_head.weight" and cfg.tie_word_embeddings
    return tied_head or name.endswith((".attn.bias", ".attn.masked_bias"))


def weights_from_huggingface(
    state: Mapping[str, Tensor], cfg: ModelConfig, source: str
) -> dict[str, Tensor]:
    """Our weights as views of a Hugging Face state dict, every one checked.

    Raises:
        CheckpointError: tensors are missing, unexpected, or of the wrong shape (up to 10 named).
    """
    named = {
        name
        if name.startswith(("transformer.", "lm_head.", "score."))
        else f"transformer.{name}": x
        for name, x in state.items()
    }
    table = list(weight_table(cfg))
    missing = [theirs for theirs, _, _ in table if theirs not in named]
    expected = {theirs for theirs, _, _ in table}
    unexpected = sorted(n for n in named if n not in expected and not is_redundant(n, cfg))
    for problem, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            raise CheckpointError(
                f"{source}: {len(names)} {problem} tensors: {', '.join(names[:10])}{more}."
            )
    shapes = expected_shapes(cfg)
    for theirs, ours, _ in table:
        _check_shape(source, theirs, tuple(named[theirs].shape), shapes[ours])
    sizes = {"qkv": 3, "head": cfg.n_heads}
    return {ours: _reshape(named[theirs], pattern, sizes) for theirs, ours, pattern in table}


def _reshape(x: Tensor, pattern: str | None, sizes: Mapping[str, int]) -> Tensor:
    if pattern is None:
        return x
    return rearrange(
        x, pattern, **{axis: n for axis, n in sizes.items() if axis in pattern.split("->")[0]}
    )


def _check_shape(source: str, name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        hint = " It looks transposed." if shape == expected[::-1] else ""
        raise CheckpointError(
            f"{source}: {name} has shape {list(shape)}, expected {list(expected)} from the "
            f"configuration.{hint}"
        )


def expected_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each weight in Hugging Face's layout, by our name."""
    d, m = cfg.d_model, cfg.d_mlp
    shapes: dict[str, tuple[int, ...]] = {
        "embed.W_E": (cfg.d_vocab, d),
        "pos_embed.W_pos": (cfg.n_ctx, d),
        "ln_final.w": (d,),
        "ln_final.b": (d,),
        "unembed.weight": (cfg.d_vocab_out, d),
    }
    block = {
        "ln1.w": (d,),
        "ln1.b": (d,),
        "ln2.w": (d,),
        "ln2.b": (d,),
        "attn.W_QKV": (d, 3 * d),
        "attn.b_QKV": (3 * d,),
        "attn.W_O": (d, d),
        "attn.b_O": (d,),
        "mlp.W_in": (d, m),
        "mlp.b_in": (m,),
        "mlp.W_out": (m, d),
        "mlp.b_out": (d,),
    }
    for layer in range(cfg.n_layers):
        shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def weights_to_huggingface(weights: Mapping[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    """A Hugging Face state dict (views) from our weights."""
    state = {}
    for theirs, ours, pattern in weight_table(cfg):
        left, right = pattern.split(" -> ") if pattern else ("", "")
        x = weights[ours].detach()
        state[theirs] = rearrange(x, f"{right} -> {left}") if pattern else x
    return state
