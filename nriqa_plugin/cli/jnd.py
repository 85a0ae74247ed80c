"""``nriqa jnd``: a scale in JND from pairwise votes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from nriqa_plugin.cli.tables import new_table, show_notes, show_titled

LEVEL = 0.05  # of the tests

EXAMPLES = """Examples:

nriqa jnd votes.csv --out results/jnd

nriqa jnd votes.csv --columns observer=session,scene=image --by scene --relative-to bicubic

nriqa jnd votes.csv --columns 'left={method_a},right={method_b},chosen=winner,observer=who' --without 17"""


def jnd(
    votes: Annotated[Path, typer.Argument(help='CSV with one vote a line.', show_default=False)],
    columns: Annotated[
        str | None,
        typer.Option(
            help='Where left, right (the two methods), chosen, observer and scene stand: FIELD=COLUMN,... '
            'Default: columns of these names.',
            show_default=False,
        ),
    ] = None,
    by: Annotated[str, typer.Option(help='pooled: one scale for all scenes; scene: one for each.')] = 'pooled',
    relative_to: Annotated[
        str | None,
        typer.Option(
            help='The condition that gets 0. Default: the mean of those that nine of ten resamples connect.',
            show_default=False,
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help='A condition that there is; votes for any other are refused. Repeatable.', show_default=False
        ),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help='Leave out this observer. Repeatable.', show_default=False)
    ] = None,
    repeats: Annotated[
        bool, typer.Option('--repeats', help='People were asked the same pair more than once: count every answer.')
    ] = False,
    prior: Annotated[float, typer.Option(help='Standard deviation in JND of the normal prior on every score.')] = 10.0,
    resamples: Annotated[int, typer.Option(help='Of the bootstrap over observers.')] = 1000,
    level: Annotated[float, typer.Option(help='Coverage of the intervals.')] = 0.95,
    seed: Annotated[int, typer.Option(help='Of the bootstrap.')] = 0,
    out: Annotated[
        Path | None,
        typer.Option('--out', '-o', help='Folder for jnd.csv, pairs.csv, observers.csv and the figure.'),
    ] = None,
):
    """How much better is one method than another to people, in JND?

    Thurstone's Case V: 1 JND is preferred by 75 %. A tie is half a vote for
    either side. Observers who vote unlike all the others are named, and stay
    in unless --without leaves them out.
    """
    from nriqa_plugin.checks import check_choice, unknown_name
    from nriqa_plugin.evaluation.csv_file import write_rows
    from nriqa_plugin.evaluation.figures import save_figure
    from nriqa_plugin.preference.jnd import jnd_scale
    from nriqa_plugin.preference.jnd_figure import jnd_figure
    from nriqa_plugin.preference.observers import judge_observers
    from nriqa_plugin.preference.votes import read_votes

    scenes = None if check_choice('--by', by, ('pooled', 'scene')) == 'pooled' else 'scene'
    found = read_votes(votes, columns, repeats)
    for name in without or ():
        if all(vote.observer != name for vote in found):
            raise unknown_name('observer in --without:', name, {vote.observer for vote in found})
    found = [vote for vote in found if vote.observer not in (without or ())]
    scale = jnd_scale(found, scenes, relative_to, prior, resamples, level, seed, condition or None)
    observers = judge_observers(found, scenes, prior)
    if out:
        write_rows(out / 'jnd.csv', _known(scale.rows))
        write_rows(out / 'pairs.csv', _known(scale.pairs))
        if observers:
            write_rows(out / 'observers.csv', _known(observers))
        save_figure(jnd_figure(f'{votes.stem}: preference in JND', scale), out / 'jnd')
    _show_scale(scale)
    _show_observers(observers)
    show_notes([*scale.notes, *_notes_of_fits(scale.fits), *_notes_of_observers(observers, found, scenes, prior)])
    if out:
        Console().print(f'Written: {out}', markup=False, highlight=False, soft_wrap=True)


def _known(rows):
    """The rows with empty cells for what is not known."""
    empty = [[name for name, cell in vars(row).items() if isinstance(cell, float) and math.isnan(cell)] for row in rows]
    return [replace(row, **dict.fromkeys(names, '')) for row, names in zip(rows, empty, strict=True)]


def _show_scale(scale):
    percent = f'{100 * scale.level:g} %'
    scenes = {row.scene for row in scale.rows}
    several = len({(row.scene, row.part) for row in scale.rows}) > len(scenes)
    table = new_table('scene', 'condition', 'JND', percent, 'won', percent, 'votes')
    for row in scale.rows:
        name = f'{row.condition} (group {row.part + 1})' if several else row.condition
        share = (f'{100 * row.share:.1f} %', _between(100 * row.share_low, 100 * row.share_high, '.1f'))
        between = _between(row.low, row.high, '+.2f')
        table.add_row(escape(row.scene), escape(name), f'{row.jnd:+.2f}', between, *share, f'{row.votes:g}')
    show_titled('Scale (1 JND: preferred by 75 %)', table)
    if len(scenes) == 1:  # those of many scenes fill screens: pairs.csv
        table = new_table('better', 'than', 'JND', percent, 'preferred', 'votes', 'p (Holm)')
        for pair in scale.pairs:
            preferred = f'{100 * pair.share:.1f} %' if pair.votes else ''
            numbers = (f'{pair.difference:.2f}', _between(pair.low, pair.high, '+.2f'), preferred)
            p = f'{pair.p_holm:.2g}{" *" if pair.p_holm < LEVEL else ""}'
            table.add_row(escape(pair.condition), escape(pair.other), *numbers, f'{pair.votes:g}', p)
        show_titled('Pairs', table)


def _between(low, high, form):
    return '' if math.isnan(low) else f'{low:{form}} to {high:{form}}'


def _notes_of_fits(fits):
    """What one scale does not describe, by Holm's correction for the number of scenes."""
    from nriqa_plugin.evaluation.significance import holm

    for fit, p in zip(fits, holm(fit.p for fit in fits), strict=True):
        if p < LEVEL:
            yield (f'scene {fit.scene}: one scale describes these votes badly (deviance {fit.deviance:.1f} on {fit.df} '
                   f'degrees of freedom, p = {p:.2g}): preferences go in circles, or people differ')  # fmt: skip


def _show_observers(observers):
    if not observers:
        return
    table = new_table('observer', 'votes', 'agrees', 'score', 'note')
    for one in observers:
        remark = '[red]unlike the others[/]' if one.outlier else escape(one.note)
        agrees = '' if math.isnan(one.agreement) else f'{100 * one.agreement:.0f} %'
        score = '' if math.isnan(one.score) else f'{one.score:+.1f}'
        table.add_row(escape(one.observer), str(one.votes), agrees, score, remark)
    show_titled('Observers against the scale of all others', table)


def _notes_of_observers(observers, votes, scenes, prior):
    from nriqa_plugin.preference.observers import judge_observers

    flagged = [one.observer for one in observers if one.outlier]
    if flagged:
        yield f'unlike all other observers: {", ".join(flagged)}; they are in the scale, --without leaves them out'
    if scenes is None and all(vote.scene for vote in votes):
        by_scene = [one.observer for one in judge_observers(votes, 'scene', prior) if one.outlier]
        more = [name for name in by_scene if name not in flagged]
        if more:
            yield f'unlike all others by the scales of single scenes (--by scene): {", ".join(more)}'
