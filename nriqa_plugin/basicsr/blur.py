"""Real-ESRGAN's degradation on today's torch, mended from outside."""

import contextlib
import sys


@contextlib.contextmanager
def contiguous_blur(model):
    """Inside, the host's ``filter2D`` takes what its own JPEG step returns.

    That is not contiguous for batches of two and more, and ``filter2D`` asks for a view of it: seen to fail with torch
    2.11. The function is replaced in the modules of the model's classes, where they look it up.
    """
    modules = {sys.modules[part.__module__] for part in type(model).__mro__ if part.__module__ in sys.modules}
    stock = {module: module.filter2D for module in modules if hasattr(module, 'filter2D')}
    for module, blur in stock.items():
        module.filter2D = lambda image, kernel, blur=blur: blur(image.contiguous(), kernel)
    try:
        yield
    finally:
        for module, blur in stock.items():
            module.filter2D = blur
