"""Text to tokens and back; padding; and every prompt that must be refused with a reason."""

from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import PromptError, TokenizerError
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import (
    BYTE_OF_CHARACTER,
    END_OF_TEXT,
    MAX_CHARACTERS,
    TokenBatch,
    Tokenizer,
    visible,
)
from tests.comparison import assert_close

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
    lambda text: "<|" not in text
)
ESCAPE = rb"\x"
SENTENCE = "I love the color black. The cat is black, my black cat."


@pytest.fixture
def without_tokenizer(random_gpt2: HookedGPT2) -> HookedGPT2:
    return HookedGPT2.from_weights(random_gpt2.cfg, dict(random_gpt2.state_dict()))


def bytes_of(tokenizer: Tokenizer, token_id: int) -> bytes:
    token = tokenizer.backend.id_to_token(token_id)
    return bytes(BYTE_OF_CHARACTER[character] for character in token)


# Round trips


@given(text=unicode_text)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=unicode_text)
def test_pieces_are_the_bytes_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    raw = [bytes_of(tokenizer, token_id) for token_id in ids]
    assert b"".join(raw) == text.encode()
    for token_id, expected in zip(ids, raw, strict=True):
        assert tokenizer.piece(token_id) == expected.decode(errors="backslashreplace")


@given(text=unicode_text.filter(str.strip))
def test_a_word_is_found_where_its_token_ends(random_gpt2: HookedGPT2, text: str) -> None:
    before = "so, "
    ids = random_gpt2.tokenizer.encode(before + "zebra " + text)
    position = random_gpt2.find_word(before + "zebra " + text, "zebra", occurrence=0)
    assert random_gpt2.tokenizer.decode(ids[:position]).rstrip() == before + "zebra"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (" cat", [" cat"]),
        ("é", ["\\xc3", "\\xa9"]),
        ("🙂", ["\\xf0", "\\x9f", "\\x99", "\\x82"]),
        ("\x00\n", ["\x00", "\n"]),
        (END_OF_TEXT, [END_OF_TEXT]),
    ],
)
def test_pieces_show_parts_of_characters_as_bytes(
    random_gpt2: HookedGPT2, text: str, pieces: list[str]
) -> None:
    assert random_gpt2.to_str_tokens(text, prepend_bos=False) == pieces
    assert random_gpt2.to_str_tokens(text) == [END_OF_TEXT, *pieces]
    assert random_gpt2.to_string(random_gpt2.to_tokens(text, prepend_bos=False)) == [text]


def test_white_space_and_controls_are_made_visible() -> None:
    assert visible(" a\n\tb") == "·a⏎⇥b"
    assert visible("\x00\u202e\u2066") == r"\x00\u202e\u2066"
    assert visible("é<b>") == "é<b>"


def test_ids_of_one_prompt_and_of_several_become_text(random_gpt2: HookedGPT2) -> None:
    ids = random_gpt2.to_tokens(" black", prepend_bos=False)[0]
    assert random_gpt2.to_string(ids) == " black"
    assert random_gpt2.to_string(ids.tolist()) == " black"
    assert random_gpt2.to_string(int(ids[0])) == random_gpt2.to_str_tokens(ids)[0]
    assert random_gpt2.to_string(torch.stack([ids, ids])) == [" black", " black"]


def test_every_kind_of_prompt_becomes_the_same_ids(random_gpt2: HookedGPT2) -> None:
    tokens = random_gpt2.to_tokens(SENTENCE)
    assert tokens[0, 0] == random_gpt2.tokenizer.bos_token_id
    without = random_gpt2.to_tokens(SENTENCE, prepend_bos=False)
    assert torch.equal(without, tokens[:, 1:])
    for prompt in ([SENTENCE], tokens, tokens[0], tokens[0].tolist(), tokens.tolist()):
        assert torch.equal(random_gpt2.to_tokens(prompt), tokens)
        assert torch.equal(random_gpt2.as_batch(prompt).tokens, tokens)
    assert torch.equal(random_gpt2(SENTENCE), random_gpt2(tokens))


