"""Probabilistic learning to defer, written as NumPyro programs.

Models are in :mod:`pl2d_ppl.models` and guides in :mod:`pl2d_ppl.guides`: edit them. ``__init__.pyi`` lists the names
exported here; each is imported on first use. Import everything else from its own module.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("pl2d_ppl")
