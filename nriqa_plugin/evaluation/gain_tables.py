"""A matrix of relative gains as files: wide CSV, long CSV and Markdown."""

import math
from dataclasses import astuple, fields

from nriqa_plugin.checks import atomic_path
from nriqa_plugin.evaluation.csv_file import DUST, write_csv
from nriqa_plugin.evaluation.gain_matrix import Cell

MEANS = ('mean', 'mean_of_others')
OWN, LOWERED = '°', '▼'  # marks in Markdown and on the terminal


def write_wide(path, matrix):
    """One line a loss: gains by judge and their means, judges that it optimises, those of them that it lowers.

    Unknown numbers are empty; the column ``gains`` says how they were made, ``n_places`` over how many pairs of
    network and data set.
    """
    lines = [['loss', *matrix.metrics, *MEANS, 'optimised', 'lowers_own', 'gains', 'n_places', 'baseline']]
    how = 'per image' if matrix.per_image else 'of means'
    for loss in matrix.losses:
        numbers = [matrix.gain(loss, metric) for metric in matrix.metrics]
        numbers += [matrix.mean(loss), matrix.mean_of_others(loss)]
        own = [metric for metric in matrix.metrics if metric in matrix.own[loss]]
        marks = (';'.join(own), ';'.join(matrix.lowered(loss)))
        places = len(matrix.places) - len(matrix.missing.get(loss, ()))
        shown = ['' if math.isnan(number) else number for number in numbers]
        lines.append([loss, *shown, *marks, how, places, matrix.baseline])
    write_csv(path, lines)


def write_long(path, matrix):
    """One line for each loss, network, data set and judge: the fields of :class:`Cell`, and how the gains were made."""
    how = 'per image' if matrix.per_image else 'of means'
    head = [*(field.name for field in fields(Cell)), 'lowers_own', 'gains', 'baseline']
    lines = [[*astuple(cell), cell.own and cell.gain < -DUST, how, matrix.baseline] for cell in matrix.cells]
    write_csv(path, [head, *lines])


def write_markdown(path, matrix, notes=()):
    """The table and below it everything that a reader must know, with ``notes`` at the end."""
    with atomic_path(path) as temporary:
        temporary.write_text(markdown_matrix(matrix, notes), encoding='utf-8')


def markdown_matrix(matrix, notes=()):
    """The table as Markdown."""
    heads = [f'{metric} {"↑" if matrix.higher_better[metric] else "↓"}' for metric in matrix.metrics]
    lines = [f'| loss | {" | ".join([*heads, "mean", "others"])} |', f'|---|{"---:|" * (len(heads) + 2)}']
    for loss in matrix.losses:
        cells = [cell_text(matrix, loss, metric) for metric in matrix.metrics]
        means = [percent(matrix.mean(loss)), percent(matrix.mean_of_others(loss))]
        lines.append(f'| {" | ".join([loss, *cells, *means])} |')
    marks = f'{OWN} the loss optimises this judge; {OWN}{LOWERED} and yet lowers it.'
    return '\n'.join([*lines, '', *(f'- {note}' for note in [marks, *matrix.notes(), *notes])]) + '\n'


def cell_text(matrix, loss, metric):
    """The gain with its marks."""
    marks = (OWN if metric in matrix.own[loss] else '') + (LOWERED if matrix.lowers_own(loss, metric) else '')
    return f'{percent(matrix.gain(loss, metric))} {marks}'.strip()


def percent(gain):
    """A gain with its sign and three digits; an en dash for NaN."""
    if math.isnan(gain):
        return '\N{EN DASH}'
    text = f'{gain:+.{2 if abs(gain) < 9.995 else 1 if abs(gain) < 99.95 else 0}f}'
    return '0.00' if text in ('+0.00', '-0.00') else text.replace('-', '\N{MINUS SIGN}')
