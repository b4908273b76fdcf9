"""Models of other architectures, through TransformerLens' bridge; the only file that imports it.

A bridge is trusted only after it was tried: its logits must be those of `transformers`, and an edit
at each main hook point, in the first and in the last layer, must change them (after nnterp's
validation, Dumas 2025). Otherwise loading is refused, and names what failed.
"""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.supported_models import MODEL_ALIASES
from transformers import AutoModelForCausalLM, PreTrainedModel

from interp.errors import CheckpointError, ConfigError, HookError
from interp.model import hub
from interp.model.bridged import BridgedConfig, BridgedModel
from interp.model.checkpoints import INDEX, SINGLE, converted, read_index
from interp.model.config import CPU, SIZE_LIMITS
from interp.model.hooks import Hook, full_name
from interp.model.tokenizer_files import TokenizerSource, check_tokenizer, find_tokenizer
from interp.model.tokens import Tokenizer

MAIN_POINTS = (
    *("resid_pre", "q", "k", "v", "attn_scores", "pattern", "z"),
    *("attn_out", "mlp_out", "resid_post"),
)
N_PROBE_TOKENS = 5
SAME = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest difference to `transformers`' logits, relative to the largest logit."""
SAME_IN_HALF_PRECISION = 0.1


def load_bridge(
    source: str | Path | PreTrainedModel,
    *,
    revision: str | None = None,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    tokenizer: TokenizerSource = None,
) -> BridgedModel:
    """Load a model of any architecture that TransformerLens knows.

    Args:
        source: A Hugging Face folder, a name on the hub (or TransformerLens' short one, such as
            "pythia-70m"), or a model of `transformers`, which is copied first.
        tokenizer: Instead of the folder's own; a model in memory has none of its own.

    Raises:
        CheckpointError, ConfigError, OfflineError: it cannot be had, or its weights are incomplete.
        HookError: TransformerLens runs it, but not as `transformers` does, or not its hooks.
    """
    folder = None
    if isinstance(source, PreTrainedModel):
        hf_model = copy.deepcopy(source)  # the bridge rewires what it is given
        name = str(source.config.name_or_path or type(source).__name__)
    else:
        folder, name = _folder(source, revision)
        hf_model = _read(folder, dtype)
    _prepare(hf_model, device, dtype)
    n_weights = sum(weight.numel() for weight in hf_model.parameters())
    probe = torch.arange(1, 1 + N_PROBE_TOKENS, device=device)[None]
    with torch.no_grad():
        expected = hf_model(probe).logits
    try:
        bridge = build_bridge_from_module(
            hf_model, type(hf_model).__name__, hf_config=hf_model.config, model_name=name
        )
    except ValueError as problem:
        raise ConfigError(f"TransformerLens does not know {name!r}: {problem}") from problem
    for parameter in bridge.parameters():
        parameter.requires_grad_(False)
    text = find_tokenizer(tokenizer, folder)
    cfg = replace(
        _config(bridge.cfg, name, device, dtype, text),
        n_weights=n_weights,
        tie_word_embeddings=bool(hf_model.config.tie_word_embeddings),
    )
    if text is not None:
        check_tokenizer(text, cfg)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(probe)
    fired = [point for point, x in cache.items() if x.is_floating_point()]
    model = BridgedModel(bridge, cfg, text, fired)
    _check_logits(model, probe, expected)
    _check_edits(model, probe)
    return model


def _folder(source: str | Path, revision: str | None) -> tuple[Path, str]:
    """A local folder, or the hub's; and the model's name."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path, path.resolve().name
    full_names = {short: repo for repo, shorts in MODEL_ALIASES.items() for short in shorts}
    return hub.model_folder(full_names.get(str(source), str(source)), revision), str(source)


def _read(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A `transformers` model, with nothing filled in and no code of the checkpoint run."""
    if not (folder / SINGLE).exists() and (folder / INDEX).exists():
        read_index(folder / INDEX)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore
            folder,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, LookupError, TypeError, RuntimeError) as problem:
        raise CheckpointError(f"{folder} cannot be loaded by transformers: {problem}") from problem
    for kind in ("missing_keys", "mismatched_keys"):
        if report[kind]:
            names = ", ".join(sorted(map(str, report[kind]))[:10])
            raise CheckpointError(f"{folder}: {kind.replace('_', ' ')} of the weights: {names}.")
    converted(
        dict(model.named_parameters()), str(folder), device=CPU, dtype=dtype, allow_nonfinite=False
    )
    return model


def _prepare(hf_model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    hf_model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _config(
    theirs: TransformerBridgeConfig, name: str, device: torch.device, dtype: torch.dtype,
    tokenizer: Tokenizer | None,
) -> BridgedConfig:  # fmt: skip
    has_bos = tokenizer is None or tokenizer.bos_token_id is not None
    return BridgedConfig(
        n_layers=theirs.n_layers,
        n_heads=theirs.n_heads,
        d_model=theirs.d_model,
        d_mlp=theirs.d_mlp or 4 * theirs.d_model,
        d_vocab=theirs.d_vocab,
        n_ctx=min(theirs.n_ctx, SIZE_LIMITS["n_ctx"]),
        act_fn=theirs.act_fn or "unknown",
        eps=theirs.eps,
        model_name=name,
        default_prepend_bos=theirs.default_prepend_bos and has_bos,
        device=device,
        dtype=dtype,
        width_of_head=theirs.d_head,
        normalization_type=theirs.normalization_type or "unknown",
        positional_embedding_type=theirs.positional_embedding_type,
        n_key_value_heads=theirs.n_key_value_heads,
    )


def _check_logits(
    model: BridgedModel, probe: Int[Tensor, "1 pos"], expected: Float[Tensor, "1 pos d_vocab"]
) -> None:
    with torch.no_grad():
        difference = (_logits(model, probe) - expected).abs().max() / expected.abs().max()
    if not difference <= SAME.get(model.cfg.dtype, SAME_IN_HALF_PRECISION):
        raise HookError(
            f"TransformerLens computes other logits for {model.cfg.model_name!r} than transformers "
            f"(relative difference {difference:.1e}), so what it shows is another model."
        )


def _check_edits(model: BridgedModel, probe: Int[Tensor, "1 pos"]) -> None:
    """Each main point that fires must also reach the logits."""
    generator = torch.Generator().manual_seed(0)

    def disturb(value: Tensor, hook: Hook) -> Tensor:  # noqa: ARG001
        noise = torch.randn(value.shape, generator=generator).to(value)
        return value + noise * (1 + value.clamp(-10, 10).std())

    plain = _logits(model, probe)
    for layer in sorted({0, model.cfg.n_layers - 1}):
        for name in (full_name(point, layer) for point in MAIN_POINTS):
            if name in model.names.all:
                with torch.no_grad(), model.hooks([(name, disturb)]):
                    edited = _logits(model, probe)
                if torch.allclose(edited, plain, rtol=0, atol=1e-6 * float(plain.abs().max())):
                    raise HookError(
                        f"An edit at {name!r} of {model.cfg.model_name!r} does not reach the "
                        "logits in this version of TransformerLens; its results would be wrong."
                    )


def _logits(model: BridgedModel, probe: Int[Tensor, "1 pos"]) -> Float[Tensor, "1 pos d_vocab"]:
    logits = model(probe)
    assert isinstance(logits, Tensor)
    return logits
