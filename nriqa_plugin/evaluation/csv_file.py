"""Tables as CSV, written at once or not at all, in numbers without the dust of floating-point sums."""

import csv
from dataclasses import astuple, fields

from nriqa_plugin.checks import atomic_path
from nriqa_plugin.evaluation.significance import PValue

DUST = 1e-12  # what is smaller is a zero that was summed up


def write_csv(path, lines):
    """Write a table.

    Args:
        path (str | Path): the file; missing folders are made.
        lines (Iterable[Sequence]): the header and the rows. Floats get twelve digits, and what is below 1e-12 is 0.
    """
    _write(path, ([tidy(cell) for cell in line] for line in lines))


def write_rows(path, rows):
    """Write dataclass rows of one kind, one column per field; as :func:`write_csv`, but p values stay however small."""
    columns = fields(rows[0])
    keep = [column.type is PValue for column in columns]
    lines = ([cell if kept else tidy(cell) for cell, kept in zip(astuple(row), keep, strict=True)] for row in rows)
    _write(path, ([column.name for column in columns], *lines))


def tidy(cell):
    """A float with twelve digits, 0 for what is below 1e-12 (and for -0.0); everything else as it is."""
    if not isinstance(cell, float):
        return cell
    return 0.0 if abs(cell) < DUST else float(f'{cell:.12g}')


def _write(path, lines):
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows(lines)
