"""`save_huggingface`: what `transformers` reads back, and what a failure leaves."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    GPT2LMHeadModel,
)

from interp.errors import CheckpointError
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import load
from interp.model.saving import save_huggingface
from interp.model.tokens import Tokenizer
from tests.test_checkpoints import run_child
from tests.test_loading import TOLERANCE, some_tokens


@pytest.fixture
def folder(random_gpt2: HookedGPT2, tmp_path: Path) -> Path:
    """A good Hugging Face folder."""
    save_huggingface(random_gpt2, tmp_path / "model")
    return tmp_path / "model"


def test_transformers_reads_what_we_save(hf_model: GPT2LMHeadModel, tmp_path: Path) -> None:
    save_huggingface(HookedGPT2.from_huggingface(hf_model), tmp_path / "saved")
    again, report = GPT2LMHeadModel.from_pretrained(
        tmp_path / "saved", output_loading_info=True, attn_implementation="eager"
    )
    tokens = some_tokens(hf_model.config.vocab_size)
    with torch.no_grad():
        actual, expected = again(tokens).logits, hf_model(tokens).logits
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_transformers_reads_the_tokenizer_we_save(folder: Path, tokenizer: Tokenizer) -> None:
    fast = AutoTokenizer.from_pretrained(folder)
    text = "I love the colour “grey” 🙂\n\tthat."
    assert fast(text)["input_ids"] == tokenizer.encode(text)
    assert fast.decode(tokenizer.encode(text)) == text
    assert fast.bos_token_id == tokenizer.bos_token_id
    assert fast.model_max_length == 32


def test_saving_over_the_folder_it_was_loaded_from_is_safe(folder: Path) -> None:
    model = load(folder)
    before = model(some_tokens())
    save_huggingface(model, folder)
    assert torch.equal(model(some_tokens()), before)
    assert torch.equal(load(folder)(some_tokens()), before)


def test_a_model_without_tokenizer_leaves_no_old_tokenizer(folder: Path) -> None:
    model = load(folder)
    model.tokenizer = None
    save_huggingface(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_with_other_files_is_not_written_to(folder: Path) -> None:
    model = load(folder)
    (folder / "vocab.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=r"holds other files \(vocab\.json\)"):
        save_huggingface(model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_model_that_hugging_face_cannot_hold_is_refused(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    model.unembed.b_U = nn.Parameter(torch.zeros(340))
    with pytest.raises(CheckpointError, match="no bias in its unembedding"):
        save_huggingface(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_failed_save_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(folder)
    assert model.tokenizer is not None
    model.tokenizer.bos_token_id = -1  # the last file to be written cannot be made
    with pytest.raises(OverflowError):
        save_huggingface(model, tmp_path / "new" / "saved")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    message = run_child(f"""
        import resource, signal
        import interp
        model = interp.load({str(folder)!r})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            interp.save_huggingface(model, {str(tmp_path / "new")!r})
        except interp.errors.CheckpointError as refusal:
            print(refusal)
    """)
    assert "failed and changed nothing" in message
    assert not (tmp_path / "new").exists()


def test_saving_onto_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file; expected a folder"):
        save_huggingface(load(folder), folder / "config.json")
