"""``nriqa demo``: the whole story in a few minutes."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nriqa_plugin.cli.tables import new_table, with_arrow

EXAMPLES = """Examples:

nriqa demo

nriqa demo -o runs/my_demo"""


def demo(
    out: Annotated[Path, typer.Option('--out', '-o', help='Result folder.')] = Path('runs/demo'),
):
    """The whole story in a few minutes: train a small network, fine-tune it with NIQE, measure, report.

    Photographs come from the scikit-image package, nothing is downloaded. Exits with 1 if its self-checks fail.
    """
    from nriqa_plugin.demo import run_demo

    methods, judges, report, failed = run_demo(out)
    table = new_table('method', *(with_arrow(judge.metric, judge.higher_better) for judge in judges), 'gain in NIQE')
    for method in methods:
        gain = method.gains.get('niqe')
        scores = [f'{method.scores[judge.metric]:.4f}' for judge in judges]
        table.add_row(method.name, *scores, '' if gain is None else f'{gain:+.2f} %')
    console = Console()
    console.print(table)
    console.print(
        f'{judges[0].n} held-out photographs; gains over the baseline network. Report: {report}', soft_wrap=True
    )
    for problem in failed:
        Console(stderr=True).print(f'Self-check failed: {problem}', style='red', soft_wrap=True)
    if failed:
        raise typer.Exit(1)
