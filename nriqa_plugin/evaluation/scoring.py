"""Scoring images and clips with any number of judges in one pass, into a scores file that survives crashes."""

import contextlib
import hashlib
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nriqa_plugin.checks import check_device, check_number
from nriqa_plugin.evaluation.clips import CLIP_MEMORY
from nriqa_plugin.evaluation.images import few
from nriqa_plugin.evaluation.one_pass import Expected, OnePass
from nriqa_plugin.evaluation.provenance import record_provenance
from nriqa_plugin.evaluation.scores import (
    Scores,
    csv_line,
    order,
    read_scores,
    score_row,
    write_scores,
)
from nriqa_plugin.evaluation.sources import ImageFile, find_units
from nriqa_plugin.evaluation.unfinished import Unfinished
from nriqa_plugin.iqa import Scorer, create_scorer

__all__ = ['read_scores', 'score_files', 'score_folder', 'score_row', 'score_units', 'write_scores']


def score_folder(
    images,
    judges,
    out,
    references=None,
    device='auto',
    progress=True,
    suffix='',
    regions=None,
    clip_memory=CLIP_MEMORY,
    one_clip=False,
):
    """Score images or clips with every judge, into a scores file.

    Each image is decoded once, in a background thread, and scored alone, so that memory does not grow with the
    folder. A row is on disk as soon as it is known: after a crash the same call goes on where it stopped. Rows of
    unchanged images are kept, changed images are scored again, which a warning tells, rows of metrics that are not
    asked for stay. A file in which no row would stay is of another run and is refused. What made the rows is noted
    beside the file, see :mod:`nriqa_plugin.evaluation.provenance`.

    Args:
        images (str | Path): a folder of images, of clips (subfolders of frames) or of videos, or a video, see
            :func:`nriqa_plugin.evaluation.sources.find_units`. The n-th further frame of a clip is stored as
            ``CLIP::n``; a video judge has one row a clip.
        judges (Sequence[Scorer | str]): judges, or their names; also a single one.
        out (str | Path): the CSV file, sorted by metric and image when done.
        references (str | Path | None): the same of the references, paired by name; wanted by full-reference judges.
        device (str): ``auto`` (a GPU if there is one) or a torch device. The judges are moved there.
        progress (bool): show a progress bar on a terminal.
        suffix (str): ending of the images' names, such as BasicSR's ``_<run>``. It is ignored in pairing and left out
            of the stored names, so that the scores files of two runs compare.
        regions (Callable | None): ``(image (3, H, W), reference or None) -> [(top, left, size), ...]``. The judges see
            these crops instead of the image, the score is the mean over them, and the metric is called
            ``NAME@LABEL`` with the callable's attribute ``label`` (``flat`` without); an attribute ``identity`` (text)
            goes into the judge's hash, and with ``needs_reference`` references are wanted for every judge. Images
            without such a region have no row; a warning counts them.
        clip_memory (float): GiB that the frames of one clip may take, which a video judge needs at once.
        one_clip (bool): a folder of images holds the frames of one clip.

    Returns:
        Scores: all rows of the file.

    Raises:
        FileNotFoundError: a missing folder.
        ValueError: images that do not pair, a file ``out`` that belongs to other judges or images, an image that a
            judge cannot score (the message names both), a damaged video, a clip too large for a video judge.
    """
    judges = _built(judges)
    units, clips = find_units(images, references, suffix, one_clip)
    return score_units(units, judges, out, device, progress, regions, clip_memory, references is not None, clips)


def score_files(files, judges, out, device='auto', progress=True, regions=None):
    """Score named image files, as :func:`score_folder` does with those of a folder.

    Args:
        files (dict[str, tuple[Path, Sequence[Path]]]): by stored name the image and its references; with several of
            them the score of a full-reference judge is the mean over these.

    Raises:
        ValueError: as :func:`score_folder`; images without references where a judge needs them.
    """
    judges = _built(judges)
    units = {name: ImageFile(name, image, references) for name, (image, references) in files.items()}
    bare = [name for name, (_, references) in files.items() if not references]
    needing = [judge.name for judge in judges if judge.needs_reference]
    if needing and 0 < len(bare) < len(files):
        raise ValueError(f'{", ".join(needing)} compares with references, and {few(bare)} of {len(files)} images have '
                         'none')  # fmt: skip
    return score_units(units, judges, out, device, progress, regions, with_references=len(bare) < len(files))


