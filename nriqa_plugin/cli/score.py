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

nriqa score results/Set5 -m my_package.judges:my_judge:key=value -o scores.csv

nriqa score results/Test-100 -m psnr --gts HGGT/Test-100 --layout hggt -o scores.csv

nriqa score HGGT/Test-100 -m musiq --gold-standard --layout hggt -o gold_standard.csv"""


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
    gts: Annotated[
        Path | None,
        typer.Option(
            help='Folder with several ground truths an image (gt/, gt_01/, ...): full-reference scores are averaged '
            'over the positive ones of each image.'
        ),
    ] = None,
    layout: Annotated[str, typer.Option(help='Of --gts: folders, index or hggt.')] = 'folders',
    index: Annotated[Path | None, typer.Option(help='With --layout index: the CSV or JSONL file.')] = None,
    gold_standard: Annotated[
        bool,
        typer.Option(
            '--gold-standard', help='FOLDER holds several ground truths an image: score the positive ones themselves.'
        ),
    ] = False,
    device: Annotated[str, typer.Option(help='auto, cpu, cuda, cuda:1, ...')] = 'auto',
):
    """Score a folder of images with one or more judges.

    An interrupted run goes on where it stopped; images that changed are scored again. A file of another run, in
    which all images changed, is refused.
    """
    from nriqa_plugin.evaluation.scoring import score_folder
    from nriqa_plugin.evaluation.several_gts import positives, score_gold_standard, score_several
    from nriqa_plugin.multigt.layout import read_sets

    if sum((reference is not None, gts is not None, gold_standard)) > 1:
        raise ValueError('--reference, --gts and --gold-standard exclude each other')
    root = folder if gold_standard else gts
    if root is None and (layout != 'folders' or index is not None):
        raise ValueError('--layout and --index need --gts or --gold-standard')
    judges = [judge_of(text) for text in metric]
    if root is None:
        scores = score_folder(folder, judges, out, reference, device, suffix=suffix)
    else:
        found = positives(read_sets(str(root), layout, index and str(index), training=False)[0])
        if gold_standard:
            scores = score_gold_standard(judges, out, found, device)
        else:
            scores = score_several(folder, judges, out, found, device, suffix=suffix)
    table = new_table('metric', 'images', 'mean', 'min', 'max')
    for name in scores.metrics:
        rows = scores.of(name)
        values = [row.score for row in rows]
        numbers = (f'{value:.4f}' for value in (scores.mean(name), min(values), max(values)))
        table.add_row(with_arrow(name, rows[0].higher_better), str(len(rows)), *numbers)
    Console().print(table)
