"""Which places of the model carry what makes the answer differ between two prompts of your own?

Give a clean prompt, a corrupted one that differs in what you ask about, the answer and a wrong
answer; or a file of such pairs; or the name of a known task. Each place of the model (the residual
stream, what attention and MLPs add, every head) gets the other run's value, one at a time.

Expectation: the difference first stands where the prompts differ, in the stream, and a few heads
move it to the end of the prompt, where the answer is read.

Method: activation patching (Vig et al. 2020, arXiv:2004.12265; Wang et al. 2022, arXiv:2211.00593),
denoising or noising; effects on the metric with bootstrap intervals over pairs and sign-flip
permutation tests, Holm-corrected; facts that hold for any patch, measured by plain forwards; on
request, the estimate of attribution patching beside it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import xarray as xr
from typer import Option

import interp
from analyses import _patching_sections as sections
from analyses._sweeps import Plan, Sweep
from interp import causal_facts, metrics, patching, prompts
from interp.errors import PromptError
from interp.gradients import THROUGH_SOFTMAX, attribution_patching
from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import visible
from interp.model.weights import model_hash
from interp.pairs import Positions, token_pairs
from interp.progress import Progress, StoppableProgress, no_progress
from interp.prompts import PromptPair, PromptPairs
from interp.prompts.drawing import last_position
from interp.report import Report
from interp.sites import SITES

CLEAN = "I love the color black, I hope someday to have a cat like that. The cat is"
OWN = {
    "clean": CLEAN,
    "corrupted": CLEAN.replace("black", "brown"),
    "answer": " black",
    "wrong": " brown",
}
"""The pair that is patched when none is given."""
TASKS: dict[str, Callable[..., PromptPairs]] = {
    "colour_binding": prompts.colour_binding,
    "ioi": prompts.ioi,
    "induction": prompts.induction,
    "greater_than": prompts.greater_than,
    "gendered_pronoun": prompts.gendered_pronoun,
}
METRICS: dict[str, Callable[[HookedGPT2, PromptPairs], Metric]] = {
    "logit_diff": lambda model, pairs: pairs.metric(model),
    "logprob": lambda model, pairs: metrics.logprob(pairs.answer_ids(model)),
    "prob": lambda model, pairs: metrics.prob(pairs.answer_ids(model)),
}
DIRECTIONS = {name: (name,) for name in sections.DONE} | {"both": tuple(sections.DONE)}
VECTORS = ("z", "q", "k", "v")
"""Sites of heads that can be patched position by position."""


def run(
    clean: Annotated[str | None, Option(help="The prompt that shows the behaviour.")] = None,
    corrupted: Annotated[str | None, Option(help="Its partner, of as many tokens.")] = None,
    answer: Annotated[str | None, Option(help="What follows clean, one token: ' black'.")] = None,
    wrong: Annotated[str | None, Option(help="What it is compared with: ' brown'.")] = None,
    file: Annotated[
        Path | None, Option(help="CSV or JSON Lines with clean, corrupted, answer, wrong.")
    ] = None,
    task: Annotated[str | None, Option(help=f"Known prompts: {', '.join(TASKS)}.")] = None,
    n: Annotated[int, Option(help="Number of pairs of a task.")] = 20,
    sites: Annotated[str, Option(help=f"Some of {', '.join(SITES)}.")] = (
        "resid_pre,attn_out,mlp_out,z"
    ),
    direction: Annotated[str, Option(help="denoising, noising or both.")] = "denoising",
    metric: Annotated[str, Option(help=f"One of {', '.join(METRICS)}.")] = "logit_diff",
    per_position: Annotated[
        bool, Option("--per-position", help="Patch heads also at each position alone.")
    ] = False,
    estimate: Annotated[
        bool, Option("--estimate", help="Estimate by gradients too, and compare.")
    ] = False,
    max_memory: Annotated[int | None, Option(help="MiB for what is computed together.")] = None,
    model: Annotated[str | None, Option(help="Name, folder or checkpoint; default: tiny.")] = None,
    seed: Annotated[int, Option(help="Of the prompts, the bootstrap and the permutations.")] = 0,
    progress: StoppableProgress = no_progress,
) -> Report:
    """Which places of the model carry what makes the answer differ between two prompts?"""
    chosen = list(dict.fromkeys(site.strip() for site in sites.split(",")))
    check_choices("site", chosen, SITES)
    check_choices("direction", [direction], DIRECTIONS)
    check_choices("metric", [metric], METRICS)
    plans = [
        Plan(site, way, alone)
        for site in chosen
        for way in DIRECTIONS[direction]
        for alone in ((False, True) if per_position and site in VECTORS else (False,))
    ]
    own = {"clean": clean, "corrupted": corrupted, "answer": answer, "wrong": wrong}
    given = {"file": file, "task": task} | own
    check_sources(given)
    hooked = interp.load(model)
    pairs = read_pairs(hooked, given, n, seed)
    study = Study(hooked, pairs, METRICS[metric](hooked, pairs), max_memory, seed, progress)
    sweeps = study.sweeps(plans)
    settings = {"model": hooked.cfg.model_name, "model_hash": model_hash(hooked), "seed": seed}
    settings |= {"prepend_bos": hooked.cfg.default_prepend_bos, "n": len(pairs), "sites": chosen}
    settings |= {"direction": direction, "metric": metric, "per_position": per_position}
    settings |= {"estimate": estimate, "max_memory": max_memory}
    settings |= {name: str(value) for name, value in given.items() if value is not None}
    return report_of(study, sweeps, plans, estimate, settings)


def check_choices(kind: str, given: Sequence[str], known: Collection[str]) -> None:
    """Refuse unknown names before anything is computed."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise PromptError(
            f"There is no {kind} {', '.join(map(repr, unknown))}; choose from {', '.join(known)}."
        )


