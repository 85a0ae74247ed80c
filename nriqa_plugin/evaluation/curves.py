"""Validation values during training, as the run index, BasicSR or mmengine write them."""

import csv
import json
import math
import re
from pathlib import Path

ITERATION = re.compile(r'iter: *([\d,]+)')
METRIC = re.compile(r'^\s*# (\S+): (\S+)')
NOT_METRICS = {'data_time', 'time', 'step', 'iter', 'epoch', 'lr', 'memory'}


def find_curve(folder):
    """The record of a training in its folder, or None: PerceptualModel's ``validation.csv``, the newest log of the
    stock script, or mmengine's ``scalars.json``.
    """
    folder = Path(folder)
    for pattern in ('validation.csv', 'curve.csv', 'train_*.log', 'vis_data/scalars.json', '*/vis_data/scalars.json'):
        found = [path for path in sorted(folder.glob(pattern)) if any(read_curve(path).values())]
        if found:
            return found[-1]
    return None


def read_curve(path):
    """Validation values of a training.

    Args:
        path (str | Path): CSV with the columns ``iteration,metric,value`` or those of ``validation.csv``
            (``iteration,dataset,metric,...,mean``), a log of ``basicsr.train``, or mmengine's ``scalars.json``.

    Returns:
        dict[str, list[tuple[int, float]]]: by metric, sorted by iteration; a later value of one iteration replaces an
        earlier one (a resumed run), values that are not finite are left out. Empty when the file holds none.

    Raises:
        ValueError: a CSV with other columns or a row without numbers; the message names file and line.
    """
    path = Path(path)
    read = {'.csv': _from_csv, '.json': _from_mmengine}.get(path.suffix, _from_log)
    curves = {}
    for metric, iteration, value in read(path):
        if math.isfinite(value):
            curves.setdefault(metric, {})[iteration] = value
    return {metric: sorted(points.items()) for metric, points in curves.items()}


def _from_csv(path):
    with open(path, encoding='utf-8-sig', newline='') as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        value = 'mean' if 'mean' in columns else 'value'
        if not {'iteration', 'metric', value} <= set(columns):
            raise ValueError(f'{path} is no record of a training: its columns are {columns}')
        rows = list(rows)
    sets = {row.get('dataset') for row in rows}
    for number, row in enumerate(rows, 2):
        try:
            found = (int(row['iteration']), float(row[value]))
        except (TypeError, ValueError):
            raise ValueError(f'{path}, line {number}: {row} has no iteration and number') from None
        yield row['metric'] if len(sets) < 2 else f'{row["metric"]} ({row["dataset"]})', *found


def _from_log(path):
    """The log of the stock script gives a validation no iteration of its own: it is that of the line before."""
    iteration = None
    with open(path, encoding='utf-8', errors='replace') as file:
        for line in file:
            if found := ITERATION.search(line):
                iteration = int(found[1].replace(',', ''))
            elif iteration is not None and (found := METRIC.match(line)):
                try:
                    yield found[1], iteration, float(found[2])
                except ValueError:
                    continue  # another line that begins alike


def _from_mmengine(path):
    """Lines of training have a learning rate, those of validation none."""
    with open(path, encoding='utf-8', errors='replace') as file:
        for line in file:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off by a kill
            if isinstance(row, dict) and 'step' in row and not {'lr', 'base_lr', 'iter'} & row.keys():
                for key, value in row.items():
                    if key not in NOT_METRICS and isinstance(value, (int, float)):
                        yield key, int(row['step']), float(value)
