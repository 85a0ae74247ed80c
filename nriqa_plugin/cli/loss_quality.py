"""``nriqa loss-quality``: which training loss follows people's opinions?"""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from nriqa_plugin.cli.tables import new_table, show_notes, show_titled

FEW_SCENES = 10

EXAMPLES = """Examples:

nriqa loss-quality mos.csv --images distorted --reference originals --loss mdf:weights=mdf.pth --loss ssim -o results

nriqa loss-quality mos.csv --images . --losses options/compare/eight_losses.yml --weights mdf=mdf.pth -o results

nriqa loss-quality jnd.csv --images sr --columns 'image={condition}/{scene},mos=jnd,kind=condition,scene=scene'
--within --loss niqe -o results"""


def loss_quality(
    table: Annotated[Path, typer.Argument(help='CSV with images and their opinion or JND.', show_default=False)],
    images: Annotated[Path, typer.Option(help='Folder that the images of the table are relative to.')],
    out: Annotated[Path, typer.Option('--out', '-o', help='Folder of the results.')],
    reference: Annotated[
        Path | None,
        typer.Option(help='Folder that the references of the table are relative to. Default: --images.'),
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(
            help='NAME:key=value,...: l1, l2, charbonnier, ms_ssim_l1, vgg, mdf, or any judge (ssim, niqe, ...). '
            'Repeatable. Default: those that need no weights.',
            show_default=False,
        ),
    ] = None,
    losses: Annotated[
        Path | None, typer.Option(help='YAML file with losses as for nriqa compare.', show_default=False)
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help='TERM=FILE for --losses. Repeatable.', show_default=False)
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help='Where image, mos, reference, kind (of distortion, or method), scene, dataset, low and high stand: '
            'FIELD=COLUMN or FIELD={a}/{b},... mos_better=lower for a DMOS.',
            show_default=False,
        ),
    ] = None,
    within: Annotated[
        bool, typer.Option('--within', help='The quality compares only within a scene, as JND of nriqa jnd --by scene.')
    ] = False,
    quality: Annotated[str, typer.Option(help="What the table's quality is, for the figure.")] = 'quality',
    resamples: Annotated[int, typer.Option(help='Of the bootstrap over scenes.')] = 1000,
    seed: Annotated[int, typer.Option(help='Of the bootstrap.')] = 0,
    device: Annotated[str, typer.Option(help='auto, cpu, cuda, cuda:1, ...')] = 'auto',
):
    """Every loss as a predictor of quality: rank correlation, and a scatter.

    Computes each loss on the rated images against their references, and
    correlates minus the loss with the opinions (SROCC; 1 is perfect) for each
    data set and kind of distortion. Values are kept in OUT/losses.csv: the
    same command goes on where it stopped.
    """
    from nriqa_plugin.evaluation.csv_file import write_rows
    from nriqa_plugin.evaluation.figures import save_figure
    from nriqa_plugin.evaluation.scoring import score_files
    from nriqa_plugin.preference.loss_quality import loss_rows, read_rated, too_few
    from nriqa_plugin.preference.loss_quality_figure import loss_quality_figure

    rated = read_rated(table, columns)
    judges = _judges(loss, losses, weights or ())
    files = _files(rated, images, reference or images, [judge.name for judge in judges if judge.needs_reference])
    out.mkdir(parents=True, exist_ok=True)
    scores = score_files(files, judges, out / 'losses.csv', device)
    values = {judge.name: {row.image: row.score for row in scores.of(judge.name)} for judge in judges}
    rows = loss_rows(rated, values, within, seed, resamples)
    if not rows:
        raise ValueError(f'{table}: no data set has three images, the fewest with a rank correlation')
    write_rows(out / 'loss_quality.csv', rows)
    save_figure(
        loss_quality_figure(f'{table.stem}: losses', rated, values, rows, quality, within), out / 'loss_quality'
    )
    shown = new_table('dataset', 'kind', 'loss', 'images', 'scenes', 'SROCC', '95 %')
    for row in sorted(rows, key=_place):
        value = 'constant' if math.isnan(row.srocc) else f'{row.srocc:+.3f}'
        between = '' if math.isnan(row.low) else f'{row.low:+.3f} to {row.high:+.3f}'
        count = (str(row.n), str(row.scenes) if row.scenes else '')
        shown.add_row(escape(row.dataset), escape(row.kind), escape(row.loss), *count, value, between)
    show_titled('Quality against minus the loss' + (', within scenes' if within else ''), shown)
    few = (f'{dataset} {kind}'.strip() + f' ({count})' for (dataset, kind), count in too_few(rated, within).items())
    if left_out := ', '.join(few):
        show_notes([f'fewer than three images have no rank correlation: {left_out}'])
    scenes = len({one.scene for one in rated})
    if within and any(row.scenes < len({one.scene for one in rated if one.dataset == row.dataset}) for row in rows):
        show_notes(['scenes of one image, or with a constant loss or quality, have no correlation: not in the means'])
    if all(one.scene for one in rated) and scenes < FEW_SCENES:
        show_notes([f'{scenes} scenes: the intervals of so few are too narrow'])
    if not all(one.scene for one in rated):
        show_notes(['not all images have a scene or reference: the intervals take each for an independent one'])
    Console().print(f'Written: {out}', markup=False, highlight=False, soft_wrap=True)


def _place(row):
    """Where a row stands: all kinds first, the best loss first, those without a correlation last."""
    return row.dataset, row.kind != 'all', row.kind, math.isnan(row.srocc), -row.srocc


def _judges(texts, file, weights):
    from nriqa_plugin.cli.losses import NEED_NOTHING, loss_of, losses_of_file

    given = {}
    for text in weights:
        term, _, path = text.partition('=')
        if not path or term in given:
            raise ValueError(f'--weights {text}: must be TERM=FILE, once for each term')
        given[term] = path
    if given and not file:
        raise ValueError('--weights is for --losses; with --loss write NAME:weights=FILE')
    judges = losses_of_file(file, given) if file else []
    return judges + [loss_of(text) for text in texts or (() if file else NEED_NOTHING)]


def _files(rated, images, references, needing):
    """Where the images lie, as ``score_files`` wants them."""
    from nriqa_plugin.evaluation.images import few

    for option, folder in (('--images', images), ('--reference', references)):
        if not folder.is_dir():
            raise FileNotFoundError(f'{option}: no such folder: {folder}')
    without = [one.image for one in rated if not one.reference]
    if needing and without:
        raise ValueError(f'{", ".join(needing)} need references, and the table names none for {few(without)}: '
                         '--columns reference=...')  # fmt: skip
    found = {}
    for one in rated:
        found[one.image] = (images / one.image, [references / one.reference] if one.reference and needing else [])
    missing = [str(path) for image, targets in found.values() for path in (image, *targets) if not path.is_file()]
    if missing:
        raise FileNotFoundError(f'the table names images that are not there: {few(dict.fromkeys(missing))}')
    return found
