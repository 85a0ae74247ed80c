"""``nriqa gain``: relative gains of one scores file over another."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nriqa_plugin.cli.tables import new_table, with_arrow

EXAMPLES = """Examples:

nriqa gain baseline.csv test.csv

nriqa gain baseline.csv test.csv -m niqe -m lpips -o gains.csv"""


def gain(
    baseline: Annotated[Path, typer.Argument(help='Scores file of the baseline.', show_default=False)],
    test: Annotated[Path, typer.Argument(help='Scores file of the same images by another model.', show_default=False)],
    metric: Annotated[
        list[str] | None, typer.Option('--metric', '-m', help='Only this metric. Repeatable.', show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option('--out', '-o', help='Also write the table as CSV.')] = None,
):
    """Relative gain of a scores file over a baseline, in percent; positive is better.

    100 * s * (mean_T - mean_B) / mean_B with s = +1 if higher scores are better, else -1 (arXiv 2405.20392, Eq. 1).
    A metric whose baseline is zero or negative is shown as undefined beside the others, and the command exits with 2.
    """
    from nriqa_plugin.evaluation.csv_file import write_rows
    from nriqa_plugin.evaluation.relative_gain import all_gains, without_gain

    rows = all_gains(baseline, test, metric or None)
    table = new_table('metric', 'images', 'baseline', 'test', 'gain', 'judge', 'baseline file')
    for row in rows:
        percent = _percent(row.gain)
        means = (f'{row.baseline_mean:.4f}', f'{row.test_mean:.4f}')
        name = with_arrow(row.metric, row.higher_better)
        table.add_row(name, str(row.n), *means, percent, row.judge_hash, row.baseline_hash)
    Console().print(table)
    if out:
        write_rows(out, rows)
    undefined = [row for row in rows if math.isnan(row.gain)]
    if undefined:
        others = ' '.join(f'-m {row.metric}' for row in rows if row not in undefined)
        reasons = '; '.join(without_gain(row, baseline) for row in undefined)
        raise ValueError(f'{reasons}. Without {"it" if len(undefined) == 1 else "them"}: {others}')


def _percent(gain):
    if math.isnan(gain):
        return '[red]undefined[/]'
    text = f'{gain:+.2f}'
    if float(text) == 0:  # also what rounds to -0.00
        return '0.00 %'
    return f'[{"green" if gain > 0 else "red"}]{text} %[/]'
