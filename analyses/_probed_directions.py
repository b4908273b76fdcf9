"""Does the model use what a probe reads, and what could the probe have learned by heart?"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from analyses._probed_sentences import Sentences
from interp import charts, probes, statistics
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook
from interp.prompts import PromptPairs
from interp.report import Section

PLACE = "thing"
"""Where single directions are exchanged."""
BY_HEART = 0.5
"""A control counts as learned above this accuracy."""
STRONGER = 100.0
"""Times the penalty, to see how much depends on it."""


def strength_table(
    x: Float[Tensor, "example d_model"], sentences: Sentences, *, penalty: float, seed: int
) -> pd.DataFrame:
    """What probes of two penalties learn: the colour, and two controls."""
    documents = range(len(sentences.labels))
    controls = {
        "random, by combination": sentences.types,
        "random, by word at the place": sentences.things,
    }
    rows = []
    for weight in (penalty, STRONGER * penalty):
        for name, types in controls.items():
            ds = probes.evaluate(
                x, sentences.labels, types, documents, penalty=weight, seed=seed
            )  # fmt: skip
            if not rows or rows[-1]["penalty"] != weight:
                rows.append(_strength("the colour", weight, ds.accuracy, seed))
            rows.append(_strength(name, weight, ds.control, seed))
    return pd.DataFrame(rows)


def _strength(task: str, penalty: float, values: xr.DataArray, seed: int) -> dict[str, object]:
    condition = f"{task}, penalty {penalty:g}"
    interval = statistics.bootstrap_mean(values.values, seed=seed)
    return {"condition": condition, "task": task, "penalty": penalty} | interval._asdict()


def strength_section(table: pd.DataFrame, depth: str) -> Section:
    """What this kind of probe could learn without any colour in the activations."""
    first = table.set_index("task")["mean"].groupby(level=0, sort=False).first()
    by_word = first["random, by word at the place"]
    reading = (
        f"At {PLACE}, {depth}. A random colour for each word that stands there is learned to "
        f"{by_word:.2f}, one for each combination of colour and thing to "
        f"{first['random, by combination']:.2f}: "
        + (
            "this probe does know the few words by heart. The accuracy for the colour means "
            "something because colour and thing were drawn independently."
            if by_word > BY_HEART
            else "this probe learns little by heart."
        ),
        f"The colour is read to {table.loc[0, 'mean']:.2f}, and with a penalty {STRONGER:g} times "
        f"as strong to {table.loc[3, 'mean']:.2f}.",
    )
    picture = charts.intervals(table, "What can be learned at this place", "accuracy")
    return Section("What could the probe learn by heart?", reading, table, (picture,))


def exchange_table(
    model: HookedGPT2,
    sentences: Sentences,
    x: Float[Tensor, "example d_model"],
    hook: str,
    chosen: Int[Tensor, " chosen"],
    *,
    penalty: float,
    seed: int,
) -> pd.DataFrame:
    """The logit difference when parts of the stream at the thing are exchanged, or removed."""
    documents = range(len(x))
    train = ~probes.in_test(documents, seed=seed)
    control = probes.control_labels(sentences.types, sentences.labels, seed=seed)
    basis, control_basis = (
        probes.fit(x[train], _chosen(task, train), penalty=penalty).basis()
        for task in (sentences.labels, control)
    )
    parts = {
        "all directions": torch.eye(x.shape[1]),
        "what the probe reads": basis,
        "all but what the probe reads": torch.linalg.svd(basis).U[:, basis.shape[1] :],
        "what the control probe reads": control_basis,
        "random directions": probes.random_basis(basis, seed=seed),
    }
    tested = sentences.chosen(chosen)
    edited = Edited(model, tested.pairs, hook, tested.places[PLACE])
    intact, other = edited.run(tested.pairs.clean), edited.run(tested.pairs.corrupted)
    rows = []
    for name, part in parts.items():
        moved = edited.run(tested.pairs.corrupted, part, x[chosen]) - other
        lost = intact - edited.run(tested.pairs.clean, part, x[train].mean(dim=0))
        interval = statistics.bootstrap_mean(moved.numpy(), seed=seed)
        rows.append(
            {"condition": name, "directions": part.shape[1]}
            | interval._asdict()
            | {"share moved": float(moved.mean() / (intact - other).mean())}
            | {"share lost if removed": float(lost.mean() / intact.mean())}
        )
    return pd.DataFrame(rows)


def _chosen(labels: Sequence[str], mask: Tensor) -> list[str]:
    return [label for label, keep in zip(labels, mask.tolist(), strict=True) if keep]


@dataclass(frozen=True)
class Edited:
    """Runs with another stream at one place."""

    model: HookedGPT2
    pairs: PromptPairs
    hook: str
    positions: Int[Tensor, " example"]

    def run(
        self,
        texts: Sequence[str],
        basis: Float[Tensor, "d_model direction"] | None = None,
        other: Float[Tensor, "*example d_model"] | None = None,
    ) -> Float[Tensor, " example"]:
        """The metric, in logits, with the part in some directions taken from `other`."""

        def edit(x: Tensor, hook: Hook) -> Tensor:  # noqa: ARG001
            assert basis is not None
            assert other is not None
            place = torch.arange(len(x)), self.positions
            edited = x.clone()
            edited[place] = probes.exchanged(x[place], other, basis)
            return edited

        hooks = [] if basis is None else [(self.hook, edit)]
        with torch.no_grad(), self.model.hooks(hooks):
            logits = self.model(self.model.to_batch(texts), positions="last")
        return self.pairs.metric(self.model)(logits)


def exchange_section(table: pd.DataFrame, depth: str) -> Section:
    """Whether the model uses the directions that the probe reads."""
    rows = table.set_index("condition")
    probe, control = rows.loc["what the probe reads"], rows.loc["random directions"]
    verdict = (
        f"They move {probe['share moved']:.0%} of the logit difference; as many random directions "
        f"{control['share moved']:.0%}, and all other directions together "
        f"{rows.loc['all but what the probe reads', 'share moved']:.0%}."
    )
    uses = (
        "The model reads the colour from directions that the probe found"
        + (
            ", and mostly from others: the probe's are some of those that carry it."
            if probe["share moved"] < 0.5
            else "."
        )
        if probe.low > max(0.0, control.high)
        else "That is no more than random directions do: the probe reads the colour elsewhere "
        "than the model does."
    )
    reading = (
        f"At {PLACE}, {depth}, in the sentence with the two colours exchanged: only the part of "
        f"the stream in {int(probe.directions)} directions is replaced by that of the right "
        "sentence. The directions are what decides between the probe's labels; the probe was "
        "trained on other documents.",
        f"{verdict} {uses}",
        "“Share lost if removed”: the right sentence with the mean in these directions instead. "
        f"Without what the probe reads, {probe['share lost if removed']:.0%} of the logit "
        "difference are lost. (The mean of everything else also takes away which thing it is, so "
        "the question no longer finds it: removing says less than exchanging.)",
    )
    picture = charts.intervals(table, "Restored by these directions alone", "logits")
    return Section("Does the model use what the probe reads?", reading, table, (picture,))
