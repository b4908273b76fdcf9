"""Keys and values of a prefix: what generation and continued runs need not compute again."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CacheError, PromptError
from interp.model.cache import ActivationCache

PARTS_MIXED = (
    "past_kv_cache holds more of the prefix in some layers than in others, from runs with "
    "start_at_layer or stop_at_layer. Use one cache for runs of the same layers."
)


class KeyValueCache:
    """Keys and values of a prefix, so that only new positions need computing.

    Args:
        frozen: Serve the prefix and do not grow; a batch of 1 then serves any batch.
    """

    def __init__(self, *, frozen: bool = False) -> None:
        self.frozen = frozen
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._unfinished: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def from_activations(cls, cache: ActivationCache, n_positions: int) -> "KeyValueCache":
        """Frozen keys and values of the first `n_positions` of a cached run.

        Raises:
            CacheError: the run was shorter.
        """
        layers = range(cache.cfg.n_layers)
        keys, values = (
            [cache[x, layer] if cache.has_batch_dim else cache[x, layer][None] for layer in layers]
            for x in ("k", "v")
        )
        return cls.of_layers(keys, values, n_positions)

    @classmethod
    def of_layers(
        cls,
        keys: Sequence[Float[Tensor, "batch pos head d_head"]],
        values: Sequence[Float[Tensor, "batch pos head d_head"]],
        n_positions: int,
    ) -> "KeyValueCache":
        """The same from every layer's keys and values."""
        prefix = cls(frozen=True)
        for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
            if not 0 < n_positions <= k.shape[1]:
                raise CacheError(f"The cached run has {k.shape[1]} positions, not {n_positions}.")
            prefix._layers[layer] = (k[:, :n_positions], v[:, :n_positions])
        return prefix

    @property
    def length(self) -> int:
        """Number of positions held."""
        lengths = {k.shape[1] for k, _ in self._layers.values()}
        if len(lengths) > 1:
            raise PromptError(PARTS_MIXED)
        return lengths.pop() if lengths else 0

    def extend(
        self,
        layer: int,
        k: Float[Tensor, "batch pos head d_head"],
        v: Float[Tensor, "batch pos head d_head"],
    ) -> tuple[
        Float[Tensor, "batch key_pos head d_head"], Float[Tensor, "batch key_pos head d_head"]
    ]:
        """Prefix and new positions together; remembered when the run is kept."""
        if layer in self._layers:
            old_k, old_v = self._layers[layer]
            if len(old_k) not in (1, len(k)):
                raise PromptError(f"The prefix has {len(old_k)} examples, the input {len(k)}.")
            k, v = (
                torch.cat([old.expand(len(new), -1, -1, -1), new], dim=1)
                for old, new in ((old_k, k), (old_v, v))
            )
        elif self._layers:
            raise PromptError(PARTS_MIXED)
        if not self.frozen:
            self._unfinished[layer] = (k, v)
        return k, v

    def begin_run(self) -> int:
        """Forget what a run that failed half-way left behind; the number of positions held."""
        self._unfinished = {}
        return self.length

    def keep_run(self) -> None:
        """A run is complete: what it added becomes part of the prefix, unless that is frozen."""
        self._layers |= self._unfinished
        self._unfinished = {}
