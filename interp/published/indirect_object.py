"""Indirect object identification: the behaviour, and the heads that the IOI paper names.

Prompts are ours (`interp.prompts.ioi`), not the paper's; as there, they begin without BOS, and what
is removed is replaced by its mean over prompts of the same template with three other names ("ABC").
Source: Wang et al. 2022, arXiv:2211.00593.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import ablation, metrics, prompts
from interp.model.cache import ActivationCache
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook
from interp.model.tokens import TokenBatch
from interp.prompts import PromptPairs, templates
from interp.prompts.prompt_pairs import reads_embedded_language
from interp.published.facts import Head, Measured, Subject
from interp.statistics import bootstrap_mean

NAME_MOVERS = ((9, 9), (10, 0), (9, 6))
NEGATIVE_NAME_MOVERS = ((10, 7), (11, 10))
S_INHIBITION = ((7, 3), (7, 9), (8, 6), (8, 10))
INDUCTION = ((5, 5), (6, 9), (5, 8), (5, 9))
DUPLICATE_TOKEN = ((0, 1), (3, 0), (0, 10))
PREVIOUS_TOKEN = ((2, 2), (4, 11))
BACKUP_NAME_MOVERS = (
    (9, 0), (9, 7), (10, 1), (10, 2), (10, 6), (10, 10), (11, 2), (11, 9),
)  # fmt: skip
CIRCUIT: Mapping[str, tuple[Head, ...]] = {
    "END": NAME_MOVERS + NEGATIVE_NAME_MOVERS + S_INHIBITION + BACKUP_NAME_MOVERS,
    "S2": INDUCTION + DUPLICATE_TOKEN,
    "S1+1": PREVIOUS_TOKEN,
}
"""The paper's 26 heads of 7 classes, by the position at which they act."""


def prompts_of(subject: Subject) -> PromptPairs:
    """The prompts and their ABC partners."""
    return subject.shared(_prompts)


def _prompts(subject: Subject) -> PromptPairs:
    return prompts.ioi(subject.model, subject.n, seed=subject.seed)


@dataclass(frozen=True)
class Study:
    """The prompts without BOS, and what their ABC partners compute."""

    model: HookedGPT2
    pairs: PromptPairs
    clean: TokenBatch
    abc: TokenBatch
    roles: Mapping[str, Int[Tensor, " example"]]
    same_template: Float[Tensor, "example other"]
    """Weights of a mean over the examples with an example's template and length."""
    abc_cache: ActivationCache
    logits: Float[Tensor, "example d_vocab"]
    """Where the clean prompts end."""

    @classmethod
    def of(cls, subject: Subject) -> "Study":
        """Both runs."""
        model, pairs = subject.model, prompts_of(subject)
        clean, abc = (model.to_batch(x, prepend_bos=False) for x in (pairs.clean, pairs.corrupted))
        _, cache = model.run_with_cache(abc, names_filter="blocks.*.attn.hook_z", return_type=None)
        logits = model(clean, positions="last")
        assert isinstance(logits, Tensor)
        roles = {role: (where - 1).to(clean.tokens.device) for role, where in pairs.roles.items()}
        same = _same_template(model, pairs, clean).to(logits)
        return cls(model, pairs, clean, abc, roles, same, cache, logits[:, 0])

    def difference(self, logits: Tensor) -> Float[Tensor, " example"]:
        """logit(IO) - logit(S)."""
        return self.pairs.metric(self.model)(logits)

    def at(self, role: str) -> Bool[Tensor, "example pos"]:
        """True at the position of a role."""
        positions = torch.arange(self.clean.tokens.shape[1], device=self.clean.tokens.device)
        return positions == self.roles[role][:, None]

    def without(self, removed: Bool[Tensor, "example pos layer head"]) -> Float[Tensor, " example"]:
        """The logit difference with these heads' outputs replaced by their means."""

        def replace(z: Tensor, hook: Hook) -> Tensor:
            mean = einsum(
                self.same_template,
                self.abc_cache["z", hook.layer()],
                "example other, other pos head d_head -> example pos head d_head",
            )
            return torch.where(removed[:, :, hook.layer(), :, None], mean, z)

        hooks = [("blocks.*.attn.hook_z", replace)]
        logits = self.model.run_with_hooks(self.clean, hooks, positions="last")
        assert isinstance(logits, Tensor)
        return self.difference(logits)

    def places(self, heads_by_role: Mapping[str, Sequence[Head]]) -> Tensor:
        """True at these heads and positions: `example pos layer head`."""
        cfg = self.model.cfg
        chosen = self.clean.attention_mask.new_zeros(
            *self.clean.tokens.shape, cfg.n_layers, cfg.n_heads
        )
        for role, heads in heads_by_role.items():
            for layer, head in heads:
                chosen[:, :, layer, head] |= self.at(role)
        return chosen