def check_sources(given: Mapping[str, Path | str | None]) -> None:
    """Refuse pairs from more than one source, and half a pair."""
    named = [name for name, value in given.items() if value is not None]
    missing = [name for name in OWN if name not in named]
    of_pair = [name for name in named if name in OWN]
    if of_pair and missing:
        raise PromptError(
            f"Your own pair needs --{', --'.join(OWN)}; missing: --{', --'.join(missing)}."
        )
    if len(named) > max(len(of_pair), 1):
        raise PromptError(
            f"Got --{' and --'.join(named)}; give one pair, or one file, or the name of one task."
        )


def read_pairs(
    model: HookedGPT2, given: Mapping[str, Path | str | None], n: int, seed: int
) -> PromptPairs:
    """The pairs of a file, of a task, or the one that was given, checked."""
    if given["file"] is not None:
        return prompts.from_file(model, given["file"])
    if given["task"] is not None:
        check_choices("task", [str(given["task"])], TASKS)
        return TASKS[str(given["task"])](model, n, seed=seed)
    texts = OWN | {name: str(given[name]) for name in OWN if given[name] is not None}
    pair = PromptPair(**texts, roles={"END": last_position(model, texts["clean"])})
    pairs = PromptPairs("one pair", (pair,))
    prompts.check(model, pairs)
    return pairs


