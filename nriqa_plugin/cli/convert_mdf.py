"""``nriqa convert-mdf``: released MDF discriminators as a safe file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nriqa_plugin.cli.tables import new_table

EXAMPLES = """Examples:

nriqa convert-mdf Ds_SISR.pth --out mdf_sisr.pth --task sisr

nriqa convert-mdf state_dicts.pth --out mdf.pth --range -1 1"""


def convert_mdf(
    file: Annotated[
        Path,
        typer.Argument(
            help="The MDF authors' Ds_*.pth, or state dicts of discriminators, coarsest first.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option('--out', '-o', help='The safe file.', show_default=False)],
    task: Annotated[str | None, typer.Option(help='What the discriminators were trained for; kept as a note.')] = None,
    range_: Annotated[
        tuple[float, float],
        typer.Option('--range', help="Values that they get for black and white; the authors' get 0 and 1."),
    ] = (0.0, 1.0),
):
    """Turn the MDF authors' released discriminators into a file that MDFLoss reads.

    They are pickles, which could run code. They are read without running any:
    only names that a discriminator is made of are known, the rest is refused.
    """
    from nriqa_plugin.mdf.legacy import convert

    header, widths = convert(file, out, task, range_)
    table = new_table('discriminators', 'widths', 'range', 'from')
    values = ' to '.join(f'{value:g}' for value in header['range'])
    table.add_row(str(len(widths)), ' '.join(map(str, widths)), values, f'{header["source"]} {header["source_hash"]}')
    Console().print(table)
    Console().print(f'written: {out}', highlight=False, markup=False, soft_wrap=True)
