"""What this machine has, what it lacks, and what to do about each missing thing.

Answers "why does it not work here?" before anything is loaded: it imports no library of ours, and
of the heavy ones only torch, because a torch that cannot be imported is what it must find.
Nothing is changed, and the network is tried once, for at most `NETWORK_SECONDS`.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from packaging.requirements import Requirement

NETWORK_SECONDS = 1.5
GIGABYTE = 10**9
MIN_FREE_MEMORY = 2 * GIGABYTE
"""GPT-2 small in float32, its cache for a prompt, and the libraries."""
MIN_FREE_DISK = 1 * GIGABYTE
"""GPT-2 small as the hub keeps it, with some room."""
EMBEDDED_MODEL = Path(__file__).resolve().parent / "tiny" / "weights"
EMBEDDED_FILES = ("config.json", "model.safetensors", "tokenizer.json")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONAL = {"ray": "ray", "nnsight": "bench"}
"""Libraries of an extra, and the extra."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    """What was looked at, in a few words."""
    value: str
    """What was found."""
    ok: bool
    """Whether everything of ours works with it."""
    advice: str = ""
    """What to do; empty where there is nothing to do."""


def diagnose() -> list[Check]:
    """Look at everything, in the order in which one thing needs the other."""
    return [
        check_python(),
        *check_packages(),
        *check_torch(),
        check_memory(),
        check_disk(Path(constants.HF_HUB_CACHE)),
        check_embedded_model(EMBEDDED_MODEL),
        check_hub_cache(Path(constants.HF_HUB_CACHE)),
        check_network(constants.ENDPOINT, offline=constants.HF_HUB_OFFLINE),
        check_browser(),
    ]


def check_python() -> Check:
    """The interpreter."""
    version = platform.python_version()
    ok = sys.version_info >= (3, 11)
    return Check("Python", version, ok, "" if ok else "Install Python 3.11 or newer.")


def check_packages(distribution: str = "interp") -> list[Check]:
    """Every package that `distribution` needs, and those of our extras, without importing them."""
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        advice = "Set it up with ./run demo, or: pip install -e ."
        return [Check(distribution, "not installed", False, advice)]
    needed = [Requirement(line) for line in lines]
    checks = [
        _check_package(requirement)
        for requirement in needed
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    return [*checks, *(_check_optional(name, extra) for name, extra in OPTIONAL.items())]


def _check_package(requirement: Requirement) -> Check:
    version = _installed(requirement.name)
    ok = version is not None and requirement.specifier.contains(version, prereleases=True)
    advice = f'Needs {requirement.specifier}: pip install "{requirement}"'
    return Check(requirement.name, version or "not installed", ok, "" if ok else advice)


def _check_optional(name: str, extra: str) -> Check:
    version = _installed(name)
    advice = f'Optional: pip install "interp[{extra}]"'
    return Check(name, version or "not installed", True, "" if version else advice)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_torch() -> list[Check]:
    """Whether torch works, with which device, and on how many threads."""
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = "Install another build of torch; see INTERP_TORCH in ./run --help."
        return [Check("device", f"torch cannot be imported: {reason}", False, advice)]
    if torch.cuda.is_available():
        device = Check("device", f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}", True)
    elif torch.version.cuda is not None:
        advice = "This torch is built for CUDA and finds no GPU: check the driver, or use the CPU."
        device = Check("device", "CPU", False, advice)
    elif torch.backends.mps.is_available():
        device = Check("device", "CPU, and Apple's GPU as mps", True)
    else:
        device = Check("device", "CPU", True)
    return [device, check_threads(torch.get_num_threads(), available_cores())]


def available_cores() -> int:
    """The cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(n_threads: int, n_cores: int) -> Check:
    """More threads than cores slow torch down."""
    ok = n_threads <= n_cores
    advice = "" if ok else f"More threads than cores are slow: set OMP_NUM_THREADS={n_cores}"
    return Check("threads", f"{n_threads} on {n_cores} cores", ok, advice)


def check_memory(meminfo: Path = Path("/proc/meminfo")) -> Check:
    """Memory that programs can still get; only Linux says how much that is."""
    if not meminfo.is_file():
        return Check("free memory", "unknown on this system", True)
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    n_bytes = int(fields["MemAvailable"].split()[0]) * 1024
    ok = n_bytes >= MIN_FREE_MEMORY
    advice = (
        "" if ok else "Close other programs; the embedded model needs little, GPT-2 needs 2 GB."
    )
    return Check("free memory", f"{n_bytes / GIGABYTE:.1f} GB", ok, advice)


def check_disk(folder: Path) -> Check:
    """Free space where models are kept."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    n_bytes = shutil.disk_usage(existing).free
    ok = n_bytes >= MIN_FREE_DISK
    advice = "" if ok else "Free some space, or set HF_HOME to a folder on another disk."
    return Check("free disk", f"{n_bytes / GIGABYTE:.1f} GB for {folder}", ok, advice)


def check_embedded_model(folder: Path) -> Check:
    """The model that ships with the package."""
    missing = [name for name in EMBEDDED_FILES if not (folder / name).is_file()]
    if missing:
        advice = "Install interp again; every default needs this model."
        return Check("embedded model", f"lacks {', '.join(missing)} in {folder}", False, advice)
    n_bytes = (folder / "model.safetensors").stat().st_size
    return Check("embedded model", f"{n_bytes / 10**6:.1f} MB", True)


def check_hub_cache(folder: Path) -> Check:
    """Where models of the hub are looked for, as huggingface_hub resolves its variables."""
    name = "models of the hub"
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)):
        advice = "Make it a folder that you can read, or set HF_HOME to another folder."
        return Check(name, f"{folder} cannot be read", False, advice)
    found = sorted(path.name for path in folder.glob("models--*")) if folder.exists() else []
    models = ", ".join(name.removeprefix("models--").replace("--", "/") for name in found)
    advice = "" if found else "interp models lists what can be loaded, and how."
    return Check(name, f"{folder}: {models or 'none yet'}", True, advice)


def check_network(endpoint: str, *, offline: bool, seconds: float = NETWORK_SECONDS) -> Check:
    """Whether models can be downloaded; where the environment says offline, nothing is tried."""
    name = "network"
    if offline:
        advice = "To download models, unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE."
        return Check(name, "off, by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE", True, advice)
    if not endpoint.startswith(("http://", "https://")):
        return Check(
            name, f"HF_ENDPOINT is {endpoint!r}", False, "It must start with http:// or https://."
        )
    problem = _try_to_reach(endpoint, seconds)
    if problem is None:
        return Check(name, f"{endpoint} answers", True)
    advice = (
        "The embedded model and downloaded models work without. To download others, check "
        "the connection, HTTPS_PROXY, SSL_CERT_FILE and HF_ENDPOINT, or copy a model's folder here."
    )
    return Check(name, f"{endpoint} cannot be reached: {problem}", False, advice)


def _try_to_reach(url: str, seconds: float) -> str | None:
    """Why there is no answer; None when there is one, whatever it says."""
    problem = f"no answer within {seconds:g} s"

    def ask() -> None:
        nonlocal problem
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                problem = None
        except urllib.error.HTTPError as answer:
            answer.close()
            problem = None
        except urllib.error.URLError as error:
            problem = str(error.reason)
        except (OSError, ValueError) as error:
            problem = str(error)

    # A thread, because looking up a name takes no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return problem


def check_browser() -> Check:
    """A browser that the tests can drive; people can use any."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    advice = "" if found else "Only the browser tests need it; on Debian: apt-get install chromium"
    return Check("Chromium", found or "not found", found is not None, advice)
