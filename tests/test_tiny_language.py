"""The embedded model's language: true answers, held-out combinations, one token per word."""

import re
import subprocess
import sys
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.tiny.language import (
    SKILLS,
    WORDS,
    Document,
    Example,
    held_out_examples,
    is_held_out,
    training_documents,
)
from interp.tiny.lexicon import LIST_OPENINGS, LIST_WORDS, SEED_SENTENCE, UNKNOWN, WISHES
from interp.tiny.tokenizer import build_tokenizer, vocabulary_words

TOKENIZER = build_tokenizer()
N_DOCUMENTS = 1000
N_EXAMPLES = 60

Combinations = set[tuple[str, str]]


def words_of(category: str, text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if word in WORDS[category]]


def coloured_things(document: Document) -> Combinations:
    """(colour, thing) of each answered question, read from the text alone."""
    found = set()
    for begin in document.answers:
        answer = document.text[begin:].split()[0].strip(".")
        if answer in WORDS["colours"] and not document.text.startswith(LIST_OPENINGS):
            found.add((answer, words_of("things", document.text[:begin])[-1]))
    return found


def giving_people(document: Document) -> Combinations:
    found = set()
    for begin in document.answers:
        if document.text[:begin].endswith(" to"):
            receiver = document.text[begin:].split()[0].strip(".")
            giver = words_of("names", document.text[:begin])[-1]
            found.add((min(giver, receiver), max(giver, receiver)))
    return found


