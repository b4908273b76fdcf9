"""Generate: word by word, how sure the model was, and what each choice looked at."""

import numpy as np
import pandas as pd
import streamlit as st
import xarray as xr

from dashboards import pages, state
from dashboards.components import canvas, controls, prose
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.components.long_work import long_work
from dashboards.components.word_strip import word_strip
from dashboards.focus import Focus
from dashboards.frame import show
from dashboards.glossary import MEANING
from dashboards.measurements import generate
from dashboards.readings import generate as readings
from interp import charts
from interp.model.tokens import visible

TEMPERATURES = {
    "0": "0: the most likely",
    "0.3": "0.3",
    "0.5": "0.5",
    "0.7": "0.7",
    "1": "1: as the model says",
    "1.5": "1.5",
    "2": "2",
}
FIRST_N = 10
MOST_AT_ONCE = 50
MOST_TOP_K = 1000
HIGHEST_SEED = 10**6
COLUMNS = ["position", "token_id", "token", "prob", "rank", "drawn_prob"]
# Tokens up to which a chart of a row is made for files.
LEGIBLE = 60


class Writing:
    """What has been written, by its settings."""

    def __init__(self, focus: Focus) -> None:
        self.room = focus.cfg.n_ctx - len(focus.tokens)
        with st.grid(4, min_column_width=150):
            self.temperature = float(
                controls.choose(
                    "generate.temperature", "Temperature", TEMPERATURES,
                    help=MEANING["temperature"],
                )
            )  # fmt: skip
            self.top_k = controls.number(
                "generate.top_k", "Top-k", default=0, lowest=0, highest=MOST_TOP_K,
                help="Draw among the k most probable tokens only; 0 draws among all.",
            )  # fmt: skip
            self.seed = controls.number(
                "generate.seed", "Seed", default=0, lowest=0, highest=HIGHEST_SEED,
                help="The same seed and settings give the same text.",
            )  # fmt: skip
            self.by = controls.number(
                "generate.by", "N", default=FIRST_N, lowest=1, highest=MOST_AT_ONCE,
                help="How many tokens the second button adds.",
            )  # fmt: skip
        text = state.option("generate.n", str(FIRST_N))
        wanted = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else FIRST_N
        self.n = min(wanted, self.room)

    @property
    def code(self) -> str:
        """Lines that define `steps`."""
        return (
            f"steps = interp.writing.steps(model, tokens, {self.n}, "
            f"temperature={self.temperature:g}, top_k={self.top_k or None}, seed={self.seed})\n"
        )

    def code_until(self, step: int) -> str:
        """Lines that also define `seen`: what stood there when a token was chosen."""
        return (
            f'{self.code}before = steps["token_id"].values[: {step - 1}]\n'
            "seen = [[*map(int, tokens[0]), *map(int, before)]]\n"
        )

    def result(self, focus: Focus) -> xr.Dataset | None:
        """The steps, once they are there."""
        arguments = (focus.tokens, self.n, self.temperature, self.top_k, self.seed)
        about = (focus.loaded.hash, arguments)
        if state.job("generate", about) is None:
            state.keep_job("generate", about, focus.start(generate.steps, *arguments))
        job = long_work(
            "generate", about, lambda: focus.start(generate.steps, *arguments),
            cost=f"{self.n} runs of one token each.",
        )  # fmt: skip
        return job.result if job is not None and job.result.sizes["step"] else None


def page(focus: Focus) -> None:
    """The page."""
    if focus.cfg.n_classes is not None:
        st.info(
            "This model is a classifier: it tells classes apart and writes no text. Choose a "
            "language model in the menu."
        )
        return
    writing = Writing(focus)
    doors = st.container(horizontal=True, vertical_alignment="center")
    steps = writing.result(focus) if writing.n > 0 else None
    with doors:
        buttons(writing, steps)
    if steps is None:
        if writing.room < 1:
            st.info(
                f"The prompt fills the model's {focus.cfg.n_ctx} tokens, so nothing can follow. "
                "Shorten the prompt."
            )
        elif writing.n == 0:
            st.info("Nothing is written yet: ask for the next token.")
        return
    step = chosen_step(steps)
    show_figure(written(writing, steps, step), focus)
    seen = (*focus.tokens, *map(int, steps["token_id"].values[: step - 1]))
    whole = (*focus.tokens, *map(int, steps["token_id"].values))
    take_away(focus, steps, step, seen, whole)
    with st.grid(2, min_column_width=430, gap="medium") as panes:
        with panes.cell():
            show_figure(alternatives(writing, steps, step), focus)
        with panes.cell():
            show_figure(heads(focus, writing, step, seen), focus)
    show_figure(row(focus, writing, steps, step, seen), focus)


