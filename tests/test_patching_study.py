"""The patching study: your own pairs, files and tasks, what it says, and what it refuses."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from analyses import patching as study
from interp import agreement, gradients, load, metrics, patching, prompts
from interp.errors import PromptError
from interp.report import Report, Section

BLACK = "I love the color black, I hope someday to have a cat like that. The cat is"
BROWN = BLACK.replace("black", "brown")
OWN = {"clean": BLACK, "corrupted": BROWN, "answer": " black", "wrong": " brown"}
DRINK = "I love the color black, I hope someday to have a cat like that. {} had a drink. The cat is"


def section(report: Report, title: str) -> Section:
    (found,) = [part for part in report.sections if part.title == title]
    return found


def text(report: Report) -> str:
    return " ".join(paragraph for part in report.sections for paragraph in part.reading)


class Stop:
    """A progress that gives out so many steps in all."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def __call__(self, steps, description):
        for step in steps:
            if self.n_steps == 0:
                return
            self.n_steps -= 1
            yield step


@pytest.fixture(scope="module")
def one() -> Report:
    return study.run(direction="both", per_position=True, estimate=True)


@pytest.fixture(scope="module")
def ioi() -> Report:
    return study.run(task="ioi", n=12, sites="resid_pre,z,pattern")


def test_the_color_is_carried_from_its_word_to_the_thing(one):
    assert section(one, "The pairs").table["differs at"].to_list() == ["5 ·black / ·brown"]
    assert "They differ at 5 ·black / ·brown." in text(one)
    short = section(one, "In short")
    assert "in layer 0 at 5 ·black / ·brown (+20.9), and in layer 3 at 13 ·cat" in short.reading[0]
    strongest = short.table.set_index("sweep")["strongest cell"]
    assert strongest["z by layer and head, denoising"] == "L1H2"
    assert strongest["z by layer, head and position, noising"] == "L1H2 at 13 ·cat"


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "z"])
def test_the_tables_have_every_cell_of_the_librarys_sweep(one, site, direction):
    model = load()
    metric = metrics.logit_diff(*(model.to_single_token(OWN[name]) for name in ("answer", "wrong")))
    ds = patching.sweep(model, BLACK, BROWN, site, metric, direction)
    axes = "head" if site == "z" else "position"
    table = section(one, f"{site} by layer and {axes}, {direction}").table
    base = ds.corrupted if direction == "denoising" else ds.clean
    expected = (ds.patched - base).values.flatten()
    assert len(table) == len(expected)
    assert np.sort(table["effect"]) == pytest.approx(np.sort(expected), abs=1e-6)
    assert table["effect"].abs().is_monotonic_decreasing


def test_the_estimate_is_compared_with_the_exact_sweep(one):
    model = load()
    metric = metrics.logit_diff(*(model.to_single_token(OWN[name]) for name in ("answer", "wrong")))
    arguments = (model, BLACK, BROWN, "mlp_out", metric, "noising")
    comparison = agreement.compare(
        gradients.attribution_patching(*arguments), patching.sweep(*arguments)
    )
    found = section(one, "How good is the estimate from gradients?")
    row = found.table.set_index("sweep").loc["mlp_out by layer and position, noising"]
    assert row["pearson"] == pytest.approx(float(comparison.pearson), abs=1e-6)
    assert row["largest_error"] == pytest.approx(float(comparison.largest_error), abs=1e-4)
    assert len(found.charts) == len(found.table) == 10
    assert "PARTIAL" not in text(one)
    exact = section(one, "mlp_out by layer and position, noising").charts[0]
    estimated = found.charts[found.table["sweep"].to_list().index(row.name)]
    colours = [c.to_dict()["encoding"]["color"]["scale"]["domain"] for c in (exact, estimated)]
    assert colours[0] == pytest.approx(colours[1], rel=1e-5)
    worst = found.table.sort_values("spearman").iloc[0]
    assert f"ranks worst in {worst.sweep}: spearman {worst.spearman:.2f}" in found.reading[1]