def test_the_models_own_default_decides_about_the_first_token(without_tokenizer, tokenizer) -> None:
    cfg = replace(without_tokenizer.cfg, default_prepend_bos=False)
    model = HookedGPT2.from_weights(cfg, dict(without_tokenizer.state_dict()), tokenizer)
    assert model.to_str_tokens(" cat") == [" cat"]
    assert model.to_str_tokens(" cat", prepend_bos=True) == [END_OF_TEXT, " cat"]


def test_a_tokenizer_is_read_from_either_kind_of_folder(
    tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path
) -> None:
    backend = tokenizers.Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    backend.model.save(str(tmp_path))
    read = Tokenizer.from_folder(tmp_path)
    assert read is not None
    for text in (SENTENCE, "🙂 é", END_OF_TEXT + "a"):
        assert read.encode(text) == tokenizer.encode(text)
        assert read.decode(read.encode(text)) == text
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.from_folder(tmp_path)
    assert Tokenizer.from_folder(tmp_path / "elsewhere") is None


# Padding

TEXTS = ["The cat is black.", "I love the", "When Mary and John went to", "a"]


def left_padded(batch: TokenBatch) -> TokenBatch:
    rows = [
        torch.cat([row[~mask], row[mask]])
        for row, mask in zip(batch.tokens, batch.attention_mask, strict=True)
    ]
    return TokenBatch(torch.stack(rows), batch.attention_mask.flip(1))


@pytest.mark.parametrize("side", ["right", "left"])
def test_prompts_of_unequal_length_run_as_they_would_alone(
    our_model: HookedGPT2, tokenizer: Tokenizer, side: str
) -> None:
    model = HookedGPT2.from_weights(our_model.cfg, dict(our_model.state_dict()), tokenizer)
    texts, batch = TEXTS, model.to_batch(TEXTS)
    assert len(set(batch.lengths.tolist())) == len(texts)
    if side == "left":
        batch = left_padded(batch)
        logits, cache = model.run_with_cache(batch.tokens, attention_mask=batch.attention_mask)
        last = model(batch.tokens, attention_mask=batch.attention_mask, positions="last")
    else:
        logits, cache = model.run_with_cache(texts)
        last = model(texts, positions="last")
    losses = model(batch, return_type="loss", loss_per_token=True)
    total = torch.zeros(())
    for index, text in enumerate(texts):
        (expected, loss), alone = model.run_with_cache(text, return_type="both")
        mask = batch.attention_mask[index]
        assert_close(logits[index, mask], expected[0])
        assert_close(last[index, 0], expected[0, -1])
        assert_close(cache["resid_post", -1][index, mask], alone["resid_post", -1][0])
        pattern = cache["pattern", 0][index][:, mask][:, :, mask]
        assert_close(pattern, alone["pattern", 0][0])
        n_predicted = len(expected[0]) - 1
        assert_close(losses[index].sum() / n_predicted, loss)
        total = total + loss * n_predicted
    mean = model(batch, return_type="loss")
    assert_close(mean, total / (batch.attention_mask.sum() - len(texts)))


def test_a_batch_knows_its_lengths(random_gpt2: HookedGPT2) -> None:
    batch = random_gpt2.to_batch(["The cat", " cat"])
    assert batch.lengths.tolist() == [3, 2]
    assert batch.attention_mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.tokens[1, 2] == random_gpt2.tokenizer.bos_token_id


@pytest.mark.parametrize(
    "rows",
    [
        [[0, 5, 6], [0, 5, 0]],
        [[0, 5, 6], [0, 0, 5]],
        [[0, 5, 0, 0]],
        [[0, 0, 5, 6]],
    ],
)
def test_ids_that_look_padded_need_a_mask(random_gpt2: HookedGPT2, rows: list) -> None:
    tokens = torch.tensor(rows)
    with pytest.raises(PromptError, match="look padded, and no attention_mask says where"):
        random_gpt2(tokens)
    real = torch.ones_like(tokens, dtype=torch.bool)
    assert torch.equal(
        random_gpt2(tokens, attention_mask=real), random_gpt2(TokenBatch(tokens, real))
    )


