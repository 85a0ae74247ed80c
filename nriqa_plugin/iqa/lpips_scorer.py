"""LPIPS: distance between deep features of an image and its reference, through the package ``lpips``."""

import warnings
from pathlib import Path

import torch
from torch import nn

from nriqa_plugin.checks import check_choice, fill_weights, import_extra, load_weights
from nriqa_plugin.iqa.backbones import imagenet_state
from nriqa_plugin.iqa.layout import channels_last_on_cpu
from nriqa_plugin.iqa.scorer import Scorer

# net -> (torchvision's model, its file, shortest side in px that its pooling layers leave something of)
BACKBONES = {
    'alex': ('alexnet', 'alexnet-owt-7be5be79.pth', 31),
    'vgg': ('vgg16', 'vgg16-397923af.pth', 16),
    'squeeze': ('squeezenet1_1', 'squeezenet1_1-b8a52dc0.pth', 17),
}


class LPIPS(Scorer):
    """Learned perceptual distance, version 0.1 (Zhang et al., CVPR 2018): 0 for equal images, **lower is better**.

    The range is the usual one, not a bound: real images stay below 1, while the sum over the layers could exceed it,
    and ``scale: unit`` is then slightly negative.

    Args:
        net (str): ``'alex'`` (as papers report), ``'vgg'`` (as training losses use) or ``'squeeze'`` (smallest).
        weights (str | None): local file with torchvision's ImageNet weights of that backbone (half precision is
            fine); without it torchvision downloads them. The linear layers come with the package ``lpips``.

    Shapes: ``pred`` and ``ref`` are ``(N, 3, H, W)`` RGB in [0, 1], sides at least 31 px (alex), 16 (vgg) or
    17 (squeeze); returns ``(N,)``.

    Raises:
        ImportError: the package ``lpips`` is missing.
        ValueError: unknown ``net``; a file that is damaged or belongs to another network.
        FileNotFoundError: there is no such file.
        RuntimeError: torchvision could not download the backbone.
    """

    name = 'lpips'
    higher_better = False
    score_range = (0.0, 1.0)
    needs_reference = True

    def __init__(self, net='alex', weights=None):
        super().__init__()
        check_choice('net', net, BACKBONES)
        package = import_extra('lpips', 'iqa', 'the judge lpips')
        network = _untrained(package, net)
        _fill_linear_layers(package, net, network)
        _fill_backbone(net, network, weights)
        self.net, self.min_side = net, BACKBONES[net][2]
        self.network = network

    def score(self, pred, ref=None):
        pred, ref = channels_last_on_cpu(pred), channels_last_on_cpu(ref)
        return self.network(pred, ref, normalize=True).flatten()  # normalize: from [0, 1] to the network's [-1, 1]


def _untrained(package, net):
    # Building draws random weights; neither they nor the deprecation warnings of torchvision matter to the caller.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings('ignore', category=UserWarning, module='torchvision')
        return package.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)


def _fill_linear_layers(package, net, network):
    # lpips loads these itself, but not strictly: a wheel with other keys would silently leave them random.
    file = Path(package.__file__).parent / 'weights' / 'v0.1' / f'{net}.pth'
    layers = nn.ModuleDict({f'lin{i}': layer for i, layer in enumerate(network.lins)})
    fill_weights('package lpips', file, layers, load_weights('package lpips', file))


def _fill_backbone(net, network, weights):
    model = BACKBONES[net][0]
    state, file = imagenet_state('the judge lpips', model, weights)
    # The slices of lpips keep torchvision's layer numbers, so joined again they have torchvision's key names.
    layers = {name: layer for part in network.net.children() for name, layer in part.named_children()}
    backbone = nn.ModuleDict({'features': nn.ModuleDict(layers)})
    try:
        fill_weights('weights', weights or file, backbone, state)
    except ValueError as error:
        raise ValueError(f"{error}. The judge lpips with net {net!r} wants torchvision's {model} ({file})") from error
