"""Where models come from, what they compare equal to, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
)

from interp.errors import CheckpointError, ConfigError, PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import EMBEDDED_FOLDER, available_models, load
from interp.model.saving import save_huggingface
from interp.model.tokens import Tokenizer

TOLERANCE = 2e-5
"""Float rounding between two orders of summation."""
TEXT = "I love the color black"


@pytest.fixture
def folder(random_gpt2: HookedGPT2, tmp_path: Path) -> Path:
    """A good Hugging Face folder."""
    save_huggingface(random_gpt2, tmp_path / "model")
    return tmp_path / "model"


def some_tokens(n_vocab: int = 340, length: int = 9) -> torch.Tensor:
    return torch.randint(1, n_vocab, (2, length), generator=torch.Generator().manual_seed(0))


# Folders


def test_nothing_asked_for_is_the_embedded_model() -> None:
    by_default, by_name = load(), load("tiny")
    assert by_default.cfg == by_name.cfg
    assert by_default.cfg.model_name == "tiny"
    assert torch.equal(by_default(TEXT), by_name(TEXT))
    assert EMBEDDED_FOLDER.is_dir()


def test_a_folder_that_transformers_saved_gives_its_logits(
    hf_model: GPT2LMHeadModel, tmp_path: Path
) -> None:
    hf_model.save_pretrained(tmp_path)
    model = load(tmp_path)
    tokens = some_tokens(hf_model.config.vocab_size)
    with torch.no_grad():
        expected = hf_model(tokens).logits
    torch.testing.assert_close(model(tokens), expected, atol=TOLERANCE, rtol=0)


def test_shards_that_transformers_saved_are_read(
    huggingface_models: Callable[[str], GPT2LMHeadModel], tmp_path: Path
) -> None:
    huggingface_models("default").save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    expected = HookedGPT2.from_huggingface(huggingface_models("default"))
    assert torch.equal(load(tmp_path)(some_tokens()), expected(some_tokens()))


def test_a_model_without_a_head_is_read(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=12, n_layer=1, n_head=2)
    bare = GPT2Model(config).eval()
    bare.save_pretrained(tmp_path)
    tokens = some_tokens(50)
    with torch.no_grad():
        expected = bare(tokens).last_hidden_state @ bare.wte.weight.T
    torch.testing.assert_close(load(tmp_path)(tokens), expected, atol=TOLERANCE, rtol=0)


def test_a_loaded_model_builds_no_graph(folder: Path) -> None:
    model = load(folder)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model(some_tokens()).requires_grad


def is_mapped(x: torch.Tensor, file: Path) -> bool:
    """Whether a tensor's memory is the file's own pages."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(file) in line]
    ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
    return any(start <= x.data_ptr() < stop for start, stop in ranges)


def test_the_weights_are_the_file_itself(folder: Path) -> None:
    model = load(folder)
    assert all(is_mapped(x, folder / "model.safetensors") for x in model.parameters())
    copied = load(folder, dtype=torch.float64)
    assert not any(is_mapped(x, folder / "model.safetensors") for x in copied.parameters())


def test_editing_a_weight_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    load(folder).embed.W_E.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_come_in_the_type_asked_for(dtype: torch.dtype, folder: Path) -> None:
    model = load(folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.cfg.dtype == dtype
    torch.testing.assert_close(model.W_E.float(), load(folder).W_E, atol=4e-3, rtol=4e-3)


def test_a_half_precision_file_is_float32_unless_asked(folder: Path) -> None:
    save_huggingface(load(folder, dtype=torch.float16), folder.parent / "half")
    stored = load_file(folder.parent / "half" / "model.safetensors")
    assert {x.dtype for x in stored.values()} == {torch.float16}
    assert load(folder.parent / "half").cfg.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_a_type_that_is_not_for_weights_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ConfigError, match=r"dtype must be one of torch's float32, float64"):
        load(dtype=dtype)


