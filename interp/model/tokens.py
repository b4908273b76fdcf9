"""Text to tokens and back, for every model: prompts, padded batches, words, display.

GPT-2 reads byte-level BPE (Radford et al. 2019): any text is representable, a token may be part
of a character, and a word in the middle of a sentence is one token *with* its leading space.
"""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from interp.errors import PromptError, TokenizerError
from interp.model.config import ModelConfig

END_OF_TEXT = "<|endoftext|>"
SHOWN_CHARACTERS = 200
"""Most of a text that an error repeats."""
MAX_CHARACTERS = 1_000_000
"""Longest text that is tokenized at all."""


def byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in GPT-2's vocabulary, and the byte.

    Printable Latin-1 characters stand for themselves, the other 68 bytes for U+0100 onwards.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


BYTE_OF_CHARACTER = byte_alphabet()


def visible(piece: str) -> str:
    """A token's text with white space shown: `·` space, `⏎` newline, `⇥` tab; controls escaped."""
    shown = {" ": "·", "\n": "⏎", "\t": "⇥"}
    return "".join(shown.get(c, c if c.isprintable() else ascii(c)[1:-1]) for c in piece)


class Tokenizer:
    """A thin layer over a `tokenizers.Tokenizer`, which does the work.

    Args:
        backend: Any fast tokenizer.
        bos_token: Token that begins a prompt and pads a batch; GPT-2 uses its end-of-text token.
    """

    def __init__(self, backend: Backend, bos_token: str = END_OF_TEXT) -> None:
        self.backend = backend
        self.bos_token_id: int | None = backend.token_to_id(bos_token)
        self.byte_level = isinstance(backend.decoder, ByteLevelDecoder)

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer | None":
        """Read `tokenizer.json`, or `vocab.json` with `merges.txt`; `None` if neither is there.

        Raises:
            TokenizerError: the files are damaged.
        """
        single, vocabulary, merges = (
            folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
        )
        try:
            if single.is_file():
                return cls(Backend.from_file(str(single)))
            if vocabulary.is_file() and merges.is_file():
                backend = Backend(BPE.from_file(str(vocabulary), str(merges)))
                backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
                backend.decoder = ByteLevelDecoder()
                backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
                return cls(backend)
        except Exception as error:  # the library raises bare Exception for damaged files
            raise TokenizerError(f"The tokenizer in {folder} cannot be read: {error}") from error
        return None

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without a beginning-of-sequence token."""
        return self._encode(text).ids

    def _encode(self, text: str):
        if len(text) > MAX_CHARACTERS:
            raise PromptError(
                f"The text has {len(text)} characters; at most {MAX_CHARACTERS} are read."
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"The text is not valid Unicode at position {error.start}."
            ) from error
        return self.backend.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens are kept."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def piece(self, token_id: int) -> str:
        """One token as text; bytes that are only part of a character appear as `\\xf0`."""
        token = self.backend.id_to_token(token_id)
        if token is None:
            raise PromptError(f"Token id {token_id} is not in the tokenizer ({len(self)} tokens).")
        if not self.byte_level or any(character not in BYTE_OF_CHARACTER for character in token):
            return token if self.byte_level else self.decode([token_id])
        return bytes(BYTE_OF_CHARACTER[c] for c in token).decode(errors="backslashreplace")

    def word_spans(self, text: str, word: str) -> list[list[int]]:
        """Token positions (no BOS counted) of each occurrence of a whole word in a text."""
        bare = word.strip()
        matches = list(re.finditer(rf"(?<!\w){re.escape(bare)}(?!\w)", text)) if bare else []
        offsets = self._encode(text).offsets
        return [
            [i for i, (start, end) in enumerate(offsets) if start < m.end() and end > m.start()]
            for m in matches
        ]


@dataclass(frozen=True)
class TokenBatch:
    """Prompts of unequal length in one tensor, padded on the right."""

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    """True at real tokens."""

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Number of real tokens of each prompt."""
        return self.attention_mask.sum(dim=-1)


Prompt = str | Sequence[object] | TokenBatch | Tensor
"""What every model takes: a text, a list of texts, token ids of one prompt or of several of equal
length, or a tensor of ids `batch pos` or `pos`. It is checked when it is read, with a message."""


