"""The studies, run on the embedded model: what they find, and what they refuse."""

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import interp
from analyses import black_cat, generate, heads, induction, logit_lens, sqrt_dk
from interp import attention, load
from interp.errors import PromptError
from interp.metrics import logit_diff
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.saving import save_huggingface
from interp.model.tokens import visible
from interp.tiny.language import LIST_WORDS, WORDS


@pytest.fixture(scope="module")
def report():
    return black_cat.run(sentences=60)


def section(report, title):
    (found,) = [part for part in report.sections if part.title == title]
    return found


def test_the_head_is_chosen_by_effect_and_looks_at_black(report):
    best = section(report, "Which heads look, and which matter").table.iloc[0]
    assert best["rank"] == 1
    assert best.weight > 0.5
    assert best.effect < -2


def test_the_products_of_q_and_k_sum_to_the_score_before_scaling(report):
    products = section(report, "The question q and the key k").table
    scores = section(report, "The formula with its numbers").table
    assert (products["q"] * products["k"]).to_list() == pytest.approx(products["product"].to_list())
    assert products["product"].sum() / 32**0.5 == pytest.approx(scores["score"][5], rel=1e-4)


def test_the_formula_ends_in_the_models_own_pattern(report):
    part = section(report, "The formula with its numbers")
    assert part.table["softmax"].sum() == pytest.approx(1.0, abs=1e-6)
    assert part.table["share of output"].sum() == pytest.approx(1.0, abs=1e-5)
    assert "largest difference" in part.reading[-1]


def test_cutting_the_edge_matters_and_the_control_does_not(report):
    outcome = section(report, "Does it matter for this sentence?").table.set_index("condition")
    intact = outcome.loc["as is"]
    assert intact.probability > 0.95
    assert outcome.loc["edge cut in all heads"].logit_diff < 0.7 * intact.logit_diff
    assert outcome.loc["word swapped"].logit_diff < 0
    assert outcome.loc["control edge cut"].logit_diff > 0.9 * intact.logit_diff


def test_the_numbers_are_those_of_the_library(report):
    model = load()
    prompt = f"{black_cat.SENTENCE} The cat is"
    query, key = (model.find_word(black_cat.SENTENCE, word) for word in ("cat", "black"))
    swap = report.settings["swap"]
    metric = logit_diff(model.to_single_token(" black"), model.to_single_token(f" {swap}"))
    cut = attention.knockout(model, prompt, [(None, None, query, key)], metric)
    outcome = section(report, "Does it matter for this sentence?").table.set_index("condition")
    found = outcome.loc["edge cut in all heads"].logit_diff
    assert found == pytest.approx(float(cut["cut"][0]), abs=1e-4)


def test_over_many_sentences_the_interval_keeps_clear_of_the_control(report):
    table = section(report, "Does it hold in general?").table
    table = table[table["measure"] == "logit_diff"].set_index("condition")
    assert table.loc["edge cut in this head", "high"] < table.loc["control edge cut", "low"]
    assert table.loc["word swapped", "high"] < 0


def test_the_same_seed_gives_the_same_tables():
    first, second = (black_cat.run(sentences=5, seed=3) for _ in range(2))
    for one, other in zip(first.sections, second.sections, strict=True):
        assert one.table.equals(other.table)


def test_the_sentence_alone_can_be_asked_about():
    titles = [part.title for part in black_cat.run(sentences=0).sections]
    assert "Does it hold in general?" not in titles