@pytest.mark.parametrize(
    "rows", [[[0, 5, 6], [0, 5, 7]], [[0, 5, 0]], [[5, 0, 6], [5, 0, 7]], [[0]]]
)
def test_ids_that_merely_hold_the_first_token_need_no_mask(
    random_gpt2: HookedGPT2, rows: list
) -> None:
    assert random_gpt2(torch.tensor(rows)).isfinite().all()


def test_a_mask_that_does_not_fit_is_an_error(random_gpt2: HookedGPT2) -> None:
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with pytest.raises(PromptError, match=r"shape \[2, 2\]; expected \[2, 3\]"):
        random_gpt2(tokens, attention_mask=torch.ones(2, 2).bool())
    with pytest.raises(PromptError, match="without any real token"):
        random_gpt2(tokens, attention_mask=torch.tensor([[1, 1, 1], [0, 0, 0]]).bool())
    with pytest.raises(PromptError, match=r"shape \[2, 2\]; expected \[2, 3\]"):
        random_gpt2(torch.zeros(2, 3, 24), start_at_layer=1, attention_mask=torch.ones(2, 2).bool())
    whole_numbers = torch.tensor([[0, 1, 1], [1, 1, 1]])  # as Hugging Face's tokenizers give
    assert torch.equal(
        random_gpt2(tokens, attention_mask=whole_numbers),
        random_gpt2(tokens, attention_mask=whole_numbers.bool()),
    )


