"""The indirect-object study on the embedded model, and its verdicts on made-up numbers."""

import pandas as pd
import pytest
import torch

import interp
from analyses import ioi
from interp import ablation, head_classes, patching, path_patching
from interp.errors import PromptError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import load
from interp.model.saving import save_huggingface
from interp.prompts import PromptPairs
from interp.statistics import Interval

N = 24
TITLES = (
    "Does the model do it?",
    "Who writes it",
    "Where the names travel",
    "Which paths carry it",
    "What the heads are",
    "Who takes over from the name movers?",
    "Does the answer depend on them?",
    "Beside the published circuit",
)


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return load()


@pytest.fixture(scope="module")
def pairs(model) -> PromptPairs:
    return interp.prompts.ioi(model, N)


@pytest.fixture(scope="module")
def report():
    steps = []

    def progress(each, description):
        steps.append(description)
        return each

    made = ioi.run(n=N, progress=progress)
    assert {"Patching", "Patching paths", "Ablating"} <= set(steps)
    return made


def table(report, title: str) -> pd.DataFrame:
    (found,) = [part for part in report.sections if part.title == title]
    return found.table


def reading(report, title: str) -> str:
    (found,) = [part for part in report.sections if part.title == title]
    return "\n".join(found.reading)


def test_the_study_has_all_its_steps_and_says_how_it_was_made(report, tmp_path):
    assert tuple(part.title for part in report.sections) == TITLES
    assert report.settings["n"] == N
    assert report.settings["corruption"] == "abc"
    page = report.write(tmp_path, command="interp run ioi")
    files = {path.name for path in tmp_path.iterdir()}
    assert {"run.json", "which_paths_carry_it.csv", "what_the_heads_are.csv"} <= files
    assert page.stat().st_size > 10_000


def test_the_behaviour_is_measured_on_every_prompt_and_by_order(report, model, pairs):
    found = table(report, TITLES[0]).set_index("condition")
    assert len(found) == 4
    logits = model(model.to_batch(pairs.clean), positions="last")
    difference = pairs.metric(model)(logits)
    is_abba = torch.tensor([group == "ABBA" for group in pairs.groups])
    for name, chosen in (("all", is_abba | ~is_abba), ("ABBA", is_abba), ("BABA", ~is_abba)):
        row = found.loc[f"clean, {name}"]
        assert row["n"] == int(chosen.sum())
        assert row["mean"] == pytest.approx(float(difference[chosen].mean()), abs=1e-4)
        assert row["low"] < row["mean"] < row["high"]
    first = logits[:, 0].argmax(dim=-1) == pairs.answer_ids(model)
    assert found.loc["clean, all", "first"] == pytest.approx(float(first.float().mean()))
    probability = logits[:, 0].softmax(dim=-1)[torch.arange(N), pairs.answer_ids(model)]
    assert found.loc["clean, all", "probability"] == pytest.approx(float(probability.mean()))
    other = pairs.metric(model)(model(model.to_batch(pairs.corrupted), positions="last"))
    assert found.loc["corrupted, all", "mean"] == pytest.approx(float(other.mean()), abs=1e-4)
    assert found.loc["corrupted, all", "right"] == pytest.approx(float((other > 0).float().mean()))


def test_what_is_written_adds_up_to_the_difference(report):
    parts = table(report, TITLES[1])
    difference = table(report, TITLES[0])["mean"][0]
    assert parts["mean"].sum() == pytest.approx(difference, abs=1e-4)
    assert parts["mean"].abs().is_monotonic_decreasing
    heads_write = parts.loc[parts["kind"] == "head", "mean"].sum()
    assert f"All heads {heads_write:+.2f}" in reading(report, TITLES[1])


