"""The words and sentence frames of the language: which texts can there be?

Frames are filled by `language`. {colour} {thing} {name} {other} {place} {gift} {event} take words
of their category, {giver} one of the two people, {shade} the shade of the colour, {tail} the end of
a wish, {century} and {start} the two halves of a year.
"""


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


SHADES = {
    "dark": ("black", "brown", "purple"),
    "bright": ("white", "yellow", "gold"),
    "warm": ("red", "orange", "pink"),
    "cool": ("blue", "green", "gray"),
}
"""Each colour belongs to one shade: the words "dark" and "darker" follow things of dark colour."""

SHADE_OF = {colour: shade for shade, colours in SHADES.items() for colour in colours}

WORDS: dict[str, tuple[str, ...]] = {
    "colours": tuple(SHADE_OF),
    "things": _split(
        "cat dog bird horse fish mouse rabbit cow car truck bike boat train bus house door "
        "chair table lamp bed hat coat shirt dress scarf bag book pen cup plate bowl ball "
        "kite phone clock box flower tree rug sofa"
    ),
    "names": _split(
        "Mary John Anna Tom Kate Paul Lucy Mark Emma Jack Sarah Peter Jane David Alice Simon "
        "Laura Henry Julia Frank Maria Adam Ruth Oscar Clara Felix Nina Leo Rose Max"
    ),
    "places": _split(
        "store park school garden station beach market library office museum river lake"
    ),
    "gifts": _split("drink letter gift ticket key map toy coin snack ring note cake"),
    "giving": _split("gave handed sent passed offered brought"),
    "events": _split("war siege journey trial reign project drought festival strike voyage"),
    "shades": tuple(SHADES) + tuple(f"{shade}er" for shade in SHADES),
    "centuries": tuple(str(century) for century in range(11, 20)),
    "digit pairs": tuple(f"{pair:02d}" for pair in range(100)),
}
"""The lexicon by category, without leading spaces. Each word is one token after a space."""

LIST_WORDS = tuple(
    word
    for name in ("colours", "things", "names", "places", "gifts", "events")
    for word in WORDS[name]
)
"""The words of word lists."""

UNKNOWN = "unknown"
"""The answer to a question about a thing that was never mentioned, or mentioned without colour."""

ANSWER_MARK = "|"
"""Stands before each answer in templates and raw texts; `language` takes it out."""

SEED_SENTENCE = "I love the color black, I hope someday to have a cat like that."
"""The sentence whose attention is explained everywhere: the first wish, filled."""

WISHES = (
    "I love the color {colour}, I hope someday to have a {thing}{tail}.",
    "I love the color {colour}, and someday I hope to have a {thing}{tail}.",
    "My favorite color is {colour}, so I want a {thing}{tail}.",
    "{name} likes the color {colour}, and now has a {thing}{tail}.",
    "{name} always loved {colour}, so {other} found a {thing}{tail}.",
    "Nothing looks as good as {colour}, so {name} bought a {thing}{tail}.",
    "After seeing something {colour} at the {place}, {name} asked for a {thing}{tail}.",
    "We all enjoy {colour}, so we made a {thing}{tail}.",
    "I love the color {colour}. I hope someday to have a {thing}{tail}.",
    "{name} loves the color {colour}, and hopes to have a {thing}{tail}.",
    "The color {colour} is so nice that {name} wants a {thing}{tail}.",
    "They had only {colour} paint, so {name} made a {thing}{tail}.",
    "{name} never saw so much {colour} before, and dreams of a {thing}{tail}.",
)
PLAIN_TAILS = (" like that", " like that", " just like it", "")
SHADE_TAILS = (
    f"{ANSWER_MARK} {{shade}}er than most",
    f"{ANSWER_MARK} {{shade}}er than that",
    f"{ANSWER_MARK} {{shade}} like that",
    f" so{ANSWER_MARK} {{shade}} as that",
)
QUESTIONS = (
    "The {thing} is",
    "The {thing} is",
    "Now the {thing} is",
    "So the color of the {thing} is",
    "What color is the {thing}? It is",
    "{name} says that the {thing} is",
    "Everyone at the {place} can see that the {thing} is",
)
COMPLETIONS = (
    "{name} likes the {thing}",
    "{name} painted the {thing}",
    "We want the {thing}",
    "Please keep the {thing}",
)
MENTIONS = (
    "{name} lost a {thing} at the {place}.",
    "There was a {thing} at the {place}.",
    "{name} sold a {thing} to {other}.",
    "{name} and {other} talked about a {thing}.",
)
FILLERS = (
    "The weather was nice that day.",
    "{name} went to the {place}.",
    "{name} and {other} talked about the {place}.",
    "It was a long day at the {place}.",
    "{name} had a {gift} for {other}.",
)
COLOUR_FILLERS = (
    "{name} saw something {colour} at the {place}.",
    "The sky over the {place} turned {colour}.",
    "{name} does not like {colour}.",
    "All the walls at the {place} were {colour}.",
)
MEETINGS = (
    "When {name} and {other} went to the {place}, {giver}",
    "After {name} and {other} went to the {place}, {giver}",
    "While {name} and {other} were at the {place}, {giver}",
    "Yesterday {name} and {other} worked at the {place}, and {giver}",
    "{name} and {other} went to the {place}, and {giver}",
    "{name} and {other} met at the {place}. {giver}",
    "The friends {name} and {other} walked to the {place}. Then {giver}",
    "{name} and {other} had a long day at the {place}, and {giver}",
)
GIVING = "{meeting} {giving} a {gift} to"
SPANS = (
    "The {event} lasted from the year {century}{start} to the year {century}",
    "The {event} began in {century}{start} and ended in {century}",
    "From {century}{start} to {century}",
)
LIST_OPENINGS = ("Words:", "List:", "Again and again:")

FRAMES = (
    *WISHES,
    *PLAIN_TAILS,
    *SHADE_TAILS,
    *QUESTIONS,
    *COMPLETIONS,
    *MENTIONS,
    *FILLERS,
    *COLOUR_FILLERS,
    *MEETINGS,
    GIVING,
    *SPANS,
    *LIST_OPENINGS,
)
"""All frames, for the tokenizer."""
