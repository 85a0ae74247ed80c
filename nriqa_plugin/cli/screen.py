"""``nriqa screen``: which judge agrees with people."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nriqa_plugin.cli.judges import judges_of, split_metrics
from nriqa_plugin.cli.tables import new_table, show_notes, with_arrow

EXAMPLES = """Examples:

nriqa screen pairs.csv --images DIR --metrics niqe,musiq,topiq_nr --core musiq -o screening

nriqa screen votes.csv --images DIR -m cnniqa:weights=CNNIQA-LIVE.pth -m niqe -o screening
--columns 'left={left}/{image},right={right}/{image},chosen={chosen},observer={session}'

nriqa screen sbs180k.csv --format sbs180k --images DIR --metrics all --stage1 1212 --keep 7 --test test.csv -o screening

nriqa screen 2afc/val/superres --format bapps -m lpips:net=squeeze,weights=squeezenet.pth -o screening

nriqa screen TID2013.csv --mos --columns image=dis_img_path,mos=score --images DIR --metrics niqe -o screening"""


def screen(
    table: Annotated[Path, typer.Argument(help='Table of votes or opinions (CSV), or a folder of --format.')],
    out: Annotated[Path, typer.Option('--out', '-o', help='Folder for the results.', show_default=False)],
    images: Annotated[Path | None, typer.Option(help='Folder that the names of images are relative to.')] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Judges NAME,NAME:key=value,...; 'all': every no-reference judge that can be built here."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option('--metric', '-m', help='One more judge: NAME or NAME:key=value. Repeatable.')
    ] = None,
    scores: Annotated[
        list[Path] | None, typer.Option(help='Scores files of nriqa score instead of images. Repeatable.')
    ] = None,
    format: Annotated[str | None, typer.Option(help='bapps, hggt, pipal or sbs180k.')] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help='Where the fields stand: left=COLUMN,right=COLUMN,chosen=COLUMN, also templates such as '
            "'left={method}/{image}'; more: observer, scene, reference, fraction=left, left_is=, right_is=, tie_is=, "
            'score_left, score_right, better=lower, judge=NAME. Opinions: image=COLUMN,mos=COLUMN; more: kind, '
            'reference, scene, mos_better=lower.'
        ),
    ] = None,
    core: Annotated[str | None, typer.Option(help='Judge whose mistakes the others are tried on.')] = None,
    mos: Annotated[bool, typer.Option('--mos', help='Opinions (image, mos), not votes: SROCC, PLCC, KROCC.')] = False,
    stage1: Annotated[int | None, typer.Option(help='First try all judges on so many random pairs.')] = None,
    keep: Annotated[int, typer.Option(help='Of these take the best so many to all pairs.')] = 7,
    test: Annotated[Path | None, typer.Option(help='The second stage is on the pairs of this table.')] = None,
    repeats: Annotated[bool, typer.Option('--repeats', help='An observer may answer a pair more than once.')] = False,
    seed: Annotated[int, typer.Option(help='Of the random pairs, the folds and the bootstrap.')] = 0,
    resamples: Annotated[int, typer.Option(help='Of the bootstrap.')] = 2000,
    device: Annotated[str, typer.Option(help='auto, cpu, cuda, cuda:1, ...')] = 'auto',
):
    """Which judge to trust: how often judges agree with people.

    Prints and writes the two-alternative accuracy of every judge on human preferences, where judges complement each
    other, the best ones together and their rank correlations; with --mos the correlations with mean opinions. Images
    are scored once: an interrupted run goes on where it stopped.
    """
    from nriqa_plugin.checks import unknown_name
    from nriqa_plugin.preference.screening_run import Request, screen_opinions, screen_two_stages, screen_votes
    from nriqa_plugin.preference.vote_formats import FORMATS, PIPAL

    if metrics is None and not metric and not scores and 'score_left' not in (columns or ''):
        raise ValueError('no judge to screen: give --metrics, --metric, --scores or columns score_left and score_right')
    if format is not None and format not in FORMATS:
        raise unknown_name('value for --format:', format, FORMATS)
    everything, names = split_metrics(metrics)
    texts = [*names, *(metric or ())]
    request = Request(images, judges_of(texts), everything, tuple(scores or ()), out, core, seed, resamples, device)
    if mos or format == 'pipal':
        _refuse('opinions', core=core, stage1=stage1, test=test, format=None if format == 'pipal' else format)
        _show_opinions(screen_opinions(request, table, columns or (PIPAL if format == 'pipal' else None)), out)
        return
    votes = _reader(format, columns, repeats)
    if stage1 is not None:
        first, found = screen_two_stages(request, votes, table, test, stage1, keep, format)
        _show(first, None, f'Stage 1: {stage1} pairs')
        _show(found, format, 'Stage 2')
    else:
        _refuse('a screening without --stage1', test=test)
        _show(screen_votes(request, votes, table, format), format, str(table))
    Console().print(f'written to {out}', markup=False, highlight=False, soft_wrap=True)


def _reader(name, columns, repeats):
    """The function that reads a table: path to votes, and the scores in it (None if it has none)."""
    from nriqa_plugin.preference.screening_run import read_with_scores
    from nriqa_plugin.preference.vote_formats import read_format

    if name == 'hggt':
        from nriqa_plugin.preference.hggt_votes import read_hggt_votes

        _refuse('--format hggt', columns=columns)
        return lambda path: (read_hggt_votes(path), None)
    if name is None or columns is not None:
        return lambda path: read_with_scores(path, columns, repeats)
    return lambda path: (read_format(name, path, repeats), None)


def _refuse(what, **options):
    given = [f'--{name}' for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f'{" and ".join(given)} cannot be given with {what}')


def _show(result, data_format, title):
    from nriqa_plugin.preference.screening_page import counts, percent, published

    screening, core = result.screening, result.screening.core
    shown = any(published(row.judge, data_format) for row in screening.rows)
    table = new_table(
        'judge', 'per pair %', 'per vote %', *[f'where {core} is wrong'] * bool(core), *['published'] * shown
    )
    for row in screening.rows:
        cells = [percent(row.pair_accuracy, row.pair_low, row.pair_high)]
        cells += [percent(row.vote_accuracy, row.vote_low, row.vote_high)]
        cells += [percent(row.rescue, row.rescue_low, row.rescue_high)] * bool(core)
        table.add_row(with_arrow(row.judge, row.higher_better), *cells, *[published(row.judge, data_format)] * shown)
    table.add_row('[dim]always the majority[/]', '', percent(*screening.majority.share))
    if screening.observer.n:
        table.add_row('[dim]one person against the others[/]', '', percent(*screening.observer.share))
    Console().print(title, style='bold cyan', markup=False, highlight=False)
    Console().print(table)
    for one in screening.combinations if len(screening.rows) > 1 else ():
        accuracy = f'{percent(one.in_sample)} in sample, {percent(*one.cross_validated.share)} cross-validated'
        Console().print(f'best {len(one.judges)}: {" + ".join(one.judges)}: {accuracy}', markup=False, highlight=False)
    show_notes([counts(screening), *result.notes])
    _show_failed(result.failed)


def _show_opinions(result, out):
    from nriqa_plugin.preference.mos_table import correlation_texts

    table = new_table('judge', 'images', 'SROCC', 'PLCC', 'KROCC')
    for row in result.rows:
        table.add_row(with_arrow(row.judge, row.higher_better), str(row.n), *correlation_texts(row))
    Console().print(table)
    show_notes(result.notes)
    _show_failed(result.failed)
    Console().print(f'written to {out}', markup=False, highlight=False, soft_wrap=True)


def _show_failed(failed):
    if failed:
        show_notes([f'{len(failed)} judges could not be asked:', *(f'{name}: {why}' for name, why in failed.items())])