def score_units(
    units,
    judges,
    out,
    device='auto',
    progress=True,
    regions=None,
    clip_memory=CLIP_MEMORY,
    with_references=False,
    clips=False,
):
    """Score units of :mod:`nriqa_plugin.evaluation.sources`; everything else is as in :func:`score_folder`.

    Args:
        units (dict): by stored name.
        with_references (bool): whether full-reference judges have what they need.
        clips (bool): whether frames of one clip are neighbours, so that a video judge may score them.
    """
    out, device = Path(out), check_device(device)
    expected = _expected(_built(judges), regions, with_references, clips)
    check_number('clip_memory', clip_memory, low=0)
    unfinished = Unfinished(out, units, expected)
    rows = unfinished.kept
    for metric in expected.values():
        metric.judge.to(device)
    scoring = OnePass(units, expected, unfinished, device, regions, clip_memory)
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(_bar(progress, len(units)))
        for row in scoring.rows(advance):
            if scoring.made == 0:  # nothing is touched before there is a score
                judges = {metric: (new.judge, new.judge_hash) for metric, new in expected.items()}
                # From here on the file is only appended to, line by line; this rewrite drops a torn last line.
                write_scores(out, rows)
                record_provenance(out, judges, device, goes_on=bool(rows))
                file = stack.enter_context(open(out, 'a', encoding='utf-8', newline=''))
            scoring.made += 1
            file.write(csv_line(row))
            file.flush()
            rows.append(row)
    scoring.tell_skipped()
    write_scores(out, rows)
    unfinished.tell_changes()
    return Scores(out, tuple(sorted(rows, key=order)))


def _built(judges):
    judges = [judges] if isinstance(judges, (str, Scorer)) else judges
    return [create_scorer(judge) for judge in judges]


def _expected(judges, regions, with_references, clips):
    """``{metric: Expected}``, refusing what cannot be scored."""
    label, identity = getattr(regions, 'label', 'flat'), getattr(regions, 'identity', '')
    expected = {}
    for judge in judges:
        metric = judge.name if regions is None else f'{judge.name}@{label}'
        if metric in expected:
            raise ValueError(f'two judges are called {judge.name!r}; score them into two files')
        if judge.temporal and (not clips or regions is not None):
            what = 'single images' if regions is None else 'crops of single images'
            raise ValueError(f'{judge.name} is a video judge and cannot score {what}; give it clips')
        if judge.needs_reference and not with_references:
            raise ValueError(f'{judge.name} is a full-reference judge and needs references: in `nriqa score` -r '
                             'FOLDER, in a table of `nriqa screen` a column reference')  # fmt: skip
        judge_hash = judge.weights_hash()
        if regions is not None and identity:
            judge_hash = hashlib.sha256(f'{judge_hash} {identity}'.encode()).hexdigest()[:12]
        # The regions may be those of the reference: then a row holds for this reference only.
        needs_reference = judge.needs_reference or getattr(regions, 'needs_reference', False)
        if needs_reference and not with_references:
            raise ValueError(f'{metric} needs a folder of references, whose regions are looked at')
        expected[metric] = Expected(judge, judge_hash, judge.higher_better, needs_reference, judge.temporal)
    if not expected:
        raise ValueError('no judge to score with')
    return expected


@contextlib.contextmanager
def _bar(progress, total):
    """Yield the function to call after each image; nothing is shown when nobody looks on."""
    console = Console(stderr=True)
    columns = (TextColumn('scoring'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task('', total=total)
        yield lambda: bar.advance(task)
