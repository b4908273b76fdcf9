"""The prompt sets of the well-known studies, drawn from a seed: which pairs show which behaviour?

- `ioi`: indirect object identification (Wang et al. 2022, arXiv:2211.00593).
- `colour_binding`: which colour belongs to the thing that is asked about.
- `induction`: a word list begins again (after Olsson et al. 2022, arXiv:2209.11895).
- `gendered_pronoun`: the pronoun of a question tag agrees with a name (after Mathwin et al. 2023).

Equal seeds give equal sets, and no clean prompt occurs twice. The embedded model gets sentences of
its own language, in word combinations that its training never had (`interp.tiny.language`).
"""

import re
from collections.abc import Sequence
from itertools import cycle, product
from random import Random
from typing import Literal, get_args

from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.prompts import templates
from interp.prompts.drawing import checked, examples, last_position, single_tokens
from interp.prompts.prompt_pairs import (
    PromptPair,
    PromptPairs,
    is_one_token,
    reads_embedded_language,
)
from interp.tiny.language import SKILLS, Example, is_held_out
from interp.tiny.lexicon import LIST_OPENINGS, LIST_WORDS, WORDS

Corruption = Literal["abc", "name_swap"]
Order = Literal["both", "ABBA", "BABA"]


def ioi(
    model: HookedGPT2, n: int, *, seed: int = 0, corruption: Corruption = "abc",
    order: Order = "both",
) -> PromptPairs:  # fmt: skip
    """Two people, one gives something "to" -> the other (IO), not the one who gives (S).

    The templates take turns, in both orders of the people: ABBA (IO is named first) and BABA.

    Args:
        corruption: "abc" exchanges the three mentions for three other people, so that nothing
            tells who receives; "name_swap" lets the other person give, so that the answer is S.

    Returns:
        Pairs with roles IO, S1, S1+1, S2 and END.

    Raises:
        PromptError: fewer than five names are single tokens.
    """
    _check_choice("corruption", corruption, get_args(Corruption))
    _check_choice("order", order, get_args(Order))
    embedded = reads_embedded_language(model)
    giving = templates.EMBEDDED_GIVING if embedded else templates.ENGLISH_GIVING
    names = single_tokens(model, giving.names, at_least=5)
    random = Random(f"ioi {seed}")
    orders = ("ABBA", "BABA") if order == "both" else (order,)

    def draw(template: str, order: str) -> PromptPair:
        receiver, giver = random.sample(names, 2)
        while embedded and not is_held_out(*sorted((receiver, giver))):
            receiver, giver = random.sample(names, 2)
        mentioned = (receiver, giver) if order == "ABBA" else (giver, receiver)
        place, gift = random.choice(giving.places), random.choice(giving.gifts)
        others = random.sample([name for name in names if name not in mentioned], 3)

        def prompt(first: str, second: str, subject: str) -> str:
            return template.format(name=first, other=second, giver=subject, place=place, gift=gift)

        clean = prompt(*mentioned, giver)
        corrupted = prompt(*others) if corruption == "abc" else prompt(*mentioned, receiver)
        first_giver = model.find_word(clean, giver, occurrence=0)
        roles = {
            "IO": model.find_word(clean, receiver),
            "S1": first_giver,
            "S1+1": first_giver + 1,
            "S2": model.find_word(clean, giver, occurrence=1),
            "END": last_position(model, clean),
        }
        return PromptPair(clean, corrupted, f" {receiver}", f" {giver}", roles, order)

    kinds = cycle(product(random.sample(giving.templates, len(giving.templates)), orders))
    return checked(model, "ioi", n, (draw(*kind) for kind in kinds))


