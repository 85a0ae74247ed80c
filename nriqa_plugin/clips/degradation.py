"""How an LQ clip is made from a GT clip on the fly: bicubic, and what comes before and after it."""

import math

import torch

from nriqa_plugin.checks import check_keys, check_number, did_you_mean, in_place
from nriqa_plugin.clips.bicubic import bicubic_down, filter_rows, to_8_bits
from nriqa_plugin.clips.coding import H264
from nriqa_plugin.mdf.distortions import BY_NAME, check_distorted, create_distortion


class GaussianBlur:
    """Gaussian blur of the same strength for all frames of a clip; beyond their sides frames go on mirrored.

    Args:
        sigma (float | tuple[float, float]): in px of the frames that it gets; a pair is drawn from uniformly, once for
            a clip.
    """

    def __init__(self, sigma=1.6):
        pair = sigma if isinstance(sigma, (list, tuple)) else (sigma, sigma)
        if len(pair) != 2:
            raise ValueError(f'sigma must be a number or [low, high], got {sigma!r}')
        self.sigma = tuple(check_number('sigma', bound, low=0) for bound in pair)
        if self.sigma[0] > self.sigma[1]:
            raise ValueError(f'sigma must rise, got {sigma!r}')
        self.reach = math.ceil(4 * self.sigma[1])

    def __call__(self, clip, generator):
        low, high = self.sigma
        sigma = low + (high - low) * torch.rand(1, generator=generator).item()
        if sigma == 0:
            return clip
        reach = math.ceil(4 * sigma)
        taps = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
        taps = (taps / taps.sum()).to(clip)
        for _ in range(2):
            clip = filter_rows(clip, taps, reach).transpose(-1, -2)
        return clip

    def __repr__(self):
        return f'GaussianBlur(sigma={self.sigma})'


OWN = {'gaussian_blur': (GaussianBlur, ('sigma',)), 'h264': (H264, ('crf', 'fps'))}


class ClipDegradation:
    """Makes an LQ clip from a GT clip.

    Args:
        option (str | list): ``bicubic``, or stages in their order, one of them ``bicubic`` (the downscaling): a type or
            ``{type: ..., ...}``. What stands before works at GT's size, what stands after at LQ's.

            - ``gaussian_blur`` (``sigma``): one strength a clip;
            - ``gaussian_noise`` (``sigma``), ``jpeg`` (``quality``), ``package.module:function``: frame by frame, see
              :func:`nriqa_plugin.mdf.distortions.create_distortion`; a range is drawn from anew for every frame;
            - ``h264`` (``crf``): the whole clip through the coder, see :class:`nriqa_plugin.clips.coding.H264`.
        scale (int): of the downscaling.

    Raises:
        ValueError, TypeError: an unknown stage or option, or not exactly one ``bicubic``.
    """

    def __init__(self, option='bicubic', scale=4):
        self.scale = check_number('scale', scale, low=1, integer=True)
        stages = list(option) if isinstance(option, (list, tuple)) else [option]
        names = [stage.get('type') if isinstance(stage, dict) else stage for stage in stages]
        if names.count('bicubic') != 1:
            known = ('bicubic', *OWN, *BY_NAME)
            hints = ''.join(did_you_mean(name, known) for name in names if name not in known)
            raise ValueError(f"degradation: wants exactly one stage 'bicubic', got {option!r}.{hints}")
        at = names.index('bicubic')
        if isinstance(stages[at], dict):
            check_keys('bicubic', stages[at], ('type',))
        self.before = [_stage(stage) for stage in stages[:at]]
        self.after = [_stage(stage) for stage in stages[at + 1 :]]
        reach = sum(getattr(stage, 'reach', 0) for stage in self.before)
        # px around a crop that its result depends on: the kernel reaches 2 * scale.
        self.margin = -(-(2 * self.scale + reach) // self.scale) * self.scale

    def __call__(self, clip, generator):
        """The LQ clip ``(T, 3, H / scale, W / scale)`` of a clip ``(T, 3, H, W)`` in [0, 1], rounded to 8 bits."""
        return self.crop(clip, (0, 0, *clip.shape[-2:]), generator)

    def crop(self, clip, box, generator):
        """What a crop of the LQ clip would be, without downscaling all of it.

        What stands before ``bicubic`` gets the crop and ``margin`` px around it, as far as there are any, what stands
        after gets the crop alone. Coders (``jpeg``, ``h264``) begin their blocks at the corner of what they get.

        Args:
            clip (Tensor): whole frames ``(T, 3, H, W)`` in [0, 1].
            box (tuple[int, int, int, int]): top, left, height, width in px of GT, multiples of ``scale``.
            generator (torch.Generator): on the CPU.

        Returns:
            Tensor: ``(T, 3, height / scale, width / scale)`` in [0, 1], rounded to 8 bits.
        """
        top, left, height, width = box
        above, aside = max(0, top - self.margin), max(0, left - self.margin)
        part = clip[..., above : top + height + self.margin, aside : left + width + self.margin]
        part = part[..., : part.shape[-2] // self.scale * self.scale, : part.shape[-1] // self.scale * self.scale]
        for stage in self.before:
            part = _applied(stage, part, generator)
        small = bicubic_down(part, self.scale)
        y, x = (top - above) // self.scale, (left - aside) // self.scale
        small = small[..., y : y + height // self.scale, x : x + width // self.scale]
        for stage in self.after:
            small = _applied(stage, small, generator)
        return to_8_bits(small)

    def __repr__(self):
        stages = [*map(str, self.before), f'bicubic x1/{self.scale}', *map(str, self.after)]
        return f'{type(self).__name__}({", ".join(stages)})'


def _stage(option):
    name = option.get('type') if isinstance(option, dict) else option
    if name not in OWN:
        with in_place('degradation'):
            return create_distortion(option)
    kind, allowed = OWN[name]
    options = {key: value for key, value in option.items() if key != 'type'} if isinstance(option, dict) else {}
    check_keys(name, options, allowed)
    return kind(**options)


def _applied(stage, clip, generator):
    return check_distorted(stage, clip, stage(clip.clone(), generator)).to(clip)
