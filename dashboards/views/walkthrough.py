"""How cat looks at black: one attention weight, from the words to the test, in eight steps."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import streamlit as st

from dashboards import pages, state
from dashboards.components import canvas, controls, prose
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.components.long_work import long_work
from dashboards.focus import Focus, tokens_of
from dashboards.frame import show
from dashboards.glossary import MEANING
from dashboards.measurements import walkthrough
from dashboards.readings import attention as attention_readings
from dashboards.readings import walkthrough as readings
from interp import charts
from interp.errors import InterpError
from interp.model.tokens import visible

FORMULA = r"\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{QK^\top}{\sqrt{d_k}}\right)V"
N_LISTED = 8
N_WORDS = 5
# Pixels.
MASK_WIDTH = 540
NUMBER_WIDTH = 180


class Step(NamedTuple):
    """One step: its name in the row of steps, its question, and what draws it."""

    name: str
    title: str
    draw: Callable[[Focus], None]


def page(focus: Focus) -> None:
    """One step, and the way to the others."""
    if st.session_state.pop("walkthrough_prompt_changed", False):
        st.rerun()  # the prompt above is not part of what a button here draws anew
    names = list(STEPS)
    here = controls.choose(
        "walkthrough.step", "Step", {name: step.name for name, step in STEPS.items()}, in_a_row=True
    )
    at = names.index(here)
    st.subheader(f"{at + 1}. {STEPS[here].title}", anchor=False)
    if focus.key > focus.query and here != "tokens":
        masked(focus)
    else:
        STEPS[here].draw(focus)
    with st.container(horizontal=True):
        for label, to in (("Back", at - 1), ("Next", at + 1)):
            inside = 0 <= to < len(names)
            st.button(
                f"{label}: {STEPS[names[to]].name}" if inside else label, disabled=not inside,
                key=f"walkthrough_{label}", type="primary" if label == "Next" else "secondary",
                on_click=go, args=(names[to] if inside else here,),
            )  # fmt: skip


def go(name: str) -> None:
    """Show another step."""
    state.set_option("walkthrough.step", name, "tokens")


def masked(focus: Focus) -> None:
    """The key is after the query."""
    for paragraph in attention_readings.masked(focus):
        st.markdown(paragraph)
    st.button(
        "Exchange query and key", on_click=state.change,
        kwargs={"query": focus.key, "key": focus.query},
    )  # fmt: skip


def edge(focus: Focus) -> walkthrough.Edge:
    """Layer, head, query and key."""
    return focus.layer, focus.head, focus.query, focus.key


def listed(focus: Focus) -> str:
    """The edge as arguments."""
    return ", ".join(map(str, edge(focus)))


def tokens_step(focus: Focus) -> None:
    """The causal mask, where the pair is chosen."""
    table = focus.ask(walkthrough.positions, focus.tokens, focus.query)
    code = (
        "import pandas\n\n"
        "ids = [int(i) for i in tokens[0]]\n"
        "names = interp.results.token_names(model, model.as_batch(tokens))[0]\n"
        "table = pandas.DataFrame({'position': range(len(ids)), 'token': names, 'id': ids,\n"
        f"    'visible': [position <= {focus.query} for position in range(len(ids))]}})"
    )
    n = len(focus.pieces)
    sees = np.full((n, n), np.nan)
    sees[np.tril_indices(n)] = 0.5
    sees[focus.query, : focus.query + 1] = 1.0
    labels = [f"{position} {visible(piece)}" for position, piece in enumerate(focus.pieces)]

    def draw() -> None:
        with st.container(width=MASK_WIDTH):
            canvas.grid(
                sees, rows=labels, columns=labels, row_title="query (looks)",
                column_title="key (is looked at)", label="Who can see whom", key="mask_grid",
                limit=1.0, marked=(focus.query, focus.key),
                on_pick=lambda query, key: state.change(query=query, key=key),
            )  # fmt: skip

    shown = readings.tokens(focus) if focus.key <= focus.query else attention_readings.masked(focus)
    show_figure(
        Figure(
            "mask", f"Who can see whom; bright: what position {focus.query} sees", table, code,
            shown, None, draw, MEANING["query"],
        ),
        focus,
    )  # fmt: skip


def heads_step(focus: Focus) -> None:
    """One weight in every head."""
    table = focus.ask(walkthrough.heads, focus.tokens, focus.query, focus.key)
    code = (
        f"edge = interp.patterns.edge(model, tokens, {focus.query}, {focus.key})\n"
        "table = edge.to_dataframe().reset_index()\n"
        "table = table.sort_values('weight', ascending=False, ignore_index=True)"
    )
    values = table.pivot(index="layer", columns="head", values="weight").to_numpy()
    title = f"Weight from {focus.query} to {focus.key}, in every head"

    def draw() -> None:
        with st.grid(2, min_column_width=360, gap="medium") as panes:
            with panes.cell():
                canvas.grid(
                    values, rows=[str(n) for n in range(focus.cfg.n_layers)],
                    columns=[str(n) for n in range(focus.cfg.n_heads)], row_title="layer",
                    column_title="head", label=title, key="walkthrough_heads", limit=1.0,
                    marked=(focus.layer, focus.head),
                    on_pick=lambda layer, head: state.change(layer=layer, head=head),
                )  # fmt: skip
            with panes.cell():
                weight = st.column_config.ProgressColumn(
                    min_value=0, max_value=1, format="%.3f", help=MEANING["attention weight"]
                )
                st.dataframe(
                    table.head(N_LISTED), hide_index=True, key="heaviest_heads",
                    column_config={
                        "weight": weight,
                        "rank": st.column_config.NumberColumn(help=MEANING["rank"]),
                        "lift": st.column_config.NumberColumn(format="%.1f", help=MEANING["lift"]),
                        "first_token": st.column_config.NumberColumn(
                            "on first", format="%.3f", help=MEANING["BOS"]
                        ),
                    },
                )  # fmt: skip

    def chart() -> charts.alt.Chart:
        return charts.head_map(table, "weight", title, limit=1.0)

    show_figure(
        Figure(
            "heads", title, table, code, readings.heads(table, focus), chart, draw,
            MEANING["attention weight"],
        ),
        focus,
    )  # fmt: skip


def formula_step(focus: Focus) -> None:
    """q·k, coordinate by coordinate."""
    st.latex(FORMULA)
    steps = focus.ask(walkthrough.explained, focus.tokens, edge(focus))
    table = focus.ask(walkthrough.product, focus.tokens, edge(focus))
    code = (
        f"steps = interp.attention.explain(model, tokens, {listed(focus)})\n"
        "table = steps[['q', 'k', 'product']].to_dataframe().reset_index(names='coordinate')"
    )
    title = f"q, k and their product in {focus.name}, coordinate by coordinate"
    show_figure(
        Figure(
            "product", title, table, code, readings.product(steps, focus),
            lambda: charts.panels(table, "coordinate", ["q", "k", "product"], title),
        ),
        focus,
    )  # fmt: skip
    st.latex(
        rf"q \cdot k = \sum_c q_c\,k_c = {float(steps.dot):.3f}"
        rf"\qquad s = {float(steps.dot):.3f} \times {steps.attrs['score_factor']:.4f}"
        rf" = {float(steps.scaled):.3f}"
    )
    st.latex(
        rf"\frac{{1}}{{\sqrt{{d_k}}}} = \frac{{1}}{{\sqrt{{{focus.cfg.d_head}}}}}"
        rf" = {readings.plain_factor(focus):.4f}"
    )


def row_step(focus: Focus) -> None:
    """The softmax of the whole row, and what if one score were another."""
    change = controls.slide(
        "walkthrough.change", "What if the key's score were changed by", default=0.0,
        ends=(-5.0, 5.0), step=0.5, help=MEANING["score"],
    )  # fmt: skip
    asked = (edge(focus), change, focus.answers)
    steps = focus.ask(walkthrough.rescored, focus.tokens, *asked)
    table = focus.ask(walkthrough.row, focus.tokens, *asked)
    code = (
        f"steps = interp.edge_steps.rescored(model, tokens, {edge(focus)}, {change}, metric)\n"
        "columns = ['score', 'exponential', 'weight', 'original_weight']\n"
        "table = steps[columns].to_dataframe().reset_index()"
    )
    columns = ["original_weight"] if change == 0 else ["original_weight", "weight"]
    seen = table.head(focus.query + 1)
    seen = seen.assign(key=charts.token_labels(seen["token"].tolist()))
    title = f"The whole row of query {focus.query} in {focus.name}"

    def chart() -> charts.alt.Chart:
        return charts.paired_bars(seen, "key", columns, title, "attention weight")

    def draw() -> None:
        with st.grid(2, min_column_width=400, gap="medium") as panes:
            with panes.cell():
                st.altair_chart(chart().properties(title=""), key="row_bars", alt=title)
            with panes.cell():
                st.dataframe(
                    table.assign(token=[visible(piece) for piece in table["token"]]),
                    hide_index=True, key="row_numbers",
                    column_order=["key_pos", "token", "score", "exponential", *columns],
                    column_config={
                        name: st.column_config.NumberColumn(format="%.4f")
                        for name in ("score", "exponential", "weight", "original_weight")
                    },
                )  # fmt: skip

    show_figure(
        Figure("row", title, table, code, readings.row(steps, focus, change), chart, draw), focus
    )
    own = steps.isel(key_pos=focus.key)
    st.latex(
        r"A_{ij} = \frac{e^{s_j - m}}{Z} = \frac{"
        rf"e^{{{float(own.score):.3f} - {readings.bracketed(float(steps.largest))}}}}}"
        rf"{{{float(steps.total):.4f}}} = {float(own.weight):.4f}"
    )


def values_step(focus: Focus) -> None:
    """What is read, and which words it pushes by itself."""
    table = focus.ask(walkthrough.values, focus.tokens, edge(focus))
    code = (
        f"steps = interp.attention.explain(model, tokens, {listed(focus)})\n"
        f"steps = steps.isel(key_pos=slice({focus.query + 1}))\n"
        "table = steps[['weight', 'value_norm', 'share']].to_dataframe().reset_index(drop=True)\n"
        "table.insert(0, 'key', interp.charts.token_labels(steps['token'].values.tolist()))\n"
        "table = table[['key', 'weight', 'value_norm', 'share']]"
    )
    title = f"Share of each key in what {focus.name} writes at position {focus.query}"

    def chart() -> charts.alt.Chart:
        return charts.paired_bars(table, "key", ["weight", "share"], title, "of 1")

    show_figure(
        Figure(
            "values", title, table, code, readings.values(table, focus), chart,
            help=MEANING["share"],
        ),
        focus,
    )  # fmt: skip
    words = focus.ask(walkthrough.written, focus.tokens, edge(focus), N_WORDS)
    code = (
        f"words = interp.edge_steps.written(model, tokens, {edge(focus)}, n_top={N_WORDS})\n"
        "table = words.to_dataframe().reset_index()"
    )

    def draw() -> None:
        shown = words.assign(
            promoted=[visible(piece) for piece in words["promoted"]],
            suppressed=[visible(piece) for piece in words["suppressed"]],
        )
        st.dataframe(shown, hide_index=True, key="written_words")

    show_figure(
        Figure(
            "written", "Next tokens that the head's output pushes up and down by itself", words,
            code, readings.written(words, focus), None, draw,
        ),
        focus,
    )  # fmt: skip


def check_step(focus: Focus) -> None:
    """The row computed here beside the model's own."""
    table = focus.ask(walkthrough.check, focus.tokens, edge(focus))
    code = (
        "import pandas\n\n"
        f"steps = interp.attention.explain(model, tokens, {listed(focus)})\n"
        f"own = interp.patterns.of_head(model, tokens, {focus.layer}, {focus.head})"
        f"[{focus.query}]\n"
        "keys = interp.charts.token_labels(steps['token'].values.tolist())\n"
        "table = pandas.DataFrame({'key': keys, 'recomputed': steps['weight'].values,\n"
        "    'hook_pattern': own.values})\n"
        "table['difference'] = (table['recomputed'] - table['hook_pattern']).abs()"
    )
    largest = float(table["difference"].max())

    def draw() -> None:
        said = f"Largest difference: {largest:.1e}"
        if readings.exact(largest):
            st.success(f"{said}. The formula is what the model computes.", icon=":material/check:")
        else:
            st.error(
                f"{said}, more than rounding of 32-bit numbers explains. A model in half precision "
                "rounds more; otherwise these steps do not describe it.",
                icon=":material/error:",
            )
        st.dataframe(
            table, hide_index=True, key="check_numbers", height=240,
            column_config={"difference": st.column_config.NumberColumn(format="scientific")},
        )  # fmt: skip

    show_figure(
        Figure(
            "check", "The row of the steps before, beside the model's own", table, code,
            readings.check(table, focus), None, draw,
        ),
        focus,
    )  # fmt: skip


