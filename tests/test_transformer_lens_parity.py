"""Every hook point holds the value, and the gradient, that TransformerLens' point of that name holds.

The same weights run in TransformerLens 4.3's bridge. It ignores `scale_attn_weights=False`, so that
configuration is compared with Hugging Face only.
"""  # noqa: E501

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import HOOK_POINTS, HookPoint, block_name, hook_names, split_name
from tests.comparison import FLOAT32, assert_close, difference
from tests.conftest import CONFIGURATIONS

TOKENS = torch.arange(2, 22).reshape(2, 10)
UNDERSTOOD = [name for name in CONFIGURATIONS if name != "unscaled"]
"""Configurations whose numbers TransformerLens gets right."""

SWITCHES = {
    "hook_result": "set_use_attn_result",
    "hook_mlp_in": "set_use_hook_mlp_in",
    "hook_q_input": "set_use_split_qkv_input",
    "hook_k_input": "set_use_split_qkv_input",
    "hook_v_input": "set_use_split_qkv_input",
    "hook_attn_in": "set_use_attn_in",
}
"""Points that the bridge computes only when told to."""


def names_behind(switch: str | None, n_layers: int) -> list[str]:
    """Our names of the points that a switch turns on; without one, those that are always on."""
    names = hook_names(n_layers, optional=True)
    return [name for name in names if SWITCHES.get(name.rpartition(".")[2]) == switch]


def visible(name: str, value: Tensor) -> Tensor:
    """Scores without their masked entries, which are -inf here and the smallest float there."""
    if "attn_scores" not in name:
        return value
    return value.masked_select(torch.ones_like(value, dtype=torch.bool).tril())


def turned_on(bridge: Any, name: str | None) -> Any:
    """The bridge, computing the point of that name."""
    switch = SWITCHES.get((name or "").rpartition(".")[2])
    if switch:
        getattr(bridge, switch)(True)
    return bridge


def same_meaning(name: str) -> str:
    """Our point that their `name` acts on.

    In TransformerLens 4.3 an edit of GPT-2's hook_resid_mid reaches only the MLP and not the
    residual stream, which is what hook_mlp_in is for.
    """
    return name.replace("hook_resid_mid", "hook_mlp_in")


@pytest.mark.parametrize(
    "kind", [None, "hook_result", "hook_mlp_in", "hook_q_input", "hook_attn_in"]
)
@pytest.mark.parametrize("configuration", UNDERSTOOD)
def test_values_and_gradients_agree(
    configuration: str,
    kind: str | None,
    huggingface_models: Callable[[str], GPT2LMHeadModel],
    make_bridge: Callable[[str], Any],
) -> None:
    ours = HookedGPT2.from_huggingface(huggingface_models(configuration))
    bridge = turned_on(make_bridge(configuration), kind)
    names = names_behind(SWITCHES.get(kind or ""), ours.cfg.n_layers)

    asked = {"return_type": "loss", "incl_bwd": True}
    our_names = [*names, *map(same_meaning, names)]
    loss, cache = ours.run_with_cache(TOKENS, names_filter=our_names, **asked)
    their_loss, theirs = bridge.run_with_cache(TOKENS, names_filter=names, **asked)

    assert_close(loss, their_loss)
    for name in names:
        assert_close(visible(name, cache[name]), visible(name, theirs[name]))
        gradient, expected = cache[f"{same_meaning(name)}_grad"], theirs[f"{name}_grad"]
        assert_close(visible(name, gradient), visible(name, expected))
    n_compared = len({split_name(name)[1] for name in names})
    assert n_compared == {None: len(HOOK_POINTS) - len(SWITCHES), "hook_q_input": 3}.get(kind, 1)


@pytest.mark.parametrize("point", HOOK_POINTS, ids=lambda point: point.name)
def test_an_edit_has_the_same_effect(
    point: HookPoint, random_gpt2: HookedGPT2, make_bridge: Callable[[str], Any]
) -> None:
    bridge = turned_on(make_bridge("default"), point.name)
    generator = torch.Generator().manual_seed(0)

    def scale_at_random(value: Tensor, hook: Any) -> Tensor:
        factor = 0.5 + torch.rand(value.shape, generator=generator.manual_seed(0))
        return value * factor.to(value.dtype)

    clean = random_gpt2(TOKENS)
    for name in filter(None, (point.name, point.alias)):
        name = block_name(1, name) if point.in_block else name
        meant = same_meaning(name)
        ours = random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[(meant, scale_at_random)])
        theirs = bridge.run_with_hooks(TOKENS, fwd_hooks=[(name, scale_at_random)])
        assert_close(ours, theirs)
        assert difference(ours, clean) > 100 * FLOAT32


def test_unscaled_attention_equals_huggingface_where_transformer_lens_does_not(
    huggingface_models: Callable[[str], GPT2LMHeadModel], make_bridge: Callable[[str], Any]
) -> None:
    hf_model = huggingface_models("unscaled")
    expected = hf_model(TOKENS).logits
    assert_close(HookedGPT2.from_huggingface(hf_model)(TOKENS), expected)
    assert difference(make_bridge("unscaled")(TOKENS), expected) > 0.01


def test_stacked_weights_agree(random_gpt2: HookedGPT2, make_bridge: Callable[[str], Any]) -> None:
    bridge = make_bridge("default")
    letters = ("E", "pos", "Q", "K", "V", "O", "in", "out", "U")
    weights = [f"W_{letter}" for letter in letters]
    for name in [*weights, *(f"b_{letter}" for letter in letters[2:])]:
        assert torch.equal(getattr(random_gpt2, name), getattr(bridge, name)), name
    for layer, mlp_input in [(0, False), (0, True), (2, True), (3, False)]:
        ours = random_gpt2.accumulated_bias(layer, mlp_input)
        assert_close(ours, bridge.accumulated_bias(layer, mlp_input))
    tokens = torch.tensor([4, 9])
    assert torch.equal(
        random_gpt2.tokens_to_residual_directions(tokens),
        bridge.tokens_to_residual_directions(tokens),
    )
