"""The ``nriqa`` command: one module per command, each a thin call into the core.

A command is a function with the name of its module, which also holds its ``EXAMPLES``; it is listed in ``COMMANDS``.
Heavy imports (torch) stand inside the functions, so that ``--help`` answers at once.
"""

import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from nriqa_plugin import __version__
from nriqa_plugin.cli import (
    artifacts,
    calibrate,
    compare,
    convert_mdf,
    demo,
    doctor,
    gain,
    jnd,
    loss_quality,
    make_gts,
    make_seed,
    matrix,
    merge_lora,
    report,
    score,
    score_gts,
    screen,
    sweep,
    train_mdf,
)
from nriqa_plugin.cli.judges import parse_judge

__all__ = ['app', 'main', 'parse_judge']

# In the order of --help.
COMMANDS = (
    (score.score, score.EXAMPLES),
    (gain.gain, gain.EXAMPLES),
    (jnd.jnd, jnd.EXAMPLES),
    (loss_quality.loss_quality, loss_quality.EXAMPLES),
    (doctor.doctor, doctor.EXAMPLES),
    (calibrate.calibrate, calibrate.EXAMPLES),
    (train_mdf.train_mdf, train_mdf.EXAMPLES),
    (make_seed.make_seed, make_seed.EXAMPLES),
    (make_gts.make_gts, make_gts.EXAMPLES),
    (score_gts.score_gts, score_gts.EXAMPLES),
    (merge_lora.merge_lora, merge_lora.EXAMPLES),
    (compare.compare, compare.EXAMPLES),
    (sweep.sweep, sweep.EXAMPLES),
    (matrix.matrix, matrix.EXAMPLES),
    (screen.screen, screen.EXAMPLES),
    (artifacts.artifacts, artifacts.EXAMPLES),
    (report.report, report.EXAMPLES),
    (demo.demo, demo.EXAMPLES),
    (convert_mdf.convert_mdf, convert_mdf.EXAMPLES),
)


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
            Console(stderr=True, emoji=False).print(
                f'Error: {message}', style='red', markup=False, highlight=False, soft_wrap=True
            )
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


def _version(value):
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option('--debug', envvar='NRIQA_DEBUG', help='Show the traceback of an error.')
    ] = False,
    version: Annotated[
        bool, typer.Option('--version', is_eager=True, callback=_version, help='Show the version.')
    ] = False,
):
    """Options of every command; they stand before its name."""


for command, examples in COMMANDS:
    app.command(epilog=examples)(command)


def main():
    """Entry point of the console command; judges by dotted path may lie in the current folder, as for ``python -m``."""
    sys.path.append(os.getcwd())
    app(prog_name='nriqa')
