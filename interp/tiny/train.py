"""Train the embedded model: `python -m interp.tiny.train --out DIR [--steps N] [--resume]`.

A run is fixed by its settings: the data of each step follow from seed and step, so a resumed run
ends with the same weights as an uninterrupted one (on the same machine and number of threads).
DIR receives checkpoint.safetensors, log.jsonl (losses and held-out scores) and at the end the
Hugging Face folder `weights` with CARD.md.

Matrices are trained with Muon, embeddings and vectors with AdamW. Rows are short at first, because
copying from the context is found much sooner when there is little else to look at.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from einops import rearrange
from jaxtyping import Float
from rich.progress import Progress
from torch import Tensor, nn

from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import Tokenizer
from interp.tiny.batches import Batch, make_batch
from interp.tiny.card import export
from interp.tiny.checkpoint import load_checkpoint, save_checkpoint
from interp.tiny.evaluate import held_out_scores
from interp.tiny.tokenizer import build_tokenizer

CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"


@dataclass(frozen=True)
class Settings:
    """Everything that the trained weights depend on."""

    steps: int = 2500
    seed: int = 0
    n_layers: int = 4
    n_heads: int = 4
    d_model: int = 128
    n_ctx: int = 256
    learning_rate: float = 2e-3
    """At its highest; warm-up over `warm_up` steps, then half a cosine down to a twentieth."""
    warm_up: int = 100
    weight_decay: float = 0.1
    """Of matrices only."""
    answer_weight: float = 5.0
    """Weight in the loss of a token that is an answer; other tokens have 1."""
    tokens_per_step: int = 3840
    short_steps: int = 300
    """First steps, with rows of `short_row` tokens."""
    short_row: int = 40
    row: int = 80
    """Tokens of a later row; every eighth step has rows of `n_ctx` tokens, for late positions."""
    save_every: int = 250
    evaluate_every: int = 250
    evaluation_prompts: int = 100


def row_length(settings: Settings, step: int) -> int:
    """Tokens per row in this step."""
    if step < settings.short_steps:
        return settings.short_row
    return settings.n_ctx if step % 8 == 7 else settings.row


def learning_rate_factor(settings: Settings, step: int) -> float:
    """Linear warm-up times half a cosine from 1 to 0.05."""
    warm_up = min(1.0, (step + 1) / settings.warm_up)
    return warm_up * (0.05 + 0.95 * (1 + math.cos(math.pi * step / settings.steps)) / 2)


def new_model(settings: Settings) -> HookedGPT2:
    """An untrained model with its tokenizer."""
    tokenizer = Tokenizer(build_tokenizer())
    cfg = ModelConfig(
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
        d_model=settings.d_model,
        d_mlp=4 * settings.d_model,
        d_vocab=len(tokenizer),
        n_ctx=settings.n_ctx,
        model_name="interp-tiny",
    )
    return HookedGPT2(cfg, tokenizer, seed=settings.seed)


class Optimizers:
    """Muon for the matrices inside the blocks, AdamW for embeddings and vectors.

    Muon takes two-dimensional parameters, so it works on flattened views that share memory with
    the model's head-shaped weights.
    """

    def __init__(self, settings: Settings, model: HookedGPT2) -> None:
        named = dict(model.named_parameters())
        self.weights = {
            name: x for name, x in named.items() if name.startswith("blocks") and ".W_" in name
        }
        self.views = {
            name: nn.Parameter(as_matrix(name, x.detach())) for name, x in self.weights.items()
        }
        others = [x for name, x in named.items() if name not in self.weights]
        rate, decay = settings.learning_rate, settings.weight_decay
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                self.views.values(), lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.settings = settings

    def step(self, step: int) -> None:
        """Move along the model's gradients, and forget them."""
        for name, weight in self.weights.items():
            assert weight.grad is not None
            self.views[name].grad = as_matrix(name, weight.grad)
            weight.grad = None
        rate = self.settings.learning_rate * learning_rate_factor(self.settings, step)
        for optimizer in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()


