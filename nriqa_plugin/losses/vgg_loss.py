"""Distance of deep features (VGG, SqueezeNet) between prediction and ground truth: the perceptual loss."""

import math

import torch
from torch import nn

from nriqa_plugin.checks import check_choice, check_flag, check_number, fill_weights, unknown_name
from nriqa_plugin.iqa.backbones import imagenet_state
from nriqa_plugin.iqa.scorer import Scorer
from nriqa_plugin.losses.iqa_loss import FRIQALoss

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CONVOLUTIONS = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}  # by block; each block ends in a pooling layer
SQUEEZENET = (
    'conv1', 'relu1', 'pool1', 'fire2', 'fire3', 'pool3', 'fire4', 'fire5', 'pool5', 'fire6', 'fire7', 'fire8', 'fire9',
)  # fmt: skip
BACKBONES = (*CONVOLUTIONS, 'squeezenet1_1')

DEFAULTS = {'backbone': 'vgg19', 'distance': 'l1', 'reduction': 'mean', 'imagenet_norm': True}
PRESETS = {
    'hggt': {**DEFAULTS, 'layers': {'conv1_2': 0.1, 'conv2_2': 0.1, 'conv3_4': 1.0, 'conv4_4': 1.0, 'conv5_4': 1.0}},
    'johnson': {**DEFAULTS, 'backbone': 'vgg16', 'layers': {'relu2_2': 1.0}, 'distance': 'l2'},
    'simple_vsr': {**DEFAULTS, 'layers': dict.fromkeys(('relu1_2', 'relu2_2', 'relu3_4', 'relu4_4', 'relu5_4'), 1.0),
                   'imagenet_norm': False},
    'all_relu': {**DEFAULTS, 'layers': 'all_relu', 'imagenet_norm': False},
    'isee_better': {**DEFAULTS, 'backbone': 'vgg16', 'layers': {'pool5': 1.0}, 'distance': 'l2',
                    'imagenet_norm': False},
}  # fmt: skip


