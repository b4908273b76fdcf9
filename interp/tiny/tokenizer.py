"""The embedded model's tokenizer: byte-level BPE as in GPT-2, one token per word of the language.

Any text can be encoded, because all 256 bytes are tokens; words outside the language fall apart
into pieces. Token 0 is "<|endoftext|>", used as beginning, end and padding.
"""

import re
import string

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from interp.tiny.lexicon import FRAMES, UNKNOWN, WORDS

END_OF_TEXT = "<|endoftext|>"
_SPACE = "Ġ"


def build_tokenizer() -> Tokenizer:
    """Build the tokenizer from the lexicon; it has no trained part.

    Every word is built from its left end, one byte a merge. Merges that start with a space come
    first, so a word after a space is never split by the merges of a word without one; digit pairs
    come last, so " 1732" becomes " 17" and "32".
    """
    merges = _prefix_merges(sorted(_SPACE + word for word in vocabulary_words()))
    merges += _prefix_merges(sorted(opening_words()))
    merges += [(tens, ones) for tens in string.digits for ones in string.digits]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [END_OF_TEXT, *alphabet, *dict.fromkeys(left + right for left, right in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    return tokenizer


def vocabulary_words() -> set[str]:
    """All words of the language; each can follow a space."""
    categories = [words for name, words in WORDS.items() if name != "digit pairs"]
    without_fields = [re.sub(r"\{\w+\}\w*", "", frame) for frame in FRAMES]
    in_frames = {word for frame in without_fields for word in re.findall("[A-Za-z]+", frame)}
    return in_frames.union(*categories, [UNKNOWN])


def opening_words() -> set[str]:
    """The words that can begin a text."""
    openings = {word for frame in FRAMES for word in re.findall("^[A-Z][a-z]*", frame)}
    return openings.union(WORDS["names"])


def _prefix_merges(words: list[str]) -> list[tuple[str, str]]:
    """Merges that build each word from its left end, without repeats."""
    return list(
        dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word)))
    )
