import numpy as np
import pytest
import xarray as xr

from interp import maps, pictures
from interp.errors import PromptError
from interp.metrics import logit_diff
from interp.patching import sweep
from tests.test_charts import rows

NAN = float("nan")
HOSTILE = ["</script>", " $x$", "\"'\n", "😀" * 20]


def made(dims: tuple[str, ...], patched, **attrs) -> xr.Dataset:
    """A denoising sweep of two pairs whose metric is 0 corrupted, and 4 and 2 clean."""
    tokens = np.array([["a", " black", " cat"], ["a", " red", ""]], dtype=object)
    swapped = np.array([["a", " white", " cat"], ["a", " blue", ""]], dtype=object)
    values = np.array(patched, dtype=float)
    sizes = dict(zip((*dims, "example"), values.shape, strict=True))
    return xr.Dataset(
        {
            "patched": ((*dims, "example"), values),
            "clean": ("example", [4.0, 2.0][: values.shape[-1]]),
            "corrupted": ("example", [0.0, 0.0][: values.shape[-1]]),
        },
        coords={dim: range(sizes[dim]) for dim in dims}
        | {"pos": range(3)}
        | {"clean_token": (("example", "pos"), tokens[: values.shape[-1]])}
        | {"corrupted_token": (("example", "pos"), swapped[: values.shape[-1]])},
        attrs={"site": "resid_pre", "direction": "denoising", "metric": "logit_diff"}
        | {"unit": "logits", "partial": 0}
        | attrs,
    )


BY_POSITION = made(
    ("layer", "pos"),
    [[[0.0, 0.0], [4.0, 1.0], [-3.0, NAN]], [[1.0, 0.0], [2.0, NAN], [NAN, NAN]]],
)


def colour(chart) -> dict:
    return chart.to_dict()["encoding"]["color"]


def title(chart) -> tuple[str, str]:
    found = chart.to_dict()["title"]
    return found["text"], found["subtitle"]


def test_a_map_shows_means_over_the_examples_that_a_cell_has():
    shown = [
        (row["layer"], row["pos"], row["value"], row["n"])
        for row in rows(maps.sweep_map(BY_POSITION))
    ]
    assert shown == [
        (0, 0, 0.0, 2),
        (0, 1, 2.5, 2),
        (0, 2, -3.0, 1),
        (1, 0, 0.5, 2),
        (1, 1, 2.0, 1),
    ]


def test_the_colour_range_is_symmetric_and_can_be_fixed():
    assert colour(maps.sweep_map(BY_POSITION))["scale"]["domain"] == [-3.0, 3.0]
    fixed = colour(maps.sweep_map(BY_POSITION, limit=2))["scale"]
    assert (fixed["domain"], fixed["clamp"]) == ([-2, 2], True)
    fraction = maps.sweep_map(BY_POSITION, "pooled_recovered_fraction")
    assert colour(fraction)["scale"]["domain"] == [-1.0, 1.0]
    low, high = colour(maps.sweep_map(BY_POSITION * 0 + BY_POSITION.corrupted))["scale"]["domain"]
    assert low == -high < 0


@pytest.mark.parametrize(
    ("shown", "values", "words"),
    [
        ("recovered_fraction", [0.0, 0.75, -0.75], "recovered fraction of logit_diff, mean of n=2"),
        (
            "pooled_recovered_fraction",
            [0.0, 2.5 / 3, -0.75],
            "recovered fraction of logit_diff, ratio of means, n=2",
        ),
    ],
)
def test_a_map_shows_either_fraction(shown, values, words):
    chart = maps.sweep_map(BY_POSITION, shown)
    assert [row["value"] for row in rows(chart)][:3] == pytest.approx(values)
    assert title(chart) == ("resid_pre, denoising (clean into corrupted)", words)


def test_titles_say_what_was_done():
    effect = "effect on logit_diff in logits"
    of_two = title(maps.sweep_map(BY_POSITION))
    assert of_two == ("resid_pre, denoising (clean into corrupted)", f"{effect}, mean of n=2")
    one = BY_POSITION.isel(example=[0]).assign_attrs(
        direction="noising", method="attribution patching", partial=1
    )
    patched = "resid_pre, noising (corrupted into clean), by attribution patching"
    assert title(maps.sweep_map(one)) == (patched, f"{effect}, n=1, stopped early")


def test_positions_are_labelled_with_tokens_that_all_examples_share():
    assert maps.position_labels(BY_POSITION) == ["0 a", "1", "2 ·cat"]
    one = BY_POSITION.isel(example=[0])
    assert maps.position_labels(one) == ["0 a", "1 ·black / ·white", "2 ·cat"]
    axis = maps.sweep_map(one).to_dict()["encoding"]["x"]
    assert axis["sort"] == ["0 a", "1 ·black / ·white", "2 ·cat"]
    roles = one.assign_coords(pos=["start", "colour", "end"])
    assert maps.position_labels(roles)[2] == "end ·cat"
    assert rows(maps.sweep_map(roles))[1]["token"] == "colour ·black / ·white"


def test_heads_have_a_map_and_with_positions_a_block_for_each_layer():
    by_head = maps.sweep_map(made(("layer", "head"), np.ones((2, 4, 2)))).to_dict()
    assert [by_head["encoding"][axis]["field"] for axis in "xy"] == ["head", "layer"]
    blocks = maps.sweep_map(made(("layer", "head", "pos"), np.ones((2, 4, 3, 2))))
    encoding = blocks.to_dict()["encoding"]
    fields = {name: encoding[name]["field"] for name in ("x", "y", "row")}
    assert fields == {"x": "token", "y": "head", "row": "layer"}
    assert "layer 1" in pictures.svg(blocks)


