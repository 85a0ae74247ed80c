"""``nriqa compare``: one network, several losses, the figures of the MDF paper."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nriqa_plugin.cli.tables import new_table, with_arrow

EXAMPLES = """Examples:

nriqa compare options/compare/edsr_x4.yml -o runs/edsr --weights mdf=mdf_sisr.pth

nriqa compare options/compare/edsr_x4.yml -o runs/short --steps 2000 --only l1,l2,mdf --weights mdf=mdf_sisr.pth

nriqa compare options/compare/edsr_x4.yml -o runs/mmagic --base options/mmagic/edsr_x4_mdf.py --only l1,l2

nriqa compare options/compare/edsr_x4.yml -o runs/edsr --search vgg_l2

nriqa compare options/compare/edsr_x4.yml -o runs/edsr --report-only"""


def compare(
    family: Annotated[Path, typer.Argument(help='Family file (YAML).', show_default=False)],
    out: Annotated[Path, typer.Option('--out', '-o', help='Result folder.', show_default=False)],
    base: Annotated[
        Path | None, typer.Option('--base', '-b', help="Option file to use instead of the family's; .yml or .py.")
    ] = None,
    steps: Annotated[int | None, typer.Option('--steps', min=1, help='Iterations of each training.')] = None,
    only: Annotated[str | None, typer.Option('--only', help='These losses only: l1,mdf.')] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            '--weights',
            '-w',
            help='Weights file of the term NAME, and of the judge NAME if it has none: NAME=FILE. Repeatable.',
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            '--set',
            help="Override in the base file: its host's KEY=VALUE, as train:total_iter or "
            'train_cfg.max_iters. Repeatable.',
        ),
    ] = None,
    search: Annotated[
        list[str] | None, typer.Option('--search', help="Look for this loss's weight on its grid first. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option('--seed', min=0, help='Of every training, and of the bootstrap.')] = 0,
    retry: Annotated[bool, typer.Option('--retry', help='Run again what broke down, from its start.')] = False,
    report_only: Annotated[bool, typer.Option('--report-only', help='Train nothing, report what is there.')] = False,
):
    """Train a family that differs in its loss only, through the stock scripts, and compare what comes out.

    The same command goes on after a kill. Exits with 1 if a training broke down; the others are reported.
    """
    from nriqa_plugin.checks import import_extra
    from nriqa_plugin.compare import judges_of, read_family, run_family, write_comparison
    from nriqa_plugin.compare.runs import FAILED
    from nriqa_plugin.compare.yaml_files import yaml_value

    for module in ('scipy', 'matplotlib', 'jinja2'):  # before hours of training
        import_extra(module, 'report', 'nriqa compare')
    settings = {key: yaml_value(value) for key, value in pairs('--set', setting).items()}
    names = [name.strip() for name in only.split(',')] if only else None
    read = read_family(family, base, names, pairs('--weights', weights), settings)
    judges_of(read)  # before hours of training
    with bars() as progress:
        outcomes = run_family(read, out, steps, seed, search or (), retry, report_only, progress)
    rows, outcomes = write_comparison(read, outcomes, out, seed)
    show(rows, read.against)
    Console().print(f'Report: {out / "report.html"}', soft_wrap=True)
    for outcome in outcomes:
        if outcome.error:
            what = 'broke down' if outcome.status == FAILED else f'was {outcome.status}'
            text = f'{outcome.name} {what}: {outcome.error} (log: {out / outcome.name / "log.txt"})'
            Console(stderr=True).print(text, style='red', markup=False, emoji=False, soft_wrap=True)
    if any(outcome.status == FAILED for outcome in outcomes):
        raise typer.Exit(1)


def pairs(option, texts):
    """``{key: value}`` of ``KEY=VALUE`` arguments."""
    found = {}
    for text in texts or ():
        key, equals, value = text.partition('=')
        if not (key and equals and value):
            raise ValueError(f'{option} must be KEY=VALUE, got {text!r}')
        found[key] = value
    return found


def bars():
    """One bar for each training."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn('{task.description:<16}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))


def show(rows, against):
    """One table a data set: mean and bad tail of every metric."""
    console = Console()
    against = against if any(row.method == against for row in rows) else None
    for dataset in dict.fromkeys(row.dataset for row in rows):
        part = [row for row in rows if row.dataset == dataset]
        metrics = list(dict.fromkeys(row.metric for row in part))
        first = {row.metric: row for row in part}
        table = new_table('loss', *(with_arrow(metric, first[metric].higher_better) for metric in metrics))
        for name in dict.fromkeys(row.method for row in part):
            own = {row.metric: row for row in part if row.method == name}
            table.add_row(
                name, *(f'{own[m].mean:.4f}{"★" if own[m].star else ""} ({own[m].tail:.4f})' for m in metrics)
            )
        console.print(f'[bold cyan]{dataset}[/]: mean (bad tail) over {part[0].n} images'
                      + (f'; ★: {against} is better, p < 0.05' if against else ''))  # fmt: skip
        console.print(table, highlight=False)
