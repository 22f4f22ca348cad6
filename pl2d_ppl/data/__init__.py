"""Data for learning to defer: the container, its readers and writers, images, and ways to split them.

What this package exports is listed in ``__init__.pyi``, and imported when it is asked for: reading needs packages that
training does not, such as pandas, Pillow or grain.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
