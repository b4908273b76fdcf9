"""The first lines of every snippet: the model, the prompt, and what is measured."""

from dashboards.focus import Focus
from interp.model.loading import EMBEDDED


def preamble(focus: Focus) -> str:
    """Lines that define `model`, `tokens` and `metric` as the page has them."""
    name = "" if focus.loaded.name == EMBEDDED else repr(focus.loaded.name)
    if focus.model.tokenizer is None:
        tokens = f"tokens = [{list(focus.tokens)}]"
    else:
        bos = "" if focus.prepend_bos else ", prepend_bos=False"
        tokens = f"text = {focus.text!r}\ntokens = model.to_tokens(text{bos})"
    target, wrong = focus.answers
    meant = f"{focus.piece(target)!r} against {focus.piece(wrong)!r}"
    return (
        f"import interp\n\nmodel = interp.load({name})\n{tokens}\n"
        f"metric = interp.metrics.logit_diff({target}, {wrong})  # {meant}\n"
    )
