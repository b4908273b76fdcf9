"""Ablations against plain hooked runs that put the replacement in place by hand."""

import numpy as np
import pytest
import torch

from interp import ablation, metrics
from interp.ablation import zero_heads
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import block_name
from tests.comparison import assert_close

TEXTS = ["The cat is black.", "I love the color black, I hope", "I love the cat"]
REFERENCE = ["When Mary and John went to the store", "I hope someday to have a cat like that"]
TOLERANCE = 1e-4


def test_zeroing_heads_removes_exactly_their_part_of_the_output(random_gpt2):
    tokens = torch.tensor([[3, 7, 5, 2, 8]])
    heads = [(1, 0), (1, 3)]
    _, cache = random_gpt2.run_with_cache(tokens)
    parts = [cache["z", layer][:, :, head] @ random_gpt2.W_O[layer, head] for layer, head in heads]
    expected = cache["attn_out", 1] - sum(parts)

    with random_gpt2.hooks(zero_heads(heads)):
        _, ablated = random_gpt2.run_with_cache(tokens)

    assert_close(ablated["attn_out", 1], expected)
    assert torch.equal(ablated["attn_out", 0], cache["attn_out", 0])


def test_no_heads_change_nothing(random_gpt2):
    tokens = torch.tensor([[3, 7, 5]])
    assert torch.equal(random_gpt2.run_with_hooks(tokens, zero_heads([])), random_gpt2(tokens))


def replacement(model: HookedGPT2, kind: str, name: str) -> torch.Tensor:
    """What each kind puts in place for TEXTS, from REFERENCE, written out position by position."""
    batch, reference = model.as_batch(TEXTS), model.as_batch(REFERENCE)
    value = model.run_with_cache(TEXTS)[1][name]
    other = model.run_with_cache(REFERENCE)[1][name]
    real = [(r, p) for r, n in enumerate(reference.lengths.tolist()) for p in range(n)]
    replaced = torch.zeros_like(value)
    for example, length in enumerate(batch.lengths.tolist()):
        for position in range(length):
            same = [other[r, p] for r, p in real if p == position]
            if kind == "mean":
                replaced[example, position] = torch.stack([other[r, p] for r, p in real]).mean(0)
            elif kind == "positional mean":
                replaced[example, position] = torch.stack(same).mean(0)
    return replaced


@pytest.mark.parametrize("kind", ["zero", "mean", "positional mean"])
@pytest.mark.parametrize("of", ["heads", "mlps"])
def test_ablations_equal_hooked_runs(random_gpt2: HookedGPT2, kind: str, of: str) -> None:
    metric = metrics.logit_diff([5, 6, 7], [9, 10, 11])
    given = None if kind == "zero" else REFERENCE
    dataset = ablation.sweep(random_gpt2, TEXTS, metric, kind, of=of, reference=given)
    original = metric(random_gpt2(TEXTS, positions="last"))
    assert_close(torch.tensor(dataset["original"].values), original)
    for layer in range(3):
        name = block_name(layer, "attn.hook_z" if of == "heads" else "hook_mlp_out")
        new = replacement(random_gpt2, kind, name)
        for head in range(4) if of == "heads" else [None]:
            where = (slice(None), slice(None), *([] if head is None else [head]))

            def put(value, hook, where=where, new=new):
                value[where] = new[where]

            logits = random_gpt2.run_with_hooks(TEXTS, [(name, put)], positions="last")
            cell = dataset.sel(layer=layer) if head is None else dataset.sel(layer=layer, head=head)
            measured = torch.tensor(cell["ablated"].values)
            assert (measured - metric(logits)).abs().max() < TOLERANCE
            effect = torch.tensor(cell["effect"].values)
            assert (effect - (metric(logits) - original)).abs().max() < TOLERANCE


def test_resampling_takes_the_values_of_one_other_prompt(random_gpt2: HookedGPT2) -> None:
    metric = metrics.logit(5)
    dataset = ablation.sweep(
        random_gpt2, TEXTS, metric, "resample", reference=REFERENCE[1:], seed=3
    )
    other = random_gpt2.run_with_cache(REFERENCE[1])[1]["z", 1]
    length = random_gpt2.as_batch(TEXTS).tokens.shape[1]

    def put(value, hook):
        value[:, :, 2] = other[:, :length, 2]

    logits = random_gpt2.run_with_hooks(TEXTS, [("blocks.1.attn.hook_z", put)], positions="last")
    measured = torch.tensor(dataset["ablated"].sel(layer=1, head=2).values)
    assert (measured - metric(logits)).abs().max() < TOLERANCE


def test_resampling_among_the_prompts_never_takes_a_prompt_for_itself(
    random_gpt2: HookedGPT2,
) -> None:
    texts = ["The cat is black.", "The cat is black!"]
    for seed in range(3):
        dataset = ablation.sweep(random_gpt2, texts, metrics.logit(5), "resample", seed=seed)
        assert float(abs(dataset["effect"].sel(layer=1)).max()) > 0


def test_positions_are_ablated_alone(random_gpt2: HookedGPT2) -> None:
    metric = metrics.logit(5)
    dataset = ablation.sweep(random_gpt2, TEXTS, metric, "zero", of="mlps", per_position=True)
    lengths = random_gpt2.as_batch(TEXTS).lengths

    def put(value, hook):
        value[:, 3] = 0

    logits = random_gpt2.run_with_hooks(TEXTS, [("blocks.0.hook_mlp_out", put)], positions="last")
    measured = torch.tensor(dataset["ablated"].sel(layer=0, pos=3).values)
    assert (measured - metric(logits)).abs().max() < TOLERANCE
    missing = torch.tensor(dataset["ablated"].sel(layer=0).values.T).isnan()
    assert torch.equal(missing.sum(dim=1), lengths.max() - lengths)


