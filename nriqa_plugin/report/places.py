"""What a report knows of the runs of one network on one data set: scores, pictures and curves."""

from dataclasses import dataclass, field

from nriqa_plugin.evaluation.comparison import compare_methods
from nriqa_plugin.evaluation.curves import read_curve
from nriqa_plugin.evaluation.images import few
from nriqa_plugin.evaluation.relative_gain import ANOTHER, check_same_images
from nriqa_plugin.evaluation.scores import clip_mean, clip_of, read_scores
from nriqa_plugin.report.pictures import check_sizes, find_pictures, image_key, missing_note

REFERENCE, INPUT = 'Ground truth', 'Input'


@dataclass(frozen=True)
class Judge:
    """A column: ``metric`` by name, its direction, ``n`` images behind a mean, which weights it has, and whether it
    was given a ground truth."""

    metric: str
    higher_better: bool
    n: int
    judge_hash: str
    reference: bool


@dataclass
class Place:
    """The runs of one network on one data set.

    Attributes:
        network, dataset (str): the place.
        methods (list[str]): names of the runs, in the order of the tables.
        losses (dict[str, str]): loss by method.
        baseline (str | None): the method that the others are compared with.
        judges (dict[str, Judge]): by metric; in the order of the first run's file, which is sorted.
        samples (dict[str, dict[str, dict[str, float]]]): score by metric, method and image; frames of a clip averaged.
        rows (dict[str, list[Row]]): statistics by metric, one row for each method that has it.
        pictures (dict[str, dict[str, Path]]): file by method and image; ``references`` and ``lq`` likewise by image.
        curves (dict[str, dict[str, list]]): ``(iteration, value)`` by method and metric.
        notes (list[str]): what a reader must know, as plain sentences.
    """

    network: str
    dataset: str
    methods: list
    losses: dict
    baseline: str | None
    judges: dict = field(default_factory=dict)
    samples: dict = field(default_factory=dict)
    rows: dict = field(default_factory=dict)
    pictures: dict = field(default_factory=dict)
    references: dict = field(default_factory=dict)
    lq: dict = field(default_factory=dict)
    curves: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)

    @property
    def label(self):
        """How headings call the place."""
        return f'{self.network} on {self.dataset}'

    @property
    def images(self):
        """All images by name, whether scored or only shown, sorted."""
        scored = {image for methods in self.samples.values() for scores in methods.values() for image in scores}
        return sorted(scored | self.shown)

    @property
    def shown(self):
        """The images that some method has a picture of."""
        return {key for files in self.pictures.values() for key in files}


def load_place(index, network, dataset):
    """Read everything of one place.

    Args:
        index (RunIndex): see :func:`~nriqa_plugin.report.sources.index_of`.
        network, dataset (str): one of its places.

    Returns:
        Place

    Raises:
        FileNotFoundError: a folder that the index names is missing.
        ValueError: damaged or duplicate scores, a judge with other weights, direction or images in two runs, a ground
            truth that differs between two runs, pictures of one image that differ in size, or a run that is called as
            the viewer calls ground truths or inputs.
    """
    runs = index.at(network, dataset)
    base = index.baseline_of(runs[0])
    place = Place(network, dataset, [run.name for run in runs], {run.name: run.loss for run in runs},
                  base and base.name)  # fmt: skip
    _read_scores(place, runs)
    _find_pictures(place, runs)
    for run in runs:
        if run.curve is not None:
            place.curves[run.name] = read_curve(run.curve)
    return place


def compare_place(place, seed=0):
    """Fill in the statistics of every judge; the tests are against the baseline if it has that judge's scores."""
    for metric, samples in place.samples.items():
        against = place.baseline if place.baseline in samples else None
        higher = place.judges[metric].higher_better
        place.rows[metric] = compare_methods(place.label, metric, higher, samples, against, seed)


def _read_scores(place, runs):
    references = {}
    for run in runs:
        if run.scores is None:
            place.notes.append(f'{run.name}: no scores.')
            continue
        scores = read_scores(run.scores)
        for metric in scores.metrics:
            rows = scores.of(metric)
            clips = {}
            for row in rows:
                clips.setdefault(clip_of(row.image), []).append((row.image, row.score))
                key = (metric, row.image)
                there = references.setdefault(key, (row.reference_hash, run.name))
                if '' not in (there[0], row.reference_hash) and there[0] != row.reference_hash:
                    raise ValueError(f'{metric} of {row.image} was scored against two references by {there[1]} and '
                                     f'{run.name}')  # fmt: skip
            own = {image_key(clip): clip_mean(values) for clip, values in clips.items()}
            if len(own) < len(clips):
                raise ValueError(f'{run.scores}: two images of {metric} differ in their ending only')
            judge = Judge(metric, rows[0].higher_better, len(own), rows[0].judge_hash, bool(rows[0].reference_hash))
            _same_judge(place, run, judge)
            others = place.samples.setdefault(metric, {})
            for name, other in list(others.items())[:1]:
                _same_images(metric, name, other, run.name, own)
            others[run.name] = own
            if len(clips) < len(rows) and metric == scores.metrics[0]:
                place.notes.append(f'{run.name}: {len(rows)} frames, averaged over each of {len(clips)} clips first.')
    for metric, samples in place.samples.items():
        lacking = [run.name for run in runs if run.scores and run.name not in samples]
        if lacking:
            place.notes.append(f'{metric}: not scored for {", ".join(lacking)}.')


def _same_judge(place, run, judge):
    there = place.judges.setdefault(judge.metric, judge)
    if (there.judge_hash, there.higher_better) != (judge.judge_hash, judge.higher_better):
        raise ValueError(f'{place.label}: {judge.metric} was scored by two judges: {judge.judge_hash} for {run.name}, '
                         f'{there.judge_hash} for others')  # fmt: skip


def _same_images(metric, first, before, name, after):
    try:
        check_same_images(metric, before, after)
    except ValueError as error:
        text = str(error).removeprefix(f'{ANOTHER}: ')
        raise ValueError(f'{name} was scored on other images than {first} (here called baseline and test are {first} '
                         f'and {name}): {text}') from None  # fmt: skip


def _find_pictures(place, runs):
    scored = {image for samples in place.samples.values() for scores in samples.values() for image in scores}
    known = set(scored)
    for run in runs:  # their pictures would take each other's place
        if run.name in (REFERENCE, INPUT):
            raise ValueError(f'a run cannot be called {run.name!r}: so the viewer calls the ground truths or inputs')
    for name in ('references', 'lq'):  # an input's name may have more at its end, such as x4
        folder = next((getattr(run, name) for run in runs if getattr(run, name) is not None), None)
        if folder is not None:
            setattr(place, name, find_pictures(folder, known))
            known |= place.references.keys()
    for run in runs:
        if run.images is not None:
            place.pictures[run.name] = find_pictures(run.images, known, run.suffix, run.name)
    check_sizes(
        {**place.pictures, REFERENCE: {key: place.references[key] for key in place.shown & place.references.keys()}}
    )
    place.notes += missing_note(place.pictures, sorted(place.shown))
    without = [run.name for run in runs if not place.pictures.get(run.name)]
    if place.shown and without:
        place.notes.append(f'No pictures of {", ".join(without)}.')
    clips = {key.rpartition('/')[0] for key in place.shown}  # scores know a clip by its folder
    for what, names, files in (
        ('picture', scored, place.shown | clips),
        ('ground truth', place.shown, place.references),
        ('input', place.shown, place.lq),
    ):
        if files and (lacking := sorted(names - set(files))):
            place.notes.append(f'No {what} of {few(lacking)} of {len(names)} images.')
