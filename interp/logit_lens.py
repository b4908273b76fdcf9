"""The logit lens: what the model would say if it stopped after a layer, or spoke with one part.

`logit_lens` reads the residual stream after each sublayer through the final LayerNorm and W_U, as
if it were the last (nostalgebraist 2020, "interpreting GPT: the logit lens"). `component_lens`
reads what each sublayer alone wrote, with the final LayerNorm's scale frozen at the run's value, so
that the components sum to the final logits.

An early layer need not write for this reader: a low rank there does not show that the answer is not
yet known (Belrose et al. 2023, arXiv:2303.08112).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import linear

from interp.errors import PromptError
from interp.metrics import TokenIds, logit
from interp.model import formula
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import block_name
from interp.model.running import positions_in
from interp.model.tokens import Prompt, TokenBatch
from interp.results import provenance, token_names

LOGITS_AT_ONCE = 2**23
"""Logits that are held together, 32 MiB in float32; a vocabulary is wide."""
Shown = Literal["last"] | Sequence[int] | None
"""Positions that are shown: each prompt's last real token, these, or all (`None`)."""
Logits = Float[Tensor, "row d_vocab"]
Described = dict[str, Tensor]
"""What a view says of each row, by name: `row`, or `row rank`."""


@torch.no_grad()
def logit_lens(
    model: HookedGPT2,
    tokens: Prompt,
    answers: TokenIds | None = None,
    *,
    n_top: int = 5,
    positions: Shown = None,
) -> xr.Dataset:
    """The prediction read off the residual stream after each sublayer.

    Args:
        answers: Tokens to follow, one per example or one for all; by default, at each position, the
            token that the model itself ranks first at the end.
        n_top: How many of the highest tokens are listed.

    Returns:
        Over (`layer`, `pos`, `example`): `kl`, KL(final || here) in nats; `answer_prob` and
        `answer_rank` (1 is highest). With `rank` (1 to `n_top`) besides: `token`, `token_id` and
        `prob`. `layer` is "L0 pre" (the embeddings), "L0 mid" (after attention), "L0 post" (after
        the MLP) and so on, with coordinates `site` (resid_pre ...) and `block`; the last one is the
        model's own prediction. Beyond a prompt: NaN, "", id -1.

    Raises:
        PromptError: answers for another number of examples or outside the vocabulary; a position
            outside the prompt; `n_top` out of range.
    """
    rows = Rows.of(model, tokens, positions)
    streams = rows.streams()
    answer = rows.answers(answers, streams[-1])

    def describe(chunk: slice) -> Iterator[Described]:
        final = _logits(model, streams[-1][chunk]).log_softmax(dim=-1)
        for logits in _of_each(lambda x: _logits(model, x), [s[chunk] for s in streams]):
            logprobs = logits.log_softmax(dim=-1)
            kl = (final.exp() * (final - logprobs)).sum(dim=-1)
            yield _ranked(logprobs.exp(), answer[chunk], n_top, "prob") | {"kl": kl}

    return rows.dataset("layer", depths(model), answer, describe)


@torch.no_grad()
def component_lens(
    model: HookedGPT2,
    tokens: Prompt,
    answers: TokenIds | None = None,
    *,
    n_top: int = 5,
    positions: Shown = None,
) -> xr.Dataset:
    """The tokens that each sublayer's output promotes by itself.

    Its logits are what it adds to the final ones, through the final LayerNorm with the scale frozen
    at the run's value, minus their mean over the vocabulary, on which no prediction depends.

    Args:
        answers, n_top, positions: As in `logit_lens`.

    Returns:
        Over (`component`, `pos`, `example`): `answer_logit` and `answer_rank` (1 is highest). With
        `rank` (1 to `n_top`) besides: `token`, `token_id` and `logit` of the tokens promoted most,
        and `lowest_token`, `lowest_token_id` and `lowest_logit` of those suppressed most (rank 1 is
        the lowest logit). Components are "embed", "pos_embed", "L0 attn_out", "L0 mlp_out" and so
        on, each with its biases, and "final bias", the final LayerNorm's and the unembedding's.
        Their logits of a token sum to its final logit minus the mean over the vocabulary. Beyond a
        prompt: NaN, "", id -1.

    Raises:
        PromptError: as in `logit_lens`.
    """
    rows = Rows.of(model, tokens, positions)
    outputs = {"embed": "hook_embed", "pos_embed": "hook_pos_embed"} | {
        f"L{block} {site}": block_name(block, f"hook_{site}")
        for block in range(model.cfg.n_layers)
        for site in ("attn_out", "mlp_out")
    }
    last = block_name(model.cfg.n_layers - 1, "hook_resid_post")
    *written, stream, scale = rows.run([*outputs.values(), last, "ln_final.hook_scale"])
    answer = rows.answers(answers, stream)
    weight, final = model.unembed.weight, model.ln_final
    final_bias = _centred(linear(final.b, weight, model.unembed.b_U))

    def both_ends(logits: Logits, chunk: slice) -> Described:
        described = _ranked(logits, answer[chunk], n_top, "logit")
        lowest = logits.topk(n_top, largest=False)
        return described | {"lowest_token_id": lowest.indices, "lowest_logit": lowest.values}

    def describe(chunk: slice) -> Iterator[Described]:
        normalized = [formula.layer_norm_normalized(x[chunk], scale[chunk]) for x in written]
        for logits in _of_each(lambda x: _centred(linear(x * final.w, weight)), normalized):
            yield both_ends(logits, chunk)
        yield both_ends(final_bias.expand(len(answer[chunk]), -1), chunk)

    coords = {"component": [*outputs, "final bias"]}
    return rows.dataset("component", coords, answer, describe)


