"""Does a BasicSR option file work, and what does one training step of it cost, term by term."""

import contextlib
import copy
import importlib
import logging
import os
import sys

import torch

from nriqa_plugin.checks import check_file, check_number, import_extra, unknown_name
from nriqa_plugin.doctor.data_sets import build_data_sets, validated_images
from nriqa_plugin.doctor.environment import hint_for
from nriqa_plugin.doctor.findings import Findings, reason_of
from nriqa_plugin.doctor.start_conditions import check_sections, check_start
from nriqa_plugin.doctor.step_cost import measure_step, training_batch
from nriqa_plugin.losses.loss_sum import check_slot

OUR_LOSSES = ('LossSum', 'LossPair', 'NRIQALoss', 'FRIQALoss', 'VGGLoss', 'ColourLoss', 'TVLoss')
OUR_METRICS = ('calculate_iqa', 'calculate_relative_gain')


def check_option_file(path):
    """Build what an option file asks for, data sets included, and measure one training step; nothing is written.

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
        check_start(opt, found, ours)
        data_sets = build_data_sets(opt, found)
        with _at('network_g'):
            network = _host('archs').build_network(opt['network_g'])
        losses = {slot: _loss(slot, option) for slot, option in _loss_slots(opt) if option['type'] in OUR_LOSSES}
        _advise(opt, losses, found)
        _check_validation(opt, data_sets, found)
        if 'train' in (opt.get('datasets') or {}):
            _check_cost(opt, network, losses, data_sets, found)
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
        raise (kind or ValueError)(f'{where}: {reason_of(error)}') from error


def _read(file):
    with _at(file):
        opt = _host('utils.options').yaml_load(str(file))
        if not isinstance(opt, dict):
            raise ValueError(f'not a BasicSR option file: it holds a {type(opt).__name__}, not a mapping')
        for key in ('model_type', 'network_g'):
            if key not in opt:
                raise ValueError(f'the key {key} is missing')
        check_sections(opt)
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


def _advise(opt, losses, found):
    host = opt['model_type']
    if host != 'PerceptualModel':
        if losses:
            found.advice.append(
                f'model_type {host}: schedules count their own calls and start again after a resume, and a step whose '
                'gradients are not finite is not skipped; '
                f'model_type: PerceptualModel with base_model: {host} does both'
            )
        return
    trained = {name for loss in losses.values() for name in _trained_judges(loss)}
    best = (opt.get('val') or {}).get('save_best') or []
    for name in [best] if isinstance(best, str) else best:
        for judge in sorted(trained & _judges_of_metric(_metrics(opt).get(name))):
            found.advice.append(
                f'val.save_best: {name} asks the judge {judge}, which a loss optimises: it is not held out, and the '
                'best checkpoint may only be the one that games it best'
            )


def _trained_judges(loss):
    """Names of the judges in a loss, those inside an ensemble too."""
    for part in [term.loss for term in loss.terms if term.weight] if hasattr(loss, 'terms') else [loss]:
        if hasattr(part, 'scorer'):
            yield from _names_of(part.scorer)


def _judges_of_metric(option):
    """Names of the judges behind a validation metric, ours or the host's (``calculate_psnr``)."""
    if option is None or option['type'] not in OUR_METRICS:
        return {option['type'].removeprefix('calculate_')} if option else set()
    with _at('val.metrics'):
        return set(_names_of(importlib.import_module('nriqa_plugin.basicsr.validation').judge_of(option)))


def _names_of(judge):
    return [judge.name, *getattr(judge, 'shares', ())]


def _loss(slot, option):
    with _at(f'train.{slot}'):
        loss = _host('losses').build_loss(option)
        check_slot(slot.removesuffix('_opt'), loss)
        return loss


def _check_validation(opt, data_sets, found):
    """Build every judge of ours as the training would and let it score a synthetic image."""
    metrics, validation = (importlib.import_module(f'nriqa_plugin.basicsr.{m}') for m in ('metrics', 'validation'))
    val = {'metrics': None, **copy.deepcopy(opt.get('val') or {})}
    parsed = {'val': val, 'is_train': 'train' in opt, 'dist': False}
    if opt['model_type'] == 'PerceptualModel':
        with _at('val'):
            validation.ValidationMixin().check_metrics(parsed)  # also fills in better
    rows = []
    for name, option in (val['metrics'] or {}).items():
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
                found.problems += _strange_baselines(name, option, judge, data_sets)
        better = 'higher' if judge.higher_better or option['type'] == 'calculate_relative_gain' else 'lower'
        rows.append((name, option['type'], judge.name, better, judge.weights_hash(), 'ok'))
    if rows:
        found.add('Validation', ('metric', 'type', 'judge', 'better', 'judge hash', 'state'), rows)


def _strange_baselines(name, option, judge, data_sets):
    """Messages about a baseline file of other images than those that will be validated."""
    if option['type'] != 'calculate_relative_gain':
        return
    metrics, validation = (importlib.import_module(f'nriqa_plugin.basicsr.{m}') for m in ('metrics', 'validation'))
    baseline = metrics.baseline_of(option['baseline'], judge)
    for phase, images in validated_images(data_sets):
        try:
            validation.check_same_images(option['baseline'], baseline, images)
        except ValueError as error:
            yield f'val.metrics.{name} on datasets.{phase}: {error}'


def _check_cost(opt, network, losses, data_sets, found):
    data = opt['datasets']['train']
    sizes = {}
    for key in ('gt_size', 'batch_size_per_gpu'):
        if key not in data:
            raise ValueError(f'datasets.train: the key {key} is missing')
        sizes[key] = check_number(f'datasets.train.{key}', data[key], low=1, integer=True)
    if 'train' in data_sets:
        ratio = check_number('datasets.train.dataset_enlarge_ratio', data.get('dataset_enlarge_ratio', 1))
        images = len(data_sets['train']) * ratio
        if images < sizes['batch_size_per_gpu']:
            found.problems.append(
                f'datasets.train: {images} images (dataset_enlarge_ratio included) are less than one batch of '
                f'{sizes["batch_size_per_gpu"]}: the script would run for ever without a step'
            )
    device = torch.device('cuda' if opt.get('num_gpu') != 0 and torch.cuda.is_available() else 'cpu')
    lq, gt = training_batch(sizes['batch_size_per_gpu'], sizes['gt_size'], opt.get('scale', 1), data.get('num_frame'))
    rows = measure_step(network.to(device), losses, lq.to(device), gt.to(device), found.problems)
    where = torch.cuda.get_device_name() if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    shape = ' x '.join(map(str, gt.shape))
    columns = ('term', 'weight', 'value', 'gradient norm', 'ms', 'share of step')
    found.add(f'One training step on {shape} px of synthetic images ({where})', columns, rows)