def effect_step(focus: Focus) -> None:
    """The answer with and without the edge."""
    found = focus.ask(walkthrough.effects, focus.tokens, edge(focus), focus.answers)
    ids = [*focus.tokens[: focus.key], focus.wrong, *focus.tokens[focus.key + 1 :]]
    code = (
        f"conditions = {list(found.conditions)}\n"
        f"swapped = [{ids}]  # the wrong answer in the key's place\n"
        f"found = interp.edge_tests.outcomes(model, tokens, {edge(focus)}, {focus.target}, "
        f"{focus.wrong},\n    swapped=swapped, conditions=conditions).isel(example=0, drop=True)\n"
        "over = [name for name in found.data_vars if found[name].dims]\n"
        "table = found[over].to_dataframe().reset_index()"
    )
    title = "The answer as it is, and without this look"
    bars = found.table.assign(**dict.fromkeys(("mean", "low", "high"), found.table["logit_diff"]))

    def chart() -> charts.alt.LayerChart:
        return charts.intervals(bars, title, "logit difference (logits)")

    def draw() -> None:
        st.altair_chart(chart().properties(title=""), key="effect_bars", alt=title)
        st.dataframe(
            found.table.assign(next_token=[visible(x) for x in found.table["next_token"]]),
            hide_index=True, key="effect_numbers",
            column_config={
                "effect": st.column_config.NumberColumn(format="%+.3f", help=MEANING["effect"]),
                "logit_diff": st.column_config.NumberColumn(format="%+.3f"),
            },
        )  # fmt: skip

    show_figure(
        Figure(
            "effects", title, found.table, code, readings.effects(found, focus), chart, draw,
            MEANING["effect"],
        ),
        focus,
    )  # fmt: skip