@dataclass(frozen=True)
class Study:
    """Pairs, and how they are patched."""

    model: HookedGPT2
    pairs: PromptPairs
    metric: Metric
    max_memory: int | None
    """MiB."""
    seed: int
    progress: Progress

    def sweeps(self, plans: Sequence[Plan]) -> list[Sweep]:
        """All that are planned, up to the first that is stopped early."""
        done = []
        for plan in plans:
            ds = patching.sweep(
                self.model,
                *self.prompts,
                plan.site,
                self.metric,
                plan.direction,
                self.positions(plan),
                per_position=plan.per_position,
                max_memory=self.max_memory and self.max_memory * 2**20,
                progress=self.progress,
            )
            done.append(Sweep(plan, ds, self.seed))
            if ds.partial:
                break
        return done

    @property
    def prompts(self) -> tuple[list[str], list[str]]:
        """Clean and corrupted."""
        return self.pairs.clean, self.pairs.corrupted

    def positions(self, plan: Plan) -> Positions:
        """Every position where the pairs are alike, otherwise those that have a name.

        Whole heads are patched everywhere.
        """
        both = token_pairs(self.model, *self.prompts)
        alike = len(both.clean.lengths.unique()) == 1 and len(both.differs.unique(dim=0)) == 1
        roles = self.pairs.roles
        if "position" not in plan.axes or len(self.pairs) == 1 or (alike and set(roles) == {"END"}):
            return None
        first = both.first_difference.cpu()
        if not bool((torch.stack(list(roles.values())) == first).any(dim=0).all()):
            roles["first difference"] = first
        in_order = sorted(roles.items(), key=lambda named: float(named[1].float().mean()))
        return {name: at.tolist() for name, at in in_order}

    def estimates(self, sweeps: Sequence[Sweep]) -> list[tuple[Sweep, xr.Dataset]]:
        """Of the same cells, from one gradient each, until it is stopped."""
        done = []
        for sweep in self.progress(sweeps, "Estimating"):
            plan = sweep.plan
            ds = attribution_patching(
                self.model,
                *self.prompts,
                plan.site,
                self.metric,
                plan.direction,
                self.positions(plan),
                per_position=plan.per_position,
                corrections=("qk_fix",) if plan.site in THROUGH_SOFTMAX else (),
            )
            done.append((sweep, ds))
        return done

    def facts(self, sweeps: Sequence[Sweep]) -> pd.DataFrame:
        """What must hold, for each direction, and for the strongest cell of each sweep."""
        rows = {}
        for way in dict.fromkeys(sweep.plan.direction for sweep in sweeps):
            asked = self.model, *self.prompts, self.metric, way
            rows |= {
                f"before the difference, all layers, {way}: no effect": (
                    causal_facts.nothing_before_the_difference(*asked)
                ),
                f"everything after the last layer, {way}: the other run": (
                    causal_facts.everything_after_the_last_layer(*asked)
                ),
            }
        for sweep in sweeps:
            rows[f"strongest cell of {sweep.plan.title}"] = causal_facts.cell_by_a_plain_forward(
                self.model, *self.prompts, self.metric, sweep.ds, sweep.strongest,
                self.positions(sweep.plan),
            )  # fmt: skip
        return pd.DataFrame([{"check": name} | fact._asdict() for name, fact in rows.items()])

    def examples(self) -> pd.DataFrame:
        """Where each pair differs, and its answers."""
        tokens = [[self.model.to_str_tokens(text) for text in texts] for texts in self.prompts]
        return pd.DataFrame(
            {
                "differs at": [sections.differences(*pair) for pair in zip(*tokens, strict=True)],
                "answer": [visible(answer) for answer in self.pairs.answers],
                "wrong": [visible(answer) for answer in self.pairs.wrong],
            }
        )


def report_of(
    study: Study,
    sweeps: Sequence[Sweep],
    plans: Sequence[Plan],
    estimate: bool,
    settings: Mapping[str, object],
) -> Report:
    """All sections, as far as there is something to say."""
    measured = [sweep for sweep in sweeps if sweep.says_something]
    stopped = len(sweeps) < len(plans) or bool(sweeps[-1].ds.partial)
    estimates = study.estimates(measured) if estimate and not stopped else []
    partial = stopped or (estimate and len(estimates) < len(plans))
    first = study.pairs.examples[0]
    clean, corrupted = map(study.model.to_str_tokens, (first.clean, first.corrupted))
    parts = [sections.partial_section(sweeps, plans)] if partial else []
    parts += [sections.pairs_section(sweeps[0].ds, study.examples())]
    parts += [sections.token_section(clean, corrupted, first.roles)]
    if measured:
        parts += [sections.overview_section(measured), *map(sections.sweep_section, measured)]
        parts += [sections.estimate_section(estimates, len(plans))] if estimate else []
        parts += [sections.facts_section(study.facts(measured))]
        parts += [sections.meaning_section(measured)]
    if study.pairs[1:]:
        parts += [sections.texts_section(*study.prompts)]
    more = f", and {len(study.pairs) - 1} more of {study.pairs.name}" if study.pairs[1:] else ""
    title = "What carries the answer, and where?" + (" (partial: stopped early)" if partial else "")
    question = f"{first.clean} →{first.answer}, against: {first.corrupted}{more}"
    return Report(title, question, tuple(parts), {**settings, "partial": partial})
