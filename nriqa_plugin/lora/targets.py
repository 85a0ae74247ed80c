"""Which layers of a network get a low-rank change."""

import difflib
import logging
from collections import Counter
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils import parametrize

from nriqa_plugin.lora.low_rank import largest_rank

logger = logging.getLogger('nriqa_plugin')

# By class name, of BasicSR, of mmagic and of the official VRT: the body, without the layers that read and write
# images and without optical flow. A class that is not here: all linear layers and convolutions.
DEFAULT_TARGETS = {
    'SwinIR': ('layers.*', 'conv_after_body'),
    'SwinIRNet': ('layers.*', 'conv_after_body'),
    'RRDBNet': ('body.*', 'conv_body'),
    'EDSR': ('body.*', 'conv_after_body'),
    'EDSRNet': ('body.*', 'conv_after_body'),
    'MSRResNet': ('body.*', 'trunk_net.*'),
    'BasicVSR': ('*_trunk.*', 'fusion'),
    'BasicVSRNet': ('*_resblocks.*', 'fusion'),
    'BasicVSRPlusPlus': ('feat_extract.*', 'backbone.*', 'reconstruction.*'),
    'BasicVSRPlusPlusNet': ('feat_extract.*', 'backbone.*', 'reconstruction.*'),
    'VRT': ('stage*',),
    'RBPN': ('DBPN.*', 'res_feat*'),  # transposed convolutions stay as they are
    'RLFN': ('block_*', 'conv_2'),
}


def select_layers(base, target, rank):
    """``{name: layer}`` of the linear layers and 2-D convolutions to change.

    Args:
        base (nn.Module): the network.
        target (str | list[str] | None): patterns as in a shell over the layers' full names, where ``*`` also stands
            for dots; a pattern behind ``!`` takes layers out again. None: ``DEFAULT_TARGETS``, without the layers
            that are narrower than ``rank``.
        rank (int): what every named layer must have room for.

    Raises:
        TypeError: ``target`` is no text and no list of texts.
        ValueError: a pattern that matches no layer, nothing left, or ``rank`` above what a named layer has.
    """
    uses = Counter(id(p) for module in base.modules() for p in module._parameters.values() if p is not None)
    layers = {name: module for name, module in base.named_modules() if _can_change(module, uses)}
    kind = type(base).__name__
    if not layers:
        raise ValueError(f'LoRANet: {kind} has no linear layer and no 2-D convolution whose weight can be changed')
    if target is None:
        return _default(kind, layers, rank)
    patterns = [target] if isinstance(target, str) else target
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns) or not patterns:
        raise TypeError(f'LoRANet.target must be a name pattern or a list of them, got {target!r}')
    wanted, unwanted = set(), set()
    for pattern in patterns:
        found = {name for name in layers if fnmatchcase(name, pattern.removeprefix('!'))}
        if not found:
            raise ValueError(_no_match(pattern, kind, layers))
        (unwanted if pattern.startswith('!') else wanted).update(found)
    chosen = {name: layer for name, layer in layers.items() if name in wanted - unwanted}
    if not chosen:
        raise ValueError(f'LoRANet.target {target!r} leaves no layer of {kind}: every pattern takes layers out, or out '
                         "again; start the list with '*' to begin with all")  # fmt: skip
    for name, layer in chosen.items():
        if rank > largest_rank(layer.weight):
            raise ValueError(
                f'LoRANet.rank is {rank}, but the layer {name!r} {tuple(layer.weight.shape)} has at most rank '
                f"{largest_rank(layer.weight)}: take a smaller rank, or leave the layer out with '!{name}' in target"
            )
    return chosen


def _default(kind, layers, rank):
    patterns = DEFAULT_TARGETS.get(kind, ('*',))
    body = {name: layer for name, layer in layers.items() if any(fnmatchcase(name, p) for p in patterns)}
    if not body:  # another network of the same class name
        body = layers
    wide = {name: layer for name, layer in body.items() if largest_rank(layer.weight) >= rank}
    if not wide:
        most = max(largest_rank(layer.weight) for layer in body.values())
        name = next(name for name, layer in body.items() if largest_rank(layer.weight) == most)
        raise ValueError(f'LoRANet.rank is {rank}, more than any layer of {kind} has: at most {most}, in {name!r}')
    if narrow := [name for name in body if name not in wide]:
        logger.info('LoRANet leaves %d layers of %s as they are, they are narrower than rank %d: %s%s',
                    len(narrow), kind, rank, ', '.join(narrow[:3]), ', ...' if narrow[3:] else '')  # fmt: skip
    return wide


def _can_change(module, uses):
    """Linear and Conv2d (also subclasses) with a plain weight of their own: not one that weight_norm or the like
    computes, nor one that another layer has too, which would get another change there."""
    weight = module._parameters.get('weight')
    plain = weight is not None and not parametrize.is_parametrized(module) and uses[id(weight)] == 1
    return isinstance(module, (nn.Linear, nn.Conv2d)) and plain


def _no_match(pattern, kind, layers):
    names = list(layers)
    close = difflib.get_close_matches(pattern.removeprefix('!'), names, n=3, cutoff=0.3) or names[:3]
    return (f'LoRANet.target {pattern!r} matches none of the {len(names)} layers of {kind}; the closest names are '
            f'{", ".join(map(repr, close))} (a pattern matches the whole name, * also stands for dots)')  # fmt: skip
