"""Threads share one model and never each other's hooks."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from interp.errors import HookError
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook

N_THREADS, N_ROUNDS = 8, 12
TOKENS = torch.arange(2, 18).reshape(2, 8)
Z1 = "blocks.1.attn.hook_z"


def scale(factor: float) -> Callable[[Tensor, Hook], Tensor]:
    return lambda value, hook: factor * value


def job(model: HookedGPT2, index: int) -> Tensor:
    """A run of one of four kinds: clean, edited, recorded, with gradients."""
    if index % 4 == 0:
        return model(TOKENS)
    if index % 4 == 1:
        return model.run_with_hooks(TOKENS, fwd_hooks=[(Z1, scale(1 + index))])
    with model.hooks(fwd_hooks=[("blocks.*.hook_mlp_out", scale(1 / index))]):
        if index % 4 == 2:
            _, cache = model.run_with_cache(TOKENS)
            return cache["resid_post", -1]
        _, cache = model.run_with_cache(TOKENS, return_type="loss", incl_bwd=True)
        return cache["hook_embed_grad"]


def test_concurrent_runs_are_bit_equal_to_serial_ones(random_gpt2: HookedGPT2) -> None:
    indices = list(range(N_THREADS * N_ROUNDS))
    expected = [job(random_gpt2, index) for index in indices]
    assert not torch.equal(expected[1], expected[0])
    barrier = threading.Barrier(N_THREADS)

    def work(thread: int) -> list[Tensor]:
        barrier.wait()
        return [job(random_gpt2, index) for index in indices[thread::N_THREADS]]

    with ThreadPoolExecutor(N_THREADS) as pool:
        results = list(pool.map(work, range(N_THREADS)))
    for thread, outputs in enumerate(results):
        for output, index in zip(outputs, indices[thread::N_THREADS], strict=True):
            assert torch.equal(output, expected[index])


def test_a_block_of_hooks_does_not_reach_another_thread(random_gpt2: HookedGPT2) -> None:
    clean = random_gpt2(TOKENS)
    with ThreadPoolExecutor(1) as pool, random_gpt2.hooks(fwd_hooks=[(Z1, scale(0))]):
        assert torch.equal(pool.submit(random_gpt2, TOKENS).result(), clean)
        assert not torch.equal(random_gpt2(TOKENS), clean)


def test_hooks_whose_run_went_to_another_thread_are_an_error(random_gpt2: HookedGPT2) -> None:
    with (
        pytest.raises(HookError, match="hooks are not seen by other threads"),
        ThreadPoolExecutor(1) as pool,
        random_gpt2.hooks(fwd_hooks=[(Z1, scale(0))]),
    ):
        pool.submit(random_gpt2, TOKENS).result()


def test_a_copied_context_carries_the_hooks(random_gpt2: HookedGPT2) -> None:
    with ThreadPoolExecutor(1) as pool, random_gpt2.hooks(fwd_hooks=[(Z1, scale(0))]):
        context = contextvars.copy_context()
        there = pool.submit(context.run, random_gpt2, TOKENS).result()
        assert torch.equal(there, random_gpt2(TOKENS))


def test_a_failing_hook_in_one_thread_leaves_the_others_alone(random_gpt2: HookedGPT2) -> None:
    clean = random_gpt2(TOKENS)

    def fail(value: Tensor, hook: Hook) -> None:
        value.zero_()
        raise ZeroDivisionError

    def work(index: int) -> Tensor | None:
        if index % 2:
            return random_gpt2(TOKENS)
        with pytest.raises(HookError, match="ZeroDivisionError"):
            random_gpt2.run_with_hooks(TOKENS, fwd_hooks=[(Z1, fail)])
        return None

    with ThreadPoolExecutor(N_THREADS) as pool:
        outputs = list(pool.map(work, range(64)))
    assert all(torch.equal(output, clean) for output in outputs if output is not None)
