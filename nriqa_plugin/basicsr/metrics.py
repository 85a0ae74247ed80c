"""Validation metrics for BasicSR: any judge, and the relative gain over a baseline.

BasicSR hands over 8-bit BGR images ``(H, W, 3)`` one by one and averages what comes back.
"""

import contextlib
import functools
import json
import os

import torch

from nriqa_plugin.checks import check_keys, check_number
from nriqa_plugin.evaluation.relative_gain import read_baseline
from nriqa_plugin.iqa import create_scorer

JUDGE_KEYS = ('metric', 'weights', 'options', 'crop_border', 'device', 'better')
_listeners = []  # see listening


def calculate_iqa(img, img2=None, **option):
    """Score one validation image with any judge.

    Args:
        img (ndarray): 8-bit BGR ``(H, W, 3)``.
        img2 (ndarray | None): ground truth of the same shape, for full-reference judges.
        option: ``metric`` (name of the judge), ``weights`` (local file), ``options`` (of the judge), ``crop_border``
            (px cut off each side first), ``device`` (``auto`` takes a GPU if there is one), ``better``
            (``lower`` or ``higher``; must be the judge's direction, which BasicSR needs for its best value).

    Returns:
        float: in the judge's native units.

    Raises:
        ValueError: unknown option or judge, a reference that is missing, or ``better`` against the judge's direction.
    """
    return _score('calculate_iqa', judge_of('calculate_iqa', option), img, img2, option)


def calculate_relative_gain(img, img2=None, baseline=None, **option):
    """Relative gain of one image's score over the mean of a baseline, in percent; higher is better.

    The mean over a data set is exactly Eq. 1 of Kashkarov et al., arXiv 2405.20392:
    ``100 * s * (mean_T - mean_B) / mean_B`` with ``s = +1`` when higher scores are better, else -1.

    Args:
        img, img2, option: as in :func:`calculate_iqa`.
        baseline (str): a scores file of ``nriqa score``, or ``start`` for the weights that training starts from
            (``model_type: PerceptualModel`` only).

    Raises:
        ValueError: no baseline, one that is not positive, or one scored by other weights of the judge.
    """
    if option.pop('better', 'higher') != 'higher':
        raise ValueError('calculate_relative_gain: a higher gain is always better; remove better: lower')
    if baseline in (None, 'start'):
        raise ValueError(
            'calculate_relative_gain: baseline must be a scores file; '
            'baseline: start needs model_type: PerceptualModel, which scores the start weights'
        )
    scorer = judge_of('calculate_relative_gain', option)
    score = _score('calculate_relative_gain', scorer, img, img2, option)
    return float(_baseline(str(baseline), os.stat(baseline).st_mtime_ns, scorer).gain(score))


def judge_of(owner, option):
    """The judge that a metric's options describe, built once and kept on its device."""
    check_keys(owner, option, JUDGE_KEYS)
    if 'metric' not in option:
        raise ValueError(f"{owner}: the option 'metric' names the judge and is missing")
    check_number(f'{owner}.crop_border', option.get('crop_border', 0), low=0, integer=True)
    device = option.get('device', 'auto')
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    scorer = _judge(option['metric'], option.get('weights'), json.dumps(option.get('options') or {}), device)
    direction = 'higher' if scorer.higher_better else 'lower'
    if owner == 'calculate_iqa' and option.get('better', 'higher') != direction:
        raise ValueError(f"calculate_iqa: for {scorer.name} {direction} is better; write 'better: {direction}'")
    return scorer


@functools.lru_cache(maxsize=16)
def _judge(metric, weights, options, device):
    return create_scorer(metric, weights, **json.loads(options)).to(device)


@functools.lru_cache(maxsize=16)
def _baseline(path, modified, scorer):
    baseline = read_baseline(path, scorer.name)
    if baseline.judge_hash != scorer.weights_hash():
        raise ValueError(
            f'baseline: {path} was scored by other weights of {scorer.name} '
            f'({baseline.judge_hash}, now {scorer.weights_hash()})'
        )
    return baseline


@torch.no_grad()
def _score(owner, scorer, img, img2, option):
    border = option.get('crop_border', 0)
    tensors = [_to_tensor(image, border, scorer.device) for image in (img, img2) if image is not None]
    score = scorer(*tensors).item()
    for listener in _listeners:
        listener(owner, scorer, score)
    return score


def _to_tensor(image, border, device):
    height, width = image.shape[:2]
    image = image[border : height - border, border : width - border, ::-1].copy()
    return torch.from_numpy(image).to(device).permute(2, 0, 1)[None] / 255


@contextlib.contextmanager
def listening(listener):
    """Inside the block, ``listener(metric name, judge, score)`` hears of every score."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