def test_a_word_that_repeats_can_be_told_apart():
    text = "I love the color black, I hope someday to have a cat like a cat."
    report = black_cat.run(text, query_occurrence=0, sentences=0)
    assert report.settings["query"] == "cat"
    with pytest.raises(PromptError, match="appears 2 times"):
        black_cat.run(text, sentences=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "dog"}, "'dog' is not in the text"),
        ({"key": "hope"}, "not a colour we know"),
        ({"query": "black", "key": "cat", "swap": "dog"}, "never looks ahead"),
        ({"text": ""}, "text is empty"),
        ({"query": " "}, "word is empty"),
        ({"text": "a cat " * 90}, "appears 90 times, at positions .* and more. Say which"),
        ({"query": "dog", "text": "a black cat " * 90}, "not in the text: .* \\.\\.\\."),
        ({"sentences": 1}, "2 and more"),
        ({"swap": "black"}, "same token"),
        ({"swap": "antidisestablishmentarianism"}, "tokens"),
        ({"question": "and so on, " * 200}, "the model takes at most 256"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(arguments, message):
    with pytest.raises(ValueError, match=message):
        black_cat.run(**{"sentences": 0, **arguments})


def test_braces_in_a_question_are_text():
    report = black_cat.run(question="The {query} {is}", sentences=0)
    assert "The cat {is}" in report.question


def test_induction_heads_are_needed_for_copying():
    report = induction.run(n_sequences=16, n_tokens=12, top=3)
    scores = section(report, "Induction scores").table
    assert scores["induction"].is_monotonic_decreasing
    assert scores["induction"][0] > 0.5
    effects = section(report, "Does the copying depend on them?").table.set_index("condition")
    together, control = effects.loc["without the top 3"], effects.iloc[-1]
    assert together.low > max(0, control.high)


def test_more_heads_than_there_are_cannot_be_ablated():
    with pytest.raises(PromptError, match="top must be 1 to 8"):
        induction.run(top=9)


@pytest.fixture(scope="module")
def catalogue():
    return heads.run(n_sequences=16)


def test_every_head_is_listed_with_the_librarys_scores(catalogue):
    table = section(catalogue, "All heads").table
    model = load()
    words = [model.to_single_token(f" {word}") for word in LIST_WORDS]
    scores = interp.heads.scores(model, words, n_tokens=30, n_sequences=16)
    assert len(table) == 16
    for kind in interp.heads.KINDS:
        assert table[kind].to_list() == scores.sel(kind=kind).values.flatten().tolist()


def test_the_induction_circuit_is_found_in_scores_weights_and_tokens(catalogue):
    leaders = section(catalogue, "The first heads of each kind").table
    first = leaders[leaders["rank"] == 1].set_index("kind")
    assert first.loc["induction", ["layer", "head"]].to_list() == [2, 3]
    assert first.loc["ov_copying", ["layer", "head"]].to_list() == [2, 3]
    assert first.loc["previous_token", ["layer", "head"]].to_list() == [0, 0]
    assert "The prediction holds." in section(catalogue, "Which heads listen to which").reading[-1]
    written = section(catalogue, "What they write (OV)")
    assert "L2H3 5 of 5" in written.reading[-1]
    looked_for = section(catalogue, "What they look for (QK)").table
    keys = looked_for.loc[looked_for["head"] == "L1H2", "key_token"]
    assert len(keys) == 5
    assert set(keys) <= {f"·{colour}" for colour in WORDS["colours"]}


def test_compositions_are_the_highest_of_each_kind(catalogue):
    table = section(catalogue, "Which heads listen to which").table
    scores = interp.head_circuits.composition_scores(load())
    for kind, rows in table.groupby("kind"):
        assert rows["score"].is_monotonic_decreasing
        assert rows["score"].iloc[0] == pytest.approx(float(scores.sel(kind=kind).max()))
    ratio = table["score"] / table["times_baseline"]
    assert ratio.to_list() == pytest.approx([scores.attrs["baseline"]] * len(table))


@pytest.mark.parametrize(
    ("sender", "induction_and_copying", "k", "expected"),
    [
        ((0, 1), (0.9, 0.9), 0.4, "rank 1 of 2 earlier heads.*The prediction holds"),
        ((0, 1), (0.9, 0.9), 0.1, "rank 2 of 2 earlier heads.*does not hold"),
        ((0, 1), (0.2, 0.9), 0.4, "does not hold"),
        ((0, 1), (0.9, 0.2), 0.4, "does not hold"),
        ((1, 1), (0.9, 0.9), 0.4, "does not stand before"),
    ],
)
def test_the_verdict_on_the_induction_circuit_follows_the_numbers(
    sender, induction_and_copying, k, expected
):
    scores = xr.DataArray(
        np.broadcast_to(np.array(induction_and_copying)[:, None, None], (2, 2, 2)),
        {"kind": ["induction", "ov_copying"], "layer": [0, 1], "head": [0, 1]},
        ("kind", "layer", "head"),
    )
    into = xr.DataArray(
        np.full((3, 2, 2), 0.2),
        {"kind": ["Q", "K", "V"], "sender_layer": [0, 1], "sender_head": [0, 1]},
        ("kind", "sender_layer", "sender_head"),
    )
    into.loc[{"sender_layer": 1}] = np.nan
    into.loc[{"kind": "K", "sender_layer": 0, "sender_head": 1}] = k
    reading = heads.circuit_reading(into, scores, sender, (1, 0), baseline=0.2)
    assert re.search(expected, reading)


def test_a_classifier_of_one_layer_has_a_catalogue_without_writing_and_listening(tmp_path):
    tokenizer = load().tokenizer
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_mlp": 8, "n_ctx": 64, "n_classes": 2}
    cfg = ModelConfig(**sizes, d_vocab=load().cfg.d_vocab)
    save_huggingface(HookedGPT2(cfg, tokenizer), tmp_path / "model")
    report = heads.run(str(tmp_path / "model"), n_sequences=2)
    titles = {part.title for part in report.sections}
    assert not titles & {"Which heads listen to which", "What they write (OV)"}
    assert "ov_copying" not in set(section(report, "The first heads of each kind").table["kind"])
    assert len(section(report, "All heads").charts) == len(interp.heads.KINDS) - 1
    page = report.write(tmp_path / "report", command="interp run heads")
    assert (page.parent / "all_heads.csv").is_file()


def test_a_catalogue_lists_at_least_one_head_and_pair():
    with pytest.raises(PromptError, match="1 or more, got 0 and 5"):
        heads.run(top=0)


@pytest.fixture(scope="module")
def lens():
    return logit_lens.run(n_prompts=20)


def test_the_answer_appears_in_the_last_layer(lens):
    one = section(lens, "One prompt, layer by layer")
    assert one.table["rank of the answer"].iloc[[0, -1]].to_list() == [11, 1]
    assert "is first from L3 mid on" in one.reading[1]
    every = section(lens, "All prompts, layer by layer").table.set_index("condition")
    assert every.loc["L3 post", "first in"] == 1
    assert every.loc["L2 post", "high"] < 0.1 < every.loc["L3 mid", "low"]


def test_the_parts_add_up_to_the_logit_difference(lens):
    model, pairs = load(), interp.prompts.colour_binding(load(), 20, seed=0)
    parts = section(lens, "What each part writes").table.set_index("component")
    logits = model(model.to_batch(pairs.clean), positions="last")
    expected = float(pairs.metric(model)(logits).mean())
    assert parts["mean"].sum() == pytest.approx(expected, abs=1e-4)
    heads_write = parts["mean"][parts["kind"] == "head"].sum()
    by_place = section(lens, "Where the heads read it").table
    assert by_place["mean"].sum() == pytest.approx(heads_write, abs=1e-4)
    assert by_place["condition"][by_place["mean"].idxmax()] == "thing"


def test_the_head_that_writes_is_not_the_one_that_is_needed(lens):
    part = section(lens, "Is what writes what is needed?")
    table = part.table.set_index(["layer", "head"])
    assert table["writes"].idxmax() == (3, 1)
    assert table["lost without it"].idxmax() == (1, 2)
    assert "works through later layers" in part.reading[-1]
    model, pairs = load(), interp.prompts.colour_binding(load(), 20, seed=0)
    metric = pairs.metric(model)
    without = model.run_with_hooks(
        pairs.clean, interp.ablation.zero_heads([(1, 2)]), positions="last"
    )
    intact = model(model.to_batch(pairs.clean), positions="last")
    lost = float((metric(intact) - metric(without)).mean())
    assert table.loc[(1, 2), "lost without it"] == pytest.approx(lost, abs=1e-4)


def test_one_head_can_be_both():
    table = pd.DataFrame(
        {"layer": [0, 1], "head": [0, 0], "writes": [1.0, 2.0], "lost without it": [0.0, 3.0]}
    )
    reading = logit_lens.ablation_section(table).reading
    assert "also the one the answer depends on most" in reading[-1]
    assert "L1H0 writes most (+2.00; without it +3.00 are lost)" in reading[1]


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([5, 1, 1], "first from L1 on"),
        ([1, 3, 1], "first from L2 on"),
        ([1, 1, 1], "first from L0 on"),
        ([1, 1, 4], "not the model's answer here: it ends at rank 4"),
    ],
)
def test_the_answer_is_first_from_where_it_stays_first(ranks, expected):
    table = pd.DataFrame({"layer": ["L0", "L1", "L2"], "rank of the answer": ranks})
    assert expected in logit_lens.first_place(table)