class TextInterface:
    """Everything about text that a model with `cfg` and `tokenizer` can do."""

    cfg: ModelConfig
    tokenizer: Tokenizer | None
    W_U: Tensor

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            TokenizerError: the model has none.
        """
        if self.tokenizer is None:
            raise TokenizerError(
                f"Model {self.cfg.model_name!r} has no tokenizer. Pass token ids, or load it with "
                "tokenizer=<folder that holds tokenizer.json>."
            )
        return self.tokenizer

    def _ids(self, text: str, prepend_bos: bool | None) -> list[int]:
        tokenizer = self.require_tokenizer()
        ids = tokenizer.encode(text)
        if not ids:
            raise PromptError("The text is empty. Write at least one character.")
        if self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos:
            if tokenizer.bos_token_id is None:
                raise TokenizerError(
                    "The tokenizer has no token to begin with; use prepend_bos=False."
                )
            ids = [tokenizer.bos_token_id, *ids]
        if len(ids) > self.cfg.n_ctx:
            raise PromptError(
                f"The text has {len(ids)} tokens; the model takes at most {self.cfg.n_ctx}."
            )
        return ids

    def to_batch(self, texts: Sequence[str], *, prepend_bos: bool | None = None) -> TokenBatch:
        """Tokenize texts of any lengths into one right-padded batch that knows its lengths."""
        if not texts:
            raise PromptError("The list of texts is empty.")
        rows = [self._ids(text, prepend_bos) for text in texts]
        longest = max(map(len, rows))
        pad = self.require_tokenizer().bos_token_id or 0
        tokens = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([[len(row)] for row in rows])
        mask = torch.arange(longest) < lengths
        return TokenBatch(tokens.to(self.cfg.device), mask.to(self.cfg.device))

    def to_tokens(self, input: Prompt, prepend_bos: bool | None = None) -> Int[Tensor, "batch pos"]:
        """Token ids of a text or texts (right-padded if their lengths differ); ids pass through.

        Args:
            prepend_bos: Begin with the end-of-text token; `None` takes the model's default, True.

        Raises:
            PromptError: empty text, more tokens than `n_ctx`, or ids outside the vocabulary.
        """
        if isinstance(input, str):
            return torch.tensor([self._ids(input, prepend_bos)], device=self.cfg.device)
        return self.as_batch(input, prepend_bos).tokens

    def as_batch(self, input: Prompt, prepend_bos: bool | None = None) -> TokenBatch:
        """Any prompt as a batch with its mask; all ids of a tensor count as real tokens."""
        if isinstance(input, TokenBatch):
            return TokenBatch(self._checked_ids(input.tokens), input.attention_mask)
        if isinstance(input, str):
            input = [input]
        if not isinstance(input, Tensor) and all(isinstance(text, str) for text in input):
            return self.to_batch(list(map(str, input)), prepend_bos=prepend_bos)
        try:
            ids = torch.as_tensor(input, device=self.cfg.device)
        except (TypeError, ValueError) as error:
            raise PromptError(
                "A prompt is a text, a list of texts, token ids, or lists of ids of equal "
                f"length; these are none of them: {error}."
            ) from error
        tokens = self._checked_ids(ids)
        return TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool))

    def _checked_ids(self, tokens: Tensor) -> Int[Tensor, "batch pos"]:
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise PromptError(
                "Token ids must be whole numbers of shape [batch, pos], got "
                f"{tokens.dtype} of shape {tuple(tokens.shape)}."
            )
        if tokens.numel() == 0:
            raise PromptError("The prompt is empty. Pass at least one token.")
        lowest, highest = int(tokens.min()), int(tokens.max())
        if lowest < 0 or highest >= self.cfg.d_vocab:
            wrong = lowest if lowest < 0 else highest
            raise PromptError(
                f"Token id {wrong} is outside the vocabulary 0-{self.cfg.d_vocab - 1}."
            )
        return tokens

    def looks_padded(self, tokens: Int[Tensor, "batch pos"]) -> bool:
        """Whether rows begin with two padding tokens or end with one (alone in its batch: two)."""
        pad = self.tokenizer.bos_token_id if self.tokenizer else None
        if pad is None or tokens.shape[1] < 2:
            return False
        is_pad = tokens == pad
        leading = is_pad[:, :2].all(dim=1)
        trailing = is_pad[:, -2:].all(dim=1) if len(tokens) == 1 else is_pad[:, -1]
        return bool((leading | trailing).any())

    def to_str_tokens(
        self,
        input: str | Sequence[int] | Int[Tensor, " pos"] | Int[Tensor, "1 pos"],
        prepend_bos: bool | None = None,
    ) -> list[str]:
        """The text of each token of one prompt; parts of characters appear as `\\xf0`."""
        tokenizer = self.require_tokenizer()
        if isinstance(input, str):
            ids = self._ids(input, prepend_bos)
        else:
            ids = torch.as_tensor(input).flatten().tolist()
        return [tokenizer.piece(token_id) for token_id in ids]

    def to_string(self, tokens: Int[Tensor, "..."] | Sequence[int] | int) -> str | list[str]:
        """Decode one prompt's ids to a text, or a batch of ids to texts."""
        ids = torch.as_tensor(tokens)
        if ids.ndim == 2:
            return [self.require_tokenizer().decode(row) for row in ids.tolist()]
        return self.require_tokenizer().decode(ids.reshape(-1).tolist())

    def to_single_token(self, text: str) -> int:
        """Id of a text that must be exactly one token, such as an answer.

        Raises:
            PromptError: it is not one token; the message shows the split and a form that is.
        """
        tokenizer = self.require_tokenizer()
        ids = tokenizer.encode(text)
        if len(ids) == 1:
            return ids[0]
        if not ids:
            raise PromptError("The text is empty; a token has at least one character.")
        pieces = " | ".join(tokenizer.piece(token_id) for token_id in ids)
        other = text[1:] if text.startswith(" ") else " " + text
        hint = f" {other!r} is one token." if len(tokenizer.encode(other)) == 1 else ""
        raise PromptError(f"{text!r} is {len(ids)} tokens ({pieces}), not one.{hint}")

    def find_word(
        self,
        text: str,
        word: str,
        *,
        occurrence: int | None = None,
        prepend_bos: bool | None = None,
    ) -> int:
        """Position of a word in a text's tokens; of its last token, where the whole word is known.

        Args:
            occurrence: Which one, counted from 0, if the word appears more than once.

        Raises:
            PromptError: the word is not there, or is there more than once and `occurrence` is None.
        """
        for what, given in (("text", text), ("word", word)):
            if not given.strip():
                raise PromptError(f"The {what} is empty. Write at least one word.")
        spans = self.require_tokenizer().word_spans(text, word)
        if not spans:
            shown = textwrap.shorten(text, SHOWN_CHARACTERS, placeholder=" ...")
            raise PromptError(f"The word {word.strip()!r} is not in the text: {shown!r}")
        bos = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        positions = [span[-1] + int(bos) for span in spans]
        if occurrence is None and len(positions) > 1:
            raise PromptError(
                f"The word {word.strip()!r} appears {len(positions)} times, at positions "
                f"{', '.join(map(str, positions[:8]))}{' and more' if len(positions) > 8 else ''}. "
                f"Say which: occurrence 0 to {len(positions) - 1}."
            )
        if occurrence is not None and not 0 <= occurrence < len(positions):
            raise PromptError(
                f"There are {len(positions)} of {word.strip()!r}; occurrence {occurrence} is not "
                "one of them."
            )
        return positions[occurrence or 0]

    def tokens_to_residual_directions(
        self, tokens: str | int | Int[Tensor, "..."]
    ) -> Float[Tensor, "... d_model"]:
        """Columns of W_U: the direction of the final residual stream that a token's logit reads."""
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        ids = torch.as_tensor(tokens, device=self.cfg.device)
        n_logits = self.W_U.shape[-1]
        if bool(((ids < 0) | (ids >= n_logits)).any()):
            raise PromptError(f"Token ids must be 0-{n_logits - 1}, got {ids.tolist()}.")
        return self.W_U.T[ids.squeeze() if ids.numel() == 1 else ids]