def test_groups_are_ablated_together(random_gpt2: HookedGPT2) -> None:
    metric = metrics.logit(5)
    groups = {"heads": [(0, 1), (2, 2)], "mixed": [(1, "mlp"), (1, 0)], "none": []}
    dataset = ablation.ablate_together(random_gpt2, TEXTS, groups, metric, "zero")
    logits = random_gpt2.run_with_hooks(TEXTS, zero_heads(groups["heads"]), positions="last")
    measured = torch.tensor(dataset["ablated"].sel(group="heads").values)
    assert (measured - metric(logits)).abs().max() < TOLERANCE

    def put(value, hook):
        value[:] = 0

    hooks = [*zero_heads([(1, 0)]), ("blocks.1.hook_mlp_out", put)]
    logits = random_gpt2.run_with_hooks(TEXTS, hooks, positions="last")
    measured = torch.tensor(dataset["ablated"].sel(group="mixed").values)
    assert (measured - metric(logits)).abs().max() < TOLERANCE
    assert float(abs(dataset["effect"].sel(group="none")).max()) == 0


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (TEXTS, {"kind": "half"}, "no ablation 'half'; use zero, mean, positional mean, resample"),
        (TEXTS, {"kind": "zero", "of": "neurons"}, "use 'heads' or 'mlps'"),
        (TEXTS, {"kind": "zero", "reference": REFERENCE}, "takes no reference"),
        (TEXTS[:1], {"kind": "positional mean"}, "of one prompt is itself"),
        (TEXTS, {"kind": "positional mean", "reference": ["I"]}, "the longest has 2"),
        (TEXTS, {"kind": "resample"}, r"No reference prompt other than itself has the \d+ tokens"),
    ],
)
def test_what_cannot_be_ablated_is_an_error(
    random_gpt2: HookedGPT2, texts: list[str], options: dict, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        ablation.sweep(random_gpt2, texts, metrics.logit(5), **options)


@pytest.mark.parametrize("kind", ["zero", "mean", "positional mean", "resample"])
def test_runs_of_ones_own_are_those_that_are_measured(random_gpt2: HookedGPT2, kind: str) -> None:
    metric = metrics.logit_diff([5], [9])
    options = {"reference": None if kind == "zero" else [*REFERENCE, TEXTS[0] * 2], "seed": 1}
    chosen = [(0, 1), (1, "mlp"), (1, 0), (2, "mlp"), (2, 3)]
    measured = ablation.ablate_together(
        random_gpt2, TEXTS, {"chosen": chosen}, metric, kind, **options
    )
    hooks = ablation.replacing_hooks(random_gpt2, TEXTS, chosen, kind, **options)
    own = metric(random_gpt2.run_with_hooks(TEXTS, hooks, positions="last"))
    assert (torch.tensor(measured["ablated"].sel(group="chosen").values) - own).abs().max() < (
        TOLERANCE
    )
    assert (own - metric(random_gpt2(TEXTS, positions="last"))).abs().max() > 100 * TOLERANCE


def test_hooks_of_no_component_change_nothing_and_unknown_ones_are_an_error(
    random_gpt2: HookedGPT2,
) -> None:
    assert ablation.replacing_hooks(random_gpt2, TEXTS, [], "zero") == []
    with pytest.raises(PromptError, match="is no head or MLP of this model"):
        ablation.replacing_hooks(random_gpt2, TEXTS, [(0, 9)], "zero")
    with pytest.raises(PromptError, match="no ablation 'half'"):
        ablation.replacing_hooks(random_gpt2, TEXTS, [(0, 1)], "half")


def test_interplay_is_what_the_sum_of_single_effects_does_not_explain(
    random_gpt2: HookedGPT2,
) -> None:
    metric = metrics.logit(5)
    chosen = [(0, 1), (1, "mlp"), (2, 2)]
    found = ablation.interplay(random_gpt2, TEXTS, chosen, metric, "zero")
    original = metric(random_gpt2(TEXTS, positions="last")).numpy()
    effects = []
    for group in [[own] for own in chosen] + [chosen]:
        hooks = ablation.replacing_hooks(random_gpt2, TEXTS, group, "zero")
        logits = random_gpt2.run_with_hooks(TEXTS, hooks, positions="last")
        effects.append(metric(logits).numpy() - original)
    assert found["component"].values.tolist() == ["L0H1", "L1MLP", "L2H2"]
    assert found["alone"].values == pytest.approx(np.stack(effects[:3]), abs=TOLERANCE)
    assert found["together"].values == pytest.approx(effects[3], abs=TOLERANCE)
    left = effects[3] - np.sum(effects[:3], axis=0)
    assert found["interplay"].values == pytest.approx(left, abs=TOLERANCE)
    assert found["sum"].values == pytest.approx(np.sum(effects[:3], axis=0), abs=TOLERANCE)
    assert abs(left).max() > 10 * TOLERANCE


def test_one_component_has_no_interplay_and_none_is_an_error(random_gpt2: HookedGPT2) -> None:
    found = ablation.interplay(random_gpt2, TEXTS, [(1, 0)], metrics.logit(5), "mean")
    assert float(abs(found["interplay"]).max()) == 0
    for wrong, message in (([], "got none"), ([(1, 0), (1, 0)], "got L1H0, L1H0")):
        with pytest.raises(PromptError, match=message):
            ablation.interplay(random_gpt2, TEXTS, wrong, metrics.logit(5), "zero")