def write(n: int) -> None:
    """Have this many tokens, and look at the last one."""
    state.set_option("generate.n", str(n), str(FIRST_N))
    state.set_option("generate.step", "", "")


def buttons(writing: Writing, steps: xr.Dataset | None) -> None:
    """More tokens, or none."""
    n = writing.n
    full = n >= writing.room or (steps is not None and steps.sizes["step"] < n)
    more = min(n + writing.by, writing.room)
    st.button(
        "Next token", key="next_token", type="primary", on_click=write, args=(n + 1,),
        disabled=full,
    )  # fmt: skip
    st.button(
        f"Next {writing.by} tokens", key="next_tokens", on_click=write, args=(more,), disabled=full
    )
    st.button("Start over", key="start_over", on_click=write, args=(0,), disabled=n == 0)


def chosen_step(steps: xr.Dataset) -> int:
    """The step that is looked at: the last one, until another is clicked."""
    last = steps.sizes["step"]
    text = state.option("generate.step", "")
    step = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else last
    return min(max(step, 1), last)


def choose_step(step: int) -> None:
    """A new token was clicked."""
    state.set_option("generate.step", str(step), "")


def written(writing: Writing, steps: xr.Dataset, step: int) -> Figure:
    """The new tokens, coloured by how probable each one was."""
    table = steps[COLUMNS].to_dataframe().reset_index()
    n = len(table)
    title = f"{n} new token{'s' if n > 1 else ''}, by the probability each one had"

    def draw() -> None:
        word_strip(
            table["prob"], table["token"], first=1, unit="step", label=title, key="written_strip",
            marked=step, on_pick=choose_step,
        )  # fmt: skip

    def chart() -> charts.alt.Chart:
        return charts.bars(table, "step", "prob", title)

    code = f"{writing.code}table = steps[{COLUMNS}].to_dataframe().reset_index()"
    reading = readings.written(steps, writing.n, writing.temperature)
    return Figure("written", title, table, code, reading, chart, draw, MEANING["probability"])


def take_away(
    focus: Focus, steps: xr.Dataset, step: int, seen: tuple[int, ...], whole: tuple[int, ...]
) -> None:
    """The text, and the doors to the other pages."""
    text, same = focus.ask(generate.as_prompt, whole, focus.prepend_bos)
    prose.note(text)
    at = steps.sel(step=step)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Use as prompt", key="use_as_prompt", on_click=use_as_prompt, args=(text,),
            help="Every page then shows this text.",
        )  # fmt: skip
        if st.button(
            f"Look into step {step}",
            key="look_into",
            help="The text before this token becomes the prompt, and the token the answer.",
        ):
            before, _ = focus.ask(generate.as_prompt, seen, focus.prepend_bos)
            token, others = str(at["token"].item()), at["top_token"].values.tolist()
            look_into(before, token, next(other for other in others if other != token))
    if not same:
        st.caption(
            "Read again as a prompt, this text is cut into other tokens than those that were drawn."
        )


def use_as_prompt(text: str) -> None:
    """The text becomes everybody's prompt."""
    state.change(text=text, query=None, key=None)
    write(0)


def look_into(before: str, token: str, other: str) -> None:
    """Ask the attention page about one step."""
    state.change(text=before, query=None, key=None, layer=None, head=None)
    # A word typed without a space is read with one, so such a token cannot be named.
    named = ("" if text[:1].isalnum() else text for text in (token, other))
    state.change(**dict(zip(("target", "wrong"), named, strict=True)))
    pages.go_to("attention")


