"""Sweeps: the causal facts that need no reference, and agreement with plain hooked runs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import interp
from interp import metrics, patching
from interp.base_run import Edit
from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, full_name
from interp.model.tokens import TokenBatch
from interp.pairs import TokenPairs, token_pairs
from interp.sites import SITES, STREAM_SITES
from interp.tiny.language import held_out_examples
from tests.plain_runs import plain_run, random_model

TOLERANCE = 1e-4
CLEAN = ["The cat is black.", "I love the color black, I hope"]
CORRUPTED = ["The cat is black!", "I hope the color black, I love"]


@pytest.fixture(scope="module")
def tiny() -> HookedGPT2:
    return interp.load()


@pytest.fixture(scope="module")
def binding(tiny: HookedGPT2) -> tuple[list[str], list[str], Metric]:
    """Colour questions, the same with the other colour, and what is asked."""
    examples = held_out_examples("colour_binding_1", 12, 0)
    same_length = [
        e for e in examples
        if len(tiny.to_str_tokens(e.text)) == len(tiny.to_str_tokens(e.swapped_text))
    ][:6]  # fmt: skip
    ids = [[tiny.to_single_token(x) for x in (e.answer, e.wrong)] for e in same_length]
    metric = metrics.logit_diff(*map(list, zip(*ids, strict=True)))
    return [e.text for e in same_length], [e.swapped_text for e in same_length], metric


@torch.no_grad()
def plain_cell(
    model: HookedGPT2, pairs: TokenPairs, site: str, metric: Metric, direction: str,
    positions: Sequence[int] | None, cell: Mapping[str, int],
) -> torch.Tensor:  # fmt: skip
    """One cell of a sweep by a hooked forward pass."""
    layer, head, position = cell["layer"], cell.get("head"), cell.get("pos")
    everywhere = list(positions or range(pairs.clean.tokens.shape[1]))
    _, cache = model.run_with_cache(pairs.source(direction), names_filter=full_name(site, layer))
    other = cache[site, layer]

    def replace(value: torch.Tensor, hook: Hook) -> None:
        chosen = everywhere if position is None else [position]
        if site == "pattern":
            value[:, head, chosen] = other[:, head, chosen]
        elif head is None:
            value[:, chosen] = other[:, chosen]
        else:
            value[:, chosen, head] = other[:, chosen, head]

    hooks = [(full_name(site, layer), replace)]
    return metric(model.run_with_hooks(pairs.base(direction), hooks, positions=metric.positions))


def assert_sweep_is_exact(
    model: HookedGPT2, pairs: TokenPairs, site: str, metric: Metric, direction: str,
    n_cells: int, **options: Any,
) -> None:  # fmt: skip
    """Compare up to `n_cells` cells, spread over the sweep, with plain runs."""
    dataset = patching.sweep(
        model, pairs.clean, pairs.corrupted, site, metric, direction, **options
    )
    axes = dataset["patched"].dims[:-1]
    cells = list(itertools.product(*(dataset[axis].values for axis in axes)))
    for values in cells[:: 1 + len(cells) // n_cells]:
        cell = {axis: int(value) for axis, value in zip(axes, values, strict=True)}
        expected = plain_cell(model, pairs, site, metric, direction, options.get("positions"), cell)
        measured = torch.tensor(dataset["patched"].sel(cell).values)
        inside = cell.get("pos", 0) < pairs.clean.lengths
        assert bool(measured[~inside].isnan().all())
        assert bool(((measured - expected)[inside].abs() < TOLERANCE).all()), cell


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(
    ("site", "per_position"),
    [*((site, False) for site in SITES), *((site, True) for site in "zqkv")],
)
def test_a_sweep_equals_one_hooked_forward_per_cell(
    random_gpt2: HookedGPT2, site: str, per_position: bool, direction: str
) -> None:
    pairs, metric = token_pairs(random_gpt2, CLEAN, CORRUPTED), metrics.logit_diff([5, 6], [9, 10])
    assert_sweep_is_exact(
        random_gpt2, pairs, site, metric, direction, n_cells=15, per_position=per_position
    )


@st.composite
def drawn_pairs(draw: st.DrawFn) -> TokenPairs:
    """Right-padded pairs of lengths 2 to 9, each different from its partner somewhere."""
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    clean = torch.randint(1, 30, (len(lengths), max(lengths)), generator=generator)
    corrupted = clean.clone()
    for row, length in enumerate(lengths):
        for position in draw(st.sets(st.integers(0, length - 1), min_size=1)):
            corrupted[row, position] = clean[row, position] % 29 + 1
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return TokenPairs(TokenBatch(clean, mask), TokenBatch(corrupted, mask))


@hypothesis.settings(max_examples=60, phases=[hypothesis.Phase.generate])
@given(data=st.data())
def test_any_sweep_is_exact(data: st.DataObject) -> None:
    n_layers, n_heads = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    model = random_model(data.draw(st.integers(0, 3)), n_layers, n_heads)
    pairs = data.draw(drawn_pairs())
    n = len(pairs.clean.tokens)
    shortest = int(pairs.clean.lengths.min())
    metric = data.draw(
        st.sampled_from(
            [
                metrics.logit_diff(list(range(1, n + 1)), 9),
                metrics.logprob(3, positions=data.draw(st.integers(0, shortest - 1))),
                metrics.next_token_loss(pairs.clean),
            ]
        )
    )
    site = data.draw(st.sampled_from(SITES))
    by_position = site in "zqkv" and data.draw(st.booleans())
    some = data.draw(st.none() | st.sets(st.integers(0, shortest - 1), min_size=1))
    assert_sweep_is_exact(
        model, pairs, site, metric, data.draw(st.sampled_from(["denoising", "noising"])),
        n_cells=6, per_position=by_position, positions=some and sorted(some),
    )  # fmt: skip


@pytest.mark.parametrize("site", STREAM_SITES)
def test_patching_before_the_first_difference_has_exactly_no_effect(
    tiny: HookedGPT2, binding: tuple, site: str
) -> None:
    clean, corrupted, metric = binding
    dataset = patching.sweep(tiny, clean, corrupted, site, metric)
    first = token_pairs(tiny, clean, corrupted).first_difference
    before = dataset["pos"] < xr.DataArray(first.numpy(), dims="example")
    effect = (dataset["patched"] - dataset["corrupted"]).where(before, 0)
    assert float(abs(effect).max()) == 0
    assert float(abs(dataset["patched"] - dataset["corrupted"]).max()) > 1


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_patching_everything_gives_the_other_run(
    tiny: HookedGPT2, binding: tuple, direction: str
) -> None:
    clean, corrupted, metric = binding
    groups = {
        "everything": [
            (layer, part)
            for layer in range(tiny.cfg.n_layers)
            for part in (*range(tiny.cfg.n_heads), "mlp")
        ],
        "nothing": [],
    }
    dataset = patching.patch_together(tiny, clean, corrupted, groups, metric, direction)
    embedded = patching.sweep(tiny, clean, corrupted, "resid_pre", metric, direction)
    base, other = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
    assert float(abs(dataset["patched"].sel(group="nothing") - dataset[base]).max()) == 0
    # The embeddings still differ, so everything that attention and MLPs write is nearly all.
    gap = abs(dataset[other] - dataset[base])
    left = abs(dataset["patched"].sel(group="everything") - dataset[other])
    assert float((left / gap).max()) < 0.1
    assert float(abs(embedded["patched"] - embedded[base]).max()) > 1


def test_all_positions_of_a_stream_give_the_other_run(random_gpt2: HookedGPT2) -> None:
    metric = metrics.logit_diff([5, 6], [9, 10])
    whole = patching.sweep(random_gpt2, CLEAN, CORRUPTED, "resid_post", metric)
    last = random_gpt2.cfg.n_layers - 1
    ends = (random_gpt2.as_batch(CLEAN).lengths - 1).tolist()
    for example, end in enumerate(ends):
        cell = whole["patched"].sel(layer=last, pos=end).isel(example=example)
        assert abs(float(cell) - float(whole["clean"][example])) < TOLERANCE


def test_a_window_patches_neighbouring_layers_together(random_gpt2: HookedGPT2) -> None:
    metric = metrics.logit_diff([5, 6], [9, 10])
    pairs = token_pairs(random_gpt2, CLEAN, CORRUPTED)
    dataset = patching.sweep(random_gpt2, CLEAN, CORRUPTED, "mlp_out", metric, window=3)
    _, cache = random_gpt2.run_with_cache(pairs.clean)
    for layer, layers in ((0, [0, 1]), (1, [0, 1, 2]), (2, [1, 2])):
        edits = [Edit("mlp_out", each, (4,), cache["mlp_out", each][:, 4:5]) for each in layers]
        expected = plain_run(random_gpt2, pairs.corrupted, edits, [0, 1], metric)
        measured = torch.tensor(dataset["patched"].sel(layer=layer, pos=4).values)
        assert (measured - expected).abs().max() < TOLERANCE
    assert dataset.attrs["window"] == 3


def test_heads_patched_together_equal_one_hooked_forward(random_gpt2: HookedGPT2) -> None:
    metric = metrics.logit_diff([5, 6], [9, 10])
    pairs = token_pairs(random_gpt2, CLEAN, CORRUPTED)
    group = [(0, 1), (2, 3), (1, "mlp"), (2, 0)]
    dataset = patching.patch_together(random_gpt2, CLEAN, CORRUPTED, {"some": group}, metric)
    _, cache = random_gpt2.run_with_cache(pairs.clean)
    for example, length in enumerate(pairs.clean.lengths.tolist()):
        places = tuple(range(length))
        edits = [
            Edit("mlp_out", layer, places, cache["mlp_out", layer][[example], :length])
            if part == "mlp"
            else Edit("z", layer, places, cache["z", layer][[example], :length, part], part)
            for layer, part in group
        ]
        expected = plain_run(random_gpt2, pairs.corrupted, edits, [example], metric)[example]
        assert abs(float(dataset["patched"][0, example]) - float(expected)) < TOLERANCE


def test_a_sweep_says_what_it_is(random_gpt2: HookedGPT2) -> None:
    metric = metrics.prob([5, 6])
    dataset = patching.sweep(
        random_gpt2, CLEAN, CORRUPTED, "q", metric, "noising", [3, 2], per_position=True
    )
    assert dataset["patched"].dims == ("layer", "head", "pos", "example")
    assert dataset["pos"].values.tolist() == [2, 3]
    assert [dataset.attrs[x] for x in ("direction", "site", "metric", "unit", "partial")] == [
        "noising", "q", "prob", "probability", 0,
    ]  # fmt: skip
    assert dataset.attrs["model_hash"] == interp.model_hash(random_gpt2)
    logits = random_gpt2(CLEAN, positions="last")
    assert torch.tensor(dataset["clean"].values).allclose(metric(logits))
    strings = random_gpt2.to_str_tokens(CORRUPTED[1])
    assert dataset["corrupted_token"].values[1].tolist() == strings[2:4]


def test_named_positions_are_each_examples_own(random_gpt2: HookedGPT2) -> None:
    metric = metrics.logit_diff([5, 6], [9, 10])
    ends = (random_gpt2.as_batch(CLEAN).lengths - 1).tolist()
    named = {"END": ends, "before": [end - 1 for end in ends]}
    by_name = patching.sweep(random_gpt2, CLEAN, CORRUPTED, "resid_pre", metric, positions=named)
    by_number = patching.sweep(random_gpt2, CLEAN, CORRUPTED, "resid_pre", metric)
    assert by_name["pos"].values.tolist() == ["END", "before"]
    for example, end in enumerate(ends):
        for name, position in (("END", end), ("before", end - 1)):
            difference = by_name["patched"].sel(pos=name) - by_number["patched"].sel(pos=position)
            assert float(abs(difference.isel(example=example)).max()) < TOLERANCE
    together = patching.sweep(random_gpt2, CLEAN, CORRUPTED, "z", metric, positions=named)
    assert together["patched"].dims == ("layer", "head", "example")


def test_a_cancelled_sweep_is_marked_partial(random_gpt2: HookedGPT2) -> None:
    metric = metrics.logit_diff(5, 9)
    dataset = patching.sweep(
        random_gpt2, CLEAN, CORRUPTED, "resid_pre", metric, max_memory=60_000,
        progress=lambda steps, _: steps[:-1],
    )  # fmt: skip
    whole = patching.sweep(random_gpt2, CLEAN, CORRUPTED, "resid_pre", metric)
    done = dataset["patched"].notnull()
    assert dataset.attrs["partial"] == 1
    assert 0 < int(done.sum()) < int(whole["patched"].notnull().sum())
    difference = abs(dataset["patched"] - whole["patched"]).where(done, 0)
    assert float(difference.max()) < TOLERANCE


def test_fewer_rows_at_a_time_are_more_steps_and_the_same_numbers(random_gpt2: HookedGPT2) -> None:
    metric, n_steps = metrics.logit_diff(5, 9), []

    def counted(steps: Sequence[Any], _: str) -> Sequence[Any]:
        n_steps.append(len(steps))
        return steps

    few, many = (
        patching.sweep(random_gpt2, CLEAN, CORRUPTED, "z", metric, rows=rows, progress=counted)
        for rows in (1, 10_000)
    )
    assert n_steps[0] > n_steps[1] == 1
    assert float(abs(few["patched"] - many["patched"]).max()) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": "resid"}, "There is no site 'resid'. By layer and position: resid_pre"),
        ({"site": "pattern", "per_position": True}, "use z, q, k or v"),
        ({"site": "z", "direction": "clean"}, "use 'denoising'"),
        (
            {"site": "z", "positions": [1, 99]},
            "Position 99 is 99 in example 0; the prompt has positions 0-",
        ),
        ({"site": "z", "positions": []}, "Positions to patch are missing"),
        ({"site": "z", "positions": {"END": [1]}}, "Position 'END' has 1 values for 2 examples"),
        ({"site": "z", "positions": {"END": [1, 15]}}, "'END' is 15 in example 1"),
        ({"site": "mlp_out", "window": 0}, "window is 0; use 1 to 3"),
    ],
)
def test_what_cannot_be_swept_is_an_error(
    random_gpt2: HookedGPT2, options: dict, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        patching.sweep(random_gpt2, CLEAN, CORRUPTED, metric=metrics.logit(5), **options)


def test_a_component_that_does_not_exist_is_an_error(random_gpt2: HookedGPT2) -> None:
    for part in ((3, 0), (0, 4), (1, "attn")):
        with pytest.raises(PromptError, match="is no head or MLP of this model"):
            patching.patch_together(random_gpt2, CLEAN, CORRUPTED, {"g": [part]}, metrics.logit(5))
