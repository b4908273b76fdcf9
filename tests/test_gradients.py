"""Attribution patching against patching cell by cell, wherever the two have to be equal."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from interp import agreement, gradients, patching, sites
from interp.errors import PromptError
from interp.metrics import logit_diff, logprob
from interp.model.gpt2 import Block, HookedGPT2
from interp.model.hooks import full_name
from interp.model.tokens import TokenBatch
from interp.pairs import token_pairs
from tests.comparison import FLOAT64, assert_close

MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
CLEAN = TokenBatch(torch.tensor([[0, 9, 17, 4, 30, 8], [0, 9, 3, 40, 0, 0]]), MASK)
CORRUPTED = TokenBatch(torch.tensor([[0, 9, 22, 4, 30, 8], [0, 9, 3, 77, 0, 0]]), MASK)
FIRST_DIFFERENCE = (2, 3)
METRIC = logit_diff([40, 41], [50, 51])
SMALL_STEP = 1e-6
"""Of the way from base to source: far above float64's rounding, far below any curvature."""
CURVATURE = 1e-4
"""What a small step still differs from the slope, relative to the largest effect."""


@pytest.fixture(scope="module")
def precise_gpt2(random_gpt2: HookedGPT2) -> HookedGPT2:
    return precise(random_gpt2)


def precise(model: HookedGPT2) -> HookedGPT2:
    """A copy in float64, which may be changed."""
    copy = HookedGPT2.from_weights(
        model.cfg, {name: x.clone() for name, x in model.state_dict().items()}
    )
    return copy.to(torch.float64)


