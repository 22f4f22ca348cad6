"""Data for learning to defer: the container, its readers and writers, images, and ways to split them.

``__init__.pyi`` lists the names that this package exports. Each is imported on first use: reading needs packages that
training does not, such as pandas, Pillow or grain.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
