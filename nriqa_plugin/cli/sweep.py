"""``nriqa sweep``: ratios of perceptual weight to judge weight, and GAN weights without the judge."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nriqa_plugin.cli.judges import parse_judge

EXAMPLES = """Examples:

nriqa sweep my_finetuning.yml -o runs/sweep --perceptual lpips --judge musiq

nriqa sweep my_finetuning.yml -o runs/sweep --perceptual lpips --judge musiq --ratio 1:0 --ratio 1:1 --ratio 3:1

nriqa sweep my_ft.yml -o runs/sweep --perceptual lpips --judge musiq --gan 1 --gan 3 --gan 10 --gan-base my_gan.yml

nriqa sweep my_ft.yml -o runs/sweep --perceptual lpips --judge musiq -m psnr -m stlpips:weights=st.pth -m nima"""

RATIOS = ('1:0', '1:0.3', '1:1', '1:3', '1:10')


def sweep(
    base: Annotated[
        Path,
        typer.Argument(help='Option file, .yml or .py of mmagic, whose pixel loss has both terms.', show_default=False),
    ],
    out: Annotated[Path, typer.Option('--out', '-o', help='Result folder.', show_default=False)],
    perceptual: Annotated[str, typer.Option(help='Name of the perceptual term.', show_default=False)],
    judge: Annotated[str, typer.Option(help="Name of the no-reference judge's term.", show_default=False)],
    ratio: Annotated[
        list[str] | None,
        typer.Option(
            help='P:Q, multiples of the file\'s weights of the perceptual term and of the judge. Repeatable. '
            f'Default: {", ".join(RATIOS)}; none when only --gan is given.',
            show_default=False,
        ),
    ] = None,
    gan: Annotated[
        list[float] | None,
        typer.Option(help="Multiple of the GAN loss's weight, without the judge. Repeatable.", show_default=False),
    ] = None,
    gan_base: Annotated[Path | None, typer.Option(help='Option file with a GAN, for --gan.')] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            '--metric', '-m', help='Judge of the figure: NAME or NAME:key=value. Default: psnr and both terms.',
            show_default=False,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            '--set', help='Override: KEY=VALUE, as train:total_iter=9 (mmagic: train_cfg.max_iters=9). Repeatable.'
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option('--steps', min=1, help='Iterations of each training.')] = None,
    seed: Annotated[int, typer.Option('--seed', help='Of every training.')] = 0,
    retry: Annotated[bool, typer.Option('--retry', help='Run again what broke down.')] = False,
    report_only: Annotated[bool, typer.Option('--report-only', help='Train nothing, report what is there.')] = False,
):  # fmt: skip
    """Train one option file with several weights through the stock script, and plot what each judge says.

    The same command goes on after a kill. Exits with 1 if a training broke down; the others are reported.
    """
    from nriqa_plugin.checks import import_extra
    from nriqa_plugin.cli import compare
    from nriqa_plugin.compare.runs import FAILED
    from nriqa_plugin.compare.sweep import read_sweep, run_sweep, write_sweep
    from nriqa_plugin.compare.yaml_files import yaml_value

    for module in ('scipy', 'matplotlib', 'jinja2'):  # before hours of training
        import_extra(module, 'report', 'nriqa sweep')
    settings = {key: yaml_value(value) for key, value in compare.pairs('--set', setting).items()}
    ratios = [parse_ratio(text) for text in (ratio or (() if gan else RATIOS))]
    judges = [_judge_option(text) for text in metric] if metric else None
    points = read_sweep(base, perceptual, judge, ratios, gan or (), gan_base, judges, settings)
    with compare.bars() as progress:
        outcomes = run_sweep(points, out, steps, seed, retry, report_only, progress)
    rows, outcomes = write_sweep(points, outcomes, out, seed)
    compare.show(rows, None)
    Console().print(f'Report: {out / "report.html"}, figures: {out / "sweep_*.png"}', soft_wrap=True)
    for outcome in outcomes:
        if outcome.error:
            text = f'{outcome.name} broke down: {outcome.error} (log: {out / outcome.name / "log.txt"})'
            Console(stderr=True).print(text, style='red', markup=False, soft_wrap=True)
    if any(outcome.status == FAILED for outcome in outcomes):
        raise typer.Exit(1)


def parse_ratio(text):
    """``(p, q)`` of ``P:Q``.

    Raises:
        ValueError: not two numbers.
    """
    try:
        p, q = map(float, text.split(':'))
    except ValueError:
        raise ValueError(f'--ratio {text}: must be P:Q, two numbers, for example 1:0.3') from None
    return p, q


def _judge_option(text):
    name, options = parse_judge(text)
    top = {key: options.pop(key) for key in ('weights', 'crop_border') if key in options}
    return {'metric': name, **top, **({'options': options} if options else {})}
