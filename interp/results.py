"""What every saved number carries, so that it can be traced to a model and to versions."""

from importlib.metadata import version

from interp.model.gpt2 import HookedGPT2
from interp.model.weights import model_hash

PACKAGES = ("interp", "torch", "transformer-lens", "xarray")
"""Packages whose versions decide a number."""


def provenance(model: HookedGPT2) -> dict[str, str]:
    """Attributes of a result: `model`, `model_hash` and `versions`."""
    return {
        "model": model.cfg.model_name,
        "model_hash": model_hash(model),
        "versions": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }
