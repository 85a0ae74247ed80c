"""What makes a candidate ground truth out of an original: the interface, and the names that option texts use."""

import hashlib
import inspect

from nriqa_plugin.checks import check_keys, import_dotted, unknown_name
from nriqa_plugin.multigt.tiles import in_tiles

BUILT_IN = {
    'unsharp': 'nriqa_plugin.multigt.filters:Unsharp',
    'denoise': 'nriqa_plugin.multigt.filters:Denoise',
    'detail': 'nriqa_plugin.multigt.filters:Detail',
    'model': 'nriqa_plugin.multigt.enhancing_models:Model',
    'folder': 'nriqa_plugin.multigt.enhancing_models:Folder',
}


class Enhancer:
    """Base of all enhancers: subclass it, set the attributes, write :meth:`enhance`.

    Attributes:
        scale (int): px of the result to a px of what :meth:`prepare` returns.
        overlap (int): how far, in px of what :meth:`prepare` returns, a pixel of the result looks.
    """

    scale = 1
    overlap = 0

    def prepare(self, image):
        """The input for the whole image, made at once; ``(1, 3, H, W)`` to ``(1, 3, H / scale, W / scale)``."""
        return image

    def enhance(self, images):
        """``(1, 3, h, w)`` RGB in [0, 1] to ``(1, 3, scale * h, scale * w)``; to be written by the subclass."""
        raise TypeError(f'{type(self).__name__} must define enhance(images)')

    def finish(self, image, height, width):
        """The enhanced image cut to the original's size."""
        return image[..., :height, :width]

    def candidate(self, image, stem, tile):
        """The candidate for one original.

        Args:
            image (Tensor): RGB in [0, 1], ``(1, 3, H, W)``.
            stem (str): the original's file name without ending.
            tile (int): side of the tiles in px of the original.

        Returns:
            Tensor: of the same shape; values outside [0, 1] are cut off when it is written.
        """
        side = max(1, tile // self.scale)
        made = in_tiles(self.enhance, self.prepare(image), side, self.overlap, self.scale)
        return self.finish(made, *image.shape[-2:])

    def source_hash(self, original_hash, stem):
        """What a candidate's file is made from, beside the enhancer: it is made again when this changes."""
        return original_hash

    def to(self, device):
        """Move what there is of weights; returns the enhancer itself."""
        return self

    def identity(self):
        """12 hex digits that stand for the enhancer: its class and its plain attributes (numbers and texts)."""
        plain = {key: value for key, value in vars(self).items() if isinstance(value, (bool, int, float, str))}
        return hashlib.sha256(repr((type(self).__name__, sorted(plain.items()))).encode()).hexdigest()[:12]


class Wrapped(Enhancer):
    """A plain function ``(1, 3, H, W) -> (1, 3, H, W)`` as an enhancer, which sees every image as a whole."""

    def __init__(self, name, function):
        self.name, self.function = name, function

    def candidate(self, image, stem, tile):
        return self.function(image)


def create_enhancer(name, **options):
    """Build an enhancer by name.

    Args:
        name (str): ``unsharp``, ``denoise``, ``detail``, ``model`` (any checkpoint that spandrel reads), ``folder``
            (outputs that are there already), or ``package.module:factory`` whose factory returns an
            :class:`Enhancer` or a function ``(1, 3, H, W) -> (1, 3, H, W)`` on RGB in [0, 1].
        options: of the enhancer; unknown ones are refused.

    Raises:
        ValueError, TypeError: unknown name (the closest ones are shown) or option, or a wrong value.
        FileNotFoundError: a file or folder among the options is missing.
        ImportError: ``model`` without spandrel.
    """
    if ':' in name:
        made = import_dotted('enhancer', name)(**options)
        if not isinstance(made, Enhancer) and not callable(made):
            raise TypeError(f'{name} returned a {type(made).__name__}, wanted an Enhancer or a function')
        return made if isinstance(made, Enhancer) else Wrapped(f'{name}{sorted(options.items())}', made)
    if name not in BUILT_IN:
        raise unknown_name('enhancer', name, BUILT_IN)
    enhancer = import_dotted('enhancer', BUILT_IN[name])
    parameters = inspect.signature(enhancer).parameters
    check_keys(f'the enhancer {name}', options, parameters)
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise ValueError(f'the enhancer {name} needs the option {key!r}')
    return enhancer(**options)
