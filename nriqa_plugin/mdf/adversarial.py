"""What the discriminator and the generator minimise against each other."""

import torch
from torch.nn import functional

PENALTY = 0.1  # weight of the gradient penalty, as in SinGAN


class WassersteinGP:
    """WGAN-GP as SinGAN trains it: ``-mean D(real) + mean D(fake) + 0.1 * penalty``; the generator's is ``-mean D``."""

    def train_discriminator(self, discriminator, real, fake, rng):
        """Add the gradients of one step to the discriminator's parameters.

        Args:
            discriminator (nn.Module): in training mode.
            real, fake (Tensor): ``(N, C, H, W)``, without graph.
            rng (torch.Generator): draws where between real and fake the penalty is taken.

        Returns:
            tuple[float, float, float]: mean activation on real, on fake, and the penalty before its weight.
        """
        on_real = discriminator(real).mean()
        (-on_real).backward()
        on_fake = discriminator(fake).mean()
        on_fake.backward()
        share = torch.rand(1, generator=rng).item()
        penalty = gradient_penalty(discriminator, torch.lerp(fake, real, share))
        (PENALTY * penalty).backward()
        return on_real.item(), on_fake.item(), penalty.item()

    def generator_loss(self, on_fake):
        """0-d tensor from the discriminator's map of the generator's result."""
        return -on_fake.mean()


class CrossEntropy:
    """The paper's text: activations, as a sigmoid in [0, 1], are pushed to 1 on real and to 0 on fake.

    The stored discriminator stays linear: its activation is the logit. Methods as in :class:`WassersteinGP`.
    """

    def train_discriminator(self, discriminator, real, fake, rng):
        means = []
        for image, goal in ((real, 1.0), (fake, 0.0)):
            logits = discriminator(image)
            functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, goal)).backward()
            means.append(logits.detach().sigmoid().mean().item())
        return *means, 0.0

    def generator_loss(self, on_fake):
        return functional.binary_cross_entropy_with_logits(on_fake, torch.ones_like(on_fake))


BY_NAME = {'wgan-gp': WassersteinGP, 'bce': CrossEntropy}


def gradient_penalty(discriminator, images):
    """``mean((||dD/dx||_2 - 1)^2)`` with the norm over the channels of each pixel (SinGAN), ready for ``backward``.

    Args:
        discriminator (nn.Module): its map is summed, so a pixel's gradient is that of all activations that see it.
        images (Tensor): ``(N, C, H, W)``.
    """
    images = images.detach().requires_grad_(True)
    activations = discriminator(images)
    (gradient,) = torch.autograd.grad(activations, images, torch.ones_like(activations), create_graph=True)
    return ((gradient.norm(2, dim=1) - 1) ** 2).mean()
