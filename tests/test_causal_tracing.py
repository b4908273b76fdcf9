"""Causal tracing: agreement with plain hooked runs, and what noise on a subject cannot reach."""

import itertools

import pytest
import torch
import xarray as xr

import interp
from interp import causal_tracing, metrics
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, HookFunction, full_name
from interp.tiny.language import held_out_examples
from tests.comparison import assert_close

PROMPTS = ["I love the color black.", "The cat is black, I hope so"]
SUBJECT = {"first": [2, 3], "last": [3, 3]}
METRIC = metrics.logit_diff([5, 6], [9, 10])
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def add_noise(model: HookedGPT2, seed: int, noise: float) -> HookFunction:
    """The noise of a seed on the embeddings of the subject's tokens."""

    def add(embedded: torch.Tensor, hook: Hook) -> None:
        draw = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(seed))
        for example, position in {(e, p) for own in SUBJECT.values() for e, p in enumerate(own)}:
            scaled = noise * model.W_E.std() * draw[example, position]
            embedded[example, position] += scaled

    return add


def plain_trace(
    model: HookedGPT2, site: str, layers: list[int], position: int, seed: int, noise: float
) -> torch.Tensor:
    """A restoration by one hooked forward pass."""
    _, cache = model.run_with_cache(PROMPTS)

    def restore(value: torch.Tensor, hook: Hook) -> None:
        value[:, position] = cache[site, hook.layer()][:, position]

    hooks = [("hook_embed", add_noise(model, seed, noise))]
    hooks += [(full_name(site, layer), restore) for layer in layers]
    return METRIC(model.run_with_hooks(PROMPTS, hooks, positions="last"))


@pytest.mark.parametrize("site", SITES)
def test_a_restored_place_equals_one_hooked_forward(random_gpt2: HookedGPT2, site: str) -> None:
    dataset = causal_tracing.trace(
        random_gpt2, PROMPTS, SUBJECT, METRIC, site, noise=2.0, seeds=[3, 8]
    )
    assert dataset["patched"].dims == ("layer", "pos", "seed", "example")
    lengths = random_gpt2.as_batch(PROMPTS).lengths
    places = itertools.product(range(3), range(1, int(lengths.max())), [3, 8])
    for layer, position, seed in itertools.islice(places, 0, None, 3):
        expected = plain_trace(random_gpt2, site, [layer], position, seed, 2.0)
        measured = dataset["patched"].sel(layer=layer, pos=position, seed=seed).values
        inside = position < lengths
        assert_close(torch.tensor(measured)[inside], expected[inside])
        assert bool(torch.tensor(measured)[~inside].isnan().all())
    for seed in (3, 8):
        corrupted = torch.tensor(dataset["corrupted"].sel(seed=seed).values)
        assert_close(corrupted, plain_trace(random_gpt2, site, [], 0, seed, 2.0))
    clean = METRIC(random_gpt2(PROMPTS, positions="last"))
    assert_close(torch.tensor(dataset["clean"].values), clean)


@pytest.mark.parametrize(
    ("window", "layers"), [(2, [[0], [0, 1], [1, 2]]), (3, [[0, 1], [0, 1, 2], [1, 2]])]
)
def test_a_window_restores_neighbouring_layers_together(
    random_gpt2: HookedGPT2, window: int, layers: list[list[int]]
) -> None:
    dataset = causal_tracing.trace(
        random_gpt2, PROMPTS, SUBJECT, METRIC, "mlp_out", [4], seeds=[1], window=window
    )
    for layer, own in enumerate(layers):
        expected = plain_trace(random_gpt2, "mlp_out", own, 4, 1, 3.0)
        measured = torch.tensor(dataset["patched"].sel(layer=layer, pos=4, seed=1).values)
        assert_close(measured, expected)
    assert dataset.attrs["window"] == window


def test_restoring_a_subject_of_one_token_gives_the_clean_run(random_gpt2: HookedGPT2) -> None:
    dataset = causal_tracing.trace(random_gpt2, PROMPTS, [3], METRIC, seeds=range(3))
    restored = dataset["patched"].sel(layer=0, pos=3)
    clean = dataset["clean"].broadcast_like(restored)
    assert_close(torch.tensor(restored.values), torch.tensor(clean.values))
    assert float(abs(dataset["corrupted"] - dataset["clean"]).min()) > 0.01


def test_restoring_where_the_answer_is_read_gives_the_clean_run(random_gpt2: HookedGPT2) -> None:
    ends = (random_gpt2.as_batch(PROMPTS).lengths - 1).tolist()
    named = {"END": ends}
    dataset = causal_tracing.trace(
        random_gpt2, PROMPTS, SUBJECT, METRIC, "resid_post", named, seeds=[0]
    )
    restored = dataset["patched"].sel(layer=2, pos="END", seed=0)
    assert_close(torch.tensor(restored.values), torch.tensor(dataset["clean"].values))


