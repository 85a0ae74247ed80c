"""Mean opinion scores: reading a table of them, and how well a judge follows them."""

import math
from dataclasses import dataclass

import numpy as np

from nriqa_plugin.checks import check_choice, check_keys, import_extra
from nriqa_plugin.evaluation.statistics import Estimate, bootstrap_ci
from nriqa_plugin.preference.table_columns import number_in, parse_columns, read_entries, read_header

PARAMETERS = 4  # of the logistic curve
NOTHING = Estimate(math.nan, math.nan, math.nan)
STEP = 0.02  # of the span: how near to a level counts as on it
EVALUATIONS = 2000  # where opinions rise ever faster the curve's upper level runs away: it is near enough by then
LINE = 10.0  # a width, in standard deviations of the scores, at which the curve is nearly a line
WIDEST = 50.0  # logarithm of a width, or of one over it: a straight line or a step long before
LEAST = 1e-6  # of the variance: a curve that explains less is the mean
PRECISION = 1e-14  # of floats: a direction of the parameters that changes the curve by less is not determined
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

    ``degenerate`` says why PLCC's curve says little, or why there is none.
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
        Correlation: NaN when all scores are equal; PLCC also with three images, or where no curve is better than the
                mean.

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
    throughout where ``high < low`` fits better. Where they have no minimum, as with opinions that rise ever faster, the
    curve is the best one that was reached.

    Returns:
        ndarray: of the length of ``scores``.

    Raises:
        ValueError: fewer than four scores, or no curve is better than the mean.
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
        return low + span * (1 + np.tanh((x - middle) / (2 * np.exp(np.clip(width, -WIDEST, WIDEST))))) / 2

    best, error, determined = None, len(y) * (1 - LEAST), True  # the squares about the mean are len(y)
    line = 4 * LINE * float(np.mean(x * y))  # the span of a wide curve along the regression line
    starts = [(y.min(), np.ptp(y), 0.0, 0.0), (y.max(), -np.ptp(y), 0.0, 0.0)]  # a judge may be wrong throughout
    for start in (*starts, (-line / 2, line, 0.0, math.log(LINE))):
        found = optimize.least_squares(lambda p: curve(x, *p) - y, start, method='lm', max_nfev=EVALUATIONS)
        if 2 * found.cost < error:
            size = np.linalg.svd(found.jac, compute_uv=False)
            best, error, determined = curve(x, *found.x), 2 * found.cost, bool(size[-1] > PRECISION * size[0])
    if best is None:
        return None, 'no curve is better than the mean'
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
