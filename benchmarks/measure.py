"""Medians of interleaved timings, and peak memory in a child process."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

MIB = 2**20


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    before: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Median seconds of each candidate; they take turns, after one untimed round.

    Args:
        before: Called, untimed, each time before a candidate is.
    """
    for candidate in candidates.values():
        before()
        candidate()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, candidate in candidates.items():
            before()
            start = time.perf_counter()
            candidate()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def interleaved_children(
    scripts: Mapping[str, tuple[str, ...]], repeats: int
) -> dict[str, dict[str, float]]:
    """Medians of the numbers that each script (code, then arguments) prints; they take turns."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in scripts}
    for _ in range(repeats):
        for name, script in scripts.items():
            runs[name].append(in_child(*script))
    return {
        name: {key: statistics.median(run[key] for run in of_one) for key in of_one[0]}
        for name, of_one in runs.items()
    }


def in_child(code: str, *arguments: str) -> dict[str, float]:
    """Run code in a fresh interpreter; it prints one JSON object of numbers as its last line."""
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def reset_peak_memory() -> None:
    """Forget this process' peak resident memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_mib() -> tuple[float, float]:
    """Resident memory now and its peak since the reset, in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {
        line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))
    }
    return int(kib["VmRSS"]) * 1024 / MIB, int(kib["VmHWM"]) * 1024 / MIB


def added_memory(operation: Callable[[], object]) -> float:
    """Peak resident memory above what was resident before, while the operation runs, in MiB."""
    reset_peak_memory()
    before, _ = memory_mib()
    result = operation()
    _, peak = memory_mib()
    del result
    return peak - before