@pytest.mark.parametrize("study", ["ioi", "induction"])
def test_other_answers_can_be_followed(study):
    report = logit_lens.run(study=study, n_prompts=2)
    assert report.settings["study"] == study
    assert len(report.sections) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"study": "poetry"}, "choose from colour_binding, ioi, induction"),
        ({"n_prompts": 1}, "2 or more prompts, got 1"),
    ],
)
def test_a_lens_needs_a_study_and_prompts(arguments, message):
    with pytest.raises(PromptError, match=message):
        logit_lens.run(**arguments)


def test_score_variance_grows_with_d_k_only_without_the_factor():
    report = sqrt_dk.run(steps=0)
    table = report.sections[0].table
    assert sqrt_dk.slope(table, "score variance", "without") == pytest.approx(1.0, abs=0.2)
    assert sqrt_dk.slope(table, "score variance", "with 1/√d_k") == pytest.approx(0.0, abs=0.2)
    assert "support the claim" in report.sections[0].reading[-1]


def test_training_learns_what_can_be_learned():
    curve = sqrt_dk.train(64, True, steps=25, seed=0)
    assert curve["loss"].iloc[-1] < 0.7 * curve["loss"].iloc[0]
    assert np.isfinite(curve["loss"]).all()


def test_each_new_word_shows_what_its_choice_looked_at():
    report = generate.run(max_new_tokens=4, layer=1, head=2, temperature=0.0)
    table = report.sections[0].table
    model = load()
    tokens = model.generate(model.to_tokens(report.settings["text"]), 4, temperature=0.0)
    _, cache = model.run_with_cache(tokens)
    for row in table.itertuples():
        attention_row = cache["pattern", 1][0, 2, row.position - 1, : row.position]
        assert table["first token gets"][row.Index] == pytest.approx(
            float(attention_row[0]), abs=1e-6
        )
        key = int(attention_row[1:].argmax()) + 1
        piece = visible(model.to_str_tokens(tokens[0])[key])
        shown = table["looks at"][row.Index].split(" | ")[0]
        assert shown == f"{piece} {float(attention_row[key]):.2f}"
    probabilities = model(tokens)[0].softmax(dim=-1)
    position = int(table["position"][3])
    expected = float(probabilities[position - 1, tokens[0, position]])
    assert table["probability"][3] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 1}, "Give both"),
        ({"layer": 4, "head": 0}, "no layer 4"),
        ({"max_new_tokens": 0}, "Nothing was generated"),
        ({"max_new_tokens": 500}, "Ask for at most"),
    ],
)
def test_generation_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(PromptError, match=message):
        generate.run(**arguments)
