"""Weights that are known to train: Table I of the NR-IQA paper, and the same rule for judges that are not in it."""

import difflib
import logging
import math

from nriqa_plugin.checks import unknown_name
from nriqa_plugin.iqa import Scorer

PAPER = 'paper'  # the text that stands for these weights in option files
TABLE_I = 'Table I'
OURS = 'ours, by the rule of Table I'
MEASURED = 'ours, measured'
MDF_PAPER = 'Mustafa et al., WACV 2022'

# Kashkarov et al., arXiv 2405.20392, Table I, without the minus signs of the judges whose higher scores are better.
TABLE = {
    'lpips': 0.05,
    'pieapp': 0.00005,
    'dbcnn': 0.005,
    'nima': 0.005,
    'paq2piq': 0.00005,
    'hyperiqa': 0.005,
    'mdtvsfa': 0.005,
    'maniqa': 0.005,
    'clipiqa': 0.005,
}

# variant -> the judge of Table I that it counts as
VARIANTS = {
    'lpips-vgg': 'lpips',
    'nima-vgg16-ava': 'nima',
    'maniqa-kadid': 'maniqa',
    'maniqa-pipal': 'maniqa',
    'clipiqa+': 'clipiqa',
    'clipiqa+_rn50_512': 'clipiqa',
    'clipiqa+_vitL14_512': 'clipiqa',
}

# Judges whose gradients are so large that what the rule gives (0.0005 and 0.005) was seen to be gamed: CNNIQA by
# tools/real_run.py (LPIPS falls by 57 to 322 % at 0.0005, not at 0.00005), NIQE by the demo's network.
OVERRULED = {'cnniqa': 0.00005, 'niqe': 0.001}

# Typical scores on real images. From the tables of arXiv
# 2504.18524 (SwinIR and Real-ESRGAN on its test set): musiq, topiq_nr, qalign, stlpips. The others: the typical value
# of a judge on the same scale, that is 0.6 on 0..1, 3.5 on 1..5, 5 on 1..10, 66 on 0..100.
TYPICAL = {
    'arniqa': 0.6,
    'arniqa-clive': 0.6,
    'arniqa-csiq': 0.6,
    'arniqa-flive': 0.6,
    'arniqa-kadid': 0.6,
    'arniqa-live': 0.6,
    'arniqa-spaq': 0.6,
    'arniqa-tid': 0.6,
    'liqe': 3.5,
    'liqe_mix': 3.5,
    'musiq': 66.0,
    'musiq-ava': 5.0,
    'musiq-paq2piq': 66.0,
    'musiq-spaq': 66.0,
    'nima-koniq': 0.6,
    'nima-spaq': 0.6,
    'pyiqa:cnniqa': 0.6,  # trained on KonIQ-10k, 0..1 and higher is better, unlike the built-in one
    'qalign': 3.5,  # for a differentiable one: pyiqa's can only score
    'stlpips': 0.15,
    'topiq_nr': 0.62,
    'topiq_nr-flive': 0.62,
    'topiq_nr-spaq': 0.62,
}

# The geometric middle between the smallest and the largest term that Table I gives a no-reference judge: 0.005 * 0.6
# (judges on 0..1) and 0.005 * 5 (NIMA).
TYPICAL_TERM = math.sqrt(0.003 * 0.025)

logger = logging.getLogger('nriqa_plugin')


def table_weight(metric):
    """The weight of a judge's native score in a sum with a pixel loss on [0, 1] (Charbonnier in the paper).

    Table I (Kashkarov et al., arXiv 2405.20392) names judges, not their trained variants. What counts as the paper's
    judge is the same method on the same scale: ``lpips`` with any backbone, ``nima`` trained on AVA with either
    backbone, ``maniqa`` and its ``-kadid`` and ``-pipal``, ``clipiqa`` and its ``clipiqa+`` variants. Not NIMA trained
    on KonIQ or SPAQ, which scores on 0..1 instead of 1..10, and not ``lpips+``, which weighs its layers by content.

    Judges that Table I lacks get :func:`weight_by_rule` of their typical score (``TYPICAL``), or what training with
    them has shown (``OVERRULED``).

    Args:
        metric (str): a judge's name, with or without ``pyiqa:``.

    Returns:
        tuple[float, str]: a positive weight (direction is handled inside the losses) and where it comes from,
        ``'Table I'``, ``'ours, by the rule of Table I'``, ``'ours, measured'``, or for ``mdf`` its own paper, where it
        is the whole loss.

    Raises:
        ValueError: there is no such weight for this judge; names those that have one.
    """
    names = {*TABLE, *VARIANTS, *TYPICAL, *OVERRULED}
    name = metric if metric in names else str(metric).removeprefix('pyiqa:')
    name = VARIANTS.get(name, name)
    if name == 'mdf':
        return 1.0, MDF_PAPER  # there it is the whole loss, without a pixel loss
    if name in TABLE:
        return TABLE[name], TABLE_I
    if name in OVERRULED:
        return OVERRULED[name], MEASURED
    if name in TYPICAL:
        return weight_by_rule(TYPICAL[name]), OURS
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    hint = f' Did you mean {" or ".join(map(repr, close))}?' if close else ''
    ours = ', '.join([*TYPICAL, *OVERRULED])
    raise ValueError(f'judge {metric!r} has no weight of the paper nor one of ours, write a number.{hint} '
                     f'Table I has {", ".join([*TABLE, *VARIANTS])}; ours are for {ours}')  # fmt: skip


def weight_by_rule(typical):
    r"""The rule of Table I, as we read it: the weight follows the size of the judge's typical score.

    All weights of the table are :math:`5 \cdot 10^{-k}`. Of these the rule takes the one for which weight times
    typical score is nearest to 0.0087 on a logarithmic scale, so that the term lies between 0.0027 and 0.027. It gives
    back the weight of every no-reference judge of the table (typical scores 0.6 on 0..1, 5 for NIMA, 70 for PaQ-2-PiQ)
    and that of LPIPS (0.1 to 0.3). PieAPP is the exception: scores of about 1 would get 0.005, a hundred times what
    the table has.

    The rule looks at values only: a judge with unusually large gradients may need less.

    Args:
        typical (float): the judge's score on real images, native scale, positive.
    """
    return float(f'5e{round(math.log10(TYPICAL_TERM / (5 * typical)))}')


def paper_weight(loss):
    """The weight that ``weight: paper`` stands for in a term with this loss; the log says where it comes from.

    Raises:
        ValueError: the loss has no judge, scores on the unit scale, or its judge has no such weight.
    """
    scorer = getattr(loss, 'scorer', None)
    if not isinstance(scorer, Scorer):
        raise ValueError(f"'{PAPER}' is for judges (NRIQALoss, FRIQALoss), write a number for {type(loss).__name__}")
    if loss.scale != 'native':
        raise ValueError(f"'{PAPER}' holds on the native scale; write a number with scale: {loss.scale}")
    weight, source = table_weight(scorer.name)
    paper = ' of arXiv 2405.20392' if source == TABLE_I else ''
    logger.info("weight '%s' of %s: %s (%s%s)", PAPER, scorer.name, weight, source, paper)
    return weight


def is_paper(option, weight):
    """Whether ``weight`` is the text that stands for these weights.

    Raises:
        ValueError: it is another text, though not a number.
    """
    if not isinstance(weight, str) or weight == PAPER:
        return weight == PAPER
    try:
        float(weight)
    except ValueError:
        raise unknown_name(f'value for {option}:', weight, (PAPER, 'a number')) from None
    return False
