"""The errors that a person can cause, and the exit code each gives on the command line.

Every message says what was expected, what came, and what to do next. Programming errors keep
Python's own types.
"""


class InterpError(ValueError):
    """Root of the errors below. `exit_code` is what the command line returns."""

    exit_code = 2


class PromptError(InterpError):
    """Text or token ids that the model cannot take."""


class HookError(InterpError):
    """A hook that cannot run, did not run, or returned something that does not fit."""


class UnknownHookError(HookError, KeyError):
    """A hook name that the model does not have; a `KeyError`, so that `in` works on a cache."""

    __str__ = Exception.__str__


class CacheError(InterpError):
    """A question that a cache cannot answer."""


class ConfigError(InterpError):
    """A model configuration that is invalid or not understood."""


class CheckpointError(InterpError):
    """Weights that are missing, damaged or of the wrong shape."""

    exit_code = 4


class UnsafeCheckpointError(CheckpointError):
    """A file that could run code or exhaust the machine when opened."""


class TokenizerError(InterpError):
    """A tokenizer that is missing or does not belong to the model."""


class OfflineError(InterpError):
    """Something is not on this machine, and the hub cannot be reached."""

    exit_code = 3


class StoreError(InterpError):
    """A question or a request that an activation store cannot answer."""


class DamagedStoreError(StoreError):
    """A file of an activation store is missing, altered or not what its record says."""

    exit_code = 4


class ResourceError(InterpError):
    """The machine has too little disk or memory for what was asked, or a disk failed."""

    exit_code = 3


class UnknownOutcomeError(ResourceError):
    """A request to a storage whose answer was lost: it may have been carried out, or yet be."""
