"""A model's tokenizer: where it is found, and when it is refused."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from interp.errors import TokenizerError
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import load
from interp.model.saving import save_huggingface
from interp.model.tokens import END_OF_TEXT, Tokenizer
from tests.test_loading import TEXT, some_tokens


@pytest.fixture
def folder(random_gpt2: HookedGPT2, tmp_path: Path) -> Path:
    """A good Hugging Face folder."""
    save_huggingface(random_gpt2, tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_without_tokenizer_takes_ids(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    model = load(folder)
    assert model(some_tokens()).shape == (2, 9, 340)
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        model(TEXT)


def test_vocabulary_and_merges_make_the_same_tokens(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    expected = load(folder).to_tokens(TEXT)
    saved = json.loads((folder / "tokenizer.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.json").write_text(json.dumps(saved["model"]["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in saved["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    assert torch.equal(load(folder).to_tokens(TEXT), expected)


def test_a_tokenizer_of_transformers_is_taken(folder: Path, tokenizer: Tokenizer) -> None:
    expected = load(folder).to_tokens(TEXT)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, bos_token=END_OF_TEXT)
    fast.backend_tokenizer.enable_truncation(2)
    model = load(folder, tokenizer=fast)
    assert torch.equal(model.to_tokens(TEXT), expected)
    assert fast.backend_tokenizer.truncation is not None
    assert torch.equal(load(folder, tokenizer=tokenizer).to_tokens(TEXT), expected)


def test_truncation_saved_with_a_tokenizer_never_cuts_a_text(folder: Path) -> None:
    expected = load(folder).to_tokens(TEXT)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=20)
    backend.save(str(folder / "tokenizer.json"))
    assert torch.equal(load(folder).to_tokens(TEXT), expected)


@pytest.mark.parametrize(
    "bos", ["<s>", {"content": "<s>", "special": True}], ids=["text", "object"]
)
def test_the_first_token_is_the_one_its_configuration_names(bos: object, folder: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = backend.to_str().replace(END_OF_TEXT, "<s>")
    (folder / "tokenizer.json").write_text(text)
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos}))
    assert load(folder).to_tokens(TEXT)[0, 0] == 0


def small_tokenizer(n_words: int, tmp_path: Path) -> Path:
    vocabulary = {END_OF_TEXT: 0} | {f"w{i}": i for i in range(1, n_words)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=END_OF_TEXT))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / f"words-{n_words}"
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    return folder


def test_a_toy_tokenizer_of_whole_words_is_taken(folder: Path, tmp_path: Path) -> None:
    model = load(folder, tokenizer=small_tokenizer(300, tmp_path))
    assert model.to_tokens("w5 w7").tolist() == [[0, 5, 7]]


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(TokenizerError, match="341 tokens, the model 340 embeddings"):
        load(folder, tokenizer=small_tokenizer(341, tmp_path))


def test_a_tokenizer_with_far_fewer_tokens_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=1400, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    load(tmp_path / "model", tokenizer=small_tokenizer(376, tmp_path))
    with pytest.raises(TokenizerError, match="375 tokens, the model 1,400 embeddings"):
        load(tmp_path / "model", tokenizer=small_tokenizer(375, tmp_path))


def test_a_tokenizer_that_loses_letters_is_refused(folder: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"loses text: 'The cat sat on the mat\.' comes back"):
        load(folder)


def test_damaged_tokenizer_files_are_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="cannot be read"):
        load(folder)


def test_damaged_tokenizer_settings_are_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json holds a JSON list"):
        load(folder)


def test_a_folder_that_holds_no_tokenizer_is_refused_when_it_was_asked_for(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(TokenizerError, match=r"holds neither tokenizer\.json nor vocab\.json"):
        load(folder, tokenizer=tmp_path / "nowhere")
