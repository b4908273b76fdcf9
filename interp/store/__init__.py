"""Activations on disk: exact, described, checksummed, and never half written."""
