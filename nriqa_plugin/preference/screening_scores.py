"""The scores that a screening needs: made from images, read from a scores file, or from the table of votes itself."""

from dataclasses import dataclass
from pathlib import Path

from nriqa_plugin.checks import check_choice
from nriqa_plugin.evaluation.images import few
from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.evaluation.scoring import score_files
from nriqa_plugin.preference.table_columns import number_in
from nriqa_plugin.preference.two_stage import first_line

# How a template of --columns may look, for the fields of each form of table.
PAIR, OPINION, REFERENCE = 'left={left}/{image}', 'image={kind}/{image}', 'reference=originals/{reference}'
TABLE = ('judge', 'better', 'score_left', 'score_right')  # fields of a table that holds a judge's scores


@dataclass(frozen=True)
class JudgeScores:
    """What one judge says: ``scores`` by image, in its own units, and their direction; ``notes`` are the judge's."""

    judge: str
    higher_better: bool
    scores: dict
    judge_hash: str = ''
    notes: tuple = ()


def image_files(root, images, reference=None, columns=PAIR):
    """Where images lie, as :func:`~nriqa_plugin.evaluation.scoring.score_files` wants them.

    Args:
        root (str | Path): folder.
        images (Sequence[str]): names relative to it.
        reference (dict[str, str] | None): by image the name of its reference.
        columns (str): how ``--columns`` may name an image of such a table, for the message.

    Raises:
        FileNotFoundError: a folder or images that are not there.
    """
    root, reference = Path(root), reference or {}
    if not root.is_dir():
        raise FileNotFoundError(f'images: no such folder: {root}')
    wanted = dict.fromkeys([*images, *(reference[image] for image in images if image in reference)])
    missing = [name for name in wanted if not (root / name).is_file()]
    if missing:
        columns = columns if {*missing} & {*images} else REFERENCE
        hint = f"say how its columns make a path, such as --columns '{columns},...'"
        raise FileNotFoundError(f'images: the table names images that are not in {root}: {few(missing)}; {hint}')
    return {image: (root / image, [root / reference[image]] if image in reference else []) for image in images}


def score_together(files_of, judges, out, device='auto'):
    """Scores of all judges in one pass over the images; what ``out`` holds already is kept.

    Args:
        files_of (callable): whether references are needed, to what :func:`image_files` gives.

    Returns:
        list[JudgeScores]
    """
    found = score_files(files_of(any(judge.needs_reference for judge in judges)), judges, out, device)
    return [of_file(found, judge.name, judge.notes) for judge in judges]


def score_one_by_one(files_of, judges, out, device='auto'):
    """Scores of judges as they come, so that only one is in memory; one that fails is told and left out.

    Args:
        files_of (callable): as in :func:`score_together`.
        judges (Iterable[tuple[str, Scorer | None, str]]): as :func:`~nriqa_plugin.preference.two_stage.build_each`.

    Returns:
        tuple[list[JudgeScores], dict[str, str]]: the scores, and by name why there are none.
    """
    done, failed = [], {}
    for name, judge, reason in judges:
        if judge is None:
            failed[name] = reason
            continue
        try:
            found = score_files(files_of(judge.needs_reference), [judge], out, device)
            done.append(of_file(found, judge.name, judge.notes))
        except OSError:  # the disk's fault
            raise
        except Exception as error:  # judges of other packages raise all kinds of errors
            failed[name] = first_line(error)
        del judge
    return done, failed


def of_file(scores, metric, notes=()):
    """One metric of a scores file that was read."""
    rows = scores.of(metric)
    return JudgeScores(metric, rows[0].higher_better, {row.image: row.score for row in rows}, rows[0].judge_hash, notes)


def from_files(paths):
    """The judges of scores files, by name.

    Raises:
        ValueError: a metric that is in two of the files.
    """
    found = {}
    for path in paths:
        scores = read_scores(path)
        for metric in scores.metrics:
            if metric in found:
                raise ValueError(f'{metric} is in two scores files, {found[metric][0].path} and {path}')
            found[metric] = scores, metric
    return [of_file(*found[metric]) for metric in sorted(found)]


def from_table(entries, settings):
    """The judge whose scores stand in the table of votes, in the fields ``score_left`` and ``score_right``.

    Args:
        entries (Sequence[Entry]): the rows.
        settings (dict[str, str]): ``better``: ``higher`` or ``lower``; ``judge``: its name.

    Raises:
        ValueError: no ``better``, a score that is no number, or two scores of an image.
    """
    if 'better' not in settings:
        raise ValueError('columns: score_left and score_right need better=higher or better=lower')
    higher_better = check_choice('better', settings['better'], ('higher', 'lower')) == 'higher'
    judge, scores = settings.get('judge', 'table'), {}
    for entry in entries:
        for side in ('left', 'right'):
            image, score = entry.fields[side], number_in(entry, f'score_{side}')
            if scores.setdefault(image, score) != score:
                raise ValueError(f'{entry.where}: {judge} of {image} is {score}, but {scores[image]} in a line above')
    return JudgeScores(judge, higher_better, scores)
