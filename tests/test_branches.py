"""Every shortcut of the engine against one hooked forward pass per branch."""

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import interp
from interp import metrics
from interp.base_run import BaseRun, Edit
from interp.branches import Branch, evaluate
from interp.errors import HookError, PromptError
from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import TokenBatch
from tests.plain_runs import plain_run, random_model

POINTS = ("resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")
TOLERANCE = 1e-4
"""Of the metric, in float32; about 30 times what rounding makes."""


def draw_batch(draw: st.DrawFn) -> TokenBatch:
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=4))
    tokens = torch.randint(1, 30, (len(lengths), max(lengths)), generator=draw_seed(draw))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return TokenBatch(tokens, mask)


def draw_seed(draw: st.DrawFn) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 10**6)))


def draw_metric(draw: st.DrawFn, batch: TokenBatch) -> Metric:
    n = len(batch.tokens)
    ids = [draw(st.integers(1, 14)) for _ in range(n)]
    where = [draw(st.integers(0, length - 1)) for length in batch.lengths.tolist()]
    positions = draw(st.sampled_from(["last", where]))
    return draw(
        st.sampled_from(
            [
                metrics.logit_diff(ids, [i + 15 for i in ids], positions=positions),
                metrics.prob(ids, positions=positions),
                metrics.logit(ids[0], positions=0),
                metrics.next_token_loss(batch),
                two_positions(ids, batch),
            ]
        )
    )


def two_positions(ids: list[int], batch: TokenBatch) -> Metric:
    """A metric that reads the last and the first position of each prompt."""
    chosen = torch.stack([batch.lengths - 1, torch.zeros_like(batch.lengths)], dim=1)

    def reduce(read: torch.Tensor) -> torch.Tensor:
        return read[:, 0, 0] - 2 * read[:, 1, 0]

    return Metric("last minus first", "logits", reduce, torch.tensor(ids)[:, None], chosen)


def draw_branch(
    draw: st.DrawFn, model: HookedGPT2, batch: TokenBatch, cell: int, n_edits: int
) -> Branch:
    n = len(batch.tokens)
    examples = sorted(draw(st.sets(st.integers(0, n - 1), min_size=1)))
    shortest = int(batch.lengths[examples].min())
    edits = []
    places = st.tuples(st.integers(0, model.cfg.n_layers - 1), st.sampled_from(POINTS))
    for layer, point in draw(st.sets(places, min_size=n_edits, max_size=n_edits)):
        positions = draw(st.sets(st.integers(0, shortest - 1), min_size=1))
        head = draw(st.integers(0, model.cfg.n_heads - 1)) if point in "qkvz" else None
        width = model.cfg.d_model if head is None else model.cfg.d_head
        values = torch.randn(len(examples), len(positions), width, generator=draw_seed(draw))
        edits.append(Edit(point, layer, tuple(sorted(positions)), values, head))
    return Branch(cell, tuple(examples), tuple(edits))


@pytest.mark.parametrize("first", [0, 1])
def test_a_layers_start_wins_over_the_end_of_the_one_before(first: int) -> None:
    model = random_model(0, 2, 2)
    batch = TokenBatch(torch.tensor([[3, 5, 7]]), torch.ones(1, 3, dtype=torch.bool))
    values = torch.randn(2, 1, 1, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    edits = [Edit("resid_pre", 1, (1,), values[0]), Edit("resid_post", 0, (1,), values[1])]
    edits = [edits[first], edits[1 - first]]
    metric = metrics.next_token_loss(batch)
    outcome = evaluate(BaseRun(model, batch, metric), [Branch(0, (0,), tuple(edits))], 1)
    expected = plain_run(model, batch, edits, [0], metric)
    assert outcome.values[0] == pytest.approx(expected, abs=TOLERANCE)


@hypothesis.settings(max_examples=100, phases=[hypothesis.Phase.generate])
@given(data=st.data())
def test_branches_equal_hooked_forward_passes(data: st.DataObject) -> None:
    model = random_model(
        data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)),
        data.draw(st.sampled_from(["gelu_new", "relu"])),
    )  # fmt: skip
    batch = draw_batch(data.draw)
    metric = draw_metric(data.draw, batch)
    branches = [
        draw_branch(data.draw, model, batch, cell, data.draw(st.sampled_from([1, 1, 2, 4])))
        for cell in range(data.draw(st.integers(1, 5)))
    ]
    few_at_once = data.draw(st.sampled_from([None, 40_000]))
    outcome = evaluate(BaseRun(model, batch, metric), branches, 5, max_memory=few_at_once)
    assert bool(outcome.finished.all())
    for branch in branches:
        expected = plain_run(model, batch, branch.edits, branch.examples, metric)
        assert (outcome.values[branch.cell] - expected).abs().max() < TOLERANCE
    unused = outcome.values[len(branches) :]
    as_it_is = plain_run(model, batch, [], [], metric)
    assert bool(((unused - as_it_is).abs() < TOLERANCE).all())