def test_facts_that_hold_for_every_patch_are_shown_with_numbers(one, ioi):
    for report, n_sweeps, n_directions in ((one, 10, 2), (ioi, 3, 1)):
        facts = section(report, "Can the sweeps be trusted?")
        assert len(facts.table) == n_sweeps + 2 * n_directions
        assert facts.table["largest_difference"].max() < 1e-3
        assert "rounding." in facts.reading[-1]
    table = facts.table.set_index("check")
    pairs = section(ioi, "The pairs").table
    everything = table.loc["everything after the last layer, denoising: the other run"]
    before = table.loc["before the difference, all layers, denoising: no effect"]
    assert everything["measured"] == pytest.approx(pairs["clean_metric"].mean(), abs=1e-4)
    assert before["measured"] == pytest.approx(pairs["corrupted_metric"].mean(), abs=1e-4)


def test_a_task_is_patched_at_the_positions_that_have_a_name(ioi):
    model = load()
    pairs = prompts.ioi(model, 12)
    metric = pairs.metric(model)
    table = section(ioi, "resid_pre by layer and position, denoising").table
    assert {label.split()[0] for label in table["pos"]} == {"IO", "S1", "S1+1", "S2", "END"}
    roles = {name: at.tolist() for name, at in pairs.roles.items()}
    ds = patching.sweep(model, pairs.clean, pairs.corrupted, "resid_pre", metric, positions=roles)
    expected = (ds.patched - ds.corrupted).mean("example").values.flatten()
    assert np.sort(table["effect"]) == pytest.approx(np.sort(expected), abs=1e-6)
    heads = section(ioi, "z by layer and head, denoising").table.set_index(["layer", "head"])
    ds = patching.sweep(model, pairs.clean, pairs.corrupted, "z", metric)
    expected = float((ds.patched - ds.corrupted).mean("example").sel(layer=1, head=1))
    assert heads.loc[(1, 1), "effect"] == pytest.approx(expected, abs=1e-6)


def test_names_are_preferred_to_numbers_even_if_all_prompts_are_alike():
    report = study.run(task="induction", n=3, sites="resid_pre")
    table = section(report, "resid_pre by layer and position, denoising").table
    assert {label.split()[0] for label in table["pos"]} == {"previous", "answer", "END"}


def test_pairs_that_do_not_show_the_behaviour_are_counted():
    report = study.run(task="greater_than", n=8, sites="resid_pre")
    n_reversed = int((section(report, "The pairs").table["gap"] < 0).sum())
    assert n_reversed > 0
    assert f"In {n_reversed} of 8 pairs the corrupted prompt favours the answer more" in text(
        report
    )


def test_many_pairs_have_intervals_and_corrected_tests(ioi):
    part = section(ioi, "z by layer and head, denoising")
    assert (part.table["low"] <= part.table["effect"]).all()
    assert (part.table["p_corrected"] >= part.table["p"]).all()
    found = int((part.table["p_corrected"] < 0.05).sum())
    assert found >= 1
    assert f"Below 0.05: {found}." in text(ioi)
    assert len(part.charts) == 2
    assert section(ioi, "All prompts").table["clean"].to_list() == prompts.ioi(load(), 12).clean


def test_what_pushes_the_other_way_is_counted(ioi):
    part = section(ioi, "resid_pre by layer and position, denoising")
    gap = section(ioi, "The pairs").table["gap"].mean()
    against = int((part.table["effect"] < -0.1 * gap).sum())
    assert against > 0
    assert f"{against} of them push away from the clean metric" in " ".join(part.reading)


def test_too_few_pairs_for_a_test_are_said():
    report = study.run(task="ioi", n=3, sites="z")
    assert "3 pairs are too few to test 16 cells" in text(report)
    assert "no p below 2/2^3" in text(report)


def write(folder, *pairs: tuple[str, str, str, str]):
    path = folder / "pairs.csv"
    rows = pd.DataFrame(pairs, columns=["clean", "corrupted", "answer", "wrong"])
    rows.to_csv(path, index=False)
    return path


