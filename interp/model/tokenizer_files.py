"""A model's tokenizer: from a folder or from the caller, and checked against the model."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from tokenizers import Tokenizer as Backend

from interp.errors import TokenizerError
from interp.model.config import ModelConfig
from interp.model.safety import read_json
from interp.model.tokens import END_OF_TEXT, Tokenizer

MAX_UNUSED_TOKENS = 1024
"""How many more rows than tokens an embedding may have; they are often padded to a round number."""
PROBE = "The cat sat on the mat."


@runtime_checkable
class FastTokenizer(Protocol):
    """A `transformers` fast tokenizer."""

    @property
    def backend_tokenizer(self) -> Backend:
        """The tokenizer that does the work."""
        ...

    @property
    def bos_token(self) -> str | None:
        """Token that begins a prompt."""
        ...


TokenizerSource = str | Path | Tokenizer | FastTokenizer | None
"""A folder, a `tokenizer.json`, a tokenizer of ours or of `transformers`; `None`: the model's."""


def find_tokenizer(given: TokenizerSource, folder: Path | None) -> Tokenizer | None:
    """The tokenizer that was given, else the folder's, else `None`.

    Raises:
        TokenizerError: what was given is no tokenizer, or files are damaged.
    """
    if isinstance(given, Tokenizer):
        return given
    if isinstance(given, FastTokenizer):
        backend = Backend.from_str(given.backend_tokenizer.to_str())
        return _whole_texts(Tokenizer(backend, given.bos_token or END_OF_TEXT))
    if given is None:
        return _from_folder(folder) if folder else None
    if not isinstance(given, str | Path):
        raise TokenizerError(
            f"tokenizer is a {type(given).__name__}; expected a folder, an interp Tokenizer, or a "
            "fast tokenizer of transformers."
        )
    place = Path(given).expanduser()
    tokenizer = _from_folder(place.parent if place.name == "tokenizer.json" else place)
    if tokenizer is None:
        raise TokenizerError(f"{place} holds neither tokenizer.json nor vocab.json and merges.txt.")
    return tokenizer


def _from_folder(folder: Path) -> Tokenizer | None:
    tokenizer = Tokenizer.from_folder(folder)
    settings = folder / "tokenizer_config.json"
    if tokenizer is None or not settings.is_file():
        return tokenizer and _whole_texts(tokenizer)
    bos = read_json(settings, TokenizerError).get("bos_token")
    bos = bos.get("content") if isinstance(bos, dict) else bos
    if isinstance(bos, str) and tokenizer.backend.token_to_id(bos) is not None:
        tokenizer = Tokenizer(tokenizer.backend, bos)
    return _whole_texts(tokenizer)


def _whole_texts(tokenizer: Tokenizer) -> Tokenizer:
    """Saved settings may cut or pad texts; ours are refused when too long, never cut."""
    tokenizer.backend.no_truncation()
    tokenizer.backend.no_padding()
    return tokenizer


def check_tokenizer(tokenizer: Tokenizer, cfg: ModelConfig) -> None:
    """Refuse a tokenizer that cannot be this model's.

    Raises:
        TokenizerError: more tokens than embeddings, far fewer, or a text that does not come back.
    """
    sizes = f"the tokenizer has {len(tokenizer):,} tokens, the model {cfg.d_vocab:,} embeddings"
    if not cfg.d_vocab - MAX_UNUSED_TOKENS <= len(tokenizer) <= cfg.d_vocab:
        raise TokenizerError(
            f"The tokenizer does not belong to {cfg.model_name!r}: {sizes}. Pass the right one as "
            "tokenizer=<folder>."
        )
    text = PROBE if tokenizer.byte_level else _own_text(tokenizer)
    if not text or tokenizer.decode(tokenizer.encode(text)) != text:
        raise TokenizerError(
            f"The tokenizer of {cfg.model_name!r} loses text: {text!r} comes back as "
            f"{tokenizer.decode(tokenizer.encode(text))!r} ({sizes}). A byte-level tokenizer "
            "needs all 256 bytes in its vocabulary."
        )


def _own_text(tokenizer: Tokenizer) -> str:
    """A text of the tokenizer's own tokens; not every toy tokenizer knows every word."""
    ids = range(len(tokenizer) // 3, len(tokenizer))[:5]
    pieces = tokenizer.backend.decode(list(ids), skip_special_tokens=True)
    return tokenizer.decode(tokenizer.encode(pieces)) if pieces else ""
