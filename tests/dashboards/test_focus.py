"""From what was chosen to what is shown."""

import pytest

import interp
from dashboards.focus import answer_id, focus, tokens_of
from dashboards.state import Selection
from interp import HookedGPT2, ModelConfig
from interp.errors import PromptError


def chosen(**fields: object) -> Selection:
    return Selection("tiny", **fields)  # pyright: ignore[reportArgumentType]


def test_the_first_prompt_asks_whether_cat_looks_at_black() -> None:
    seen = focus(chosen())
    assert (seen.pieces[seen.query], seen.pieces[seen.key]) == (" cat", " black")
    assert (seen.piece(seen.target), seen.piece(seen.wrong)) == (" black", " white")
    assert seen.notices == ()


def test_the_head_is_the_one_that_looks_hardest() -> None:
    seen = focus(chosen())
    model = interp.load()
    _, cache = model.run_with_cache(model.to_tokens(seen.text))
    weights = {
        (layer, head): float(cache["pattern", layer][0, head, seen.query, seen.key])
        for layer in range(model.cfg.n_layers)
        for head in range(model.cfg.n_heads)
    }
    assert (seen.layer, seen.head) == max(weights, key=weights.__getitem__)


def test_without_the_beginning_token_the_same_words_are_chosen() -> None:
    seen = focus(chosen(prepend_bos=False))
    assert (seen.pieces[seen.query], seen.pieces[seen.key]) == (" cat", " black")


def test_another_prompt_asks_from_its_end_for_the_models_first_guesses() -> None:
    text = "When Mary and John went to the store, John gave a drink to"
    seen = focus(chosen(text=text))
    model = interp.load()
    best = model(model.to_tokens(text), positions="last")[0, -1].topk(2).indices.tolist()
    assert seen.query == len(seen.tokens) - 1
    assert list(seen.answers) == best


def test_an_answer_typed_without_its_space_is_read_with_it() -> None:
    seen = focus(chosen(target="white", wrong="black"))
    assert (seen.piece(seen.target), seen.piece(seen.wrong)) == (" white", " black")


def test_punctuation_is_read_as_it_is_typed() -> None:
    seen = focus(chosen(target=".", wrong=","))
    assert (seen.piece(seen.target), seen.piece(seen.wrong)) == (".", ",")


def test_what_cannot_be_had_is_said_and_the_rest_is_kept() -> None:
    seen = focus(chosen(query=900, layer=40, head=2, target="supercalifragilistic", key=3))
    assert (seen.key, seen.head) == (3, 2)
    assert seen.query < len(seen.tokens)
    said = " ".join(seen.notices)
    for words in ("query position 900", "layer 40", "supercalifragilistic"):
        assert words in said


def test_equal_answers_are_said_and_another_one_is_compared() -> None:
    seen = focus(chosen(target=" black", wrong=" black"))
    assert seen.target != seen.wrong
    assert any("same token" in notice for notice in seen.notices)


def test_a_prompt_of_one_token_has_a_whole_selection() -> None:
    seen = focus(chosen(text="a", prepend_bos=False))
    assert (seen.query, seen.key) == (0, 0)


@pytest.mark.parametrize(
    ("text", "message"), [("", "empty"), ("a " * 400, "at most 256"), ("\ud800", "Unicode")]
)
def test_a_prompt_that_cannot_be_read_is_an_error(text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        focus(chosen(text=text))


@pytest.fixture
def numbers_only() -> HookedGPT2:
    """A model without a tokenizer."""
    return HookedGPT2(ModelConfig(n_layers=1, n_heads=2, d_model=8, d_mlp=8, d_vocab=20, n_ctx=6))


def test_a_model_without_a_tokenizer_reads_token_ids(numbers_only: HookedGPT2) -> None:
    assert tokens_of(numbers_only, "3, 4 19", True) == (3, 4, 19)
    assert answer_id(numbers_only, "<7>") == 7


@pytest.mark.parametrize("text", ["", "a b", "3 -4", "3 ²"])
def test_other_text_is_refused_there(numbers_only: HookedGPT2, text: str) -> None:
    with pytest.raises(PromptError, match="Write token ids"):
        tokens_of(numbers_only, text, True)


@pytest.mark.parametrize(("text", "message"), [("1 " * 7, "at most 6"), ("3 20", "vocabulary")])
def test_ids_that_do_not_fit_are_refused_there(
    numbers_only: HookedGPT2, text: str, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        tokens_of(numbers_only, text, True)


@pytest.mark.parametrize("text", ["20", "-1", "x", ""])
def test_answers_there_are_ids_too(numbers_only: HookedGPT2, text: str) -> None:
    with pytest.raises(PromptError, match="a number from 0 to 19"):
        answer_id(numbers_only, text)
