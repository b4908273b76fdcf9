"""The study of published numbers, with a stand-in table: those of the embedded model's card."""

import json
from functools import partial

import pandas as pd
import pytest

import interp
from analyses import reproduce
from interp.errors import ConfigError, OfflineError, PromptError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.saving import save_huggingface
from interp.published import FACTS, NOT_REPRODUCED, Fact, Measured, Subject, within
from interp.published.facts import AT_LEAST, EXACTLY
from interp.published.other_studies import later_minus_earlier
from interp.published.single_prompts import answer_over_wrong, equal_sizes, next_token_probability
from tests.english import english_tokenizer

SEED_SENTENCE = "I love the color black, I hope someday to have a cat like that. The cat is"
CARD = "interp/tiny/weights/CARD.md"
STAND_IN = (
    Fact(
        "card.sizes", "A", "sizes as published", 5, EXACTLY, "of 5", CARD,
        partial(equal_sizes, published=(4, 4, 128, 256, 1249)),
    ),
    Fact(
        "card.black", "A", "logit difference black - white", 17.33, within(0.01), "logits", CARD,
        partial(answer_over_wrong, prompt=SEED_SENTENCE, answer=" black", wrong=" white"),
    ),
    Fact(
        "wrong.black", "A", "the same, with a number that is wrong", 18.0, within(0.01), "logits",
        "nobody",
        partial(answer_over_wrong, prompt=SEED_SENTENCE, answer=" black", wrong=" white"),
    ),
    Fact(
        "card.years", "B", "later years minus others", 0.87, within(0.05), "probability", CARD,
        later_minus_earlier,
    ),
    Fact(
        "card.pronoun", "C", "a word that is not one token here", 0.5, AT_LEAST, "probability",
        "nobody", partial(next_token_probability, prompt=SEED_SENTENCE, token=" hers"),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def report():
    return reproduce.report_on(Subject(interp.load(), n=30), STAND_IN)


def section(report, title):
    (found,) = [part for part in report.sections if part.title.startswith(title)]
    return found


def test_the_report_says_how_many_are_reproduced(report):
    assert report.question == (
        "3 of 5 reproduced, 1 outside the tolerance, 1 not measured, with tiny."
    )
    counts = section(report, "How many").table.set_index("class")
    assert counts.loc["A: deterministic numbers"].to_list() == [3, 2, 1, 0]
    assert counts.loc["B: means over prompts"].to_list() == [1, 1, 0, 0]
    assert counts.loc["C: orders and signs"].to_list() == [1, 0, 0, 1]


def test_each_row_sets_published_and_measured_side_by_side(report):
    rows = section(report, "A:").table.set_index("claim")
    black = rows.loc["logit difference black - white"]
    assert black["published"] == 17.33
    assert black["measured"] == pytest.approx(17.33, abs=0.01)
    assert (black["tolerance"], black["unit"], black["result"]) == ("± 0.01", "logits", "✓ pass")
    assert rows["result"].to_list() == ["✓ pass", "✓ pass", "✗ fail"]


def test_every_fact_has_its_source_and_difference(report):
    rows = section(report, "Sources").table.set_index("fact")
    assert rows.index.to_list() == [fact.name for fact in STAND_IN]
    assert rows.loc["card.black", "source"] == CARD
    assert rows.loc["card.sizes", "details"] == "4 4 128 256 1249"
    difference = rows["measured - published"]
    assert difference["wrong.black"] == pytest.approx(17.33 - 18, abs=0.01)
    assert pd.isna(difference["card.pronoun"])


def test_what_fails_and_what_cannot_be_measured_is_said_in_words(report):
    assert section(report, "A:").reading == (
        "2 of 3 reproduced, 1 outside the tolerance.",
        "✗ fail: the same, with a number that is wrong, 17.33, not 18 ± 0.01.",
    )
    part = section(report, "C:")
    assert pd.isna(part.table["measured"][0])
    assert part.table["result"].to_list() == ["– not measured"]
    assert "' hers' is 4 tokens" in part.reading[1]


def test_what_is_left_out_is_listed_with_reasons(report):
    left_out = section(report, "Not reproducible from here").table
    assert left_out.set_index("number")["reason"].to_dict() == NOT_REPRODUCED


def test_a_wrong_measurement_does_not_hide_a_programming_error():
    broken = Fact("broken", "A", "", 0, EXACTLY, "", "", lambda _: Measured([][0]))
    with pytest.raises(IndexError):
        reproduce.report_on(Subject(interp.load()), [broken])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model in which every prompt set can be written, as a folder to load."""
    tokenizer = english_tokenizer()
    cfg = ModelConfig(
        n_layers=12, n_heads=12, d_model=24, d_mlp=48, n_ctx=64, d_vocab=len(tokenizer)
    )
    path = tmp_path_factory.mktemp("models") / "standin"
    save_huggingface(HookedGPT2(cfg, tokenizer, seed=0), path)
    return path


def test_classes_are_chosen_by_letters_in_any_case():
    assert reproduce.chosen_classes("a, C") == ["A", "C"]


def test_a_folder_is_measured_with_the_facts_of_the_chosen_class(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce, "GPT2_SMALL", (12, 12, 24, 64, len(english_tokenizer())))
    report = reproduce.run(str(folder), classes="a", n=4, seed=5)
    assert len(report.sections) == 4  # how many, class A, sources, what is left out
    facts = section(report, "Sources").table["fact"].to_list()
    assert facts == [fact.name for fact in FACTS if fact.kind == "A"]
    assert report.question.endswith("with standin.")
    settings = json.loads(
        (report.write(tmp_path, command="test").parent / "run.json").read_text("utf-8")
    )["settings"]
    assert (settings["classes"], settings["n"], settings["seed"]) == ("A", 4, 5)


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others():
    first, again, other = (
        reproduce.report_on(Subject(interp.load(), n=5, seed=seed), STAND_IN[3:4])
        for seed in (1, 1, 2)
    )
    tables = [section(found, "B:").table for found in (first, again, other)]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_without_the_weights_it_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OfflineError, match=r"fetches them once .* --model FOLDER") as refusal:
        reproduce.run()
    assert "HF_HUB_OFFLINE forbids the network" in str(refusal.value)
    assert refusal.value.exit_code == 3


def test_a_model_of_another_shape_is_refused_before_anything_is_measured():
    with pytest.raises(ConfigError, match=r"12 layers, 12 heads.*'tiny' has 4 layers, 4 heads"):
        reproduce.run("tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": "A,D"}, "classes is 'A,D'"),
        ({"classes": ""}, "classes is ''"),
        ({"n": 1}, "2 or more prompts, got 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(PromptError, match=message):
        reproduce.run("tiny", **arguments)


def test_the_measured_model_is_named_by_its_hash(report):
    assert report.settings["model_hash"] == interp.model_hash(interp.load())