def listed_neighbours(document: Document) -> Combinations:
    if not document.text.startswith(LIST_OPENINGS):
        return set()
    words = [word for word in re.findall(r"\w+", document.text) if word in LIST_WORDS]
    half = words[: len(words) // 2]
    return set(pairwise(half))


def start_years(document: Document) -> Combinations:
    return {(year[:2], year[2:]) for year in re.findall(r"\d{4}(?= (?:to|and))", document.text)}


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(islice(training_documents(0), N_DOCUMENTS))


@pytest.fixture(scope="module", params=sorted(SKILLS))
def examples(request: pytest.FixtureRequest) -> list[Example]:
    return held_out_examples(request.param, N_EXAMPLES, seed=0)


@pytest.mark.parametrize(
    "combinations", [coloured_things, giving_people, listed_neighbours, start_years]
)
def test_training_never_sees_a_held_out_combination(documents, combinations):
    seen = set().union(*map(combinations, documents))
    assert len(seen) > 100
    assert not [pair for pair in seen if is_held_out(*pair)]


def test_held_out_examples_only_have_held_out_combinations():
    for colours in held_out_examples("colour_binding_1", N_EXAMPLES, seed=0):
        assert is_held_out(colours.answer.strip(), colours.query_word.strip())
    for people in held_out_examples("indirect_object", N_EXAMPLES, seed=0):
        assert is_held_out(*sorted((people.answer.strip(), people.wrong.strip())))
    for listed in held_out_examples("induction", N_EXAMPLES, seed=0):
        assert is_held_out(listed.query_word.strip(), listed.answer.strip())
    for years in held_out_examples("greater_than", N_EXAMPLES, seed=0):
        assert is_held_out(years.text[-2:], years.key_word)


def test_about_a_tenth_of_the_coloured_things_is_held_out():
    pairs = [(colour, thing) for colour in WORDS["colours"] for thing in WORDS["things"]]
    assert 0.05 < sum(is_held_out(*pair) for pair in pairs) / len(pairs) < 0.15
    assert is_held_out("black", "cat")


def test_the_answer_of_a_colour_question_is_the_colour_named_before_its_thing():
    for example in held_out_examples("colour_binding", N_EXAMPLES, seed=0):
        before = example.text.split(example.query_word)[0]
        assert words_of("colours", before)[-1] == example.answer.strip()


def test_a_thing_without_a_colour_is_unknown(documents):
    asked = [document for document in documents if UNKNOWN in document.text]
    assert len(asked) > 50
    for document in asked:
        question = document.text.split(f" {UNKNOWN}")[0]
        thing = words_of("things", question)[-1]
        told = [sentence for sentence in document.text.split(".") if f"a {thing}" in sentence]
        assert not words_of("colours", " ".join(told))


def test_the_receiver_is_the_other_of_the_two_people():
    for example in held_out_examples("indirect_object", N_EXAMPLES, seed=0):
        names = words_of("names", example.text)
        assert names[-1] == example.wrong.strip()
        assert set(names) == {example.wrong.strip(), example.answer.strip()}


def test_nobody_receives_a_gift_from_themselves(documents):
    pairs = set().union(*map(giving_people, documents))
    assert all(giver != receiver for giver, receiver in pairs)


def test_both_orders_of_the_two_people_occur():
    examples = held_out_examples("indirect_object", N_EXAMPLES, seed=0)
    first_is_giver = [words_of("names", e.text)[0] == e.wrong.strip() for e in examples]
    assert 0.2 < sum(first_is_giver) / N_EXAMPLES < 0.8


def test_a_list_goes_on_as_before():
    for example in held_out_examples("induction", N_EXAMPLES, seed=0):
        assert example.text.count(example.query_word) == 2
        assert example.text.split(example.query_word)[1].startswith(example.answer)


def test_accepted_years_are_the_later_ones():
    example = held_out_examples("greater_than", 1, seed=0)[0]
    assert min(example.accepted) == f"{int(example.key_word) + 1:02d}"
    assert max(example.accepted) == "99"
    assert example.answer in example.accepted
    assert example.wrong not in example.accepted


def test_all_named_words_are_single_tokens_and_in_the_prompt(examples):
    for example in examples:
        for word in (example.answer, example.wrong, example.query_word, example.key_word):
            assert len(TOKENIZER.encode(word).ids) == 1, word
        assert example.query_word.strip() in example.text
        assert example.key_word.strip() in example.text


def test_the_answer_is_one_token_where_the_prompt_ends(examples):
    for example in examples:
        prompt = TOKENIZER.encode(example.text).ids
        assert TOKENIZER.encode(example.text + example.answer).ids[:-1] == prompt


def test_swapping_keeps_the_length_and_swapping_twice_gives_the_example_back(examples):
    for example in examples:
        swapped = example.swapped()
        lengths = [len(TOKENIZER.encode(text).ids) for text in (example.text, swapped.text)]
        assert lengths[0] == lengths[1]
        assert swapped.text != example.text
        assert swapped.query_word.strip() in swapped.text
        assert swapped.key_word.strip() in swapped.text
        assert swapped.swapped() == example


def test_a_swapped_colour_question_has_the_other_colour_as_its_answer():
    for example in held_out_examples("colour_binding_2", N_EXAMPLES, seed=0):
        swapped = example.swapped()
        before = swapped.text.split(swapped.query_word)[0]
        assert words_of("colours", before)[-1] == swapped.answer.strip() == example.wrong.strip()


def test_equal_seeds_give_equal_texts_and_other_seeds_others():
    first, again, other = (list(islice(training_documents(seed), 20)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert held_out_examples("induction", 5, 1) == held_out_examples("induction", 5, 1)
    assert held_out_examples("induction", 5, 1) != held_out_examples("induction", 5, 2)


def test_marked_answers_begin_at_token_borders(documents):
    for document in documents[:200]:
        begins = {begin for begin, _ in TOKENIZER.encode(document.text).offsets}
        assert begins.issuperset(document.answers)
        assert "|" not in document.text


def test_the_seed_sentence_is_one_of_the_frames():
    filled = [frame.format_map(Blanks(tail=" like that")) for frame in WISHES]
    assert SEED_SENTENCE in filled


class Blanks(dict):
    """The seed sentence's words; other fields stay empty."""

    def __missing__(self, field: str) -> str:
        return {"colour": "black", "thing": "cat"}.get(field, "")


def test_an_unknown_skill_names_the_known_ones():
    with pytest.raises(
        ValueError, match=r"Unknown skill 'arithmetic'.*colour_binding, .*induction"
    ):
        held_out_examples("arithmetic", 1, seed=0)


def test_every_word_after_a_space_is_one_token():
    for word in vocabulary_words() | set(WORDS["names"]):
        assert TOKENIZER.encode(f" {word}").tokens == [f"Ġ{word}"]


def test_years_are_a_century_and_a_pair_of_digits():
    assert TOKENIZER.encode("the year 1732 to").tokens == [
        "t",
        "h",
        "e",
        "Ġyear",
        "Ġ17",
        "32",
        "Ġto",
    ]


def test_the_end_of_text_token_is_0():
    assert TOKENIZER.encode("<|endoftext|> cat").ids[0] == 0


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False).ids) == text


def test_the_language_needs_no_torch():
    command = "import sys, interp.tiny.language; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
