"""Continuations: greedy ones equal Hugging Face's, sampled ones follow seed and settings."""

import pytest
import torch
from transformers import GPT2LMHeadModel

from interp.errors import PromptError
from interp.model.generation import sample
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import END_OF_TEXT

TOKENS = torch.arange(2, 14).reshape(2, 6)
GREEDY = {"max_new_tokens": 12, "temperature": 0.0}


def test_greedy_continuations_equal_huggingfaces(
    hf_model: GPT2LMHeadModel, our_model: HookedGPT2
) -> None:
    theirs = hf_model.generate(
        TOKENS,
        attention_mask=torch.ones_like(TOKENS),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        use_cache=True,
    )
    ours = our_model.generate(TOKENS, **GREEDY)
    assert torch.equal(ours, theirs)
    assert len({tuple(row) for row in ours[:, 6:].tolist()}) == 2  # not the same for every prompt


def test_a_greedy_continuation_takes_the_most_likely_token_each_time(
    random_gpt2: HookedGPT2,
) -> None:
    tokens = TOKENS
    for _ in range(12):
        tokens = torch.cat([tokens, random_gpt2(tokens)[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(random_gpt2.generate(TOKENS, stop_at_eos=False, **GREEDY), tokens)
    assert torch.equal(random_gpt2.generate(TOKENS, max_new_tokens=0), TOKENS)


def test_text_comes_back_as_text(random_gpt2: HookedGPT2) -> None:
    text = "The cat is"
    continued = random_gpt2.generate(text, stop_at_eos=False, **GREEDY)
    ids = random_gpt2.generate(random_gpt2.to_tokens(text), stop_at_eos=False, **GREEDY)
    assert continued == random_gpt2.to_string(ids[0, 1:])
    assert continued.startswith(text)
    without = random_gpt2.generate(text, prepend_bos=False, stop_at_eos=False, **GREEDY)
    tokens = random_gpt2.to_tokens(text, prepend_bos=False)
    assert without == random_gpt2.to_string(
        random_gpt2.generate(tokens, stop_at_eos=False, **GREEDY)[0]
    )


def test_the_same_seed_gives_the_same_continuation(random_gpt2: HookedGPT2) -> None:
    torch.manual_seed(0)
    first = random_gpt2.generate(TOKENS, 12, seed=3)
    torch.manual_seed(1)
    assert torch.equal(random_gpt2.generate(TOKENS, 12, seed=3), first)
    assert not torch.equal(random_gpt2.generate(TOKENS, 12, seed=4), first)


def test_only_the_top_k_are_sampled(random_gpt2: HookedGPT2) -> None:
    greedy = random_gpt2.generate(TOKENS, stop_at_eos=False, **GREEDY)
    assert torch.equal(random_gpt2.generate(TOKENS, 12, top_k=1, stop_at_eos=False), greedy)
    best = set(random_gpt2(TOKENS)[0, -1].topk(3).indices.tolist())
    drawn = {int(random_gpt2.generate(TOKENS[:1], 1, top_k=3, seed=s)[0, -1]) for s in range(60)}
    assert drawn == best
    everything = random_gpt2.generate(TOKENS, 12, top_k=10_000, seed=2)
    assert torch.equal(everything, random_gpt2.generate(TOKENS, 12, seed=2))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_their_probability(temperature: float) -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    expected = (logits / temperature).softmax(dim=-1)
    drawn = sample(
        logits.expand(20_000, -1),
        temperature=temperature,
        top_k=None,
        generator=torch.Generator().manual_seed(0),
    )
    frequency = torch.bincount(drawn, minlength=4) / 20_000
    assert float((frequency - expected).abs().max()) < 0.01  # about three standard errors


def with_certain_next_token(model: HookedGPT2, token: int) -> HookedGPT2:
    """A model that always predicts one token."""
    bias = torch.zeros(model.cfg.d_vocab).index_fill(0, torch.tensor([token]), 1e4)
    weights = dict(model.state_dict()) | {"unembed.b_U": bias}
    return HookedGPT2.from_weights(model.cfg, weights, model.tokenizer)


def test_a_continuation_ends_at_the_end_of_text(random_gpt2: HookedGPT2) -> None:
    ends = with_certain_next_token(random_gpt2, random_gpt2.tokenizer.bos_token_id)
    assert ends.generate("The cat", 12) == "The cat" + END_OF_TEXT
    assert ends.generate("The cat", 3, stop_at_eos=False) == "The cat" + 3 * END_OF_TEXT


def test_a_row_that_ended_is_filled_while_others_go_on(random_gpt2: HookedGPT2) -> None:
    seeds = range(200)
    for seed in seeds:
        tokens = random_gpt2.generate(TOKENS, 20, seed=seed)
        new = tokens[:, 6:]
        ended = (new == 0).any(dim=1)
        if ended.any() and not ended.all() and (new[ended][0, :-1] == 0).any():
            break
    else:
        pytest.fail("no seed ends one row only; the test needs other prompts")
    first = int((new[ended][0] == 0).nonzero()[0])
    assert (new[ended][0, first:] == 0).all()
    assert (new[~ended][0] != 0).all()


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        (TOKENS, {"max_new_tokens": 27}, "6 prompt tokens and 27 new .* Ask for at most 26 new"),
        (TOKENS, {"max_new_tokens": -1}, "max_new_tokens must not be negative, got -1"),
        (TOKENS, {"temperature": -0.5}, "temperature must be 0 .* or positive, got -0.5"),
        (TOKENS, {"top_k": 0}, "top_k must be at least 1, got 0"),
        (["The cat", "I"], {}, "Prompts of unequal length: generate for one prompt at a time"),
        ("", {}, "The text is empty"),
    ],
)
def test_a_continuation_that_cannot_be_is_refused_before_it_starts(
    random_gpt2: HookedGPT2, prompt: object, settings: dict, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        random_gpt2.generate(prompt, **settings)


def test_the_context_can_be_filled_to_the_end(random_gpt2: HookedGPT2) -> None:
    tokens = random_gpt2.generate(TOKENS, 26, stop_at_eos=False)
    assert tokens.shape == (2, random_gpt2.cfg.n_ctx)


def test_hooks_run_at_every_step(random_gpt2: HookedGPT2) -> None:
    lengths = []
    name = "blocks.1.hook_mlp_out"

    def zero(value: torch.Tensor, hook: object) -> torch.Tensor:
        lengths.append(value.shape[1])
        return torch.zeros_like(value)

    with random_gpt2.hooks(fwd_hooks=[(name, zero)]):
        edited = random_gpt2.generate(TOKENS, stop_at_eos=False, **GREEDY)
    assert lengths == [6] + 11 * [1]
    tokens = TOKENS
    for _ in range(12):
        logits = random_gpt2.run_with_hooks(tokens, fwd_hooks=[(name, zero)])
        tokens = torch.cat([tokens, logits[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(edited, tokens)
    assert not torch.equal(edited, random_gpt2.generate(TOKENS, stop_at_eos=False, **GREEDY))