def test_pairs_of_a_file_that_are_alike_are_patched_everywhere(tmp_path):
    red, blue = BLACK.replace("black", "red"), BLACK.replace("black", "blue")
    path = write(tmp_path, tuple(OWN.values()), (red, blue, " red", " blue"))
    report = study.run(file=path, sites="resid_pre", metric="logprob")
    table = section(report, "resid_pre by layer and position, denoising").table
    assert len(table) == 4 * 20
    assert table["pos"][0] == "5"  # its tokens differ between the pairs
    assert "logprob in nats, mean of n=2" in text(report)


def test_pairs_of_a_file_that_differ_are_patched_where_they_have_a_name(tmp_path):
    short = ("The cat is black. The cat is", "The cat is red. The cat is", " black", " red")
    report = study.run(file=write(tmp_path, tuple(OWN.values()), short), sites="resid_pre")
    table = section(report, "resid_pre by layer and position, denoising").table
    assert set(table["pos"]) == {"first difference", "END ·is"}
    assert "Only positions that have a name in every pair were patched." in text(report)
    first = table.set_index(["layer", "pos"]).loc[(0, "first difference")]
    assert first["recovered_fraction"] == pytest.approx(1, abs=1e-5)


def test_a_difference_that_stands_elsewhere_is_not_claimed(tmp_path):
    drink = DRINK.format("Anna")
    longer = (drink, drink.replace("black", "brown"), " black", " brown")
    path = write(tmp_path, tuple(OWN.values()), longer)
    short = section(study.run(file=path, sites="resid_pre", metric="prob"), "In short")
    assert "in layer 0 at first difference ·black / ·brown (+1)" in short.reading[0]
    assert "in layer 3 at none of the patched positions" in short.reading[0]


def test_without_a_gap_there_are_effects_and_the_examples_are_named():
    clean, corrupted = (DRINK.format(name) for name in ("Anna", "John"))
    report = study.run(
        clean, corrupted, " black", " brown", sites="resid_pre,z", direction="both", estimate=True
    )
    assert "at example 0." in text(report)
    assert "So this report shows effects, and no recovered fractions." in text(report)
    assert "favours the answer more" not in text(report)
    assert "do not differ in this metric" in section(report, "In short").reading[0]
    for part in report.sections:
        assert part.table is None or "recovered_fraction" not in part.table
    assert section(report, "z by layer and head, noising").table["effect"].abs().max() > 0


def test_one_pair_without_a_gap_among_others_is_named(tmp_path):
    equal = (DRINK.format("Anna"), DRINK.format("John"), " black", " brown")
    report = study.run(file=write(tmp_path, tuple(OWN.values()), equal), sites="z")
    assert "at example 1." in text(report)
    assert "Fractions in this report are ratios of means" in text(report)
    assert "recovered_fraction" in section(report, "z by layer and head, denoising").table


def test_a_stopped_study_says_what_is_missing():
    finished = study.run(sites="resid_pre,z", max_memory=1)
    report = study.run(sites="resid_pre,z", max_memory=1, estimate=True, progress=Stop(5))
    assert report.title.endswith("(partial: stopped early)")
    assert report.settings["partial"] is True
    assert finished.settings["partial"] is False
    missing = section(report, "This report is partial").table.set_index("sweep")["measured"]
    n_cells = int(missing["resid_pre by layer and position, denoising"].split()[0])
    assert 20 < n_cells < 80
    assert missing["z by layer and head, denoising"] == "not begun"
    part = section(report, "resid_pre by layer and position, denoising")
    assert part.reading[-1].startswith(f"PARTIAL: stopped early, {n_cells} of 80 cells")
    whole = section(finished, part.title).table.set_index(["layer", "pos"])["effect"]
    measured = part.table.set_index(["layer", "pos"])["effect"]
    assert len(measured) == n_cells
    assert measured.to_dict() == pytest.approx(whole[measured.index].to_dict(), abs=1e-5)
    estimate = section(report, "How good is the estimate from gradients?")
    assert estimate.reading[-1] == "PARTIAL: stopped early, 0 of 2 were estimated."


def test_a_study_that_is_stopped_at_once_has_its_pairs():
    report = study.run(sites="resid_pre", progress=Stop(0))
    titles = [part.title for part in report.sections]
    assert titles == [
        "This report is partial", "The pairs", "Token by token: the first pair",
    ]  # fmt: skip