@pytest.mark.parametrize("device", ["banana", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=r"(?i)device \"?'?(banana|cuda:99|meta)"):
        load(device=device)


def test_a_revision_of_what_is_not_on_the_hub_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="a revision belongs to a model of the hub"):
        load(folder, revision="main")
    with pytest.raises(ConfigError, match="embedded model has no revisions"):
        load(revision="main")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match='backend must be None or "transformer-lens"'):
        load(backend="nnsight")  # type: ignore[call-overload]


# Names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpt2-smal", "gpt2"),
        ("gpt2-small", "gpt2"),
        ("gpt-2", "gpt2"),
        ("GPT2", "gpt2"),
        ("gpt2-meduim", "gpt2-medium"),
        ("gpt2-lage", "gpt2-large"),
        ("gpt2xl", "gpt2-xl"),
        ("distillgpt2", "distilgpt2"),
        ("tiney", "tiny"),
    ],
)
def test_a_slip_in_a_known_name_is_corrected(name: str, meant: str) -> None:
    with pytest.raises(CheckpointError, match=f"no model '{name}'. Did you mean '{meant}'?"):
        load(name)


@pytest.mark.parametrize(
    "name",
    [
        "./model",
        "/no/such/folder",
        "~/no/such",
        "runs/7/ckpt.pt",
        "a/b/c",
        "x\\y",
        "model.safetensors",
    ],
)
def test_a_path_that_does_not_exist_is_not_sought_on_the_hub(name: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist: there is no such file or folder"):
        load(name)


def test_a_path_object_is_never_a_name_on_the_hub() -> None:
    with pytest.raises(CheckpointError, match="there is no such file or folder"):
        load(Path("gpt2"))


def test_another_file_is_refused_with_the_way_out(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a \.safetensors file\. Load the folder"):
        load(folder / "model.safetensors")


def test_available_models_are_the_embedded_and_the_family() -> None:
    rows = {row.name: row for row in available_models()}
    assert list(rows) == ["tiny", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"]
    assert rows["tiny"].present
    assert rows["gpt2"].parameters == "124 M"
    assert rows["gpt2"].how == 'interp.load("gpt2")'


# Classifiers


@pytest.fixture
def classifier(tokenizer: Tokenizer) -> GPT2ForSequenceClassification:
    config = GPT2Config(
        vocab_size=340, n_positions=32, n_embd=24, n_layer=2, n_head=4, num_labels=3,
        initializer_range=0.5, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return GPT2ForSequenceClassification(config).eval()


def test_a_classifier_gives_the_pooled_logits_of_transformers(
    classifier: GPT2ForSequenceClassification, tokenizer_folder: Path, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path)
    model = load(tmp_path, tokenizer=tokenizer_folder)
    texts = ["I love the color black", "The cat", "When Mary and John went to the store"]
    batch = model.to_batch(texts)
    with torch.no_grad():
        expected = classifier(batch.tokens, attention_mask=batch.attention_mask.long()).logits
    torch.testing.assert_close(model.classify(texts), expected, atol=TOLERANCE, rtol=0)
    for text, row in zip(texts, expected, strict=True):
        torch.testing.assert_close(model.classify(text)[0], row, atol=TOLERANCE, rtol=0)


def test_a_classifier_is_saved_and_read_by_transformers(
    classifier: GPT2ForSequenceClassification, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = HookedGPT2.from_huggingface(classifier, tokenizer)
    save_huggingface(model, tmp_path / "saved")
    again = GPT2ForSequenceClassification.from_pretrained(tmp_path / "saved")
    tokens = some_tokens()
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, classifier(tokens).logits)
    assert torch.equal(load(tmp_path / "saved").classify(tokens), model.classify(tokens))


def test_a_language_model_does_not_classify(folder: Path) -> None:
    with pytest.raises(PromptError, match="has no classifier head"):
        load(folder).classify(TEXT)