def base_of(model: HookedGPT2, text: str = "I love the color black") -> BaseRun:
    return BaseRun(model, model.as_batch(text), metrics.logit(5))


def test_branches_of_the_trained_model_equal_forward_passes() -> None:
    model = interp.load()
    texts = ["I love the color black.", "I love the color brown, I hope"]
    batch = model.as_batch(texts)
    metric = metrics.logit_diff(*([model.to_single_token(x)] * 2 for x in (" cat", " dog")))
    generator = torch.Generator().manual_seed(0)
    branches = []
    for cell, point in enumerate(POINTS):
        head = 2 if point in "qkvz" else None
        width = model.cfg.d_head if head else model.cfg.d_model
        edit = Edit(point, 1, (2, 4), torch.randn(2, 2, width, generator=generator), head)
        branches.append(Branch(cell, (0, 1), (edit,)))
    outcome = evaluate(BaseRun(model, batch, metric), branches, len(branches))
    for branch in branches:
        expected = plain_run(model, batch, branch.edits, branch.examples, metric)
        assert (outcome.values[branch.cell] - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("point", POINTS)
def test_an_edit_that_changes_nothing_is_not_computed(
    random_gpt2: HookedGPT2, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(random_gpt2)
    _, cache = random_gpt2.run_with_cache("I love the color black")
    value = cache[point, 1][:, 2:3]
    head = 3 if point in "qkvz" else None
    edit = Edit(point, 1, (2,), value if head is None else value[:, :, head], head)
    with monkeypatch.context() as patch:
        patch.setattr(BaseRun, "metric_of", None)
        outcome = evaluate(base, [Branch(0, (0,), (edit,))], 1)
    assert torch.equal(outcome.values[0], base.value)


def test_positions_that_nothing_reads_are_not_computed(random_gpt2: HookedGPT2) -> None:
    text = "I love the color black"
    length = random_gpt2.as_batch(text).tokens.shape[1]
    base = BaseRun(random_gpt2, random_gpt2.as_batch(text), metrics.logit(5, positions=[2]))
    d_model, last = random_gpt2.cfg.d_model, random_gpt2.cfg.n_layers - 1
    after = Edit("resid_pre", 0, (3,), torch.ones(1, 1, d_model))
    in_last_layer = Edit("attn_out", last, (1,), torch.ones(1, 1, d_model))
    everywhere = Edit("resid_post", last, tuple(range(length)), torch.ones(1, length, d_model))
    branches = [Branch(c, (0,), (e,)) for c, e in enumerate([after, in_last_layer, everywhere])]
    values = evaluate(base, branches, 3).values
    assert torch.equal(values[:2, 0], base.value.expand(2))
    assert values[2] != base.value


def test_layers_below_the_first_edit_and_positions_before_it_are_not_computed(
    random_gpt2: HookedGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(random_gpt2)
    seen: dict[int, int] = {}
    for layer, block in enumerate(random_gpt2.blocks):
        monkeypatch.setattr(
            block.mlp, "forward", counting(block.mlp.forward, seen, layer), raising=True
        )
    d_model, length = random_gpt2.cfg.d_model, base.batch.tokens.shape[1]
    edit = Edit("resid_pre", 1, (3,), torch.ones(1, 1, d_model))
    evaluate(base, [Branch(0, (0,), (edit,))], 1)
    assert seen == {1: length - 3, 2: 1}


def test_another_run_computes_only_what_it_does_not_share(
    random_gpt2: HookedGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(random_gpt2)
    n_own, tokens = 2, base.batch.tokens.clone()
    tokens[:, -n_own:] += 1
    batch, shared = random_gpt2.as_batch(tokens), tokens.shape[1] - n_own
    _, cache = random_gpt2.run_with_cache(batch)
    seen: dict[int, int] = {}
    for layer, block in enumerate(random_gpt2.blocks):
        monkeypatch.setattr(block.mlp, "forward", counting(block.mlp.forward, seen, layer))
    value, values = base.run_other(batch, "z", shared)
    assert seen == dict.fromkeys(range(3), n_own)
    assert (value - metrics.logit(5)(random_gpt2(batch))).abs().max() < TOLERANCE
    assert (values[1] - cache["z", 1])[:, shared:].abs().max() < TOLERANCE


def counting(forward, seen: dict[int, int], layer: int):
    def counted(x: torch.Tensor, at: object) -> torch.Tensor:
        seen[layer] = seen.get(layer, 0) + x.shape[0] * x.shape[1]
        return forward(x, at)

    return counted


def test_a_cancelled_run_keeps_what_is_finished(random_gpt2: HookedGPT2) -> None:
    base = base_of(random_gpt2)
    edits = [
        Edit("resid_pre", layer, (1,), torch.ones(1, 1, random_gpt2.cfg.d_model))
        for layer in (2, 0, 1)
    ]
    branches = [Branch(cell, (0,), (edit,)) for cell, edit in enumerate(edits)]
    whole = evaluate(base, branches, 3)
    few = evaluate(base, branches, 3, max_memory=12_000, progress=lambda steps, _: steps[:2])
    assert few.finished.tolist() == [False, True, True]
    assert (few.values[1:] - whole.values[1:]).abs().max() < TOLERANCE
    assert bool(few.values[0].isnan().all())


def test_too_little_memory_for_one_branch_says_how_much_it_needs(random_gpt2: HookedGPT2) -> None:
    edit = Edit("resid_pre", 0, (1,), torch.ones(1, 1, random_gpt2.cfg.d_model))
    with pytest.raises(
        PromptError, match=r"One branch needs 0\.\d+ MiB, and max_memory is 9\.5e-05 MiB"
    ):
        evaluate(base_of(random_gpt2), [Branch(0, (0,), (edit,))], 1, max_memory=100)


def test_a_metric_that_is_not_finite_names_the_examples(random_gpt2: HookedGPT2) -> None:
    def reduce(read: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, float("nan"), float("inf")])

    batch = random_gpt2.as_batch(["I", "The", "black"])
    with pytest.raises(PromptError, match=r"broken is not finite in examples \[1, 2\]"):
        BaseRun(random_gpt2, batch, Metric("broken", "logits", reduce))


def test_a_metric_outside_the_vocabulary_is_an_error(random_gpt2: HookedGPT2) -> None:
    with pytest.raises(PromptError, match="reads token 340; the model has 340"):
        BaseRun(random_gpt2, random_gpt2.as_batch("I"), metrics.logit(340))


def test_one_row_of_positions_serves_all_prompts(random_gpt2: HookedGPT2) -> None:
    texts = ["The cat is black.", "I love the color"]
    shared = BaseRun(random_gpt2, random_gpt2.as_batch(texts), metrics.logit(5, positions=[2]))
    alone = [metrics.logit(5, positions=2)(random_gpt2(text)) for text in texts]
    assert (shared.value - torch.cat(alone)).abs().max() < TOLERANCE


def test_a_base_run_refuses_padding_on_the_left(random_gpt2: HookedGPT2) -> None:
    mask = torch.tensor([[False, True, True]])
    with pytest.raises(PromptError, match="padded on the right"):
        BaseRun(random_gpt2, TokenBatch(torch.tensor([[0, 5, 6]]), mask), metrics.logit(5))


def test_a_base_run_refuses_hooks(random_gpt2: HookedGPT2) -> None:
    with (
        pytest.raises(HookError, match=r"Leave the model\.hooks block"),
        random_gpt2.hooks([("hook_embed", lambda value, hook: None)]),
    ):
        base_of(random_gpt2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_as_exact_as_their_rounding(dtype: torch.dtype) -> None:
    model = random_model(0, 3, 2).to(dtype)
    batch = TokenBatch(torch.arange(1, 13).reshape(2, 6), torch.ones(2, 6, dtype=torch.bool))
    metric = metrics.logit_diff([1, 2], [3, 4])
    edits = [Edit("z", 1, (1, 2), torch.ones(2, 2, 6, dtype=dtype), 1)]
    outcome = evaluate(BaseRun(model, batch, metric), [Branch(0, (0, 1), tuple(edits))], 1)
    expected = plain_run(model, batch, edits, [0, 1], metric)
    tolerance = {torch.float64: 1e-10, torch.bfloat16: 0.3}[dtype]
    assert outcome.values.dtype == expected.dtype
    assert (outcome.values[0] - expected).abs().max() < tolerance
