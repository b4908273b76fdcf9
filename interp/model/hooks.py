"""The names of GPT-2's intermediate values, and the hooks of one forward call.

Names are TransformerLens' classic ones, which its notebooks use. Every value can be read and
edited, forwards and backwards. Hooks belong to the call and never to the model: two threads can
run different interventions on one model, and a forgotten hook cannot exist.

In block L the name begins with `blocks.L.`:

    batch pos d_model               hook_embed, hook_pos_embed (before the blocks)
                                    hook_resid_pre, hook_attn_out, hook_resid_mid, hook_mlp_in,
                                    hook_mlp_out, hook_resid_post
                                    ln1.hook_normalized, ln2.hook_normalized, and after the blocks
                                    ln_final.hook_normalized: before LayerNorm's weight and bias
    batch pos 1                     ln1.hook_scale, ln2.hook_scale, ln_final.hook_scale
    batch pos head d_head           attn.hook_q, attn.hook_k, attn.hook_v, attn.hook_z
    batch head query_pos key_pos    attn.hook_attn_scores (scaled; -inf where masked),
                                    attn.hook_pattern
    batch pos d_mlp                 mlp.hook_pre, mlp.hook_post
    batch pos head d_model          attn.hook_result (z W_O of each head), hook_attn_in,
                                    hook_q_input, hook_k_input, hook_v_input: only when asked for
                                    by name, since they cost memory
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from interp.errors import HookError, UnknownHookError

RESID, HEADS_RESID = "batch pos d_model", "batch pos head d_model"
HEADS, ATTENTION, MLP = "batch pos head d_head", "batch head query_pos key_pos", "batch pos d_mlp"


@dataclass(frozen=True)
class HookPoint:
    """One kind of intermediate value."""

    name: str
    """Full name; in a block, without the `blocks.L.` in front."""
    axes: str
    in_block: bool = True
    optional: bool = False
    """Costs memory or time, so it is computed only when asked for by name."""
    alias: str = ""
    """TransformerLens 4's canonical name for the same value."""


HOOK_POINTS = (
    HookPoint("hook_embed", RESID, in_block=False, alias="embed.hook_out"),
    HookPoint("hook_pos_embed", RESID, in_block=False, alias="pos_embed.hook_out"),
    HookPoint("hook_resid_pre", RESID, alias="hook_in"),
    HookPoint("hook_attn_in", HEADS_RESID, optional=True, alias="attn.hook_attn_in"),
    HookPoint("hook_q_input", HEADS_RESID, optional=True, alias="attn.hook_q_input"),
    HookPoint("hook_k_input", HEADS_RESID, optional=True, alias="attn.hook_k_input"),
    HookPoint("hook_v_input", HEADS_RESID, optional=True, alias="attn.hook_v_input"),
    HookPoint("ln1.hook_scale", "batch pos 1"),
    HookPoint("ln1.hook_normalized", RESID),
    HookPoint("attn.hook_q", HEADS, alias="attn.q.hook_out"),
    HookPoint("attn.hook_k", HEADS, alias="attn.k.hook_out"),
    HookPoint("attn.hook_v", HEADS, alias="attn.v.hook_out"),
    HookPoint("attn.hook_attn_scores", ATTENTION),
    HookPoint("attn.hook_pattern", ATTENTION),
    HookPoint("attn.hook_z", HEADS, alias="attn.o.hook_in"),
    HookPoint("attn.hook_result", HEADS_RESID, optional=True),
    HookPoint("hook_attn_out", RESID, alias="attn.hook_out"),
    # Not TransformerLens 4.3's ln2.hook_in, whose edits miss the stream and reach only the MLP.
    HookPoint("hook_resid_mid", RESID),
    HookPoint("hook_mlp_in", RESID, alias="ln2.hook_in"),
    HookPoint("ln2.hook_scale", "batch pos 1"),
    HookPoint("ln2.hook_normalized", RESID),
    HookPoint("mlp.hook_pre", MLP, alias="mlp.in.hook_out"),
    HookPoint("mlp.hook_post", MLP, alias="mlp.out.hook_in"),
    HookPoint("hook_mlp_out", RESID, alias="mlp.hook_out"),
    HookPoint("hook_resid_post", RESID, alias="hook_out"),
    HookPoint("ln_final.hook_scale", "batch pos 1", in_block=False),
    HookPoint("ln_final.hook_normalized", RESID, in_block=False),
)
"""Every kind of hook point, in the order of the forward pass."""

POINT_BY_NAME = {point.name: point for point in HOOK_POINTS}
NAME_BY_ALIAS = {point.alias: point.name for point in HOOK_POINTS if point.alias}
SHORT_WORDS = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "query": "q",
    "key": "k",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_post": "post",
}
"""Further short forms that TransformerLens accepts."""
SUBLAYERS = {"a": "attn", "attention": "attn", "m": "mlp"}


