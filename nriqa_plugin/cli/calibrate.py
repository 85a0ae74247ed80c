"""``nriqa calibrate``: weights for the terms of an option file, from how hard each pulls."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from nriqa_plugin.cli.tables import new_table, show_notes, show_titled

EXAMPLES = """Examples:

nriqa calibrate options/basicsr/my_training.yml

nriqa calibrate my_training.yml --share musiq=3 --share lpips=1 --out calibrated.yml

nriqa calibrate my_training.yml --batches 32 --seed 1 --device cpu"""


def calibrate(
    option_file: Annotated[
        Path,
        typer.Argument(
            help="A BasicSR training's option file (YAML). It can run code: only files you trust.", show_default=False
        ),
    ],
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="TERM=RATIO: how hard this term shall pull, as a multiple of the pixel term's pull. Repeatable. "
            'Judges that are not named get 3; other terms, and terms of weight 0, stay.',
            show_default=False,
        ),
    ] = None,
    anchor: Annotated[
        str | None, typer.Option(help='The term that pulls with 1 and keeps its weight. Default: the pixel term.')
    ] = None,
    batches: Annotated[int, typer.Option(help='Training batches to measure on.')] = 8,
    seed: Annotated[int, typer.Option(help='Which batches and crops.')] = 0,
    device: Annotated[str, typer.Option(help='auto, cpu, cuda, cuda:1, ...')] = 'auto',
    out: Annotated[
        Path | None,
        typer.Option('--out', '-o', help='Write a copy of the file with these weights; all else stays as it is.'),
    ] = None,
):
    """Weights for the terms of a LossSum, measured on your network and your training images.

    A term pulls with its weight times the norm of its gradient with respect to
    the network's output. The proposed weights make every judge pull 3 times as
    hard as the pixel term, or as --share says, whenever it acts at full weight.

    In our runs a judge at 3 times trained well and at 30 times was gamed:
    raise a share with care, and watch a judge that is in no loss.
    """
    from nriqa_plugin.doctor import calibrate_option_file

    with Console(stderr=True).status('Building network, data and judges ...') as status:
        result = calibrate_option_file(
            option_file,
            shares=parse_shares(share or ()),
            anchor=anchor,
            batches=batches,
            seed=seed,
            device=device,
            out=out,
            progress=lambda done: status.update(f'Measured {done} of {batches} batches ...'),
        )
    columns = ('term', 'weight', 'value', 'gradient / weight', 'spread', 'pulls', 'shall pull', 'new weight', 'by rule')
    table = new_table(*columns)
    for row in result.rows:
        label = f'{row.name} (every {row.every})' if row.every > 1 else row.name
        new = '' if row.proposed is None else f'[bold green]{row.proposed:g}[/]'
        shall = 'anchor' if row.anchor else 'stays' if row.share is None else f'{row.share:g} x'
        rule = '' if row.by_rule is None else f'{row.by_rule:g}'
        numbers = (f'{row.value:.4g}', f'{row.norm:.4g}', '' if math.isnan(row.spread) else f'{100 * row.spread:.0f} %')
        table.add_row(escape(label), f'{row.weight:g}', *numbers, f'{row.pull:.3g} x', shall, new, rule)
    show_titled(result.title, table)
    if out:
        Console().print(f'Written: {out}', markup=False, highlight=False, soft_wrap=True)
    show_notes(result.advice)


def parse_shares(texts):
    """``TERM=RATIO`` texts as a dictionary.

    Raises:
        ValueError: no number behind the last ``=``, or a term that is named twice.
    """
    shares = {}
    for text in texts:
        name, _, ratio = text.rpartition('=')
        try:
            value = float(ratio)
        except ValueError:
            value = None
        if not name or value is None:
            raise ValueError(f'--share {text}: must be TERM=RATIO, for example musiq=0.5')
        if name in shares:
            raise ValueError(f'--share {text}: {name!r} is given twice')
        shares[name] = value
    return shares
