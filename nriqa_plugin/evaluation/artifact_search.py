"""``nriqa artifacts``: score two folders, look at every image, write the table and the crops."""

from dataclasses import dataclass, field
from pathlib import Path

from nriqa_plugin.checks import check_number, in_place
from nriqa_plugin.evaluation.artifact_alarm import AlarmRule, Change
from nriqa_plugin.evaluation.artifact_crops import (
    file_name,
    pictures,
    worst_crop,
    write_page,
    write_strip,
    write_table,
)
from nriqa_plugin.evaluation.artifacts import ImageRule, examine, find_items, mean_reasons
from nriqa_plugin.evaluation.flat_areas import check_window_judges
from nriqa_plugin.evaluation.images import few
from nriqa_plugin.evaluation.relative_gain import check_comparable
from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.evaluation.scoring import score_files


@dataclass(frozen=True)
class Settings:
    """What holds for all runs.

    Attributes:
        rule (ImageRule), means (AlarmRule): thresholds for one image and for the means.
        flat (FlatRegions | None): look at flat areas only.
        crop, count (int): side of the crops in px, and of how many images there are some.
        device (str): for the judges.
    """

    rule: ImageRule = field(default_factory=ImageRule)
    means: AlarmRule = field(default_factory=AlarmRule)
    flat: object = None
    crop: int = 96
    count: int = 12
    device: str = 'auto'

    def __post_init__(self):
        check_number('crop', self.crop, low=8, integer=True)
        check_number('count', self.count, low=0, integer=True)


@dataclass(frozen=True)
class Outcome:
    """What was found about one folder of results.

    Attributes:
        name (str): how the run is called.
        findings (tuple[Finding, ...]): one an image.
        means (tuple[str, ...]): why the means are suspicious.
        judges (tuple[Change, ...]), reference (Change | None): as compared.
        notes (tuple[str, ...]): what was not looked at, and why.
        page (Path): the HTML file.
    """

    name: str
    findings: tuple
    means: tuple
    judges: tuple
    reference: object
    notes: tuple
    page: Path

    @property
    def flagged(self):
        """The findings of the flagged images, worst first."""
        return sorted((f for f in self.findings if f.reasons), key=lambda f: f.severity, reverse=True)


def search_folders(results, baseline, out, judges=(), reference_judge=None, references=None, settings=None, suffix='',
                   baseline_suffix='', optimised=(), name=None):  # fmt: skip
    """Compare a folder of results with that of the baseline.

    Writes into ``out``: ``artifacts.csv`` (one row an image), ``crops/`` (one PNG for each of the worst flagged
    images: result, baseline, ground truth, amplified difference), ``artifacts.html`` (the same on one page) and
    ``scores/`` (scores files, so that an interrupted search goes on).

    Args:
        results, baseline, references (str | Path | None): folders of images.
        out (str | Path): folder to write into.
        judges (Sequence[Scorer]): judges that may have been pleased.
        reference_judge (Scorer | None): LPIPS, or another judge that is closer to the truth. Without it, or without
            judges, only patterns are looked for.
        settings (Settings | None): thresholds and sizes.
        suffix, baseline_suffix (str): endings of the images' names.
        optimised (Sequence[str]): names of the judges in the loss.
        name (str | None): how the results are called; by default the folder's name.

    Returns:
        Outcome

    Raises:
        ValueError, FileNotFoundError: names that do not pair, images of another size than their baseline, judges that
            cannot score them, no flat window in any image.
    """
    settings, out = settings or Settings(), Path(out)
    items = find_items(results, baseline, references, suffix, baseline_suffix)
    used = [*judges, *([reference_judge] if reference_judge else [])]
    if settings.flat:
        check_window_judges(settings.flat.size, used)
    if any(judge.needs_reference for judge in used) and references is None:
        names = ', '.join(judge.name for judge in used if judge.needs_reference)
        raise ValueError(f'{names} needs the ground truths')
    files = {}
    for role in ('result', 'baseline') if used else ():
        of_role = {image: (getattr(item, role), [item.reference] if item.reference else [])
                   for image, item in items.items()}  # fmt: skip
        file = out / 'scores' / f'{role}.csv'
        files[role] = score_files(of_role, used, file, settings.device, regions=settings.flat)
    changes = {judge.name: _change(_stored(judge.name, settings), files['baseline'], files['result']) for judge in used}
    reference = changes[reference_judge.name] if reference_judge else None
    of_judges = [changes[judge.name] for judge in judges]
    return conclude(name or Path(results).name, items, of_judges, reference, out, settings, optimised, reference_judge)


