"""Side by side with the peers: `./run bench` (or `python -m benchmarks`) prints one table.

Everything is measured in one run on one machine: candidates are interleaved and medians compared,
so that a noisy machine disturbs all of them alike. Peak memory is read in a process of its own.
"""

import os

# Read by the peers when they are imported: no hub, no telemetry, no progress bars of their own.
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["TQDM_DISABLE"] = "1"
