"""Does a BasicSR option file work, and what does one training step of it cost, term by term."""

import contextlib
import copy
import importlib
import logging
import os
import sys

import torch

from nriqa_plugin.checks import check_file, check_number, import_extra, unknown_name
from nriqa_plugin.doctor.environment import hint_for
from nriqa_plugin.doctor.findings import Findings
from nriqa_plugin.doctor.step_cost import measure_step, training_batch
from nriqa_plugin.losses.loss_sum import check_slot

OUR_LOSSES = ('LossSum', 'LossPair', 'NRIQALoss', 'FRIQALoss')
OUR_METRICS = ('calculate_iqa', 'calculate_relative_gain')
PLUGIN_LINE = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION'


def check_option_file(path):
    """Build what an option file asks for and measure one training step; nothing is written.

    The file is read as BasicSR does, which can run code that it names. Modules are looked for as
    ``python -m basicsr.train``, started in the current folder, does: there first.

    Returns:
        Findings

    Raises:
        ValueError, TypeError, OSError, ImportError: naming the option that is wrong; the file cannot train.
    """
    file = check_file('option file', path)
    found = Findings()
    with _like_the_training_script():
        _import_adapter()
        opt = _read(file)
        ours = _check_names(opt)
        if ours:
            _advise(opt, found)
        with _at('network_g'):
            network = _host('archs').build_network(opt['network_g'])
        losses = {slot: _loss(slot, option) for slot, option in _loss_slots(opt) if option['type'] in OUR_LOSSES}
        _check_validation(opt, found)
        if 'train' in (opt.get('datasets') or {}):
            _check_cost(opt, network, losses, found)
    return found


@contextlib.contextmanager
def _like_the_training_script():
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


def _import_adapter():
    try:
        import_extra('basicsr', 'basicsr', 'nriqa doctor OPTION_FILE')
        importlib.import_module('nriqa_plugin.basicsr')
    except ImportError as error:
        raise ImportError(f'{error}{hint_for(str(error))}') from error


def _host(module):
    return importlib.import_module(f'basicsr.{module}')


@contextlib.contextmanager
def _at(where):
    """Name the option in whatever goes wrong; the host raises all kinds of errors for a wrong option."""
    try:
        yield
    except Exception as error:
        kind = next((k for k in (ValueError, TypeError, ImportError, OSError) if isinstance(error, k)), None)
        text = str(error) if kind else f'{type(error).__name__}: {error}'
        raise (kind or ValueError)(f'{where}: {text}') from error


def _read(file):
    with _at(file):
        opt = _host('utils.options').yaml_load(str(file))
        if not isinstance(opt, dict):
            raise ValueError(f'not a BasicSR option file: it holds a {type(opt).__name__}, not a mapping')
        for key in ('model_type', 'network_g'):
            if key not in opt:
                raise ValueError(f'the key {key} is missing')
    return opt


def _loss_slots(opt):
    """Pairs (slot, option) of the losses in ``train``."""
    train = opt.get('train') or {}
    return [(slot, train[slot]) for slot in ('pixel_opt', 'perceptual_opt') if train.get(slot)]


def _metrics(opt):
    return (opt.get('val') or {}).get('metrics') or {}


def _check_names(opt):
    """Refuse names that are in no registry.

    Returns:
        bool: whether anything of ours is in the file.

    Raises:
        ValueError: with the closest names.
    """
    names = [('model_type', 'MODEL', opt['model_type'])]
    names += [('base_model', 'MODEL', opt['base_model'])] if 'base_model' in opt else []
    named = [('network_g', 'ARCH', opt['network_g'])]
    named += [(f'train.{slot}', 'LOSS', option) for slot, option in _loss_slots(opt)]
    named += [(f'val.metrics.{name}', 'METRIC', option) for name, option in _metrics(opt).items()]
    named += [(f'datasets.{name}', 'DATASET', option) for name, option in (opt.get('datasets') or {}).items()]
    for where, registry, option in named:
        if not isinstance(option, dict) or 'type' not in option:
            raise ValueError(f'{where}: the key type is missing')
        names.append((f'{where}.type', registry, option['type']))
    ours = False
    for where, registry, name in names:
        known = getattr(_host('utils.registry'), f'{registry}_REGISTRY')
        full = next((n for n in (name, f'{name}_basicsr') if n in known), None)
        if full is None:
            raise unknown_name(where, name, known.keys())
        ours |= getattr(known.get(full), '__module__', '').startswith('nriqa_plugin.')
    return ours


