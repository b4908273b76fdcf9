"""Side by side with the peers: `./run bench` (or `python -m benchmarks`) prints one table.

Everything is measured in one run on one machine: candidates are interleaved and medians compared,
so that a noisy machine disturbs all of them alike. Peak memory is read in a process of its own.
"""
