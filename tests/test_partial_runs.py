"""Runs of a part of the model, or of a part of the prompt, equal that part of the whole run."""

import pytest
import torch
from torch import Tensor

from interp.errors import CacheError, HookError, PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, axes_of, split_name
from interp.model.key_values import KeyValueCache
from interp.model.tokens import TokenBatch
from tests.comparison import assert_close

N_LAYERS = 3
TOKENS = torch.arange(2, 26).reshape(3, 8)
SHORTER = TokenBatch(TOKENS, torch.arange(8) < torch.tensor([[8], [3], [5]]))
LEFT = TokenBatch(TOKENS, torch.arange(8) >= torch.tensor([[0], [5], [3]]))


class CountedBlocks:
    """Counts the blocks that run."""

    def __init__(self, model: HookedGPT2) -> None:
        self.layers: list[int] = []
        self._handles = [
            block.register_forward_pre_hook(lambda *_, layer=layer: self.layers.append(layer))
            for layer, block in enumerate(model.blocks)
        ]

    def __enter__(self) -> list[int]:
        return self.layers

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


# Layers


@pytest.mark.parametrize("start", range(N_LAYERS + 1))
def test_a_run_from_a_layer_skips_those_below(random_gpt2: HookedGPT2, start: int) -> None:
    logits, cache = random_gpt2.run_with_cache(TOKENS)
    stream = cache["resid_post", -1] if start == N_LAYERS else cache["resid_pre", start]
    with CountedBlocks(random_gpt2) as layers:
        continued = random_gpt2(stream, start_at_layer=start)
    assert_close(continued, logits)
    assert layers == list(range(start, N_LAYERS))


@pytest.mark.parametrize("stop", range(N_LAYERS + 1))
def test_a_run_to_a_layer_skips_those_above(random_gpt2: HookedGPT2, stop: int) -> None:
    _, cache = random_gpt2.run_with_cache(TOKENS)
    expected = cache["resid_post", -1] if stop == N_LAYERS else cache["resid_pre", stop]
    with CountedBlocks(random_gpt2) as layers:
        stream, part = random_gpt2.run_with_cache(TOKENS, stop_at_layer=stop)
    assert torch.equal(stream, expected)
    assert layers == list(range(stop))
    reached = range(stop)
    assert {split_name(name)[0] for name in part} - {None} == set(reached)
    assert torch.equal(random_gpt2(TOKENS, return_type=None, stop_at_layer=stop), expected)


@pytest.mark.parametrize(
    ("names", "last_layer", "mlp_runs"),
    [
        (["hook_embed"], None, 0),
        (["blocks.1.hook_resid_pre"], 1, 1),
        (["blocks.1.attn.hook_z", "blocks.0.mlp.hook_post"], 1, 1),
        (["blocks.0.hook_resid_mid"], 0, 0),
        (["blocks.2.hook_mlp_out"], 2, 3),
        (["ln_final.hook_normalized"], 2, 3),
    ],
)
def test_a_recording_ends_the_run_when_it_has_everything(
    random_gpt2: HookedGPT2, names: list[str], last_layer: int | None, mlp_runs: int
) -> None:
    _, cache = random_gpt2.run_with_cache(SHORTER, names_filter=names)
    mlps = []
    handles = [
        block.mlp.register_forward_pre_hook(lambda *_: mlps.append(1))
        for block in random_gpt2.blocks
    ]
    with CountedBlocks(random_gpt2) as layers:
        values = random_gpt2.record(SHORTER, names)
    for handle in handles:
        handle.remove()
    assert values.keys() == set(names)
    assert all(torch.equal(values[name], cache[name]) for name in names)
    assert layers == list(range(last_layer + 1)) if last_layer is not None else layers == []
    assert len(mlps) == mlp_runs


def test_a_recording_does_not_cut_off_the_hooks_around_it(random_gpt2: HookedGPT2) -> None:
    seen = []
    look = ("blocks.2.hook_mlp_out", lambda value, hook: seen.append(hook.name))
    with random_gpt2.hooks([look]):
        values = random_gpt2.record(TOKENS, "hook_embed")
    assert seen == ["blocks.2.hook_mlp_out"]
    assert list(values) == ["hook_embed"]