class VGGLoss(FRIQALoss):
    """Weighted sum over layers of the distance between deep features (Johnson et al., ECCV 2016); lower is better.

    Shapes, views and precision are those of :class:`nriqa_plugin.losses.iqa_loss.IQALoss`: ``pred`` and ``target``
    are ``(N, 3, H, W)`` or ``(N, T, 3, H, W)``, RGB in [0, 1]. Equal images give 0.

    Args:
        layers (str | dict): ``{layer: weight}``, or a preset, which also sets backbone, distance, reduction and
            ``imagenet_norm`` unless they are given. The presets:

            - ``hggt``: VGG-19 before the ReLU, conv1_2 and conv2_2 times 0.1, conv3_4, conv4_4 and conv5_4 times 1,
              L1 (the recipe of the HGGT data set, Chen et al., CVPR 2023, and of arXiv 2504.18524);
            - ``johnson``: VGG-16 relu2_2, squared (Johnson et al., ECCV 2016, arXiv 1603.08155, Eq. 2). Their Caffe
              network has features of another scale than torchvision's, so their weights do not carry over;
            - ``simple_vsr``: VGG-19 relu1_2, relu2_2, relu3_4, relu4_4 and relu5_4, L1 (the released code of
              Weatherly et al., which feeds grey images: set ``grey``);
            - ``all_relu``: every ReLU of VGG-19, L1 (Eq. 5 of Weatherly et al.'s paper);
            - ``isee_better``: VGG-16 pool5, squared, without ImageNet statistics (Chadha et al., iSeeBetter,
              arXiv 2006.11161, and before it SRGAN in PyTorch; there with the weight 6.0e-3).
        backbone (str): ``vgg19``, ``vgg16`` or ``squeezenet1_1`` (5 MB, a quick stand-in).
        weights (str | None): local file with torchvision's ImageNet weights of the backbone (half precision is
            fine, deeper layers than needed may be missing); without it torchvision downloads them.
        before_relu (bool | None): true reads the convolution before a named ReLU, false the ReLU after a named
            convolution; without it the names mean what they say.
        distance (str): ``l1`` absolute, ``l2`` squared difference.
        reduction (str): ``mean`` or ``sum`` over channels and positions of a layer; images are always averaged.
        imagenet_norm (bool): subtract ImageNet's mean and divide by its deviation, as the backbone was trained.
        grey (bool): the network speaks grey: its one channel is repeated three times.
        clamp (bool): off here, unlike for judges: a distance cannot be gamed, and the published recipes do not clamp.
        loss_weight, crop, crops, augment, precision, checkpoint, probe, seed, space, frames: as in ``IQALoss``.

    Layers are ``conv3_4``, ``relu3_4``, ``pool3`` (fourth convolution of block 3, its ReLU, the block's end), for
    SqueezeNet ``conv1``, ``relu1``, ``fire2`` to ``fire9``, ``pool1``, ``pool3``, ``pool5``, for all of them
    torchvision's index in ``features``. Without a preset: VGG-19, L1, mean, with ImageNet statistics.

    Raises:
        ValueError, TypeError: naming the option; a weights file that is damaged or belongs to another network.
        FileNotFoundError: there is no such file.
        RuntimeError: torchvision could not download the backbone.
    """

    def __init__(
        self,
        layers='hggt',
        backbone=None,
        weights=None,
        before_relu=None,
        distance=None,
        reduction=None,
        imagenet_norm=None,
        grey=False,
        loss_weight=1.0,
        crop=None,
        crops=1,
        augment=False,
        clamp=False,
        precision='fp32',
        checkpoint=False,
        probe=True,
        seed=0,
        space=None,
        frames='all',
    ):
        given = {'backbone': backbone, 'distance': distance, 'reduction': reduction, 'imagenet_norm': imagenet_norm}
        options = {'layers': layers, **DEFAULTS}
        if isinstance(layers, str):
            options = PRESETS[check_choice('layers', layers, PRESETS)]
        options = {**options, **{key: value for key, value in given.items() if value is not None}}
        super().__init__(
            VGGDistance(weights=weights, before_relu=before_relu, **options),
            loss_weight=loss_weight,
            crop=crop,
            crops=crops,
            augment=augment,
            clamp=clamp,
            precision=precision,
            checkpoint=checkpoint,
            probe=probe,
            seed=seed,
            space=space,
            frames=frames,
        )
        self.grey = check_flag('grey', grey)

    def forward(self, pred, target=None):
        """The loss of a batch, as :meth:`IQALoss.forward`; ``(N, 1, H, W)`` or ``(N, T, 1, H, W)`` with ``grey``."""
        if self.grey:
            pred, target = (images if images is None else _repeated(images) for images in (pred, target))
        return super().forward(pred, target)


