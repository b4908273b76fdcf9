"""The sentences and words of the studies, in plain English and in the embedded model's language.

{name} and {other} are the two people in the order of their mention, {giver} is one of them; {place}
and {gift} take words of their lists. The kinds of sentences follow the papers; the wording is ours.
"""

from dataclasses import dataclass

from interp.tiny.lexicon import GIVING, MEETINGS, WORDS


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


IOI_TEMPLATES = (
    "When {name} and {other} walked into the {place}, {giver} handed a {gift} to",
    "After {name} and {other} had left the {place}, {giver} gave a {gift} to",
    "Because {name} and {other} met at the {place}, {giver} could pass a {gift} to",
    "Last week {name} and {other} were at the {place}. {giver} brought a {gift} to",
    "While {name} and {other} waited in front of the {place}, {giver} offered a {gift} to",
    "Early that morning {name} and {other} came to the {place}, where {giver} gave a {gift} to",
    "The {place} was nearly empty when {name} and {other} arrived, so {giver} showed a {gift} to",
    "Once {name} and {other} had found the {place}, {giver} decided to give a {gift} to",
    "My friends {name} and {other} work at the {place}. Yesterday {giver} sold a {gift} to",
    "It was late, and {name} and {other} were still at the {place}. {giver} lent a {gift} to",
    "On the way to the {place}, {name} and {other} talked a lot, and {giver} gave a {gift} to",
    "Everyone saw {name} and {other} near the {place}, just before {giver} threw a {gift} to",
    "A day at the {place} made {name} and {other} happy; in the end {giver} mailed a {gift} to",
    "People say that {name} and {other} own the {place}, and that {giver} sent a {gift} to",
    "Since the {place} was closed, {name} and {other} sat outside until {giver} took a {gift} to",
)
"""Indirect-object sentences: each works in both orders of the two people (Wang et al. 2022)."""

WOMEN = _split(
    "Mary Anna Kate Lucy Emma Sarah Jane Alice Laura Julia Maria Ruth Clara Nina Susan Karen Lisa "
    "Linda Amy Rachel Emily Jessica Helen Nancy Jennifer Amanda Anne Diana Elizabeth Barbara "
    "Michelle Rebecca Sandra Angela Martha Margaret Sophie Victoria"
)
MEN = _split(
    "John Tom Paul Peter David Simon Henry Frank Adam Oscar Felix Leo James Robert Michael William "
    "Richard Thomas Charles Daniel Matthew George Kevin Brian Edward Steven Andrew Eric Ryan "
    "Patrick Justin Gary Larry Dennis Roger Carl Arthur Bruce Philip Keith"
)
PLACES = _split(
    "store market library museum park station beach hotel church airport harbor bakery theater farm"
)
GIFTS = _split("book letter ticket coin key map cake flower present camera bottle hat pencil toy")


@dataclass(frozen=True)
class Giving:
    """Everything that indirect-object sentences are made of."""

    templates: tuple[str, ...]
    names: tuple[str, ...]
    places: tuple[str, ...]
    gifts: tuple[str, ...]


ENGLISH_GIVING = Giving(IOI_TEMPLATES, WOMEN + MEN, PLACES, GIFTS)
EMBEDDED_GIVING = Giving(
    templates=tuple(
        GIVING.format(meeting=meeting, giving=giving, gift="{gift}")
        for meeting in MEETINGS
        if not meeting.startswith("{name}")  # without a space it is another token than the answer
        for giving in WORDS["giving"]
    ),
    names=WORDS["names"],
    places=WORDS["places"],
    gifts=WORDS["gifts"],
)

PRONOUN_TEMPLATES = (
    "So {name} is a really nice {person}, isn't",
    "Well, {name} was such a good {person}, wasn't",
    "Yes, {name} became a famous {person}, didn't",
    "Sure, {name} has been a great {person}, hasn't",
)
PEOPLE = _split("friend neighbor teacher person singer doctor writer student leader lawyer")

YEARS_TEMPLATE = "The {noun} lasted from the year {century}{start} to the year {century}"
NOUNS = _split(
    "war siege journey trial reign project drought festival strike voyage campaign conflict crisis "
    "rebellion famine struggle expedition survey investigation contract dispute marriage "
    "partnership program study tour search conquest construction friendship feud rivalry truce "
    "debate exhibition epidemic occupation operation mission migration pilgrimage plague revolt "
    "revolution uprising quest scandal regime restoration settlement transition alliance boycott "
    "blockade crusade decline depression dynasty era exile experiment growth invasion march "
    "movement peace pursuit recession recovery reform renovation riot rule tournament trade "
    "training tradition"
)
"""What can last for years (the frame is that of Hanna et al. 2023)."""
CENTURIES = tuple(str(century) for century in range(11, 18))
DIGIT_PAIRS = WORDS["digit pairs"]
