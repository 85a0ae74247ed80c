"""DnCNN: a plain convolutional network for denoising and JPEG restoration."""

from torch import nn

from nriqa_plugin.checks import check_choice, check_number, checks_options

ACT_MODES = ('BR', 'R')
NORM_EPS = 1e-4  # of the published networks; their momentum of 0.9 is not taken over, it only changes training


@checks_options
class DnCNN(nn.Module):
    """Denoising CNN (Zhang et al., TIP 2017), with the argument names and keys of the checkpoints in KAIR.

    ``nb`` convolutions of 3 x 3, of which the last gives the disturbance that is taken from the input: ``x - n(x)``.

    Args:
        in_nc (int): channels of the input, 1 for grey and 3 for colour.
        out_nc (int): channels of the output, equal to ``in_nc``.
        nc (int): width.
        nb (int): convolutions; 17 in the paper for one noise level, 20 for an unknown level (and in KAIR for colour).
        act_mode (str): ``BR`` has a batch norm before every ReLU but the first, as in the paper and for training from
            scratch; ``R`` has none: the published files, into whose convolutions it was merged.

    Shapes: ``(N, in_nc, H, W)`` in [0, 1] to the same size, not clipped. Receptive field ``2 * nb + 1`` px a side.
    A new network starts from He's initialisation (the paper's).

    Raises:
        ValueError, TypeError: an unknown option or one out of range; naming it.
    """

    def __init__(self, in_nc=1, out_nc=1, nc=64, nb=17, act_mode='BR'):
        super().__init__()
        for option, value in {'in_nc': in_nc, 'out_nc': out_nc, 'nc': nc}.items():
            check_number(option, value, low=1, integer=True)
        check_number('nb', nb, low=2, integer=True)
        check_choice('act_mode', act_mode, ACT_MODES)
        if out_nc != in_nc:
            raise ValueError(f'out_nc must be in_nc = {in_nc}, got {out_nc}: what the network finds is taken from x')
        layers = [_conv(in_nc, nc), nn.ReLU(inplace=True)]
        for _ in range(nb - 2):
            norm = [nn.BatchNorm2d(nc, eps=NORM_EPS)] if act_mode == 'BR' else []
            layers += [_conv(nc, nc), *norm, nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers, _conv(nc, out_nc))

    def forward(self, x):
        return x - self.model(x)


def _conv(in_channels, out_channels):
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity='relu')
    nn.init.zeros_(conv.bias)
    return conv