def test_the_names_travel_from_their_mentions_to_the_end(report, model, pairs):
    cells = table(report, TITLES[2])
    assert cells.groupby("site").size().to_dict() == {
        "resid_pre": 20, "attn_out": 20, "mlp_out": 20, "z": 80
    }  # fmt: skip
    swept = patching.sweep(
        model, pairs.clean, pairs.corrupted, "z", pairs.metric(model), positions=pairs.roles,
        per_position=True,
    )  # fmt: skip
    at = {"layer": 1, "head": 1, "pos": "END"}
    expected = swept.patched.sel(at).mean() - swept.corrupted.mean()
    chosen = cells[(cells["site"] == "z") & (cells[list(at)] == pd.Series(at)).all(axis=1)]
    assert chosen["effect"].item() == pytest.approx(float(expected), abs=1e-4)
    gap = float((swept.clean - swept.corrupted).mean())
    assert chosen["recovered_fraction"].item() == pytest.approx(float(expected) / gap, abs=1e-5)
    assert "layer 3: END" in reading(report, TITLES[2])
    assert "restores most is L1H1 at END" in reading(report, TITLES[2])


def test_the_paths_are_those_of_path_patching(report, model, pairs):
    paths = table(report, TITLES[3])
    swept = path_patching.sweep(
        model, pairs.clean, pairs.corrupted, receivers="logits", metric=pairs.metric(model),
        direction="noising",
    )  # fmt: skip
    effect = (swept.patched - swept.clean).mean("example")
    direct = paths[paths["into"] == "logits"]
    for row in direct.itertuples():
        assert row.mean == pytest.approx(float(effect.sel(sender=row.sender)), abs=1e-4)
    assert {"L1H1", "L2H3", "L3 MLP"} <= set(direct["sender"])
    # Heads of layer 2 listen to L1H1, with their queries at the end.
    queries = paths[(paths["step"] == 2) & paths["into"].str.match("q of .*L2H3.* at END")]
    assert queries.set_index("sender").loc["L1H1", "high"] < 0
    last = paths["step"].max()
    assert f"Step {last + 1} finds no head" in reading(report, TITLES[3]) or (
        f"Step {last} finds no head" in reading(report, TITLES[3])
    )


def test_the_embedded_circuit_has_a_name_mover_and_s_inhibition_and_no_induction(report):
    found = table(report, TITLES[4]).set_index(["name", "pos"])
    assert found.loc[("L2H3", "END"), "class"] == "name mover"
    assert found.loc[("L2H3", "END"), "copying"] > 0.9
    assert found.loc[("L1H1", "END"), "class"] == "S-inhibition"
    assert found.loc[("L1H1", "END"), "attention"] > 0.8
    assert found.loc[("L1H1", "END"), "copying"] < 0.1
    text = reading(report, TITLES[4])
    for name in ("duplicate token", "induction", "previous token"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name}: ")]
        assert line.endswith("Found: no head.")
    assert "On a path, but in no class: " in text


def test_without_the_heads_found_it_is_gone_and_without_others_nothing_is_lost(report):
    found = table(report, TITLES[6]).set_index("condition")
    all_found, others = found.loc[ioi.WITHOUT], found.loc[ioi.ONLY]
    difference = all_found["logit_diff"] - all_found["mean"]
    assert all_found["high"] < -0.7 * difference
    assert 0.2 < all_found["right"] < 0.8
    assert others["low"] > -0.05 * difference
    controls = found[found.index.str.contains(ioi.RANDOM)]
    assert len(controls) == ioi.N_CONTROLS
    assert controls["heads"].is_unique
    assert (controls["low"] > -0.05 * difference).all()
    circuit = set(all_found["heads"].split(", "))
    for listed in controls["heads"]:
        drawn = listed.split(", ")
        assert len(set(drawn)) == len(circuit)
        assert not circuit & set(drawn)
    text = reading(report, TITLES[6])
    assert "takes nothing" in text
    assert "By themselves they are enough." in text
    assert "p = 0.0001" in text