def _same_template(
    model: HookedGPT2, pairs: PromptPairs, clean: TokenBatch
) -> Float[Tensor, "example other"]:
    giving = (
        templates.EMBEDDED_GIVING if reads_embedded_language(model) else templates.ENGLISH_GIVING
    )
    patterns = [
        re.compile(re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(template)))
        for template in giving.templates
    ]
    lengths = clean.lengths.tolist()
    keys = [
        (next(i for i, pattern in enumerate(patterns) if pattern.fullmatch(text)), length)
        for text, length in zip(pairs.clean, lengths, strict=True)
    ]
    same = torch.tensor([[float(key == other) for other in keys] for key in keys])
    return same / same.sum(dim=1, keepdim=True)


def _interval(values: Tensor, subject: Subject) -> str:
    found = bootstrap_mean(values.numpy(force=True), seed=subject.seed)
    return f"95 % [{found.low:.3f}, {found.high:.3f}], n = {len(values)}"


def logit_difference(subject: Subject) -> Measured:
    """Mean logit(IO) - logit(S)."""
    study = subject.shared(Study.of)
    values = study.difference(study.logits)
    return Measured(float(values.mean()), _interval(values, subject))


def accuracy(subject: Subject) -> Measured:
    """Share of prompts where IO is likelier than S."""
    study = subject.shared(Study.of)
    right = (study.difference(study.logits) > 0).float()
    return Measured(float(right.mean()), _interval(right, subject))


def probability(subject: Subject) -> Measured:
    """Mean probability of IO."""
    study = subject.shared(Study.of)
    values = metrics.prob(study.pairs.answer_ids(study.model))(study.logits)
    return Measured(float(values.mean()), _interval(values, subject))


def share_lost(subject: Subject, heads: Sequence[Head]) -> Measured:
    """Share of the logit difference that is lost without these heads at END."""
    subject.require(heads)
    study = subject.shared(Study.of)
    intact = study.difference(study.logits).mean()
    left = study.without(study.places({"END": heads})).mean()
    return Measured(float(1 - left / intact), f"{float(intact):.2f} → {float(left):.2f} logits")


def circuit_gap(subject: Subject, circuit: Mapping[str, Sequence[Head]] = CIRCUIT) -> Measured:
    """Logit difference of the model minus that of the circuit alone; MLPs stay whole."""
    subject.require(chain.from_iterable(circuit.values()))
    study = subject.shared(Study.of)
    intact = study.difference(study.logits).mean()
    alone = study.without(~study.places(circuit)).mean()
    note = f"{float(intact):.2f} and {float(alone):.2f} logits: {float(alone / intact):.0%} kept"
    return Measured(float(intact - alone), note)


def without_mlps(subject: Subject, layers: Iterable[int]) -> Measured:
    """Logit difference with these MLPs' outputs replaced by their mean over the ABC prompts."""
    study = subject.shared(Study.of)
    found = ablation.ablate_together(
        study.model,
        study.clean,
        {"MLPs": [(layer, "mlp") for layer in layers]},
        study.pairs.metric(study.model),
        "mean",
        reference=study.abc,
    )
    before, after = (float(found[which].mean()) for which in ("original", "ablated"))
    return Measured(after, f"{before:.2f} with them")