# Prompts that are refused


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "The text is empty"),
        (["The cat", ""], "The text is empty"),
        ([], "The list of texts is empty"),
        ("a \ud800 b", "not valid Unicode at position 2"),
        ("x" * (MAX_CHARACTERS + 1), f"1000001 characters; at most {MAX_CHARACTERS}"),
        ("cat " * 40, "The text has 43 tokens; the model takes at most 32"),
        (torch.ones(1, 33, dtype=torch.long), "The prompt has 33 tokens; the model takes 32"),
        (torch.tensor([[5, 340]]), "Token id 340 is outside the vocabulary 0-339"),
        (torch.tensor([[5, -1]]), "Token id -1 is outside the vocabulary 0-339"),
        ([5, 1000], "Token id 1000 is outside"),
        (torch.tensor([[5.0, 6.0]]), r"whole numbers of shape \[batch, pos\], got torch.float32"),
        ([0.5, 1.5], "whole numbers"),
        (torch.ones(1, 2, 3, dtype=torch.long), r"of shape \(1, 2, 3\)"),
        (torch.ones(1, 3, dtype=torch.bool), "got torch.bool"),
        (torch.ones(1, 0, dtype=torch.long), "The prompt is empty. Pass at least one token"),
        ([[5, 6], [7]], "lists of ids of equal length"),
        (["The cat", 5], "A prompt is a text, a list of texts, token ids"),
        (
            TokenBatch(torch.tensor([[5, 340]]), torch.ones(1, 2).bool()),
            "Token id 340 is outside the vocabulary",
        ),
    ],
    ids=range(18),
)
def test_a_prompt_that_cannot_run_is_refused_with_the_reason(
    random_gpt2: HookedGPT2, prompt: object, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        random_gpt2(prompt)


def test_text_without_a_tokenizer_is_an_error_that_says_how_to_get_one(without_tokenizer) -> None:
    assert without_tokenizer(torch.tensor([[0, 5, 0, 0]])).isfinite().all()
    with pytest.raises(TokenizerError, match=r"no tokenizer\. Pass token ids, or load it with"):
        without_tokenizer("The cat")


def test_a_tokenizer_without_a_first_token_cannot_prepend_it(without_tokenizer) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    model = HookedGPT2.from_weights(
        without_tokenizer.cfg, dict(without_tokenizer.state_dict()), Tokenizer(backend)
    )
    with pytest.raises(TokenizerError, match="use prepend_bos=False"):
        model.to_tokens("a")
    assert model.to_tokens("a", prepend_bos=False).tolist() == [[0]]


def test_an_id_outside_the_tokenizer_is_named(random_gpt2: HookedGPT2) -> None:
    with pytest.raises(PromptError, match=r"Token id 999 is not in the tokenizer \(\d+ tokens\)"):
        random_gpt2.to_str_tokens([999])


# Answers and words


def test_an_answer_is_one_token_or_shows_its_split(random_gpt2: HookedGPT2) -> None:
    assert random_gpt2.to_single_token(" black") == random_gpt2.tokenizer.encode(" black")[0]
    with pytest.raises(PromptError, match=r"'black' is \d tokens \(.* \| .*\), not one"):
        random_gpt2.to_single_token("black")
    with pytest.raises(PromptError, match="' black' is one token"):
        random_gpt2.to_single_token("black")
    with pytest.raises(PromptError, match="2 tokens") as info:
        random_gpt2.to_single_token("xq")
    assert "is one token" not in str(info.value)
    with pytest.raises(PromptError, match="The text is empty"):
        random_gpt2.to_single_token("")


def test_a_word_is_found_at_its_last_token(random_gpt2: HookedGPT2) -> None:
    text = "The cat sees a zebra."
    tokens = random_gpt2.to_str_tokens(text)
    assert tokens[random_gpt2.find_word(text, "cat")] == " cat"
    assert random_gpt2.find_word(text, " cat", prepend_bos=False) == tokens.index(" cat") - 1
    position = random_gpt2.find_word(text, "zebra")
    assert "".join(tokens[1 : position + 1]) == "The cat sees a zebra"


def test_a_word_that_is_missing_or_repeated_is_an_error_that_says_so(
    random_gpt2: HookedGPT2,
) -> None:
    tokens = random_gpt2.to_str_tokens(SENTENCE)
    positions = [index for index, token in enumerate(tokens) if token == " black"]
    listed = ", ".join(map(str, positions))
    with pytest.raises(PromptError, match=f"'black' appears 3 times, at positions {listed}. Say"):
        random_gpt2.find_word(SENTENCE, " black")
    for occurrence in range(3):
        found = random_gpt2.find_word(SENTENCE, "black", occurrence=occurrence)
        assert found == positions[occurrence]
    for occurrence in (3, -1):
        with pytest.raises(PromptError, match=f"There are 3 .* occurrence {occurrence} is not"):
            random_gpt2.find_word(SENTENCE, "black", occurrence=occurrence)
    for empty in ("", "  "):
        with pytest.raises(PromptError, match="word is empty"):
            random_gpt2.find_word(SENTENCE, empty)
    for missing in ("dog", "blac"):
        with pytest.raises(PromptError, match="is not in the text"):
            random_gpt2.find_word(SENTENCE, missing)


def test_the_direction_of_a_token_is_what_its_logit_reads(random_gpt2: HookedGPT2) -> None:
    black = random_gpt2.to_single_token(" black")
    directions = random_gpt2.tokens_to_residual_directions
    logits, cache = random_gpt2.run_with_cache(SENTENCE)
    final = cache["normalized"] * random_gpt2.ln_final.w + random_gpt2.ln_final.b
    assert_close(final @ directions(" black"), logits[..., black])
    assert torch.equal(directions(black), directions(" black"))
    assert torch.equal(directions(torch.tensor([black])), directions(black))
    assert directions(torch.tensor([[1, 2], [3, 4]])).shape == (2, 2, 24)
    for wrong in (340, -1, torch.tensor([3, 340])):
        with pytest.raises(PromptError, match="Token ids must be 0-339"):
            directions(wrong)
