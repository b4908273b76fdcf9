"""What text was the embedded model trained on, and which answers does that text have?

The language is plain English about people, places, coloured things, years and word lists. Four
skills have answers that can be checked:

- colour_binding: "I love the color black, I hope someday to have a cat like that. The cat is"
  -> black
- indirect_object: "When Mary and John went to the store, John gave a drink to" -> Mary
- induction: "Words: lamp tree coin lamp tree" -> coin
- greater_than: "The war lasted from the year 1732 to the year 17" -> a pair of digits above 32

A colour is always named before its thing, so that the thing's own position is the first place where
both are known. Half of these sentences go on with a word that depends on the colour ("a cat darker
than most"), which gives a reason to look at the colour there. Other colours, and questions about
things that were mentioned without colour or not at all (answer: " unknown"), make it useless to
copy just any colour from the context.

Some word combinations never occur in training; see `is_held_out`. All randomness comes from seeds.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from interp.tiny.lexicon import (
    ANSWER_MARK,
    COLOUR_FILLERS,
    COMPLETIONS,
    FILLERS,
    GIVING,
    LIST_OPENINGS,
    LIST_WORDS,
    MEETINGS,
    MENTIONS,
    PLAIN_TAILS,
    QUESTIONS,
    SHADE_OF,
    SHADE_TAILS,
    SPANS,
    UNKNOWN,
    WISHES,
    WORDS,
)

MIXTURE = {"coloured things": 45, "giving": 25, "word lists": 20, "years": 10}
"""Percent of training documents of each kind."""

_HELD_OUT_MODULUS = 10
_HELD_OUT_REMAINDER = zlib.crc32(b"black cat") % _HELD_OUT_MODULUS


@dataclass(frozen=True)
class Document:
    """One training text."""

    text: str
    answers: tuple[int, ...]
    """Character offsets in `text` where an answer (with its leading space) begins."""


@dataclass(frozen=True)
class Example:
    """A prompt with a known answer, and the minimally different prompt with another one."""

    skill: str
    text: str
    """The prompt up to the answer."""
    answer: str
    """The right next word as one token: with leading space, or two bare digits for greater_than."""
    wrong: str
    """A plausible wrong next word: another colour, the giver, another word, an earlier year."""
    query_word: str
    """What is asked about: the thing, the giver, the word before the answer, the start year."""
    key_word: str
    """Where the answer stands: the colour, the receiver, the list word, the start year."""
    swapped_text: str
    """The prompt with one fact, and the words that depend on it, exchanged; equally many tokens."""

    @property
    def accepted(self) -> tuple[str, ...]:
        """All right next words: the answer, or every later year of the century."""
        if self.skill != "greater_than":
            return (self.answer,)
        return tuple(pair for pair in WORDS["digit pairs"] if pair > self.key_word)

    def swapped(self) -> "Example":
        """The same prompt with its fact exchanged: answer and wrong change places.

        For greater_than the start becomes 01: every year is later, and answer and wrong stay.
        """
        if self.skill == "greater_than":
            start = re.findall(r"\d\d(\d\d)", self.swapped_text)[0]
            return replace(
                self,
                text=self.swapped_text,
                swapped_text=self.text,
                query_word=start,
                key_word=start,
            )
        query_word = self.answer if self.skill == "indirect_object" else self.query_word
        return replace(
            self, text=self.swapped_text, swapped_text=self.text, answer=self.wrong,
            wrong=self.answer, query_word=query_word, key_word=self.wrong,
        )  # fmt: skip


@cache
def is_held_out(first: str, second: str) -> bool:
    """Whether training never combines these two words; about one combination in ten.

    The rule: crc32 of "first second" modulo 10 equals that of "black cat". It is applied to
    (colour, thing), to the alphabetically sorted pair of names of an indirect-object sentence, to
    (century, start) of a year, and to each neighbouring pair of a word list.
    """
    return zlib.crc32(f"{first} {second}".encode()) % _HELD_OUT_MODULUS == _HELD_OUT_REMAINDER


def training_documents(seed: int | str) -> Iterator[Document]:
    """Endless training texts; equal seeds give equal texts. Held-out combinations never occur."""
    random = Random(f"training {seed}")
    writers = (_colour_document, _names_document, _list_document, _year_document)
    while True:
        (writer,) = random.choices(writers, weights=tuple(MIXTURE.values()))
        yield _parse(writer(random))


def held_out_examples(skill: str, n: int, seed: int) -> list[Example]:
    """`n` prompts of one skill whose word combinations training never saw.

    Args:
        skill: A key of `SKILLS`: colour_binding (1 to 3 pairs, equally often), colour_binding_1, _2
            or _3 (that many pairs), indirect_object, induction or greater_than.

    Raises:
        ValueError: `skill` is not one of these.
    """
    if skill not in SKILLS:
        raise ValueError(f"Unknown skill {skill!r}. Known skills: {', '.join(sorted(SKILLS))}.")
    random = Random(f"held out {skill} {seed}")
    return [SKILLS[skill](random) for _ in range(n)]


def _parse(marked: str) -> Document:
    """Remove the answer marks and remember where they stood."""
    parts = marked.split(ANSWER_MARK)
    answers, length = [], 0
    for part in parts[:-1]:
        length += len(part)
        answers.append(length)
    return Document("".join(parts), tuple(answers))


def _prompt(marked: str) -> str:
    """The text up to its last answer."""
    return marked.rpartition(ANSWER_MARK)[0].replace(ANSWER_MARK, "")


def _fill(random: Random, template: str, **words: str) -> str:
    """Fill a template; places, gifts and people that are not given are drawn."""
    name, other = random.sample(WORDS["names"], 2)
    drawn = {
        "name": name,
        "other": other,
        "place": random.choice(WORDS["places"]),
        "gift": random.choice(WORDS["gifts"]),
    }
    return template.format_map(drawn | words)


# Colour binding


def _wish(random: Random, colour: str, thing: str) -> str:
    tails = random.choice((PLAIN_TAILS, SHADE_TAILS))
    tail = random.choice(tails).format(shade=SHADE_OF[colour])
    return _fill(random, random.choice(WISHES), colour=colour, thing=thing, tail=tail)


def _question(random: Random, thing: str, answer: str) -> str:
    frames = QUESTIONS if answer == UNKNOWN else QUESTIONS + COMPLETIONS
    return _fill(random, random.choice(frames), thing=thing) + f"{ANSWER_MARK} {answer}."


def _filler(random: Random, distractors: Sequence[str]) -> str:
    if random.random() < 0.7:
        return _fill(random, random.choice(COLOUR_FILLERS), colour=random.choice(distractors))
    return _fill(random, random.choice(FILLERS))


def _colour_facts(
    random: Random, pairs: Sequence[tuple[str, str]], distractors: Sequence[str]
) -> list[str]:
    """One sentence for each (colour, thing); between them others, often about other colours."""
    sentences = []
    for colour, thing in pairs:
        sentences.append(_wish(random, colour, thing))
        if random.random() < (0.8 if len(pairs) == 1 else 0.25):
            sentences.insert(
                random.choice((len(sentences), len(sentences) - 1)), _filler(random, distractors)
            )
    return sentences


def _draw_pairs(random: Random, n: int, held_out: bool) -> list[tuple[str, str]]:
    """`n` pairs of different colours and different things, all held out or all not."""
    while True:
        pairs = list(
            zip(random.sample(WORDS["colours"], n), random.sample(WORDS["things"], n), strict=True)
        )
        if all(is_held_out(colour, thing) == held_out for colour, thing in pairs):
            return pairs


def _other_colours(pairs: Sequence[tuple[str, str]]) -> list[str]:
    used = {colour for colour, _ in pairs}
    return [colour for colour in WORDS["colours"] if colour not in used]


def _colour_document(random: Random) -> str:
    """Facts, then a question about each thing and often about one whose colour is not known."""
    (n,) = random.choices((1, 2, 3), weights=(25, 40, 35))
    pairs = _draw_pairs(random, n, held_out=False)
    sentences = _colour_facts(random, pairs, _other_colours(pairs))
    questions = [_question(random, thing, colour) for colour, thing in pairs]
    if random.random() < 0.6:
        others = [other for other in WORDS["things"] if other not in dict(pairs).values()]
        thing = random.choice(others)
        if random.random() < 0.7:
            mention = _fill(random, random.choice(MENTIONS), thing=thing)
            sentences.insert(random.randint(0, len(sentences)), mention)
        questions.append(_question(random, thing, UNKNOWN))
    random.shuffle(questions)
    return " ".join(sentences + questions)


def _colour_example(random: Random, n_pairs: int) -> Example:
    pairs = _draw_pairs(random, n_pairs, held_out=True)
    asked = random.randrange(n_pairs)
    other = random.choice([index for index in range(n_pairs) if index != asked] or [asked])
    colour, thing = pairs[asked]
    wrong = pairs[other][0] if n_pairs > 1 else random.choice(_other_colours(pairs))
    exchange = {colour: wrong, wrong: colour}
    swapped_pairs = [(exchange.get(colour, colour), thing) for colour, thing in pairs]
    distractors = [colour for colour in _other_colours(pairs) if colour != wrong]
    story = random.getrandbits(64)

    def prompt(facts: Sequence[tuple[str, str]]) -> str:
        same_story = Random(story)
        sentences = [
            *_colour_facts(same_story, facts, distractors),
            _question(same_story, thing, ""),
        ]
        return _prompt(" ".join(sentences))

    return Example(
        "colour_binding",
        prompt(pairs),
        f" {colour}",
        f" {wrong}",
        f" {thing}",
        f" {colour}",
        prompt(swapped_pairs),
    )


# Indirect object


def _draw_names(random: Random, held_out: bool) -> tuple[str, str]:
    while True:
        first, second = random.sample(WORDS["names"], 2)
        if is_held_out(*sorted((first, second))) == held_out:
            return first, second


def _giving(random: Random, first: str, second: str, giver: str) -> str:
    receiver = second if giver == first else first
    meeting = _fill(random, random.choice(MEETINGS), name=first, other=second, giver=giver)
    gift, giving = random.choice(WORDS["gifts"]), random.choice(WORDS["giving"])
    return GIVING.format(meeting=meeting, gift=gift, giving=giving) + f"{ANSWER_MARK} {receiver}."


def _names_document(random: Random) -> str:
    sentences = []
    for _ in range(random.choice((1, 1, 2))):
        names = _draw_names(random, held_out=False)
        sentences.append(_giving(random, *names, giver=random.choice(names)))
    if random.random() < 0.15:
        sentences.insert(0, _fill(random, random.choice(FILLERS)))
    return " ".join(sentences)


def _names_example(random: Random) -> Example:
    first, second = _draw_names(random, held_out=True)
    giver, receiver = random.choice(((first, second), (second, first)))
    story = random.getrandbits(64)
    text, swapped = (
        _prompt(_giving(Random(story), first, second, subject)) for subject in (giver, receiver)
    )
    return Example(
        "indirect_object", text, f" {receiver}", f" {giver}", f" {giver}", f" {receiver}", swapped
    )


# Induction


@cache
def _successors(word: str, held_out: bool) -> tuple[str, ...]:
    """The words that may follow `word` in a list."""
    return tuple(other for other in LIST_WORDS if is_held_out(word, other) == held_out)


def _draw_list(random: Random, n: int, held_out: bool) -> list[str]:
    """`n` different words; neighbouring pairs are all held out or all not."""
    while True:
        words = [random.choice(LIST_WORDS)]
        while len(words) < n:
            following = [word for word in _successors(words[-1], held_out) if word not in words]
            if not following:
                break
            words.append(random.choice(following))
        if len(words) == n:
            return words


def _list_document(random: Random) -> str:
    words = _draw_list(random, random.randint(4, 16), held_out=False)
    opening = random.choice(LIST_OPENINGS)
    repeated = "".join(f"{ANSWER_MARK if index else ''} {word}" for index, word in enumerate(words))
    return f"{opening} {' '.join(words)}{repeated}."


def _list_example(random: Random) -> Example:
    words = _draw_list(random, random.randint(4, 16), held_out=True)
    answer = random.randrange(1, len(words))
    wrong = random.choice([w for w in LIST_WORDS if w not in words])
    opening = random.choice(LIST_OPENINGS)

    def prompt(listed: Sequence[str]) -> str:
        return f"{opening} {' '.join(listed)} {' '.join(words[:answer])}"

    exchanged = [wrong if word == words[answer] else word for word in words]
    return Example(
        "induction", prompt(words), f" {words[answer]}", f" {wrong}",
        f" {words[answer - 1]}", f" {words[answer]}", prompt(exchanged),
    )  # fmt: skip


# Greater-than years


def _draw_year(random: Random, held_out: bool) -> tuple[str, int]:
    """A century and a start from 2 to 90, so that later and earlier years exist."""
    while True:
        century, start = random.choice(WORDS["centuries"]), random.randint(2, 90)
        if is_held_out(century, f"{start:02d}") == held_out:
            return century, start


def _span(random: Random, century: str, start: int) -> str:
    event = random.choice(WORDS["events"])
    return random.choice(SPANS).format(event=event, century=century, start=f"{start:02d}")


def _year_document(random: Random) -> str:
    sentences = []
    for _ in range(random.randint(1, 3)):
        century, start = _draw_year(random, held_out=False)
        end = random.randint(start + 1, 99)
        sentences.append(f"{_span(random, century, start)}{ANSWER_MARK}{end:02d}.")
    return " ".join(sentences)


def _year_example(random: Random) -> Example:
    century, start = _draw_year(random, held_out=True)
    later, earlier = random.randint(start + 1, 99), random.randint(1, start - 1)
    story = random.getrandbits(64)
    text, swapped = (_span(Random(story), century, year) for year in (start, 1))
    return Example(
        "greater_than",
        text,
        f"{later:02d}",
        f"{earlier:02d}",
        f"{start:02d}",
        f"{start:02d}",
        swapped,
    )


SKILLS: dict[str, Callable[[Random], Example]] = {
    "colour_binding": lambda random: _colour_example(random, random.randint(1, 3)),
    "colour_binding_1": lambda random: _colour_example(random, 1),
    "colour_binding_2": lambda random: _colour_example(random, 2),
    "colour_binding_3": lambda random: _colour_example(random, 3),
    "indirect_object": _names_example,
    "induction": _list_example,
    "greater_than": _year_example,
}
"""The skill names of `held_out_examples`, each with the writer of one example."""