def colour_binding(model: HookedGPT2, n: int, *, seed: int = 0, n_pairs: int = 1) -> PromptPairs:
    """Things with colours, and the question which colour one of them "is".

    Corrupted, another colour stands in its place: that of another thing, which gets this one's; a
    colour that was not there if there is one thing. Clean and corrupted differ in colours only.

    Args:
        n_pairs: Number of coloured things, 1 to 3.

    Returns:
        Pairs with roles colour (the answer's), thing (at its first mention, after its colour),
        asked (in the question), END, and other_colour and other_thing if there are more things.
    """
    skill = f"colour_binding_{n_pairs}"
    if skill not in SKILLS:
        raise PromptError(f"n_pairs is {n_pairs}; there are prompts with 1 to 3 pairs.")

    def pair(example: Example) -> PromptPair | None:
        colours = {example.answer.strip(), example.wrong.strip()}
        if _differing_words(example.text, example.swapped_text) != colours:
            return None  # a shade ("darker") depends on the colour
        if not example.text.endswith(" is"):
            return None  # "Anna likes the cat" is followed by a colour in the language alone
        text, thing = example.text, example.query_word
        roles = {
            "colour": model.find_word(text, example.answer),
            "thing": model.find_word(text, thing, occurrence=0),
            "asked": model.find_word(text, thing, occurrence=1),
            "END": last_position(model, text),
        }
        if n_pairs > 1:
            other = _first_thing(text.partition(example.wrong)[2])
            if not is_one_token(model, f" {other}"):
                return None
            roles["other_colour"] = model.find_word(text, example.wrong)
            roles["other_thing"] = model.find_word(text, other)
        return PromptPair(text, example.swapped_text, example.answer, example.wrong, roles)

    single_tokens(model, WORDS["colours"], at_least=n_pairs + 1)
    drawn = (example and pair(example) for example in examples(model, skill, seed))
    return checked(model, "colour_binding", n, drawn)


def induction(model: HookedGPT2, n: int, *, seed: int = 0, n_words: int = 8) -> PromptPairs:
    """A list of words begins again and stops before its last word, which is the answer.

    Corrupted, the list has another last word. All prompts have equally many tokens.

    Args:
        n_words: Length of the list, 2 to 16.

    Returns:
        Pairs with roles previous (the last word but one, in the list), answer (the word after it)
        and END (that last word but one again).
    """
    if not 2 <= n_words <= 16:
        raise PromptError(f"n_words is {n_words}; lists have 2 to 16 words.")
    words = set(single_tokens(model, LIST_WORDS, at_least=n_words + 1))

    def pair(example: Example) -> PromptPair | None:
        listed = example.text.partition(":")[2].split()
        listed = listed[: listed.index(listed[0], 1)][:n_words]
        if len(listed) < n_words or not words.issuperset(listed):
            return None
        *known, answer = listed

        def prompt(last: str) -> str:
            return " ".join([LIST_OPENINGS[0], *known, last, *known])

        clean = prompt(answer)
        end = last_position(model, clean)
        roles = {"previous": end - n_words, "answer": end - n_words + 1, "END": end}
        return PromptPair(clean, prompt(example.wrong.strip()), f" {answer}", example.wrong, roles)

    drawn = (example and pair(example) for example in examples(model, "induction", seed))
    return checked(model, "induction", n, drawn)


def gendered_pronoun(model: HookedGPT2, n: int, *, seed: int = 0) -> PromptPairs:
    """The pronoun of a question tag: "So Mary is a really nice friend, isn't" -> " she".

    Corrupted, a man's name stands in place of the woman's; every other prompt is about a man.

    Returns:
        Pairs with roles name and END; groups are "she" and "he", in turn.

    Raises:
        PromptError: for the embedded model, whose language has no pronouns.
    """
    if reads_embedded_language(model):
        raise PromptError("The embedded model's language has no pronouns; load another model.")
    women = single_tokens(model, templates.WOMEN, at_least=1)
    men = single_tokens(model, templates.MEN, at_least=1)
    random = Random(f"gendered_pronoun {seed}")

    def draw(pronoun: str) -> PromptPair:
        template = random.choice(templates.PRONOUN_TEMPLATES)
        person = random.choice(templates.PEOPLE)
        woman, man = random.choice(women), random.choice(men)
        names, wrong = ((woman, man), "he") if pronoun == "she" else ((man, woman), "she")
        clean, corrupted = (template.format(name=name, person=person) for name in names)
        roles = {"name": model.find_word(clean, names[0]), "END": last_position(model, clean)}
        return PromptPair(clean, corrupted, f" {pronoun}", f" {wrong}", roles, pronoun)

    return checked(model, "gendered_pronoun", n, map(draw, cycle(("she", "he"))))


def _differing_words(text: str, other: str) -> set[str]:
    rows = (re.findall(r"\w+", prompt) for prompt in (text, other))
    return {word for pair in zip(*rows, strict=True) if len(set(pair)) > 1 for word in pair}


def _first_thing(text: str) -> str:
    return next(word for word in re.findall(r"\w+", text) if word in WORDS["things"])


def _check_choice(name: str, chosen: str, choices: Sequence[str]) -> None:
    if chosen not in choices:
        raise PromptError(f"{name} is {chosen!r}; choose from {', '.join(map(repr, choices))}.")
