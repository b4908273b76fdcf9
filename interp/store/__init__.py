"""Activations on disk: exact, described, checksummed, and never half written.

`collect` puts them there, `open` reads them. The format is described in docs/activation-store.md.
"""

from interp.store.collecting import collect as collect
from interp.store.reader import open as open
