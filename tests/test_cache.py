"""What a cache holds, derives and refuses; its views of the residual stream."""

import copy
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from interp.errors import CacheError, UnknownHookError
from interp.model.cache import SOURCES, ActivationCache, primary_names
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, hook_names, split_name
from interp.model.tokens import TokenBatch
from tests.comparison import assert_close, difference

N_LAYERS, N_HEADS = 3, 4
TOKENS = torch.arange(2, 18).reshape(2, 8)
LEFT_PADDED = TokenBatch(TOKENS, torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8]).bool())
NAMES = hook_names(N_LAYERS)
DERIVED = [name for name in NAMES if split_name(name)[1] in SOURCES]


def shift(value: Tensor, hook: Hook) -> Tensor:
    return value * 1.5 + 0.25


@pytest.fixture(scope="module")
def cache(random_gpt2: HookedGPT2) -> ActivationCache:
    return random_gpt2.run_with_cache(TOKENS)[1]


# What is derived


@pytest.mark.parametrize("prompt", [TOKENS, LEFT_PADDED], ids=["whole", "padded"])
def test_derived_values_are_those_of_the_forward_pass(our_model: HookedGPT2, prompt: Any) -> None:
    names = hook_names(our_model.cfg.n_layers)
    _, cache = our_model.run_with_cache(prompt)
    recorded: dict[str, Tensor] = {}

    def look(value: Tensor, hook: Hook) -> None:
        recorded[hook.name] = value

    our_model.run_with_hooks(prompt, fwd_hooks=[(names, look)])
    assert list(cache) == names
    for name in names:
        ours, expected = cache[name], recorded[name]
        if "attn_scores" in name:
            assert torch.equal(ours.isneginf(), expected.isneginf())
            ours, expected = ours.exp(), expected.exp()
        assert_close(ours, expected)


def test_a_default_cache_stores_only_what_does_not_follow(random_gpt2: HookedGPT2) -> None:
    _, cache = random_gpt2.run_with_cache(TOKENS)
    assert set(cache._stored) == set(NAMES) - set(DERIVED) == set(primary_names(N_LAYERS))
    assert f"{len(DERIVED)} more derived on reading" in repr(cache)


@pytest.mark.parametrize("name", NAMES)
def test_an_edited_value_is_kept_in_a_default_cache(random_gpt2: HookedGPT2, name: str) -> None:
    seen = []

    def edit(value: Tensor, hook: Hook) -> Tensor:
        seen.append(shift(value, hook))
        return seen[-1]

    with random_gpt2.hooks(fwd_hooks=[(name, edit)]):
        _, cache = random_gpt2.run_with_cache(TOKENS)
        _, whole = random_gpt2.run_with_cache(TOKENS, names_filter=NAMES)
    assert torch.equal(cache[name], seen[0])
    for other in NAMES:  # and everything that follows from it
        assert_close(cache[other].nan_to_num(neginf=0), whole[other].nan_to_num(neginf=0))


@pytest.mark.parametrize("name", DERIVED)
def test_an_edited_value_that_was_not_kept_is_never_derived(
    random_gpt2: HookedGPT2, name: str
) -> None:
    primary = primary_names(N_LAYERS)
    with random_gpt2.hooks(fwd_hooks=[(name, shift)]):
        _, cache = random_gpt2.run_with_cache(TOKENS, names_filter=primary)
    for each in (cache, cache.slice(pos=-1), cache.to(dtype=torch.float64)):
        with pytest.raises(UnknownHookError, match=r"A hook edited it .* Ask for it"):
            each[name]
    dependent = name.replace("hook_attn_scores", "hook_pattern").replace("scale", "normalized")
    with pytest.raises(UnknownHookError):
        cache[dependent]