def _advise(opt, found):
    version = importlib.import_module('nriqa_plugin.basicsr').VERSION
    if version not in opt.values():
        found.advice.append(
            f'the line {PLUGIN_LINE!r} is missing: python -m basicsr.train will not find our types '
            '(tools/train_basicsr.py does)'
        )
    host = opt['model_type']
    if host != 'PerceptualModel' and any(option['type'] in OUR_LOSSES for _, option in _loss_slots(opt)):
        found.advice.append(
            f'model_type {host}: schedules count their own calls and start again after a resume, and a step whose '
            f'gradients are not finite is not skipped; model_type: PerceptualModel with base_model: {host} does both'
        )


def _loss(slot, option):
    with _at(f'train.{slot}'):
        loss = _host('losses').build_loss(option)
        check_slot(slot.removesuffix('_opt'), loss)
        return loss


def _check_validation(opt, found):
    """Build every judge of ours as the training would and let it score a synthetic image."""
    if not any(option['type'] in OUR_METRICS for option in _metrics(opt).values()):
        return
    metrics, validation = (importlib.import_module(f'nriqa_plugin.basicsr.{m}') for m in ('metrics', 'validation'))
    parsed = {'val': copy.deepcopy(opt['val']), 'is_train': 'train' in opt, 'dist': False}
    if opt['model_type'] == 'PerceptualModel':
        with _at('val'):
            validation.ValidationMixin().check_metrics(parsed)  # also fills in better
    rows = []
    for name, option in parsed['val']['metrics'].items():
        if option['type'] not in OUR_METRICS:
            continue
        with _at(f'val.metrics.{name}'):
            judge = validation.judge_of(option)
            if option.get('baseline') != 'start' or opt['model_type'] != 'PerceptualModel':
                side = max(judge.min_side, 64)
                image = training_batch(1, side, 1)[1]
                pixels = (255 * image[0]).byte().permute(1, 2, 0).numpy()
                arguments = {key: value for key, value in option.items() if key != 'type'}
                getattr(metrics, option['type'])(pixels, pixels[::-1].copy(), **arguments)
        better = 'higher' if judge.higher_better or option['type'] == 'calculate_relative_gain' else 'lower'
        rows.append((name, option['type'], judge.name, better, judge.weights_hash(), 'ok'))
    found.add('Validation', ('metric', 'type', 'judge', 'better', 'judge hash', 'state'), rows)


def _check_cost(opt, network, losses, found):
    data = opt['datasets']['train']
    sizes = {}
    for key in ('gt_size', 'batch_size_per_gpu'):
        if key not in data:
            raise ValueError(f'datasets.train: the key {key} is missing')
        sizes[key] = check_number(f'datasets.train.{key}', data[key], low=1, integer=True)
    device = torch.device('cuda' if opt.get('num_gpu') != 0 and torch.cuda.is_available() else 'cpu')
    lq, gt = training_batch(sizes['batch_size_per_gpu'], sizes['gt_size'], opt.get('scale', 1), data.get('num_frame'))
    rows = measure_step(network.to(device), losses, lq.to(device), gt.to(device), found.problems)
    where = torch.cuda.get_device_name() if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    shape = ' x '.join(map(str, gt.shape))
    columns = ('term', 'weight', 'value', 'gradient norm', 'ms', 'share of step')
    found.add(f'One training step on {shape} px of synthetic images ({where})', columns, rows)
