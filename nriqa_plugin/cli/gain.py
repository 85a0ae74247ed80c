"""``nriqa gain``: relative gains of one scores file over another."""

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
    """
    from nriqa_plugin.evaluation.csv_file import write_rows
    from nriqa_plugin.evaluation.relative_gain import gains

    rows = gains(baseline, test, metric or None)
    table = new_table('metric', 'images', 'baseline', 'test', 'gain', 'judge', 'baseline file')
    for row in rows:
        style = 'green' if row.gain > 0 else 'red' if row.gain < 0 else ''
        percent = f'[{style}]{row.gain:+.2f} %[/]' if style else f'{row.gain:.2f} %'
        means = (f'{row.baseline_mean:.4f}', f'{row.test_mean:.4f}')
        name = with_arrow(row.metric, row.higher_better)
        table.add_row(name, str(row.n), *means, percent, row.judge_hash, row.baseline_hash)
    Console().print(table)
    if out:
        write_rows(out, rows)