def general_step(focus: Focus) -> None:
    """Other words, other sentences, and one of the reader's own."""
    swaps(focus)
    if focus.model.tokenizer is None or focus.cfg.n_classes is not None:
        st.info("Generated sentences need a model that reads words and answers with a token.")
    else:
        over_sentences(focus)
        own_sentence(focus)


def swaps(focus: Focus) -> None:
    """Other words in the key's place."""
    wrong = focus.tokens[focus.key] if focus.cfg.n_classes is not None else focus.wrong
    ids = focus.ask(walkthrough.replacements, focus.tokens[focus.key], wrong)
    table = focus.ask(walkthrough.swaps, focus.tokens, edge(focus), ids)
    code = f"table = interp.edge_tests.swaps(model, tokens, {edge(focus)}, {list(ids)})"

    def draw() -> None:
        shown = table.assign(
            token=[visible(x) for x in table["token"]],
            next_token=[visible(x) for x in table["next_token"]],
        )
        st.dataframe(
            shown, hide_index=True, key="swap_numbers",
            column_order=["token", "weight", "next_token", "next_probability"],
            column_config={
                name: st.column_config.ProgressColumn(min_value=0, max_value=1, format="%.3f")
                for name in ("weight", "next_probability")
            },
        )  # fmt: skip

    show_figure(
        Figure(
            "swaps", f"Other words at position {focus.key}", table, code,
            readings.swaps(table, focus), None, draw,
        ),
        focus,
    )  # fmt: skip