def test_a_filtered_cache_derives_what_follows_and_refuses_the_rest(
    random_gpt2: HookedGPT2,
) -> None:
    names = ["blocks.1.attn.hook_q", "blocks.1.attn.hook_k"]
    _, cache = random_gpt2.run_with_cache(TOKENS, names_filter=names)
    assert list(cache) == [*names, "blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_pattern"]
    assert "blocks.1.attn.hook_v" not in cache
    assert cache["pattern", 1].sum(dim=-1) == pytest.approx(torch.ones(2, N_HEADS, 8))
    with pytest.raises(UnknownHookError, match=r"'blocks.1.attn.hook_v' is not in this cache of 2"):
        cache["v", 1]
    with pytest.raises(UnknownHookError, match=r"in layer 3, which does not exist"):
        cache["q", 3]
    with pytest.raises(UnknownHookError, match=r"Did you mean 'hook_pos_embed'"):
        cache["hook_pos_embedd"]


# Ownership and memory


def test_later_edits_in_place_never_change_a_cached_value(random_gpt2: HookedGPT2) -> None:
    def spoil(value: Tensor, hook: Hook) -> None:
        value.fill_(7)

    everything = hook_names(N_LAYERS, optional=True)
    for later in ("blocks.1.hook_resid_pre", "blocks.1.hook_mlp_in", "blocks.1.attn.hook_k"):
        earlier = everything[: everything.index(later)]
        _, clean = random_gpt2.run_with_cache(TOKENS, names_filter=earlier)
        with random_gpt2.hooks(fwd_hooks=[(later, spoil)]):
            _, cache = random_gpt2.run_with_cache(TOKENS, names_filter=earlier)
        assert all(torch.equal(cache[name], clean[name]) for name in earlier)


def test_a_cache_does_not_share_the_stream_that_a_run_starts_from(random_gpt2: HookedGPT2) -> None:
    stream = torch.randn(2, 8, 24)
    _, cache = random_gpt2.run_with_cache(stream, start_at_layer=1)
    before = stream.clone()
    stream.zero_()
    assert torch.equal(cache["resid_pre", 1], before)


@pytest.mark.parametrize("name", ["blocks.1.attn.hook_q", "blocks.*.hook_resid_pre", None])
@pytest.mark.parametrize("incl_bwd", [False, True])
def test_memory_is_what_was_asked_for(
    random_gpt2: HookedGPT2, name: str | None, incl_bwd: bool
) -> None:
    asked = {"return_type": "loss", "incl_bwd": incl_bwd, "names_filter": name}
    _, cache = random_gpt2.run_with_cache(TOKENS, **asked)
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for value in cache._stored.values()
    }
    assert sum(storages.values()) <= sum(value.nbytes for value in cache._stored.values())


def test_a_cache_keeps_no_model_alive(
    huggingface_models: Callable[[str], GPT2LMHeadModel],
) -> None:
    model = HookedGPT2.from_huggingface(huggingface_models("default"))
    model.requires_grad_()
    _, cache = model.run_with_cache(TOKENS, return_type="loss", incl_bwd=True)
    assert cache.model is model
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert cache["pattern", 1].shape == (2, N_HEADS, 8, 8)
    with pytest.raises(CacheError, match="that model is gone"):
        cache.stack_head_results()


# Slicing, moving, saving


def test_a_slice_takes_parts_of_the_axes_and_copies(cache: ActivationCache) -> None:
    part = cache.slice(batch=1, pos=(2, 5), head=[0, 3])
    assert torch.equal(part["q", 1], cache["q", 1][1, 2:5][:, [0, 3]])
    assert torch.equal(part["pattern", 1], cache["pattern", 1][1][[0, 3], 2:5])
    assert torch.equal(part["resid_post", 2], cache["resid_post", 2][1, 2:5])
    assert torch.equal(cache.slice(pos=-1)["mlp_out", 0], cache["mlp_out", 0][:, -1:])
    assert torch.equal(cache.slice(batch=[1])["embed"], cache["embed"][[1]])
    last = torch.tensor([7])
    assert torch.equal(cache.slice(pos=last)["scale"], cache["scale"][:, 7:])
    expected = cache["q", 0].clone()
    cache.slice(batch=slice(None))["q", 0].zero_()
    assert torch.equal(cache["q", 0], expected)


