"""Where the ground truths of a set lie: folders ``gt``, ``gt_01``, ..., or an index file."""

import csv
import json
import os
import re
from pathlib import Path

from nriqa_plugin.checks import check_choice, check_file
from nriqa_plugin.multigt.candidate_set import CandidateSet, check_originals, keep_positive, pad, stem
from nriqa_plugin.multigt.hggt import read_hggt

LAYOUTS = ('folders', 'index', 'hggt')
EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
COLUMN = re.compile(r'gt(_(?!00)\d\d)?')
ALMOST = re.compile(r'gt[_-]?\d+')  # taken for candidates by people, not by COLUMN


def read_sets(root, layout='folders', index=None, lq=None, need_positive=None, lmdb=False, training=True):
    """The sets of a data set.

    Args:
        root (str): the folder of the data set; paths in an index are relative to it. With ``layout: hggt`` the folder
            that holds ``images`` and ``labels``, see :func:`nriqa_plugin.multigt.hggt.read_hggt`.
        layout (str): ``folders`` for ``gt/``, ``gt_01/``, ``gt_02/``, ... with files of one name (the ending may
            differ); ``index`` for a file that lists them; ``hggt``.
        index (str | None): with ``layout: index`` a CSV or JSONL file with the columns ``gt``, ``gt_01``, ...,
            optionally ``name``, ``lq`` and ``positive`` (the numbers of the positive candidates, in CSV separated by
            spaces). An empty cell is a missing candidate.
        lq (str | None): folder with the low-resolution images, of the same names.
        need_positive (bool | None): leave out sets in which people called no candidate positive. None: for ``hggt``
            only, as published.
        training (bool): False to score or evaluate only, where no LR image is made of an original.
        lmdb (bool): the folders are ``gt.lmdb``, ``gt_01.lmdb``, ... as BasicSR makes them, ``lq`` is one too, and
            the entries are their keys.

    Returns:
        tuple[list[CandidateSet], int]: all with the same K, sorted by name, and the number of sets left out.

    Raises:
        FileNotFoundError: a folder, index, label or LQ image is missing.
        ValueError: wrong columns, no sets, a set without any candidate, a name that is there twice, or sets without
            an original when no LQ image is given for a training.
    """
    check_choice('layout', layout, LAYOUTS)
    if (layout == 'index') != (index is not None):
        raise ValueError(f"index: {index!r} and layout: {layout!r} do not go together; an index needs layout: 'index'")
    if not Path(root).is_dir():
        raise FileNotFoundError(f'dataroot_gt: no such folder: {root}')
    if layout == 'hggt':
        if lmdb:
            raise ValueError("layout: hggt reads image files; with lmdb use layout: 'index'")
        sets = read_hggt(root)
    else:
        sets = _read_index(root, index, lmdb) if layout == 'index' else _read_folders(root, lmdb)
    if not sets:
        raise ValueError(f'{root} holds no ground truths (layout: {layout})')
    if lq is not None:
        sets = _with_lq(sets, lq, lmdb)
    if training:
        without_lq = [one for one in sets if one.lq is None]
        check_originals(without_lq, 'the LR image comes from the original only; give dataroot_lq')
    left_out = 0
    if layout == 'hggt' if need_positive is None else need_positive:
        sets, left_out = keep_positive(sets)
    return sorted(pad(sets), key=lambda one: one.name), left_out


def columns_of(root, lmdb=False):
    """``gt``, ``gt_01``, ... as far as these folders exist, by number.

    Raises:
        ValueError: a folder such as ``gt_1`` or ``gt_00``, which would be left out without a word.
    """
    ending = '.lmdb' if lmdb else ''
    folders = [entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name.endswith(ending)]
    names = [folder.removesuffix(ending) for folder in folders]
    for name, folder in zip(names, folders, strict=True):
        if ALMOST.fullmatch(name) and not COLUMN.fullmatch(name):
            raise ValueError(f'dataroot_gt: {root} has the folder {folder}; candidates are called gt_01{ending} to '
                             f'gt_99{ending}')  # fmt: skip
    return sorted(name for name in names if COLUMN.fullmatch(name))


def number_of(column):
    """0 for ``gt``, 3 for ``gt_03``."""
    return int(column[3:] or 0)


def column_name(number):
    """``gt`` for 0, ``gt_03`` for 3."""
    return f'gt_{number:02d}' if number else 'gt'


