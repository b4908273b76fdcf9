"""Every intermediate value can be read and edited; a hook that cannot work is an error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.errors import HookError, PromptError, UnknownHookError
from interp.model.cache import ActivationCache
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import (
    HOOK_POINTS,
    Hook,
    block_name,
    full_name,
    hook_names,
    resolve_name,
    select_names,
    split_name,
)
from tests.comparison import FLOAT32, assert_close, difference

N_LAYERS = 3
NAMES = hook_names(N_LAYERS, optional=True)
TOKENS = torch.arange(2, 18).reshape(2, 8)
OTHER_TOKENS = torch.arange(60, 76).reshape(2, 8)
Q0 = "blocks.0.attn.hook_q"

every_name = pytest.mark.parametrize("name", NAMES)


def add_noise(value: Tensor, hook: Hook) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return value + torch.randn(value.shape, generator=generator)


def patch_from(cache: ActivationCache) -> Callable[[Tensor, Hook], Tensor]:
    """Replace a value by the one of another run."""
    return lambda value, hook: cache[hook.name]


@pytest.fixture(scope="module")
def trainable(random_gpt2: HookedGPT2) -> HookedGPT2:
    """The same weights, with gradients."""
    return HookedGPT2.from_weights(random_gpt2.cfg, dict(random_gpt2.state_dict())).requires_grad_()


# Names


def test_names_are_listed_in_the_order_in_which_they_fire(random_gpt2: HookedGPT2) -> None:
    fired: list[str] = []
    shared = [name for name in NAMES if "_input" not in name and "attn_in" not in name]
    random_gpt2.run_with_hooks(
        TOKENS, fwd_hooks=[(shared, lambda value, hook: fired.append(hook.name))]
    )
    in_parallel = {"ln1.hook_scale": 0, "ln1.hook_normalized": 0}
    assert sorted(fired) == sorted(shared)
    order = [name for name in fired if split_name(name)[1] not in in_parallel]
    assert order == [name for name in shared if split_name(name)[1] not in in_parallel]


@every_name
def test_a_name_resolves_to_itself_and_its_parts(name: str) -> None:
    layer, kind = split_name(name)
    assert resolve_name(name, N_LAYERS) == name
    assert name == (kind if layer is None else block_name(layer, kind))


@pytest.mark.parametrize("point", [point for point in HOOK_POINTS if point.alias])
def test_a_canonical_name_means_the_classic_one(point: Any) -> None:
    prefix = "blocks.1." if point.in_block else ""
    assert resolve_name(prefix + point.alias, N_LAYERS) == prefix + point.name


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        (("q", 2), "blocks.2.attn.hook_q"),
        (("pattern", 1), "blocks.1.attn.hook_pattern"),
        (("attn", 1), "blocks.1.attn.hook_pattern"),
        (("resid_pre", 0), "blocks.0.hook_resid_pre"),
        (("pre", 2), "blocks.2.mlp.hook_pre"),
        (("scale", 2, "ln1"), "blocks.2.ln1.hook_scale"),
        (("embed",), "hook_embed"),
        (("scale",), "ln_final.hook_scale"),
        (("q2",), "blocks.2.attn.hook_q"),
        (("scale1ln2",), "blocks.1.ln2.hook_scale"),
        (("mlp_out", 11), "blocks.11.hook_mlp_out"),
    ],
)
def test_short_names_are_those_of_transformer_lens(short: tuple, expected: str) -> None:
    from transformer_lens.utilities import get_act_name

    assert full_name(*short) == expected
    assert get_act_name(*short) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("blocks.1.attn.hook_patern", r"Did you mean 'blocks.1.attn.hook_pattern'.* 0-2"),
        ("blocks.7.attn.hook_q", "is in layer 7, which does not exist. Layers are 0-2"),
        ("attn.hook_q", "Did you mean .*attn.hook_q'"),
        ("blocks.0.hook_embed", "Unknown hook"),
        ("nonsense", "Unknown hook 'nonsense'. Layers are 0-2"),
        ([Q0, "blocks.0.attn.hook_qq"], "Unknown hook 'blocks.0.attn.hook_qq'"),
        ("blocks.*.hook_qq", r"Unknown hook 'blocks.\*.hook_qq'"),
        (lambda name: "hook_result" in name, "accepts no hook point"),
    ],
)
def test_an_unknown_name_is_an_error_that_shows_the_nearest(
    random_gpt2: HookedGPT2, wrong: Any, message: str
) -> None:
    with pytest.raises(UnknownHookError, match=message):
        random_gpt2.run_with_cache(TOKENS, names_filter=wrong)
    for hooks in ({"fwd_hooks": [(wrong, add_noise)]}, {"bwd_hooks": [(wrong, add_noise)]}):
        with pytest.raises(UnknownHookError, match=message):
            random_gpt2.run_with_hooks(TOKENS, **hooks)


def test_filters_select_by_wildcard_list_and_predicate() -> None:
    queries = [block_name(layer, "attn.hook_q") for layer in range(N_LAYERS)]
    assert select_names("blocks.*.attn.hook_q", N_LAYERS) == queries
    assert select_names(lambda name: name.endswith("hook_q"), N_LAYERS) == queries
    assert select_names([queries[1], "blocks.*.attn.hook_q"], N_LAYERS) == [
        queries[1], queries[0], queries[2],
    ]  # fmt: skip
    assert select_names(None, N_LAYERS) == hook_names(N_LAYERS)
    assert "blocks.0.attn.hook_result" in select_names("blocks.0.*", N_LAYERS)


# Reading and editing


@every_name
def test_an_edit_changes_the_logits(random_gpt2: HookedGPT2, name: str) -> None:
    edited = random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[(name, add_noise)])
    assert difference(edited, random_gpt2(TOKENS)) > 1000 * FLOAT32


@every_name
def test_looking_changes_nothing(random_gpt2: HookedGPT2, name: str) -> None:
    looked = random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda value, hook: None)])
    assert_close(looked, random_gpt2(TOKENS))


@every_name
def test_an_edit_in_place_is_the_same_as_a_returned_one(random_gpt2: HookedGPT2, name: str) -> None:
    def in_place(value: Tensor, hook: Hook) -> None:
        value.copy_(add_noise(value, hook))

    returned = random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[(name, add_noise)])
    assert torch.equal(random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[(name, in_place)]), returned)


@pytest.mark.parametrize("layer", range(N_LAYERS))
@pytest.mark.parametrize("point", ["hook_resid_pre", "hook_resid_mid", "hook_resid_post"])
def test_patching_the_whole_stream_gives_the_other_run(
    random_gpt2: HookedGPT2, layer: int, point: str
) -> None:
    expected, other = random_gpt2.run_with_cache(OTHER_TOKENS)
    patched = random_gpt2.run_with_hooks(
        TOKENS, fwd_hooks=[(block_name(layer, point), patch_from(other))]
    )
    assert_close(patched, expected)


@pytest.mark.parametrize(
    ("patched", "determined"),
    [
        (["hook_attn_in"], "attn.hook_z"),
        (["hook_q_input"], "attn.hook_q"),
        (["hook_k_input"], "attn.hook_k"),
        (["hook_v_input"], "attn.hook_v"),
        (["ln1.hook_normalized"], "attn.hook_z"),
        (["attn.hook_q", "attn.hook_k"], "attn.hook_pattern"),
        (["attn.hook_attn_scores"], "attn.hook_pattern"),
        (["attn.hook_pattern", "attn.hook_v"], "attn.hook_z"),
        (["attn.hook_z"], "hook_attn_out"),
        (["attn.hook_result"], "hook_attn_out"),
        (["hook_attn_out", "hook_resid_pre"], "hook_resid_mid"),
        (["hook_mlp_in"], "hook_mlp_out"),
        (["ln2.hook_normalized"], "mlp.hook_pre"),
        (["mlp.hook_pre"], "mlp.hook_post"),
        (["mlp.hook_post"], "hook_mlp_out"),
        (["hook_mlp_out", "hook_resid_mid"], "hook_resid_post"),
    ],
)
def test_a_patched_value_determines_what_is_computed_from_it(
    random_gpt2: HookedGPT2, patched: list[str], determined: str
) -> None:
    patched, determined = [block_name(1, kind) for kind in patched], block_name(1, determined)
    names = [*patched, determined]
    _, clean = random_gpt2.run_with_cache(TOKENS, names_filter=names)
    _, other = random_gpt2.run_with_cache(OTHER_TOKENS, names_filter=names)
    with random_gpt2.hooks(fwd_hooks=[(patched, patch_from(other))]):
        _, cache = random_gpt2.run_with_cache(TOKENS, names_filter=determined)
    assert_close(cache[determined], other[determined])
    assert difference(clean[determined], other[determined]) > 0.1


def test_patching_both_embeddings_gives_the_other_run(random_gpt2: HookedGPT2) -> None:
    reversed_tokens, embeddings = OTHER_TOKENS.flip(1), ["hook_embed", "hook_pos_embed"]
    expected, other = random_gpt2.run_with_cache(reversed_tokens)
    _, clean = random_gpt2.run_with_cache(TOKENS)
    with random_gpt2.hooks(fwd_hooks=[("hook_pos_embed", lambda value, hook: 0 * value)]):
        _, without_positions = random_gpt2.run_with_cache(TOKENS)
    patched = random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[(embeddings, patch_from(other))])
    assert_close(patched, expected)
    assert torch.equal(without_positions["resid_pre", 0], clean["embed"])


def test_zeroing_a_head_removes_its_part_of_the_output(random_gpt2: HookedGPT2) -> None:
    layer, head = 1, 2
    z_name, out_name = block_name(layer, "attn.hook_z"), block_name(layer, "hook_attn_out")

    def zero_head(z: Tensor, hook: Hook) -> None:
        z[:, :, head] = 0

    _, cache = random_gpt2.run_with_cache(TOKENS)
    part = cache["z", layer][:, :, head] @ random_gpt2.W_O[layer, head]
    zeroed = random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[(z_name, zero_head)])
    subtracted = random_gpt2.run_with_hooks(
        TOKENS, fwd_hooks=[(out_name, lambda value, hook: value - part)]
    )
    assert_close(zeroed, subtracted)


def test_a_pattern_of_the_identity_copies_each_value(random_gpt2: HookedGPT2) -> None:
    def look_at_itself(pattern: Tensor, hook: Hook) -> Tensor:
        return torch.eye(pattern.shape[-1]).expand_as(pattern)

    with random_gpt2.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", look_at_itself)]):
        _, cache = random_gpt2.run_with_cache(TOKENS)
    assert torch.equal(cache["z", 1], cache["v", 1])


def test_doubling_a_scale_halves_the_normalized_stream(random_gpt2: HookedGPT2) -> None:
    _, clean = random_gpt2.run_with_cache(TOKENS)
    for name in ("blocks.1.ln1", "blocks.1.ln2", "ln_final"):
        with random_gpt2.hooks(fwd_hooks=[(f"{name}.hook_scale", lambda scale, hook: 2 * scale)]):
            _, cache = random_gpt2.run_with_cache(TOKENS)
        assert_close(2 * cache[f"{name}.hook_normalized"], clean[f"{name}.hook_normalized"])


def test_hooks_at_one_point_run_in_order_and_see_each_other(random_gpt2: HookedGPT2) -> None:
    name = "blocks.1.hook_resid_post"
    double = (name, lambda value, hook: 2 * value)
    add_one = (name, lambda value, hook: value + 1)
    with random_gpt2.hooks(fwd_hooks=[double]):
        _, cache = random_gpt2.run_with_cache(TOKENS)
        with random_gpt2.hooks(fwd_hooks=[add_one]):
            _, both = random_gpt2.run_with_cache(TOKENS)
        _, after = random_gpt2.run_with_cache(TOKENS)
    assert torch.equal(both[name], cache[name] + 1)
    assert torch.equal(after[name], cache[name])
    assert_close(cache[name], 2 * random_gpt2.run_with_cache(TOKENS)[1][name])


def test_hooks_of_one_model_do_not_run_in_another(random_gpt2: HookedGPT2) -> None:
    twin = HookedGPT2.from_weights(random_gpt2.cfg, dict(random_gpt2.state_dict()))
    clean = random_gpt2(TOKENS)
    with random_gpt2.hooks(fwd_hooks=[(Q0, add_noise)]):
        assert torch.equal(twin(TOKENS), clean)
        assert not torch.equal(random_gpt2(TOKENS), clean)
        with twin.hooks(fwd_hooks=[(Q0, add_noise)]):
            assert torch.equal(twin(TOKENS), random_gpt2(TOKENS))


def test_a_hook_knows_its_name_layer_and_call(random_gpt2: HookedGPT2) -> None:
    seen = []

    def count(value: Tensor, hook: Hook) -> None:
        hook.ctx["n"] = hook.ctx.get("n", 0) + 1
        seen.append((hook.name, hook.layer(), hook.ctx["n"]))

    with random_gpt2.hooks(fwd_hooks=[("blocks.*.attn.hook_z", count)]):
        random_gpt2(TOKENS)
        random_gpt2(TOKENS)
    one_call = [(block_name(layer, "attn.hook_z"), layer, layer + 1) for layer in range(N_LAYERS)]
    assert seen == one_call + one_call
    with pytest.raises(HookError, match="'hook_embed' is not in a block"):
        Hook("hook_embed").layer()


# Gradients


@every_name
def test_a_backward_hook_sees_and_edits_the_gradient(trainable: HookedGPT2, name: str) -> None:
    asked = {"names_filter": name, "return_type": "loss", "incl_bwd": True}
    _, cache = trainable.run_with_cache(TOKENS, **asked)
    seen = []

    def remove(gradient: Tensor, hook: Hook) -> Tensor:
        seen.append(gradient)
        return torch.zeros_like(gradient)

    embeddings = [trainable.embed.W_E, trainable.pos_embed.W_pos]
    clean = torch.autograd.grad(trainable(TOKENS, return_type="loss"), embeddings)
    loss = trainable.run_with_hooks(TOKENS, bwd_hooks=[(name, remove)], return_type="loss")
    edited = torch.autograd.grad(loss, embeddings)
    assert len(seen) == 1
    assert_close(seen[0], cache[f"{name}_grad"])
    changes = [difference(a, b) for a, b in zip(edited, clean, strict=True)]
    assert max(changes) > 100 * FLOAT32


def test_gradients_reach_activations_of_a_model_with_frozen_weights(
    random_gpt2: HookedGPT2, trainable: HookedGPT2
) -> None:
    asked = {"return_type": "loss", "incl_bwd": True}
    _, frozen = random_gpt2.run_with_cache(TOKENS, **asked)
    _, with_weights = trainable.run_with_cache(TOKENS, **asked)
    assert len([name for name in frozen if name.endswith("_grad")]) == len(hook_names(N_LAYERS))
    for name in frozen:
        assert_close(frozen[name].nan_to_num(), with_weights[name].nan_to_num())
    assert not any(value.requires_grad for value in frozen.values())


@every_name
def test_a_gradient_predicts_the_effect_of_a_small_edit(random_gpt2: HookedGPT2, name: str) -> None:
    weights = {name: x.double() for name, x in random_gpt2.state_dict().items()}
    model = HookedGPT2.from_weights(random_gpt2.cfg, weights)
    asked = {"return_type": "loss", "incl_bwd": True, "names_filter": name}
    loss, cache = model.run_with_cache(TOKENS, **asked)
    generator = torch.Generator().manual_seed(0)
    step = 1e-6 * torch.randn(cache[name].shape, dtype=torch.float64, generator=generator)
    nudge = (name, lambda value, hook: value + step)
    nudged = model.run_with_hooks(TOKENS, fwd_hooks=[nudge], return_type="loss")
    assert_close(nudged - loss, (cache[f"{name}_grad"] * step).sum(), 1e-4)


# Errors


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (lambda q: q[:, :1], r"returned shape \(2, 1, 4, 6\); expected \(2, 8, 4, 6\)"),
        (lambda q: q[..., :3], r"expected \(2, 8, 4, 6\) \(batch pos head d_head\)"),
        (lambda q: q.double(), "returned dtype torch.float64; expected torch.float32"),
        (lambda q: q.to("meta"), "returned device meta; expected cpu"),
        (lambda q: "q", "returned str; return a tensor, or None"),
        (lambda q: q.numpy(), "returned ndarray; return a tensor"),
    ],
)
def test_a_replacement_that_does_not_fit_names_the_hook_and_both(
    trainable: HookedGPT2, replacement: Callable[[Tensor], Any], message: str
) -> None:
    def hook(value: Tensor, hook: Hook) -> Any:
        return replacement(value.detach())

    with pytest.raises(HookError, match=message):
        trainable.run_with_hooks(TOKENS, fwd_hooks=[(Q0, hook)])
    with pytest.raises(HookError, match=message):
        trainable.run_with_hooks(TOKENS, bwd_hooks=[(Q0, hook)], return_type="loss").backward()


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), HookError("inside")])
def test_a_hook_that_raises_is_named_and_leaves_nothing_behind(
    random_gpt2: HookedGPT2, error: Exception
) -> None:
    clean = random_gpt2(TOKENS)

    def fail(value: Tensor, hook: Hook) -> None:
        value.zero_()
        raise error

    with pytest.raises(HookError, match=f"'{Q0}' raised {type(error).__name__}: {error}") as info:
        random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[("hook_embed", add_noise), (Q0, fail)])
    assert info.value.__cause__ is error
    assert torch.equal(random_gpt2(TOKENS), clean)


def test_an_interrupt_passes_through_a_hook(random_gpt2: HookedGPT2) -> None:
    def interrupt(value: Tensor, hook: Hook) -> None:
        raise KeyboardInterrupt

    clean = random_gpt2(TOKENS)
    with pytest.raises(KeyboardInterrupt):
        random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[(Q0, interrupt)])
    assert torch.equal(random_gpt2(TOKENS), clean)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"stop_at_layer": 1}, "blocks.1.attn.hook_q"),
        ({"stop_at_layer": 3}, "ln_final.hook_scale"),
        ({"start_at_layer": 1}, Q0),
        ({"start_at_layer": 1}, [Q0, "blocks.2.attn.hook_q"]),
        ({"start_at_layer": 1}, "blocks.0.*"),
        ({"start_at_layer": 1}, lambda name: name.startswith("blocks.0")),
    ],
)
def test_a_hook_that_never_ran_is_an_error(
    random_gpt2: HookedGPT2, options: dict[str, int], name: Any
) -> None:
    _, cache = random_gpt2.run_with_cache(TOKENS)
    start = cache["resid_pre", 1] if "start_at_layer" in options else TOKENS
    message = "never fired: (blocks.0|blocks.1.attn.hook_q|ln_final.hook_scale)"
    with pytest.raises(HookError, match=message):
        random_gpt2.run_with_hooks(start, fwd_hooks=[(name, add_noise)], **options)
    with pytest.raises(HookError, match=message):
        random_gpt2.run_with_cache(start, names_filter=name, **options)


@pytest.mark.parametrize(
    "names", ["blocks.*.attn.hook_q", lambda name: name.endswith("hook_q"), None]
)
def test_a_run_of_a_part_may_skip_some_names_of_a_wildcard(
    random_gpt2: HookedGPT2, names: Any
) -> None:
    stop = {"stop_at_layer": 2}
    _, cache = random_gpt2.run_with_cache(TOKENS, names_filter=names, **stop)
    assert [name for name in cache if name.endswith("hook_q")] == [Q0, "blocks.1.attn.hook_q"]
    edited = random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[(names, add_noise)], **stop)
    assert not torch.equal(edited, random_gpt2(TOKENS, **stop))


def test_hooks_around_no_run_are_an_error(random_gpt2: HookedGPT2) -> None:
    with (
        pytest.raises(HookError, match="the block ended without a run of this model"),
        random_gpt2.hooks(fwd_hooks=[(Q0, add_noise)]),
    ):
        pass
    with random_gpt2.hooks():
        pass
    with pytest.raises(ZeroDivisionError), random_gpt2.hooks(fwd_hooks=[(Q0, add_noise)]):
        raise ZeroDivisionError


@pytest.mark.parametrize("norm", ["ln1.hook_scale", "ln1.hook_normalized"])
@pytest.mark.parametrize("split", ["hook_attn_in", "hook_q_input", "hook_v_input"])
def test_editing_a_norm_whose_readers_are_split_is_an_error(
    random_gpt2: HookedGPT2, norm: str, split: str
) -> None:
    hooks = [(block_name(1, norm), add_noise), (block_name(1, split), add_noise)]
    with pytest.raises(HookError, match="an edit or gradient of the shared ln1"):
        random_gpt2.run_with_hooks(TOKENS, fwd_hooks=hooks)
    both = [block_name(1, norm), block_name(1, split)]
    with pytest.raises(HookError, match="an edit or gradient of the shared ln1"):
        random_gpt2.run_with_cache(TOKENS, names_filter=both, return_type="loss", incl_bwd=True)
    random_gpt2.run_with_cache(TOKENS, names_filter=both)
    elsewhere = [(block_name(0, norm), add_noise), (block_name(1, split), add_noise)]
    random_gpt2.run_with_hooks(TOKENS, fwd_hooks=elsewhere)


def test_gradients_without_autograd_are_an_error(random_gpt2: HookedGPT2) -> None:
    with torch.no_grad(), pytest.raises(HookError, match=f"{Q0}.*autograd is off"):
        random_gpt2.run_with_hooks(TOKENS, bwd_hooks=[(Q0, add_noise)])
    with pytest.raises(HookError, match='use return_type="loss"'):
        random_gpt2.run_with_cache(TOKENS, incl_bwd=True)


def test_an_option_that_does_not_exist_is_an_error(random_gpt2: HookedGPT2) -> None:
    with pytest.raises(TypeError, match=r"'atention_mask'\. Did you mean 'attention_mask'"):
        random_gpt2(TOKENS, atention_mask=None)
    with pytest.raises(TypeError, match="no option 'past'"):
        random_gpt2.run_with_cache(TOKENS, past=None)
    with pytest.raises(PromptError, match='must be "logits", "loss", "both" or None'):
        random_gpt2(TOKENS, return_type="probs")
