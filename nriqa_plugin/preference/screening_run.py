"""A screening from a table to a folder of results: scores, CSV, Markdown, JSON and figures."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nriqa_plugin.checks import atomic_path, unknown_name
from nriqa_plugin.evaluation.csv_file import write_rows
from nriqa_plugin.evaluation.figures import save_figure
from nriqa_plugin.preference.mos import read_mos
from nriqa_plugin.preference.mos_table import correlation_rows, mos_markdown, scenes_of
from nriqa_plugin.preference.pairs import pairs_of
from nriqa_plugin.preference.screening_figures import accuracy_figure, rank_figure
from nriqa_plugin.preference.screening_page import as_dict, markdown, write_json
from nriqa_plugin.preference.screening_scores import (
    OPINION,
    PAIR,
    TABLE,
    from_files,
    from_table,
    image_files,
    score_one_by_one,
    score_together,
)
from nriqa_plugin.preference.screening_table import Screening, screen
from nriqa_plugin.preference.two_stage import build_each, keepers, no_reference_judges, sample_pairs
from nriqa_plugin.preference.votes import vote_entries, vote_mapping, votes_of


@dataclass(frozen=True)
class Request:
    """What to screen with.

    Attributes:
        images (Path | None): folder of images; None when no image is scored.
        judges (Mapping[str, Callable]): by name what builds each judge.
        everything (bool): also every no-reference judge that can be built; those that cannot are told.
        scores (tuple[Path, ...]): scores files.
        out (Path): folder of results.
        core (str | None), seed (int), resamples (int): see :func:`~nriqa_plugin.preference.screening_table.screen`.
        device (str): where judges run.
    """

    images: Path | None
    judges: Mapping[str, Callable]
    everything: bool
    scores: tuple
    out: Path
    core: str | None = None
    seed: int = 0
    resamples: int = 2000
    device: str = 'auto'


@dataclass(frozen=True)
class Result:
    """A screening with what it was made of; ``failed`` tells by name which judges could not be asked and why."""

    screening: Screening
    failed: dict
    seed: int
    resamples: int
    notes: tuple = field(default=())


@dataclass(frozen=True)
class OpinionResult:
    """Rows of :mod:`~nriqa_plugin.preference.mos_table`, the judges that could not be asked, and notes."""

    rows: list
    failed: dict
    notes: tuple = field(default=())


def read_with_scores(path, mapping=None, repeats=False):
    """Votes, and the scores of a judge that the table may hold.

    Returns:
        tuple[list[Vote], JudgeScores | None]
    """
    fields_of = vote_mapping(mapping, TABLE)
    settings = {name: fields_of.pop(name) for name in ('judge', 'better') if name in fields_of}
    entries = vote_entries(path, fields_of, TABLE)
    votes = votes_of(entries, fields_of, repeats)
    return votes, from_table(entries, settings) if 'score_left' in fields_of or 'score_right' in fields_of else None


def screen_votes(request, reader, table, data_format=None):
    """One stage: all judges on all pairs.

    Args:
        reader (callable): path to ``(votes, JudgeScores | None)``, such as :func:`read_with_scores`.

    Returns:
        Result
    """
    votes, own = reader(table)
    pairs = pairs_of(votes)
    judges, failed = _judges(request, pairs.images, pairs.reference, 'scores.csv', _root(request, table), own)
    found = screen(pairs, judges, request.core, request.seed, request.resamples)
    result = Result(found, failed, request.seed, request.resamples, _notes(judges))
    _write(request.out, '', result, f'Screening of {Path(table).name}', data_format)
    return result


def screen_two_stages(request, reader, table, test, count, keep, data_format=None):
    """All judges on ``count`` random pairs, the best ``keep`` and the core judge on the full test split.

    Without a table ``test`` the second stage is on all pairs of ``table`` but those of the first, so that no judge
    is tested on what it was chosen by.

    Returns:
        tuple[Result, Result]: of the first and of the second stage.

    Raises:
        ValueError: fewer pairs than ``count``, or none left.
    """
    votes, own = reader(table)
    pairs, root = pairs_of(votes), _root(request, table)
    chosen = sample_pairs(pairs, count, request.seed)
    sample = pairs.of(chosen)
    cache = f'scores_stage1_{count}_seed{request.seed}.csv'
    judges, failed = _judges(request, sample.images, sample.reference, cache, root, own)
    first = Result(screen(sample, judges, request.core, request.seed, request.resamples, together=False), failed,
                   request.seed, request.resamples, _notes(judges))  # fmt: skip
    _write(request.out, 'stage1_', first, f'Stage 1 on {Path(table).name}: {count} pairs', None)
    kept = keepers(first.screening.rows, keep)
    if request.core and request.core not in kept:
        kept.append(request.core)
    if test is None:
        # All images of the table are scored, as without stages: the same file of scores serves both.
        rest, cache, scored = pairs.of(np.setdiff1d(np.arange(len(pairs)), chosen)), 'scores.csv', pairs
        note = f'The {len(rest)} pairs that the first stage did not see.'
    else:
        (votes, own), root = reader(test), _root(request, test)
        rest, cache, note = pairs_of(votes), 'scores_test.csv', f'The pairs of {Path(test).name}.'
        scored = rest
    if not len(rest) or np.isnan(rest.majority).all():
        raise ValueError(f'stage1: no pair with a majority is left for the second stage after {count}; give --test')
    again = replace(request, everything=False)
    second, _ = _judges(again, scored.images, scored.reference, cache, root, own, kept)
    notes = (f'{note} Judges: the best {keep} of {len(first.screening.rows)} in stage 1.', *_notes(second))
    found = screen(rest, second, request.core, request.seed, request.resamples)
    result = Result(found, failed, request.seed, request.resamples, notes)
    _write(request.out, '', result, f'Stage 2 on {Path(test or table).name}', data_format)
    return first, result


def screen_opinions(request, table, mapping=None):
    """Judges on mean opinion scores.

    Returns:
        OpinionResult
    """
    opinions = read_mos(table, mapping)
    reference = {one.image: one.reference for one in opinions if one.reference}
    images = [one.image for one in opinions]
    judges, failed = _judges(request, images, reference, 'scores.csv', request.images, None, columns=OPINION)
    rows = correlation_rows(opinions, judges, request.seed, request.resamples)
    notes = (*_notes(judges), *(row.note for row in rows if row.note))
    title = f'Screening of {Path(table).name}'
    text = mos_markdown(rows, title, scenes_of(opinions), request.seed, request.resamples, failed, notes)
    _write_text(request.out / 'screening.md', text)
    write_rows(request.out / 'screening.csv', rows)
    content = {'rows': [row.__dict__ for row in rows], 'failed': failed, 'notes': notes}
    write_json(request.out / 'screening.json', content)
    return OpinionResult(rows, failed, notes)


def _notes(judges):
    """What is to be known of the judges themselves."""
    return tuple(dict.fromkeys(note for one in judges for note in one.notes))


def _root(request, table):
    """The folder of the images: a folder given as the table is one, too."""
    return request.images or (Path(table) if Path(table).is_dir() else None)


def _judges(request, images, reference, cache, root, own, only=None, columns=PAIR):
    """``(list[JudgeScores], failed)`` for all judges of a request, or those called as in ``only``."""
    found = [own] if own is not None else []
    if request.scores:
        found += from_files(request.scores)
    found = [one for one in found if only is None or one.judge in only]
    ready = {one.judge for one in found}
    names = [name for name in (only or request.judges) if name not in ready]
    if request.everything:
        names += [name for name in no_reference_judges() if name not in request.judges and name not in ready]
    if request.core is not None and request.core not in {*names, *ready}:
        raise unknown_name('core judge', request.core, {*names, *ready})  # before all images are scored
    if not names:
        return found, {}
    if root is None:
        raise ValueError('--images is missing: the folder that the names of the images are relative to')
    # References that no judge looks at need not be there.
    files = functools.cache(lambda needed: image_files(root, images, reference if needed else None, columns))
    files(False)  # before a judge is built
    if not request.everything and only is None:
        judges = [request.judges[name]() for name in names]
        return found + score_together(files, judges, request.out / cache, request.device), {}
    built = build_each(names, request.judges)
    scored, failed = score_one_by_one(files, built, request.out / cache, request.device)
    if only is not None and failed:
        raise ValueError('; '.join(f'{name}: {why}' for name, why in failed.items()))
    if not found and not scored:
        raise ValueError(f'none of {len(failed)} judges can be asked here; the first: {next(iter(failed.values()))}')
    return found + scored, failed


def _write(out, prefix, result, title, data_format):
    found, names = result.screening, [row.judge for row in result.screening.rows]
    text = markdown(found, title, result.seed, result.resamples, data_format, result.failed, result.notes)
    _write_text(out / f'{prefix}screening.md', text)
    write_rows(out / f'{prefix}screening.csv', found.rows)
    content = {**as_dict(found), 'failed': result.failed, 'seed': result.seed, 'resamples': result.resamples,
               'notes': result.notes}  # fmt: skip
    write_json(out / f'{prefix}screening.json', content)
    save_figure(accuracy_figure(title, found), out / f'{prefix}accuracy')
    if len(names) > 1:
        save_figure(rank_figure(title, names, found.ranks), out / f'{prefix}ranks')


def _write_text(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')