def test_a_slice_of_padded_prompts_keeps_their_mask(random_gpt2: HookedGPT2) -> None:
    _, cache = random_gpt2.run_with_cache(LEFT_PADDED)
    assert torch.equal(cache.slice(batch=0)["pattern", 1], cache["pattern", 1][0])
    assert torch.equal(cache.slice(batch=[1])["pattern", 1], cache["pattern", 1][1:])
    assert torch.equal(cache.slice(pos=[5])["pattern", 1], cache["pattern", 1][:, :, [5]])
    assert not cache["pattern", 1][0, :, 3:, :3].any()


def test_a_single_example_can_lose_its_axis(random_gpt2: HookedGPT2) -> None:
    _, whole = random_gpt2.run_with_cache(TOKENS[:1])
    _, cache = random_gpt2.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    for name in NAMES:
        assert torch.equal(cache[name], whole[name][0])
    assert torch.equal(cache.stack_head_results(), whole.stack_head_results()[:, 0])
    assert torch.equal(
        cache.decompose_resid(apply_ln=True), whole.decompose_resid(apply_ln=True)[:, 0]
    )
    ours, expected = cache.accumulated_resid(1, pos_slice=-1), whole.accumulated_resid(1)[:, 0, -1]
    assert torch.equal(ours, expected)
    with pytest.raises(CacheError, match="this one has 2"):
        random_gpt2.run_with_cache(TOKENS, remove_batch_dim=True)


def test_a_cache_moves_and_changes_type(random_gpt2: HookedGPT2, cache: ActivationCache) -> None:
    double = cache.to(dtype=torch.float64)
    assert double["pattern", 1].dtype == double["q", 1].dtype == torch.float64
    assert_close(double["pattern", 1], cache["pattern", 1].double())
    assert cache.to("meta")["q", 1].device.type == "meta"
    _, moved = random_gpt2.run_with_cache(LEFT_PADDED, device="meta")
    assert moved["pattern", 1].device.type == "meta"
    assert_close(cache.to().stack_head_results(), cache.stack_head_results())


def test_a_saved_cache_is_read_back_whole(random_gpt2: HookedGPT2, tmp_path: Path) -> None:
    with random_gpt2.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", shift)]):
        _, cache = random_gpt2.run_with_cache(LEFT_PADDED)
        _, filtered = random_gpt2.run_with_cache(
            LEFT_PADDED, names_filter=lambda name: "hook_pre" in name
        )
    for saved in (cache, cache.slice(batch=0)):
        saved.save(tmp_path / "run.safetensors")
        loaded = ActivationCache.load(tmp_path / "run.safetensors", random_gpt2.cfg)
        assert list(loaded) == list(saved)
        assert all(torch.equal(loaded[name], saved[name]) for name in saved)
        with pytest.raises(CacheError, match="that model is gone"):
            loaded.stack_head_results()
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]
    filtered.save(tmp_path / "run.safetensors")
    loaded = ActivationCache.load(tmp_path / "run.safetensors", random_gpt2.cfg)
    with pytest.raises(UnknownHookError, match="A hook edited it"):
        loaded["mlp_post", 0]


def test_a_file_of_something_else_is_refused(cache: ActivationCache, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CacheError, match="was not written by"):
        ActivationCache.load(tmp_path / "x.safetensors", cache.cfg)
    cache.save(tmp_path / "run.safetensors")
    smaller = ModelConfig(n_layers=1, n_heads=4, d_model=24, d_mlp=96, d_vocab=340, n_ctx=32)
    with pytest.raises(UnknownHookError, match="Layers are 0-0"):
        ActivationCache.load(tmp_path / "run.safetensors", smaller)


def test_the_table_shows_names_shapes_and_sizes(random_gpt2: HookedGPT2) -> None:
    names = ["blocks.0.attn.hook_q", "blocks.0.attn.hook_pattern"]
    _, cache = random_gpt2.run_with_cache(TOKENS, names_filter=names)
    assert repr(cache).splitlines() == [
        "ActivationCache: 2 stored values, 0.0 MiB; 0 more derived on reading",
        "  blocks.0.attn.hook_q  batch 2, pos 8, head 4, d_head 6  0.00 MiB",
        "  blocks.0.attn.hook_pattern  batch 2, head 4, query_pos 8, key_pos 8  0.00 MiB",
    ]
    html = cache._repr_html_()
    assert html.count("<tr>") == 3
    assert "<code>blocks.0.attn.hook_q</code></td><td>batch 2, pos 8" in html


