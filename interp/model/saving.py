"""`save_huggingface`: a folder that `transformers`, and `interp.load`, read."""

import json
from pathlib import Path
from typing import Any

from interp.errors import CheckpointError
from interp.model.checkpoints import SINGLE, save_tensors, staged
from interp.model.gpt2 import HookedGPT2
from interp.model.huggingface import config_to_huggingface, weights_to_huggingface

WRITTEN = ("config.json", SINGLE, "tokenizer.json", "tokenizer_config.json")


def save_huggingface(model: HookedGPT2, folder: str | Path) -> None:
    """Write configuration, weights and tokenizer, all or nothing.

    Args:
        folder: New, empty, or one that holds such a model, which is replaced.

    Raises:
        CheckpointError: the model has what Hugging Face's GPT-2 cannot hold, the folder holds
            other files, or writing failed; the folder is then as before.
    """
    _refuse_unsaveable(model)
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; expected a folder to write into.")
    others = (
        sorted(p.name for p in folder.iterdir() if p.name not in WRITTEN) if folder.is_dir() else []
    )
    if others:
        raise CheckpointError(
            f"{folder} holds other files ({', '.join(others[:5])}), which could be taken for the "
            "model's. Choose a new folder."
        )
    config = config_to_huggingface(model.cfg)
    bos = model.tokenizer.bos_token_id if model.tokenizer else None
    special: dict[str, Any] = {"bos_token_id": bos, "eos_token_id": bos}
    if model.cfg.n_classes is not None:
        special["pad_token_id"] = bos  # `transformers` reads a class before the padding
    created = _create(folder)
    try:
        with staged(folder) as staging:
            _write_json(config | special, staging / "config.json")
            save_tensors(
                weights_to_huggingface(dict(model.state_dict()), model.cfg), staging / SINGLE
            )
            if model.tokenizer is not None:
                text = model.tokenizer.backend.to_str(pretty=True)
                (staging / "tokenizer.json").write_text(text, encoding="utf-8")
                _write_json(_tokenizer_config(model), staging / "tokenizer_config.json")
    except BaseException:
        for new in created:
            new.rmdir()
        raise
    if model.tokenizer is None:
        for name in WRITTEN[2:]:
            (folder / name).unlink(missing_ok=True)


def _refuse_unsaveable(model: HookedGPT2) -> None:
    if not isinstance(model, HookedGPT2):
        raise CheckpointError(f"Only a HookedGPT2 can be saved, not a {type(model).__name__}.")
    if model.unembed.b_U is not None:
        raise CheckpointError(
            "Hugging Face's GPT-2 has no bias in its unembedding, and this model has one (b_U), "
            "as folded weights do. Save the model as it was before its weights were processed."
        )


def _create(folder: Path) -> list[Path]:
    """Make a folder and its parents; returns the new ones, innermost first."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise CheckpointError(f"{folder} cannot be made: {problem.strerror}.") from problem
    return new


def _write_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _tokenizer_config(model: HookedGPT2) -> dict[str, Any]:
    """What `transformers` needs beside `tokenizer.json`."""
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.cfg.n_ctx,
        "clean_up_tokenization_spaces": False,
    }
    tokenizer = model.tokenizer
    if tokenizer is not None and tokenizer.bos_token_id is not None:
        bos = tokenizer.backend.id_to_token(tokenizer.bos_token_id)
        settings |= dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), bos)
    return settings
