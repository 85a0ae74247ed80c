"""The options of one training of MDF discriminators, checked."""

import dataclasses

from nriqa_plugin.checks import check_choice, check_number, tensors_hash
from nriqa_plugin.mdf import adversarial
from nriqa_plugin.mdf.discriminator import RECEPTIVE_FIELD, WIDEST
from nriqa_plugin.mdf.distortions import described
from nriqa_plugin.mdf.pyramid import fit_scales
from nriqa_plugin.mdf.task import Task

WIDTHS = (32, 32, 32, 32, 64, 64, 64, 64, 128)  # of the authors' discriminators, coarsest scale first


@dataclasses.dataclass
class Settings:
    """What the result depends on; the defaults are the paper's and, where it is silent, SinGAN's.

    Args:
        images (dict[str, Tensor]): training images by name, RGB in [0, 1], ``(3, H, W)``; taken in turn.
        task (str | dict | callable): as in :class:`nriqa_plugin.mdf.task.Task`.
        scales (int): K; lowered with a warning when an image is too small, see
            :func:`nriqa_plugin.mdf.pyramid.fit_scales`.
        rho (float): ratio of neighbouring scales, above 1.
        iterations (int): at each scale; each takes three steps of the discriminator, then three of the generator.
        alpha (float): weight of the generator's mean squared error.
        widths (list[int] | int | None): hidden channels, one for all or one for each scale, coarsest first; ``None``
            is 32 for four scales, 64 for four, 128 from there on. What a lowered K leaves over at the fine end is
            not used.
        adversarial (str): ``wgan-gp`` or ``bce``.
        generator (str | callable): as in :func:`nriqa_plugin.mdf.generator.new_generator`.
        crop (int | None): train on random pieces of at most this many px a side instead of whole images, which bounds
            time and memory of the fine scales; an addition of ours, at least 11.
        seed (int): of everything random.

    Attributes:
        scales: the K that is trained.

    Raises:
        ValueError, TypeError: naming the option.
    """

    images: dict
    task: object
    scales: int = 8
    rho: float = 2
    iterations: int = 3000
    alpha: float = 100
    widths: object = None
    adversarial: str = 'wgan-gp'
    generator: object = 'singan'
    crop: int | None = None
    seed: int = 0

    def __post_init__(self):
        if not self.images:
            raise ValueError('images: at least one is needed')
        for name, image in self.images.items():
            _check_image(name, image)
        self.scales = fit_scales(self.scales, self.rho, [image.shape[-2:] for image in self.images.values()])
        check_number('iterations', self.iterations, low=1, integer=True)
        check_number('alpha', self.alpha, low=0)
        check_number('seed', self.seed, low=0, high=2**63 - 1, integer=True)
        if self.crop is not None:
            check_number('crop', self.crop, low=RECEPTIVE_FIELD, integer=True)
        check_choice('adversarial', self.adversarial, adversarial.BY_NAME)
        self.widths = _widths(self.widths, self.scales)
        self.built_task = Task(self.task, self.rho)

    def header(self):
        """The options as plain values, for the header of the file and to know whether a checkpoint is of this run."""
        images = [
            {'name': name, 'size': list(image.shape[-2:]), 'hash': tensors_hash([('', image)])}
            for name, image in self.images.items()
        ]
        return {
            'task': self.built_task.name,
            'distortion': described(self.built_task.distortion),
            'images': images,
            'range': [-1.0, 1.0],
            'rho': self.rho,
            'scales': self.scales,
            'widths': list(self.widths),
            'iterations': self.iterations,
            'alpha': self.alpha,
            'adversarial': self.adversarial,
            'generator': described(self.generator),
            'crop': self.crop,
            'seed': self.seed,
        }


def _check_image(name, image):
    """Refuse anything but a colour image in [0, 1]."""
    if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise ValueError(f'{name} must be a floating-point RGB image (3, H, W), got {image.dtype} {tuple(image.shape)}')
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f'{name} must lie in [0, 1], got values in [{image.min():.4g}, {image.max():.4g}]')
    if is_grey(image):
        raise ValueError(f'{name} is grey: a discriminator that is trained on it never sees colour. Take a colour '
                         'image')  # fmt: skip


def is_grey(image):
    """Whether the three channels are the same."""
    return bool((image == image[:1]).all())


def _widths(widths, scales):
    """One width for each scale."""
    if widths is None:
        widths = [*WIDTHS, *[WIDTHS[-1]] * scales]
    elif not isinstance(widths, (list, tuple)):
        widths = [widths] * scales
    elif len(widths) == 1:
        widths = list(widths) * scales
    if len(widths) < scales:
        raise ValueError(f'widths must be one number or one for each of the {scales} scales, got {list(widths)}')
    return [check_number('widths', width, low=1, high=WIDEST, integer=True) for width in widths[:scales]]
