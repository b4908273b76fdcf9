"""From what was chosen to what can be computed: a loaded model, tokens, and a whole selection.

What nobody chose is taken from the prompt: the last token asks, the model's first and second guess
are the answer and the wrong answer, and the head is the one that looks hardest from the query to
the key.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

import torch
import xarray as xr

from dashboards.jobs import Job
from dashboards.measurements import basics
from dashboards.measurements.basics import Tokens
from dashboards.service import Loaded, service
from dashboards.state import SEED_TEXT, Selection
from interp.errors import PromptError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.predictions import answer_name, token_name

SEED_EDGE = ("cat", "black")
"""Query and key of the first prompt."""
SEED_ANSWERS = (" black", " white")

KEPT_BYTES = 32 * 2**20
"""Of all patterns of one prompt, up to which they are kept together."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Focus:
    """Everything that a page shows numbers of."""

    loaded: Loaded
    text: str
    prepend_bos: bool
    tokens: Tokens
    pieces: tuple[str, ...]
    """The text of each token."""
    query: int
    key: int
    layer: int
    head: int
    target: int
    """Token id of the answer."""
    wrong: int
    notices: tuple[str, ...] = ()
    """What was chosen and could not be had."""

    @property
    def model(self) -> HookedGPT2:
        """The model; pages compute nothing with it."""
        return self.loaded.model

    @property
    def cfg(self) -> ModelConfig:
        """Its sizes."""
        return self.loaded.model.cfg

    @property
    def name(self) -> str:
        """The chosen head, such as L1H2."""
        return f"L{self.layer}H{self.head}"

    @property
    def answers(self) -> tuple[int, int]:
        """Token ids of the answer and the wrong answer."""
        return self.target, self.wrong

    def piece(self, token_id: int) -> str:
        """The text of a token, or of a class of a classifier."""
        return answer_name(self.model, token_id)

    def row(self, query: int) -> xr.DataArray:
        """How one query divides its attention, over (`layer`, `head`, `key_pos`)."""
        return row(self.loaded, self.tokens, query)

    def pattern(self, layer: int, head: int) -> xr.DataArray:
        """One head's pattern, over (`query_pos`, `key_pos`)."""
        if _are_kept(self.cfg, len(self.tokens)):
            every = self.ask(basics.of_all_heads, self.tokens)
            return every.sel(layer=layer, head=head, drop=True)
        return self.ask(basics.of_head, self.tokens, layer, head)

    def ask(self, question: Callable[..., Answer], *arguments: Hashable) -> Answer:
        """A question to the model, remembered; see `service.Service.answer`."""
        return service().answer(self.loaded, question, *arguments)

    def start(self, question: Callable[..., object], *arguments: Hashable) -> Job:
        """A long question, in the background."""
        return service().start(self.loaded, question, *arguments)


def row(loaded: Loaded, tokens: Tokens, query: int) -> xr.DataArray:
    """How one query divides its attention, over (`layer`, `head`, `key_pos`)."""
    if _are_kept(loaded.model.cfg, len(tokens)):
        every = service().answer(loaded, basics.of_all_heads, tokens)
        return every.sel(query_pos=query, drop=True).assign_attrs(query=query)
    return service().answer(loaded, basics.row, tokens, query)


def _are_kept(cfg: ModelConfig, n_positions: int) -> bool:
    """Whether all patterns of a prompt are computed once, and kept."""
    return 4 * cfg.n_layers * cfg.n_heads * n_positions**2 <= KEPT_BYTES


def tokens_of(model: HookedGPT2, text: str, prepend_bos: bool) -> Tokens:
    """Token ids of a prompt; for a model without a tokenizer, the prompt holds the ids.

    Raises:
        PromptError: there are none, too many, or no such ones.
    """
    if model.tokenizer is not None:
        return tuple(model.to_tokens(text, prepend_bos=prepend_bos)[0].tolist())
    words = text.replace(",", " ").split()
    if not words or not all(word.isascii() and word.isdigit() for word in words):
        raise PromptError(
            f"{model.cfg.model_name} has no tokenizer. Write token ids, such as: 15 3 27"
        )
    ids = tuple(int(word[:9]) for word in words)
    if len(ids) > model.cfg.n_ctx:
        raise PromptError(
            f"These are {len(ids)} tokens; the model takes at most {model.cfg.n_ctx}."
        )
    model.to_tokens(torch.tensor([ids]))
    return ids


