"""Path patching against the four passes that define it, each a hooked run of its own."""

import pytest
import torch
from torch import Tensor

import interp
from interp import metrics, path_patching
from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, full_name
from interp.pairs import token_pairs
from interp.path_patching import Receiver, all_components

TOLERANCE = 1e-4
CLEAN = ["The cat is black.", "I love the color black, I hope"]
CORRUPTED = ["The cat is black!", "I hope the color black, I love"]


def put(value: Tensor, head: int | str | None = None, positions: list[list[int]] | None = None):
    """A hook that puts a value in place: everywhere, or at each example's positions."""

    def replace(own: Tensor, hook: Hook) -> None:
        for example in range(len(own)):
            where = slice(None) if positions is None else positions[example]
            place = (example, where) if not isinstance(head, int) else (example, where, head)
            own[place] = value[place]

    return replace


@torch.no_grad()
def four_passes(
    model: HookedGPT2, sender: tuple[int, int | str], receivers: list[Receiver] | str,
    metric: Metric, direction: str, positions: list[list[int]] | None, freeze_mlps: bool,
) -> Tensor:  # fmt: skip
    pairs = token_pairs(model, CLEAN, CORRUPTED)
    base, source = pairs.base(direction), pairs.source(direction)
    _, base_cache = model.run_with_cache(base)
    _, source_cache = model.run_with_cache(source)
    hooks = []
    for layer, part in all_components(model):
        site = "mlp_out" if part == "mlp" else "z"
        cache = source_cache if (layer, part) == sender else base_cache
        if part != "mlp" or freeze_mlps or (layer, part) == sender:
            hooks.append((full_name(site, layer), put(cache[site, layer], part)))
    if receivers == "logits":
        return metric(model.run_with_hooks(base, hooks, positions=metric.positions))
    with model.hooks(hooks):
        _, heard = model.run_with_cache(base, names_filter=None)
    edits = [
        (full_name(letter, layer), put(heard[letter, layer], head, positions))
        for layer, head, letter in receivers
    ]
    return metric(model.run_with_hooks(base, edits, positions=metric.positions))


@pytest.mark.parametrize("freeze_mlps", [False, True])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(
    "receivers", ["logits", [(2, 1, "q")], [(1, 0, "k"), (2, 3, "v"), (2, 0, "q")]]
)
def test_path_patching_equals_its_four_passes(
    random_gpt2: HookedGPT2, receivers: list[Receiver] | str, direction: str, freeze_mlps: bool
) -> None:
    metric = metrics.logit_diff([5, 6], [9, 10])
    dataset = path_patching.sweep(
        random_gpt2, CLEAN, CORRUPTED, receivers=receivers, metric=metric, direction=direction,
        freeze_mlps=freeze_mlps,
    )  # fmt: skip
    effects = 0
    for cell, sender in enumerate(all_components(random_gpt2)):
        expected = four_passes(random_gpt2, sender, receivers, metric, direction, None, freeze_mlps)
        measured = torch.tensor(dataset["patched"].isel(sender=cell).values)
        assert (measured - expected).abs().max() < TOLERANCE, sender
        base = "corrupted" if direction == "denoising" else "clean"
        effects += int((measured - torch.tensor(dataset[base].values)).abs().max() > 1e-3)
    assert effects > 3
    assert dataset.attrs["mlps"] == ("frozen" if freeze_mlps else "recomputed")


def test_receivers_are_patched_where_they_are_asked(random_gpt2: HookedGPT2) -> None:
    metric = metrics.logit_diff([5, 6], [9, 10])
    ends = (random_gpt2.as_batch(CLEAN).lengths - 1).tolist()
    receivers: list[Receiver] = [(1, 2, "q"), (2, 3, "k")]
    dataset = path_patching.sweep(
        random_gpt2, CLEAN, CORRUPTED, receivers=receivers, metric=metric, senders=[(0, 1)],
        positions={"END": ends, "before": [end - 1 for end in ends]},
    )  # fmt: skip
    where = [[end - 1, end] for end in ends]
    expected = four_passes(random_gpt2, (0, 1), receivers, metric, "denoising", where, False)
    assert (torch.tensor(dataset["patched"].values[0]) - expected).abs().max() < TOLERANCE


def test_a_sender_after_its_receivers_has_exactly_no_effect(random_gpt2: HookedGPT2) -> None:
    dataset = path_patching.sweep(
        random_gpt2, CLEAN, CORRUPTED, receivers=[(1, 0, "q")], metric=metrics.logit(5)
    )
    late = dataset.where(dataset["sender_layer"] >= 1, drop=True)
    early = dataset.where(dataset["sender_layer"] == 0, drop=True)
    assert float(abs(late["patched"] - late["corrupted"]).max()) == 0
    assert float(abs(early["patched"] - early["corrupted"]).max()) > 0


def test_frozen_paths_to_the_logits_are_direct_attribution_of_the_difference() -> None:
    """With MLPs frozen and one sender, the final stream changes by what the sender writes."""
    model = interp.load()
    clean = "I love the color black, I hope someday to have a cat like that. The cat is"
    corrupted = clean.replace("black", "brown")
    metric = metrics.logit_diff(model.to_single_token(" black"), model.to_single_token(" brown"))
    dataset = path_patching.sweep(
        model, clean, corrupted, receivers="logits", metric=metric, senders=[(3, 1)],
        freeze_mlps=True,
    )  # fmt: skip
    _, one = model.run_with_cache(clean)
    _, other = model.run_with_cache(corrupted)
    change = (one["z", 3] - other["z", 3])[0, -1, 1] @ model.W_O[3, 1]
    logits = model.unembed(model.ln_final(other["resid_post", 3][:, -1:] + change))
    assert abs(float(metric(logits)) - dataset["patched"].item()) < TOLERANCE


@pytest.mark.parametrize("receivers", ["logits", [(2, 0, "q")]])
def test_a_cancelled_sweep_keeps_what_is_finished(
    random_gpt2: HookedGPT2, receivers: list[Receiver] | str
) -> None:
    def sweep(**options):
        return path_patching.sweep(
            random_gpt2, CLEAN, CORRUPTED, receivers=receivers, metric=metrics.logit(5), **options
        )

    whole = sweep()
    part = sweep(max_memory=70_000, progress=lambda steps, _: steps[: len(steps) // 2])
    done = part["patched"].notnull()
    assert (whole.attrs["partial"], part.attrs["partial"]) == (0, 1)
    assert 0 < int(done.sum()) < done.size
    assert float(abs(part["patched"] - whole["patched"]).where(done, 0).max()) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"receivers": "mlps"}, "receivers is 'mlps'"),
        ({"receivers": []}, r"receivers is \[\]"),
        ({"receivers": [(1, 0, "z")]}, "reads through q, k or v, not 'z'"),
        ({"receivers": [(9, 0, "q")]}, "no head or MLP of this model"),
        ({"receivers": "logits", "senders": [(0, 7)]}, "no head or MLP of this model"),
        ({"receivers": "logits", "positions": [1]}, "the metric says where"),
    ],
)
def test_paths_that_do_not_exist_are_an_error(
    random_gpt2: HookedGPT2, options: dict, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        path_patching.sweep(random_gpt2, CLEAN, CORRUPTED, metric=metrics.logit(5), **options)
