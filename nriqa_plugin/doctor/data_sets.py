"""Can the data sets of an option file be built and read, and which images would be validated."""

import copy
import importlib
import os
from pathlib import Path

from nriqa_plugin.doctor.findings import reason_of


def build_data_sets(opt, found):
    """Build every data set as BasicSR's scripts do and load its first item.

    Args:
        opt (dict): BasicSR's options; they stay as they are.
        found (Findings): what fails is a problem named ``datasets.<phase>``.

    Returns:
        dict[str, Dataset]: by phase, those that could be built.
    """
    build = importlib.import_module('basicsr.data').build_dataset
    built = {}
    for phase, option in (opt.get('datasets') or {}).items():
        try:
            built[phase] = build(_as_parsed(opt, phase, option))
            if not len(built[phase]):
                raise ValueError('it holds no images')
            built[phase][0]
        except Exception as error:  # the host raises all kinds of errors
            found.problems.append(f'datasets.{phase}: {reason_of(error)}')
    return built


def validated_images(data_sets):
    """Pairs (phase, file names) of the data sets for validation that tell their files."""
    for phase, data_set in data_sets.items():
        if not phase.startswith('train') and getattr(data_set, 'paths', None):
            paths = [path.get('lq_path', '') if isinstance(path, dict) else path for path in data_set.paths]
            yield phase, [Path(path).name for path in paths]


def _as_parsed(opt, phase, option):
    """What BasicSR's ``parse_options`` makes of one data set's options."""
    option = {**copy.deepcopy(option), 'phase': phase.split('_')[0]}
    if 'scale' in opt:
        option['scale'] = opt['scale']
    for key in ('dataroot_gt', 'dataroot_lq'):
        if option.get(key) is not None:
            option[key] = os.path.expanduser(option[key])
    return option
