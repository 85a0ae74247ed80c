"""From test images to the comparison: scores, statistics, figures and one page that shows them."""

import math
from pathlib import Path

from PIL import Image

from nriqa_plugin.checks import atomic_path, in_place, unknown_name
from nriqa_plugin.compare.family import TERMS
from nriqa_plugin.compare.index import write_index
from nriqa_plugin.compare.page import write_page
from nriqa_plugin.compare.runs import FAILED, FINISHED, SCORES, Outcome
from nriqa_plugin.compare.search import judge_of
from nriqa_plugin.evaluation.comparison import compare_methods, markdown_table
from nriqa_plugin.evaluation.csv_file import write_csv, write_rows
from nriqa_plugin.evaluation.figures import plane_figure, save_figure, violin_figure
from nriqa_plugin.evaluation.images import list_images, pair_images
from nriqa_plugin.evaluation.scoring import score_folder

TABLE, PAGE = 'table', 'report.html'


class Unscorable(Exception):
    """A judge has no finite score for an image."""


def judges_of(family):
    """The judges of a family, built and checked; a wrong one should be known before hours of training.

    Raises:
        ValueError, TypeError: unknown judges or options, two of one name, or an unknown metric in ``plane``; naming
            file and key.
    """
    found = {}
    with in_place(family.file):
        for i, option in enumerate(family.judges):
            with in_place(f'judges[{i}]'):
                judge = judge_of(option)
                if judge.name in found:
                    raise ValueError(f'a second judge called {judge.name!r}')
                found[judge.name] = judge
        for metric in family.plane or ():
            if metric not in found:
                raise unknown_name('metric in plane:', metric, found)
        for name, search in family.search.items():
            with in_place(f'search.{name}.select_by'):
                if name in family.losses and search.select_by != TERMS:
                    judge_of(search.select_by)
    return [*found.values()]


def write_comparison(family, outcomes, out, seed=0):
    """Score the test images of every finished training, and write tables, figures and ``report.html`` into ``out``.

    Args:
        family (Family): says the judges, the plane and the loss to test against.
        outcomes (Sequence[Outcome]): what :func:`~nriqa_plugin.compare.runs.run_family` returned.
        out (str | Path): the result folder. ``scores.csv`` gets one line for each data set, loss, metric and image,
            ``table.csv`` and ``table.md`` one for each data set, metric and loss; ``nriqa report`` reads ``runs.json``.
        seed (int): of the bootstrap.

    Returns:
        tuple[list[Row], list[Outcome]]: the table, empty when no training has finished; and the outcomes, in which a
        training for whose images a judge has no finite score has failed.

    Raises:
        ValueError: images that do not pair with their ground truths, or judges as in :func:`judges_of`.
    """
    out, judges, tested, checked = Path(out).resolve(), judges_of(family), {}, []
    for outcome in outcomes:
        try:
            if outcome.status == FINISHED:
                tested[outcome.name] = _tested(judges, outcome, out / outcome.name)
        except Unscorable as error:
            outcome = Outcome(outcome.name, FAILED, str(error))
        checked.append(outcome)
    outcomes, unfinished = checked, {one.name: one.status for one in checked if one.status != FINISHED}
    scores = {
        name: {dataset: _by_metric(found) for dataset, (*_, found) in sets.items()} for name, sets in tested.items()
    }
    against = family.against if family.against in scores else None
    write_index(family, judges, tested, out, against)
    rows, figures = [], []
    for dataset in next(iter(scores.values()), {}):
        panels = []
        for judge in judges:
            samples = {name: found[dataset][judge.name] for name, found in scores.items()}
            part = compare_methods(dataset, judge.name, judge.higher_better, samples, against, seed)
            rows += part
            panels.append((part, {name: list(values.values()) for name, values in samples.items()}))
        figures += _figures(family, out, dataset, panels, against, unfinished)
    if rows:
        _write_tables(out, scores, rows)
    write_page(out / PAGE, family, rows, figures, outcomes, against)
    return rows, outcomes