def test_a_recording_needs_every_name(random_gpt2: HookedGPT2) -> None:
    stream = random_gpt2.record(TOKENS, "blocks.1.hook_resid_pre")["blocks.1.hook_resid_pre"]
    with pytest.raises(HookError, match=r"never fired: blocks\.0\.hook_mlp_out"):
        random_gpt2.record(stream, "blocks.*.hook_mlp_out", start_at_layer=1)


def test_negative_layers_count_from_the_end(random_gpt2: HookedGPT2) -> None:
    _, cache = random_gpt2.run_with_cache(TOKENS)
    stream = random_gpt2(cache["resid_pre", 1], start_at_layer=-2, stop_at_layer=-1)
    assert torch.equal(stream, cache["resid_pre", 2])


def test_a_padded_run_continues_with_its_mask(random_gpt2: HookedGPT2) -> None:
    for batch in (SHORTER, LEFT):
        logits, cache = random_gpt2.run_with_cache(batch)
        options = {"start_at_layer": 1, "attention_mask": batch.attention_mask}
        assert_close(random_gpt2(cache["resid_pre", 1], **options), logits)
        whole_numbers = options | {"attention_mask": batch.attention_mask.long()}
        assert_close(random_gpt2(cache["resid_pre", 1], **whole_numbers), logits)
        last = random_gpt2(cache["resid_pre", 1], positions="last", **options)
        assert_close(last, random_gpt2(batch, positions="last"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_at_layer": 4}, "start_at_layer is 4; the model has layers 0-2"),
        ({"stop_at_layer": -4}, "stop_at_layer is -4; the model has layers 0-2"),
        ({"start_at_layer": 2, "stop_at_layer": 1}, "start_at_layer 2 comes after stop_at_layer 1"),
    ],
)
def test_layers_that_do_not_exist_are_an_error(
    random_gpt2: HookedGPT2, options: dict, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        random_gpt2(torch.zeros(1, 3, 24), **options)


@pytest.mark.parametrize("start", [TOKENS, "The cat", torch.zeros(3, 8, 23), torch.zeros(8, 24)])
def test_a_run_from_a_layer_takes_a_stream(random_gpt2: HookedGPT2, start: object) -> None:
    with pytest.raises(PromptError, match=r"a residual stream of shape \[batch, pos, 24\]"):
        random_gpt2(start, start_at_layer=1)


# A prefix in a key-value cache


@pytest.mark.parametrize("n_prefix", [1, 4, 7])
def test_a_run_after_a_prefix_equals_the_whole_run(our_model: HookedGPT2, n_prefix: int) -> None:
    logits, cache = our_model.run_with_cache(TOKENS)
    past = KeyValueCache()
    before = our_model(TOKENS[:, :n_prefix], past_kv_cache=past)
    assert past.length == n_prefix
    after, part = our_model.run_with_cache(TOKENS[:, n_prefix:], past_kv_cache=past)
    assert past.length == 8
    assert_close(torch.cat([before, after], dim=1), logits)
    assert list(part) == list(cache)
    for name in part:
        axes = axes_of(name)
        dim = axes.index("query_pos" if "query_pos" in axes else "pos")
        ours, expected = part[name], cache[name].narrow(dim, n_prefix, 8 - n_prefix)
        if name.endswith("attn_scores"):
            ours, expected = ours.exp(), expected.exp()
        assert_close(ours, expected)


def test_a_prompt_may_be_read_token_by_token(random_gpt2: HookedGPT2) -> None:
    past = KeyValueCache()
    steps = [random_gpt2(TOKENS[:, [index]], past_kv_cache=past) for index in range(8)]
    assert_close(torch.cat(steps, dim=1), random_gpt2(TOKENS))


def test_a_frozen_prefix_serves_many_batches(random_gpt2: HookedGPT2) -> None:
    prefix = TOKENS[:1, :4]
    _, cache = random_gpt2.run_with_cache(prefix)
    past = KeyValueCache.from_activations(cache, 4)
    with_prefix = torch.cat([prefix.expand(3, -1), TOKENS[:, 4:]], dim=1)
    expected = random_gpt2(with_prefix)[:, 4:]
    for _ in range(2):
        assert_close(random_gpt2(TOKENS[:, 4:], past_kv_cache=past), expected)
        assert past.length == 4
    edit = [("blocks.2.attn.hook_pattern", lambda pattern, hook: pattern.flip(0))]
    flipped = random_gpt2.run_with_hooks(with_prefix, fwd_hooks=edit)[:, 4:]
    assert_close(
        random_gpt2.run_with_hooks(TOKENS[:, 4:], fwd_hooks=edit, past_kv_cache=past), flipped
    )


def test_a_prefix_is_taken_from_a_longer_run_or_a_single_example(random_gpt2: HookedGPT2) -> None:
    logits, cache = random_gpt2.run_with_cache(TOKENS)
    past = KeyValueCache.from_activations(cache, 5)
    assert_close(random_gpt2(TOKENS[:, 5:], past_kv_cache=past), logits[:, 5:])
    past = KeyValueCache.from_activations(cache.slice(batch=0), 5)
    assert_close(random_gpt2(TOKENS[:1, 5:], past_kv_cache=past), logits[:1, 5:])
    for n_positions in (0, 9):
        with pytest.raises(CacheError, match=f"has 8 positions, not {n_positions}"):
            KeyValueCache.from_activations(cache, n_positions)


def test_a_prefix_with_padding_needs_the_mask_of_both(random_gpt2: HookedGPT2) -> None:
    logits = random_gpt2(LEFT)
    _, cache = random_gpt2.run_with_cache(TokenBatch(TOKENS[:, :6], LEFT.attention_mask[:, :6]))
    past = KeyValueCache.from_activations(cache, 6)
    options = {"past_kv_cache": past, "attention_mask": LEFT.attention_mask}
    assert_close(random_gpt2(TOKENS[:, 6:], **options), logits[:, 6:])
    assert_close(random_gpt2(TOKENS[:, 6:], positions="last", **options), logits[:, -1:])


def test_a_run_that_fails_leaves_the_prefix_as_it_was(random_gpt2: HookedGPT2) -> None:
    def fail(value: Tensor, hook: Hook) -> None:
        raise ZeroDivisionError

    past = KeyValueCache()
    random_gpt2(TOKENS[:, :4], past_kv_cache=past)
    for name in ("blocks.1.hook_mlp_out", "ln_final.hook_scale"):
        with pytest.raises(HookError, match="ZeroDivisionError"):
            random_gpt2.run_with_hooks(TOKENS[:, 4:], [(name, fail)], past_kv_cache=past)
    with pytest.raises(HookError, match="never fired"):
        random_gpt2.run_with_hooks(
            TOKENS[:, 4:], [("blocks.1.hook_mlp_out", fail)], past_kv_cache=past, stop_at_layer=1
        )
    assert past.length == 4
    assert_close(random_gpt2(TOKENS[:, 4:], past_kv_cache=past), random_gpt2(TOKENS)[:, 4:])


def test_a_prefix_that_does_not_fit_is_an_error(random_gpt2: HookedGPT2) -> None:
    past = KeyValueCache()
    random_gpt2(TOKENS[:2], past_kv_cache=past)
    with pytest.raises(PromptError, match="The prefix has 2 examples, the input 3"):
        random_gpt2(TOKENS, past_kv_cache=past)
    random_gpt2(TOKENS[:2], past_kv_cache=past)
    with pytest.raises(PromptError, match="The prompt has 36 tokens; the model takes 32"):
        random_gpt2(torch.ones(2, 20, dtype=torch.long), past_kv_cache=past)
    with pytest.raises(PromptError, match="A loss needs the tokens and the logits"):
        random_gpt2(TOKENS[:2], past_kv_cache=past, return_type="loss")


@pytest.mark.parametrize("part", [{"stop_at_layer": 1}, {"start_at_layer": 1}])
def test_a_prefix_of_some_layers_does_not_serve_the_others(
    random_gpt2: HookedGPT2, part: dict[str, int]
) -> None:
    _, cache = random_gpt2.run_with_cache(TOKENS)
    whole = cache["resid_pre", 1] if "start_at_layer" in part else TOKENS
    expected = random_gpt2(whole, **part)
    past = KeyValueCache()
    random_gpt2(whole[:, :4], past_kv_cache=past, **part)
    assert_close(random_gpt2(whole[:, 4:], past_kv_cache=past, **part), expected[:, 4:])
    with pytest.raises(PromptError, match="more of the prefix in some layers than in others"):
        random_gpt2(TOKENS, past_kv_cache=past)
    past = KeyValueCache()
    random_gpt2(TOKENS[:, :4], past_kv_cache=past)
    random_gpt2(whole[:, 4:], past_kv_cache=past, **part)
    with pytest.raises(PromptError, match="more of the prefix in some layers than in others"):
        random_gpt2(TOKENS, past_kv_cache=past)


def test_queries_and_keys_after_a_prefix_give_no_pattern(random_gpt2: HookedGPT2) -> None:
    past = KeyValueCache()
    random_gpt2(TOKENS[:, :4], past_kv_cache=past)
    names = ["blocks.0.attn.hook_q", "blocks.0.attn.hook_k"]
    _, cache = random_gpt2.run_with_cache(TOKENS[:, 4:], names_filter=names, past_kv_cache=past)
    assert list(cache) == names


# Positions


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (0, [[0], [0], [0]]),
        (-1, [[7], [7], [7]]),
        ([2, -3], [[2, 5], [2, 5], [2, 5]]),
        ([], [[], [], []]),
        ("last", [[7], [7], [7]]),
        (torch.tensor([[1], [7], [0]]), [[1], [7], [0]]),
        (torch.tensor([[1, 2], [7, -8], [0, 0]]), [[1, 2], [7, 0], [0, 0]]),
    ],
)
def test_logits_at_chosen_positions_are_those_of_the_whole(
    random_gpt2: HookedGPT2, positions: object, expected: list
) -> None:
    whole = random_gpt2(TOKENS)
    rows = torch.stack(
        [whole[i, torch.tensor(chosen, dtype=torch.long)] for i, chosen in enumerate(expected)]
    )
    chosen = random_gpt2(TOKENS, positions=positions)
    assert chosen.shape == rows.shape
    if rows.numel():
        assert_close(chosen, rows)


