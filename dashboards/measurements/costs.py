"""How much work a question is, so that a page can answer at once or ask first."""

from interp.model.config import ModelConfig

CHEAP = 6e9
"""Parameters x runs x positions up to which a page does not ask: always with the embedded model."""
PER_SECOND = 2e11
"""The same, done by two processor cores in a second; measured with GPT-2 small."""


def work(cfg: ModelConfig, n_runs: int, n_positions: int) -> float:
    """Size of many runs, in parameters x runs x positions; compare with `CHEAP`."""
    return float(cfg.n_params * n_runs * n_positions)


def seconds(cfg: ModelConfig, n_runs: int, n_positions: int) -> float:
    """About how long it takes, on two processor cores."""
    return work(cfg, n_runs, n_positions) / PER_SECOND
