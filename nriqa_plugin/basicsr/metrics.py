"""Validation metrics for BasicSR: any judge, and the relative gain over a baseline.

BasicSR hands over 8-bit BGR images ``(H, W, 3)`` one by one and averages what comes back.
"""

import contextlib
import functools
import json

import torch

from nriqa_plugin.checks import check_file, check_keys, in_place
from nriqa_plugin.evaluation.relative_gain import read_baseline
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.iqa.ensemble import one_judge

JUDGE_KEYS = ('metric', 'ensemble', 'weights', 'options', 'crop_border', 'device', 'better')
_listeners = []  # see listening


def calculate_iqa(img, img2=None, **option):
    """Score one validation image with any judge.

    Args:
        img (ndarray): 8-bit BGR ``(H, W, 3)``.
        img2 (ndarray | None): ground truth of the same shape, for full-reference judges.
        option: ``metric`` (name of the judge) or ``ensemble`` (several as one), ``weights`` (local file), ``options``
            (of the judge), ``crop_border`` (px cut off each side first), ``device`` (``auto`` takes a GPU if there is
            one), ``better`` (``lower`` or ``higher``; must be the judge's direction, which BasicSR needs for its best
            value).

    Returns:
        float: in the judge's native units.

    Raises:
        ValueError: unknown option or judge, a reference that is missing, or ``better`` against the judge's direction.
    """
    return _score('calculate_iqa', judge_of('calculate_iqa', option), img, img2)


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
    check_gain(baseline, option.pop('better', 'higher'))
    scorer = judge_of('calculate_relative_gain', option)
    return float(baseline_of(baseline, scorer).gain(_score('calculate_relative_gain', scorer, img, img2)))


def check_gain(baseline, better='higher'):
    """Refuse options of :func:`calculate_relative_gain` that cannot work for the stock models.

    Raises:
        ValueError: no baseline file, or ``better: lower``.
    """
    if better != 'higher':
        raise ValueError('calculate_relative_gain: a higher gain is always better; remove better: lower')
    if baseline in (None, '', 'start'):
        raise ValueError(
            f'calculate_relative_gain: baseline must be a scores file, got {baseline!r}; '
            'baseline: start needs model_type: PerceptualModel, which scores the start weights'
        )


def judge_keys(option):
    """Those of a validation metric's options that describe the judge."""
    return {key: value for key, value in option.items() if key not in ('type', 'baseline', 'better')}


def judge_of(owner, option):
    """The judge that a metric's options describe, built once and kept on its device.

    Raises:
        ValueError: options that describe no judge, a video judge, or ``better`` against the judge's direction.
    """
    check_keys(owner, option, JUDGE_KEYS)
    with in_place(owner):
        metric, weights, options = one_judge(*(option.get(key) for key in ('metric', 'weights', 'options', 'ensemble')))
    device = option.get('device', 'auto')
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    # The border is the judge's own option: scores with another border come from another judge, also by its hash.
    given = {'crop_border': option.get('crop_border', 0), **options}
    scorer = _judge(metric, weights, json.dumps(given), device)
    if scorer.temporal:
        raise ValueError(f'{scorer.name} judges clips, and BasicSR validates frame by frame: let its test script write '
                         'the clips (val.save_img: true) and score them with `nriqa score`')  # fmt: skip
    direction = 'higher' if scorer.higher_better else 'lower'
    if owner == 'calculate_iqa' and option.get('better', 'higher') != direction:
        raise ValueError(f"calculate_iqa: for {scorer.name} {direction} is better; write 'better: {direction}'")
    return scorer


@functools.lru_cache(maxsize=16)
def _judge(metric, weights, options, device):
    return create_scorer(metric, weights, **json.loads(options)).to(device)


def baseline_of(path, scorer):
    """A judge's baseline from a scores file, read once as long as the file stays the same.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the judge is not in it, its mean is not positive, or it was scored by other weights or options.
    """
    return _read_baseline(str(path), check_file('baseline', path).stat().st_mtime_ns, scorer)


@functools.lru_cache(maxsize=16)
def _read_baseline(path, modified, scorer):
    baseline = read_baseline(path, scorer.name)
    if baseline.judge_hash != scorer.weights_hash():
        raise ValueError(
            f'baseline: {path} was scored by other weights or options of {scorer.name} '
            f'({baseline.judge_hash}, now {scorer.weights_hash()}); crop_border counts as an option'
        )
    return baseline


@torch.no_grad()
def _score(owner, scorer, img, img2):
    tensors = [to_tensor(image, scorer) for image in (img, img2) if image is not None]
    score = scorer(*tensors).item()
    for listener in _listeners:
        listener(owner, scorer, score, img)
    return score


def to_tensor(image, scorer):
    """An 8-bit BGR image ``(H, W, 3)`` as RGB in [0, 1], ``(1, 3, H, W)``, on the judge's device."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'{scorer.name} wants 3 channels, the validation image has the shape {image.shape}')
    return torch.from_numpy(image[..., ::-1].copy()).to(scorer.device).permute(2, 0, 1)[None] / 255


@contextlib.contextmanager
def listening(listener):
    """Inside the block, ``listener(metric name, judge, score, 8-bit BGR image)`` hears of every score."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
