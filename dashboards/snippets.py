"""The first lines of every snippet: the model, the prompt, and what is measured."""

from dashboards.focus import Focus
from dashboards.measurements.patching import Place
from interp.model.hooks import full_name
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


def patched_cell(corrupted: str, site: str, place: Place, source: str, base: str) -> str:
    """Plain lines that patch one cell.

    Args:
        corrupted: The line that makes the corrupted prompt.
        source, base: Names of the tokens that are read from, and run.
    """
    hook = full_name(site, place.layer)
    at = ":" if place.position is None else str(place.position)
    where = f":, {at}" if place.head is None else f":, {at}, {place.head}"
    where = f":, {place.head}" if site == "pattern" else where
    return (
        f"import pandas\n\n{corrupted}\n"
        f'_, cache = model.run_with_cache({source}, names_filter="{hook}")\n\n'
        "def patch(value, hook):\n"
        "    value = value.clone()\n"
        f"    value[{where}] = cache[hook.name][{where}]\n"
        "    return value\n\n"
        f'patched = model.run_with_hooks({base}, fwd_hooks=[("{hook}", patch)])\n'
        'values = {"clean": model(tokens), "corrupted": model(corrupted), "patched": patched}\n'
        "numbers = [float(metric(logits)) for logits in values.values()]\n"
        'table = pandas.DataFrame({"run": list(values), "logit_difference": numbers})'
    )