def depths(model: HookedGPT2) -> dict[str, object]:
    """Coordinates of the stream's depths: `layer` ("L0 pre", "L0 mid" ...), `site` and `block`."""
    blocks = range(model.cfg.n_layers)
    places = [(0, "pre")] + [(block, site) for block in blocks for site in ("mid", "post")]
    return {
        "layer": [f"L{block} {site}" for block, site in places],
        "site": ("layer", [f"resid_{site}" for _, site in places]),
        "block": ("layer", [block for block, _ in places]),
    }


def _logits(model: HookedGPT2, stream: Float[Tensor, "row d_model"]) -> Logits:
    """A residual stream read as if it were the final one."""
    unembed = model.unembed
    return at_least_float32(linear(model.ln_final(stream), unembed.weight, unembed.b_U))


def _of_each(
    read: Callable[[Float[Tensor, "row d_model"]], Logits],
    vectors: list[Float[Tensor, "row d_model"]],
) -> Iterator[Logits]:
    """The logits of each view's rows; of several views at once where rows are few.

    W_U is then read from memory once for all of them, which is most of the work for one position.
    """
    first = read(vectors[0])
    yield first
    at_once = max(1, LOGITS_AT_ONCE // first.numel())
    for begin in range(1, len(vectors), at_once):
        together = vectors[begin : begin + at_once]
        yield from read(torch.cat(together)).split(len(vectors[0]))


def _centred(logits: Float[Tensor, "... d_vocab"]) -> Float[Tensor, "... d_vocab"]:
    logits = at_least_float32(logits)
    return logits - logits.mean(dim=-1, keepdim=True)


def _ranked(values: Logits, answer: Int[Tensor, "row 1"], n_top: int, name: str) -> Described:
    """The highest tokens with their values, and the answer's value and rank."""
    if not 1 <= n_top <= values.shape[-1]:
        raise PromptError(f"n_top must be 1 to {values.shape[-1]}, got {n_top}.")
    top, own = values.topk(n_top), values.gather(1, answer)
    return {
        "token_id": top.indices,
        name: top.values,
        f"answer_{name}": own[:, 0],
        "answer_rank": (1 + (values > own).sum(dim=-1)).float(),
    }


@dataclass(frozen=True)
class Rows:
    """The positions that a lens shows, as one row for each real token."""

    model: HookedGPT2
    batch: TokenBatch
    pos: list[object]
    """Labels of the shown positions."""
    shown: Int[Tensor, "example shown"]
    """Their index in each prompt."""

    @classmethod
    def of(cls, model: HookedGPT2, tokens: Prompt, positions: Shown) -> "Rows":
        """Find the positions in each prompt."""
        batch = model.as_batch(tokens)
        shown = positions_in(batch, positions)
        if not shown.shape[1]:
            raise PromptError('positions is empty; name at least one, or use "last" or None.')
        return cls(model, batch, ["last"] if positions == "last" else shown[0].tolist(), shown)

    @property
    def index(self) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """Example, and column of `shown`, of each row."""
        example, column = self.batch.attention_mask.gather(1, self.shown).nonzero().unbind(dim=1)
        return example, column

    def run(self, names: Sequence[str]) -> list[Float[Tensor, "row width"]]:
        """These values of one run of the model."""
        _, cache = self.model.run_with_cache(self.batch, names_filter=names, return_type=None)
        example, column = self.index
        return [cache[name][example, self.shown[example, column]] for name in names]

    def streams(self) -> list[Float[Tensor, "row d_model"]]:
        """The residual stream at each of `depths`."""
        names = [block_name(0, "hook_resid_pre")] + [
            block_name(block, f"hook_resid_{site}")
            for block in range(self.model.cfg.n_layers)
            for site in ("mid", "post")
        ]
        return self.run(names)

    def answers(
        self, answers: TokenIds | None, stream: Float[Tensor, "row d_model"]
    ) -> Int[Tensor, "row 1"]:
        """The token to follow in each row; by default the one that the final stream ranks first."""
        if answers is None:
            best = [_logits(self.model, stream[chunk]).argmax(dim=-1) for chunk in self._chunks()]
            return torch.cat(best)[:, None]
        ids = logit(answers).vocab_ids
        assert ids is not None
        n_examples, n_logits = len(self.shown), self.model.cfg.d_vocab_out
        if len(ids) not in (1, n_examples):
            raise PromptError(f"There are {len(ids)} answers for {n_examples} examples.")
        if int(ids.max()) >= n_logits:
            raise PromptError(
                f"Answer {int(ids.max())} is outside the vocabulary 0-{n_logits - 1}."
            )
        return ids.to(stream.device).expand(n_examples, 1)[self.index[0]]

    def _chunks(self) -> list[slice]:
        size = max(1, LOGITS_AT_ONCE // self.model.cfg.d_vocab_out)
        return [slice(begin, begin + size) for begin in range(0, len(self.index[0]), size)]

    def dataset(
        self,
        dim: str,
        coords: Mapping[str, object],
        answer: Int[Tensor, "row 1"],
        describe: Callable[[slice], Iterator[Described]],
    ) -> xr.Dataset:
        """What `describe` says of each chunk of rows, one view after the other along `dim`."""
        chunks = [list(describe(chunk)) for chunk in self._chunks()]
        found = {
            name: torch.cat([torch.stack([view[name] for view in chunk]) for chunk in chunks], 1)
            for name in chunks[0][0]
        }
        dims = (dim, "pos", "example", "rank")
        tables = {name: self.table(values) for name, values in found.items()}
        variables = {name: (dims[: table.ndim], table) for name, table in tables.items()}
        for name in ("token_id", "lowest_token_id"):
            if name in tables:
                variables[name.removesuffix("_id")] = (dims, self._strings(tables[name]))
        return xr.Dataset(
            variables,
            coords={
                **coords,
                **self.coords(),
                "rank": range(1, found["token_id"].shape[-1] + 1),
                "answer": (("pos", "example"), self._strings(self.table(answer.T)[0])),
            },
            attrs=provenance(self.model),
        )

    def coords(self) -> dict[str, object]:
        """`pos`, and the `prompt_token` at each."""
        shown = zip(token_names(self.model, self.batch), self.shown.tolist(), strict=True)
        names = [[row[p] for p in at] for row, at in shown]
        return {"pos": self.pos, "prompt_token": (("example", "pos"), names)}

    def table(self, values: Shaped[Tensor, "view row ..."]) -> np.ndarray:
        """Rows back at their position and example; NaN (or id -1) beyond a prompt."""
        example, column = self.index
        missing = np.nan if values.is_floating_point() else -1
        shape = (len(values), *self.shown.T.shape, *values.shape[2:])
        table = torch.full(shape, missing, dtype=values.dtype, device=values.device)
        table[:, column, example] = values
        return table.numpy(force=True)

    def _strings(self, ids: np.ndarray) -> np.ndarray:
        """The text of each token id; the id itself where no tokenizer knows it, "" for -1."""
        tokenizer = self.model.tokenizer if self.model.cfg.n_classes is None else None
        known = range(len(tokenizer) if tokenizer else 0)
        different, where = np.unique(ids, return_inverse=True)
        names = [
            "" if i < 0 else tokenizer.piece(i) if tokenizer and i in known else f"<{i}>"
            for i in different.tolist()
        ]
        return np.array(names)[where].reshape(ids.shape)
