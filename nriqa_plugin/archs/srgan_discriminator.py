"""The discriminator of SRGAN, as iSeeBetter trains with it."""

import torch
from torch import nn

from nriqa_plugin.checks import check_flag, check_images, check_number, checks_options

WIDTHS = (1, 1, 2, 2, 4, 4, 8, 8)  # times num_feat; every second convolution halves the size


@checks_options
class SRGANDiscriminator(nn.Module):
    """Is an image real? Eight convolutions, then a score for the whole image (Ledig et al., CVPR 2017).

    Keys are those of iSeeBetter's published checkpoints (``net.0.weight`` ...). Mean pooling stands before the two
    last layers, so images of any size are taken.

    Args:
        num_in_ch (int): channels of the image.
        num_feat (int): width of the first convolution; the last one is 8 times as wide.
        sigmoid (bool): answer with a probability, as the published code does. Off, for both frameworks' ``GANLoss``
            of the type ``vanilla`` wants logits; with their ``l1`` (mmagic) or ``wgan`` (BasicSR) and ``sigmoid`` the
            gradients are those of the published ``1 - D(fake)`` and ``1 - D(real) + D(fake)``.

    Shapes: ``(N, num_in_ch, H, W)`` to ``(N,)``. In training mode batch normalisation wants more than one value a
    channel at a sixteenth of the size.

    Raises:
        ValueError, TypeError: an option out of range, or an input of another shape.
    """

    def __init__(self, num_in_ch=3, num_feat=64, sigmoid=False):
        super().__init__()
        self.channels = check_number('num_in_ch', num_in_ch, low=1, integer=True)
        width = check_number('num_feat', num_feat, low=1, integer=True)
        self.sigmoid = check_flag('sigmoid', sigmoid)
        layers, inside = [], self.channels
        for i, times in enumerate(WIDTHS):
            layers.append(nn.Conv2d(inside, times * width, 3, stride=1 + i % 2, padding=1))
            if i:
                layers.append(nn.BatchNorm2d(times * width))
            layers.append(nn.LeakyReLU(0.2))
            inside = times * width
        head = [nn.Conv2d(inside, 2 * inside, 1), nn.LeakyReLU(0.2), nn.Conv2d(2 * inside, 1, 1)]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *head)

    def forward(self, x):
        check_images('the input', x, channels=self.channels, needed_by='SRGANDiscriminator')
        score = self.net(x).flatten()
        return torch.sigmoid(score) if self.sigmoid else score
