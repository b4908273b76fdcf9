"""The least floating-point work of a patching sweep whose numbers are exact.

The model of the count: weights meet activations in the network's own order, every branch (a cell on
one example) shares with the base run whatever its edit cannot change, and nothing that the metric
does not read is computed.

- Base run: all positions up to the last layer, there only keys and values and the row that the
  metric reads. The source run begins at the first differing token, before which it is the base run.
- A branch begins with what its edit changes. In the first layer after that one row of the stream
  differs: one row of queries, keys and values, but all later rows of what attention writes.
- The last layer: keys and values of the rows that differ, and everything else for one row.
- The unembedding: the rows of the answers.

Products with weights alone are counted, two operations for a multiplication and an addition.
Attention's products of activations are left out (0.3 % at 15 positions of GPT-2 small); torch does
not count them on a processor either. The metric reads the last position.
"""

from interp.model.config import ModelConfig


def least_flops(
    cfg: ModelConfig,
    site: str,
    *,
    n_examples: int,
    n_positions: int,
    first_difference: int,
    n_read: int = 2,
) -> int:
    """Of a sweep over layers and positions (at z, also heads) in pairs of one length.

    Args:
        site: resid_pre, attn_out, mlp_out or z.
        first_difference: First position in which the pairs differ, and the first worth patching.
        n_read: Tokens whose logits the metric reads.
    """
    n_after = n_positions - first_difference
    each = _run(cfg, n_positions, n_read) + _run(cfg, n_after, n_read)
    for layer in range(cfg.n_layers):
        for n_rows in range(1, n_after + 1):
            each += _cells(cfg, site, layer, n_rows, n_read)
    return 2 * n_examples * each


def _run(cfg: ModelConfig, n_rows: int, n_read: int) -> int:
    """Multiplications of a run of these rows."""
    inner = _layer(cfg, n_rows, n_rows, last=False)
    last = _layer(cfg, n_rows, n_rows, last=True)
    return (cfg.n_layers - 1) * inner + last + _unembedding(cfg, n_read)


def _cells(cfg: ModelConfig, site: str, layer: int, n_rows: int, n_read: int) -> int:
    """Multiplications of the branches (one, at z one per head) born `n_rows` before the end."""
    if site == "resid_pre":
        return _from_stream(cfg, layer, n_rows, n_read)
    if layer == cfg.n_layers - 1 and n_rows > 1:
        return 0  # nobody reads it
    written = {"attn_out": 0, "mlp_out": 0, "z": cfg.d_head * cfg.d_model}[site]
    mlp = 0 if site == "mlp_out" else _mlp(cfg)
    n_cells = cfg.n_heads if site == "z" else 1
    return n_cells * (written + mlp + _from_stream(cfg, layer + 1, n_rows, n_read))


def _from_stream(cfg: ModelConfig, layer: int, n_rows: int, n_read: int) -> int:
    """From a stream before `layer` that differs in its first of `n_rows` rows."""
    total, n_different = _unembedding(cfg, n_read), 1
    for at in range(layer, cfg.n_layers):
        total += _layer(cfg, n_different, n_rows, last=at == cfg.n_layers - 1)
        n_different = n_rows
    return total


def _layer(cfg: ModelConfig, n_different: int, n_rows: int, *, last: bool) -> int:
    """Of `n_rows` rows, the first `n_different` differ before the layer."""
    square = cfg.d_model**2
    if not last:
        return 3 * square * n_different + n_rows * (square + _mlp(cfg))
    queries = square if n_different == n_rows else 0
    return 2 * square * n_different + queries + square + _mlp(cfg)


def _mlp(cfg: ModelConfig) -> int:
    """One row of it."""
    return 2 * cfg.d_model * cfg.d_mlp


def _unembedding(cfg: ModelConfig, n_read: int) -> int:
    return cfg.d_model * n_read