def over_sentences(focus: Focus) -> None:
    """The same edge in generated sentences."""
    with st.container(width=NUMBER_WIDTH):
        n = controls.number(
            "walkthrough.sentences", "Sentences", default=200, lowest=10, highest=1000
        )
    asked = (focus.layer, focus.head, n)
    job = long_work(
        "general", (focus.loaded.hash, *asked),
        lambda: focus.start(walkthrough.general, *asked),
        cost=f"Runs {n} sentences under 5 conditions: seconds with the embedded model, about a "
        "minute with GPT-2 small on a processor.",
        label="Test it on generated sentences",
    )  # fmt: skip
    if job is None:
        return
    found = job.result
    code = (
        f"examples = interp.tiny.language.held_out_examples({walkthrough.SKILL!r}, {n}, "
        f"{walkthrough.SEED})[:{found.n}]\n"
        f"found = interp.edge_tests.over_examples(model, examples, {focus.layer}, {focus.head})\n"
        f"table = interp.edge_tests.summary(found, seed={walkthrough.SEED})"
    )
    in_logits = found.table[found.table["measure"] == "logit_diff"]
    title = f"Mean over {found.n} generated sentences, 95 % intervals"
    show_figure(
        Figure(
            "general", title, found.table, code, readings.general(found, focus),
            lambda: charts.intervals(in_logits, title, "logit difference (logits)"),
        ),
        focus,
    )  # fmt: skip


