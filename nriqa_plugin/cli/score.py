"""``nriqa score``: images, clips, videos or the outputs of a network, scored by judges."""

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

nriqa score results/REDS4 -m niqe -m psnr -r REDS4/GT -o scores.csv

nriqa score result.mp4 -m niqe -m lpips -r original.mp4 -o scores.csv

nriqa score Set5/LRx4 --network options.yml --checkpoint net_g_5000.pth -m psnr -r Set5/HR --suffix x4 -o scores.csv

nriqa score Set5/LRx4 --network 4x_model.pth -m niqe --save outputs -o scores.csv

nriqa score results/Set5 -m cnniqa:weights=CNNIQA-LIVE.pth -m psnr -r Set5/HR --flat -o flat.csv

nriqa score results/Test-100 -m psnr --gts HGGT/Test-100 --layout hggt -o scores.csv

nriqa score HGGT/Test-100 -m musiq --gold-standard --layout hggt -o gold_standard.csv"""


def score(
    folder: Annotated[
        Path,
        typer.Argument(
            help='Folder of images, of clips (subfolders of frames) or of videos, or a video file. With --network: the '
            "network's inputs.",
            show_default=False,
        ),
    ],
    metric: Annotated[
        list[str],
        typer.Option('--metric', '-m', help='Judge: NAME or NAME:key=value,key=value. Repeatable.', show_default=False),
    ],
    out: Annotated[Path, typer.Option('--out', '-o', help='The scores file (CSV).', show_default=False)],
    reference: Annotated[
        Path | None, typer.Option('--reference', '-r', help='The same of the ground truths, paired by name.')
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
    network: Annotated[
        str | None,
        typer.Option(
            help='Score what this network makes of the images in FOLDER: a BasicSR option file, a mmagic config, '
            'a checkpoint that spandrel reads, or NAME:key=value of one of our networks (RLFN, DnCNN) or of '
            'module:factory.',
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help='With --network: its weights, unless it is a checkpoint itself.')
    ] = None,
    save: Annotated[Path | None, typer.Option(help='With --network: also write its outputs here.')] = None,
    clip: Annotated[bool, typer.Option('--clip', help='FOLDER holds the frames of one clip.')] = False,
    clip_memory: Annotated[
        float, typer.Option(help='GiB that the frames of a clip may take, which a video judge needs at once.')
    ] = 4.0,
    flat: Annotated[
        bool,
        typer.Option('--flat', help='Score only flat areas of the ground truths (--reference), as NAME@flat.'),
    ] = False,
    flat_size: Annotated[
        int | None, typer.Option('--flat-size', min=7, help='Side of the flat windows in px; default: 64.')
    ] = None,
    device: Annotated[str, typer.Option(help='auto, cpu, cuda, cuda:1, ...')] = 'auto',
):
    """Score images, clips, videos or the outputs of a network with one or more judges, in one pass.

    An interrupted run goes on where it stopped; images that changed are scored again. A file of another run, in
    which all images changed, is refused. What made the scores is noted beside the file, in OUT.provenance.json.
    """
    from nriqa_plugin.checks import check_device
    from nriqa_plugin.cli.networks import network_of
    from nriqa_plugin.evaluation.flat_areas import flat_regions
    from nriqa_plugin.evaluation.network_outputs import output_units
    from nriqa_plugin.evaluation.scoring import score_folder, score_units
    from nriqa_plugin.evaluation.several_gts import positives, score_gold_standard, score_several
    from nriqa_plugin.multigt.layout import read_sets

    if sum((reference is not None, gts is not None, gold_standard)) > 1:
        raise ValueError('--reference, --gts and --gold-standard exclude each other')
    root = folder if gold_standard else gts
    if root is None and (layout != 'folders' or index is not None):
        raise ValueError('--layout and --index need --gts or --gold-standard')
    if network is None and (checkpoint is not None or save is not None):
        raise ValueError('--checkpoint and --save need --network')
    if network is not None and (root is not None or clip):
        raise ValueError('--network makes images of images: --gts, --gold-standard and --clip do not go with it')
    if (flat or flat_size is not None) and (root is not None or reference is None or not flat):
        raise ValueError('--flat needs --reference, and --flat-size needs --flat')
    judges = [judge_of(text) for text in metric]
    regions = flat_regions(flat_size, judges) if flat else None
    if network is not None:
        device = check_device(device)
        units = output_units(folder, network_of(network, checkpoint, device), reference, suffix, save)
        scores = score_units(units, judges, out, device, regions=regions, with_references=reference is not None)
    elif root is None:
        scores = score_folder(folder, judges, out, reference, device, True, suffix, regions, clip_memory, clip)
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
