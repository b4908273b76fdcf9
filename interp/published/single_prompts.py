"""Numbers of single prompts and of the model's shape: no sample, so they must agree closely.

The prompts are those of the demos and tests named in `interp.published.table`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from interp.metrics import logit_diff
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook
from interp.published.facts import Measured, Subject

GIVING = (
    ("When John and Mary went to the shops,{} gave the bag to", (" Mary", " John")),
    ("When Tom and James went to the park,{} gave the ball to", (" Tom", " James")),
    ("When Dan and Sid went to the shops,{} gave an apple to", (" Dan", " Sid")),
    ("After Martin and Amy went to the park,{} gave a drink to", (" Martin", " Amy")),
)
"""Four sentences with two names; either gives, the other is the answer."""


def loss(subject: Subject, text: str) -> Measured:
    """Mean next-token loss of a text after BOS, in nats."""
    found = subject.model(text, return_type="loss")
    assert isinstance(found, Tensor)
    return Measured(float(found))


def next_token_probability(subject: Subject, prompt: str, token: str) -> Measured:
    """Of one token."""
    logits, token_id = _final_logits(subject.model, prompt, token)
    probability = logits.softmax(dim=-1)[token_id]
    rank = 1 + int((logits > logits[token_id]).sum())
    return Measured(float(probability), f"rank {rank}")


def centred_logit(subject: Subject, prompt: str, token: str) -> Measured:
    """Logit minus the mean of all logits: what a model with a centred unembedding gives."""
    logits, token_id = _final_logits(subject.model, prompt, token)
    found = logits[token_id] - logits.mean()
    return Measured(float(found), f"uncentred {float(logits[token_id]):.4f}")


def _final_logits(model: HookedGPT2, prompt: str, token: str) -> tuple[Tensor, int]:
    logits = model(prompt, positions="last")
    assert isinstance(logits, Tensor)
    return logits[0, 0].float(), model.to_single_token(token)


def answer_over_wrong(subject: Subject, prompt: str, answer: str, wrong: str) -> Measured:
    """Logit difference at the end of a prompt."""
    model = subject.model
    metric = logit_diff(model.to_single_token(answer), model.to_single_token(wrong))
    logits = model(prompt, positions="last")
    assert isinstance(logits, Tensor)
    return Measured(float(metric(logits)[0]))


def _giving(subject: Subject) -> tuple[Tensor, Tensor]:
    """Logit differences of the eight prompts, and with the giver exchanged (`example`)."""
    model = subject.model
    rows = [(text, (a, b)) for text, names in GIVING for a, b in (names, names[::-1])]
    metric = logit_diff(
        [model.to_single_token(answer) for _, (answer, _) in rows],
        [model.to_single_token(wrong) for _, (_, wrong) in rows],
    )
    clean, corrupted = (
        metric(model([text.format(pair[giver]) for text, pair in rows], positions="last"))
        for giver in (1, 0)
    )
    return clean, corrupted


def giving_differences(subject: Subject, published: Sequence[float]) -> Measured:
    """Largest distance of the eight logit differences from the published ones."""
    clean, _ = subject.shared(_giving)
    distance = (clean.cpu() - torch.tensor(published)).abs().max()
    return Measured(float(distance), " ".join(f"{value:.3f}" for value in clean.tolist()))


def giving_mean(subject: Subject, *, corrupted: bool = False) -> Measured:
    """Mean logit difference of the eight prompts, or of those with the giver exchanged."""
    return Measured(float(subject.shared(_giving)[int(corrupted)].mean()))


def equal_ids(subject: Subject, published: Sequence[int]) -> Measured:
    """How many of the eight names have the published token id."""
    names = [name for _, pair in GIVING for name in pair]
    ids = [subject.model.to_single_token(name) for name in names]
    n_equal = sum(mine == theirs for mine, theirs in zip(ids, published, strict=True))
    return Measured(n_equal, " ".join(map(str, ids)))


def shape(cfg: ModelConfig) -> tuple[int, ...]:
    """Layers, heads, width, context and vocabulary."""
    return cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.n_ctx, cfg.d_vocab


def equal_sizes(subject: Subject, published: Sequence[int]) -> Measured:
    """How many of the numbers of `shape` are the published ones."""
    sizes = shape(subject.model.cfg)
    n_equal = sum(mine == theirs for mine, theirs in zip(sizes, published, strict=True))
    return Measured(n_equal, " ".join(map(str, sizes)))


def n_edges(subject: Subject) -> Measured:
    """Edges between all that writes the stream and all that reads it, with q, k and v apart.

    Writers are the input, heads and MLPs; readers are every head's q, k and v, MLPs and logits.
    """
    cfg = subject.model.cfg
    total = 0
    for layer in range(cfg.n_layers):
        written_before = 1 + layer * (cfg.n_heads + 1)
        total += written_before * 3 * cfg.n_heads + written_before + cfg.n_heads
    return Measured(total + 1 + cfg.n_layers * (cfg.n_heads + 1))


def early_patches(subject: Subject, clean: str, corrupted: str) -> Measured:
    """Largest change of a logit when all heads are patched before the first token that differs.

    By plain hooks: `interp.patching` knows that this is zero and would not compute it.
    """
    model = subject.model
    tokens, other = model.to_tokens(clean), model.to_tokens(corrupted)
    first = int((tokens != other).int().argmax())
    _, cache = model.run_with_cache(other, names_filter="blocks.*.attn.hook_z", return_type=None)

    def patch(z: Tensor, hook: Hook) -> None:
        z[:, :first] = cache["z", hook.layer()][:, :first]

    before = model(tokens, positions="last")
    patched = model.run_with_hooks(tokens, [("blocks.*.attn.hook_z", patch)], positions="last")
    assert isinstance(before, Tensor)
    assert isinstance(patched, Tensor)
    n_places = model.cfg.n_layers * model.cfg.n_heads * first
    return Measured(float((patched - before).abs().max()), f"{n_places} heads and positions")