def own_sentence(focus: Focus) -> None:
    """A sentence of the reader's own."""
    st.markdown("**Your own sentence**")
    with st.form("own_sentence"):
        st.text_input("Sentence, up to where the answer would stand", key="own_text")
        with st.container(horizontal=True):
            st.text_input("Word that looks", key="own_query")
            st.text_input("Word that is looked at", key="own_key")
        st.form_submit_button("Walk through it", on_click=use_own_sentence, args=(focus,))
    problem = st.session_state.get("own_problem", "")
    if problem:
        prose.problem(problem, title="This sentence cannot be used yet.")
    pages.link("attention", "See all heads on the attention page")


def use_own_sentence(focus: Focus) -> None:
    """Make it everybody's prompt, with its words selected, and begin anew."""
    text, query, key = (st.session_state[f"own_{name}"] for name in ("text", "query", "key"))
    try:
        tokens_of(focus.model, text, focus.prepend_bos)
        query_pos, key_pos = focus.ask(walkthrough.words, text, focus.prepend_bos, query, key)
    except InterpError as error:
        st.session_state["own_problem"] = str(error)
        return
    st.session_state["own_problem"] = ""
    st.session_state["prompt_problem"] = ""
    st.session_state["walkthrough_prompt_changed"] = True
    state.change(
        text=text, query=query_pos, key=key_pos, layer=None, head=None, target="", wrong=""
    )
    go("tokens")


STEPS = {
    "tokens": Step("Tokens", "Who looks, and at whom", tokens_step),
    "heads": Step("Heads", "How much each head looks", heads_step),
    "formula": Step("Formula", "Where the score comes from", formula_step),
    "row": Step("Row", "From scores to weights", row_step),
    "values": Step("Values", "What is read", values_step),
    "check": Step("Check", "Is this what the model computes?", check_step),
    "effect": Step("Effect", "Does it matter for the answer?", effect_step),
    "general": Step("In general", "Does it hold for other sentences?", general_step),
}

if __name__ == "__main__":
    show(page)
