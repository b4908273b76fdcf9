"""Start: the first result at once, and three doors."""

import streamlit as st

from dashboards import pages
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.components.prose import code
from dashboards.focus import Focus
from dashboards.frame import show
from dashboards.measurements import start
from dashboards.readings import start as readings
from interp import charts

DOORS = (
    ("Show me", "One attention weight, from the words to the test.", ("walkthrough",)),
    (
        "Let me look",
        "Heads, layers and words of any prompt.",
        ("attention", "head", "residual", "attribution"),
    ),
    (
        "I have a question",
        "What happens if this is cut, or that is swapped?",
        ("patching", "ablation", "compare", "generate"),
    ),
)


def page(focus: Focus) -> None:
    """The result and the doors."""
    if focus.key > focus.query or focus.query == 0:
        st.info("Choose a key before the query to see whether the query's look at it matters.")
    else:
        show_figure(first_result(focus), focus)
    with st.grid(3, min_column_width=220) as doors:
        for title, what, names in DOORS:
            with doors.cell(), st.container(border=True, height="stretch"):
                st.markdown(f"**{title}**")
                st.caption(what)
                for name in names:
                    pages.link(name)


def first_result(focus: Focus) -> Figure:
    """The answer with and without the chosen edge."""
    layer, head, query, key = focus.layer, focus.head, focus.query, focus.key
    table = focus.ask(start.cut_edge, focus.tokens, layer, head, query, key, focus.answers)
    weight = float(focus.row(query).sel(layer=layer, head=head, key_pos=key))
    lines = (
        "import pandas\n\n"
        f"runs = {{\n    'edge cut in L{layer}H{head}': [({layer}, {head}, {query}, {key})],\n"
        f"    'edge cut in every head': [(None, None, {query}, {key})],\n}}\n"
        "metrics = {'logit_diff': metric, "
        f"'probability': interp.metrics.prob({focus.target})}}\n"
        "table = pandas.DataFrame({'run': ['as it is', *runs]})\n"
        "for name, measured in metrics.items():\n"
        "    cut = [interp.attention.knockout(model, tokens, edges, measured) "
        "for edges in runs.values()]\n"
        "    table[name] = [cut[0].original.item(), *(ds.cut.item() for ds in cut)]"
    )
    words = f"Does {code(focus.pieces[query])} look at {code(focus.pieces[key])}"

    def chart() -> charts.alt.LayerChart:
        points = dict.fromkeys(("mean", "low", "high"), table["logit_diff"])
        return charts.intervals(
            table.assign(condition=table["run"], **points),
            f"logit({focus.piece(focus.target)!r}) - logit({focus.piece(focus.wrong)!r})",
            "logit difference",
        )

    return Figure(
        "first_result", f"{words}, and does it matter?", table, lines,
        readings.cut_edge(table, weight, focus), chart,
    )  # fmt: skip


if __name__ == "__main__":
    show(page)