def patch_each(
    model: HookedGPT2,
    site: str,
    direction: str = "denoising",
    *,
    per_position: bool = False,
    step: float = 1.0,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Effect of each cell's patch, one hooked forward each.

    Args:
        step: How far a value goes from the base run's to the source run's; the effect is divided
            by it.
    """
    pairs = token_pairs(model, CLEAN, CORRUPTED)
    base, source = pairs.base(direction), pairs.source(direction)
    _, values = model.run_with_cache(source)
    before = METRIC(model(base, positions="last"))
    by_head = site not in sites.STREAM_SITES
    layers = range(model.cfg.n_layers) if layers is None else layers
    sizes = [len(layers), *[model.cfg.n_heads] * by_head]
    sizes += [base.tokens.shape[1]] * (per_position or not by_head)
    effects = torch.empty(*sizes, len(base.tokens), dtype=before.dtype)
    for cell in np.ndindex(*sizes):
        name = full_name(site, layers[cell[0]])
        index = (slice(None), *reversed(cell[1:]))  # batch, [pos,] [head]
        if by_head and not per_position:
            index = np.s_[:, cell[1]] if site == "pattern" else np.s_[:, :, cell[1]]

        def patch(value: Tensor, hook, index=index, name=name) -> None:
            value[index] += step * (values[name][index] - value[index])

        after = METRIC(model.run_with_hooks(base, [(name, patch)], positions="last"))
        effects[cell] = (after - before) / step
    return effects


def estimate(model: HookedGPT2, site: str, direction: str = "denoising", **options) -> Tensor:
    """Estimated effects; 0 beyond a prompt."""
    ds = gradients.attribution_patching(model, CLEAN, CORRUPTED, site, METRIC, direction, **options)
    base = ds.corrupted if direction == "denoising" else ds.clean
    return torch.tensor((ds.patched - base).fillna(0).values)


@contextlib.contextmanager
def linear_after_attention(model: HookedGPT2) -> Iterator[None]:
    """Without MLPs, and with the last scale held: logits are linear in the last layer's pattern."""

    def hold(scale: Tensor, hook) -> Tensor:
        return torch.ones_like(scale)

    def remove(value: Tensor, hook) -> Tensor:
        return torch.zeros_like(value)

    hooks = [("ln_final.hook_scale", hold), ("blocks.*.hook_mlp_out", remove)]
    with model.hooks(hooks):
        yield


# What every estimate is


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", sites.SITES)
def test_a_small_step_towards_the_source_has_the_estimated_effect(precise_gpt2, site, direction):
    exact = patch_each(precise_gpt2, site, direction, step=SMALL_STEP)
    assert_close(estimate(precise_gpt2, site, direction), exact, CURVATURE)


@pytest.mark.parametrize("site", sites.VECTOR_SITES)
def test_heads_are_estimated_by_position_too(precise_gpt2, site):
    exact = patch_each(precise_gpt2, site, per_position=True, step=SMALL_STEP)
    by_position = estimate(precise_gpt2, site, per_position=True)
    assert_close(by_position, exact, CURVATURE)
    assert_close(by_position.sum(dim=2), estimate(precise_gpt2, site), FLOAT64)


def test_parts_add_up_to_what_they_are_parts_of(precise_gpt2):
    heads = estimate(precise_gpt2, "z", per_position=True)
    assert_close(heads.sum(dim=1), estimate(precise_gpt2, "attn_out"), FLOAT64)
    after, before = (estimate(precise_gpt2, f"resid_{x}") for x in ("post", "pre"))
    assert_close(after[:-1], before[1:], FLOAT64)


def test_before_the_first_difference_nothing_happens_and_beyond_a_prompt_nothing_is(random_gpt2):
    for site, corrections in (("resid_mid", []), ("v", []), ("q", ["qk_fix"]), ("k", ["qk_fix"])):
        options = {"per_position": True, "corrections": corrections}
        ds = gradients.attribution_patching(random_gpt2, CLEAN, CORRUPTED, site, METRIC, **options)
        for example, (first, n_tokens) in enumerate(zip(FIRST_DIFFERENCE, (6, 4), strict=True)):
            patched = ds.patched.isel(example=example)
            untouched = patched.isel(pos=slice(0, first))
            assert bool((untouched == ds.corrupted[example]).all())
            assert bool(patched.isel(pos=slice(first, n_tokens)).notnull().all())
            assert bool(patched.isel(pos=slice(n_tokens, None)).isnull().all())


def test_only_the_chosen_positions_are_patched(precise_gpt2):
    everywhere = estimate(precise_gpt2, "attn_out")
    assert torch.equal(estimate(precise_gpt2, "attn_out", positions=[5, 2]), everywhere[:, [2, 5]])
    by_position = estimate(precise_gpt2, "v", per_position=True)
    some = estimate(precise_gpt2, "v", positions=[2, 3])
    assert_close(some, by_position[:, :, [2, 3]].sum(dim=2), FLOAT64)


def test_named_positions_are_each_examples_own(precise_gpt2):
    everywhere = estimate(precise_gpt2, "resid_post")
    ds = gradients.attribution_patching(
        precise_gpt2,
        CLEAN,
        CORRUPTED,
        "resid_post",
        METRIC,
        positions={"noun": [4, 3], "end": [5, 3]},
    )
    effect = torch.tensor((ds.patched - ds.corrupted).values)
    assert ds.pos.values.tolist() == ["noun", "end"]
    assert torch.equal(effect[..., 0], everywhere[:, [4, 5], 0])
    assert torch.equal(effect[..., 1], everywhere[:, [3, 3], 1])


def test_one_position_row_of_a_metric_serves_all_examples(random_gpt2):
    at_three = logprob([40, 41], positions=torch.tensor([3]))
    ds = gradients.attribution_patching(random_gpt2, CLEAN, CORRUPTED, "z", at_three)
    assert_close(
        torch.tensor(ds.clean.values), at_three(random_gpt2(CLEAN.tokens, attention_mask=MASK))
    )
    assert ds.attrs["unit"] == "nats"


# What it costs


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many blocks and how many backward passes have been run."""
    done = {"blocks": 0, "backwards": 0}
    run_block, differentiate = Block.forward, torch.autograd.grad

    def counted_block(*arguments):
        done["blocks"] += 1
        return run_block(*arguments)

    def counted_backward(*arguments, **options):
        done["backwards"] += 1
        return differentiate(*arguments, **options)

    monkeypatch.setattr(Block, "forward", counted_block)
    monkeypatch.setattr(torch.autograd, "grad", counted_backward)
    return done


@pytest.mark.parametrize("site", sites.SITES)
def test_a_site_takes_two_forwards_and_one_backward(random_gpt2, work, site):
    gradients.attribution_patching(random_gpt2, CLEAN, CORRUPTED, site, METRIC)
    assert work == {"blocks": 2 * random_gpt2.cfg.n_layers, "backwards": 1}


def test_all_sites_together_take_no_more(random_gpt2, work):
    together = gradients.all_sites(random_gpt2, CLEAN, CORRUPTED, METRIC, "noising")
    assert work == {"blocks": 2 * random_gpt2.cfg.n_layers, "backwards": 1}
    assert list(together) == list(sites.SITES)
    for site, ds in together.items():
        alone = gradients.attribution_patching(
            random_gpt2, CLEAN, CORRUPTED, site, METRIC, "noising"
        )
        xr.testing.assert_allclose(ds, alone, rtol=1e-5, atol=1e-5)
        assert ds.attrs == alone.attrs


def test_the_fix_costs_no_run_and_grad_drop_one_backward_per_layer(random_gpt2, work):
    n_layers = random_gpt2.cfg.n_layers
    corrections = ["qk_fix", "grad_drop"]
    gradients.attribution_patching(
        random_gpt2, CLEAN, CORRUPTED, "q", METRIC, corrections=corrections
    )
    assert work == {"blocks": 2 * n_layers, "backwards": 1 + n_layers}


def test_no_parameter_gets_a_gradient_and_no_grad_around_it_does_not_matter(random_gpt2):
    model = precise(random_gpt2).requires_grad_(True)
    with torch.no_grad():
        inside = estimate(model, "z")
    assert torch.equal(inside, estimate(model, "z"))
    assert all(parameter.grad is None for parameter in model.parameters())


# The fix of queries and keys


@pytest.mark.parametrize("site", ["q", "k"])
def test_the_fix_is_exact_where_all_after_the_pattern_is_linear(our_model, site):
    model = precise(our_model)
    last = [model.cfg.n_layers - 1]
    with linear_after_attention(model):
        exact = patch_each(model, site, layers=last)
        fixed = estimate(model, site, corrections=["qk_fix"])[last]
    assert_close(fixed, exact, FLOAT64)


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("site", ["q", "k"])
def test_a_saturated_softmax_misleads_the_slope_and_not_the_fix(random_gpt2, site, per_position):
    model = precise(random_gpt2)
    model.blocks[-1].attn.W_QKV[:, 0] *= 100
    last = [model.cfg.n_layers - 1]
    with linear_after_attention(model):
        _, cache = model.run_with_cache(CORRUPTED)
        exact = patch_each(model, site, per_position=per_position, layers=last)
        plain, fixed = (
            estimate(model, site, per_position=per_position, corrections=corrections)[last]
            for corrections in ([], ["qk_fix"])
        )
    assert float(cache["pattern", -1][0, :, -1].amax(dim=-1).min()) > 0.99
    assert_close(fixed, exact, 1e-8)
    assert float((plain - exact).abs().max()) > 0.5 * float(exact.abs().max())


# GradDrop


def test_a_cancelled_effect_has_a_magnitude(precise_gpt2):
    """Layer 2 subtracts what layer 0 wrote: the sum of both routes is 0, each alone is not."""

    def remember(value: Tensor, hook) -> None:
        hook.ctx["written"] = value

    def take_away(value: Tensor, hook) -> Tensor:
        return hook.ctx["written"].detach() - hook.ctx["written"]

    def remove(value: Tensor, hook) -> Tensor:
        return torch.zeros_like(value)

    silent = [(["blocks.0.hook_mlp_out", "blocks.1.hook_*_out", "blocks.2.hook_attn_out"], remove)]
    cancelled = [("blocks.0.hook_resid_mid", remember), ("blocks.2.hook_mlp_out", take_away)]
    with precise_gpt2.hooks([*silent, ("blocks.2.hook_mlp_out", remove)]):
        direct = estimate(precise_gpt2, "attn_out")[0]
    with precise_gpt2.hooks([*silent, *cancelled]):
        ds = gradients.attribution_patching(
            precise_gpt2, CLEAN, CORRUPTED, "attn_out", METRIC, corrections=["grad_drop"]
        )
    effect = (ds.patched - ds.corrupted).fillna(0).values[0]
    magnitude = torch.tensor(ds.magnitude.fillna(0).values[0])
    assert float(direct.abs().max()) > 0.01
    assert float(np.abs(effect).max()) < 1e-12
    assert_close(magnitude, direct.abs() / 2, FLOAT64)  # left when layer 2, not when layer 1 drops


@pytest.mark.parametrize(("site", "n_left"), [("resid_pre", 3), ("q", 2)])
def test_magnitude_is_the_mean_effect_with_a_layer_that_passes_no_gradient(
    precise_gpt2, site, n_left
):
    def detach(value: Tensor, hook) -> Tensor:
        return value.detach() + 0 * value  # still in the graph, with gradient 0

    expected = torch.zeros(())
    for layer in range(precise_gpt2.cfg.n_layers):
        with precise_gpt2.hooks([(f"blocks.{layer}.hook_*_out", detach)]):
            expected = expected + estimate(precise_gpt2, site).abs() / n_left
    ds = gradients.attribution_patching(
        precise_gpt2, CLEAN, CORRUPTED, site, METRIC, corrections=["grad_drop"]
    )
    magnitude = torch.tensor(ds.magnitude.fillna(0).values)
    assert_close(magnitude, expected, FLOAT64)


# What it says and what it refuses


@pytest.mark.parametrize("site", ["mlp_out", "k", "pattern"])
def test_an_estimate_has_the_cells_and_labels_of_the_sweep(random_gpt2, site):
    arguments = (random_gpt2, CLEAN, CORRUPTED, site, METRIC, "noising", [3, 2])
    ours, exact = gradients.attribution_patching(*arguments), patching.sweep(*arguments)
    assert ours.patched.dims == exact.patched.dims
    assert set(ours.attrs) >= set(exact.attrs) - {"window"}
    assert set(ours.coords) == set(exact.coords)
    xr.testing.assert_equal(ours.patched.isnull(), exact.patched.isnull())
    xr.testing.assert_allclose(ours[["clean", "corrupted"]], exact[["clean", "corrupted"]])
    assert float(agreement.compare(ours, exact).sign_agreement) > 0.5


def test_a_result_says_what_it_is(random_gpt2):
    ds = gradients.attribution_patching(
        random_gpt2, CLEAN, CORRUPTED, "q", METRIC, per_position=True, corrections=["qk_fix"]
    )
    assert ds.patched.dims == ("layer", "head", "pos", "example")
    expected = {
        "method": "attribution patching", "corrections": "qk_fix", "direction": "denoising",
        "site": "q", "metric": "logit_diff", "unit": "logits",
    }  # fmt: skip
    assert ds.attrs | expected == ds.attrs
    assert {"model", "model_hash", "versions"} < set(ds.attrs)
    before = METRIC(random_gpt2(CORRUPTED, positions="last"))
    assert_close(torch.tensor(ds.corrupted.values), before)
    pieces = [random_gpt2.tokenizer.piece(i) for i in (0, 9, 3, 77)]
    assert ds.corrupted_token.values[1].tolist() == [*pieces, "", ""]
    noised = gradients.attribution_patching(
        random_gpt2, CLEAN, CORRUPTED, "pattern", METRIC, "noising"
    )
    assert noised.patched.dims == ("layer", "head", "example")
    assert_close(torch.tensor(noised.corrupted.values), before)
    assert noised.attrs["corrections"] == ""


@pytest.mark.parametrize(
    ("site", "options", "message"),
    [
        ("resid", {}, "There is no site 'resid'. By layer and position: resid_pre, resid_mid"),
        ("q", {"corrections": ["qkfix"]}, "Unknown correction 'qkfix'. Known: qk_fix, grad_drop"),
        ("pattern", {"per_position": True}, "query and key positions; use z, q, k or v"),
        ("z", {"corrections": ["qk_fix"]}, "z does not act through the softmax"),
        ("z", {"positions": [1, 6]}, "Position 6 is 6 in example 0"),
        ("z", {"direction": "sideways"}, "use 'denoising'"),
    ],
)
def test_options_that_do_not_fit_are_refused(random_gpt2, site, options, message):
    with pytest.raises(PromptError, match=message):
        gradients.attribution_patching(random_gpt2, CLEAN, CORRUPTED, site, METRIC, **options)


def test_a_metric_that_is_not_finite_is_refused(random_gpt2):
    infinite = replace(METRIC, reduce=lambda read: read[:, 0, 0] / torch.tensor([1.0, 0.0]))
    with pytest.raises(PromptError, match=r"logit_diff is not finite in examples \[1\]"):
        gradients.attribution_patching(random_gpt2, CLEAN, CORRUPTED, "z", infinite)


def test_one_layer_leaves_nothing_when_it_drops(huggingface_models):
    model = HookedGPT2.from_huggingface(huggingface_models("odd sizes"))
    with pytest.raises(PromptError, match="this model has one"):
        gradients.attribution_patching(
            model, CLEAN, CORRUPTED, "z", METRIC, corrections=["grad_drop"]
        )
