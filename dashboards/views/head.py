"""Head page: what one head does on random text, here, and by its weights; and how to find one."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import streamlit as st

from dashboards import pages, state
from dashboards.components import canvas, controls, head_circuits, prose
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.focus import Focus
from dashboards.frame import show
from dashboards.glossary import MEANING
from dashboards.measurements import head as measurements
from dashboards.measurements.references import reference_code, sources
from dashboards.readings import head as readings
from interp import charts, heads
from interp.model.tokens import visible

KINDS = {
    "induction": "induction",
    "previous_token": "previous token",
    "duplicate_token": "duplicate token",
    "first_token": "first token",
    "ov_copying": "copying",
    "entropy": "entropy",
    "distance": "distance",
}
TEXTS = {"prompt": "this prompt", "repeated": "random tokens, shown twice"}
# Tokens up to which a chart of a whole pattern is made for files.
LEGIBLE = 60
N_HIGHEST = 8


def page(focus: Focus) -> None:
    """The head page."""
    show_figure(passport(focus), focus)
    with st.grid(2, min_column_width=430, gap="medium") as panes:
        with panes.cell():
            show_figure(pattern(focus), focus)
        with panes.cell():
            kind = controls.choose("head.kind", "Find heads by", KINDS)
            show_figure(finder(focus, kind), focus)
            show_figure(highest(focus, kind), focus)
    below = controls.choose(
        "head.below",
        "More on this head",
        {
            "weights": "From its weights",
            "similar": "Heads that look alike",
            "without": "Without this head",
        },
    )
    {"weights": weights, "similar": alike, "without": alone}[below](focus)


def choose_head(layer: int, head: int) -> None:
    """A head was clicked."""
    state.change(layer=layer, head=head)


def scores_code(focus: Focus) -> str:
    """The line that makes the scores of random text."""
    n_tokens = measurements.n_repeated(focus.model, measurements.N_TOKENS)
    sizes = f"n_tokens={n_tokens}, n_sequences={measurements.N_SEQUENCES}"
    return f"scores = interp.heads.scores(model, {sizes})\n"


def passport(focus: Focus) -> Figure:
    """The head's scores and ranks, on random text and here."""
    table = measurements.passport(
        focus.ask(measurements.scores), focus.ask(measurements.scores_on_prompt, focus.tokens),
        focus.layer, focus.head,
    )  # fmt: skip
    code = (
        f"{scores_code(focus)}"
        "here = interp.heads.scores_on_prompt(model, tokens)\n"
        f"own = interp.heads.passport(scores, {focus.layer}, {focus.head})\n"
        f"other = interp.heads.passport(here, {focus.layer}, {focus.head}).set_index('kind')\n"
        "n = here['n_queries'].to_series().rename('prompt_queries')\n"
        "table = own.join(other[['score', 'rank']].add_prefix('prompt_'), on='kind')\n"
        "table = table.join(n, on='kind')"
    )

    def draw() -> None:
        shown = table.assign(
            kind=table["kind"].map(KINDS), definition=table["kind"].map(heads.DEFINITIONS)
        )
        bar = {"min_value": 0, "max_value": 1, "format": "%.3f"}
        column = st.column_config
        st.dataframe(
            shown, hide_index=True, key="passport",
            column_order=[
                "kind", "score", "rank", "prompt_score", "prompt_rank", "prompt_queries", "highest",
                "highest_score", "definition",
            ],
            column_config={
                "score": column.ProgressColumn("random text", **bar),
                "rank": column.NumberColumn(help=f"Among {table['n_heads'].max()} heads."),
                "prompt_score": column.ProgressColumn("this prompt", **bar),
                "prompt_rank": column.NumberColumn("rank here"),
                "prompt_queries": column.NumberColumn(
                    "queries", help="How many of the prompt's queries are averaged."
                ),
                "highest": column.TextColumn("leads", help="The highest on random text."),
                "highest_score": column.NumberColumn("with", format="%.3f"),
            },
        )  # fmt: skip

    return Figure(
        "passport", f"{focus.name} on random text shown twice, and on this prompt", table, code,
        readings.passport(table, focus), None, draw, MEANING["head score"],
    )  # fmt: skip


