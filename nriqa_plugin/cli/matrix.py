"""``nriqa matrix``: losses x networks x data sets, one table of relative gains."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from nriqa_plugin.cli.tables import new_table, show_notes, with_arrow

EXAMPLES = """Examples:

nriqa matrix options/matrix/sr_x4.yml -o runs/matrix

nriqa matrix options/matrix/sr_x4.yml -o runs/short --steps 500 --only charbonnier,lpips,nima --network rlfn

nriqa matrix options/matrix/sr_x4.yml -o runs/matrix --report-only

nriqa matrix --from runs/matrix/runs.json -o runs/per_image --per-image

nriqa matrix --scores 'scores/{network}/{dataset}/{loss}.csv' --baseline charbonnier --own nima=nima -o runs/mine"""


def matrix(
    out: Annotated[Path, typer.Option('--out', '-o', help='Result folder.', show_default=False)],
    experiments: Annotated[
        Path | None,
        typer.Argument(help='Experiments file (YAML); not with --from or --scores.', show_default=False),
    ] = None,
    steps: Annotated[
        int | None, typer.Option('--steps', min=1, help='Iterations of each training, of a pretraining at most.')
    ] = None,
    only: Annotated[
        str | None, typer.Option('--only', help='These losses only: lpips,nima. The baseline stays.')
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option('--network', help='This network only. Repeatable.', show_default=False)
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            '--weights', '-w', show_default=False,
            help='Weights file of the term NAME, and of the judge NAME if it has none: NAME=FILE. Repeatable.',
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option('--set', show_default=False, help="Override in base files: the host's KEY=VALUE. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option('--seed', min=0, help='Of every training.')] = 0,
    retry: Annotated[bool, typer.Option('--retry', help='Run again what broke down, from its start.')] = False,
    report_only: Annotated[bool, typer.Option('--report-only', help='Train nothing, report what is there.')] = False,
    runs: Annotated[
        Path | None,
        typer.Option('--from', help='Train nothing: the runs of this runs.json, or of the folder it lies in.'),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option('--scores', help="Train nothing: scores files, as 'scores/{network}/{dataset}/{loss}.csv'."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option('--baseline', help='Loss to compare with, for --from and --scores.')
    ] = None,
    own: Annotated[
        list[str] | None,
        typer.Option('--own', help='Judges that a loss optimises, for --scores: LOSS=JUDGE,JUDGE. Repeatable.'),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option('--images', show_default=False, help='Results for --scores, which `nriqa artifacts` and `nriqa '
                     "report` cut crops from: 'results/{network}/{dataset}/{loss}', or LOSS=DIR. Repeatable."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option('--reference', '-r', help="Their ground truths: a folder, as 'data/{dataset}/GT'.")
    ] = None,
    suffix: Annotated[
        str, typer.Option('--suffix', help="What the results' names have more, such as BasicSR's '_{loss}'.")
    ] = '',
    metric: Annotated[
        list[str] | None, typer.Option('--metric', '-m', help='Column, for --from and --scores. Repeatable.')
    ] = None,
    per_image: Annotated[
        bool, typer.Option('--per-image', help='Average the gains of single images instead of the scores.')
    ] = False,
    undefined: Annotated[
        str | None,
        typer.Option('--undefined', help='A judge whose baseline is not positive: error (default) or empty.'),
    ] = None,
):  # fmt: skip
    """Fine-tune networks with many losses through the stock scripts; one table of relative gains over a baseline.

    Rows are losses, columns judges and their mean, averaged over networks and data sets (arXiv 2405.20392, Fig. 2). The
    same command goes on after a kill. Exits with 1 if a training broke down; the others are reported.
    """
    from nriqa_plugin.checks import did_you_mean, import_extra
    from nriqa_plugin.cli.compare import bars, pairs
    from nriqa_plugin.compare.runs import FAILED, FINISHED
    from nriqa_plugin.compare.yaml_files import yaml_value
    from nriqa_plugin.evaluation.gain_matrix import ERROR
    from nriqa_plugin.evaluation.run_index import NAME, write_runs
    from nriqa_plugin.matrix import read_experiments, run_experiments, write_experiments, write_matrix

    if sum(given is not None for given in (experiments, runs, scores)) != 1:
        raise ValueError('give one of: an experiments file, --from runs.json, --scores PATTERN')
    import_extra('matplotlib', 'report', 'nriqa matrix')  # before hours of training
    if experiments is None:
        for option, given in (('--steps', steps), ('--only', only), ('--network', network), ('--weights', weights),
                              ('--set', setting), ('--seed', seed), ('--retry', retry),
                              ('--report-only', report_only)):  # fmt: skip
            if given:
                raise ValueError(f'{option} is for trainings, and an experiments file was not given')
        index = _index(runs, scores, baseline, own, (images, reference, suffix))
        made = write_matrix(index, out, metrics=metric, per_image=per_image, undefined=undefined or ERROR)
        if runs is None or not (Path(out) / NAME).exists():
            write_runs(out, index)  # for nriqa report; that of --from stays as it is
        _show(made, out)
        unmarked = sorted({judge for run in index.runs for judge in run.optimised} - set(made.metrics))
        show_notes(f'Optimised, but no column of this table: {name}.{did_you_mean(name, made.metrics)}'
                   for name in unmarked)  # fmt: skip
        return
    for option, given in (('--baseline', baseline), ('--own', own), ('--metric', metric), ('--images', images),
                          ('--reference', reference), ('--suffix', suffix)):  # fmt: skip
        if given:
            raise ValueError(f'{option} is for --from and --scores; the experiments file says it')
    settings = {key: yaml_value(value) for key, value in pairs('--set', setting).items()}
    names = [name.strip() for name in only.split(',')] if only else None
    read = read_experiments(experiments, names, network, pairs('--weights', weights), settings)
    read = replace(read, per_image=per_image or read.per_image, undefined=undefined or read.undefined)
    _check_judges(read)
    with bars() as progress:
        results = run_experiments(read, out, steps, seed, retry, report_only, progress)
    made, results = write_experiments(read, results, out)
    if made:
        _show(made, out)
    for result in results:
        if result.outcome.status != FINISHED:
            text = f'{result.group}/{result.loss} {result.outcome.status}: {result.outcome.error or "no result"}'
            log = result.folder / 'log.txt'
            text += f' (log: {log})' if log.is_file() else ''
            Console(stderr=True).print(text, style='red', markup=False, emoji=False, soft_wrap=True)
    if any(result.outcome.status == FAILED for result in results):
        raise typer.Exit(1)
    if not made:
        raise ValueError(f'{out} holds no scored baseline ({read.baseline}), so there are no gains')


def _check_judges(read):
    """Before hours of training."""
    from nriqa_plugin.checks import check_choice, in_place
    from nriqa_plugin.compare import judges_of
    from nriqa_plugin.compare.optimised import check_optimises
    from nriqa_plugin.evaluation.gain_matrix import EMPTY, ERROR

    check_choice('--undefined', read.undefined, (ERROR, EMPTY))
    family = read.groups[0].family
    judges = judges_of(family)
    with in_place(read.file):
        check_optimises(read.optimises, list(zip(family.judges, judges, strict=True)))
    for judge in judges:
        if not judge.has_gain and read.undefined == ERROR:
            raise ValueError(f'{judge.name} has no relative gain, for its usual mean is 0; leave it out, or let its '
                             'column be empty with `undefined: empty`')  # fmt: skip


def _index(runs, scores, baseline, own, folders):
    from nriqa_plugin.cli.compare import pairs
    from nriqa_plugin.evaluation.run_index import RunIndex, read_runs
    from nriqa_plugin.matrix import runs_by_pattern, with_folders

    if scores is not None:
        if baseline is None:
            raise ValueError('--scores needs --baseline LOSS')
        named = {loss: [name.strip() for name in judges.split(',')] for loss, judges in pairs('--own', own).items()}
        return with_folders(runs_by_pattern(scores, baseline, named), *folders)
    if own or any(folders):
        option = '--own is' if own else '--images, --reference and --suffix are'
        raise ValueError(f'{option} for --scores; runs.json says it itself')
    index = read_runs(runs)
    return RunIndex(index.runs, baseline) if baseline else index


def _show(made, out):
    from nriqa_plugin.evaluation.gain_tables import LOWERED, OWN, cell_text, percent

    heads = (with_arrow(metric, made.higher_better[metric]) for metric in made.metrics)
    table = new_table('loss', *heads, 'mean', 'others')
    for loss in made.losses:
        cells = []
        for metric in made.metrics:
            style = 'bold red' if made.lowers_own(loss, metric) else 'bold' if metric in made.own[loss] else 'none'
            cells.append(f'[{style}]{cell_text(made, loss, metric)}[/]')
        table.add_row(escape(loss), *cells, percent(made.mean(loss)), percent(made.mean_of_others(loss)))
    Console().print(table, highlight=False)
    marks = f'{OWN} own judge, {OWN}{LOWERED} own judge that fell.'
    Console(emoji=False).print(f'{marks} {made.notes()[0]}', markup=False, highlight=False)
    show_notes(made.notes()[2:])
    Console().print(f'Heat map: {Path(out) / "matrix.png"}, table: {Path(out) / "matrix.md"}; page: nriqa report {out}',
                    soft_wrap=True, markup=False, highlight=False)  # fmt: skip
