"""Colour prompts with one fact exchanged: which colour, which thing, or which question?

`colour_binding` exchanges the colours. Exchanging the things, or what is asked, turns the answer
into the same other colour by another fact, so that each study of the same prompts shows other parts
of the model. All prompts keep their frame: clean and corrupted differ in these words only.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from random import Random

from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.pairs import token_pairs
from interp.prompts.drawing import last_position
from interp.prompts.prompt_pairs import PromptPair, PromptPairs, check, is_one_token
from interp.tiny.lexicon import WORDS


def things_exchanged(model: HookedGPT2, pairs: PromptPairs) -> PromptPairs:
    """Corrupted, the asked thing and the other thing change places in the facts.

    Raises:
        PromptError: the prompts name one thing only.
    """
    return _corrupted(model, pairs, "things", {"thing": "other_thing", "other_thing": "thing"})


def question_exchanged(model: HookedGPT2, pairs: PromptPairs) -> PromptPairs:
    """Corrupted, the question is about the other thing.

    Raises:
        PromptError: the prompts name one thing only.
    """
    return _corrupted(model, pairs, "question", {"asked": "other_thing"})


def other_words(model: HookedGPT2, pairs: PromptPairs, *, seed: int = 0) -> PromptPairs:
    """Corrupted, every colour and thing is another one, which the prompt does not have.

    The same sentence about other things: what a component writes there knows the frame, and nothing
    of the binding. A word that depends on a colour ("a cat so dark as that") stays, and so does one
    of several tokens.
    """
    random = Random(f"other words {seed}")
    lists = _single_tokens(model)

    def exchanged(example: PromptPair) -> PromptPair:
        pieces = model.to_str_tokens(example.clean, prepend_bos=False)
        for words in lists:
            here = [word for word in dict.fromkeys(pieces) if word in words]
            unused = [word for word in words if word not in here]
            instead = dict(zip(here, random.sample(unused, len(here)), strict=True))
            pieces = [instead.get(piece, piece) for piece in pieces]
        return replace(example, corrupted="".join(pieces))

    return _checked(model, f"{pairs.name}, other words", map(exchanged, pairs))


def colour_swapped(
    model: HookedGPT2, text: str, *, colour: str | None = None, instead: str | None = None
) -> PromptPair:
    """A text of one's own with a colour changed: corrupted, every place of it has another one.

    Args:
        colour: Without its space; by default the first of the text.
        instead: By default the first colour that the text does not have. One that it has changes
            places with `colour`.

    Returns:
        The pair with the colours as answers, and the roles colour (its first place) and END.

    Raises:
        PromptError: the text has no such colour, or not as a token of its own; no other is one
            token.
    """
    single = [word for word in WORDS["colours"] if is_one_token(model, f" {word}")]
    here = [word for word in re.findall(r"(?<= )[^\W\d_]+", text) if word in single]
    colour = next(iter(here), None) if colour is None else colour
    if colour not in here:
        named = "no colour" if colour is None else f"no colour {colour!r}"
        raise PromptError(f"The prompt has {named} that is one token after a space.")
    unused = [word for word in single if word not in here]
    instead = next(iter(unused), None) if instead is None else instead
    if instead is None or instead == colour or instead not in single:
        raise PromptError(f"{instead!r} is no other colour that is one token.")
    exchange = {colour: instead, instead: colour}
    words = re.compile(rf"(?<= )({colour}|{instead})(?![^\W\d_])")
    corrupted = words.sub(lambda found: exchange[found[0]], text)
    roles = {
        "colour": model.find_word(text, f" {colour}", occurrence=0),
        "END": last_position(model, text),
    }
    pair = PromptPair(text, corrupted, f" {colour}", f" {instead}", roles)
    token_pairs(model, pair.clean, pair.corrupted)
    return pair


def words_redrawn(model: HookedGPT2, pairs: PromptPairs, *, seed: int = 0) -> PromptPairs:
    """The same sentences with their colours and things drawn anew, each on its own.

    `colour_binding` combines words that the embedded model never met together, about one
    combination in ten, so that a thing alone tells much of its colour. Here it tells nothing.
    """
    random = Random(f"words redrawn {seed}")
    lists = _single_tokens(model)

    def redrawn(example: PromptPair) -> PromptPair:
        pieces = model.to_str_tokens(example.clean, prepend_bos=False)
        instead: dict[str, str] = {}
        for words in lists:
            here = [word for word in dict.fromkeys((*pieces, example.wrong)) if word in words]
            instead |= dict(zip(here, random.sample(words, len(here)), strict=True))
        answer, wrong = instead[example.answer], instead[example.wrong]
        exchange = instead | {example.answer: wrong, example.wrong: answer}
        clean, corrupted = (
            "".join(words.get(piece, piece) for piece in pieces) for words in (instead, exchange)
        )
        return replace(example, clean=clean, corrupted=corrupted, answer=answer, wrong=wrong)

    return _checked(model, f"{pairs.name}, words redrawn", map(redrawn, pairs))


def _single_tokens(model: HookedGPT2) -> list[list[str]]:
    """The colours and the things that are one token, with their space."""
    return [
        [f" {word}" for word in WORDS[kind] if is_one_token(model, f" {word}")]
        for kind in ("colours", "things")
    ]


def _corrupted(
    model: HookedGPT2, pairs: PromptPairs, name: str, sources: Mapping[str, str]
) -> PromptPairs:
    """Corrupted, each role has the token of another role of the clean prompt."""

    def exchanged(example: PromptPair) -> PromptPair:
        missing = [role for role in sources.values() if role not in example.roles]
        if missing:
            raise PromptError(
                f"There is no {missing[0]} in {example.clean!r}; use two or more pairs."
            )
        pieces = model.to_str_tokens(example.clean)
        clean = list(pieces)
        for role, source in sources.items():
            pieces[example.roles[role]] = clean[example.roles[source]]
        n_bos = len(clean) - len(model.to_str_tokens(example.clean, prepend_bos=False))
        return replace(example, corrupted="".join(pieces[n_bos:]))

    return _checked(model, f"{pairs.name}, {name} exchanged", map(exchanged, pairs))


def _checked(model: HookedGPT2, name: str, examples: Iterable[PromptPair]) -> PromptPairs:
    pairs = PromptPairs(name, tuple(examples))
    check(model, pairs)
    return pairs
