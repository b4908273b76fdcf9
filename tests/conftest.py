"""What every test shares: no network, one tokenizer, and small random GPT-2s of many kinds."""

import copy
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import END_OF_TEXT, Tokenizer
from tests.browser import chromium, chromium_page  # noqa: F401  fixtures

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

TOKENIZER_TEXT = [
    "I love the color black, I hope someday to have a cat like that. The cat is black.",
    "When Mary and John went to the store, John gave a drink to Mary.",
]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(scope="session", autouse=True)
def only_loopback() -> Iterator[None]:
    """Nothing in the tests may reach another machine."""

    def guard(original: Callable[[socket.socket, object], object]) -> Callable:
        def guarded(self: socket.socket, address: object) -> object:
            if isinstance(address, tuple) and address[0] not in LOOPBACK:
                raise OSError(f"A test tried to connect to {address}; tests use no network.")
            return original(self, address)

        return guarded

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guard(getattr(socket.socket, name)))
        yield


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer of about 340 tokens, as Hugging Face saves it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TOKENIZER_TEXT, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(tokenizer_folder)
    assert tokenizer is not None
    return tokenizer


# Every configuration in which GPT-2s of the hub differ; sizes are odd where they may be.
DEFAULT = {"vocab_size": 340, "n_positions": 32, "n_embd": 24, "n_layer": 3, "n_head": 4}
CONFIGURATIONS = {
    "default": {},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "unscaled": {"scale_attn_weights": False},
    "inverse layer": {"scale_attn_by_inverse_layer_idx": True},
    "upcast": {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
    "n_inner": {"n_inner": 40},
    "untied": {"tie_word_embeddings": False},
    "large eps": {"layer_norm_epsilon": 1e-2},
    "odd sizes": {"vocab_size": 347, "n_positions": 19, "n_embd": 15, "n_head": 3, "n_layer": 1},
}


def make_huggingface(configuration: str) -> GPT2LMHeadModel:
    """A random model whose every weight, biases and LayerNorms too, is far from trivial."""
    settings = DEFAULT | CONFIGURATIONS[configuration]
    config = GPT2Config(
        **settings, initializer_range=0.2, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(list(CONFIGURATIONS).index(configuration))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="session")
def huggingface_models() -> Callable[[str], GPT2LMHeadModel]:
    """Models by configuration, made once; tests must not change them."""
    made: dict[str, GPT2LMHeadModel] = {}
    return lambda name: made.setdefault(name, made.get(name) or make_huggingface(name))


@pytest.fixture(scope="session", params=CONFIGURATIONS)
def configuration(request: pytest.FixtureRequest) -> str:
    """Each configuration in turn."""
    return request.param


@pytest.fixture(scope="session")
def hf_model(
    configuration: str, huggingface_models: Callable[[str], GPT2LMHeadModel]
) -> GPT2LMHeadModel:
    return huggingface_models(configuration)


@pytest.fixture(scope="session")
def our_model(hf_model: GPT2LMHeadModel) -> HookedGPT2:
    """Our model with the same weights, in each configuration."""
    return HookedGPT2.from_huggingface(hf_model)


@pytest.fixture(scope="session")
def random_gpt2(
    huggingface_models: Callable[[str], GPT2LMHeadModel], tokenizer: Tokenizer
) -> HookedGPT2:
    """A small random GPT-2 with a tokenizer."""
    return HookedGPT2.from_huggingface(huggingface_models("default"), tokenizer)


@pytest.fixture(scope="session")
def make_bridge(
    huggingface_models: Callable[[str], GPT2LMHeadModel],
) -> Callable[[str], "TransformerBridge"]:
    """TransformerLens' model with the weights of a configuration; a new one each time."""
    # Imported here: it takes a second, and few tests need it.
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    def make(configuration: str) -> "TransformerBridge":
        hf_model = copy.deepcopy(huggingface_models(configuration))  # it will be rewired
        return build_bridge_from_module(hf_model, "GPT2LMHeadModel", hf_config=hf_model.config)

    return make
