"""What a head looks for and what it writes, by its weights: three tables."""

import pandas as pd
import streamlit as st

from dashboards.components import controls
from dashboards.components.figure import Figure
from dashboards.focus import Focus
from dashboards.glossary import MEANING
from dashboards.measurements import head as measurements
from dashboards.readings import head as readings
from interp.model.tokens import visible

WHY_NOT = (
    "The first tokens are those that the tokenizer learned first: common pieces. For the whole "
    "vocabulary take the Python and leave the vocabulary out; GPT-2 takes about ten seconds."
)


def vocabulary(focus: Focus) -> str:
    """Which tokens are searched: a name of `measurements.VOCABULARIES`."""
    names = {
        name: text
        for name, text in measurements.VOCABULARIES.items()
        if name != "words" or focus.model.tokenizer is not None
    }
    return controls.choose("head.vocabulary", "Tokens searched", names, help=WHY_NOT)


def _vocabulary_code(focus: Focus, name: str) -> str:
    if name == "words":
        return "vocabulary = interp.prompts.everyday_words(model)\n"
    if name == "prompt":
        return f"vocabulary = {sorted(set(focus.tokens))}\n"
    return f"vocabulary = range({min(measurements.COMMON, focus.cfg.d_vocab)})\n"


def qk_pairs(focus: Focus, name: str) -> Figure:
    """Query and key tokens that the head pairs."""
    n = len(focus.ask(measurements.vocabulary, name, focus.tokens))
    table = focus.ask(measurements.qk_pairs, focus.layer, focus.head, name, focus.tokens)
    code = (
        f"{_vocabulary_code(focus, name)}"
        f"pairs = interp.head_circuits.qk_top_pairs(model, {focus.layer}, {focus.head}, "
        "vocabulary)\ntable = pairs.to_dataframe().reset_index()"
    )
    columns = {"query_token": "a query like", "key_token": "looks for", "score": "score"}
    return Figure(
        "qk_pairs", f"{focus.name} looks for", table, code, readings.qk(table, focus.layer, n),
        None, lambda: _tokens_table(table, columns, "qk"), MEANING["QK circuit"],
    )  # fmt: skip


def ov_pairs(focus: Focus, name: str) -> Figure:
    """Tokens that are read, and those whose logits rise then."""
    n = len(focus.ask(measurements.vocabulary, name, focus.tokens))
    table = focus.ask(measurements.ov_pairs, focus.layer, focus.head, name, focus.tokens)
    code = (
        f"{_vocabulary_code(focus, name)}"
        f"pairs = interp.head_circuits.ov_top_pairs(model, {focus.layer}, {focus.head}, "
        "vocabulary)\ntable = pairs.to_dataframe().reset_index()"
    )
    columns = {"read_token": "reading", "raised_token": "raises", "logit": "logit"}
    return Figure(
        "ov_pairs", f"{focus.name} writes", table, code, readings.ov(table, focus.layer, n),
        None, lambda: _tokens_table(table, columns, "ov"), MEANING["OV circuit"],
    )  # fmt: skip


def ov_tokens(focus: Focus, name: str) -> Figure:
    """What reading the chosen key's token raises."""
    token, piece = focus.tokens[focus.key], focus.pieces[focus.key]
    table = focus.ask(measurements.ov_tokens, focus.layer, focus.head, token, name, focus.tokens)
    code = (
        f"{_vocabulary_code(focus, name)}"
        f"tokens_raised = interp.head_circuits.ov_top_tokens(\n    model, {focus.layer}, "
        f"{focus.head}, {token}, vocabulary\n)\n"
        "table = tokens_raised.to_dataframe().reset_index()"
    )
    columns = {"raised_token": "raises", "logit": "logit"}
    return Figure(
        "ov_tokens", f"What {focus.name} writes when it reads the chosen key", table, code,
        readings.ov_token(table, piece), None, lambda: _tokens_table(table, columns, "ov_token"),
        MEANING["OV circuit"],
    )  # fmt: skip


def _tokens_table(table: pd.DataFrame, columns: dict[str, str], key: str) -> None:
    """Some columns under other names, with white space shown."""
    shown = table[list(columns)].rename(columns=columns)
    for name in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[name]):
            shown[name] = [visible(piece) for piece in shown[name]]
    number = st.column_config.NumberColumn(format="%.2f")
    st.dataframe(
        shown, hide_index=True, key=f"table_of_{key}",
        column_config={"score": number, "logit": number},
    )  # fmt: skip
