"""``nriqa doctor``: what works here, and what an option file would do."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nriqa_plugin.cli.tables import show_notes, show_section

EXAMPLES = """Examples:

nriqa doctor

nriqa doctor options/basicsr/my_training.yml"""


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
        show_section(section)
    show_notes(found.advice)
    for text in found.problems:
        errors.print(f'Problem: {text}', style='red', markup=False, emoji=False, highlight=False, soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)