def search_runs(index, out, judges=(), reference=None, settings=None, build=None):
    """Compare every run of a run index with the baseline of its network and data set, as :func:`search_folders`.

    Scores that the index names are used; when they lack a judge, the judges are built and score the images, and so they
    do in flat areas, since a scores file does not tell which windows it is of.

    Args:
        index (RunIndex): from :func:`nriqa_plugin.evaluation.run_index.read_runs`.
        out (str | Path): folder; each run has a folder of its own in it.
        judges (Sequence[str]), reference (str | None): judges as text, ``NAME`` or ``NAME:key=value``.
        settings (Settings | None): thresholds and sizes.
        build (Callable): from such a text to a judge.

    Returns:
        tuple[list[Outcome], list[str]]: of the runs with images; and notes on those left out.

    Raises:
        ValueError: no baseline, or none with images; scores that lack images or that two judges made; with the run.
    """
    settings, notes, outcomes, built, folders = settings or Settings(), [], [], {}, set()
    if index.baseline is None:
        raise ValueError('the run index names no baseline')
    for run in index.runs:
        base = index.baseline_of(run)
        if run is base:
            continue
        where = f'{run.name} ({run.network}, {run.dataset})'
        if run.images is None or base.images is None:
            notes.append(f'{where} was left out: {"it" if run.images is None else "its baseline"} has no images')
            continue
        folder = file_name(f'{run.network}_{run.dataset}_{run.name}')
        while folder in folders:  # other names, the same letters
            folder += '_'
        folders.add(folder)
        texts = [*judges, *([reference] if reference else [])]
        with in_place(where):
            stored = None if settings.flat else _stored_scores(run, base, texts)
            if stored is None:
                for text in texts:
                    built[text] = built.get(text) or build(text)
                outcome = search_folders(run.images, base.images, Path(out) / folder, [built[text] for text in judges],
                                         built.get(reference), run.references, settings, run.suffix, base.suffix,
                                         run.optimised, where)  # fmt: skip
            else:
                items = find_items(run.images, base.images, run.references, run.suffix, base.suffix)
                outcome = conclude(where, items, [stored[text] for text in judges], stored.get(reference),
                                   Path(out) / folder, settings, run.optimised)  # fmt: skip
        outcomes.append(outcome)
    if not outcomes:
        raise ValueError(f'no run can be compared with the baseline: {"; ".join(notes) or "there is no other run"}')
    return outcomes, notes


def conclude(name, items, judges, reference, out, settings, optimised=(), reference_judge=None):
    """Look at every image, write table and crops; see :func:`search_folders`."""
    findings = list(examine(items, judges, reference, settings.rule, settings.flat))
    notes = []
    flatless = [finding.image for finding in findings if finding.flat == 0]
    if flatless:
        notes.append(f'{few(flatless)} of {len(findings)} images have no flat window and were not looked at')
    if not (judges and reference):
        notes.append('only patterns were looked for: the rule on LPIPS wants a judge, LPIPS and the ground truths')
    means = ()
    if judges and reference:
        means = tuple(mean_reasons(judges, reference, settings.means, _is_optimised(reference.name, optimised)))
    page = Path(out) / 'artifacts.html'
    outcome = Outcome(name, tuple(findings), means, tuple(judges), reference, tuple(notes), page)
    crops, shown = {}, {}
    for place, finding in enumerate(outcome.flagged, 1):
        image = finding.image
        if place <= settings.count:
            crops[image] = worst_crop(finding, items[image], settings.crop, reference_judge, settings.flat)
            shown[image] = pictures(crops[image], items[image])
    folder = Path(out) / 'crops'
    for old in folder.glob('*.png'):
        old.unlink()
    for place, (image, parts) in enumerate(shown.items(), 1):
        write_strip(folder / f'{place:03d}_{file_name(Path(image).stem)}.png', parts)
    write_table(Path(out) / 'artifacts.csv', findings, crops)
    write_page(page, f'Artifacts: {name}', findings, shown, [*means, *notes])
    return outcome


def _stored_scores(run, base, texts):
    """Changes by name from the scores files of two runs, or None when they lack a judge."""
    if not (run.scores and base.scores):
        return None
    before, after = read_scores(base.scores), read_scores(run.scores)
    if not set(texts) <= set(before.metrics) & set(after.metrics):
        return None
    return {text: _change(text, before, after) for text in texts}


def _change(metric, before, after):
    """How one metric changed between two scores files."""
    check_comparable(before, after, metric)
    old, new = before.of(metric), after.of(metric)
    return Change(metric, new[0].higher_better, *({row.image: row.score for row in rows} for rows in (old, new)))


def _stored(name, settings):
    """The metric's name in a scores file."""
    return f'{name}@{settings.flat.label}' if settings.flat else name


def _is_optimised(metric, optimised):
    return metric.partition('@')[0] in optimised
