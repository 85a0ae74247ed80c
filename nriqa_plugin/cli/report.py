"""``nriqa report``: many runs in one HTML file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nriqa_plugin.cli.tables import show_notes

EXAMPLES = """Examples:

nriqa report runs/matrix -o report.html

nriqa report base=experiments/base lpips=experiments/lpips -r Set5/HR --lq Set5/LR_x4 -o report.html

nriqa report base=base.csv niqe=niqe.csv --images base=results/base --images niqe=results/niqe -o report.html

nriqa report runs/matrix --jnd jnd.csv --plane psnr:jnd --figures figures -o report.html"""


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            help='NAME=PATH: an experiment or result folder of BasicSR, a work_dir of mmagic, a folder of images and '
            'a scores file, or a scores file alone. Or one result folder with runs.json.',
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option('--out', '-o', help='The HTML file.')] = Path('report.html'),
    baseline: Annotated[
        str | None,
        typer.Option('--baseline', '-b', help='Run (with runs.json: loss) to compare with; default: the first.'),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option('--reference', '-r', help='Folder of ground truths, paired by name.')
    ] = None,
    lq: Annotated[Path | None, typer.Option('--lq', help='Folder of low-resolution inputs.')] = None,
    images: Annotated[
        list[str] | None,
        typer.Option('--images', help='Results of a run, where they lie elsewhere: NAME=DIR. Repeatable.'),
    ] = None,
    suffix: Annotated[str, typer.Option(help="Ending that the results' names have more.")] = '',
    jnd: Annotated[
        Path | None, typer.Option('--jnd', help='Table of nriqa jnd; its conditions are called as the runs.')
    ] = None,
    plane: Annotated[
        list[str] | None,
        typer.Option(
            '--plane', help='Axes X:Y of a plane, metrics or jnd; default: PSNR, LPIPS-ST and the judges. Repeatable.'
        ),
    ] = None,
    title: Annotated[str, typer.Option(help='Heading.')] = 'Report',
    crops: Annotated[int, typer.Option('--crops', min=0, help='Regions in the viewer; 0: no viewer.')] = 8,
    size: Annotated[int, typer.Option('--size', min=16, help='Side of a region in px.')] = 256,
    max_mb: Annotated[float, typer.Option('--max-mb', help='Largest size of the file in MB.')] = 50.0,
    figures: Annotated[
        Path | None, typer.Option('--figures', help='Also write the figures here, as PNG and PDF.')
    ] = None,
    seed: Annotated[int, typer.Option('--seed', min=0, help='Of the bootstrap.')] = 0,
):
    """One HTML file that needs no network: gains, scores, planes, violins, curves, every image, and a viewer.

    Crops are chosen where the runs differ most. What was left out stands under Notes, on the page and here.
    """
    from nriqa_plugin.report import build_report
    from nriqa_plugin.report.sources import index_of

    folders = dict(_pair('--images', text, '=') for text in images or ())
    planes = [_pair('--plane', text, ':') for text in plane or ()] or None
    index = index_of(runs, baseline, reference, lq, folders, suffix)
    built = build_report(out, index, title, jnd, crops, size, max_mb, figures, planes, seed)
    show_notes(built.notes)
    what = f'{len(index.runs)} runs, {built.crops} crops, {built.size / 1e6:.1f} MB'
    Console().print(f'{built.path}: {what}', markup=False, highlight=False, soft_wrap=True)


def _pair(option, text, sign):
    left, found, right = text.partition(sign)
    if not (left and found and right):
        raise ValueError(f'{option} must be two names with {sign!r} between them, got {text!r}')
    return left, right
