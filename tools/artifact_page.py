"""docs/artifacts.md from the rows of ``tools/artifact_rates.py``."""

from pathlib import Path

from scipy.stats import binomtest

from nriqa_plugin.checks import atomic_path
from nriqa_plugin.evaluation.flat_areas import THRESHOLD
from nriqa_plugin.evaluation.periodic import PatternRule

NAMES = {
    'truth': 'ground truth',
    'pretrained': 'RLFN',
    'bicubic': 'bicubic',
    'pixel': 'RLFN, fine-tuned with the pixel loss',
    'blur': '5 px blur',
    'noise8': 'noise, 8 levels',
    'jpeg90': 'JPEG, quality 90',
    'jpeg50': 'JPEG, quality 50',
    'jpeg20': 'JPEG, quality 20',
    '': 'nothing (alone)',
}
REAL_TITLES = ('data', 'run', 'flagged', '95 % interval', 'median, levels')
SETS = {'kodak': 'Kodak24', 'models': '10 photographs', 'set5': 'Set5'}


def write_page(path, rows, flat):
    """Write the page; ``rows`` and ``flat`` are those of the tool."""
    template = Path(__file__).with_name('artifacts_page.md').read_text(encoding='utf-8')
    rule = PatternRule()
    clean, real, planted = ([row for row in rows if row['table'] == table] for table in ('clean', 'real', 'planted'))
    text = template.format(
        amplitude=rule.amplitude,
        whole=f'{rule.whole:g}',
        local=f'{rule.local:g}',
        threshold=f'{THRESHOLD:g}',
        clean_total=_rate(clean_without_models(clean)),
        clean=_table(('data', 'result', 'against', 'flagged', '95 % interval', 'strongest, levels'), _plain(clean)),
        planted=_table(('dots, levels', 'where', *_period_titles(planted), 'all', '95 % interval'), _planted(planted)),
        residual=_table(('difference to', 'where', *_period_titles(_others(planted)), 'all'), _residuals(planted)),
        real=_table(REAL_TITLES, _real(real)) if real else '(not measured)',
        flat=_table(('window, px', 'share of the area', 'images with one', 'median of the flattest window, levels'),
                    [(row['size'], f'{100 * row["share"]:.0f} %', f'{row["images"]} of {row["of"]}',
                      f'{row["median_least"]:.1f}') for row in flat]),
    )  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def clean_without_models(rows):
    """Those of which we know that nothing has been drawn into them."""
    return [row for row in rows if row['result'] in ('truth', 'bicubic', 'pretrained', 'pixel', 'blur', 'noise8')]


def _plain(rows):
    for group in _groups(rows, 'dataset', 'result', 'base'):
        strongest = max((row['found']['amplitude'] for row in group if row['found']), default=None)
        first = group[0]
        yield (SETS[first['dataset']], _name(first['result']), _name(first['base']), _rate(group),
               _interval(group), '' if strongest is None else f'{strongest:.1f}')  # fmt: skip


def _planted(rows):
    main = _first_base(rows)
    rows = [row for row in rows if row['base'] == main]
    for group in _groups(rows, 'levels', 'whole'):
        by_period = [_rate(part) for part in _groups(group, 'period')]
        yield group[0]['levels'], _where(group[0]), *by_period, _rate(group), _interval_of_images(group)


def _residuals(rows):
    levels = min(row['levels'] for row in rows)
    other = _others(rows)
    keys = {(row['period'], row['image']) for row in other}
    rows = [row for row in rows if row['levels'] == levels and (row['period'], row['image']) in keys]
    for group in _groups(rows, 'base', 'whole'):
        yield (
            _name(group[0]['base']),
            _where(group[0]),
            *(_rate(part) for part in _groups(group, 'period')),
            _rate(group),
        )


def _real(rows):
    for group in _groups(rows, 'dataset', 'result'):
        found = sorted(row['found']['amplitude'] for row in group if row['found'])
        median = f'{found[len(found) // 2]:.1f}' if found else ''
        yield SETS[group[0]['dataset']], f'`{group[0]["result"]}`', _rate(group), _interval(group), median


def _others(rows):
    main = _first_base(rows)
    return [row for row in rows if row['base'] != main]


def _first_base(rows):
    """What the results with dots are compared with in the main table: not alone, not the ground truth."""
    return next(row['base'] for row in rows if row['base'] not in ('', 'truth'))


def _groups(rows, *keys):
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups.values()


def _rate(rows):
    return f'{sum(bool(row["found"]) for row in rows)}/{len(rows)}'


def _interval(rows):
    """Exact (Clopper and Pearson), of independent images."""
    return _exact(sum(bool(row['found']) for row in rows), len(rows))


def _interval_of_images(rows):
    """Of the share of images in which the dots of every period were found: those of one image are not independent."""
    images = _groups(rows, 'image')
    return _exact(sum(all(row['found'] for row in group) for group in images), len(images))


def _exact(found, of):
    interval = binomtest(found, of).proportion_ci(method='exact')
    return f'{100 * interval.low:.0f} to {100 * interval.high:.0f} %'


def _period_titles(rows):
    return [f'{period} px' for period in sorted({row['period'] for row in rows})]


def _name(kind):
    return NAMES.get(kind, kind)


def _where(row):
    return 'whole image' if row['whole'] else '128 px of it'


def _table(titles, rows):
    lines = [titles, ['---'] * len(titles), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)
