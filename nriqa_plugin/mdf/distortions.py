"""What spoils an image: noise, JPEG, downscaling. For the training of MDF discriminators and of restoration networks.

A distortion is any callable ``(images, generator) -> images`` on ``(N, C, H, W)`` floating point in [0, 1] that keeps
the shape and draws its random numbers from the generator (on the CPU) only.
"""

import functools
import inspect
import io
import math

import numpy as np
import torch
from PIL import Image

from nriqa_plugin.checks import check_keys, check_number, import_dotted, unknown_name
from nriqa_plugin.mdf.resize import resize

CHANNELS = {1: 'L', 3: 'RGB'}
# How far outside [0, 1] a distorted value may lie. PyTorch's normal numbers end near 6 in float32, so noise of sigma
# 255 stays inside; of an image in 0 to 255, only one that is black everywhere would.
FAR = 7


class GaussianNoise:
    """White Gaussian noise, not clipped, its strength drawn for every image.

    Args:
        sigma (float | tuple[float, float]): standard deviation in 8-bit levels; a pair is drawn from uniformly.
    """

    def __init__(self, sigma=(0, 55)):
        self.sigma = _span('sigma', sigma, low=0)

    def __call__(self, images, generator):
        low, high = self.sigma
        sigma = (low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)) / 255
        return images + (sigma * torch.randn(images.shape, generator=generator)).to(images)

    def __repr__(self):
        return f'GaussianNoise(sigma={self.sigma})'


class JPEG:
    """Coded and decoded by Pillow (libjpeg, 4:2:0 for colour), the quality drawn for every image.

    Args:
        quality (int | tuple[int, int]): 1 to 100; a pair is drawn from uniformly, both ends included.

    Values are clipped to [0, 1] and rounded to 8 bit, as the coder wants them.
    """

    def __init__(self, quality=(7, 10)):
        self.quality = _span('quality', quality, low=1, high=100, integer=True)

    def __call__(self, images, generator):
        low, high = self.quality
        qualities = torch.randint(low, high + 1, (len(images),), generator=generator)
        return torch.stack([_coded(image, int(q)) for image, q in zip(images, qualities, strict=True)]).to(images)

    def __repr__(self):
        return f'JPEG(quality={self.quality})'


class Downscale:
    """Lanczos down and up again: what is lost when an image is made smaller. Draws nothing.

    Args:
        scale (float): how many times smaller, above 1.
    """

    def __init__(self, scale=2):
        self.scale = check_number('scale', scale, low=1)

    def __call__(self, images, generator=None):
        size = images.shape[-2:]
        return resize(resize(images, [max(1, round(side / self.scale)) for side in size]), size)

    def __repr__(self):
        return f'Downscale(scale={self.scale})'


BY_NAME = {'gaussian_noise': GaussianNoise, 'jpeg': JPEG, 'downscale': Downscale}
OPTIONS = {'gaussian_noise': ('sigma',), 'jpeg': ('quality',), 'downscale': ('scale',)}


def create_distortion(option):
    """Build a distortion from an option file's entry.

    Args:
        option (dict | str | callable): ``{type: gaussian_noise, sigma: [0, 55]}``, ``{type: jpeg, quality: 10}``,
            ``{type: downscale, scale: 2}``, just the type, ``package.module:function`` or a class there (as a type
            with keywords beside it), or a distortion itself.

    Raises:
        ValueError, TypeError: unknown type or option, a value out of range, or a function with other arguments; naming
            it.
    """
    if callable(option):
        return _checked_call(option)
    if isinstance(option, str):
        option = {'type': option}
    if not isinstance(option, dict) or not isinstance(option.get('type'), str):
        raise TypeError(f'a distortion is {{type: {" | ".join(BY_NAME)}, ...}} or package.module:function, '
                        f'got {option!r}')  # fmt: skip
    options = dict(option)
    name = options.pop('type')
    if ':' in name:
        distortion = import_dotted('distortion', name)
        if isinstance(distortion, type):
            return _checked_call(distortion(**options))
        if not callable(distortion):
            raise TypeError(f'the distortion {name} must be a function (images, generator) -> images, '
                            f'got {type(distortion).__name__}')  # fmt: skip
        _checked_call(distortion, options)
        return functools.partial(distortion, **options) if options else distortion
    if name not in BY_NAME:
        raise unknown_name('distortion', name, BY_NAME)
    check_keys(name, options, OPTIONS[name])
    return BY_NAME[name](**options)


def check_distorted(distortion, before, after):
    """Refuse what a custom distortion gave back when it is no image of the same shape in [0, 1], more or less.

    Raises:
        ValueError, TypeError: naming the distortion.
    """
    if not isinstance(after, torch.Tensor):
        raise TypeError(f'the distortion {described(distortion)} must return a tensor, got {type(after).__name__}')
    if after.shape != before.shape:
        raise ValueError(f'the distortion {described(distortion)} must keep the shape {tuple(before.shape)}, '
                         f'got {tuple(after.shape)}')  # fmt: skip
    low, high = (bound.item() for bound in torch.aminmax(after.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f'the distortion {described(distortion)} gave NaN or infinite values')
    if low < -FAR or high > 1 + FAR:
        raise ValueError(f'the distortion {described(distortion)} is given images in [0, 1] and must give such, got '
                         f'values in [{low:.4g}, {high:.4g}]; does it count in 0 to 255?')  # fmt: skip
    return after


def described(option):
    """A callable, or a plain value, in words that are the same in every process."""
    if hasattr(option, '__qualname__'):
        return f'{option.__module__}:{option.__qualname__}'
    if isinstance(option, functools.partial):
        given = [*map(repr, option.args), *(f'{key}={value!r}' for key, value in option.keywords.items())]
        return f'{described(option.func)}({", ".join(given)})'
    return f'{type(option).__name__}()' if type(option).__repr__ is object.__repr__ else str(option)


def _checked_call(distortion, options=()):
    """Return a distortion that can be called with ``(images, generator)`` and the options."""
    try:
        inspect.signature(distortion).bind(None, None, **dict(options))
    except ValueError:  # a builtin without a signature
        pass
    except TypeError as error:
        beside = f' and the options {", ".join(map(str, options))}' if options else ''
        raise TypeError(f'the distortion {described(distortion)} must take (images, generator){beside}: '
                        f'{error}') from error  # fmt: skip
    return distortion


def _span(option, value, **limits):
    """A number or a pair as (low, high)."""
    pair = value if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f'{option} must be a number or [low, high], got {value!r}')
    low, high = (check_number(option, bound, **limits) for bound in pair)
    if low > high:
        raise ValueError(f'{option} must rise, got {value!r}')
    return low, high


def _coded(image, quality):
    """``(C, H, W)`` in [0, 1] through the JPEG coder."""
    if image.shape[0] not in CHANNELS:
        raise ValueError(f'JPEG codes images of 1 or 3 channels, got {tuple(image.shape)}')
    levels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).save(buffer, 'JPEG', quality=quality)
    with Image.open(buffer) as decoded:
        levels = np.array(decoded)
    return torch.from_numpy(levels.reshape(*levels.shape[:2], -1)).permute(2, 0, 1).float() / 255
