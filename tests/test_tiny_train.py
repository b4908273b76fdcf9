"""A seconds-long training run: it learns, resumes exactly, and exports what others can load."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from transformers import GPT2LMHeadModel

from interp.model.gpt2 import HookedGPT2
from interp.tiny.batches import make_batch
from interp.tiny.card import export
from interp.tiny.evaluate import accuracy, all_heads, seed_sentence_cuts
from interp.tiny.language import WORDS, held_out_examples
from interp.tiny.tokenizer import build_tokenizer
from interp.tiny.train import (
    CHECKPOINT,
    LOG,
    Settings,
    learning_rate_factor,
    new_model,
    row_length,
    train,
)

SMALL = Settings(
    steps=100,
    n_layers=2,
    n_heads=2,
    d_model=32,
    learning_rate=2e-2,
    warm_up=5,
    tokens_per_step=640,
    short_steps=100,
    save_every=50,
    evaluate_every=100,
    evaluation_prompts=5,
)
FEW_STEPS = replace(SMALL, steps=6, short_steps=2, save_every=3, evaluate_every=3)
LOSS_FALLS_BY = 2.0
"""Factor between the loss of an untrained model (log of the vocabulary size) and the trained."""


def weights_of(model: HookedGPT2) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[HookedGPT2, list[dict]]:
    """The small model and its log."""
    folder = tmp_path_factory.mktemp("trained")
    model = train(folder, SMALL)
    return model, [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_the_loss_falls(trained):
    model, log = trained
    untrained = torch.tensor(model.cfg.d_vocab).log().item()
    assert log[-1]["loss"] < untrained / LOSS_FALLS_BY


def test_it_learns_that_a_later_year_follows(trained):
    model, _ = trained
    years = held_out_examples("greater_than", 100, seed=5)
    assert accuracy(new_model(SMALL), years) < 0.1
    assert accuracy(model, years) > 0.5


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    whole = train(tmp_path / "whole", FEW_STEPS)
    train(tmp_path / "parts", FEW_STEPS, stop_after=4)
    parts = train(tmp_path / "parts", FEW_STEPS, resume=True)
    for name, weight in weights_of(whole).items():
        assert torch.equal(weight, weights_of(parts)[name]), name


def test_a_run_killed_between_checkpoints_logs_each_step_once(tmp_path):
    train(tmp_path, FEW_STEPS, stop_after=4)
    with (tmp_path / LOG).open("a") as log:
        log.write('{"step": 5, "loss": 0.0}\n')
    train(tmp_path, FEW_STEPS, resume=True)
    steps = [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert steps == [3, 6]


def test_another_seed_gives_other_weights():
    one, again, other = (new_model(replace(FEW_STEPS, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one.embed.W_E, again.embed.W_E)
    assert not torch.equal(one.embed.W_E, other.embed.W_E)


def test_a_folder_with_a_checkpoint_is_not_overwritten(tmp_path):
    train(tmp_path, FEW_STEPS, stop_after=1)
    with pytest.raises(FileExistsError, match="Pass --resume, or choose another folder"):
        train(tmp_path, FEW_STEPS)


def test_other_settings_cannot_resume(tmp_path):
    train(tmp_path, FEW_STEPS, stop_after=1)
    with pytest.raises(ValueError, match="trained with other learning_rate, seed"):
        train(tmp_path, replace(FEW_STEPS, seed=1, learning_rate=0.1), resume=True)


def test_a_finished_checkpoint_leaves_no_partial_file(tmp_path):
    train(tmp_path, FEW_STEPS, stop_after=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, LOG]


def test_batches_follow_from_their_seed():
    tokenizer = build_tokenizer()
    first, again, other = (make_batch(tokenizer, seed, 4, 40) for seed in ("1", "1", "2"))
    assert torch.equal(first.tokens, again.tokens)
    assert (first.tokens != other.tokens).float().mean() > 0.7
    assert first.tokens.shape == (4, 41)


def test_most_rows_begin_with_the_end_of_text_token():
    batch = make_batch(build_tokenizer(), "0", 200, 8)
    assert 0.8 < (batch.tokens[:, 0] == 0).float().mean() < 0.97


def test_colours_after_a_thing_and_is_are_marked_as_answers():
    tokenizer = build_tokenizer()
    batch = make_batch(tokenizer, "0", 40, 80)
    pieces = [[tokenizer.id_to_token(token) for token in row] for row in batch.tokens.tolist()]
    things, colours = ({f"Ġ{word}" for word in WORDS[name]} for name in ("things", "colours"))
    marked = [
        bool(batch.is_answer[row, at])
        for row, tokens in enumerate(pieces)
        for at in range(2, len(tokens))
        if tokens[at - 2] in things and tokens[at - 1] == "Ġis" and tokens[at] in colours
    ]
    assert len(marked) > 10
    assert all(marked)


def test_rows_are_short_at_first_and_reach_every_position_later():
    settings = Settings()
    assert row_length(settings, 0) == settings.short_row
    later = {row_length(settings, step) for step in range(settings.short_steps, settings.steps)}
    assert later == {settings.row, settings.n_ctx}


def test_the_learning_rate_rises_then_falls():
    settings = Settings()
    factors = [learning_rate_factor(settings, step) for step in range(settings.steps)]
    peak = factors.index(max(factors))
    assert peak == settings.warm_up - 1
    assert factors[0] == pytest.approx(1 / settings.warm_up, rel=1e-3)
    assert factors[-1] == pytest.approx(0.05, rel=1e-3)


def test_the_exported_folder_gives_the_same_logits_in_transformers(trained, tmp_path):
    model, _ = trained
    export(model, asdict(SMALL), tmp_path, n_prompts=5)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "weights").eval()
    tokens = model.to_tokens("The cat is black.")
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=1e-4, rtol=0)
    assert "sha256" in (tmp_path / "CARD.md").read_text()


def test_cutting_all_heads_differs_from_cutting_one(trained):
    model, _ = trained
    uncut, *single, everywhere = seed_sentence_cuts(model)
    assert uncut.heads == ()
    assert [cut.heads for cut in single] == [((layer, head),) for layer, head in all_heads(model)]
    assert everywhere.attention == pytest.approx(sum(cut.attention for cut in single), abs=1e-5)
    assert len({cut.logit_diff for cut in (uncut, *single, everywhere)}) > 2
