"""Validation against several ground truths of an image, for BasicSR."""

import functools
import json

from nriqa_plugin.basicsr import metrics
from nriqa_plugin.checks import check_flag, check_keys, in_place
from nriqa_plugin.evaluation.several_gts import check_gold, find_set, mean_over, positives
from nriqa_plugin.evaluation.several_gts import gold_standard as score_gold
from nriqa_plugin.multigt.candidate_set import stem
from nriqa_plugin.multigt.layout import read_sets

SEVERAL = 'calculate_several_gts'
GTS_KEYS = ('root', 'layout', 'index')
_shown = []  # stems of the image that is validated; BasicSR hands a metric pixels only


def calculate_several_gts(img, img2=None, gts=None, gold_standard=False, **option):
    """A full-reference score averaged over all positive ground truths of an image, for ``PerceptualModel`` only.

    Args:
        img (ndarray): 8-bit BGR ``(H, W, 3)``.
        img2 (ndarray | None): not used: the ground truths come from ``gts``.
        gts (str | dict): where they are: a folder with ``gt/``, ``gt_01/``, ..., or ``{root, layout, index}`` as in
            :func:`nriqa_plugin.multigt.layout.read_sets`. The positive ones count; all, where there are no labels.
            They are found by the name of the validation image.
        gold_standard (bool): score the ground truths themselves with a no-reference judge, not ``img``: the row to
            compare with.
        option: the judge, and ``better``, as in :func:`nriqa_plugin.basicsr.metrics.calculate_iqa`.

    Returns:
        float: in the judge's native units.

    Raises:
        ValueError: a wrong option, an image without ground truths, or a model that is no ``PerceptualModel``.
    """
    judge, found = build(gts, gold_standard, **option)
    if not _shown:
        raise ValueError(f'{SEVERAL} needs model_type: PerceptualModel, which tells the name of the image')
    with in_place(SEVERAL):
        paths = found[find_set(found, *_shown)]
    if gold_standard:
        return score_gold(judge, paths, judge.device)
    return mean_over(judge, metrics.to_tensor(img, judge), paths)


def build(gts=None, gold_standard=False, **option):
    """The judge and the ground truths of a metric's options, each built once.

    Raises:
        ValueError: as :func:`calculate_several_gts`.
    """
    judge = metrics.judge_of(SEVERAL, {key: value for key, value in option.items() if key != 'type'})
    direction = 'higher' if judge.higher_better else 'lower'
    if option.get('better', 'higher') != direction:
        raise ValueError(f"{SEVERAL}: for {judge.name} {direction} is better; write 'better: {direction}'")
    with in_place(SEVERAL):
        if check_flag('gold_standard', gold_standard):
            check_gold(judge)
        elif not judge.needs_reference:
            raise ValueError(f'{judge.name} needs no ground truth: use calculate_iqa, or gold_standard: true to score '
                             'the ground truths themselves')  # fmt: skip
        if not gts:
            raise ValueError('the option gts is missing: a folder with gt/, gt_01/, ... or {root, layout, index}')
        places = {'root': gts} if isinstance(gts, str) else dict(gts)
        check_keys('gts', places, GTS_KEYS)
        return judge, _positives(json.dumps(places, sort_keys=True))


@functools.lru_cache(maxsize=8)
def _positives(places):
    return positives(read_sets(**json.loads(places), training=False)[0])


def image_is(gt_path, lq_path):
    """Say which image is validated next."""
    _shown[:] = [name for name in map(stem, (gt_path, lq_path)) if name]


def check_options(named):
    """Build every metric of this type among ``val.metrics`` now, and fill in its direction.

    Raises:
        ValueError: naming the metric and the option.
    """
    for name, option in named.items():
        if option['type'] == SEVERAL:
            with in_place(f'val.metrics.{name}'):
                judge_options = {key: option[key] for key in metrics.JUDGE_KEYS if key in option and key != 'better'}
                judge = metrics.judge_of(SEVERAL, judge_options)
                option.setdefault('better', 'higher' if judge.higher_better else 'lower')
                build(**option)
