"""The model that the pages look at, and the way to another one."""

import streamlit as st

from dashboards import state
from dashboards.components import prose
from dashboards.focus import tokens_of
from dashboards.service import service
from interp.errors import InterpError
from interp.model.loading import available_models


def model_line() -> None:
    """Name, size and place of the model, and a door to others."""
    name = state.selection().model
    try:
        with st.spinner("Loading the model", show_time=True):
            loaded = service().loaded(name)
    except InterpError as error:
        prose.problem(str(error), title="The model of this link cannot be loaded.")
        state.change(model=service().first_model)
        loaded = service().loaded(service().first_model)
    cfg = loaded.model.cfg
    with st.container(key="model_line", gap="small"):
        st.markdown(f"**Model** {prose.code(loaded.name)}")
        st.caption(
            f"{cfg.n_layers} layers × {cfg.n_heads} heads, d_model {cfg.d_model}, "
            f"{str(cfg.dtype).removeprefix('torch.')} on {cfg.device}"
        )
        with st.popover("Another model", width="stretch"):
            _switch()
    message = st.session_state.get("model_problem")
    if message:
        prose.problem(message, title="That model cannot be loaded; this one stays.")


def _switch() -> None:
    known = {row.name: row for row in available_models()}

    def named(name: str) -> str:
        row = known[name]
        return f"{name} ({row.parameters}{'' if row.present else ', to be downloaded'})"

    st.selectbox("Known", list(known), index=None, key="known_model", format_func=named)
    st.text_input(
        "or another one",
        key="other_model",
        placeholder="owner/name, or a path",
        help="A GPT-2 of the hub, a Hugging Face folder, or a nanoGPT checkpoint.",
    )
    st.button("Load it", key="load_model", on_click=_load, type="primary")


def _load() -> None:
    other = st.session_state["other_model"].strip()
    name = other or st.session_state["known_model"]
    if not name:
        return
    chosen = state.selection()
    try:
        with st.spinner("Loading the model", show_time=True):
            model = service().loaded(name).model
        st.session_state["model_problem"] = ""
        tokens_of(model, chosen.text, chosen.prepend_bos)
    except InterpError as error:
        st.session_state["model_problem"] = str(error)
        return
    state.change(model=name, layer=None, head=None, query=None, key=None)
