"""Tables as CSV: no dust of floating-point sums, and p values as they are."""

import csv
from dataclasses import dataclass

import pytest

from nriqa_plugin.evaluation.csv_file import tidy, write_csv, write_rows
from nriqa_plugin.evaluation.significance import PValue


@dataclass(frozen=True)
class Row:
    name: str
    gain: float
    p: PValue
    n: int = 3
    star: bool = False


def lines_of(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(
    ('cell', 'written'),
    [(-0.0, '0.0'), (1e-14, '0.0'), (-3e-13, '0.0'), (0.1 + 0.2, '0.3'), (1e-9, '1e-09'), (float('inf'), 'inf'),
     (float('nan'), 'nan'), (True, 'True'), (7, '7'), ('-0.0', '-0.0'), (-12.345678901234567, '-12.3456789012')],
)  # fmt: skip
def test_cells_are_tidied(tmp_path, cell, written):
    assert str(tidy(cell)) == written
    write_csv(tmp_path / 'a' / 't.csv', [['x', 'y'], [cell, 'a,b']])
    assert lines_of(tmp_path / 'a' / 't.csv') == [['x', 'y'], [written, 'a,b']]


def test_a_p_value_stays_however_small(tmp_path):
    write_rows(tmp_path / 't.csv', [Row('a', -0.0, 3e-25), Row('b', 1e-15, 0.5)])
    assert lines_of(tmp_path / 't.csv') == [
        ['name', 'gain', 'p', 'n', 'star'], ['a', '0.0', '3e-25', '3', 'False'], ['b', '0.0', '0.5', '3', 'False'],
    ]  # fmt: skip