def alternatives(writing: Writing, steps: xr.Dataset, step: int) -> Figure:
    """What else might have been written."""
    columns = ["top_id", "top_token", "top_prob"]
    at = steps.sel(step=step, drop=True)
    table = at[columns].to_dataframe().reset_index()
    title = f"Step {step}: the most probable tokens"

    def draw() -> None:
        drawn = int(at["token_id"])
        shown = pd.DataFrame(
            {
                "rank": table["alternative"],
                "token": [visible(token) for token in table["top_token"]],
                "probability": table["top_prob"],
                "written": [token == drawn for token in table["top_id"]],
            }
        )
        st.dataframe(
            shown, hide_index=True, key="alternatives",
            column_config={
                "probability": st.column_config.ProgressColumn(
                    min_value=0, max_value=1, format="%.4f"
                )
            },
        )  # fmt: skip

    def chart() -> charts.alt.Chart:
        named = table.assign(token=[charts.shortened(token) for token in table["top_token"]])
        return charts.bars(named, "token", "top_prob", title)

    code = (
        f"{writing.code}at = steps.sel(step={step}, drop=True)\n"
        f"table = at[{columns}].to_dataframe().reset_index()"
    )
    return Figure(
        "alternatives", title, table, code, readings.alternatives(steps, step), chart, draw,
        MEANING["probability"],
    )  # fmt: skip


def row(
    focus: Focus, writing: Writing, steps: xr.Dataset, step: int, seen: tuple[int, ...]
) -> Figure:
    """What the chosen head looked at when the token was chosen."""
    hide_first = controls.switch(
        "generate.hide_first", "hide the first token",
        help="Many heads rest on the first token. Hidden, the other weights get the whole range of "
        "colours.",
    )  # fmt: skip
    table = focus.ask(generate.row, seen, focus.layer, focus.head)
    title = f"Step {step}: what its choice looked at, {focus.name}"
    weights = table["weight"].to_numpy(copy=True)
    if hide_first:
        weights[0] = np.nan

    def draw() -> None:
        word_strip(
            weights, table["key_token"], unit="position", label=title, key="row_strip",
            limit=None if hide_first else 1.0,
        )  # fmt: skip

    def chart() -> charts.alt.Chart:
        return charts.attention_row(table["weight"], table["key_token"], title)

    code = (
        f"{writing.code_until(step)}"
        f"row = interp.patterns.row(model, seen, {len(seen) - 1})\n"
        f"row = row.sel(layer={focus.layer}, head={focus.head}, drop=True)\n"
        "table = row.to_dataframe().reset_index()"
    )
    reading = readings.row(table, focus.name, str(steps["token"].sel(step=step).item()))
    return Figure(
        "row", title, table, code, reading, chart if len(table) <= LEGIBLE else None, draw,
        MEANING["attention weight"],
    )  # fmt: skip


def heads(focus: Focus, writing: Writing, step: int, seen: tuple[int, ...]) -> Figure:
    """Where every head looked hardest."""
    table = focus.ask(generate.heaviest_keys, seen)
    title = f"Step {step}: the token each head looked at most, the first left out"

    def draw() -> None:
        weights = table.pivot(index="layer", columns="head", values="weight")
        words = table.pivot(index="layer", columns="head", values="key_token").to_numpy()
        canvas.grid(
            weights.to_numpy(), rows=[str(n) for n in range(focus.cfg.n_layers)],
            columns=[str(n) for n in range(focus.cfg.n_heads)], row_title="layer",
            column_title="head", label=title, key="heads_grid", limit=1.0,
            words=[[visible(word) for word in line] for line in words],
            marked=(focus.layer, focus.head),
            on_pick=lambda layer, head: state.change(layer=layer, head=head),
        )  # fmt: skip

    def chart() -> charts.alt.Chart:
        return charts.head_map(table, "weight", title, limit=1.0)

    code = (
        f"{writing.code_until(step)}"
        f"table = interp.writing.heaviest_keys(model, seen, {len(seen) - 1})"
    )
    return Figure("heads", title, table, code, readings.heads(table), chart, draw,
                  MEANING["attention weight"])  # fmt: skip


if __name__ == "__main__":
    show(page)
