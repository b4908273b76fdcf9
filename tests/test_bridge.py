"""Other architectures through TransformerLens: GPT-NeoX, Llama, and GPT-2 against ours."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from interp.errors import (
    CheckpointError,
    ConfigError,
    HookError,
    PromptError,
    TokenizerError,
    UnknownHookError,
    UnsafeCheckpointError,
)
from interp.model import bridge as bridge_module
from interp.model.bridge import load_bridge
from interp.model.bridged import BridgedModel
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import load
from interp.model.protocol import HookedModel
from interp.model.tokens import TokenBatch, Tokenizer
from tests.test_checkpoints import rewrite

TOLERANCE = 2e-5
"""Float rounding between two implementations of the same formula."""
TEXT = "I love the color black"
SIZES = {
    "vocab_size": 340,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def make(architecture: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if architecture == "neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)).eval()
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()


@pytest.fixture(scope="module", params=["neox", "llama"])
def hf_other(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A random model that is no GPT-2."""
    return make(request.param)


@pytest.fixture(scope="module")
def folder(
    hf_other: PreTrainedModel, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same as a Hugging Face folder, with a tokenizer."""
    folder = tmp_path_factory.mktemp(type(hf_other).__name__)
    hf_other.save_pretrained(folder)
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> BridgedModel:
    return load(folder, backend="transformer-lens")


@pytest.fixture(scope="module")
def bridged_gpt2(
    huggingface_models: Callable[[str], GPT2LMHeadModel], tokenizer: Tokenizer
) -> BridgedModel:
    return load_bridge(huggingface_models("default"), tokenizer=tokenizer)


def logits(model: HookedModel, prompt: object) -> Tensor:
    values = model(prompt)  # type: ignore[arg-type]
    assert isinstance(values, Tensor)
    return values


# Equal to transformers, and to ours


def test_logits_are_those_of_transformers(model: BridgedModel, hf_other: PreTrainedModel) -> None:
    tokens = torch.arange(2, 14).reshape(2, 6)
    with torch.no_grad():
        expected = hf_other(tokens).logits
    torch.testing.assert_close(logits(model, tokens), expected, atol=TOLERANCE, rtol=0)


def test_sizes_are_known_by_our_names(model: BridgedModel, hf_other: PreTrainedModel) -> None:
    cfg = model.cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_head, cfg.d_mlp) == (2, 4, 24, 6, 40)
    assert (cfg.d_vocab, cfg.n_ctx, cfg.dtype) == (340, 32, torch.float32)
    assert cfg.n_params == hf_other.num_parameters()
    assert not cfg.tie_word_embeddings
    assert cfg.positional_embedding_type == "rotary"
    is_llama = isinstance(hf_other, LlamaForCausalLM)
    assert cfg.normalization_type == ("RMS" if is_llama else "LN")
    assert cfg.n_key_value_heads == (2 if is_llama else None)


def test_gpt2_through_the_bridge_is_ours(
    bridged_gpt2: BridgedModel, random_gpt2: HookedGPT2
) -> None:
    torch.testing.assert_close(
        logits(bridged_gpt2, TEXT), logits(random_gpt2, TEXT), atol=TOLERANCE, rtol=0
    )
    _, theirs = bridged_gpt2.run_with_cache(TEXT)
    _, ours = random_gpt2.run_with_cache(TEXT)
    compared = [name for name in ours if name in theirs]
    assert len(compared) > 15 * random_gpt2.cfg.n_layers
    for name in compared:
        visible = torch.ones_like(ours[name], dtype=torch.bool)
        if name.endswith("attn_scores"):
            visible = ours[name].isfinite()  # where a query may not look, they write -3.4e38
        torch.testing.assert_close(
            theirs[name][visible], ours[name][visible], atol=TOLERANCE, rtol=0, msg=name
        )
    for name in ("W_E", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_U", "b_Q", "b_O", "b_U"):
        torch.testing.assert_close(getattr(bridged_gpt2, name), getattr(random_gpt2, name))
    assert bridged_gpt2.cfg.n_params == random_gpt2.cfg.n_params


def test_an_edit_of_gpt2_through_the_bridge_does_what_ours_does(
    bridged_gpt2: BridgedModel, random_gpt2: HookedGPT2
) -> None:
    def zero_a_head(z: Tensor, hook: object) -> None:
        z[:, :, 1] = 0

    hooks = [("blocks.1.attn.hook_z", zero_a_head)]
    theirs = bridged_gpt2.run_with_hooks(TEXT, hooks)
    ours = random_gpt2.run_with_hooks(TEXT, hooks)
    torch.testing.assert_close(theirs, ours, atol=TOLERANCE, rtol=0)
    assert (ours - logits(random_gpt2, TEXT)).abs().max() > 0.01


def test_the_loss_is_ours(bridged_gpt2: BridgedModel, random_gpt2: HookedGPT2) -> None:
    texts = [TEXT, "The cat"]
    expected = random_gpt2(texts, "loss")
    torch.testing.assert_close(bridged_gpt2(texts, "loss"), expected, atol=TOLERANCE, rtol=0)
    both = bridged_gpt2(texts, "both")
    assert isinstance(both, tuple)
    assert torch.equal(both[0], logits(bridged_gpt2, texts))
    torch.testing.assert_close(both[1], expected, atol=TOLERANCE, rtol=0)
    assert bridged_gpt2(texts, None) is None


def test_both_models_satisfy_the_protocol(
    bridged_gpt2: BridgedModel, random_gpt2: HookedGPT2
) -> None:
    for model in (bridged_gpt2, random_gpt2):
        assert isinstance(model, HookedModel)
        assert not isinstance(model.cfg, HookedModel)


def test_the_model_that_was_given_is_left_alone(
    huggingface_models: Callable[[str], GPT2LMHeadModel],
) -> None:
    given = huggingface_models("default")
    before = {name: x.clone() for name, x in given.state_dict().items()}
    load_bridge(given).W_E.zero_()
    assert all(parameter.requires_grad for parameter in given.parameters())
    assert given.state_dict().keys() == before.keys()
    assert all(torch.equal(x, before[name]) for name, x in given.state_dict().items())


# Text


def test_padding_changes_nothing(model: BridgedModel) -> None:
    both = logits(model, [TEXT, "The cat"])
    alone = logits(model, "The cat")
    torch.testing.assert_close(both[1, : alone.shape[1]], alone[0], atol=TOLERANCE, rtol=0)


def test_padding_on_the_left_changes_nothing(
    model: BridgedModel, bridged_gpt2: BridgedModel
) -> None:
    tokens = model.to_tokens("The cat", prepend_bos=False)
    padded = torch.cat([torch.full((1, 3), 7), tokens], dim=1)
    mask = torch.cat([torch.zeros(1, 3, dtype=torch.bool), torch.ones_like(tokens).bool()], dim=1)
    for each in (model, bridged_gpt2):
        with_padding = logits(each, TokenBatch(padded, mask))[:, 3:]
        torch.testing.assert_close(with_padding, logits(each, tokens), atol=TOLERANCE, rtol=0)


def test_texts_are_read_as_by_our_own_model(model: BridgedModel, random_gpt2: HookedGPT2) -> None:
    for bos in (True, False):
        assert torch.equal(model.to_tokens(TEXT, bos), random_gpt2.to_tokens(TEXT, bos))
        assert model.to_str_tokens(TEXT, bos) == random_gpt2.to_str_tokens(TEXT, bos)
        ours = random_gpt2.find_word(TEXT, "color", prepend_bos=bos)
        assert model.find_word(TEXT, "color", prepend_bos=bos) == ours
    assert model.to_single_token(" cat") == random_gpt2.to_single_token(" cat")


def test_a_prompt_that_cannot_be_run_is_refused(model: BridgedModel) -> None:
    with pytest.raises(PromptError, match="33 tokens; the model takes 32"):
        model(torch.ones(1, 33, dtype=torch.long))
    with pytest.raises(PromptError, match="look padded"):
        model(torch.tensor([[5, 6, 0, 0], [5, 6, 7, 8]]))
    with pytest.raises(PromptError, match="return_type must be"):
        model(TEXT, "probabilities")
    with pytest.raises(PromptError, match="needs at least two"):
        model(torch.ones(1, 1, dtype=torch.long), "loss")


def test_greedy_continuation_takes_the_most_likely_token(model: BridgedModel) -> None:
    tokens = model.to_tokens(TEXT)
    continued = model.generate(tokens, 3, temperature=0.0, stop_at_eos=False)
    assert isinstance(continued, Tensor)
    for _ in range(3):
        following = logits(model, tokens)[:, -1].argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, following], dim=1)
    assert torch.equal(continued, tokens)


def test_the_same_seed_continues_the_same(model: BridgedModel) -> None:
    first = model.generate(TEXT, 5, seed=1)
    assert isinstance(first, str)
    assert first == model.generate(TEXT, 5, seed=1)
    assert first.startswith(TEXT)


# Hooks and caches


def test_a_cache_owns_its_values(model: BridgedModel) -> None:
    def destroy(value: Tensor, hook: object) -> None:
        value.zero_()

    _, clean = model.run_with_cache(TEXT)
    with model.hooks([("blocks.1.hook_resid_pre", destroy)]):
        _, cache = model.run_with_cache(TEXT)
    assert torch.equal(cache["resid_post", 0], clean["resid_post", 0])
    assert cache["resid_pre", 1].abs().max() == 0
    before = clean["resid_pre", 1].clone()
    clean["resid_post", 0].zero_()  # TransformerLens has one tensor for both
    assert torch.equal(clean["resid_pre", 1], before)


def test_a_cache_is_read_by_every_name(model: BridgedModel) -> None:
    _, cache = model.run_with_cache(TEXT)
    by_name = cache["blocks.1.attn.hook_pattern"]
    assert cache["pattern", 1] is by_name
    assert cache["pattern", -1] is by_name
    assert cache["blocks.0.hook_in"] is cache["resid_pre", 0]
    torch.testing.assert_close(by_name.sum(dim=-1), torch.ones(by_name.shape[:-1]))
    assert "blocks.7.hook_resid_pre" not in cache
    assert list(cache) == list(dict.fromkeys(cache))


def test_only_what_was_asked_for_is_kept(model: BridgedModel) -> None:
    _, cache = model.run_with_cache(TEXT, names_filter="blocks.*.attn.hook_z")
    assert sorted(cache) == ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
    with pytest.raises(UnknownHookError, match="is not in this cache"):
        cache["resid_pre", 0]
    _, cache = model.run_with_cache(TEXT, names_filter=lambda name: name.endswith("hook_q"))
    assert sorted(cache) == ["blocks.0.attn.hook_q", "blocks.1.attn.hook_q"]


def test_watching_changes_no_bit(model: BridgedModel) -> None:
    watched, _ = model.run_with_cache(TEXT)
    assert torch.equal(watched, logits(model, TEXT))


def test_gradients_are_those_of_finite_differences(model: BridgedModel) -> None:
    name = "blocks.1.hook_resid_pre"
    _, cache = model.run_with_cache(TEXT, names_filter=[name], return_type="loss", incl_bwd=True)
    gradient = cache[f"{name}_grad"]
    direction = gradient / gradient.norm()
    losses = [
        model.run_with_hooks(TEXT, [(name, lambda x, hook, s=s: x + s * direction)], (), "loss")
        for s in (-0.05, 0.05)
    ]
    slope = (losses[1] - losses[0]) / 0.1
    torch.testing.assert_close(slope, gradient.norm(), rtol=0.02, atol=0)
    assert not model(TEXT, "loss").requires_grad


def test_backward_hooks_see_the_gradient(model: BridgedModel) -> None:
    seen = []
    name = "blocks.0.hook_mlp_out"
    with torch.enable_grad(), model.hooks((), [(name, lambda g, hook: seen.append(g.clone()))]):
        model(TEXT, "loss").backward()
    _, cache = model.run_with_cache(TEXT, names_filter=[name], return_type="loss", incl_bwd=True)
    torch.testing.assert_close(seen[0], cache[f"{name}_grad"])


@pytest.mark.parametrize(
    ("name", "error", "cause"),
    [
        (
            "blocks.0.attn.hook_patern",
            UnknownHookError,
            "Did you mean 'blocks.0.attn.hook_pattern'",
        ),
        ("blocks.9.hook_resid_pre", UnknownHookError, "This model has no hook"),
        ("hook_pos_embed", UnknownHookError, "nothing happens there in this architecture"),
        (
            "blocks.0.attn.hook_result",
            UnknownHookError,
            "a mode that the bridge does not switch on",
        ),
    ],
)
def test_a_hook_that_cannot_fire_is_refused(
    name: str, error: type[HookError], cause: str, model: BridgedModel
) -> None:
    with pytest.raises(error, match=cause):
        model.run_with_hooks(TEXT, [(name, lambda value, hook: None)])
    with pytest.raises(error, match=cause):
        model.run_with_cache(TEXT, names_filter=[name, "blocks.0.hook_resid_pre"])


def test_a_hook_that_did_not_fire_is_an_error(hf_other: PreTrainedModel) -> None:
    model = load_bridge(hf_other)
    name = "blocks.0.attn.q.hook_in"
    prompt = torch.arange(4)[None]
    model.run_with_cache(prompt, names_filter=name)
    model.bridge.set_use_split_qkv_input(True)  # type: ignore[attr-defined]
    with pytest.raises(HookError, match=f"never fired: {name}"):
        model.run_with_cache(prompt, names_filter=name)


def test_a_block_without_a_run_is_an_error(model: BridgedModel) -> None:
    with (
        pytest.raises(HookError, match="The hooks never ran"),
        model.hooks([("hook_embed", lambda value, hook: None)]),
    ):
        pass


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        (lambda x: x[:, :1], r"shape \(1, 1, 24\); expected"),
        (lambda x: x.double(), "dtype torch.float64"),
        (lambda x: "text", "returned str"),
    ],
)
@pytest.mark.parametrize("name", ["blocks.0.hook_attn_out", "blocks.0.attn.hook_in"])
def test_a_result_that_does_not_fit_is_refused(
    name: str, result: Callable[[Tensor], object], cause: str, model: BridgedModel
) -> None:
    before = logits(model, TEXT)
    with pytest.raises(HookError, match=cause):
        model.run_with_hooks(TEXT, [(name, lambda value, hook: result(value))])
    assert torch.equal(logits(model, TEXT), before)


def test_a_hook_that_fails_is_named_and_leaves_nothing(model: BridgedModel) -> None:
    before = logits(model, TEXT)

    def fail(value: Tensor, hook: object) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(HookError, match=r"hook at 'blocks\.1\.hook_mlp_out' raised KeyError"):
        model.run_with_hooks(TEXT, [("blocks.1.hook_mlp_out", fail)])
    assert torch.equal(logits(model, TEXT), before)


def test_threads_with_different_hooks_do_not_meet(model: BridgedModel) -> None:
    def scale(factor: float) -> Tensor:
        hooks = [("blocks.0.hook_attn_out", lambda value, hook: value * factor)]
        result = model.run_with_hooks(TEXT, hooks) if factor != 1 else model(TEXT)
        assert isinstance(result, Tensor)
        return result

    factors = [0.0, 1.0, 2.0, 1.0, -1.0, 1.0, 3.0, 1.0]
    expected = [scale(factor) for factor in factors]
    found: list[list[Tensor]] = [[] for _ in factors]

    def work(index: int) -> None:
        for _ in range(10):
            found[index].append(scale(factors[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(factors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, value in zip(found, expected, strict=True):
        assert len(results) == 10
        assert all(torch.equal(result, value) for result in results)


# What is refused at load


def test_a_bridge_that_computes_another_model_is_refused(
    huggingface_models: Callable[[str], GPT2LMHeadModel],
) -> None:
    with pytest.raises(HookError, match=r"computes other logits .* than transformers"):
        load_bridge(huggingface_models("unscaled"))


def test_a_bridge_whose_edits_are_lost_is_refused(
    huggingface_models: Callable[[str], GPT2LMHeadModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = bridge_module.build_bridge_from_module

    def build_deaf(*args: object, **options: object) -> object:
        bridge = build(*args, **options)
        original = bridge.run_with_hooks

        def lose_one(tokens: Tensor, fwd_hooks: list, **kwargs: object) -> Tensor:
            heard = [pair for pair in fwd_hooks if "mlp_out" not in pair[0]]
            unheard = [(n, lambda v, hook, f=f: [f(v, hook), None][1]) for n, f in fwd_hooks]
            lost = [pair for pair in unheard if "mlp_out" in pair[0]]
            return original(tokens, fwd_hooks=heard + lost, **kwargs)

        bridge.__dict__["run_with_hooks"] = lose_one
        return bridge

    monkeypatch.setattr(bridge_module, "build_bridge_from_module", build_deaf)
    with pytest.raises(HookError, match=r"An edit at 'blocks\.0\.hook_mlp_out' .* does not reach"):
        load_bridge(huggingface_models("default"))


def test_an_architecture_that_transformer_lens_lacks_is_refused(
    huggingface_models: Callable[[str], GPT2LMHeadModel],
) -> None:
    config = huggingface_models("default").config
    with pytest.raises(ConfigError, match="TransformerLens does not know"):
        load_bridge(GPT2ForSequenceClassification(config))


def saved(folder: Path, tmp_path: Path) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_missing_weights_are_not_filled_in(folder: Path, tmp_path: Path) -> None:
    copy = saved(folder, tmp_path)
    rewrite(copy, lambda tensors: tensors.pop(max(n for n in tensors if "layers.1.mlp" in n)))
    with pytest.raises(CheckpointError, match=r"missing keys of the weights: .*layers\.1\.mlp"):
        load(copy, backend="transformer-lens")


def test_weights_that_are_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = saved(folder, tmp_path)
    rewrite(copy, lambda tensors: tensors[min(tensors)].view(-1)[:1].fill_(float("nan")))
    with pytest.raises(CheckpointError, match="1 tensors hold NaN"):
        load(copy, backend="transformer-lens")


def test_an_index_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = saved(folder, tmp_path)
    (copy / "model.safetensors").rename(tmp_path.parent / "outside.safetensors")
    index = '{"weight_map": {"a": "../outside.safetensors"}}'
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UnsafeCheckpointError, match="outside its folder"):
        load(copy, backend="transformer-lens")


def test_a_folder_without_safetensors_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = saved(folder, tmp_path)
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded by transformers"):
        load(copy, backend="transformer-lens")
    with pytest.raises(ConfigError, match="from safetensors only"):
        load(copy, backend="transformer-lens", allow_pickle=True)


def test_a_model_without_tokenizer_takes_ids(hf_other: PreTrainedModel) -> None:
    model = load_bridge(hf_other)
    assert logits(model, torch.arange(4)[None]).shape == (1, 4, 340)
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        model(TEXT)


def test_the_embedded_model_runs_through_the_bridge() -> None:
    theirs, ours = load("tiny", backend="transformer-lens"), load()
    torch.testing.assert_close(logits(theirs, TEXT), ours(TEXT), atol=1e-4, rtol=0)
    assert theirs.cfg.model_name == "tiny"


def test_other_types_are_honoured(folder: Path) -> None:
    model = load(folder, backend="transformer-lens", dtype=torch.float64)
    assert logits(model, TEXT).dtype == torch.float64
    assert model.cfg.dtype == torch.float64
