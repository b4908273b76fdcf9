"""A button that copies the page's address, which holds the whole selection."""

from streamlit.components.v2 import component

from dashboards.components.canvas import asset

_button = component(
    "interp.copy_link",
    html="<button></button>",
    css=asset("copy_link.css"),
    js=asset("copy_link.js"),
)


def copy_link() -> None:
    """Draw the button."""
    _button(data={"label": "Copy link", "done": "Copied"}, key="copy_link", width="content")