def test_other_dims_and_fractions_without_a_gap_are_refused():
    with pytest.raises(ValueError, match=r"needs the dims layer and head, pos or both.*'group'"):
        maps.sweep_map(made(("group",), np.ones((2, 2))))
    with pytest.raises(PromptError, match="0 at example 1"):
        maps.sweep_map(BY_POSITION.assign(clean=("example", [4.0, 0.0])), "recovered_fraction")


def test_a_sweep_of_the_model_is_drawn(random_gpt2):
    metric = logit_diff(5, 6)
    ds = sweep(random_gpt2, [[1, 2, 3, 4]], [[1, 9, 3, 4]], "z", metric, per_position=True)
    chart = maps.sweep_map(ds)
    table = {(row["layer"], row["head"], row["pos"]): row["value"] for row in rows(chart)}
    expected = float((ds.patched - ds.corrupted).sel(layer=2, head=1, pos=3)[0])
    assert table[2, 1, 3] == pytest.approx(expected)
    assert "layer 2" in pictures.svg(chart)


def lens(tokens, probs) -> xr.Dataset:
    """Two layers, as many positions as there are tokens, two ranks."""
    return xr.Dataset(
        {
            "token": (("layer", "pos", "rank"), np.array(tokens, dtype=object)),
            "prob": (("layer", "pos", "rank"), np.array(probs)),
        },
        coords={
            "layer": ["L0 pre", "L0 post"],
            "pos": [3, 4],
            "rank": [1, 2],
            "prompt_token": ("pos", [" so", "\n"]),
        },
        attrs={"model": "tiny"},
    )


def test_a_lens_shows_the_best_token_and_all_ranks():
    tokens = [[[" the", "a"], [" a very long one", "b"]], [["x", "\n"], ["", ""]]]
    chart = maps.logit_lens_table(lens(tokens, [[[0.5, 0.25], [1, 0]], [[0.75, 0.1], [NAN, NAN]]]))
    assert rows(chart) == [
        {"layer": "L0 pre", "position": "3 ·so", "word": "·the", "prob": 0.5}
        | {"rank 1": "·the  0.5", "rank 2": "a  0.25"},
        {"layer": "L0 pre", "position": "4 ⏎", "word": "·a·very·…", "prob": 1.0}
        | {"rank 1": "·a·very·long·one  1", "rank 2": "b  0"},
        {"layer": "L0 post", "position": "3 ·so", "word": "x", "prob": 0.75}
        | {"rank 1": "x  0.75", "rank 2": "⏎  0.1"},
    ]
    assert title(chart)[0] == "Logit lens of tiny"


@pytest.mark.parametrize(
    ("shown", "values", "domain"),
    [
        ("answer_rank", [[4, 2], [1, 90]], [1, 90]),
        ("answer_rank", [[1, 1], [1, 1]], [1, 2]),
        ("kl", [[4, 2], [1, 0]], [0, 4]),
        ("answer_prob", [[0.25, 0.5], [0, 0]], [0, 1]),
    ],
)
def test_a_lens_can_be_coloured_by_other_numbers(shown, values, domain):
    ds = lens(np.full((2, 2, 2), "a", dtype=object), np.full((2, 2, 2), 0.5))
    ds[shown] = (("layer", "pos"), np.array(values, dtype=float))
    chart = maps.logit_lens_table(ds, shown)
    assert [row[shown] for row in rows(chart)] == [value for row in values for value in row]
    colour = chart.to_dict()["layer"][0]["encoding"]["color"]
    assert colour["scale"]["domain"] == domain
    assert colour["title"] == maps.LENS_COLOURS[shown]
    assert (colour["scale"].get("type") == "log") == (shown == "answer_rank")
    assert maps.LENS_COLOURS[shown] in str(chart.to_dict()["layer"][0]["encoding"]["tooltip"])
    assert "</svg>" in pictures.svg(chart)


def test_any_token_can_be_drawn():
    tokens = np.array([HOSTILE, HOSTILE], dtype=object).reshape(2, 2, 2)
    svg = pictures.svg(maps.logit_lens_table(lens(tokens, np.full((2, 2, 2), 0.5))))
    assert "&lt;/script" in svg
    assert "\"'⏎" in svg
    hostile = BY_POSITION.assign_coords(
        clean_token=(("example", "pos"), np.array([HOSTILE[:3], HOSTILE[1:]], dtype=object))
    ).isel(example=[1])
    assert "$x$" in pictures.svg(maps.sweep_map(hostile))


def test_a_lens_of_several_prompts_is_refused():
    several = lens(np.full((2, 2, 2), "a"), np.full((2, 2, 2), 0.5)).expand_dims(example=2)
    with pytest.raises(ValueError, match=r"one prompt, such as ds\.isel"):
        maps.logit_lens_table(several)


def test_a_difference_of_patterns_is_drawn_around_zero() -> None:
    places = ["a", "b", "c"]
    change = np.array([[0, np.nan, np.nan], [0.25, -0.25, np.nan], [0.1, -0.5, 0.4]])
    ds = xr.Dataset(
        {"change": (("query_pos", "key_pos"), change)},
        coords={
            "query_pos": [0, 1, 4], "key_pos": [0, 1, 4], "token": ("key_pos", places),
            "other_token": ("key_pos", ["a", "x", "c"]),
        },
    )  # fmt: skip
    assert maps.place_labels(ds) == ["0 a", "1 b / x", "4 c"]
    chart = maps.pattern_difference(ds, "L0H1")
    assert chart.to_dict()["encoding"]["color"]["scale"] == {
        "scheme": "purpleorange",
        "domain": [-0.5, 0.5],
    }
    cells = {(c["query"], c["key"]): c["change"] for c in rows(chart)}
    assert len(cells) == 6
    assert cells["4 c", "1 b / x"] == -0.5
