"""``runs.json`` of a comparison, from which ``nriqa report`` makes its page."""

from pathlib import Path

from nriqa_plugin.compare.optimised import optimised
from nriqa_plugin.evaluation.curves import find_curve
from nriqa_plugin.evaluation.run_index import Run, RunIndex, write_runs
from nriqa_plugin.evaluation.scores import write_scores


def write_index(family, judges, tested, out, against=None):
    """Write ``runs.json`` into ``out``, and one scores file for each training and data set beside its checkpoints.

    Args:
        family (Family): the option file is the network.
        judges (Sequence[Scorer]): in the family's order.
        tested (dict): by loss ``{data set: (folder of results, of ground truths, ending, rows of scores)}``; without
            any nothing is written.
        out (Path): the result folder, one folder in it for each loss.
        against (str | None): the baseline.
    """
    options, runs = list(zip(family.judges, judges, strict=True)), []
    for loss, sets in tested.items():
        folder = out / loss
        curve = find_curve(folder / 'experiments' / loss) or find_curve(folder / 'work_dir')
        for dataset, (images, references, suffix, rows) in sets.items():
            file = folder / f'scores_{dataset}.csv'
            write_scores(file, rows)
            lq = (family.test.get(dataset) or {}).get('lq')
            runs.append(
                Run(
                    name=loss, network=family.base.stem, loss=loss, dataset=dataset, scores=file, images=images,
                    references=references, lq=lq and Path(lq).expanduser(), suffix=suffix, curve=curve,
                    optimised=optimised(family.losses[loss], options),
                )
            )  # fmt: skip
    if runs:
        write_runs(out, RunIndex(tuple(runs), against))
