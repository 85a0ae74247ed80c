"""A screening as text: Markdown tables with the definitions that they stand on, and JSON."""

import json
import math
from dataclasses import asdict

from nriqa_plugin.checks import atomic_path
from nriqa_plugin.preference.vote_formats import PUBLISHED


def percent(share, low=math.nan, high=math.nan):
    """A share in percent, with its interval if there is one; empty for NaN."""
    if math.isnan(share):
        return ''
    return f'{100 * share:.1f}' if math.isnan(low) else f'{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]'


def published(judge, data_format):
    """The accuracy that was published for a judge on this data, as text; empty if none was."""
    value = PUBLISHED.get((data_format, judge))
    return f'{value[0]:.2f} ({value[1]})' if value else ''


def counts(screening):
    """What the screening is of, and what was left out, in one sentence each."""
    first = screening.rows[0]
    some = 'judge' if len(screening.rows) == 1 else 'judges'
    text = (f'{len(screening.rows)} {some}, {first.votes} answers on {first.pairs + screening.even} pairs of '
            f'{screening.images} images, {screening.scenes} scenes.')  # fmt: skip
    if screening.ties:
        text += f' Left out: {screening.ties} ties, with them {screening.all_ties} pairs.'
    if screening.even:
        text += f' Pairs whose votes are even count per vote, but not per pair: {screening.even}.'
    return text


def definitions(screening, seed, resamples):
    """Sentences that say what the numbers are."""
    yield counts(screening)
    yield ('2AFC accuracy in percent: agreement with the majority of a pair, and with single votes (a row that holds a '
           'fraction counts by it). A judge that gives both images the same score counts one half. '
           '50 is chance.')  # fmt: skip
    interval = f'Intervals: 95 %, percentile bootstrap over scenes, {resamples} resamples, seed {seed}'
    yield f'{interval}, the same for all judges.' if screening.scenes > 1 else 'A single scene: no intervals.'
    if screening.repeated:
        yield (f'{screening.repeated} rows are on a pair that an earlier row is on; without a column for observers '
               'each counts as a vote of its own.')  # fmt: skip


def markdown(screening, title, seed, resamples, data_format=None, failed=None, notes=()):
    """The page of a screening.

    Args:
        screening (Screening): what was found.
        title (str): heading.
        seed, resamples (int): of the bootstrap, for the text.
        data_format (str | None): published numbers of this data stand beside.
        failed (dict[str, str] | None): judges that could not be asked, and why.
        notes (Sequence[str]): sentences in front.

    Returns:
        str
    """
    core = screening.core
    shown = any(published(row.judge, data_format) for row in screening.rows)
    lines = [f'# {title}', '', *(f'- {note}' for note in (*notes, *definitions(screening, seed, resamples))), '']
    head = ['judge', 'better', 'per pair', 'per vote', 'undecided']
    head += [f'where {core} is wrong'] * (core is not None) + ['published'] * shown
    lines += [_line(head), _line(['---', '---', *['---:'] * (len(head) - 2)])]
    for row in screening.rows:
        cells = [f'`{row.judge}`', 'higher' if row.higher_better else 'lower']
        cells += [percent(row.pair_accuracy, row.pair_low, row.pair_high)]
        cells += [percent(row.vote_accuracy, row.vote_low, row.vote_high), str(row.undecided)]
        cells += [percent(row.rescue, row.rescue_low, row.rescue_high)] * (core is not None)
        lines.append(_line(cells + [published(row.judge, data_format)] * shown))
    extra = [''] * (len(head) - 5)
    lines.append(_line(['*always the majority*', '', '100', percent(*screening.majority.share), '', *extra]))
    if screening.observer.n:
        label = f'*one person against the others* ({screening.observer.n} votes)'
        lines.append(_line([label, '', '', percent(*screening.observer.share), '', *extra]))
    lines += ['', *_complement(screening), *_together(screening), *_ranks(screening)]
    if failed:
        lines += [f'## Not asked: {len(failed)}', '', *(f'- `{name}`: {why}' for name, why in failed.items()), '']
    return '\n'.join(lines)


def as_dict(screening):
    """The screening as plain numbers; NaN becomes None."""
    found = asdict(screening)
    found['ranks'] = screening.ranks.tolist()
    for key in ('majority', 'observer'):
        found[key] = {'share': list(getattr(screening, key).share), 'n': getattr(screening, key).n}
    for one, text in zip(screening.combinations, found['combinations'], strict=True):
        text['cross_validated'] = {'share': list(one.cross_validated.share), 'n': one.cross_validated.n}
    return _without_nan(found)


def write_json(path, content):
    """Plain numbers as a JSON file, at once or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_without_nan(content), indent=1, allow_nan=False) + '\n', encoding='utf-8')


def _complement(screening):
    wrong = max(row.core_wrong for row in screening.rows)
    if not screening.core or len(screening.rows) < 2:
        return []
    text = f'`{screening.core}` is wrong on {wrong} pairs; the column "where {screening.core} is wrong" is of these.'
    return ['## Complementarity', '', text, '']


def _together(screening):
    if len(screening.rows) < 2 or not screening.combinations:
        return []
    with_core = f' Each holds the core judge `{screening.core}`.' if screening.core else ''
    lines = ['## Judges together', '', 'Margins, each divided by its root mean square, are added. *In sample*: on the '
             'pairs that the choice was made on, too high. *Cross-validated*: choice and scales come from the other '
             f'scenes ({screening.combinations[0].folds} parts).{with_core}', '']  # fmt: skip
    lines += [_line(['judges', 'in sample', 'cross-validated', 'same choice in']), _line(['---', *['---:'] * 3])]
    for one in screening.combinations:
        names = ' + '.join(f'`{name}`' for name in one.judges)
        cells = [names, percent(one.in_sample), percent(*one.cross_validated.share)]
        lines.append(_line([*cells, f'{one.chosen_in} of {one.folds}']))
    return [*lines, '']


def _ranks(screening):
    names = [row.judge for row in screening.rows]
    if len(names) < 2:
        return []
    lines = ['## Rank correlation between judges', '', 'Spearman, over all images, every judge with higher better.', '']
    lines += [_line(['', *(f'`{name}`' for name in names)]), _line(['---', *['---:'] * len(names)])]
    for name, values in zip(names, screening.ranks, strict=True):
        lines.append(_line([f'`{name}`', *('' if math.isnan(value) else f'{value:.2f}' for value in values)]))
    return [*lines, '']


def _line(cells):
    return '| ' + ' | '.join(cells) + ' |'


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
