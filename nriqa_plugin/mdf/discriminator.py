"""One discriminator of the MDF loss: five convolutions that look at 11 x 11 px."""

from torch import nn

from nriqa_plugin.checks import check_number

RECEPTIVE_FIELD = 11  # five 3 x 3 convolutions
BODY = 3
WIDEST = 1024  # channels; a damaged file shall not reserve more than there is


class Discriminator(nn.Module):
    """Patch discriminator of SinGAN (Shaham et al., ICCV 2019) with the keys of the weights that the authors of MDF
    released: ``head``, three blocks in ``body``, ``tail``; stride 1, no padding, linear output.

    Args:
        width (int): channels of the hidden layers; 32, 64 or 128 in the released weights.
        channels (int): channels of the image.

    Shapes: ``(N, channels, H, W)`` to ``(N, 1, H - 10, W - 10)``; both sides need at least 11 px.
    """

    def __init__(self, width, channels=3):
        super().__init__()
        check_number('width', width, low=1, high=WIDEST, integer=True)
        check_number('channels', channels, low=1, high=WIDEST, integer=True)
        self.width, self.channels = width, channels
        self.head = conv_block(channels, width)
        self.body = nn.Sequential()
        for index in range(1, BODY + 1):
            self.body.add_module(f'block{index}', conv_block(width, width))
        self.tail = nn.Conv2d(width, 1, 3)

    def forward(self, images):
        return self.tail(self.body(self.head(images)))


def conv_block(in_channels, out_channels, padding=0):
    """Convolution, batch norm and LeakyReLU(0.2)."""
    block = nn.Sequential()
    block.add_module('conv', nn.Conv2d(in_channels, out_channels, 3, padding=padding))
    block.add_module('norm', nn.BatchNorm2d(out_channels))
    block.add_module('LeakyRelu', nn.LeakyReLU(0.2))
    return block