def as_matrix(name: str, weight: Tensor) -> Tensor:
    """A block's weight as a view with two axes: what it reads, what it writes."""
    heads_out = name.endswith("W_O")
    return weight.flatten(0, 1) if heads_out else weight.flatten(1)


def weighted_loss(model: HookedGPT2, batch: Batch, answer_weight: float) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of each next token, answers counted `answer_weight` times."""
    inputs, targets = batch.tokens[:, :-1], batch.tokens[:, 1:]
    logits = model(inputs, attention_mask=torch.ones_like(inputs, dtype=torch.bool))
    losses = F.cross_entropy(
        rearrange(logits, "row pos vocab -> (row pos) vocab"), targets.flatten(), reduction="none"
    )
    weights = 1 + (answer_weight - 1) * batch.is_answer[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def train(
    out: Path, settings: Settings, *, resume: bool = False, stop_after: int | None = None
) -> HookedGPT2:
    """Train in the folder `out`, from its checkpoint if `resume`.

    Args:
        stop_after: Leave after this many steps in all, as a killed run would, with a checkpoint.

    Raises:
        FileExistsError: `out` holds a checkpoint and `resume` is off.
        ValueError: the checkpoint was made with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = new_model(settings)
    optimizers = Optimizers(settings, model)
    checkpoint, done = out / CHECKPOINT, 0
    if checkpoint.exists():
        if not resume:
            raise FileExistsError(f"{checkpoint} exists. Pass --resume, or choose another folder.")
        done = load_checkpoint(checkpoint, asdict(settings), model, optimizers.parts)
    keep_log_until(out / LOG, done)
    last = min(settings.steps, stop_after or settings.steps)
    for step in track_steps(done, last, settings.steps):
        loss = train_step(settings, model, optimizers, step)
        n_done = step + 1
        if n_done % settings.evaluate_every == 0 or n_done == settings.steps:
            scores = held_out_scores(model, settings.evaluation_prompts, settings.seed)
            append_log(out / LOG, {"step": n_done, "loss": loss, **scores})
        if n_done % settings.save_every == 0 or n_done == last:
            save_checkpoint(checkpoint, n_done, asdict(settings), model, optimizers.parts)
    return model


def train_step(settings: Settings, model: HookedGPT2, optimizers: Optimizers, step: int) -> float:
    """One step on data that follow from seed and step; returns the loss in nats."""
    length = row_length(settings, step)
    assert model.tokenizer is not None
    tokenizer = model.tokenizer.backend
    batch = make_batch(
        tokenizer, f"{settings.seed} {step}", settings.tokens_per_step // length, length
    )
    loss = weighted_loss(model, batch, settings.answer_weight)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizers.step(step)
    return loss.item()


def track_steps(first: int, last: int, total: int) -> Iterator[int]:
    """The steps from `first` to `last`, with a progress bar over all `total`."""
    with Progress() as progress:
        task = progress.add_task("training", total=total, completed=first)
        for step in range(first, last):
            yield step
            progress.advance(task)


def keep_log_until(path: Path, step: int) -> None:
    """Drop log lines of steps that will be done again."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    path.write_text("".join(f"{line}\n" for line in kept))


def append_log(path: Path, record: Mapping[str, int | float]) -> None:
    """One JSON object per line."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def main(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log and the finished model.")],
    steps: Annotated[int, typer.Option(help="Steps of 3840 tokens.")] = Settings.steps,
    seed: Annotated[int, typer.Option(help="Of initial weights and data.")] = Settings.seed,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")
    ] = False,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train the embedded model and export it."""
    torch.set_num_threads(threads)
    settings = Settings(steps=steps, seed=seed)
    model = train(out, settings, resume=resume)
    export(model, asdict(settings), out)


if __name__ == "__main__":
    typer.run(main)
