"""From test images to the comparison: scores, statistics, figures and one page that shows them."""

import csv
from dataclasses import astuple, fields
from pathlib import Path

from PIL import Image

from nriqa_plugin.checks import atomic_path, unknown_name
from nriqa_plugin.compare.page import write_page
from nriqa_plugin.compare.runs import FINISHED
from nriqa_plugin.compare.search import judge_of
from nriqa_plugin.evaluation.comparison import Row, compare_methods, markdown_table
from nriqa_plugin.evaluation.figures import plane_figure, save_figure, violin_figure
from nriqa_plugin.evaluation.images import list_images, pair_images
from nriqa_plugin.evaluation.scoring import score_folder

SCORES, TABLE, PAGE = 'scores.csv', 'table', 'report.html'


def write_comparison(family, outcomes, out, seed=0):
    """Score the test images of every finished training, and write tables, figures and ``report.html`` into ``out``.

    Args:
        family (Family): says the judges, the plane and the loss to test against.
        outcomes (Sequence[Outcome]): what :func:`~nriqa_plugin.compare.runs.run_family` returned.
        out (str | Path): the result folder. ``scores.csv`` gets one line for each data set, loss, metric and image,
            ``table.csv`` and ``table.md`` one for each data set, metric and loss.
        seed (int): of the bootstrap.

    Returns:
        list[Row]: the table; empty when no training has finished.

    Raises:
        ValueError: images that do not pair with their ground truths, or a score that is not finite.
    """
    out = Path(out).resolve()
    finished = {outcome.name: outcome for outcome in outcomes if outcome.status == FINISHED}
    unfinished = {outcome.name: outcome.status for outcome in outcomes if outcome.status != FINISHED}
    judges = [judge_of(option) for option in family.judges]
    scores = {name: _score(judges, outcome, out / name / 'scores') for name, outcome in finished.items()}
    against = family.against if family.against in finished else None
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
    write_page(out / PAGE, family, rows, figures, outcomes)
    return rows


def _figures(family, out, dataset, panels, against, missing):
    """Paths of the figures of one data set, without ending."""
    title = f'{family.file.stem} on {dataset}'
    written = [out / f'violins_{dataset}']
    save_figure(violin_figure(title, panels, against, missing), written[0])
    by_metric = {part[0].metric: part for part, _ in panels}
    plane = family.plane or [*by_metric][:2]
    for metric in plane:
        if metric not in by_metric:
            raise unknown_name(f'metric in plane of {family.file}:', metric, by_metric)
    if len(plane) == 2:
        written.append(out / f'plane_{dataset}')
        save_figure(plane_figure(title, *(by_metric[metric] for metric in plane), against), written[1])
    return written


def _score(judges, outcome, folder):
    """``{data set: {metric: {image: score}}}``; scores that are there are not made again."""
    found = {}
    for dataset, (images, references, suffix) in outcome.results.items():
        references = _references(images, references, suffix, folder.parent / 'references' / dataset)
        found[dataset] = {}
        for judge in judges:
            file = folder / f'{dataset}_{judge.name}_{judge.weights_hash()[:6]}.csv'
            reference = references if judge.needs_reference else None
            rows = score_folder(images, [judge], file, reference, suffix=suffix).of(judge.name)
            found[dataset][judge.name] = {Path(row.image).stem: row.score for row in rows}
    return found


def _references(images, references, suffix, folder):
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
    with atomic_path(out / SCORES) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['dataset', 'loss', 'metric', 'image', 'score'])
        for name, found in scores.items():
            for dataset, metrics in found.items():
                for metric, values in metrics.items():
                    writer.writerows([dataset, name, metric, image, value] for image, value in values.items())
    with atomic_path(out / f'{TABLE}.csv') as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(field.name for field in fields(Row))
        writer.writerows(map(astuple, rows))
    with atomic_path(out / f'{TABLE}.md') as temporary:
        temporary.write_text(markdown_table(rows), encoding='utf-8')
