"""``nriqa make-gts``: candidate ground truths for one's own images."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nriqa_plugin.cli.judges import parse_judge

EXAMPLES = """Examples:

nriqa make-gts DIV2K/HR --out DIV2K/candidates -e unsharp:amount=1,sigma=1.5 -e denoise:strength=0.04 -e detail

nriqa make-gts photos --out candidates -e model:weights=RealESRGAN_x4plus.pth -e model:weights=SCUNet.pth

nriqa make-gts photos --out candidates -e folder:path=outputs/HAT,suffix=_HAT -e my_package.enhancers:mine"""


def make_gts(
    images: Annotated[Path, typer.Argument(help='Folder of originals.', show_default=False)],
    out: Annotated[Path, typer.Option('--out', '-o', help='Folder for gt/, gt_01/, gt_02/, ...', show_default=False)],
    enhancer: Annotated[
        list[str],
        typer.Option(
            '--enhancer',
            '-e',
            help='NAME or NAME:key=value,key=value: unsharp (amount, sigma), denoise (strength, radius), detail '
            '(amount, strength, radius), model (weights: any checkpoint that spandrel reads, down, overlap), folder '
            '(path, suffix: outputs that are there already), or module:function. Repeatable; one candidate each.',
            show_default=False,
        ),
    ],
    tile: Annotated[int, typer.Option(help='Larger images are enhanced in tiles of this side in px.')] = 512,
    device: Annotated[str, typer.Option(help='auto, cpu, cuda, cuda:1, ...')] = 'auto',
):
    """Make candidate ground truths of your own images, to train on the best of several.

    Every candidate has the name and size of its original. A network of scale s
    gets the original downscaled by s. candidates.json and candidates.csv say
    what was made by what from which file. An interrupted run goes on where it
    stopped, and further enhancers can be appended to the list.
    """
    from nriqa_plugin.checks import check_device
    from nriqa_plugin.multigt.making import make_gts

    enhancers = [parse_judge(text, '--enhancer') for text in enhancer]
    console = Console(stderr=True)
    columns = (TextColumn('enhancing'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task('', total=None)
        counts = make_gts(
            images,
            out,
            enhancers,
            check_device(device),
            tile,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    text = f'{out}: {counts["made"]} files made, {counts["kept"]} were there already'
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
