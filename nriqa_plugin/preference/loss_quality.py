"""How well losses predict what people think: rank correlation with opinions or JND on images that were rated."""

import math
from dataclasses import dataclass

import numpy as np

from nriqa_plugin.checks import import_extra
from nriqa_plugin.evaluation.images import few
from nriqa_plugin.evaluation.statistics import bootstrap_ci
from nriqa_plugin.preference.mos import read_mos
from nriqa_plugin.preference.table_columns import number_in, parse_columns, read_entries, read_header

OPINION = ('image', 'mos', 'reference', 'kind', 'mos_better')
MORE = ('scene', 'dataset', 'low', 'high')
ENDS = {'low': 'high', 'high': 'low'}  # of an interval: the other one
ALL = 'all'
FEWEST = 3  # images that have a rank correlation


@dataclass(frozen=True)
class Rated:
    """An image that people have rated.

    Attributes:
        image (str): its name.
        quality (float): opinion or JND; higher is better.
        reference (str): its undistorted image, empty when the table does not say.
        kind (str): of distortion, or the method that made it.
        scene (str): what it shows; by default its reference. Images of a scene are resampled together.
        dataset (str): which data set.
        low, high (float): interval of the quality, NaN when the table does not say.
    """

    image: str
    quality: float
    reference: str = ''
    kind: str = ''
    scene: str = ''
    dataset: str = ''
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class LossRow:
    """How one loss follows the quality of some images.

    Attributes:
        dataset, kind (str): which images; ``all`` kinds together.
        loss (str): its name.
        n, scenes (int): how many images, of how many scenes; ``within`` a scene: of how many scenes that have a
            correlation: of two images or more, with neither the loss nor the quality constant.
        srocc, low, high (float): Spearman's correlation of the quality with **minus the loss**, so that 1 is perfect,
            and its 95 % bootstrap interval over scenes. ``within`` a scene: the mean of the scenes' correlations.
    """

    dataset: str
    kind: str
    loss: str
    n: int
    scenes: int
    srocc: float
    low: float
    high: float


def read_rated(path, mapping=None):
    """Read a table of rated images.

    Args:
        path (str | Path): a CSV file.
        mapping (str | None): ``image=...,mos=...`` and, if there are such, ``reference``, ``kind``, ``scene``,
            ``dataset``, ``low`` and ``high``, each a column or a template such as ``{condition}/{scene}``; by default
            the columns of these names. ``mos_better=lower`` for a DMOS. An end of an interval may be empty or ``nan``.

    Returns:
        list[Rated]

    Raises:
        FileNotFoundError: no such file.
        ValueError: as :func:`~nriqa_plugin.preference.mos.read_mos`, or an interval that is no number.
    """
    fields = parse_columns(mapping, (*OPINION, *MORE)) if mapping else {}
    opinions = read_mos(path, {field: text for field, text in fields.items() if field in OPINION} or None)
    more = {field: text for field, text in fields.items() if field in MORE}
    if not fields:
        more = {field: field for field in MORE if field in read_header('opinions', path)}
    entries = read_entries('opinions', path, more) if more else [None] * len(opinions)
    rated = []
    for opinion, entry in zip(opinions, entries, strict=True):
        given = {} if entry is None else {field: entry.fields[field] for field in more if field in ('scene', 'dataset')}
        ends = {field: number_in(entry, field) for field in more if field in ENDS and _is_given(entry.fields[field])}
        if fields.get('mos_better') == 'lower':  # the opinion has changed its sign: the ends change places
            ends = {ENDS[end]: -value for end, value in ends.items()}
        given['scene'] = given.get('scene') or opinion.reference
        rated.append(Rated(opinion.image, opinion.mos, opinion.reference, opinion.kind, **given, **ends))
    return rated


def _is_given(end):
    return end.lower() not in ('', 'nan')


def loss_rows(rated, losses, within=False, seed=0, resamples=1000):
    """One row for each data set, kind (and all of them together) and loss.

    Args:
        rated (Sequence[Rated]): the images.
        losses (dict[str, dict[str, float]]): by loss the value for every image; lower is better.
        within (bool): the quality compares only within a scene, as JND by scene do: take every scene's correlation
            and their mean. Kinds are not told apart then: a scene has one image of each.
        seed, resamples (int): of the bootstrap over scenes; over images, where not all have a scene.

    Returns:
        list[LossRow]: of data sets and kinds with at least three images, see :func:`too_few`; NaN where a loss or the
            quality is constant.

    Raises:
        ValueError: images that a loss has no finite value for, or no scene ``within``.
    """
    for loss, values in losses.items():
        bad = [one.image for one in rated if not math.isfinite(values.get(one.image, math.nan))]
        if bad:
            raise ValueError(f'{loss} has no finite value for {few(bad)}')
    if within and not all(one.scene for one in rated):
        raise ValueError('within a scene: the table must say the scene (or the reference) of every image')
    return [
        _row(dataset, kind, loss, chosen, values, within, seed, resamples)
        for (dataset, kind), chosen in _groups(rated, within).items()
        if len(chosen) >= FEWEST
        for loss, values in losses.items()
    ]


def too_few(rated, within=False):
    """Data sets and kinds that :func:`loss_rows` has no row for: ``{(dataset, kind): number of images}``."""
    return {key: len(chosen) for key, chosen in _groups(rated, within).items() if len(chosen) < FEWEST}


def _groups(rated, within):
    """The images of every data set, and of its kinds where there are several."""
    found = {}
    for dataset in dict.fromkeys(one.dataset for one in rated):
        own = [one for one in rated if one.dataset == dataset]
        found[dataset, ALL] = own
        kinds = [] if within else sorted({one.kind for one in own} - {''})
        for kind in kinds if len(kinds) > 1 else ():
            found[dataset, kind] = [one for one in own if one.kind == kind]
    return found


def _row(dataset, kind, loss, rated, values, within, seed, resamples):
    scenes = [one.scene for one in rated]
    pairs = np.array([(-values[one.image], one.quality) for one in rated])
    generator = np.random.default_rng(seed)
    if within:
        each = [srocc(pairs[[i for i, s in enumerate(scenes) if s == scene]]) for scene in dict.fromkeys(scenes)]
        each = [value for value in each if not math.isnan(value)]
        found = bootstrap_ci(each, np.mean, generator, resamples=resamples) if each else (math.nan,) * 3
        number = len(each)
    else:
        groups = scenes if all(scenes) else None
        found = bootstrap_ci(pairs, srocc, generator, resamples=resamples, groups=groups)
        number = len(set(scenes) - {''})
    return LossRow(dataset, kind, loss, len(rated), number, *map(float, found))


def srocc(pairs):
    """Spearman's correlation of two columns, NaN when one is constant or there are fewer than two rows."""
    if len(pairs) < 2 or (np.ptp(pairs, axis=0) == 0).any():
        return math.nan
    ranks = import_extra('scipy.stats', 'report', 'the correlations').rankdata(pairs, axis=0)
    return float(np.corrcoef(ranks.T)[0, 1])
