"""A sweep over one option file: ratios of perceptual weight to judge weight, and larger GAN weights without a judge.

The two questions of arXiv 2504.18524: how much of the judge does the perceptual term have to hold in check, and does
scaling the GAN loss do the same as a no-reference term (there: it does not)?
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from nriqa_plugin.checks import check_number, unknown_name
from nriqa_plugin.compare import runs
from nriqa_plugin.compare.family import Family
from nriqa_plugin.compare.judging import write_comparison
from nriqa_plugin.compare.sweep_base import gan_weight, host_by_ending, terms_of
from nriqa_plugin.evaluation.csv_file import write_csv
from nriqa_plugin.evaluation.figures import save_figure
from nriqa_plugin.evaluation.sweep_figure import sweep_figure

RATIO, GAN = 'ratio', 'gan'
COLUMNS = ('name', 'kind', 'lambda_p', 'lambda_q', 'gan_weight', 'status')


@dataclass(frozen=True)
class Point:
    """One training of a sweep.

    Attributes:
        name (str): of its folder.
        kind (str): ``ratio`` or ``gan``.
        label (str): below the axis of the figure: ``p:q`` or ``x3``.
        lambda_p, lambda_q (float): weights of the perceptual term and of the judge.
        gan_weight (float | None): for ``gan`` only.
        family (Family): the one training, as ``nriqa compare`` runs it.
    """

    name: str
    kind: str
    label: str
    lambda_p: float
    lambda_q: float
    gan_weight: float | None
    family: Family


def read_sweep(base, perceptual, judge, ratios=(), gan=(), gan_base=None, judges=None, settings=None):
    """The trainings of a sweep.

    Args:
        base (str | Path): option file, ``.yml`` of BasicSR or ``.py`` of mmagic, whose pixel loss is a ``LossSum``
            with both terms.
        perceptual, judge (str): names of the terms.
        ratios (Sequence[tuple[float, float]]): ``(p, q)``, multiples of the base file's weights of both terms; with
            q = 0 the judge's term is left out.
        gan (Sequence[float]): multiples of the GAN loss's weight, each without the judge's term.
        gan_base (str | Path | None): option file of the same host for these, when ``base`` trains without a GAN (in
            the paper it does).
        judges (list[dict] | None): ``{metric, weights?, options?, crop_border?}`` of the figure; default: PSNR and the
            judges of the two terms.
        settings (dict | None): overrides of the option files, ``{'train:total_iter': 1000}``, in
            mmagic ``{'train_cfg.max_iters': 1000}``.

    Returns:
        list[Point]: ratios by rising q / p, then GAN weights.

    Raises:
        FileNotFoundError, ValueError, TypeError: naming file and option.
    """
    settings = dict(settings or {})
    terms, host = terms_of(base), host_by_ending(base)
    for option, name in (('--perceptual', perceptual), ('--judge', judge)):
        _check_term(base, terms, option, name)
    if perceptual == judge:
        raise ValueError(f'--perceptual and --judge name the same term {judge!r}')
    judges = judges or [{'metric': 'psnr'}, *(_judge_of_term(terms[name]) for name in (perceptual, judge))]
    points = []

    def add(kind, label, name, file, losses, lambda_q, weight, more=()):
        family = Family(
            file=Path(file), base=Path(file), host=host, losses={name: losses}, test={}, judges=judges,
            plane=None, settings={**settings, **dict(more)}, against=None, search={},
        )  # fmt: skip
        if any(point.name == name for point in points):
            raise ValueError(f'the sweep holds {label} twice')
        lambda_p = losses[perceptual]['weight'] if perceptual in losses else 0.0
        points.append(Point(name, kind, label, lambda_p, lambda_q, weight, family))

    for p, q in sorted(ratios, key=lambda ratio: (ratio[1] / ratio[0] if ratio[0] else float('inf'), ratio)):
        check_number(f'--ratio {p}:{q}', p, low=0)
        check_number(f'--ratio {p}:{q}', q, low=0)
        weights = {perceptual: p * terms[perceptual]['weight'], judge: q * terms[judge]['weight']}
        add(RATIO, f'{p:g}:{q:g}', f'p{_text(p)}_q{_text(q)}', base, _weighted(terms, weights), weights[judge], None)
    if gan:
        gan_base = gan_base or base
        if host_by_ending(gan_base) != host:
            raise ValueError(f'--gan-base {gan_base} is of another framework than {base}')
        key, weight = gan_weight(gan_base, settings)
        without = _weighted(terms_of(gan_base), {judge: 0.0})
        _check_no_judge(gan_base, without, {perceptual, *terms})
        for factor in sorted(gan):
            check_number(f'--gan {factor}', factor, low=0)
            more = {key: factor * weight}
            add(GAN, f'x{factor:g}', f'gan_x{_text(factor)}', gan_base, without, 0.0, factor * weight, more)
    if not points:
        raise ValueError('nothing to sweep: give --ratio or --gan')
    return points


def run_sweep(points, out, steps=None, seed=0, retry=False, report_only=False, progress=None):
    """Run every training of a sweep; the same call goes on after a kill, as ``nriqa compare`` does.

    Args:
        points (Sequence[Point]): what :func:`read_sweep` returned.
        out, steps, seed, retry, report_only, progress: as in :func:`nriqa_plugin.compare.runs.run_family`.

    Returns:
        list[Outcome]: in the order of the points.

    Raises:
        ValueError: a folder was begun with other options; before any training starts.
    """
    steps = steps if steps is None else check_number('--steps', steps, low=1, integer=True)
    out = Path(out).resolve()
    hosts = [runs.host_of(point.family, seed) for point in points]
    trainings = [
        runs.Training(host, out / point.name, point.name, point.family.losses[point.name], steps)
        for host, point in zip(hosts, points, strict=True)
    ]
    if report_only:
        return [training.found() for training in trainings]
    for training in trainings:
        training.check_unchanged(retry)
    return [training.run('test', progress, retry) for training in trainings]


def write_sweep(points, outcomes, out, seed=0):
    """Scores, tables and the report of ``nriqa compare``, and beside them ``sweep.csv`` and a figure for each data set.

    Returns:
        tuple[list[Row], list[Outcome]]: as :func:`nriqa_plugin.compare.judging.write_comparison`.
    """
    out = Path(out)
    losses = {point.name: point.family.losses[point.name] for point in points}
    rows, outcomes = write_comparison(replace(points[0].family, losses=losses), outcomes, out, seed)
    status = {outcome.name: outcome.status for outcome in outcomes}
    means = {(row.dataset, row.metric, row.method): row for row in rows}
    columns = list(dict.fromkeys((row.dataset, row.metric) for row in rows))
    lines = [[*COLUMNS, *(f'{dataset}/{metric}' for dataset, metric in columns)]]
    for point in points:
        found = [means.get((*column, point.name)) for column in columns]
        gan = '' if point.gan_weight is None else point.gan_weight
        head = (point.name, point.kind, point.lambda_p, point.lambda_q, gan, status[point.name])
        lines.append([*head, *('' if row is None else row.mean for row in found)])
    write_csv(out / 'sweep.csv', lines)
    for dataset in dict.fromkeys(row.dataset for row in rows):
        panels = [[row for row in rows if (row.dataset, row.metric) == column] for column in columns
                  if column[0] == dataset]  # fmt: skip
        figure = sweep_figure(f'{points[0].family.base.stem} on {dataset}', panels, _series(points))
        save_figure(figure, out / f'sweep_{dataset}')
    return rows, outcomes


def _series(points):
    """``{name of the series: {training: label}}``, those with at least one training."""
    titles = {RATIO: 'perceptual : judge, multiples of the base file', GAN: 'GAN weight, without the judge'}
    series = {title: {p.name: p.label for p in points if p.kind == kind} for kind, title in titles.items()}
    return {title: labels for title, labels in series.items() if labels}


def _check_term(base, terms, option, name):
    if name not in terms:
        raise unknown_name(f'term for {option} in {base}:', name, terms)
    check_number(f'{base}: weight of {name}', terms[name].get('weight'), low=1e-30)


def _check_no_judge(base, terms, known):
    """The control has no judge: neither that of the base file nor one by another name."""
    for name, term in terms.items():
        if term['type'].rpartition(':')[2] == 'NRIQALoss' and name not in known:
            raise ValueError(f'{base} has the no-reference term {name!r}, which the other file has not: the trainings '
                             'with larger GAN weights would not be without the judge')  # fmt: skip


def _weighted(terms, weights):
    """The terms with these weights; what has the weight 0 is left out."""
    made = {name: {**deepcopy(term), 'weight': weights.get(name, term['weight'])} for name, term in terms.items()}
    return {name: term for name, term in made.items() if not (name in weights and term['weight'] == 0)}


def _judge_of_term(term):
    if 'ensemble' in term:
        return {'metric': 'ensemble', 'options': {'judges': term['ensemble']}}
    if 'metric' not in term:
        raise ValueError(f'the term {term["type"]} is no judge that could score the results; name the judges: --metric')
    return {key: term[key] for key in ('metric', 'weights', 'options') if term.get(key) is not None}


def _text(number):
    return f'{number:g}'.replace('.', 'p').replace('-', 'm').replace('+', '')
