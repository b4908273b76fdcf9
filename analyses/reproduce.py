"""Which published numbers of GPT-2 small does this program reproduce?

Papers and public repositories state what GPT-2 small says, which of its heads do what, and what is
lost without them. Each such number is measured here and compared with a tolerance that was fixed
before: class A is deterministic, B a mean over prompts, C an order or a sign.

Prediction, written before running: all of class A; of class B those that do not depend on the
wording of prompts, which are ours; nearly all of class C. This has not been run with GPT-2 small's
weights by its authors: a failure is first a reason to doubt the measurement.

Method: `interp.published` holds the numbers, sources and measurements, and says which published
numbers are left out. With 200 prompts it takes about ten minutes on one core.
"""

from collections.abc import Sequence
from typing import Annotated, get_args

import pandas as pd
from typer import Option

import interp
from interp.errors import ConfigError, OfflineError, PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import model_hash
from interp.progress import Progress, no_progress
from interp.published import FACTS, NOT_REPRODUCED, Fact, Finding, Subject, measure_all
from interp.published.facts import Class, Outcome
from interp.published.single_prompts import shape
from interp.published.table import GPT2_SMALL
from interp.report import Report, Section

CLASSES: dict[str, str] = {
    "A": "Deterministic numbers",
    "B": "Means over prompts",
    "C": "Orders and signs",
}
MARKS: dict[Outcome, str] = {"pass": "✓ pass", "fail": "✗ fail", "not measured": "– not measured"}


def run(
    model: Annotated[str, Option(help="GPT-2 small: its name, or a folder with it.")] = "gpt2",
    classes: Annotated[str, Option(help="A: exact, B: sampled, C: orders and signs.")] = "A,B,C",
    n: Annotated[int, Option(help="Number of prompts of a sample.")] = 200,
    seed: Annotated[int, Option(help="Of prompts and random tokens.")] = 0,
    progress: Progress = no_progress,
) -> Report:
    """Which published numbers of GPT-2 small does this program reproduce?"""
    chosen = chosen_classes(classes)
    if n < 2:
        raise PromptError(f"A mean with an interval needs 2 or more prompts, got {n}.")
    subject = Subject(gpt2_small(model), n, seed)
    facts = [fact for fact in FACTS if fact.kind in chosen]
    return report_on(subject, facts, progress=progress)


def chosen_classes(classes: str) -> list[str]:
    """The classes of a list such as "A,C"."""
    chosen = [name.strip().upper() for name in classes.split(",")]
    if not set(chosen) <= set(get_args(Class)):
        raise PromptError(f"classes is {classes!r}; write some of A,B,C with commas between them.")
    return chosen


def gpt2_small(model: str) -> HookedGPT2:
    """The model whose numbers were published, or one of its shape."""
    try:
        found = interp.load(model)
    except OfflineError as problem:
        raise OfflineError(
            "The published numbers are those of GPT-2 small, and its weights are needed. Connected "
            "to the internet, this command fetches them once (0.5 GB); without, give it a folder "
            "that holds config.json, model.safetensors and tokenizer.json: interp run reproduce "
            f"--model FOLDER. What went wrong: {problem}"
        ) from problem
    if shape(found.cfg) != GPT2_SMALL:
        names = ("layers", "heads", "d_model", "n_ctx", "tokens")
        sizes, expected = (
            ", ".join(f"{size} {name}" for size, name in zip(numbers, names, strict=True))
            for numbers in (shape(found.cfg), GPT2_SMALL)
        )
        raise ConfigError(
            f"The published numbers are those of GPT-2 small ({expected}); {model!r} has {sizes}. "
            "Use --model gpt2 or a folder with its weights."
        )
    return found