def test_ablation_takes_the_mean_of_prompts_with_the_same_places(model, pairs):
    """One group, by hand: hooks put in the mean over the other prompts of each layout."""
    fresh, reference = pairs[:8], interp.prompts.ioi(model, 60)
    outcome = ioi.without(model, fresh, reference, {"one": [(1, 1)]}, lambda steps, _: steps)
    assert outcome.sizes["example"] == 8
    by_clean = {}
    for pair in fresh:
        places = tuple(pair.roles.values())
        others = [p.corrupted for p in reference if tuple(p.roles.values()) == places]
        _, cache = model.run_with_cache(others)
        mean = cache["z", 1][:, :, 1].mean(dim=0)

        def put(z, hook, mean=mean):
            z[:, :, 1] = mean

        own = PromptPairs("ioi", (pair,))
        logits = model.run_with_hooks(
            [pair.clean], [("blocks.1.attn.hook_z", put)], positions="last"
        )
        by_clean[pair.clean] = float(own.metric(model)(logits))
    assert sorted(outcome["ablated"].values[0].tolist()) == pytest.approx(
        sorted(by_clean.values()), abs=1e-4
    )
    corrupted = fresh.metric(model)(model(model.to_batch(fresh.corrupted), positions="last"))
    assert sorted(outcome["corrupted"].values.tolist()) == pytest.approx(
        sorted(corrupted.tolist()), abs=1e-4
    )


def test_the_heads_are_tested_on_prompts_that_did_not_find_them(report, model):
    drawn = interp.prompts.ioi(model, 2 * N)
    assert not set(drawn[:N].clean) & set(drawn[N:].clean)
    fresh = drawn[N:]
    difference = fresh.metric(model)(model(model.to_batch(fresh.clean), positions="last"))
    row = table(report, TITLES[6]).set_index("condition").loc[ioi.ONLY]
    assert row["logit_diff"] - row["mean"] == pytest.approx(float(difference.mean()), abs=1e-3)


def test_what_takes_over_is_the_rise_of_the_direct_part(report, model, pairs):
    risen = table(report, TITLES[5]).set_index("component")
    assert "L2H3" not in risen.index
    metric, decompose = pairs.metric(model), interp.logit_attribution.decompose
    before = decompose(model, pairs.clean, metric).sel(component="L3H1").sum("pos")
    with model.hooks(ablation.zero_heads([(2, 3)])):
        after = decompose(model, pairs.clean, metric).sel(component="L3H1").sum("pos")
    expected = float((after - before).mean())
    assert expected != 0
    assert risen.loc["L3H1", "mean"] == pytest.approx(expected, abs=1e-5)


def test_backups_are_named_and_no_movers_leave_nothing_to_take_over():
    rows = pd.DataFrame({"layer": [0], "head": [1], "mean": [1.0], "low": [0.9], "high": [1.1]})
    section = ioi.takeover_section(rows, [(1, 0)], [(0, 1)])
    assert "(L1H0) are replaced by zero" in section.reading[0]
    assert section.reading[1].endswith("L0H1.")
    assert ioi.takeover_section(rows, [], []).table is None


