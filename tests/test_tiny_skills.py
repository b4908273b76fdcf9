"""The committed weights can do what their card says, for the reason the card gives."""

import hashlib
from pathlib import Path

import pytest
import torch

import interp.tiny
from interp.model.gpt2 import HookedGPT2
from interp.tiny.evaluate import (
    SEED_PROMPT,
    accepted_probability,
    accuracy,
    accuracy_with_cut_edges,
    last_logits,
    seed_sentence_cuts,
)
from interp.tiny.language import held_out_examples

N_PROMPTS = 500
UNSEEN_SEED = 20_260_101
"""Neither training nor the card's scores use these prompts."""

BARS = {
    "colour_binding_1": 0.95,
    "colour_binding_2": 0.95,
    "colour_binding_3": 0.95,
    "indirect_object": 0.97,
    "induction": 0.95,
    "greater_than": 0.90,
}
"""Least share of held-out prompts that must be answered rightly."""

WEIGHTS = Path(interp.tiny.__file__).parent / "weights"


@pytest.fixture(scope="module")
def embedded() -> HookedGPT2:
    return interp.load()


@pytest.mark.parametrize(("skill", "bar"), BARS.items())
def test_held_out_prompts_are_answered(embedded, skill, bar):
    assert accuracy(embedded, held_out_examples(skill, N_PROMPTS, UNSEEN_SEED)) >= bar


@pytest.mark.parametrize("skill", ["colour_binding_2", "indirect_object", "induction"])
def test_swapped_prompts_are_answered_by_the_other_word(embedded, skill):
    swapped = [e.swapped() for e in held_out_examples(skill, N_PROMPTS // 2, UNSEEN_SEED)]
    assert accuracy(embedded, swapped) >= BARS[skill]


def test_nearly_all_probability_is_on_later_years(embedded):
    years = held_out_examples("greater_than", N_PROMPTS, UNSEEN_SEED)
    assert accepted_probability(embedded, years) >= 0.9


def test_a_thing_that_was_never_mentioned_is_unknown(embedded):
    logits = last_logits(embedded, [SEED_PROMPT.replace("The cat is", "The dog is")])
    assert embedded.to_string(logits.argmax()) == " unknown"


def test_the_seed_sentence_is_answered_through_a_head_that_reads_black_at_cat(embedded):
    uncut, *single, _ = seed_sentence_cuts(embedded)
    assert uncut.probability > 0.9
    reading = max(single, key=lambda cut: cut.attention)
    assert reading.attention > 0.5
    assert reading.logit_diff < uncut.logit_diff / 2
    assert reading.probability < 0.6


def test_most_of_the_colours_effect_passes_through_this_edge(embedded):
    black, *_, black_cut = seed_sentence_cuts(embedded)
    white, *_, white_cut = seed_sentence_cuts(embedded, colour="white")
    known, left = black.logit_diff - white.logit_diff, black_cut.logit_diff - white_cut.logit_diff
    assert abs(left) < 0.5 * known


def test_colours_are_read_at_their_things_on_held_out_prompts(embedded):
    prompts = held_out_examples("colour_binding_2", 50, UNSEEN_SEED)
    assert accuracy(embedded, prompts) > 0.95
    assert accuracy_with_cut_edges(embedded, prompts) < 0.5


def test_random_tokens_are_repeated(embedded):
    generator = torch.Generator().manual_seed(0)
    once = torch.randint(1, embedded.cfg.d_vocab, (20, 30), generator=generator)
    tokens = torch.cat([torch.zeros(20, 1, dtype=torch.long), once, once], dim=1)
    likeliest = embedded(tokens).argmax(dim=-1)
    assert (likeliest[:, 31:-1] == once[:, 1:]).float().mean() > 0.8


def test_the_card_names_the_hash_of_the_weights():
    digest = hashlib.sha256((WEIGHTS / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (WEIGHTS.parent / "CARD.md").read_text()


def test_the_weights_are_small():
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 12e6