def report_on(
    subject: Subject, facts: Sequence[Fact], *, progress: Progress = no_progress
) -> Report:
    """Measure these facts and say which agree."""
    findings = measure_all(subject, facts, progress=progress)
    by_class = {name: [x for x in findings if x.fact.kind == name] for name in CLASSES}
    present = {name: found for name, found in by_class.items() if found}
    sections = [
        summary_section(present),
        *(class_section(name, found) for name, found in present.items()),
        sources_section([finding for found in present.values() for finding in found]),
        left_out_section(),
    ]
    cfg = subject.model.cfg
    settings = {"model": cfg.model_name, "model_hash": model_hash(subject.model)}
    settings |= {"classes": ",".join(present), "n": subject.n, "seed": subject.seed}
    return Report(
        "Which published numbers are reproduced?",
        f"{tally(findings)}, with {cfg.model_name}.",
        tuple(sections),
        settings,
    )


def tally(findings: Sequence[Finding]) -> str:
    """How many agree, in words."""
    n = {outcome: sum(x.outcome == outcome for x in findings) for outcome in get_args(Outcome)}
    text = f"{n['pass']} of {len(findings)} reproduced"
    others = {"fail": "outside the tolerance", "not measured": "not measured"}
    return ", ".join([text, *(f"{n[x]} {words}" for x, words in others.items() if n[x])])


def summary_section(by_class: dict[str, list[Finding]]) -> Section:
    """The count of each class."""
    rows = [
        {"class": f"{name}: {CLASSES[name].lower()}", "facts": len(found)}
        | {outcome: sum(x.outcome == outcome for x in found) for outcome in MARKS}
        for name, found in by_class.items()
    ]
    reading = (
        "A measurement passes if it is within the tolerance of the published value. Tolerances "
        "were fixed before: tight for A, about the spread between sets of prompts for B.",
        "Most prompts of classes B and C are ours, made after the papers': a small distance there "
        "can be the wording of prompts; one in class A is not.",
    )
    return Section("How many", reading, pd.DataFrame(rows))


def class_section(name: str, findings: Sequence[Finding]) -> Section:
    """Every fact of one class, and what is to be said of those that did not pass."""
    reading = [f"{tally(findings)}."]
    reading += [
        f"{MARKS[x.outcome]}: {x.fact.claim}, {outside(x)}" for x in findings if x.outcome != "pass"
    ]
    table = pd.DataFrame([row(finding) for finding in findings], dtype=object)
    return Section(f"{name}: {CLASSES[name].lower()}", tuple(reading), table)


def outside(finding: Finding) -> str:
    """How a number that did not pass differs, or why there is none."""
    fact, measured = finding.fact, finding.measured
    if measured is None:
        return finding.reason
    note = f" ({measured.note})" if measured.note else ""
    return f"{measured.value:.4g}, not {fact.published:.4g} {fact.tolerance}{note}."


def row(finding: Finding) -> dict[str, object]:
    """Published and measured side by side."""
    fact, measured = finding.fact, finding.measured
    return {
        "claim": fact.claim,
        "published": number(fact.published),
        "measured": number(measured.value) if measured else float("nan"),
        "tolerance": str(fact.tolerance),
        "unit": fact.unit,
        "result": MARKS[finding.outcome],
    }


def number(value: float) -> float | int:
    """Counts whole, so that all their digits are shown."""
    return int(value) if float(value).is_integer() else value


def details(finding: Finding) -> str:
    """What the number is made of, or why there is none."""
    return finding.measured.note if finding.measured else finding.reason


def sources_section(findings: Sequence[Finding]) -> Section:
    """Where the numbers come from, and what the measured ones are made of."""
    table = pd.DataFrame(
        {
            "fact": x.fact.name,
            "measured - published": x.measured.value - x.fact.published if x.measured else None,
            "source": x.fact.source,
            "details": details(x),
        }
        for x in findings
    )
    reading = (
        "The facts in the order of the tables above. “ABC” prompts are the same sentences with "
        "three other names.",
    )
    return Section("Sources and details", reading, table)


def left_out_section() -> Section:
    """What is not among the facts."""
    table = pd.DataFrame(NOT_REPRODUCED.items(), columns=["number", "reason"])
    return Section("Not reproducible from here", ("Published, but left out.",), table)