@pytest.mark.parametrize(
    ("removed", "control", "faithfulness", "expected"),
    [
        ((-9.0, -10.0, -8.0), (0.0, -0.1, 0.1), 1.1, "takes 90% of the difference; removing as"),
        ((-9.0, -10.0, -8.0), (0.0, -0.1, 0.1), 1.1, "takes nothing. By themselves they are"),
        ((-9.0, -10.0, -8.0), (1.0, 0.9, 1.1), 1.1, r"takes nothing \(it adds 10%\)"),
        ((-9.0, -10.0, -8.0), (-2.0, -2.1, -1.9), 1.1, "takes 20%: heads that were not"),
        ((-9.0, -10.0, -8.0), (0.0, -0.1, 0.1), 0.7, "not enough: 30% is missing"),
        ((-1.0, -2.0, 0.5), (0.0, -0.1, 0.1), 1.0, "no more than removing others"),
        ((-1.0, -2.0, -0.5), (-1.0, -2.0, -0.4), 1.0, "no more than removing others"),
        ((0.5, 0.2, 0.8), (1.0, 0.9, 1.1), 1.0, "no more than removing others"),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_numbers(removed, control, faithfulness, expected):
    text = ioi.verdict(10.0, Interval(*removed), Interval(*control), faithfulness)
    assert pd.Series([text]).str.contains(expected).all(), text


def test_gpt2_is_compared_class_by_class(report):
    assert "this is tiny" in reading(report, TITLES[7])
    classes = {name: [] for name in ioi.PUBLISHED}
    classes["name mover"] = [(9, 9), (1, 1)]
    classes["backup name mover"] = [(10, 2)]
    cfg = ModelConfig(
        n_layers=12, n_heads=12, d_model=768, d_mlp=3072, n_ctx=1024, d_vocab=50257,
        model_name="gpt2",
    )  # fmt: skip
    found = pd.DataFrame({"layer": [9, 1, 4], "head": [9, 1, 11], "class": "any"})
    section = ioi.published_section(cfg, found, classes)
    rows = section.table.set_index("class")
    assert rows.loc["name mover"].tolist() == ["L9H9, L10H0, L9H6", "L9H9, L1H1", "L9H9"]
    assert rows.loc["induction", "found"] == ""
    assert "3 of the 26 published heads" in section.reading[1]
    assert section.reading[1].endswith("Found and not published: L1H1.")


def test_the_published_circuit_has_26_heads_in_7_classes():
    heads = [head for members in ioi.PUBLISHED.values() for head in members]
    assert len(heads) == len(set(heads)) == 26
    assert len(ioi.PUBLISHED) == 7
    assert set(ioi.PUBLISHED) == {rule.name for rule in head_classes.RULES} | {"backup name mover"}


@pytest.mark.parametrize(
    ("clean", "corrupted", "prefers"),
    [
        ([3, 4, 5], [0, 0, 1], True),
        ([3, -4, 0], [-9, -9, -9], False),
        ([3, 4, 5], [3, 5, 4], False),
    ],
)
def test_preference_is_above_zero_and_above_the_corrupted_prompts(clean, corrupted, prefers):
    sides = ["clean"] * 3 + ["corrupted"] * 3
    answers = pd.DataFrame({"prompts": sides, "logit_diff": [*clean, *corrupted]})
    assert ioi.prefers_io(answers, seed=0) is prefers


def test_a_model_that_cannot_do_it_ends_the_study(tmp_path):
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_mlp": 8, "n_ctx": 64}
    cfg = ModelConfig(**sizes, d_vocab=load().cfg.d_vocab)
    save_huggingface(HookedGPT2(cfg, load().tokenizer), tmp_path / "model")
    report = ioi.run(str(tmp_path / "model"), n=4)
    assert tuple(part.title for part in report.sections) == TITLES[:2]
    assert "does not prefer the indirect object" in reading(report, TITLES[0])


def test_a_threshold_that_nothing_passes_leaves_the_circuit_empty():
    report = ioi.run(n=4, threshold=5.0)
    titles = [part.title for part in report.sections]
    assert TITLES[6] not in titles
    assert len(table(report, TITLES[3])) == len(table(report, TITLES[4])) == 0
    assert "Step 1 finds no head" in reading(report, TITLES[3])
    assert "name mover whose work" in reading(report, TITLES[5])


def test_givers_can_be_swapped_instead(report):
    swapped = ioi.run(n=8, corruption="name_swap")
    behaviour = table(swapped, TITLES[0]).set_index("condition")
    assert behaviour.loc["corrupted, all", "high"] < 0
    found = table(swapped, TITLES[4]).set_index(["name", "pos"])
    assert found.loc[("L1H1", "END"), "class"] == "S-inhibition"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"n": 1}, "2 or more prompts"), ({"threshold": 0.0}, "threshold above 0; got 100, 0.0")],
)
def test_what_cannot_be_studied_is_refused(arguments, message):
    with pytest.raises(PromptError, match=message):
        ioi.run(**arguments)