def pattern(focus: Focus) -> Figure:
    """The head's pattern on a text of choice."""
    stored = measurements.STORED if focus.model.tokenizer is not None else {}
    text = controls.choose("head.text", "Pattern on", TEXTS | stored)
    array = focus.ask(
        measurements.pattern, focus.tokens, text, focus.prepend_bos, focus.layer, focus.head
    )
    values = array.values.copy()
    values[np.triu_indices(len(values), 1)] = np.nan
    pieces = [str(piece) for piece in array["query_token"].values]
    labels = [f"{position} {visible(piece)}" for position, piece in enumerate(pieces)]
    here = text == "prompt"
    title = f"{focus.name}: where each query looks"

    def draw() -> None:
        canvas.grid(
            values, rows=labels, columns=labels, row_title="query (looks)",
            column_title="key (is looked at)", label=title, key="head_pattern_grid", limit=1.0,
            marked=(focus.query, focus.key) if here else None,
            on_pick=(lambda query, key: state.change(query=query, key=key)) if here else None,
        )  # fmt: skip

    return Figure(
        "head_pattern", title, array.to_dataframe().reset_index(), pattern_code(focus, text),
        readings.pattern(array, text, focus),
        (lambda: charts.attention_matrix(array.values, pieces, title))
        if len(labels) <= LEGIBLE else None,
        draw, MEANING["attention weight"],
    )  # fmt: skip


def pattern_code(focus: Focus, text: str) -> str:
    """The lines that make the pattern."""
    shown = "tokens"
    before = ""
    if text == "repeated":
        n_tokens = measurements.n_repeated(focus.model, measurements.SHOWN_TOKENS)
        before = f"shown = interp.heads.repeated_tokens(model, n_tokens={n_tokens}, n_sequences=1)"
        shown = "shown"
    elif text != "prompt":
        sentence = measurements.sentence(text)
        before = f"shown = model.to_tokens({sentence!r}, prepend_bos={focus.prepend_bos})"
        shown = "shown"
    return (
        f"{before}\npattern = interp.patterns.of_head(model, {shown}, {focus.layer}, "
        f"{focus.head})\ntable = pattern.to_dataframe().reset_index()"
    )


def finder(focus: Focus, kind: str) -> Figure:
    """A score of every head."""
    table = measurements.leading(focus.ask(measurements.scores), kind)
    definition = heads.DEFINITIONS[kind]
    title = f"{KINDS[kind].capitalize()}, every head"
    values = np.full((focus.cfg.n_layers, focus.cfg.n_heads), np.nan)
    values[table["layer"], table["head"]] = table["score"]

    def draw() -> None:
        canvas.grid(
            values, rows=[str(n) for n in range(focus.cfg.n_layers)],
            columns=[str(n) for n in range(focus.cfg.n_heads)], row_title="layer",
            column_title="head", label=title, key="finder_grid", limit=1.0,
            marked=(focus.layer, focus.head), on_pick=choose_head,
        )  # fmt: skip

    return Figure(
        "finder", title, table, f"{scores_code(focus)}{leading_code(kind)}",
        readings.finder(table, kind, definition),
        (lambda: charts.head_map(table, "score", title, limit=1.0)) if len(table) else None,
        draw, MEANING["head score"],
    )  # fmt: skip


def leading_code(kind: str, n: int | None = None) -> str:
    """The line that ranks heads."""
    most = f", {n}" if n else ""
    return f'table = interp.heads.leading(scores, "{kind}"{most})'


def highest(focus: Focus, kind: str) -> Figure:
    """The heads with the highest scores, to choose from."""
    table = measurements.leading(focus.ask(measurements.scores), kind).head(N_HIGHEST)
    return Figure(
        "highest", "The highest; choose a row to see the head", table,
        f"{scores_code(focus)}{leading_code(kind, N_HIGHEST)}", (), None,
        lambda: rows(table, "score", f"highest_{kind}"),
    )  # fmt: skip


