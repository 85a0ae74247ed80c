"""Can the data sets of an option file be built and read, and which images would be validated."""

import copy
import importlib
import os
from pathlib import Path

from nriqa_plugin.checks import check_number
from nriqa_plugin.doctor.findings import reason_of


def build_data_sets(opt, found):
    """Build every data set as BasicSR's scripts do and load its first item.

    Args:
        opt (dict): BasicSR's options; they stay as they are.
        found (Findings): what fails is a problem named ``datasets.<phase>``.

    Returns:
        dict[str, Dataset]: by phase, those that could be built.
    """
    built = {}
    for phase, option in (opt.get('datasets') or {}).items():
        try:
            built[phase] = build_data_set(as_parsed(opt, phase, option))
            check_first_item(built[phase])
        except Exception as error:  # the host raises all kinds of errors
            found.problems.append(f'datasets.{phase}: {reason_of(error)}')
    return built


def build_data_set(option):
    """A data set of BasicSR from its parsed options."""
    return importlib.import_module('basicsr.data').build_dataset(option)


def check_first_item(data_set):
    """Load the first item.

    Raises:
        ValueError: there is none; or whatever the host raises.
    """
    if not len(data_set):
        raise ValueError('it holds no images')
    data_set[0]


def sampling_of(option, needed=('gt_size', 'batch_size_per_gpu')):
    """The ``needed`` sizes (px, images) and ``dataset_enlarge_ratio`` (default 1) of a training data set's options.

    Raises:
        ValueError, TypeError: naming the key that is missing or wrong.
    """
    sizes = {}
    for key in needed:
        if key not in option:
            raise ValueError(f'datasets.train: the key {key} is missing')
        sizes[key] = check_number(f'datasets.train.{key}', option[key], low=1, integer=True)
    ratio = option.get('dataset_enlarge_ratio', 1)
    return {**sizes, 'dataset_enlarge_ratio': check_number('datasets.train.dataset_enlarge_ratio', ratio)}


def check_one_batch(images, batch):
    """Refuse a training data set of too few images.

    Args:
        images (float): how many, ``dataset_enlarge_ratio`` included.
        batch (int): images in a batch.

    Raises:
        ValueError: less than one batch.
    """
    if images < batch:
        raise ValueError(
            f'datasets.train: {images} images (dataset_enlarge_ratio included) are less than one batch of {batch}: '
            'the script would run for ever without a step'
        )


def validated_images(data_sets):
    """Pairs (phase, file names) of the data sets for validation that tell their files."""
    for phase, data_set in data_sets.items():
        if not phase.startswith('train') and getattr(data_set, 'paths', None):
            paths = [path.get('lq_path', '') if isinstance(path, dict) else path for path in data_set.paths]
            yield phase, [Path(path).name for path in paths]


def as_parsed(opt, phase, option):
    """What BasicSR's ``parse_options`` makes of one data set's options."""
    option = {**copy.deepcopy(option), 'phase': phase.split('_')[0]}
    if 'scale' in opt:
        option['scale'] = opt['scale']
    for key in ('dataroot_gt', 'dataroot_lq'):
        if option.get(key) is not None:
            option[key] = os.path.expanduser(option[key])
    return option
