"""The ``nriqa`` command: each command is a thin call into the core."""

import csv
import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from nriqa_plugin import __version__

# The heavy imports (torch) stand inside the commands, so that --help answers at once.


class Commands(TyperGroup):
    """Turns the package's own errors into one red line and exit code 2; ``--debug`` shows the traceback instead."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, typer.Exit, typer.Abort):
            raise
        except (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError) as error:
            if ctx.params.get('debug'):
                raise
            # A failed training shows the end of its output, everything else is one line.
            message = str(error).strip() if isinstance(error, RuntimeError) else ' '.join(str(error).split())
            message = message or type(error).__name__
            Console(stderr=True).print(f'Error: {message}', style='red', markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=Commands,
    help='Train super-resolution for what people see: score images, measure relative gains, report.',
    context_settings={'help_option_names': ['-h', '--help']},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode='rich',
)

SCORE_EXAMPLES = """Examples:

nriqa score results/Set5 -m niqe -o niqe.csv

nriqa score results/Set5 -m psnr -m lpips:net=squeeze,weights=lpips.pth -r Set5/HR -o scores.csv

nriqa score results/Set5 -m cnniqa:weights=CNNIQA-LIVE.pth -o scores.csv --suffix _myrun

nriqa score results/Set5 -m my_package.judges:my_judge:key=value -o scores.csv"""

GAIN_EXAMPLES = """Examples:

nriqa gain baseline.csv test.csv

nriqa gain baseline.csv test.csv -m niqe -m lpips -o gains.csv"""

DEMO_EXAMPLES = """Examples:

nriqa demo

nriqa demo -o runs/my_demo"""

DOCTOR_EXAMPLES = """Examples:

nriqa doctor

