"""The circuits that the embedded model's card names, as the two studies measure them.

`python -m analyses._card` runs both with their default options, writes `interp/tiny/circuits.json`
and renders the card's section again. The file belongs to the weights whose hash it states.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import interp.tiny
from analyses import colour_binding, ioi
from interp.pictures import write_whole
from interp.report import Report
from interp.tiny.card import CIRCUITS, circuits_section

FOLDER = Path(interp.tiny.__file__).parent
INTERVAL = ("mean", "low", "high")
Circuit = Mapping[str, Any]

COLOUR_BINDING = (
    "Two hops. L1H2 reads the colour where its thing is first mentioned; L1H1 tells the last word "
    "which thing is asked about; with that query L3H1 finds the thing and moves its colour to the "
    "end, where the last MLP turns it into the word. L3H3 does the same, weakly. A second path is "
    "weaker: L1H2 also reads the colour at the word after the thing, and L2H3, the induction head, "
    "moves it from there. With the edge thing → colour cut in all heads {main} of the colour's "
    "effect is left, with END → after cut as well {both}. Under mean ablation all other heads "
    "together do matter, those of layer 0 above all: of {intact} logits {others} is left. What "
    "they do is to tell these five where to look: with the five's attention held it is {held}."
)
INDIRECT_OBJECT = (
    "L1H1 reads the giver's name at its second mention, and works against that name: at the end "
    "through the MLPs, and in what the heads of layer 2 look for. L2H3 reads the receiver's name "
    "and copies it; without it the others do its work. Without the heads that are not named "
    "nothing is lost: the difference grows."
)


def circuits() -> list[Circuit]:
    """Both circuits, from the default runs of their studies."""
    return [colour_circuit(colour_binding.run()), name_circuit(ioi.run())]


def colour_circuit(report: Report) -> Circuit:
    """What `interp run colour_binding` found, with the tests on prompts with two things."""
    heads = table(report, "The circuit").set_index("head")
    tests = table(report, "Does the answer depend on them, and only on them?")
    tests = tests[tests["pairs"] == 2].set_index("condition")
    changes = {
        condition: [float(tests.loc[condition, f"change{part}"]) for part in ("", " low", " high")]
        for condition in tests.index
    }
    cuts = table(report, "What is left without the main edge?").set_index("condition")
    ablated = table(report, "A harder ablation: the mean")
    left = ablated.set_index(["ablated", "attention of the found heads"])
    return {
        "title": "Colour binding",
        "command": "interp run colour_binding",
        "summary": COLOUR_BINDING.format(
            main=in_words(cuts.loc["thing → colour"], "{:.1%}"),
            both=in_words(cuts.loc["thing → colour, END → after"], "{:.1%}"),
            intact=in_words(left.loc[("none", "recomputed")], "{:.2f}"),
            others=in_words(left.loc[("others", "recomputed")], "{:.2f}"),
            held=in_words(left.loc[("others", "held")], "{:.2f}"),
        ),
        "measure": "logit(answer) - logit(the other thing's colour), two things",
        "n": report.settings["n"],
        "intact": interval(tests.loc["intact"]),
        "columns": ["looks at (weight)", "hears of", "change without it"],
        "heads": [
            {
                "head": head,
                "cells": [row["looks (weight)"], row["hears of"]],
                "effect": changes[f"without {head}"],
            }
            for head, row in heads.iterrows()
        ],
        "ablation": "resample ablation: z from the same sentence about other colours and things",
        "tests": {
            "the heads above": changes["without all found"],
            "all other heads": changes["only the found"],
            "as many other heads, mean of 20 draws": changes["control: mean of the draws"],
            "as many other heads, the worst draw": changes["control: worst draw"],
        },
    }


def name_circuit(report: Report) -> Circuit:
    """What `interp run ioi` found."""
    heads = table(report, "What the heads are")
    tests = table(report, "Does the answer depend on them?").set_index("condition")
    behaviour = table(report, "Does the model do it?").iloc[0]
    draws = [condition for condition in tests.index if ioi.RANDOM in condition]
    largest = tests.loc[draws, "mean"].abs().idxmax()
    return {
        "title": "Indirect object",
        "command": "interp run ioi",
        "summary": INDIRECT_OBJECT,
        "measure": "logit(receiver) - logit(giver)",
        "n": report.settings["n"],
        "intact": interval(behaviour),
        "columns": ["class", "looks at (weight)", "acts on", "change with that path corrupted"],
        "heads": [
            {
                "head": row["name"],
                "cells": [
                    row["class"],
                    f"{row['pos']} → {row['looks_at'] or '-'} ({row['attention']:.2f})",
                    row["into"],
                ],
                "effect": interval(row),
            }
            for _, row in heads.iterrows()
        ],
        "ablation": "mean ablation: z's mean, position by position, over prompts with other names",
        "tests": {
            "the heads above": interval(tests.loc[ioi.WITHOUT]),
            "all other heads": interval(tests.loc[ioi.ONLY]),
            f"as many other heads, the largest of {len(draws)} draws": interval(tests.loc[largest]),
        },
    }


def table(report: Report, title: str) -> pd.DataFrame:
    """The table of one section."""
    (found,) = [section.table for section in report.sections if section.title == title]
    assert found is not None
    return found


def interval(row: pd.Series) -> list[float]:
    """Mean, low and high."""
    return [float(row[part]) for part in INTERVAL]


def in_words(row: pd.Series, number: str) -> str:
    """Mean with its interval."""
    mean, low, high = map(number.format, interval(row))
    return f"{mean} [{low}, {high}]"


def main() -> None:
    """Measure, and write the file and the card's section."""
    weights = (FOLDER / "weights" / "model.safetensors").read_bytes()
    content = {"sha256": hashlib.sha256(weights).hexdigest(), "circuits": circuits()}
    rounded = json.loads(json.dumps(content), parse_float=lambda text: round(float(text), 2))
    write_whole(CIRCUITS, json.dumps(rounded, indent=1, ensure_ascii=False) + "\n")
    render(content["sha256"])


def render(sha256: str) -> None:
    """Write the card again with the section that the file gives."""
    card = FOLDER / "CARD.md"
    before, _, rest = card.read_text().partition("## Circuits")
    _, end, after = rest.partition("## What it cannot do")
    write_whole(card, f"{before}{circuits_section(sha256)}\n\n{end}{after}")


if __name__ == "__main__":
    main()
