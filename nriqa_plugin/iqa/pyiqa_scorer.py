"""Metrics of the package ``pyiqa`` (0.1.15.post2) as judges: direction, range and gradient as its own table says."""

import difflib
import logging

import torch
from torch import nn

from nriqa_plugin.checks import import_extra
from nriqa_plugin.iqa.faster_musiq import musiq_scores
from nriqa_plugin.iqa.pyiqa_build import build
from nriqa_plugin.iqa.pyiqa_tables import (
    DEFAULT_MIN_SIDE,
    FACES,
    MIN_SIDE,
    MULTIPLE,
    NO_GRADIENT,
    NO_JUDGE,
    ONE_BY_ONE,
    metric_configs,
    parse_range,
)
from nriqa_plugin.iqa.scorer import BUILT_IN, Scorer

# Scores from the network's weights on a shorter way than its own; equal, and tested to be.
FASTER = {'MUSIQ': musiq_scores}

logger = logging.getLogger('nriqa_plugin')


class PyiqaScorer(Scorer):
    """A metric of pyiqa as a judge, in pyiqa's units.

    Direction, range and the need of a reference come from pyiqa's table. Bounds that it marks as approximate
    (``'~0, ~100'``) are taken as they stand, so that a score may lie outside; missing ones are infinite. The network
    is called without pyiqa's wrapper, which would force deterministic cuDNN for the whole process and refuse values
    outside [0, 1]; the wrapper changes neither colour nor range. The shortest side is 32 px unless pyiqa is known to
    need more (``MIN_SIDE``).

    Args:
        metric (str): pyiqa's name, for example ``'musiq'``.
        weights (str | None): local file with the state dict of the whole network, bare or under ``'params'``, as
            pyiqa publishes it; nothing is downloaded then. Without it pyiqa downloads its own. Only for the networks
            in ``FROM_FILE``.
        options: of pyiqa's network, for example ``pretrained='spaq'``; unknown ones are refused.

    Shapes: ``pred`` (and ``ref`` for full-reference metrics) are ``(N, 3, H, W)`` RGB in [0, 1]; returns ``(N,)``.

    Attributes:
        no_gradient (str): why the metric cannot be a loss; empty when it can, or when only a probe would tell.
        notes (tuple[str, ...]): cached files of weights that are not what their names say.

    Raises:
        ImportError: pyiqa, or a package that this metric needs, is missing.
        FileNotFoundError: there is no such weights file.
        ValueError: unknown metric or option, a metric that does not score single images or takes no weights file, or
            a file that is damaged, not plain tensors, or of another network.
        RuntimeError: pyiqa could not fetch or read its files, or the metric needs a GPU that is not there.
    """

    def __init__(self, metric, weights=None, **options):
        super().__init__()
        configs = metric_configs()
        if configs and metric not in configs:
            raise ValueError(f'unknown metric of pyiqa {metric!r}.{_did_you_mean(metric, configs)}')
        import_extra('pyiqa', 'iqa', f'the judge {metric}')
        config = configs[metric]
        kind = config['metric_opts']['type']
        if kind in NO_JUDGE:
            raise ValueError(f'{metric} cannot be a judge: it {NO_JUDGE[kind]}, while a judge scores single images')
        self.name = f'pyiqa:{metric}' if metric in BUILT_IN else metric
        self.higher_better = not config.get('lower_better', False)
        self.score_range = parse_range(config.get('score_range'))
        self.needs_reference = config['metric_mode'] == 'FR'
        self.min_side = MIN_SIDE.get(kind, DEFAULT_MIN_SIDE)
        self.multiple = MULTIPLE.get(kind, 1)

        settings = {**config['metric_opts'], **options}
        aligns_faces = 'gfiqa' in str(settings.get('model_name')) and settings.get('align_crop_face', True)
        self.no_gradient = FACES if aligns_faces else NO_GRADIENT.get(kind, '')
        self.differentiable = not self.no_gradient
        self.one_by_one = kind in ONE_BY_ONE or aligns_faces
        self.settings = repr(sorted(settings.items()))  # a part of weights_hash

        self.faster = FASTER.get(kind)
        self.network, self.notes = build(self.name, kind, config['metric_opts'], options, weights)
        for number, network in enumerate(_hidden_networks(self.network)):
            setattr(self, f'hidden{number}', network)

    def check(self, pred, ref=None):
        super().check(pred, ref)
        if any((side - 2 * self.crop_border) % self.multiple for side in pred.shape[-2:]):
            border = f' and a border of {self.crop_border} px' if self.crop_border else ''
            raise ValueError(
                f'{self.name} needs sides that are multiples of {self.multiple} px{border}, pred is {tuple(pred.shape)}'
            )

    def score(self, pred, ref=None):
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            if not self.one_by_one:
                return self._network_scores(pred, ref)
            # Copies, since A-FINE normalises its input in place.
            singles = [
                (pred[i : i + 1].clone(), ref if ref is None else ref[i : i + 1].clone()) for i in range(len(pred))
            ]
            return torch.cat([self._network_scores(*single) for single in singles])

    def _network_scores(self, pred, ref):
        if self.faster:
            try:
                return self.faster(self.network, pred)
            except (AttributeError, KeyError) as error:  # another version of pyiqa, whose network has other parts
                self.faster = None
                logger.warning('%s: the network of this pyiqa has other parts than the tested one (%s), so it is '
                               "scored by pyiqa's own, slower forward pass", self.name, error)  # fmt: skip
        scores = self.network(pred) if ref is None else self.network(pred, ref)
        if isinstance(scores, (tuple, list)):
            scores = scores[0]  # the others are by-products, as in pyiqa's own wrapper
        return scores.flatten()


def unknown_judge(name, metrics):
    """A ``ValueError`` with the closest names, built-in judges and pyiqa's metrics together.

    Args:
        metrics (iterable[str]): pyiqa's names; empty when pyiqa is not installed, which the message then says.
    """
    allowed = ', '.join(sorted(BUILT_IN))
    missing = "; metrics of pyiqa are unknown unless the extra iqa is installed: pip install 'nriqa-plugin[iqa]'"
    more = ', or any pyiqa metric' if metrics else missing
    if '.' in name:
        more += '; a judge of your own is written package.module:factory'
    return ValueError(f'unknown judge {name!r}.{_did_you_mean(name, {*BUILT_IN, *metrics})} Allowed: {allowed}{more}')


def _did_you_mean(got, names):
    # Between about equals the built-in judge comes first: it needs nothing else.
    likeness = {name: difflib.SequenceMatcher(None, got.lower(), name).ratio() for name in names}
    likeness = {name: value + 0.05 * (name in BUILT_IN) for name, value in likeness.items() if value >= 0.5}
    best = max(likeness.values(), default=0)
    close = sorted((name for name in likeness if likeness[name] > best - 0.1), key=lambda name: (-likeness[name], name))
    return f' Did you mean {" or ".join(map(repr, close[:3]))}?' if close else ''


def _hidden_networks(network):
    """Networks that pyiqa keeps in plain lists, where neither freezing nor ``.to()`` would find them."""
    for module in network.modules():
        for value in vars(module).values():
            if isinstance(value, list):
                yield from (part for part in value if isinstance(part, nn.Module))
