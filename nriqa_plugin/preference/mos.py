"""Mean opinion scores: reading a table of them, and how well a judge follows them."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from nriqa_plugin.checks import check_choice, check_keys, import_extra
from nriqa_plugin.evaluation.statistics import Estimate, bootstrap_ci
from nriqa_plugin.preference.table_columns import number_in, parse_columns, read_entries, read_header

PARAMETERS = 4  # of the logistic curve
NOTHING = Estimate(math.nan, math.nan, math.nan)
STEP = 0.02  # of the span: how near to a level counts as on it
COLUMNS = ('image', 'mos')
OPTIONAL = ('reference', 'kind', 'scene')
HINT = ('Say where they stand with --columns image=COLUMN,mos=COLUMN (a DMOS: also mos_better=lower), in a table as of '
        'PIPAL with --format pipal')  # fmt: skip


@dataclass(frozen=True)
class Opinion:
    """What people think of an image.

    Attributes:
        image (str): name.
        mos (float): mean opinion; **higher is better** (a DMOS has changed its sign).
        reference (str): the undistorted image, empty when the table does not say.
        kind (str): of distortion, empty when the table does not say.
        scene (str): what it shows; by default its reference.
    """

    image: str
    mos: float
    reference: str = ''
    kind: str = ''
    scene: str = ''


@dataclass(frozen=True)
class Correlation:
    """How a judge follows the opinions; positive is right. Intervals are by bootstrap, NaN where there is none.

    ``degenerate`` says why PLCC's curve says little, where it does.
    """

    n: int
    srocc: Estimate
    plcc: Estimate
    krocc: Estimate
    degenerate: str = ''


def read_mos(path, mapping=None):
    """Read a table of mean opinion scores.

    Args:
        mapping (str | dict[str, str] | None): fields ``image``, ``mos``, ``reference``, ``kind`` and ``scene``, by
            default the columns of these names; ``mos_better=lower`` for a DMOS. Written as for
            :func:`nriqa_plugin.preference.votes.read_votes`.

    Returns:
        list[Opinion]

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column that is not there, an opinion that is no finite number, or an image twice.
    """
    allowed = (*COLUMNS, *OPTIONAL, 'mos_better')
    fields = parse_columns(mapping, allowed) if isinstance(mapping, str) else dict(mapping or {})
    check_keys('the columns', fields, allowed)
    sign = 1 if check_choice('mos_better', fields.pop('mos_better', 'higher'), ('higher', 'lower')) == 'higher' else -1
    if not mapping or not fields:
        header = read_header('opinions', path)
        if lacking := [field for field in COLUMNS if field not in header]:
            raise ValueError(f'{path}: a table of opinions has the columns image and mos; this one has no '
                             f'{" and no ".join(lacking)}, but {", ".join(header)}. {HINT}')  # fmt: skip
        fields = {**{field: field for field in COLUMNS}, **{field: field for field in OPTIONAL if field in header}}
    missing = [field for field in COLUMNS if field not in fields]
    if missing:
        raise ValueError(f'columns: {", ".join(missing)} must be given, too. {HINT}')
    opinions, seen = [], {}
    for entry in read_entries('opinions', path, fields):
        image, mos = entry.fields['image'], number_in(entry, 'mos')
        if not image or math.isinf(mos):
            raise ValueError(f'{entry.where}: no image, or an opinion that is not finite: {entry.fields["mos"]}')
        if image in seen:
            raise ValueError(f'{entry.where}: {image} has an opinion already, see {seen[image]}')
        seen[image] = entry.where
        reference, kind, scene = (entry.fields.get(field, '') for field in OPTIONAL)
        opinions.append(Opinion(image, sign * mos, reference, kind, scene or reference))
    return opinions


def correlate(scores, mos, generator, groups=None, resamples=1000):
    """Rank correlations of Spearman and Kendall (tau-b), and Pearson's after a logistic fit.

    PLCC follows the usual practice of the Video Quality Experts Group: scores are first mapped to opinions by
    :func:`logistic_fit`, which is made once; its resamples keep that curve. Where the best curve falls, PLCC is
    negative as the rank correlations are: a judge that is wrong throughout has -1, not 1.

    Args:
        scores (Sequence[float]): with higher better, of the same images as ``mos``.
        mos (Sequence[float]): higher is better.
        generator (numpy.random.Generator): draws the resamples.
        groups (Sequence | None): images of one group, for example of one reference, are drawn together.

    Returns:
        Correlation: NaN when all scores are equal; PLCC also where no curve can be fitted, as to three images.

    Raises:
        ValueError: samples of different length, below three images, or numbers that are not finite.
    """
    stats = import_extra('scipy.stats', 'report', 'the correlations')
    scores, mos = np.asarray(scores, dtype=float), np.asarray(mos, dtype=float)
    if scores.shape != mos.shape or scores.ndim != 1 or len(scores) < 3:
        raise ValueError(f'at least three scores and opinions of the same images are needed, got {scores.shape} and '
                         f'{mos.shape}')  # fmt: skip
    if np.ptp(scores) == 0 or np.ptp(mos) == 0:
        return Correlation(len(scores), NOTHING, NOTHING, NOTHING)

    def estimate(statistic, x):
        if x is None:
            return NOTHING
        return bootstrap_ci(np.column_stack([x, mos]), statistic, generator, resamples=resamples, groups=groups)

    mapped, degenerate = _fit(scores, mos)
    if mapped is not None and mapped[scores.argmax()] < mapped[scores.argmin()]:
        mapped = -mapped  # a falling curve follows the opinions whatever the judge says of them
    return Correlation(
        len(scores),
        estimate(lambda pairs: _of_unequal(lambda x, y: stats.spearmanr(x, y).statistic, pairs), scores),
        estimate(lambda pairs: _of_unequal(lambda x, y: np.corrcoef(x, y)[0, 1], pairs), mapped),
        estimate(lambda pairs: _of_unequal(lambda x, y: stats.kendalltau(x, y).statistic, pairs), scores),
        degenerate,
    )


def logistic_fit(scores, mos):
    """Scores mapped to opinions by the best ``low + (high - low) / (1 + exp(-(score - middle) / width))``.

    The four parameters are those of least squares, ``width > 0``: the order of the scores stays, or is reversed
    throughout where ``high < low`` fits better.

    Returns:
        ndarray: of the length of ``scores``.

    Raises:
        ValueError: fewer than four scores, or no curve is found.
    """
    mapped, reason = _fit(scores, mos)
    if mapped is None:
        raise ValueError(f'the logistic curve of PLCC cannot be fitted: {reason}')
    return mapped


def _fit(scores, mos):
    """``(mapped, degenerate)``: see :func:`logistic_fit` and :class:`Correlation`; None without a curve."""
    optimize = import_extra('scipy.optimize', 'report', 'the correlations')
    if len(scores) < PARAMETERS:
        return None, f'{len(scores)} images for its four parameters'
    scores, mos = np.asarray(scores, dtype=float), np.asarray(mos, dtype=float)
    x = (scores - scores.mean()) / scores.std()
    y = (mos - mos.mean()) / mos.std()

    def curve(x, low, span, middle, width):
        # tanh does not overflow; the logistic function is (1 + tanh(z / 2)) / 2.
        return low + span * (1 + np.tanh((x - middle) / (2 * np.exp(width)))) / 2

    best, error, determined = None, math.inf, True
    for span in (np.ptp(y), -np.ptp(y)):  # a judge may be wrong throughout
        start = (y.min() if span > 0 else y.max(), span, 0.0, 0.0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', optimize.OptimizeWarning)  # an infinite covariance, which is told below
                found, covariance = optimize.curve_fit(curve, x, y, start, maxfev=20000)
        except RuntimeError:
            continue
        mapped = curve(x, *found)
        if (squares := float(((mapped - y) ** 2).sum())) < error:
            best, error, determined = mapped, squares, bool(np.isfinite(covariance).all())
    if best is None:
        return None, 'no curve was found'
    return best * mos.std() + mos.mean(), _degenerate(best, determined)


def _degenerate(mapped, determined):
    """Why a fitted curve says little; empty where it does not."""
    low, high = mapped.min(), mapped.max()
    if np.minimum(mapped - low, high - mapped).max() <= STEP * (high - low):
        return 'a step: it maps all images to nearly two levels, so that PLCC only says on which side of it they lie'
    return '' if determined else f'{len(mapped)} images do not determine its four parameters'


def _of_unequal(statistic, pairs):
    """NaN where one of the two columns is constant."""
    x, y = pairs.T
    return math.nan if np.ptp(x) == 0 or np.ptp(y) == 0 else float(statistic(x, y))
