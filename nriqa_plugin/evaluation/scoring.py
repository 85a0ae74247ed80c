"""Scoring a folder of images with judges, into a scores file that survives crashes."""

import contextlib
import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nriqa_plugin.checks import check_device, file_hash
from nriqa_plugin.evaluation.images import few, list_images, pair_images, read_image
from nriqa_plugin.evaluation.scores import csv_line, mean, read_scores, read_unfinished, score_row, write_scores
from nriqa_plugin.iqa import Scorer, create_scorer

__all__ = ['read_scores', 'score_folder', 'score_row', 'write_scores']

logger = logging.getLogger('nriqa_plugin')


def score_folder(images, judges, out, references=None, device='auto', progress=True, suffix=''):
    """Score every image of a folder with every judge, into a scores file.

    Each image is decoded once and scored alone, so that memory does not grow with the folder. A row is on disk as
    soon as it is known: after a crash the same call goes on where it stopped. Rows of unchanged images are kept,
    changed images are scored again, which a warning tells, rows of metrics that are not asked for stay. A file in
    which no row would stay is of another run and is refused.

    Args:
        images (str | Path): folder of images, see :func:`~nriqa_plugin.evaluation.images.list_images`.
        judges (Sequence[Scorer | str]): judges, or their names; also a single one.
        out (str | Path): the CSV file, sorted by metric and image when done.
        references (str | Path | None): folder of references, paired by name; wanted by full-reference judges.
        device (str): ``auto`` (a GPU if there is one) or a torch device. The judges are moved there.
        progress (bool): show a progress bar on a terminal.
        suffix (str): ending of the images' names, such as BasicSR's ``_<run>``. It is ignored in pairing and left out
            of the stored names, so that the scores files of two runs compare.

    Returns:
        Scores: all rows of the file.

    Raises:
        FileNotFoundError: a missing folder.
        ValueError: images that do not pair, a file ``out`` that belongs to other judges or images, an image that a
            judge cannot score (the message names both).
    """
    judges = _named(judges, references is not None)
    files = {
        name: (image, [reference] if reference else [])
        for name, (image, reference) in _files(images, references, suffix).items()
    }
    return score_files(files, judges.values(), out, device, progress)


def score_files(files, judges, out, device='auto', progress=True):
    """Score named image files, as :func:`score_folder` does with those of a folder.

    Args:
        files (dict[str, tuple[Path, Sequence[Path]]]): by stored name the image and its references; with several of
            them the score of a full-reference judge is the mean over these.
    """
    judges = _named(judges, any(references for _, references in files.values()))
    device = check_device(device)
    hashes = {path: file_hash(path) for image, references in files.values() for path in (image, *references)}
    todo = {}
    for metric, judge in judges.items():
        judge_hash = judge.weights_hash()
        for name, (image, references) in files.items():
            reference_hash = _joint_hash([hashes[r] for r in references]) if judge.needs_reference else ''
            todo[name, metric] = score_row(name, judge, float('nan'), hashes[image], reference_hash, judge_hash)
    image_hashes = {name: hashes[pair[0]] for name, pair in files.items()}
    rows, outdated = _sort_rows(Path(out), todo, image_hashes)
    for row in rows:
        todo.pop((row.image, row.metric), None)
    # From here on the file is only appended to, line by line; a torn last line was left behind by this rewrite.
    write_scores(out, rows)
    for judge in judges.values():
        judge.to(device)
    with open(out, 'a', encoding='utf-8', newline='') as file, _bar(progress, len(files)) as advance:
        for name, (path, references) in files.items():
            missing = [(judge, todo[name, metric]) for metric, judge in judges.items() if (name, metric) in todo]
            for row in _score_image(path, references, missing, device):
                file.write(csv_line(row))
                file.flush()
                rows.append(row)
            advance()
    write_scores(out, rows)
    _tell_changes(out, outdated, image_hashes)
    return read_scores(out)


