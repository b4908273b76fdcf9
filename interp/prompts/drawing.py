"""How a set is drawn: words that are one token, different prompts, and a check at the end."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from random import Random

from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.prompts.prompt_pairs import PromptPair, PromptPairs, check, is_one_token
from interp.tiny.language import SKILLS, Example

DRAWS_PER_EXAMPLE = 500
"""How often a prompt is drawn before a set counts as exhausted."""


def examples(model: HookedGPT2, skill: str, seed: int) -> Iterator[Example | None]:
    """Endless held-out prompts of the embedded model's language, which is plain English.

    `None` where one of the words that matter is not a single token for this model.
    """
    random = Random(f"{skill} {seed}")
    while True:
        example = SKILLS[skill](random)
        words = (example.answer, example.wrong, example.query_word, example.key_word)
        yield example if all(is_one_token(model, word) for word in words) else None


def checked(
    model: HookedGPT2, name: str, n: int, drawn: Iterable[PromptPair | None]
) -> PromptPairs:
    """The first `n` different pairs, checked.

    Raises:
        PromptError: `n` is not positive, or so many are not found.
    """
    if n < 1:
        raise PromptError(f"n is {n}; ask for at least one prompt.")
    found: dict[str, PromptPair] = {}
    for pair in islice(drawn, n * DRAWS_PER_EXAMPLE):
        if pair is not None:
            found.setdefault(pair.clean, pair)
        if len(found) == n:
            pairs = PromptPairs(name, tuple(found.values()))
            check(model, pairs)
            return pairs
    raise PromptError(f"There are only {len(found)} different {name} prompts to be found, not {n}.")


def single_tokens(model: HookedGPT2, words: Sequence[str], *, at_least: int) -> list[str]:
    """The words that are one token after a space.

    Raises:
        PromptError: too few are; the message names those that are not.
    """
    single = [word for word in words if is_one_token(model, f" {word}")]
    if len(single) < at_least:
        others = [word for word in words if word not in single]
        raise PromptError(
            f"At least {at_least} of these words must be one token after a space; for "
            f"{model.cfg.model_name!r} {len(single)} are. Not one token: {', '.join(others[:12])}"
            f"{' ...' if others[12:] else ''}."
        )
    return single


def last_position(model: HookedGPT2, text: str) -> int:
    """Position of a text's last token, with BOS counted."""
    return len(model.to_str_tokens(text)) - 1
