"""TransformerLens' own tools run on our model, with the results they have on its bridge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import ActivationCache as TheirCache
from transformer_lens import patching
from transformer_lens.head_detector import detect_head
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_protocol import TransformerLensModelWithWeights
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import END_OF_TEXT
from tests.comparison import assert_close
from tests.conftest import make_huggingface

CLEAN = torch.tensor([[2, 3, 4, 6]])
CORRUPTED = torch.tensor([[2, 40, 41, 6]])
SWEEPS = [
    name for name in dir(patching) if name.startswith("get_act_patch") and "direct_path" not in name
]


def metric(logits: Tensor) -> Tensor:
    return (logits[:, -1, 5] - logits[:, -1, 7]).sum()


@pytest.fixture(scope="module")
def bridge(make_bridge: Callable[[str], Any]) -> Any:
    return make_bridge("default")


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    # With gradients, the bridge's hook_resid_mid edits the MLP's input and not the stream.
    with torch.no_grad():
        yield


def test_our_model_is_a_model_to_transformer_lens(random_gpt2: HookedGPT2) -> None:
    assert isinstance(random_gpt2, TransformerLensModelWithWeights)
    assert len(SWEEPS) == 18


@pytest.mark.parametrize("name", SWEEPS)
def test_a_patching_sweep_agrees(random_gpt2: HookedGPT2, bridge: Any, name: str) -> None:
    sweep = getattr(patching, name)
    results = []
    for model in (random_gpt2, bridge):
        _, clean_cache = model.run_with_cache(CLEAN)
        results.append(sweep(model, CORRUPTED, clean_cache, metric))
    assert_close(*results)
    assert float(results[1].std()) > 1e-3


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_a_direct_path_sweep_agrees(random_gpt2: HookedGPT2, bridge: Any, component: str) -> None:
    results = []
    for model in (random_gpt2, bridge):
        (_, clean), (_, corrupted) = model.run_with_cache(CLEAN), model.run_with_cache(CORRUPTED)
        results.append(
            patching.get_act_patch_direct_path_all_sources(
                model, CORRUPTED, clean, corrupted, metric, component=component, verbose=False
            )
        )
    assert_close(*results)
    later = results[1][:2, :, 2]
    assert float((later - metric(bridge(CORRUPTED))).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("accumulated_resid", {"incl_mid": True}),
        ("accumulated_resid", {"apply_ln": True}),
        ("decompose_resid", {"apply_ln": True}),
        ("stack_head_results", {"incl_remainder": True}),
        ("stack_activation", {"activation_name": "q"}),
        ("get_neuron_results", {"layer": 1}),
        ("stack_neuron_results", {"layer": 2, "apply_ln": True}),
        ("get_full_resid_decomposition", {"apply_ln": True, "pos_slice": -1}),
        ("get_full_resid_decomposition", {"expand_neurons": False}),
    ],
)
def test_their_cache_reads_our_run(
    random_gpt2: HookedGPT2, bridge: Any, method: str, options: dict[str, Any]
) -> None:
    _, ours = random_gpt2.run_with_cache(CLEAN)
    _, theirs = bridge.run_with_cache(CLEAN)
    view = getattr(TheirCache(dict(ours), random_gpt2), method)(**options)
    assert_close(view, getattr(theirs, method)(**options))


def test_their_logit_attributions_read_our_run(random_gpt2: HookedGPT2, bridge: Any) -> None:
    results = []
    for model in (random_gpt2, bridge):
        _, cache = model.run_with_cache(CLEAN)
        theirs = TheirCache(dict(cache), model)
        parts = theirs.decompose_resid(pos_slice=-1)
        results.append(
            theirs.logit_attrs(parts, torch.tensor([5]), torch.tensor([7]), pos_slice=-1)
        )
    assert_close(*results)


@pytest.fixture(scope="module")
def bridge_with_tokenizer(
    tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> TransformerBridge:
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_folder / "tokenizer.json"), **special
    )
    folder = tmp_path_factory.mktemp("saved")
    tokenizer.save_pretrained(folder)
    return TransformerBridge.boot_transformers(
        "gpt2",
        hf_model=make_huggingface("default"),
        tokenizer=AutoTokenizer.from_pretrained(folder),  # in memory, it lacks what they look for
        device="cpu",
    )


@pytest.mark.parametrize("error_measure", ["mul", "abs"])
@pytest.mark.parametrize("head", ["previous_token_head", "duplicate_token_head", "induction_head"])
def test_heads_are_detected_with_the_same_scores(
    random_gpt2: HookedGPT2,
    bridge_with_tokenizer: TransformerBridge,
    head: str,
    error_measure: str,
) -> None:
    options = {"error_measure": error_measure, "exclude_current_token": True}
    for prompt in (
        "The cat is black. The cat is black.",
        ["I love I love", "the the cat the the cat"],
    ):
        ours, theirs = (
            detect_head(model, prompt, head, **options)
            for model in (random_gpt2, bridge_with_tokenizer)
        )
        assert_close(ours, theirs, 1e-3 if error_measure == "abs" else 1e-5)  # "abs" is rounded
        assert float(theirs.std()) > 0.01


def test_text_becomes_the_same_tokens(
    random_gpt2: HookedGPT2, bridge_with_tokenizer: TransformerBridge
) -> None:
    for text in ("The cat is black", "I love 🙂", " Mary\n"):
        assert torch.equal(random_gpt2.to_tokens(text), bridge_with_tokenizer.to_tokens(text))
        assert torch.equal(
            random_gpt2.to_tokens(text, prepend_bos=False),
            bridge_with_tokenizer.to_tokens(text, prepend_bos=False),
        )
    assert random_gpt2.to_str_tokens("The cat is") == bridge_with_tokenizer.to_str_tokens(
        "The cat is"
    )
    assert random_gpt2.to_single_token(" black") == bridge_with_tokenizer.to_single_token(" black")
