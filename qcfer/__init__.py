"""Facial expression recognition that still works when the face is turned away."""
__version__ = "0.2.0"

import lazy_loader

# The public face stands in `__init__.pyi`, where type checkers and editors look for it, too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
