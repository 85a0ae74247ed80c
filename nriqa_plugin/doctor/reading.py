"""A BasicSR option file as its training script reads it: names, losses, and errors that say where."""

import contextlib
import importlib
import logging
import os
import sys
from pathlib import Path

from nriqa_plugin.checks import import_extra, unknown_name
from nriqa_plugin.doctor.environment import hint_for
from nriqa_plugin.doctor.findings import reason_of
from nriqa_plugin.doctor.start_conditions import check_sections
from nriqa_plugin.losses import check_slot

OUR_LOSSES = ('LossSum', 'LossPair', 'NRIQALoss', 'FRIQALoss', 'VGGLoss', 'ColourLoss', 'TVLoss')
OUR_METRICS = ('calculate_iqa', 'calculate_relative_gain')


@contextlib.contextmanager
def like_the_training_script():
    """The current folder first on the Python path; the host's messages to stderr, without its INFO lines."""
    before, off = sys.path[:], logging.root.manager.disable
    sys.path.insert(0, os.getcwd())
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(off)
        sys.path[:] = before


def import_adapter(needed_by):
    """Import BasicSR and our adapter; if one does not import, say what helps.

    Args:
        needed_by (str): who asks, for the message.
    """
    try:
        import_extra('basicsr', 'basicsr', needed_by)
        importlib.import_module('nriqa_plugin.basicsr')
    except ImportError as error:
        raise ImportError(f'{error}{hint_for(str(error))}') from error


def host(module):
    """A module of BasicSR, imported where it is used."""
    return importlib.import_module(f'basicsr.{module}')


@contextlib.contextmanager
def at(where):
    """Name the option in whatever goes wrong; the host raises all kinds of errors for a wrong option."""
    try:
        yield
    except Exception as error:
        kind = next((k for k in (ValueError, TypeError, ImportError, OSError) if isinstance(error, k)), None)
        raise (kind or ValueError)(f'{where}: {reason_of(error)}') from error


def read(file):
    """The options in a file, as BasicSR's loader gives them, which can run code.

    Raises:
        ValueError, TypeError: not an option file.
    """
    with at(file):
        if Path(file).suffix == '.py':
            raise ValueError('a Python config; this command reads option files of BasicSR (YAML) only')
        opt = host('utils.options').yaml_load(str(file))
        if not isinstance(opt, dict):
            raise ValueError(f'not a BasicSR option file: it holds a {type(opt).__name__}, not a mapping')
        for key in ('model_type', 'network_g'):
            if key not in opt:
                raise ValueError(f'the key {key} is missing')
        check_sections(opt)
    return opt


def loss_slots(opt):
    """Pairs (slot, option) of the losses in ``train``."""
    train = opt.get('train') or {}
    return [(slot, train[slot]) for slot in ('pixel_opt', 'perceptual_opt') if train.get(slot)]


def metrics_of(opt):
    """The options of the validation metrics, by name; ``PerceptualModel`` leaves out those that are None."""
    named = (opt.get('val') or {}).get('metrics') or {}
    leaves_out = opt['model_type'] == 'PerceptualModel'
    return {name: option for name, option in named.items() if option is not None or not leaves_out}


def check_names(opt):
    """Refuse names that are in no registry.

    Returns:
        bool: whether anything of ours is in the file.

    Raises:
        ValueError: with the closest names.
    """
    names = [('model_type', 'MODEL', opt['model_type'])]
    names += [('base_model', 'MODEL', opt['base_model'])] if 'base_model' in opt else []
    named = [('network_g', 'ARCH', opt['network_g'])]
    named += [(f'train.{slot}', 'LOSS', option) for slot, option in loss_slots(opt)]
    named += [(f'val.metrics.{name}', 'METRIC', option) for name, option in metrics_of(opt).items()]
    named += [(f'datasets.{name}', 'DATASET', option) for name, option in (opt.get('datasets') or {}).items()]
    for where, registry, option in named:
        if not isinstance(option, dict) or 'type' not in option:
            raise ValueError(f'{where}: the key type is missing')
        names.append((f'{where}.type', registry, option['type']))
    ours = False
    for where, registry, name in names:
        known = getattr(host('utils.registry'), f'{registry}_REGISTRY')
        full = next((n for n in (name, f'{name}_basicsr') if n in known), None)
        if full is None:
            raise unknown_name(where, name, known.keys())
        ours |= getattr(known.get(full), '__module__', '').startswith('nriqa_plugin.')
    return ours


def build_loss(slot, option):
    """The loss of a slot (``pixel_opt``, ``perceptual_opt``); errors name the slot."""
    with at(f'train.{slot}'):
        loss = host('losses').build_loss(option)
        check_slot(slot.removesuffix('_opt'), loss)
        return loss
