"""Collect as a Slurm job array: every task pulls units until none is left.

There is nothing to divide beforehand. A task that starts late finds less to do, a task that is
requeued goes on, and the array can be submitted again at any time.
"""

import shlex
import sys
from pathlib import Path

from interp.store.planned import PlannedStore

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=interp-store
#SBATCH --array=0-{last}
#SBATCH --requeue
#SBATCH --output=interp-store-%A-%a.log
# Add what your cluster asks for: --partition, --time, --cpus-per-task, --gres=gpu:1 ...
# Exit code 0: everything is committed. 5: this task found nothing more to do, see `cache status`.
exec {python} -m interp cache work {store} --model {model}
"""


def script_path(store: PlannedStore, folder: Path) -> Path:
    """Where `write_script` writes."""
    return folder / f"interp-store-{store.spec.sha[:8]}.sbatch"


def write_script(store: PlannedStore, model: str, n_tasks: int, folder: Path) -> Path:
    """Write a script for `sbatch`.

    Args:
        model: What `interp.load` takes; every task loads it.
        n_tasks: Of the array. Few tasks with many units each suit Slurm best.
    """
    path = script_path(store, folder)
    path.write_text(
        SCRIPT.format(
            last=n_tasks - 1,
            python=shlex.quote(sys.executable),
            store=shlex.quote(str(store.files)),
            model=shlex.quote(model),
        )
    )
    return path