class VGGDistance(Scorer):
    """The distance of :class:`VGGLoss` as a full-reference judge, ``(N,)``: its options are written out there."""

    higher_better = False
    score_range = (0.0, math.inf)
    needs_reference = True

    def __init__(self, layers, backbone, distance, reduction, imagenet_norm, weights=None, before_relu=None):
        super().__init__()
        check_choice('backbone', backbone, BACKBONES)
        self.name = backbone
        self.squared = check_choice('distance', distance, ('l1', 'l2')) == 'l2'
        self.summed = check_choice('reduction', reduction, ('mean', 'sum')) == 'sum'
        self.imagenet_norm = check_flag('imagenet_norm', imagenet_norm)
        names = layer_names(backbone)
        self.taps = _taps(names, backbone, layers, before_relu)
        used = names[: max(dict(self.taps)) + 1]
        halvings = sum(name.startswith('pool') for name in used)
        # SqueezeNet begins with a stride of 2 and pads neither there nor when pooling.
        self.min_side = 2 ** (halvings + 1) + 1 if backbone == 'squeezenet1_1' else 2**halvings
        self.features = _filled(backbone, len(used), weights)
        self.register_buffer('mean', torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer('std', torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def score(self, pred, ref=None):
        if self.imagenet_norm:
            pred, ref = ((images - self.mean) / self.std for images in (pred, ref))
        weights, total = dict(self.taps), 0
        # Side by side: a layer is compared before the ReLU behind it overwrites its output, and then let go.
        for index, layer in enumerate(self.features):
            pred, ref = layer(pred), layer(ref)
            if index in weights:
                total = total + weights[index] * self._distance(pred.flatten(1), ref.flatten(1))
        return total

    def _distance(self, pred, ref):
        difference = (pred - ref).to(self.dtype)  # sums of bfloat16 features would lose the digits
        difference = difference.square() if self.squared else difference.abs()
        return difference.sum(1) if self.summed else difference.mean(1)


def layer_names(backbone):
    """The field's names of a backbone's layers, in the order of torchvision's ``features``."""
    if backbone == 'squeezenet1_1':
        return SQUEEZENET
    names = []
    for block, depth in enumerate(CONVOLUTIONS[backbone], 1):
        names += [f'{kind}{block}_{i}' for i in range(1, depth + 1) for kind in ('conv', 'relu')] + [f'pool{block}']
    return names


def _taps(names, backbone, layers, before_relu):
    """``((index, weight), ...)`` of the layers to compare."""
    if layers == 'all_relu':
        layers = {name: 1.0 for name in names if name.startswith(('relu', 'fire'))}
    if not isinstance(layers, dict) or not layers:
        raise TypeError(f'layers must be a preset ({", ".join(PRESETS)}) or {{name: weight}}, got {layers!r}')
    if before_relu is not None:
        check_flag('before_relu', before_relu)
    taps = {}
    for key, weight in layers.items():
        name = names[int(key)] if str(key).isdecimal() and int(key) < len(names) else str(key)
        if name not in names:
            raise unknown_name(f'layer of {backbone}:', name, names)
        if before_relu is not None:
            kind = name[:4]
            if kind not in ('conv', 'relu'):
                raise ValueError(f'before_relu: {name} of {backbone} cannot be read before its ReLU; leave it out')
            name = name.replace(kind, 'conv' if before_relu else 'relu')
        index = names.index(name)
        if index in taps:
            raise ValueError(f'layers: {name} is named twice, the second time as {key!r}')
        taps[index] = check_number(f'layers.{key}', weight, low=0)
    if not any(taps.values()):
        raise ValueError(f'layers: every weight is 0: {layers!r}')
    return tuple(sorted(taps.items()))


def _filled(backbone, depth, weights):
    """The first ``depth`` layers of the backbone with the weights of the file, or of torchvision."""
    import torchvision

    with torch.device('meta'):  # no memory and no random numbers for what is overwritten or not used
        whole = getattr(torchvision.models, backbone)(weights=None).features
    state, file = imagenet_state('VGGLoss', backbone, weights)
    used = nn.ModuleDict({'features': whole[:depth].to_empty(device='cpu')})
    if isinstance(state, dict):
        # Layers that are not used are left out, but only if they are this backbone's: VGG-16 and VGG-19 begin alike.
        unused = {f'features.{key}': value.shape for key, value in whole[depth:].state_dict(keep_vars=True).items()}
        state = {
            key: value
            for key, value in state.items()
            if key not in unused or getattr(value, 'shape', None) != unused[key]
        }
    try:
        return fill_weights('weights', weights or file, used, state)['features']
    except ValueError as error:
        raise ValueError(f"{error}. VGGLoss with backbone {backbone!r} wants torchvision's file {file}") from error


def _repeated(images):
    if images.dim() < 4 or images.shape[-3] != 1:
        raise ValueError(f'grey: wants 1 channel, got the shape {tuple(images.shape)}')
    return images.expand(*images.shape[:-3], 3, *images.shape[-2:])