def block_name(layer: int, name: str) -> str:
    """Full name of a point inside block `layer`."""
    return f"blocks.{layer}.{name}"


def split_name(name: str) -> tuple[int | None, str]:
    """`blocks.3.attn.hook_q` -> (3, `attn.hook_q`); names outside the blocks have no layer."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    return (int(match[1]), match[2]) if match else (None, name)


def axes_of(name: str) -> list[str]:
    """Axis names of the value that a full hook name, or its gradient's, stands for.

    None for a point that GPT-2 does not have; other architectures have more.
    """
    _, kind = split_name(name.removesuffix("_grad"))
    return POINT_BY_NAME[kind].axes.split() if kind in POINT_BY_NAME else []


def hook_names(n_layers: int, *, optional: bool = False) -> list[str]:
    """All full names of a model with `n_layers` blocks, in the order of the forward pass.

    Args:
        optional: Also those that are computed only when asked for by name.
    """
    points = [point for point in HOOK_POINTS if optional or not point.optional]
    before = [point.name for point in points if not point.in_block and "final" not in point.name]
    after = [point.name for point in points if not point.in_block and "final" in point.name]
    inside = [point.name for point in points if point.in_block]
    blocks = [block_name(layer, name) for layer in range(n_layers) for name in inside]
    return before + blocks + after


def full_name(short: str, layer: int | None = None, sublayer: str | None = None) -> str:
    """Full name of a short form, as TransformerLens' `get_act_name`.

    `("pattern", 3)`, `("scale", 2, "ln1")`, `"q3"`, `"scale4ln1"` and full names are understood;
    the result may still be a name that no model has.
    """
    if ("." in short or short.startswith("hook_")) and layer is None:
        return short
    if match := re.fullmatch(r"([a-z_]+?)(\d+)([a-z]\w*)?", short):
        short, layer, sublayer = match[1], int(match[2]), match[3] or sublayer
    short = SHORT_WORDS.get(short, short)
    sublayer = SUBLAYERS.get(sublayer or "", sublayer)
    if layer is None and short in ("scale", "normalized"):
        return f"ln_final.hook_{short}"
    candidates = [
        f"{sublayer}.hook_{short}",
        f"hook_{short}",
        f"attn.hook_{short}",
        f"mlp.hook_{short}",
    ]
    kind = next(
        (name for name in candidates if name in POINT_BY_NAME), candidates[0 if sublayer else 1]
    )
    return kind if layer is None else block_name(layer, kind)


def resolve_name(name: str, n_layers: int) -> str:
    """Check a full name (classic or TransformerLens 4's canonical) and return the classic one.

    Raises:
        UnknownHookError: no such point; the message names the nearest ones.
    """
    layer, kind = split_name(name)
    kind = NAME_BY_ALIAS.get(kind, kind) if kind not in POINT_BY_NAME else kind
    point = POINT_BY_NAME.get(kind)
    if point and point.in_block == (layer is not None) and (layer is None or layer < n_layers):
        return kind if layer is None else block_name(layer, kind)
    layers = f"Layers are 0-{n_layers - 1}."
    if point and point.in_block and layer is not None:
        raise UnknownHookError(f"Hook {name!r} is in layer {layer}, which does not exist. {layers}")
    known = [*hook_names(n_layers, optional=True), *POINT_BY_NAME]
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
    raise UnknownHookError(f"Unknown hook {name!r}.{hint} {layers}")


NamesFilter = str | Sequence[str] | Callable[[str], bool] | None


def select_names(names_filter: NamesFilter, n_layers: int) -> list[str]:
    """Full names that a filter asks for.

    Args:
        names_filter: `None` for all default points; a name or list of names, in which `*` stands
            for anything; or a predicate over the default points' names. Optional points
            (`hook_result`, `hook_q_input` ...) are chosen only by name.

    Raises:
        UnknownHookError: a name does not exist, or nothing is selected.
    """
    default = hook_names(n_layers)
    if names_filter is None:
        return default
    if callable(names_filter):
        chosen = [name for name in default if names_filter(name)]
        if not chosen:
            raise UnknownHookError(
                "The names_filter accepts no hook point of this model. Optional points "
                "(hook_result, hook_attn_in, hook_q_input ...) are asked for by name."
            )
        return chosen
    chosen = []
    for pattern in [names_filter] if isinstance(names_filter, str) else names_filter:
        known = hook_names(n_layers, optional=True) if "*" in pattern else []
        matches = [name for name in known if fnmatchcase(name, pattern)]
        chosen += matches or [resolve_name(pattern, n_layers)]
    return list(dict.fromkeys(chosen))


def groups_that_must_fire(names_filter: NamesFilter, n_layers: int) -> list[frozenset[str]]:
    """Sets of names of which a run has to compute at least one.

    Each name asked for by itself, and all names of a `*` or of a predicate together: a run of part
    of the model may skip some of those.
    """
    if names_filter is None:
        return []
    if isinstance(names_filter, str) or callable(names_filter):
        return [frozenset(select_names(names_filter, n_layers))]
    return [frozenset(select_names(name, n_layers)) for name in names_filter]


@dataclass(frozen=True)
class Hook:
    """What a hook function is told about the place it is called from, as in TransformerLens."""

    name: str
    ctx: dict[str, Any] = field(default_factory=dict)
    """Scratch space; lives as long as the call."""

    def layer(self) -> int:
        """Index of the block; an error for points outside the blocks."""
        layer, _ = split_name(self.name)
        if layer is None:
            raise HookError(f"Hook {self.name!r} is not in a block, so it has no layer.")
        return layer


HookFunction = Callable[[Tensor, Hook], Tensor | None]
"""Takes (value, hook) and returns the replacement, or `None` after looking or editing in place."""
HookList = Iterable[tuple[NamesFilter, HookFunction]]


class RunEnded(Exception):
    """Ends a run that has computed everything it was asked for; `HookedRuns.record` catches it."""


@dataclass
class Recording:
    """Values that a call is asked to keep."""

    names: frozenset[str]
    must_fire: Sequence[frozenset[str]] = ()
    """Sets of names of which at least one has to be computed."""
    values: dict[str, Tensor] = field(default_factory=dict)
    key_mask: Tensor | None = None
    """False at keys that no query may read; `None` if causality is enough."""
    edited: set[str] = field(default_factory=set)
    """Names at which a forward hook ran: those values do not follow from others."""
    keep_graph: bool = False
    """Keep the tensors of the autograd graph instead of detached ones."""
    and_edited: bool = False
    """Keep every edited value too."""
    device: str | torch.device | None = None
    ends_run: bool = False
    """End the run as soon as everything that must fire has fired."""

    def keep(self, name: str, value: Tensor, edited: bool) -> None:
        """Take a value, if it was asked for."""
        if edited:
            self.edited.add(name)
        if name in self.names or (edited and self.and_edited):
            self.values[name] = value if self.keep_graph else owned(value.detach(), self.device)


def owned(value: Tensor, device: str | torch.device | None = None) -> Tensor:
    """The value on a device, holding no more memory than its own (q alone is a part of qkv)."""
    moved = value.to(device or value.device)
    return moved.clone() if moved.untyped_storage().nbytes() > moved.nbytes else moved


@dataclass
class Request:
    """Hooks that a `with model.hooks(...)` block asks for."""

    model: object
    forward: Sequence[tuple[str, HookFunction]] = ()
    backward: Sequence[tuple[str, HookFunction]] = ()
    must_fire: Sequence[frozenset[str]] = ()
    """Sets of names of which every run has to compute at least one."""
    recording: Recording | None = None
    n_runs: int = 0
    """How many runs of the model have begun since."""


_requests: ContextVar[tuple[Request, ...]] = ContextVar("interp_hook_requests", default=())


@contextmanager
def requested(request: Request) -> Iterator[None]:
    """Add a request for the duration of the block, in this thread (or task) only."""
    token = _requests.set((*_requests.get(), request))
    try:
        yield
    finally:
        _requests.reset(token)


def hooks_are_requested(model: object) -> bool:
    """Whether this thread is inside a block that hooks this model."""
    return any(request.model is model for request in _requests.get())


def make_request(model: object, n_layers: int, fwd_hooks: HookList, bwd_hooks: HookList) -> Request:
    """Resolve names, wildcards and predicates of hook lists."""

    def expand(hooks: HookList) -> list[tuple[str, HookFunction]]:
        return [
            (name, function)
            for names_filter, function in hooks
            for name in select_names(names_filter, n_layers)
        ]

    fwd_hooks, bwd_hooks = list(fwd_hooks), list(bwd_hooks)
    filters = [names_filter for names_filter, _ in (*fwd_hooks, *bwd_hooks)]
    groups = [group for each in filters for group in groups_that_must_fire(each, n_layers)]
    return Request(model, expand(fwd_hooks), expand(bwd_hooks), groups)


class Hooks:
    """The interventions and recordings of one forward call; made when the call begins."""

    def __init__(self, model: object) -> None:
        requests = [request for request in _requests.get() if request.model is model]
        self.forward: dict[str, list[HookFunction]] = {}
        self.backward: dict[str, list[HookFunction]] = {}
        for request in requests:
            request.n_runs += 1
            for name, function in request.forward:
                self.forward.setdefault(name, []).append(function)
            for name, function in request.backward:
                self.backward.setdefault(name, []).append(function)
        self.recordings = [request.recording for request in requests if request.recording]
        self._must_fire = [
            group for asked in (*requests, *self.recordings) for group in asked.must_fire
        ]
        recorded = (recording.names for recording in self.recordings)
        self._wanted = frozenset(self.forward).union(self.backward, *recorded)
        self._context: dict[str, Any] = {}
        self._fired: set[str] = set()
        self._ends_early = any(recording.ends_run for recording in self.recordings)

    def wants(self, name: str) -> bool:
        """Whether anybody looks at or edits this value."""
        return name in self._wanted

    def note_key_mask(self, key_mask: Tensor | None) -> None:
        """Tell the recordings which keys were hidden."""
        for recording in self.recordings:
            recording.key_mask = key_mask

    def edits(self, name: str) -> bool:
        """Whether a function runs at this value, or its gradient is wanted."""
        gradients = any(name in r.names for r in self.recordings if r.keep_graph)
        return gradients or name in self.forward or name in self.backward

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Pass a value through its hooks; what comes back flows on."""
        if name not in self._wanted:
            return value
        self._fired.add(name)
        for function in self.forward.get(name, ()):
            value = self._apply(function, name, value)
        keep_graph = [r for r in self.recordings if r.keep_graph and name in r.names]
        if name in self.backward or keep_graph:
            value = self._watch_gradient(name, value)
        for recording in self.recordings:
            recording.keep(name, value, edited=name in self.forward)
        if self._ends_early and not self._silent():
            raise RunEnded
        return value

    def _silent(self) -> list[frozenset[str]]:
        """Sets of names of which none has fired yet, though one has to."""
        return [group for group in self._must_fire if not group & self._fired]

    def _apply(self, function: HookFunction, name: str, value: Tensor) -> Tensor:
        own = value.clone()  # an in-place edit must reach neither a cached tensor nor an alias
        try:
            returned = function(own, Hook(name, self._context))
        except Exception as error:
            raise HookError(
                f"The hook at {name!r} raised {type(error).__name__}: {error}"
            ) from error
        return own if returned is None else checked_replacement(name, returned, value)

    def _watch_gradient(self, name: str, value: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            raise HookError(
                f"Gradients are asked for at {name!r}, but autograd is off. "
                "Run the call inside torch.enable_grad()."
            )
        if not value.requires_grad:
            value = value.detach().requires_grad_()
        value = value.view_as(value)  # a node of its own: only what flows on from here counts
        for function in self.backward.get(name, ()):
            value.register_hook(self._gradient_hook(function, name))
        return value

    def _gradient_hook(self, function: HookFunction, name: str) -> Callable[[Tensor], Tensor]:
        return lambda gradient: self._apply(function, name, gradient)

    def check_all_fired(self) -> None:
        """Raise if something was asked for that this run never computed."""
        if silent := self._silent():
            names = sorted(frozenset().union(*silent))
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            raise HookError(
                f"Hooks that never fired: {', '.join(names[:6])}{more}. The run started after, or "
                "stopped before, the layer they are in."
            )


def checked_replacement(name: str, returned: object, value: Tensor) -> Tensor:
    """A hook's return value, or an error that says how it differs from what it replaces."""
    if not isinstance(returned, Tensor):
        raise HookError(
            f"The hook at {name!r} returned {type(returned).__name__}; return a tensor, or None "
            "to leave the value (or edit it in place)."
        )
    for quality in ("shape", "dtype", "device"):
        expected, received = getattr(value, quality), getattr(returned, quality)
        if expected != received:
            expected, received = (
                (tuple(expected), tuple(received)) if quality == "shape" else (expected, received)
            )
            axes = f" ({' '.join(axes_of(name))})" if axes_of(name) else ""
            raise HookError(
                f"The hook at {name!r} returned {quality} {received}; expected {expected}{axes}."
            )
    return returned


class BlockHooks:
    """The call's hooks, seen from inside block `layer`: names without `blocks.L.`."""

    def __init__(self, hooks: Hooks, layer: int) -> None:
        self._hooks, self._prefix = hooks, f"blocks.{layer}."

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """As `Hooks.__call__`."""
        return self._hooks(self._prefix + name, value)

    def wants(self, name: str) -> bool:
        """As `Hooks.wants`."""
        return self._hooks.wants(self._prefix + name)

    def edits(self, name: str) -> bool:
        """As `Hooks.edits`."""
        return self._hooks.edits(self._prefix + name)
