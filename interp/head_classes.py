"""Which class a head belongs to, by rules on what it acts on and where it looks.

The classes are those of indirect object identification (Wang et al. 2022, arXiv:2211.00593). The
paper named them after reading attention patterns; here each is a rule that a head meets or not. A
head that no rule fits is none of them, and a class without heads is empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import xarray as xr

NO_CLASS = "none of these"


@dataclass(frozen=True)
class Rule:
    """A class: what a head does at `query`, and the position `key` that it looks at most."""

    name: str
    query: str
    key: str
    effect: int = -1
    """Sign of the effect on the metric of corrupting what it writes."""
    direct: bool = False
    """Whether the path must lead to the logits."""

    def __str__(self) -> str:
        changes = "lowers" if self.effect < 0 else "raises"
        onto = " on a path to the logits" if self.direct else ""
        return (
            f"{self.name}: corrupting what it writes at {self.query} {changes} the metric{onto}, "
            f"and from {self.query} it looks most at {self.key}"
        )


RULES = (
    Rule("name mover", "END", "IO", direct=True),
    Rule("negative name mover", "END", "IO", effect=+1, direct=True),
    Rule("S-inhibition", "END", "S2"),
    Rule("duplicate token", "S2", "S1"),
    Rule("induction", "S2", "S1+1"),
    Rule("previous token", "S1+1", "S1"),
)
"""Of indirect object identification, with the positions of `interp.prompts.ioi`."""


def classify(
    traced: xr.Dataset, weights: xr.DataArray, rules: Sequence[Rule] = RULES
) -> pd.DataFrame:
    """The heads of a traced circuit, each at the position where it acts, with their classes.

    Args:
        traced: Of `interp.path_tracing.trace`, noising.
        weights: Mean attention over (`layer`, `head`, `query`, `key`), as the mean over examples of
            `interp.path_tracing.attention_between`.

    Returns:
        A row per head and position with a path that passes: `layer`, `head`, `name`, `pos`,
        `class`; `into`, the input at the end of its strongest path, with that path's `mean`, `low`
        and `high`; `looks_at`, the position of the most attention (empty below the trace's
        `attended`), and `attention`, its weight.
    """
    columns = ["mean", "low", "high", "passes"]
    paths = traced[columns].to_dataframe().reset_index(drop=True)
    paths = paths[paths["passes"] & (paths["part"] != "mlp")]
    rows = []
    for (layer, part, pos), own in paths.groupby(["layer", "part", "pos"]):
        row = weights.sel(layer=layer, head=int(part), query=pos, drop=True).to_series()
        attention = float(row.max())
        looks_at = str(row.idxmax()) if attention >= traced.attended else ""
        strongest = own.loc[own["mean"].abs().idxmax()]
        rows.append(
            {"layer": int(layer), "head": int(part), "name": strongest["sender"], "pos": pos}
            | {"class": _class_of(str(pos), looks_at, own, rules), "into": input_name(strongest)}
            | {name: strongest[name] for name in ("mean", "low", "high")}
            | {"looks_at": looks_at, "attention": attention}
        )
    names = ["layer", "head", "name", "pos", "class", "into", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "looks_at", "attention"])


def members(table: pd.DataFrame, name: str | None = None) -> list[tuple[int, int]]:
    """The (layer, head) of a class of `classify`'s table, or of all of it; each once, in order."""
    rows = table if name is None else table[table["class"] == name]
    return sorted(set(zip(rows["layer"].tolist(), rows["head"].tolist(), strict=True)))


def input_name(path: pd.Series) -> str:
    """As in "q of L2H3 at END", or "logits"."""
    if not path["letter"]:
        return str(path["receivers"])
    return f"{path['letter']} of {path['receivers']} at {path['pos']}"


def _class_of(pos: str, looks_at: str, paths: pd.DataFrame, rules: Sequence[Rule]) -> str:
    strongest = paths["mean"].loc[paths["mean"].abs().idxmax()]
    direct = paths.loc[paths["letter"] == "", "mean"].sum()
    for rule in rules:
        effect = direct if rule.direct else strongest
        if (pos, looks_at) == (rule.query, rule.key) and effect * rule.effect > 0:
            return rule.name
    return NO_CLASS
