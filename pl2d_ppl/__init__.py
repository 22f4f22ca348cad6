"""Probabilistic learning to defer, written as NumPyro programs.

Models lie in :mod:`pl2d_ppl.models`, guides in :mod:`pl2d_ppl.guides`: edit them. What is exported here is listed in
``__init__.pyi``, and imported when it is asked for; everything else is imported from where it lives.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("pl2d_ppl")