def _read_folders(root, lmdb):
    columns = columns_of(root, lmdb)
    if not columns:
        raise FileNotFoundError(f'dataroot_gt: {root} has no folder gt, gt_01, ...{".lmdb" if lmdb else ""}')
    found = {}
    for column in columns:
        folder = Path(root, f'{column}.lmdb' if lmdb else column)
        for name, path in _entries(folder, lmdb).items():
            found.setdefault(name, {})[number_of(column)] = path
    return [_make_set(name, candidates) for name, candidates in found.items()]


def _entries(folder, lmdb):
    """``{name: path or key}`` of a folder of images or of an lmdb."""
    if lmdb:
        keys = [line.split('.')[0] for line in check_file('lmdb', folder / 'meta_info.txt').read_text().splitlines()]
        return {key: key for key in keys if key}
    found = {}
    for entry in os.scandir(folder):
        if entry.name[0] == '.' or not entry.name.lower().endswith(EXTENSIONS):
            continue
        name = stem(entry.name)
        if name in found:
            raise ValueError(f'{entry.path} and {found[name]} have one name but for the ending')
        found[name] = entry.path
    return found


def _read_index(root, index, lmdb):
    file = check_file('index', index)
    sets, names = [], {}
    for where, row in _rows(file):
        unknown = [key for key in row if not (key in ('name', 'lq', 'positive') or COLUMN.fullmatch(key))]
        if unknown:
            raise ValueError(f'{where}: unknown column {unknown[0]!r}; allowed are gt, gt_01, ..., name, lq, positive')
        candidates = {number_of(key): row[key] for key in row if COLUMN.fullmatch(key) and row[key]}
        if not candidates:
            raise ValueError(f'{where}: no ground truth')
        name = row.get('name') or os.path.splitext(candidates[min(candidates)])[0]
        if name in names:
            raise ValueError(f'{where}: the set {name!r} stands in {names[name]} too; give each a name of its own')
        names[name] = where
        positive = _positive_numbers(where, row.get('positive'), candidates)
        lq = row.get('lq') or None
        if not lmdb:
            candidates = {k: _file(where, root, path) for k, path in candidates.items()}
            lq = lq and _file(where, root, lq)
        sets.append(_make_set(name, candidates, positive, lq))
    return sets


def _rows(file):
    """``(where, {column: text})`` of every line of a CSV or JSONL file."""
    try:
        text = file.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'index: {file} is not a text file: {error}') from error
    if file.suffix.lower() == '.csv':
        for number, row in enumerate(csv.DictReader(text.splitlines()), 2):
            if None in row or None in row.values():
                raise ValueError(f'{file}, line {number}: another number of cells than columns')
            yield f'{file}, line {number}', row
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            where = f'{file}, line {number}'
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f'{where} is not JSON: {error}') from error
            if not isinstance(row, dict):
                raise ValueError(f'{where} must be a JSON object, got {row!r}')
            yield where, row


def _positive_numbers(where, got, candidates):
    numbers = got.split() if isinstance(got, str) else got or []
    try:
        numbers = {int(number) for number in numbers}
    except (TypeError, ValueError):
        raise ValueError(f'{where}: positive must hold numbers of candidates, got {got!r}') from None
    for number in numbers - candidates.keys():
        raise ValueError(f'{where}: positive names candidate {number}, there are {sorted(candidates)}')
    return numbers


def _file(where, root, path):
    file = Path(root, path)
    if not file.is_file():
        raise FileNotFoundError(f'{where}: no such file: {file}')
    return str(file)


def _make_set(name, candidates, positive=(), lq=None):
    count = max(candidates) + 1
    paths = tuple(candidates.get(k) for k in range(count))
    return CandidateSet(name, paths, tuple(k in positive for k in range(count)), lq)


def _with_lq(sets, folder, lmdb):
    if not Path(folder).is_dir():
        raise FileNotFoundError(f'dataroot_lq: no such folder: {folder}')
    entries = _entries(Path(folder), lmdb)
    paired, owners = [], {}
    for one in sets:
        names = [one.name, *(stem(path) for path in one.paths if path)]
        lq = next((entries[name] for name in names if name in entries), None)
        if lq is None:
            raise FileNotFoundError(f'dataroot_lq: {folder} has no image called {names[0]}')
        if lq in owners:
            raise ValueError(f'dataroot_lq: {lq} would belong to the sets {owners[lq]!r} and {one.name!r}; list the '
                             'LR images in an index')  # fmt: skip
        owners[lq] = one.name
        paired.append(CandidateSet(one.name, one.paths, one.positive, lq))
    return paired
