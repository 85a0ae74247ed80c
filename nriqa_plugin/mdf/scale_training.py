"""Training of one scale: a generator against its discriminator."""

import math

import torch
from torch import nn

from nriqa_plugin.mdf import adversarial
from nriqa_plugin.mdf.discriminator import Discriminator
from nriqa_plugin.mdf.generator import border, initialise, new_generator, run
from nriqa_plugin.mdf.pyramid import scale_size

LEARNING_RATE, BETAS = 5e-4, (0.5, 0.999)
DECAY_AT, DECAY = 1600, 0.1  # iterations at each scale, factor
STEPS = 3  # of each network in an iteration
ADVICE = 'try --restart with another seed, a smaller alpha or the other adversarial form'
COLUMNS = ('real', 'fake', 'penalty', 'adversarial', 'mse')


class ScaleTraining:
    """Networks, optimizers and curves of one scale; SinGAN's rules.

    Args:
        settings (Settings): see there.
        index (int): scale, 0 is the coarsest.
        reals (list[list[Tensor]]): for each image its pyramid up to this scale, ``(1, 3, h, w)`` in [-1, 1].
        below (list[nn.Module]): trained generators of the coarser scales, in eval mode.
        start (tuple[dict, dict] | None): states of generator and discriminator of the scale below, to start from when
            its width is the same.
        rng (torch.Generator): draws distortions, pieces and penalties.
        device (torch.device): where to train.
    """

    def __init__(self, settings, index, reals, below, start, rng, device):
        self.settings, self.index, self.reals, self.below, self.rng = settings, index, reals, below, rng
        self.device = device
        width = settings.widths[index]
        self.generator = new_generator(settings.generator, width)
        self.discriminator = initialise(Discriminator(width))
        if start is not None:
            self.generator.load_state_dict(start[0])
            self.discriminator.load_state_dict(start[1])
        for network in (self.generator, self.discriminator):
            network.to(device, memory_format=torch.channels_last).train()
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, betas=BETAS)
            for network in (self.generator, self.discriminator)
        ]
        self.adversarial = adversarial.BY_NAME[settings.adversarial]()
        self.iteration = 0
        self.curve = torch.zeros(settings.iterations, len(COLUMNS))
        self.inputs = {}
        self.sizes = [
            scale_size(next(iter(settings.images.values())).shape[-2:], settings.rho, steps)
            for steps in range(settings.scales - 1, -1, -1)
        ]  # of the first image, for progress

    def step(self):
        """One iteration on the next image: one draw of its distorted input, three steps of each network.

        Raises:
            FloatingPointError: a loss is not finite; scale and iteration are named.
        """
        rate = LEARNING_RATE * (DECAY if self.iteration >= DECAY_AT else 1)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group['lr'] = rate
        padded, real = self._draw(self.iteration % len(self.reals))
        row = (*self._train_discriminator(padded, real), *self._train_generator(padded, real))
        self.curve[self.iteration] = torch.tensor(row)
        self.iteration += 1
        if not all(map(math.isfinite, row)):
            named = ', '.join(f'{name} {value:.4g}' for name, value in zip(COLUMNS, row, strict=True))
            raise FloatingPointError(f'the losses at {self._place()} are not finite ({named}); {ADVICE}')

    def _train_discriminator(self, padded, real):
        optimizer = self.optimizers[1]
        with torch.no_grad():
            fake = run(self.generator, padded)
        for _ in range(STEPS):
            optimizer.zero_grad()
            row = self.adversarial.train_discriminator(self.discriminator, real, fake, self.rng)
            optimizer.step()
        return row

    def _train_generator(self, padded, real):
        optimizer = self.optimizers[0]
        self.discriminator.requires_grad_(False)
        for _ in range(STEPS):
            optimizer.zero_grad()
            fake = run(self.generator, padded)
            against = self.adversarial.generator_loss(self.discriminator(fake))
            error = nn.functional.mse_loss(fake, real)
            (against + self.settings.alpha * error).backward()
            optimizer.step()
        self.discriminator.requires_grad_(True)
        return against.item(), error.item()

    def _draw(self, image):
        """The generator's input, with its border, and the image it stands for: whole, or the same piece of both."""
        real, padded = self.reals[image][self.index], self._padded_input(image)
        if self.settings.crop is not None:
            sides = [min(self.settings.crop, side) for side in real.shape[-2:]]
            corner = [
                int(torch.randint(whole - side + 1, (1,), generator=self.rng))
                for whole, side in zip(real.shape[-2:], sides, strict=True)
            ]
            padded = piece(padded, corner, [side + 2 * border(self.generator) for side in sides])
            real = piece(real, corner, sides)
        return (x.to(self.device).contiguous(memory_format=torch.channels_last) for x in (padded, real))

    def _padded_input(self, image):
        """The distorted input; when nothing about it is random it is made once."""
        if image in self.inputs:
            return self.inputs[image]
        distorted = self.settings.built_task.scale_input(self.reals[image], self.below, self.rng)
        padded = nn.functional.pad(distorted, [border(self.generator)] * 4)
        if not self.settings.built_task.random:
            self.inputs[image] = padded
        return padded

    def freeze(self):
        """End of the training: both networks in eval mode, without gradients.

        Raises:
            FloatingPointError: the last steps left a weight that is not finite.
        """
        for network in (self.generator, self.discriminator):
            network.eval().requires_grad_(False)
            if not all(value.isfinite().all() for value in network.state_dict().values()):
                raise FloatingPointError(f'weights at {self._place()} are not finite; {ADVICE}')

    def _place(self):
        return f'scale {self.index + 1} of {self.settings.scales}, iteration {self.iteration}'

    def state_dict(self):
        return {
            'iteration': self.iteration,
            'generator': self.generator.state_dict(),
            'discriminator': self.discriminator.state_dict(),
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'curve': self.curve,
        }

    def load_state_dict(self, state):
        self.iteration = state['iteration']
        self.generator.load_state_dict(state['generator'])
        self.discriminator.load_state_dict(state['discriminator'])
        for optimizer, stored in zip(self.optimizers, state['optimizers'], strict=True):
            optimizer.load_state_dict(stored)
        self.curve = state['curve']


def piece(image, corner, sides):
    """A view of ``sides`` px of an image ``(N, C, H, W)`` from ``corner`` (top, left) on."""
    (top, left), (height, width) = corner, sides
    return image[..., top : top + height, left : left + width]
