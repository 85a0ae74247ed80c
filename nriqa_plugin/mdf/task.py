"""What the generator of each scale is given: the task whose loss is trained."""

import torch

from nriqa_plugin.checks import unknown_name
from nriqa_plugin.mdf.distortions import JPEG, Downscale, GaussianNoise, check_distorted, create_distortion
from nriqa_plugin.mdf.generator import generate
from nriqa_plugin.mdf.resize import resize

TASKS = ('sisr', 'denoise', 'jpeg')


class Task:
    """How images are distorted during training.

    Args:
        task (str | dict | callable): ``sisr`` (made smaller by rho and larger again; at finer scales the enlarged
            result of the coarser generator), ``denoise`` (Gaussian noise of sigma 0 to 55 of 255, added to it),
            ``jpeg`` (coded with quality 7 to 10), or a distortion as in
            :func:`nriqa_plugin.mdf.distortions.create_distortion`, used like ``denoise``.
        rho (float): ratio of neighbouring scales.

    Attributes:
        name (str): for the header of the file.
        distortion: the callable that is applied; for ``sisr`` to the coarsest image only.
        random (bool): whether the inputs differ from draw to draw.

    Raises:
        ValueError, TypeError: no such task or distortion.
    """

    def __init__(self, task, rho):
        self.random = task != 'sisr'
        if isinstance(task, str) and task in TASKS:
            self.name = task
            self.distortion = {
                'sisr': lambda: Downscale(rho),
                'denoise': lambda: GaussianNoise((0, 55)),
                'jpeg': lambda: JPEG((7, 10)),
            }[task]()
        elif isinstance(task, str) and ':' not in task:
            raise unknown_name('task', task, [*TASKS, 'package.module:function'])
        else:
            self.name = task if isinstance(task, str) else 'custom'
            self.distortion = create_distortion(task)

    def distort(self, images, rng):
        """Apply the distortion, which speaks [0, 1], to images in [-1, 1]."""
        unit = (images + 1) / 2
        return check_distorted(self.distortion, unit, self.distortion(unit, rng)).to(images) * 2 - 1

    @torch.no_grad()
    def scale_input(self, reals, generators, rng):
        """The input of the next finer generator: coarsest image distorted, then restored and enlarged scale by scale.

        Args:
            reals (list[Tensor]): the pyramid of one image, each ``(1, 3, h, w)`` in [-1, 1], coarsest first.
            generators (list[nn.Module]): trained generators of the scales below, in eval mode.
            rng (torch.Generator): what the distortion draws from.

        Returns:
            Tensor: of the size of ``reals[len(generators)]``.
        """
        image = self.distort(reals[0], rng)
        for network, finer in zip(generators, reals[1:], strict=False):
            restored = generate(network, image).clamp(-1, 1)
            image = resize(restored, finer.shape[-2:]).clamp(-1, 1)
            if self.random:
                image = self.distort(image, rng)
        return image