def test_the_last_position_is_the_last_real_token(random_gpt2: HookedGPT2) -> None:
    whole = random_gpt2(SHORTER)
    last = random_gpt2(SHORTER, positions="last")
    assert_close(last[:, 0], whole[torch.arange(3), torch.tensor([7, 2, 4])])
    assert_close(random_gpt2(LEFT, positions="last")[:, 0], random_gpt2(LEFT)[:, -1])
    with pytest.raises(PromptError, match=r'In a padded batch the last .* Use positions="last"'):
        random_gpt2(SHORTER, positions=-1)
    assert_close(random_gpt2(SHORTER, positions=1), whole[:, 1:2])


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (8, "Position 8 is outside the prompt of 8 tokens"),
        ([0, -9], "Position -9 is outside"),
        (torch.tensor([[1], [8], [0]]), "Position 8 is outside"),
        (torch.tensor([[1], [2]]), r"shape \[3, chosen\].*; got torch.int64 of shape \[2, 1\]"),
        (torch.tensor([1, 2, 3]), r"got torch.int64 of shape \[3\]"),
        (torch.tensor([[1.0], [2.0], [0.0]]), "must be whole numbers .* got torch.float32"),
    ],
)
def test_positions_that_do_not_exist_are_an_error(
    random_gpt2: HookedGPT2, positions: object, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        random_gpt2(TOKENS, positions=positions)