# Views of the residual stream


@pytest.mark.parametrize("layer", [0, 1, 2, None])
def test_parts_of_the_stream_sum_to_it(cache: ActivationCache, layer: int | None) -> None:
    stream = cache["resid_post", -1] if layer is None else cache["resid_pre", layer]
    biases = cache.model.accumulated_bias(layer or 0 if layer is not None else N_LAYERS)
    assert_close(cache.decompose_resid(layer).sum(dim=0), stream)
    assert_close(cache.stack_head_results(layer, incl_remainder=True).sum(dim=0), stream)
    heads = cache.stack_head_results(layer).sum(dim=0)
    mlps = cache.decompose_resid(layer, mode="mlp").sum(dim=0)
    attn_biases = biases - sum(cache.model.b_out[:layer], start=torch.zeros(24))
    assert_close(heads + mlps + attn_biases, stream)


@pytest.mark.parametrize("configuration", ["default", "untied", "large eps"])
def test_logit_attributions_and_biases_sum_to_the_logits_exactly(
    configuration: str, huggingface_models: Callable[[str], GPT2LMHeadModel]
) -> None:
    hf_model = copy.deepcopy(huggingface_models(configuration)).double()
    model = HookedGPT2.from_huggingface(hf_model)
    logits, cache = model.run_with_cache(TOKENS)
    answers, wrong = torch.tensor([5, 9]), torch.tensor([11, 3])
    example = torch.arange(2)
    for parts in (cache.decompose_resid(), cache.stack_head_results(incl_remainder=True)):
        attributions = cache.logit_attrs(parts, answers)
        bias = model.tokens_to_residual_directions(answers) @ model.ln_final.b
        assert_close(attributions[..., -1].sum(dim=0) + bias, logits[example, -1, answers], 1e-10)
        difference_parts = cache.logit_attrs(parts[:, :, -1], answers, wrong, pos_slice=-1)
        bias = bias - model.tokens_to_residual_directions(wrong) @ model.ln_final.b
        expected = logits[example, -1, answers] - logits[example, -1, wrong]
        assert_close(difference_parts.sum(dim=0) + bias, expected, 1e-10)


def test_the_lens_applies_the_final_norm_to_each_stream(cache: ActivationCache) -> None:
    model = cache.model
    normed = cache.accumulated_resid(apply_ln=True)
    expected = model(cache["resid_pre", 1], start_at_layer=3)
    assert_close(normed[1] @ model.W_U, expected)
    assert_close(normed[-1] @ model.W_U, model(TOKENS))


def folded(bridge: Any, cfg: ModelConfig) -> HookedGPT2:
    """Our model with the weights that TransformerLens' compatibility mode folds and centres."""
    weights = {"embed.W_E": bridge.W_E, "pos_embed.W_pos": bridge.W_pos}
    weights |= {"unembed.weight": bridge.W_U.T, "unembed.b_U": bridge.b_U}
    weights |= {"ln_final.w": torch.ones(cfg.d_model), "ln_final.b": torch.zeros(cfg.d_model)}
    for layer in range(cfg.n_layers):
        qkv = torch.stack([bridge.W_Q[layer], bridge.W_K[layer], bridge.W_V[layer]])
        block = {
            "attn.W_QKV": qkv.permute(2, 0, 1, 3),
            "attn.b_QKV": torch.stack([bridge.b_Q[layer], bridge.b_K[layer], bridge.b_V[layer]]),
        }
        block |= {f"attn.{name}": getattr(bridge, name)[layer] for name in ("W_O", "b_O")}
        for name in ("W_in", "b_in", "W_out", "b_out"):
            block[f"mlp.{name}"] = getattr(bridge, name)[layer]
        for norm in ("ln1", "ln2"):
            block |= {f"{norm}.{name}": weights[f"ln_final.{name}"] for name in "wb"}
        weights |= {f"blocks.{layer}.{name}": x for name, x in block.items()}
    weights = {name: x.detach() for name, x in weights.items()}
    return HookedGPT2.from_weights(replace(cfg, tie_word_embeddings=False), weights)


