"""From finished runs to the matrix: scores, ``runs.json``, tables and the heat map."""

from dataclasses import replace
from pathlib import Path

from nriqa_plugin.checks import in_place
from nriqa_plugin.compare.judging import Unscorable, judges_of, score_outcome, tested_references
from nriqa_plugin.compare.optimised import optimised
from nriqa_plugin.compare.runs import FAILED, FINISHED, SCORES, Outcome
from nriqa_plugin.evaluation.csv_file import write_csv
from nriqa_plugin.evaluation.figures import save_figure
from nriqa_plugin.evaluation.gain_matrix import ERROR, gain_matrix
from nriqa_plugin.evaluation.gain_tables import write_long, write_markdown, write_wide
from nriqa_plugin.evaluation.heat_map import heat_map
from nriqa_plugin.evaluation.run_index import Run, RunIndex, write_runs
from nriqa_plugin.evaluation.scores import write_scores

NAME = 'matrix'  # of the files
NOTE = ('One training for each loss and network: the numbers hold no spread over seeds. A judge that a loss optimises '
        'is no independent evidence in its row.')  # fmt: skip


def write_experiments(experiments, results, out):
    """Score the test images of every finished run, and write ``runs.json``, tables and heat map into ``out``.

    A network whose baseline is missing on a data set is left out there for every loss, which a note says, so that all
    rows are means over the same.

    Args:
        experiments (Experiments): says judges, baseline and how the gains are made.
        results (Sequence[Result]): what :func:`~nriqa_plugin.matrix.running.run_experiments` returned.
        out (str | Path): the result folder.

    Returns:
        tuple[GainMatrix | None, list[Result]]: None when no baseline was scored; and the results, in which a run for
        whose images a judge has no finite score has failed.

    Raises:
        ValueError: images that do not pair with their ground truths, judges as in
            :func:`~nriqa_plugin.compare.judging.judges_of`, or gains as in
            :func:`~nriqa_plugin.evaluation.gain_matrix.gain_matrix`.
    """
    out, judges = Path(out).resolve(), judges_of(experiments.groups[0].family)
    losses = experiments.groups[0].family.losses
    options = list(zip(experiments.groups[0].family.judges, judges, strict=True))
    found, checked = [], []
    for result in results:
        own = ()
        if result.loss in losses:
            own = optimised(losses[result.loss], options, experiments.optimises.get(result.loss, ()))
        try:
            if result.outcome.status == FINISHED:
                found += _runs(result, judges, own)
        except Unscorable as error:
            result = replace(result, outcome=Outcome(result.outcome.name, FAILED, str(error)))
        checked.append(result)
    based = {run.place for run in found if run.loss == experiments.baseline}
    lost = list(dict.fromkeys(run.place for run in found if run.place not in based))
    lost += [(group.name, 'all data sets') for group in experiments.groups
             if group.name not in {run.network for run in found}]  # fmt: skip
    kept = [run for run in found if run.place in based]
    if not kept:
        return None, checked
    index = RunIndex(tuple(kept), experiments.baseline)
    write_runs(out, index)
    notes = [f'{network} on {dataset} is left out in every row: its baseline {experiments.baseline} is missing.'
             for network, dataset in lost]  # fmt: skip
    matrix = write_matrix(
        index, out, f'Relative gains: {experiments.file.stem}', [judge.name for judge in judges],
        experiments.per_image, experiments.undefined, experiments.losses, [*notes, NOTE],
    )  # fmt: skip
    return matrix, checked


def write_matrix(index, out, title='Relative gains', metrics=None, per_image=False, undefined=ERROR, losses=None,
                 notes=()):  # fmt: skip
    """Write ``matrix.csv``, ``matrix_long.csv``, ``matrix.md`` and ``matrix.png`` and ``.pdf`` into ``out``.

    Args:
        index (RunIndex): runs with scores and a baseline.
        out (str | Path): the result folder.
        title (str): of the heat map.
        metrics, per_image, undefined, losses: as in :func:`~nriqa_plugin.evaluation.gain_matrix.gain_matrix`.
        notes (Sequence[str]): sentences below table and figure.

    Returns:
        GainMatrix
    """
    out = Path(out)
    matrix = gain_matrix(index, metrics, per_image, undefined, losses)
    write_wide(out / f'{NAME}.csv', matrix)
    write_long(out / f'{NAME}_long.csv', matrix)
    write_markdown(out / f'{NAME}.md', matrix, notes)
    save_figure(heat_map(title, matrix, notes), out / NAME)
    return matrix


def _runs(result, judges, own):
    """The :class:`Run` of every data set; scores and the curve of the validations lie in the run's folder."""
    found, curve = [], None
    with in_place(f'{result.loss} of {result.group}'):
        scores = score_outcome(judges, result.outcome, result.folder / SCORES)
    if result.curve:
        curve = result.folder / 'curve.csv'
        write_csv(curve, [('iteration', 'metric', 'value'), *result.curve])
    for dataset, (images, references, suffix) in result.outcome.results.items():
        file = result.folder / f'{SCORES}_{dataset}.csv'
        write_scores(file, [row for rows in scores[dataset].values() for row in rows])
        tested = tested_references(images, references, suffix, result.folder / 'references' / dataset)
        found.append(
            Run(
                name=result.loss, network=result.group, loss=result.loss, dataset=dataset, scores=file,
                images=Path(images), references=Path(tested), lq=result.inputs.get(dataset), suffix=suffix,
                curve=curve, optimised=own,
            )
        )  # fmt: skip
    return found