def answer_id(model: HookedGPT2, text: str) -> int:
    """The token of an answer as people type it.

    A word in the middle of a sentence carries the space before it, so a word typed without one is
    read with it wherever that is one token.

    Raises:
        PromptError: it is not one token.
    """
    if model.cfg.n_classes is not None or model.tokenizer is None:
        number = text.removeprefix("class ").strip().strip("<>")
        if number.isascii() and number.isdigit() and int(number[:9]) < model.cfg.d_vocab_out:
            return int(number)
        raise PromptError(f"An answer is a number from 0 to {model.cfg.d_vocab_out - 1} here.")
    if text[:1].isalnum():
        ids = model.tokenizer.encode(f" {text}")
        if len(ids) == 1:
            return ids[0]
    return model.to_single_token(text)


def focus(selection: Selection) -> Focus:
    """Load the model, read the prompt and complete the selection.

    Raises:
        InterpError: the model cannot be loaded, or the prompt cannot be read.
    """
    loaded = service().loaded(selection.model)
    model, cfg = loaded.model, loaded.model.cfg
    tokens = tokens_of(model, selection.text, selection.prepend_bos)
    notices: list[str] = []

    def within(chosen: int | None, name: str, n: int, default: int) -> int:
        if chosen is None or chosen < n:
            return default if chosen is None else chosen
        notices.append(f"There is no {name} {chosen} here; {name} {default} is shown.")
        return default

    seed_query, seed_key = _seed_edge(model, selection)
    n = len(tokens)
    query = within(
        selection.query, "query position", n, n - 1 if seed_query is None else seed_query
    )
    before = max(query - 1, 0) if seed_key is None else seed_key
    key = within(selection.key, "key position", n, before)
    heads = row(loaded, tokens, query).isel(key_pos=min(key, query)).argmax(("layer", "head"))
    layer, head = int(heads["layer"]), int(heads["head"])
    if selection.layer is not None and selection.head is None:
        head = 0
    layer = within(selection.layer, "layer", cfg.n_layers, layer)
    head = within(selection.head, "head", cfg.n_heads, head)
    target, wrong = _answers(loaded, tokens, selection, notices)
    pieces = tuple(token_name(model, token) for token in tokens)
    return Focus(
        loaded, selection.text, selection.prepend_bos, tokens, pieces, query, key, layer, head,
        target, wrong, tuple(notices),
    )  # fmt: skip


def _seed_edge(model: HookedGPT2, selection: Selection) -> tuple[int | None, int | None]:
    """“cat” and “black” of the first prompt; nothing for others."""
    if selection.text != SEED_TEXT or model.tokenizer is None:
        return None, None
    query, key = (
        model.find_word(selection.text, word, occurrence=0, prepend_bos=selection.prepend_bos)
        for word in SEED_EDGE
    )
    return query, key


def _answers(
    loaded: Loaded, tokens: Tokens, selection: Selection, notices: list[str]
) -> tuple[int, int]:
    """The chosen answers; else the model's first guesses."""
    target_text, wrong_text = selection.target, selection.wrong
    if selection.text == SEED_TEXT and loaded.model.tokenizer is not None:
        target_text = target_text or SEED_ANSWERS[0]
        wrong_text = wrong_text or SEED_ANSWERS[1]
    chosen: list[int | None] = []
    for text in (target_text, wrong_text):
        try:
            chosen.append(answer_id(loaded.model, text) if text else None)
        except PromptError as error:
            notices.append(str(error))
            chosen.append(None)
    guesses = [int(i) for i in service().answer(loaded, basics.predictions, tokens)["token_id"]]
    target = chosen[0] if chosen[0] is not None else next(i for i in guesses if i != chosen[1])
    if chosen[1] is not None and chosen[1] != target:
        return target, chosen[1]
    if chosen[1] is not None:
        notices.append("Answer and wrong answer are the same token; another one is compared.")
    return target, next(i for i in guesses if i != target)
