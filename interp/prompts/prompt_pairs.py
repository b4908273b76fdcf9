"""A set of clean and corrupted prompts, and what has to hold before it is patched."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import PromptError
from interp.metrics import Metric, logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.pairs import token_pairs
from interp.tiny.tokenizer import build_tokenizer

SHOWN_PROBLEMS = 5
"""How many problems an error lists."""


@dataclass(frozen=True)
class PromptPair:
    """One example."""

    clean: str
    corrupted: str
    answer: str
    """What should follow the clean prompt, as one token: with its leading space, if it has one."""
    wrong: str
    """The answer it is compared with, as one token."""
    roles: Mapping[str, int]
    """Token positions by name, with BOS counted, the same in both prompts; END is the last."""
    group: str = ""
    """The kind of template, such as "ABBA"."""


@dataclass(frozen=True)
class PromptPairs:
    """Examples of one study, made for one model."""

    name: str
    examples: tuple[PromptPair, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[PromptPair]:
        return iter(self.examples)

    def __getitem__(self, chosen: slice) -> "PromptPairs":
        return PromptPairs(self.name, self.examples[chosen])

    @property
    def clean(self) -> list[str]:
        """The prompts that show the behaviour."""
        return [example.clean for example in self]

    @property
    def corrupted(self) -> list[str]:
        """Their minimally different partners."""
        return [example.corrupted for example in self]

    @property
    def answers(self) -> list[str]:
        """The right next tokens of the clean prompts."""
        return [example.answer for example in self]

    @property
    def wrong(self) -> list[str]:
        """The next tokens they are compared with."""
        return [example.wrong for example in self]

    @property
    def groups(self) -> list[str]:
        """The kinds of templates."""
        return [example.group for example in self]

    @property
    def roles(self) -> dict[str, Int[Tensor, " example"]]:
        """Token positions by name; the same names for every example."""
        names = self.examples[0].roles if self.examples else ()
        return {name: torch.tensor([example.roles[name] for example in self]) for name in names}

    def answer_ids(self, model: HookedGPT2) -> Int[Tensor, " example"]:
        """Token ids of the answers."""
        return torch.tensor([model.to_single_token(answer) for answer in self.answers])

    def wrong_ids(self, model: HookedGPT2) -> Int[Tensor, " example"]:
        """Token ids of the wrong answers."""
        return torch.tensor([model.to_single_token(answer) for answer in self.wrong])

    def metric(self, model: HookedGPT2) -> Metric:
        """logit(answer) - logit(wrong) where the prompts end, in logits."""
        return logit_diff(self.answer_ids(model), self.wrong_ids(model))


def check(model: HookedGPT2, pairs: PromptPairs) -> None:
    """Refuse a set that cannot be patched or would measure something else.

    Raises:
        PromptError: it has no examples; an answer is not one token, equals its wrong answer, or
            does not continue its prompt; the embedded model does not know a word; a pair has
            unequal token lengths or does not differ (`interp.pairs.token_pairs`).
    """
    if not pairs.examples:
        raise PromptError(f"The set {pairs.name!r} has no examples.")
    found = [
        f"Example {index}: {problem}"
        for index, example in enumerate(pairs)
        for problem in _problems(model, example)
    ]
    if found:
        more = f"\n... and {len(found) - SHOWN_PROBLEMS} more." if found[SHOWN_PROBLEMS:] else ""
        raise PromptError("\n".join(found[:SHOWN_PROBLEMS]) + more)
    token_pairs(model, pairs.clean, pairs.corrupted)


def _problems(model: HookedGPT2, example: PromptPair) -> Iterator[str]:
    if example.answer == example.wrong:
        yield f"{example.answer!r} is both the answer and the wrong answer."
    for answer in dict.fromkeys((example.answer, example.wrong)):
        try:
            model.to_single_token(answer)
        except PromptError as error:
            yield str(error)
        if example.clean[-1:].isalpha() and answer[:1].isalpha():
            yield f"{answer!r} would be glued to the prompt's last word; write {' ' + answer!r}."
    for name, text in (("clean", example.clean), ("corrupted", example.corrupted)):
        if text[-1:].isspace():
            yield f"The {name} prompt ends with a space; the answer is the token that has it."
    unknown = unknown_words(model, (example.clean, example.corrupted))
    if unknown:
        yield (
            f"The embedded model does not know {', '.join(map(repr, unknown))}. Use the words of "
            "interp.tiny.lexicon, or another model."
        )


def unknown_words(model: HookedGPT2, texts: Sequence[str]) -> tuple[str, ...]:
    """The words that are not in the embedded model's language: its tokenizer cuts them up.

    None for any other model; there, a word of several tokens is nothing special.
    """
    if not reads_embedded_language(model):
        return ()
    words = [word for text in texts for word in re.findall(r" ?[^\W\d_]+", text)]
    return tuple(dict.fromkeys(word.strip() for word in words if not is_one_token(model, word)))


def is_one_token(model: HookedGPT2, text: str) -> bool:
    """Whether a text is exactly one token."""
    return model.tokenizer is not None and len(model.tokenizer.encode(text)) == 1


def reads_embedded_language(model: HookedGPT2) -> bool:
    """Whether the model has the embedded model's vocabulary, in which each word is one token."""
    embedded = _embedded_vocabulary()
    tokenizer = model.tokenizer
    return (
        tokenizer is not None
        and len(tokenizer) == len(embedded)
        and tokenizer.backend.get_vocab() == embedded
    )


@cache
def _embedded_vocabulary() -> dict[str, int]:
    return build_tokenizer().get_vocab()
