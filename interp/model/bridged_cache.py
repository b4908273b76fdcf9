"""The hook points of a bridged model by name, and the activations of one of its runs."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from interp.errors import UnknownHookError
from interp.model.cache import CacheKey
from interp.model.hooks import POINT_BY_NAME, NamesFilter, full_name, split_name


class HookNames:
    """The hook points of one model, each under its GPT-2 name if it has one.

    Args:
        hook_dict: TransformerLens' points by all their names.
        fired: Names of the points that fire in a plain run.
    """

    def __init__(self, hook_dict: Mapping[str, Any], fired: Sequence[str]) -> None:
        by_point: dict[int, list[str]] = {}
        for name in fired:
            by_point.setdefault(id(hook_dict[name]), []).append(name)
        self._preferred = {
            name: next((n for n in names if split_name(n)[1] in POINT_BY_NAME), names[-1])
            for names in by_point.values()
            for name in names
        }
        self._silent = frozenset(hook_dict) - frozenset(fired)
        self.all = list(dict.fromkeys(self._preferred.values()))
        """One name per point, in the order in which they fired."""

    def resolve(self, name: str) -> str:
        """The name under which a point is known; an error that suggests one if there is none."""
        if name in self._preferred:
            return self._preferred[name]
        if name in self._silent:
            raise UnknownHookError(
                f"{name!r} is a name that TransformerLens knows, but nothing happens there in this "
                "architecture, or only in a mode that the bridge does not switch on."
            )
        close = difflib.get_close_matches(name, self._preferred, n=3)
        hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
        raise UnknownHookError(f"This model has no hook {name!r}.{hint}")

    def select(self, names_filter: NamesFilter) -> list[str]:
        """Names that a filter asks for, as `hooks.select_names`."""
        if names_filter is None:
            return self.all
        if callable(names_filter):
            chosen = [name for name in self.all if names_filter(name)]
            if not chosen:
                raise UnknownHookError("The names_filter accepts no hook point of this model.")
            return chosen
        chosen = []
        for pattern in [names_filter] if isinstance(names_filter, str) else names_filter:
            matches = [n for n in self.all if fnmatchcase(n, pattern)] if "*" in pattern else []
            chosen += matches or [self.resolve(pattern)]
        return list(dict.fromkeys(chosen))

    def must_fire(self, names_filter: NamesFilter) -> list[frozenset[str]]:
        """Sets of names of which a run has to compute at least one."""
        if names_filter is None:
            return []
        if isinstance(names_filter, str) or callable(names_filter):
            return [frozenset(self.select(names_filter))]
        return [frozenset(self.select(name)) for name in names_filter]


class BridgedCache(Mapping[str, Tensor]):
    """Activations by full name, or short: `cache["pattern", 3]`. It owns its tensors."""

    def __init__(self, values: Mapping[str, Tensor], names: HookNames, n_layers: int) -> None:
        self._values, self._names, self._n_layers = dict(values), names, n_layers

    def __getitem__(self, key: CacheKey) -> Tensor:
        short, layer = (key, None) if isinstance(key, str) else key[:2]
        sublayer = key[2] if isinstance(key, tuple) and len(key) == 3 else None
        if layer is not None and layer < 0:
            layer += self._n_layers
        name = full_name(short, layer, sublayer)
        suffix = "_grad" if name.endswith("_grad") else ""
        name = self._names.resolve(name.removesuffix("_grad")) + suffix
        if name not in self._values:
            raise UnknownHookError(f"{name!r} is not in this cache. Ask for it in names_filter.")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
