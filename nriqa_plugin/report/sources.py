"""From what stands on the command line to a run index: result folders of either host, scores files, folders of images.

A run's folder is looked through for a scores file, for images and for a record of its validation; the names that
BasicSR and mmagic give these are known.
"""

from dataclasses import replace
from pathlib import Path

from nriqa_plugin.checks import unknown_name
from nriqa_plugin.evaluation import run_index
from nriqa_plugin.evaluation.curves import find_curve
from nriqa_plugin.evaluation.images import EXTENSIONS, few
from nriqa_plugin.evaluation.run_index import Run, RunIndex, read_runs
from nriqa_plugin.evaluation.scores import COLUMNS

NETWORK, DATASET = 'one network', 'one data set'  # of runs that say neither


def index_of(texts, baseline=None, references=None, lq=None, images=None, suffix=''):
    """The runs of a report.

    Args:
        texts (Sequence[str]): one result folder with ``runs.json``; or runs, each ``NAME=PATH`` or ``PATH`` (a folder
            of results, of an experiment, or a scores file).
        baseline (str | None): the run that the others are compared with; default: that of the result folder, else
            the first run.
        references, lq (str | Path | None): folders of ground truths and inputs for all runs.
        images (dict[str, str | Path] | None): folder of results by name of the run, where it is elsewhere.
        suffix (str): what the results' names have more than those of the ground truths; default: what ``runs.json``
            says.

    Returns:
        RunIndex

    Raises:
        FileNotFoundError, ValueError: a path that is not there or holds nothing to report, two runs of one name, or
            unknown names; the message names the run.
    """
    found = None
    for text in texts:
        path = Path(_split(text)[1]).expanduser()
        if path.name == run_index.NAME or (path / run_index.NAME).is_file():
            if len(texts) > 1:
                raise ValueError(f'{path} holds a whole result folder ({run_index.NAME}); report it alone')
            found = read_runs(path)
    if found is None:
        found = _listed(texts, baseline, suffix)
    else:
        runs = tuple(replace(run, suffix=suffix or run.suffix) for run in found.runs)
        found = RunIndex(runs, found.baseline if baseline is None else baseline)
    names = {run.name for run in found.runs}
    for name in images or {}:
        if name not in names:
            raise unknown_name('run in --images:', name, names)
    common = {key: _folder(f'--{key}', folder) for key, folder in (('references', references), ('lq', lq)) if folder}
    runs = []
    for run in found.runs:
        own = {'images': _folder(f'--images {run.name}', images[run.name])} if run.name in (images or {}) else {}
        runs.append(replace(run, **common, **own))
    return RunIndex(tuple(runs), found.baseline)


def _listed(texts, baseline, suffix):
    runs = []
    for text in texts:
        name, path = _split(text)
        run = _run(name, Path(path).expanduser(), suffix)
        if any(run.name == other.name for other in runs):
            raise ValueError(f'two runs are called {run.name!r}; name them: NAME=PATH')
        runs.append(run)
    if baseline is None and any(run.scores for run in runs):
        baseline = runs[0].name
    return RunIndex(tuple(runs), baseline)


def _split(text):
    """``(name or '', path)``; a path that exists as it stands wins over NAME=PATH."""
    name, equals, path = text.partition('=')
    if equals and not _exists(text):
        if not name or not path:
            raise ValueError(f'a run must be NAME=PATH, got {text!r}')
        return name, path
    return '', text


def _exists(text):
    try:
        return Path(text).expanduser().exists()
    except OSError:  # too long to be the name of a file
        return False


def _run(name, path, suffix):
    if not path.exists():
        raise FileNotFoundError(f'no such run: {path}')
    name = name or path.resolve().stem if path.is_file() else name or path.resolve().name
    if path.is_file():
        return Run(name, NETWORK, name, DATASET, scores=path, suffix=suffix)
    scores, images, curve = _scores_file(name, path), _images(name, path), find_curve(path)
    if scores is None and images is None and curve is None:
        raise ValueError(f'{name}: {path} holds no scores file, no images and no record of a training')
    return Run(name, NETWORK, name, DATASET, scores=scores, images=images, suffix=suffix, curve=curve)


def _scores_file(name, folder):
    """The only scores file in a folder; ``scores.csv`` if there are several."""
    found = [path for path in sorted(folder.glob('*.csv')) if _is_scores_file(path)]
    named = [path for path in found if path.name == 'scores.csv']
    if len(found) > 1 and not named:
        raise ValueError(f'{name}: {folder} holds several scores files: {few([path.name for path in found])}; '
                         'name the one to report, and its images with --images')  # fmt: skip
    return next(iter(named or found), None)


def _is_scores_file(path):
    with open(path, encoding='utf-8', errors='replace') as file:
        return sorted(file.readline().strip().lstrip('\ufeff').split(',')) == sorted(COLUMNS)


def _images(name, folder):
    """Where the results lie: in the folder, in mmagic's ``vis_image`` or in BasicSR's ``visualization``."""
    if _holds_images(folder):
        return folder
    for path in (folder / 'vis_data' / 'vis_image', folder / 'vis_image'):
        if path.is_dir():
            return path
    stamps = sorted(folder.glob('*/vis_data/vis_image'))
    if stamps:
        return stamps[-1]  # named by their time
    shown = folder / 'visualization'
    if shown.is_dir():
        sets = [path for path in sorted(shown.iterdir()) if path.is_dir()]
        if any(_of_one_image(path) for path in sets):
            return shown
        if len(sets) > 1:
            raise ValueError(f'{name}: {shown} holds several data sets: {few([path.name for path in sets])}; '
                             'give the folder of one of them')  # fmt: skip
        return sets[0] if sets else shown
    clips = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != '.']
    return folder if any(_holds_images(path) for path in clips) else None


def _of_one_image(folder):
    """Whether a folder is BasicSR's of one validation image, ``baby/baby_5000.png``."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS]
    return bool(files) and all(_iteration(path, folder.name) is not None for path in files)


def _iteration(path, name):
    text = path.stem.removeprefix(f'{name}_')
    return int(text) if text != path.stem and text.isdigit() else None


def _holds_images(folder):
    return any(path.suffix.lower() in EXTENSIONS and path.name[0] != '.' for path in folder.iterdir())


def _folder(option, path):
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f'{option}: no such folder: {path}')
    return path.resolve()