def _figures(family, out, dataset, panels, against, missing):
    """Paths of the figures of one data set, without ending."""
    title = f'{family.file.stem} on {dataset}'
    written = [out / f'violins_{dataset}']
    save_figure(violin_figure(title, panels, against, missing), written[0])
    by_metric = {part[0].metric: part for part, _ in panels}
    plane = family.plane or [*by_metric][:2]
    if len(plane) == 2:
        written.append(out / f'plane_{dataset}')
        save_figure(plane_figure(title, *(by_metric[metric] for metric in plane), against), written[1])
    return written


def _tested(judges, outcome, folder):
    """``{data set: (folder of results, of ground truths, ending, rows of scores)}`` of a finished training."""
    scores = score_outcome(judges, outcome, folder / SCORES)
    found = {}
    for dataset, (images, references, suffix) in outcome.results.items():
        references = tested_references(images, references, suffix, folder / 'references' / dataset)
        rows = [row for rows in scores[dataset].values() for row in rows]
        found[dataset] = (Path(images), Path(references), suffix, rows)
    return found


def _by_metric(rows):
    """``{metric: {image: score}}``."""
    found = {}
    for row in rows:
        found.setdefault(row.metric, {})[Path(row.image).stem] = row.score
    return found


def score_outcome(judges, outcome, folder):
    """``{data set: {metric: rows of scores}}`` of a finished training; scores that are there are not made again.

    Args:
        judges (Sequence[Scorer]): what :func:`judges_of` returned.
        outcome (Outcome): says where the test images and their ground truths lie.
        folder (Path): for the scores files, one for each data set and judge.

    Raises:
        Unscorable: naming judge and image.
    """
    found = {}
    for dataset, (images, references, suffix) in outcome.results.items():
        references = tested_references(images, references, suffix, folder.parent / 'references' / dataset)
        found[dataset] = {}
        for judge in judges:
            file = folder / f'{dataset}_{judge.name}_{judge.weights_hash()[:6]}.csv'
            reference = references if judge.needs_reference else None
            try:
                rows = score_folder(images, [judge], file, reference, suffix=suffix).of(judge.name)
            except ValueError as error:
                if 'cannot score' not in str(error):
                    raise
                raise Unscorable(str(error)) from error
            for row in rows:
                if not math.isfinite(row.score):
                    raise Unscorable(f'the {judge.name} of {row.image} on {dataset} is {row.score}')
            found[dataset][judge.name] = rows
    return found


def tested_references(images, references, suffix, folder):
    """The folder of ground truths; when it has more than the tested ones (a list of names), links to those.

    Raises:
        ValueError: a grey result of a colour picture, which no judge could score fairly.
    """
    stems = {path.stem.removesuffix(suffix) for path in list_images(images)}
    wanted = [path for path in list_images(references) if path.stem in stems]
    if len(wanted) < len(list_images(references)) and len(wanted) == len(stems):
        folder.mkdir(parents=True, exist_ok=True)
        for path in wanted:
            link = folder / path.name
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
        references = folder
    for image, truth in pair_images(images, references, suffix)[:1]:
        with Image.open(image) as one, Image.open(truth) as other:
            if one.mode == 'L' and other.mode != 'L':
                raise ValueError(
                    f'{image} is grey but its ground truth {truth} has colours: test on grey ground truths'
                )
    return references


def _write_tables(out, scores, rows):
    lines = [
        [dataset, name, metric, image, value]
        for name, found in scores.items()
        for dataset, metrics in found.items()
        for metric, values in metrics.items()
        for image, value in values.items()
    ]
    write_csv(out / f'{SCORES}.csv', [['dataset', 'loss', 'metric', 'image', 'score'], *lines])
    write_rows(out / f'{TABLE}.csv', rows)
    with atomic_path(out / f'{TABLE}.md') as temporary:
        temporary.write_text(markdown_table(rows), encoding='utf-8')
