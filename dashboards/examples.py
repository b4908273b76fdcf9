"""Prompts to begin with."""

from typing import NamedTuple

from dashboards.state import SEED_TEXT


class Example(NamedTuple):
    """A prompt with its answer."""

    name: str
    question: str
    text: str
    target: str
    wrong: str


EXAMPLES = (
    Example("black cat", "Which colour is the cat?", SEED_TEXT, "", ""),
    Example(
        "two colours",
        "Which of two colours belongs to the cat?",
        "I love the color black, I hope someday to have a cat like that. I love the color red, "
        "I hope someday to have a car like that. The cat is",
        " black",
        " red",
    ),
    Example(
        "indirect object",
        "To whom was it given?",
        "When Mary and John went to the store, John gave a drink to",
        " Mary",
        " John",
    ),
    Example(
        "repeated words",
        "What followed the same word before?",
        "tree lamp boat horse tree lamp boat",
        " horse",
        " tree",
    ),
)
