"""The network that tries to undo the distortion at one scale while the discriminator is trained."""

from torch import nn

from nriqa_plugin.checks import check_number, import_dotted
from nriqa_plugin.mdf.discriminator import BODY, conv_block


class Generator(nn.Module):
    """Generator of SinGAN (Shaham et al., ICCV 2019): five unpadded convolutions, tanh, plus the input itself.

    Args:
        width (int): channels of the hidden layers.
        channels (int): channels of the image.

    Shapes: ``(N, channels, H + 10, W + 10)``, the image in [-1, 1] with a border of ``padding`` zeros, to
    ``(N, channels, H, W)``, which may overshoot.
    """

    padding = 5

    def __init__(self, width, channels=3):
        super().__init__()
        check_number('width', width, low=1, integer=True)
        self.head = conv_block(channels, width)
        self.body = nn.Sequential()
        for index in range(1, BODY + 1):
            self.body.add_module(f'block{index}', conv_block(width, width))
        self.tail = nn.Sequential(nn.Conv2d(width, channels, 3), nn.Tanh())

    def forward(self, padded):
        inner = slice(self.padding, -self.padding)
        return self.tail(self.body(self.head(padded))) + padded[..., inner, inner]


def initialise(network):
    """SinGAN's start: convolutions from N(0, 0.02), batch norm from N(1, 0.02) without shift; global generator."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)
    return network


def new_generator(generator, width):
    """Build the generator of one scale.

    Args:
        generator (str | callable): ``singan``, ``package.module:factory`` or a factory; a factory is called without
            arguments and returns a network ``(N, 3, H, W)`` to ``(N, 3, H, W)``, in and out in [0, 1].
        width (int): hidden channels of SinGAN's generator.

    Raises:
        ValueError, TypeError: an unknown name, or a factory that gives no network that can be trained.
    """
    if generator == 'singan':
        return initialise(Generator(width))
    if isinstance(generator, str):
        if ':' not in generator:
            raise ValueError(f"generator must be 'singan' or package.module:factory, got {generator!r}")
        generator = import_dotted('generator', generator)
    network = generator()
    if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
        raise TypeError(f'the generator must be a network with parameters, got {type(network).__name__}')
    return UnitRange(network)


class UnitRange(nn.Module):
    """A network that speaks [0, 1], as the hosts' networks do, where [-1, 1] is spoken."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network((images + 1) / 2) * 2 - 1


def border(network):
    """How many px the network's result is smaller on each side than what it is given."""
    return getattr(network, 'padding', 0)


def generate(network, image):
    """Run a generator on a whole image: a border of zeros where it wants one.

    Args:
        network (nn.Module): as :func:`new_generator` builds it.
        image (Tensor): ``(N, C, H, W)`` in [-1, 1].

    Raises:
        ValueError: a network of another scale: its result has not the shape of ``image``.
    """
    return run(network, nn.functional.pad(image, [border(network)] * 4))


def run(network, padded):
    """Run a generator on an image, or a piece of one, that has its border already."""
    result, pad = network(padded), border(network)
    wanted = (*padded.shape[:2], *(side - 2 * pad for side in padded.shape[2:]))
    if result.shape != wanted:
        name = type(getattr(network, 'network', network)).__name__
        raise ValueError(f'the generator {name} must keep the shape of its image {wanted}, got {tuple(result.shape)}')
    return result