@pytest.fixture(scope="module")
def both_caches(
    random_gpt2: HookedGPT2, make_bridge: Callable[[str], Any]
) -> tuple[HookedGPT2, ActivationCache, Any]:
    """The same folded weights in our model and in TransformerLens'; their caches of one run."""
    bridge = make_bridge("default")
    bridge.enable_compatibility_mode(disable_warnings=True)
    model = folded(bridge, random_gpt2.cfg)
    with torch.no_grad():
        logits, theirs = bridge.run_with_cache(TOKENS)
        our_logits, ours = model.run_with_cache(TOKENS)
        assert_close(our_logits, logits)
        assert difference(our_logits, random_gpt2(TOKENS)) > 1e-3
    return model, ours, theirs


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("accumulated_resid", {}),
        ("accumulated_resid", {"apply_ln": True, "incl_mid": True}),
        ("accumulated_resid", {"layer": 2, "apply_ln": True, "mlp_input": True}),
        ("accumulated_resid", {"layer": 1, "apply_ln": True, "pos_slice": -1}),
        ("accumulated_resid", {"layer": -1, "pos_slice": (1, 5), "incl_mid": True}),
        ("decompose_resid", {}),
        ("decompose_resid", {"layer": 2, "mode": "mlp", "incl_embeds": False}),
        ("decompose_resid", {"layer": 1, "mode": "attn", "apply_ln": True}),
        ("decompose_resid", {"layer": 1, "mlp_input": True, "apply_ln": True}),
        ("decompose_resid", {"apply_ln": True, "pos_slice": [0, 6]}),
        ("stack_head_results", {"apply_ln": True}),
        ("stack_head_results", {"layer": 2, "incl_remainder": True, "pos_slice": -1}),
        ("stack_head_results", {"layer": 1, "apply_ln": True, "pos_slice": (2, 4)}),
    ],
)
def test_views_agree_with_transformer_lens(
    both_caches: tuple[HookedGPT2, ActivationCache, Any], method: str, options: dict[str, Any]
) -> None:
    _, ours, theirs = both_caches
    stack, labels = getattr(ours, method)(**options, return_labels=True)
    expected, their_labels = getattr(theirs, method)(**options, return_labels=True)
    assert_close(stack, expected)
    assert labels == their_labels


@pytest.mark.parametrize(
    ("tokens", "incorrect", "options"),
    [
        (5, None, {}),
        (torch.tensor([5, 9]), torch.tensor([11, 3]), {"pos_slice": -1}),
        (torch.tensor([5, 9]), None, {"pos_slice": (1, 4)}),
        (torch.tensor([9]), torch.tensor([3]), {"batch_slice": 1, "pos_slice": -1}),
        (TOKENS, None, {}),
    ],
)
def test_logit_attributions_agree_with_transformer_lens(
    both_caches: tuple[HookedGPT2, ActivationCache, Any],
    tokens: Any,
    incorrect: Any,
    options: dict[str, Any],
) -> None:
    _, ours, theirs = both_caches
    pos = options.get("pos_slice")
    attributions = ours.logit_attrs(
        ours.decompose_resid(pos_slice=pos), tokens, incorrect, **options
    )
    expected = theirs.logit_attrs(
        theirs.decompose_resid(pos_slice=pos), tokens, incorrect, **options
    )
    assert_close(attributions, expected)


def test_attributions_of_unequal_answers_are_an_error(cache: ActivationCache) -> None:
    parts = cache.decompose_resid()
    with pytest.raises(CacheError, match=r"differ in shape: \(2,\) and \(3,\)"):
        cache.logit_attrs(parts, torch.tensor([1, 2]), torch.tensor([1, 2, 3]))
