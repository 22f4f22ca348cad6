"""Probabilistic learning to defer, written as NumPyro programs.

Models are in :mod:`pl2d_ppl.models` and guides in :mod:`pl2d_ppl.guides`: edit them. ``__init__.pyi`` lists the names
exported here; each is imported on first use. Import everything else from its own module.
"""

import sys
from importlib.metadata import version
from typing import Any

import lazy_loader

_exported, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("pl2d_ppl")


def _load_lazy() -> None:
    """Load what ArviZ, if it is imported first, has only announced.

    If a module of NumPyro is imported before NumPyro itself is loaded, it exists twice, and with it the stack of effect
    handlers: programs would not see their seeds.
    """
    for name in ("jax", "numpyro"):
        getattr(sys.modules.get(name), "__version__", None)


def __getattr__(name: str) -> Any:
    _load_lazy()
    return _exported(name)


_load_lazy()
