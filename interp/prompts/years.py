"""Greater-than: does the model know that something ends after it began?

Source: Hanna et al. 2023, arXiv:2305.00586.
"""

import re
from collections.abc import Iterator
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import PromptError
from interp.metrics import Metric, Read
from interp.model.gpt2 import HookedGPT2
from interp.prompts import templates
from interp.prompts.drawing import checked, examples, last_position, single_tokens
from interp.prompts.prompt_pairs import PromptPair, PromptPairs, reads_embedded_language


def greater_than(model: HookedGPT2, n: int, *, seed: int = 0) -> PromptPairs:
    """Something lasted from a year to a later one: any pair of digits above the start's is right.

    Corrupted, the start is 01: every year is later. Answer and wrong are one later and one earlier
    year; `year_prob_diff` counts all of them.

    Returns:
        Pairs with roles YY (the start's last two digits) and END.

    Raises:
        PromptError: no year splits into its century and two digits, as " 1732" into " 17" and "32".
    """

    def pair(text: str, corrupted: str, later: str, earlier: str) -> PromptPair:
        (year,) = re.findall(r"\d{4}", text)
        roles = {"YY": model.find_word(text, year), "END": last_position(model, text)}
        return PromptPair(text, corrupted, later, earlier, roles)

    own = reads_embedded_language(model)
    sentences = _embedded_sentences(model, seed) if own else _english_sentences(model, seed)
    return checked(model, "greater_than", n, (pair(*sentence) for sentence in sentences))


Sentence = tuple[str, str, str, str]
"""A prompt, the same from the year 01, a later pair of digits and an earlier one."""


def _embedded_sentences(model: HookedGPT2, seed: int) -> Iterator[Sentence]:
    for example in filter(None, examples(model, "greater_than", seed)):
        yield example.text, example.swapped_text, example.answer, example.wrong


def _english_sentences(model: HookedGPT2, seed: int) -> Iterator[Sentence]:
    """From the years 02 to 98 of the centuries 11 to 17, as far as they are two tokens."""
    pairs = templates.DIGIT_PAIRS

    def splits(century: str, start: str) -> bool:
        tokens = model.to_str_tokens(f" {century}{start}", prepend_bos=False)
        return tokens == [f" {century}", start]

    years = [
        (century, pairs[start])
        for century in templates.CENTURIES
        if splits(century, "01")
        for start in range(2, 99)
        if splits(century, pairs[start])
    ]
    if not years:
        raise PromptError(
            'greater_than needs years of two tokens, the century and two digits; " 1732" is '
            f"{' | '.join(model.to_str_tokens(' 1732', prepend_bos=False))} here."
        )
    nouns = single_tokens(model, templates.NOUNS, at_least=1)
    random = Random(f"greater_than {seed}")
    while True:
        noun, (century, start) = random.choice(nouns), random.choice(years)
        text, corrupted = (
            templates.YEARS_TEMPLATE.format(noun=noun, century=century, start=first)
            for first in (start, "01")
        )
        later, earlier = pairs[int(start) + 1 :], pairs[1 : int(start)]
        yield text, corrupted, random.choice(later), random.choice(earlier)


def year_prob_diff(model: HookedGPT2, pairs: PromptPairs) -> Metric:
    """Probability of all later years minus that of the start's and all earlier ones.

    The metric of Hanna et al. 2023 for `greater_than`, from -1 to 1.
    """
    ids = torch.tensor([model.to_single_token(digits) for digits in templates.DIGIT_PAIRS])
    starts = torch.tensor([int(re.findall(r"\d\d(\d\d)", text)[0]) for text in pairs.clean])
    sign = torch.where(torch.arange(100) > starts[:, None], 1.0, -1.0)

    def reduce(logits: Read, sign: Tensor) -> Float[Tensor, " batch"]:
        years = logits[:, 0].softmax(dim=-1)[:, ids.to(logits.device)]
        return (years * sign).sum(dim=-1)

    return Metric("year_prob_diff", "probability", reduce, per_example=(sign,))
