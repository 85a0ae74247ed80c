"""Runs of the stock ``python -m basicsr.train`` from Python: write the option file, follow the run, read its results.

A result folder holds ``NAME.yml``, BasicSR's ``experiments/NAME/`` and the validation images in ``results/NAME/``.
"""

import contextlib
import csv
import re
import subprocess
import sys

from nriqa_plugin.evaluation.images import list_images

BASICSR_STEP = re.compile(r'iter: *([\d,]+), lr')
# Linux kills the script when the process that started it dies, so that nothing goes on writing behind its back.
DIES_WITH_PARENT = 'import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.executable, sys.argv[1:])'


class StopTraining(Exception):
    """Raised by a progress callback to end a training; what it has written so far stays."""


def train(out, name, options, on_step):
    """Write the option file and run the stock training script on it; ``on_step(iteration)`` is told the progress.

    Raises:
        RuntimeError: the training failed; the message holds the end of its output.
    """
    import yaml  # comes with BasicSR

    file = out / f'{name}.yml'
    command = [sys.executable, '-m', 'basicsr.train', '-opt', str(file)]
    file.write_text(
        f'# python -m basicsr.train -opt {file.name}\n'
        'plugin: !!python/name:nriqa_plugin.basicsr.VERSION  # makes the stock script load the plugin\n'
        + yaml.safe_dump(options, sort_keys=False)
    )

    def watch(line):
        if found := BASICSR_STEP.search(line):
            on_step(int(found[1].replace(',', '')))

    with contextlib.suppress(StopTraining):
        follow(command, watch, cwd=out)


def follow(command, on_line, cwd=None, log=None, env=None):
    """Run a Python command and hand over each line of its output as it comes; it never outlives this process.

    Args:
        command (Sequence[str]): begins with ``sys.executable``.
        on_line (Callable[[str], None]): whatever it raises (also Ctrl-C) kills the command and is raised again.
        cwd, env: as in ``subprocess.Popen``.
        log (str | Path | None): file to which the output is appended.

    Raises:
        RuntimeError: the command failed; the message holds the end of its output.
    """
    lines = []
    guarded = [command[0], '-c', DIES_WITH_PARENT, *command] if sys.platform == 'linux' else command
    with (
        open(log, 'a', encoding='utf-8') if log else contextlib.nullcontext() as file,
        subprocess.Popen(
            guarded, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace'
        ) as process,
    ):
        try:
            for line in process.stdout:
                lines = [*lines[-19:], line]
                if file:
                    file.write(line)
                    file.flush()
                on_line(line)
        except BaseException:
            process.kill()  # Ctrl-C must not leave a training behind
            raise
    if process.returncode:
        raise RuntimeError(f'{" ".join(map(str, command))} failed:\n{"".join(lines)}')


def slug(name):
    """A name as file name."""
    return re.sub(r'\W+', '_', name.lower()).strip('_')


def results_of(out, name):
    """The images of a training's last whole validation, under the names of their ground truths.

    Raises:
        ValueError: it ended before its first validation.
    """
    folder, experiment = out / 'results' / name, out / 'experiments' / name
    folder.mkdir(parents=True, exist_ok=True)
    finished = {iteration for points in curve_of(out, name).values() for iteration, _ in points}
    for path in list_images(out / 'data' / 'val' / 'LR'):
        saved = (experiment / 'visualization' / path.stem).glob(f'{path.stem}_*.png')
        by_iteration = {int(file.stem.rpartition('_')[2]): file for file in saved}
        if not by_iteration:
            raise ValueError(f'the training {name} ended before its first validation: no image in {experiment}')
        last = max(finished or by_iteration)  # the stock model keeps no record of its validations
        (folder / path.name).write_bytes(by_iteration[last].read_bytes())
    return folder


def curve_of(out, name, metrics=None):
    """Validation means by metric (default: all) as (iteration, value), from the file that PerceptualModel writes."""
    file = out / 'experiments' / name / 'validation.csv'
    curve = {}
    if file.is_file():
        with open(file, newline='') as rows:
            for row in csv.DictReader(rows):
                if metrics is None or row['metric'] in metrics:
                    curve.setdefault(row['metric'], []).append((int(row['iteration']), float(row['mean'])))
    return curve