def rows(table: pd.DataFrame, score: str, key: str) -> None:
    """A table of heads; a chosen row chooses its head."""
    name = f"{key}_rows"

    def picked() -> None:
        for row in st.session_state[name]["selection"]["rows"]:
            choose_head(int(table["layer"].iloc[row]), int(table["head"].iloc[row]))

    bar = st.column_config.ProgressColumn(min_value=0, max_value=1, format="%.3f")
    st.dataframe(
        table, hide_index=True, key=name, on_select=picked, selection_mode="single-row",
        column_config={score: bar, "prompt": bar},
    )  # fmt: skip


def weights(focus: Focus) -> None:
    """QK and OV circuits."""
    name = head_circuits.vocabulary(focus)
    makers: list[Callable[[Focus, str], Figure]] = [head_circuits.qk_pairs]
    if focus.cfg.n_classes is None:
        makers += [head_circuits.ov_pairs, head_circuits.ov_tokens]
    else:
        prose.note("The outputs of a classifier are classes, so no token's logit can rise.")
    with st.grid(len(makers), min_column_width=300, gap="medium") as panes:
        for make in makers:
            with panes.cell():
                show_figure(make(focus, name), focus)


def alike(focus: Focus) -> None:
    """Other heads by how alike they look."""
    if len(focus.tokens) < 2:
        prose.note("One token can only look at itself, in every head. Write a longer prompt.")
        return
    table = focus.ask(measurements.similar, focus.tokens, focus.layer, focus.head)
    n_tokens = measurements.n_repeated(focus.model, measurements.N_TOKENS)
    place = f"{focus.layer}, {focus.head}"
    code = (
        "import pandas\n\n"
        f"repeated = interp.heads.repeated_tokens(\n    model, n_tokens={n_tokens}, "
        f"n_sequences={measurements.N_SEQUENCES}\n)\n"
        "found = {\n"
        f'    "random": interp.patterns.overlap(model, repeated, {place}).to_series(),\n'
        f'    "prompt": interp.patterns.overlap(model, tokens, {place}).to_series(),\n'
        "}\n"
        f"table = pandas.DataFrame(found).drop(({place}))\n"
        'table = table.sort_values("random", ascending=False).reset_index()'
    )
    figure = Figure(
        "similar", f"Heads that look where {focus.name} looks; choose a row to see one", table,
        code, readings.similar(table, focus), None,
        lambda: rows(table, "random", "similar"), MEANING["overlap"],
    )  # fmt: skip
    show_figure(figure, focus)


def alone(focus: Focus) -> None:
    """What the answer owes to this head."""
    source = next(iter(sources(focus.model)))
    table = focus.ask(
        measurements.without, focus.tokens, focus.layer, focus.head, focus.answers, source
    )
    groups = f'{{"{focus.name}": [({focus.layer}, {focus.head})]}}'
    code = (
        "import pandas\n\n"
        f"{reference_code(focus.model, focus.tokens, source, 0)}"
        f"groups = {groups}\nrows = []\n"
        'for kind, others in (("zero", None), ("mean", reference)):\n'
        "    ds = interp.ablation.ablate_together(\n"
        "        model, tokens, groups, metric, kind, reference=others\n    )\n"
        '    values = {name: float(ds[name].max()) for name in ("original", "ablated", "effect")}\n'
        '    rows.append({"kind": kind} | values)\n'
        "table = pandas.DataFrame(rows)"
    )

    def draw() -> None:
        number = st.column_config.NumberColumn(format="%+.3f")
        st.dataframe(
            table, hide_index=True, key="without",
            column_config=dict.fromkeys(("original", "ablated", "effect"), number),
        )  # fmt: skip

    figure = Figure(
        "without", f"The logit difference without {focus.name}", table, code,
        readings.without(table, focus), None, draw, MEANING["effect"],
    )  # fmt: skip
    show_figure(figure, focus)
    pages.link("ablation", "Take out more in the ablation lab")


if __name__ == "__main__":
    show(page)