nriqa doctor options/basicsr/my_training.yml"""


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option('--debug', envvar='NRIQA_DEBUG', help='Show the traceback of an error.')
    ] = False,
    version: Annotated[
        bool, typer.Option('--version', is_eager=True, callback=lambda value: _version(value), help='Show the version.')
    ] = False,
):
    """Options of every command; they stand before its name."""


@app.command(epilog=SCORE_EXAMPLES)
def score(
    folder: Annotated[Path, typer.Argument(help='Folder of images.', show_default=False)],
    metric: Annotated[
        list[str],
        typer.Option('--metric', '-m', help='Judge: NAME or NAME:key=value,key=value. Repeatable.', show_default=False),
    ],
    out: Annotated[Path, typer.Option('--out', '-o', help='The scores file (CSV).', show_default=False)],
    reference: Annotated[
        Path | None, typer.Option('--reference', '-r', help='Folder of ground truths, paired by name.')
    ] = None,
    suffix: Annotated[
        str, typer.Option(help="Ending that the images' names have more, such as BasicSR's _RUN; not stored.")
    ] = '',
    device: Annotated[str, typer.Option(help='auto, cpu, cuda, cuda:1, ...')] = 'auto',
):
    """Score a folder of images with one or more judges.

    An interrupted run goes on where it stopped; images that changed are scored again. A file of another run, in
    which all images changed, is refused.
    """
    from nriqa_plugin.evaluation.scoring import score_folder

    judges = [_judge(text) for text in metric]
    scores = score_folder(folder, judges, out, reference, device, suffix=suffix)
    table = _table('metric', 'images', 'mean', 'min', 'max')
    for name in scores.metrics:
        rows = scores.of(name)
        values = [row.score for row in rows]
        numbers = (f'{value:.4f}' for value in (scores.mean(name), min(values), max(values)))
        table.add_row(_with_arrow(name, rows[0].higher_better), str(len(rows)), *numbers)
    Console().print(table)


@app.command(epilog=GAIN_EXAMPLES)
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
    from nriqa_plugin.evaluation.relative_gain import gains

    rows = gains(baseline, test, metric or None)
    table = _table('metric', 'images', 'baseline', 'test', 'gain', 'judge', 'baseline file')
    for row in rows:
        style = 'green' if row.gain > 0 else 'red' if row.gain < 0 else ''
        percent = f'[{style}]{row.gain:+.2f} %[/]' if style else f'{row.gain:.2f} %'
        means = (f'{row.baseline_mean:.4f}', f'{row.test_mean:.4f}')
        name = _with_arrow(row.metric, row.higher_better)
        table.add_row(name, str(row.n), *means, percent, row.judge_hash, row.baseline_hash)
    Console().print(table)
    if out:
        _write_table(out, rows)


@app.command(epilog=DOCTOR_EXAMPLES)
def doctor(
    option_file: Annotated[
        Path | None,
        typer.Argument(help="A BasicSR training's option file (YAML). It can run code: only files you trust."),
    ] = None,
):
    """What works here; with an option file, whether it trains and what one step costs.

    Without a file: versions, frameworks, extras, judges; nothing is downloaded.

    With a file: builds its network, data sets, our losses and our validation
    judges as the training would, looks for options that would stop it or be
    ignored, and times one step term by term on synthetic images.

    Exit code 1: something installed does not import, or training would fail.
    Exit code 2: an option is wrong.
    """
    from nriqa_plugin.doctor import check_environment, check_option_file

    errors = Console(stderr=True)
    with errors.status('Importing the frameworks ...' if option_file is None else 'Building and timing ...'):
        found = check_environment() if option_file is None else check_option_file(option_file)
    for section in found.sections:
        _show(section)
    for text in found.advice:
        errors.print(f'Note: {text}', style='yellow', markup=False, highlight=False, soft_wrap=True)
    for text in found.problems:
        errors.print(f'Problem: {text}', style='red', markup=False, highlight=False, soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


@app.command(epilog=DEMO_EXAMPLES)
def demo(
    out: Annotated[Path, typer.Option('--out', '-o', help='Result folder.')] = Path('runs/demo'),
):
    """The whole story in a few minutes: train a small network, fine-tune it with NIQE, measure, report.

    Photographs come from the scikit-image package, nothing is downloaded. Exits with 1 if its self-checks fail.
    """
    from nriqa_plugin.demo import run_demo

    methods, judges, report, failed = run_demo(out)
    table = _table('method', *(_with_arrow(judge.metric, judge.higher_better) for judge in judges), 'gain in NIQE')
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


def parse_judge(text):
    """Split ``name:key=value,key=value`` into the name and its options.

    The name may be a dotted path ``module:factory``. Values that read as whole or decimal numbers, ``true`` or
    ``false`` become these; ``weights`` stays text.

    Returns:
        tuple[str, dict]

    Raises:
        ValueError: an option without a value, or given twice.
    """
    name, options = text, {}
    match = re.match(r'(.+?):(\w+=.*)$', text)
    if match:
        name = match[1]
        for part in re.split(r',(?=\w+=)', match[2]):
            key, _, value = part.partition('=')
            if not value:
                raise ValueError(f'--metric {text}: the option {key!r} has no value')
            if key in options:
                raise ValueError(f'--metric {text}: the option {key!r} is given twice')
            options[key] = value if key == 'weights' else _value(value)
    return name, options


def _judge(text):
    from nriqa_plugin.iqa import create_scorer

    name, options = parse_judge(text)
    return create_scorer(name, **options)


def _value(text):
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _version(value):
    if value:
        typer.echo(__version__)
        raise typer.Exit


def _table(*columns):
    table = Table(box=None, pad_edge=False, header_style='bold', padding=(0, 2, 0, 0))
    for column in columns:
        names = column in ('metric', 'judge', 'baseline file')
        table.add_column(column, justify='left' if names else 'right', overflow='fold')
    return table


def _show(section):
    """A table of the doctor's; columns of numbers are those that end in digits or a unit."""
    table = Table(box=None, pad_edge=False, header_style='bold', padding=(0, 2, 0, 0))
    for index, column in enumerate(section.columns):
        numbers = all(re.fullmatch(r'(-?[\d.e+-]+( px| %)?|fails|)', row[index]) for row in section.rows)
        table.add_column(column, justify='right' if numbers and section.rows else 'left', overflow='fold')
    for row in section.rows:
        table.add_row(*map(escape, row))
    console = Console()
    console.print(section.title, style='bold cyan', markup=False, highlight=False)
    console.print(table, highlight=False)
    console.print()


def _with_arrow(metric, higher_better):
    return f'{escape(metric)} [dim]{"↑" if higher_better else "↓"}[/]'


def _write_table(path, rows):
    """Dataclass rows as CSV, one column per field."""
    from nriqa_plugin.checks import atomic_path

    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(field.name for field in dataclasses.fields(rows[0]))
        writer.writerows(dataclasses.astuple(row) for row in rows)


def main():
    """Entry point of the console command; judges by dotted path may lie in the current folder, as for ``python -m``."""
    sys.path.append(os.getcwd())
    app(prog_name='nriqa')
