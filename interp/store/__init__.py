"""Activations on disk: exact, described, checksummed, and never half written.

`collect` puts them there, `open` reads them. The format is described in docs/activation-store.md.
Reading loads nothing of the model.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from interp.store import catalogue as catalogue
    from interp.store import documents as documents
    from interp.store import exports as exports
    from interp.store.collecting import collect as collect
    from interp.store.reader import open as open

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["catalogue", "documents", "exports"],
    submod_attrs={"collecting": ["collect"], "reader": ["open"]},
)
