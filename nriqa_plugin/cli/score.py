"""``nriqa score``: a folder of images, scored by judges."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nriqa_plugin.cli.judges import judge_of
from nriqa_plugin.cli.tables import new_table, with_arrow

EXAMPLES = """Examples:

nriqa score results/Set5 -m niqe -o niqe.csv

nriqa score results/Set5 -m psnr -m lpips:net=squeeze,weights=lpips.pth -r Set5/HR -o scores.csv

nriqa score results/Set5 -m cnniqa:weights=CNNIQA-LIVE.pth -o scores.csv --suffix _myrun

nriqa score results/Set5 -m my_package.judges:my_judge:key=value -o scores.csv"""


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

    judges = [judge_of(text) for text in metric]
    scores = score_folder(folder, judges, out, reference, device, suffix=suffix)
    table = new_table('metric', 'images', 'mean', 'min', 'max')
    for name in scores.metrics:
        rows = scores.of(name)
        values = [row.score for row in rows]
        numbers = (f'{value:.4f}' for value in (scores.mean(name), min(values), max(values)))
        table.add_row(with_arrow(name, rows[0].higher_better), str(len(rows)), *numbers)
    Console().print(table)