@pytest.mark.parametrize("site", SITES)
def test_before_the_subject_nothing_can_be_restored(random_gpt2: HookedGPT2, site: str) -> None:
    dataset = causal_tracing.trace(random_gpt2, PROMPTS, SUBJECT, METRIC, site, seeds=[0, 1])
    before = dataset["pos"] < xr.DataArray(SUBJECT["first"], dims="example")
    effect = dataset["patched"] - dataset["corrupted"]
    assert float(abs(effect.where(before, 0)).max()) == 0
    assert float(abs(effect).max()) > 0.01


def test_an_answer_returns_with_its_word_and_is_read_where_it_is_asked_for() -> None:
    model = interp.load()
    examples = held_out_examples("colour_binding_1", 4, 0)
    answers, wrong = (
        [model.to_single_token(getattr(e, name)) for e in examples] for name in ("answer", "wrong")
    )
    texts = [e.text for e in examples]
    place = [model.find_word(e.text, e.answer.strip()) for e in examples]
    named = {"word": place, "END": (model.as_batch(texts).lengths - 1).tolist()}
    dataset = causal_tracing.trace(
        model, texts, {"word": place}, metrics.logit_diff(answers, wrong), "resid_post", named
    ).mean("seed")
    gap = dataset["clean"] - dataset["corrupted"]
    recovered = ((dataset["patched"] - dataset["corrupted"]) / gap).mean("example")
    assert float(gap.min()) > 1
    assert recovered.sel(pos="word").values[[0, -1]] == pytest.approx([1, 0], abs=0.3)
    assert recovered.sel(pos="END").values[[0, -1]] == pytest.approx([0, 1], abs=0.3)


def test_a_seed_is_its_own_draw(random_gpt2: HookedGPT2) -> None:
    several = causal_tracing.trace(random_gpt2, PROMPTS, SUBJECT, METRIC, seeds=[4, 7])
    alone = causal_tracing.trace(random_gpt2, PROMPTS, SUBJECT, METRIC, seeds=[7])
    same = abs(several["patched"].sel(seed=7) - alone["patched"].sel(seed=7))
    other = abs(several["corrupted"].sel(seed=4) - several["corrupted"].sel(seed=7))
    assert float(same.max()) < 1e-5
    assert float(other.min()) > 1e-3


def test_a_trace_says_what_it_is(random_gpt2: HookedGPT2) -> None:
    metric = metrics.prob([5, 6])
    ends = (random_gpt2.as_batch(PROMPTS).lengths - 1).tolist()
    dataset = causal_tracing.trace(
        random_gpt2, PROMPTS, SUBJECT, metric, "attn_out", {**SUBJECT, "END": ends}, seeds=[0]
    )
    expected = {
        "direction": "denoising", "site": "attn_out", "metric": "prob", "unit": "probability",
        "noise": 3.0, "window": 1, "partial": 0, "model_hash": interp.model_hash(random_gpt2),
    }  # fmt: skip
    assert {name: dataset.attrs[name] for name in expected} == expected
    assert dataset["pos"].values.tolist() == ["first", "last", "END"]
    names = [random_gpt2.to_str_tokens(text) for text in PROMPTS]
    tokens = [[row[2 + i], row[3], row[-1]] for i, row in enumerate(names)]
    assert dataset["clean_token"].values.tolist() == tokens
    noised = [[first + "*", last + "*", end] for first, last, end in tokens]
    assert dataset["corrupted_token"].values.tolist() == noised


def test_a_cancelled_trace_is_marked_partial(random_gpt2: HookedGPT2) -> None:
    dataset = causal_tracing.trace(
        random_gpt2, PROMPTS, SUBJECT, METRIC, seeds=range(4), max_memory=60_000,
        progress=lambda steps, _: steps[:1],
    )  # fmt: skip
    assert dataset.attrs["partial"] == 1
    assert bool(dataset["patched"].sel(layer=0).notnull().any())
    assert bool(dataset["patched"].sel(layer=2, pos=5).isnull().any())


@pytest.mark.parametrize(
    ("subject", "options", "message"),
    [
        ([3], {"site": "z"}, "There is no site 'z' to restore; use resid_pre, resid_mid"),
        ([3], {"noise": 0.0}, r"noise is 0\.0; use a positive number"),
        ([3], {"noise": float("nan")}, "noise is nan"),
        ([3], {"seeds": []}, "Seeds of the noise are missing"),
        ([3], {"window": 4}, "window is 4; use 1 to 3"),
        ([3], {"positions": [30]}, "Position 30 is 30 in example 0"),
        ([7], {}, "Position '7' is 7 in example 0; the prompt has positions 0-6"),
        ({"first": [1]}, {}, "Position 'first' has 1 values for 2 examples"),
        (None, {}, "Positions of the subject are missing"),
        ([], {}, "Positions of the subject are missing"),
    ],
)
def test_what_cannot_be_traced_is_an_error(
    random_gpt2: HookedGPT2, subject: list | dict | None, options: dict, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        causal_tracing.trace(random_gpt2, PROMPTS, subject, METRIC, **options)