def test_a_study_that_is_stopped_while_it_estimates_is_partial():
    report = study.run(sites="z,v", estimate=True, progress=Stop(3))
    assert report.settings["partial"] is True
    estimate = section(report, "How good is the estimate from gradients?")
    assert len(estimate.table) == 1
    assert "1 of 2 were estimated" in estimate.reading[-1]


def test_the_next_steps_are_those_not_taken(one, ioi):
    for report, taken, open_ in (
        (one, ("--direction both", "--per-position"), ("--file or --task", "L1H2", "pattern,v")),
        (ioi, ("--file or --task", "pattern,v"), ("--direction both", "--per-position")),
    ):
        next_steps = section(report, "What this shows, and what next").reading[-1]
        assert not [step for step in taken if step in next_steps]
        assert not [step for step in open_ if step not in next_steps]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clean": BLACK}, "missing: --corrupted, --answer, --wrong"),
        ({"task": "ioi", "file": "x.csv"}, "Got --file and --task; give one pair, or one file"),
        ({"task": "ioi", **OWN}, "Got --task and --clean"),
        ({**OWN, "corrupted": BLACK}, "does not differ"),
        ({**OWN, "corrupted": "The cat is"}, "20 clean and 4 corrupted tokens"),
        ({**OWN, "answer": "black"}, "' black' is one token"),
        ({**OWN, "answer": " brown"}, "both the answer and the wrong answer"),
        ({**OWN, "clean": ""}, "text is empty"),
        ({**OWN, "clean": BLACK.replace("black", "chartreuse")}, "does not know 'chartreuse'"),
        ({**OWN, "clean": BLACK.replace("black", "😀")}, "They diverge at position 5"),
        ({**OWN, "clean": "a cat " * 200 + "is"}, "the model takes at most 256"),
        ({"file": "no.csv"}, "There is no file no.csv"),
        ({"task": "poetry"}, "There is no task 'poetry'; choose from colour_binding, ioi"),
        ({"task": "gendered_pronoun"}, "no pronouns"),
        ({"task": "ioi", "n": 0}, "n is 0"),
        ({"sites": "z,foo"}, "There is no site 'foo'; choose from resid_pre"),
        ({"sites": ""}, "There is no site ''"),
        ({"direction": "sideways"}, "choose from denoising, noising, both"),
        ({"metric": "loss"}, "choose from logit_diff, logprob, prob"),
        ({"max_memory": 0}, "Allow more"),
    ],
)
def test_what_cannot_be_patched_is_refused_with_the_reason(arguments, message):
    with pytest.raises(PromptError, match=message):
        study.run(**arguments)


INTERRUPTED = """
import os, signal, sys
from interp import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell's children ignore it
bar, steps_left = cli.progress, int(sys.argv.pop(1))
def progress(steps, description):
    global steps_left
    for step in bar(steps, description):
        steps_left -= 1
        if steps_left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        yield step
cli.progress = progress
cli.main()
"""


def interrupted(after: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, with Ctrl-C pressed during one of the steps."""
    command = [sys.executable, "-c", INTERRUPTED, str(after), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_ctrl_c_writes_what_is_finished(tmp_path):
    result = interrupted(
        5, "run", "patching", "--sites", "resid_pre,z", "--max-memory", "1", "--out", str(tmp_path)
    )
    assert result.returncode == 130
    assert "Ctrl-C again ends it at once" in result.stderr
    assert "PARTIAL" in result.stdout
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["partial"] is True
    assert "This report is partial" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "resid_pre_by_layer_and_position_denoising.csv").is_file()


def test_ctrl_c_ends_a_study_that_cannot_be_partial(tmp_path):
    result = interrupted(1, "run", "induction", "--n-sequences", "4", "--out", str(tmp_path / "x"))
    assert result.returncode != 0
    assert "Ctrl-C again" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.browser
def test_every_picture_is_drawn(tmp_path, chromium_page, one):
    page = chromium_page("light")
    page.goto(one.write(tmp_path, command="x").as_uri())
    n_charts = sum(len(part.charts) for part in one.sections)
    page.wait_for_function(
        f"document.querySelectorAll('.chart svg, .chart canvas').length >= {n_charts}"
    )
    assert n_charts == 20
