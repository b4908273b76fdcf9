"""Keys and values of a prefix: what generation and continued runs need not compute again."""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.cache import ActivationCache


class KeyValueCache:
    """Keys and values of a prefix, so that only new positions need computing.

    Args:
        frozen: Serve the prefix and do not grow; a batch of 1 then serves any batch.
    """

    def __init__(self, *, frozen: bool = False) -> None:
        self.frozen = frozen
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def from_activations(cls, cache: ActivationCache, n_positions: int) -> "KeyValueCache":
        """Frozen keys and values of the first `n_positions` of a cached run."""
        prefix = cls(frozen=True)
        for layer in range(cache.cfg.n_layers):
            k, v = cache["k", layer], cache["v", layer]
            prefix._layers[layer] = (k[:, :n_positions], v[:, :n_positions])
        return prefix

    @property
    def length(self) -> int:
        """Number of positions held."""
        return next((k.shape[1] for k, _ in self._layers.values()), 0)

    def extend(
        self,
        layer: int,
        k: Float[Tensor, "batch pos head d_head"],
        v: Float[Tensor, "batch pos head d_head"],
    ) -> tuple[
        Float[Tensor, "batch key_pos head d_head"], Float[Tensor, "batch key_pos head d_head"]
    ]:
        """Prefix and new positions together; remembered unless frozen."""
        if layer in self._layers:
            old_k, old_v = (x.expand(len(k), -1, -1, -1) for x in self._layers[layer])
            k, v = torch.cat([old_k, k], dim=1), torch.cat([old_v, v], dim=1)
        if not self.frozen:
            self._layers[layer] = (k, v)
        return k, v