def _named(judges, references):
    """``{metric: judge}``, refusing what cannot score single images, with ``references`` or without."""
    judges = [judges] if isinstance(judges, (str, Scorer)) else judges
    named = {}
    for judge in map(create_scorer, judges):
        if judge.name in named:
            raise ValueError(f'two judges are called {judge.name!r}; score them into two files')
        if judge.temporal:
            raise ValueError(f'{judge.name} is a video judge and cannot score single images')
        if judge.needs_reference and not references:
            raise ValueError(f'{judge.name} is a full-reference judge and needs a folder of references')
        named[judge.name] = judge
    if not named:
        raise ValueError('no judge to score with')
    return named


def _files(images, references, suffix):
    """``{stored name: (image, reference or None)}``, sorted."""
    if references is None:
        pairs = [(image, None) for image in list_images(images)]
    else:
        pairs = pair_images(images, references, suffix)
    files = {}
    for image, reference in pairs:
        name = image.stem.removesuffix(suffix) + image.suffix
        if name in files:
            raise ValueError(f'{image.name} and {files[name][0].name} are both called {name} without {suffix!r}')
        files[name] = (image, reference)
    return files


def _sort_rows(out, todo, image_hashes):
    """The rows of an unfinished or older ``out``: those that still hold, and those to be made again.

    Raises:
        ValueError: rows of other images, of another judge under the same name, outdated ones that nobody renews, or
            not a single one that holds.
    """
    if not out.exists():
        return [], []
    rows = read_unfinished(out)
    strange = sorted({row.image for row in rows} - image_hashes.keys())
    if strange:
        raise ValueError(f'{out} is of another folder: it has {few(strange)} that are not there; choose another file')
    if rows and all(row.image_hash != image_hashes[row.image] for row in rows):
        raise ValueError(f'{out} holds scores of other images under the same names; choose another file or delete it')
    kept, outdated = [], []
    for row in rows:
        new = todo.get((row.image, row.metric))
        if new is None and row.image_hash != image_hashes[row.image]:
            raise ValueError(f'{out}: {row.image} has changed since {row.metric} scored it; '
                             f'score {row.metric} again too, or choose another file')  # fmt: skip
        if new and (row.judge_hash, row.higher_better) != (new.judge_hash, new.higher_better):
            raise ValueError(f'{out} holds {row.metric} by another judge ({row.judge_hash}, now {new.judge_hash}); '
                             'choose another file')  # fmt: skip
        same = new is None or (row.image_hash, row.reference_hash) == (new.image_hash, new.reference_hash)
        (kept if same else outdated).append(row)
    if outdated and not kept:
        raise ValueError(f'{out} holds scores of other images or references under the same names; '
                         'choose another file or delete it')  # fmt: skip
    return kept, outdated


def _tell_changes(out, outdated, image_hashes):
    count = len({row.image for row in outdated})
    if count:
        one = count == 1
        what = 'image' if one else 'images'
        if any(row.image_hash == image_hashes[row.image] for row in outdated):
            what += ' or its reference' if one else ' or their references'
        again = 'was scored again' if one else 'were scored again'
        logger.warning(f'{count} {what} had changed since {out} was written and {again}')


# no_grad, not inference_mode: a constant that a judge caches here must still be usable in a training loss.
@torch.no_grad()
def _score_image(path, references, missing, device):
    """Yield the finished rows of one image; ``missing`` holds (judge, row without score)."""
    if not missing:
        return
    image = read_image(path)[None].to(device)
    needs_reference = any(judge.needs_reference for judge, _ in missing)
    targets = [read_image(reference)[None].to(device) for reference in references] if needs_reference else []
    for judge, row in missing:
        try:
            given = targets if judge.needs_reference else [None]
            score = mean(judge(image, target).item() for target in given)
        except (ValueError, TypeError) as error:
            raise ValueError(f'{judge.name} cannot score {path}: {error}') from error
        except RuntimeError as error:
            raise RuntimeError(f'{judge.name} failed on {path}: {error}') from error
        yield replace(row, score=score)


def _joint_hash(hashes):
    """The hash of one reference, or one for all of several."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(''.join(hashes).encode()).hexdigest()[:12]


@contextlib.contextmanager
def _bar(progress, total):
    """Yield the function to call after each image; nothing is shown when nobody looks on."""
    console = Console(stderr=True)
    columns = (TextColumn('scoring'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task('', total=total)
        yield lambda: bar.advance(task)
