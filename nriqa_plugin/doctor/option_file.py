"""Does a BasicSR option file work, and what does one training step of it cost, term by term."""

import copy
import importlib

import torch

from nriqa_plugin.checks import check_file
from nriqa_plugin.doctor.data_sets import build_data_sets, check_one_batch, sampling_of, validated_images
from nriqa_plugin.doctor.findings import Findings
from nriqa_plugin.doctor.reading import (
    OUR_LOSSES,
    OUR_METRICS,
    at,
    build_loss,
    check_names,
    host,
    import_adapter,
    like_the_training_script,
    loss_slots,
    metrics_of,
    read,
)
from nriqa_plugin.doctor.start_conditions import check_start
from nriqa_plugin.doctor.step_cost import measure_step, training_batch


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
    with like_the_training_script():
        import_adapter('nriqa doctor OPTION_FILE')
        opt = read(file)
        ours = check_names(opt)
        check_start(opt, found, ours)
        data_sets = build_data_sets(opt, found)
        with at('network_g'):
            network = host('archs').build_network(opt['network_g'])
        losses = {slot: build_loss(slot, option) for slot, option in loss_slots(opt) if option['type'] in OUR_LOSSES}
        _advise(opt, losses, found)
        _check_validation(opt, data_sets, found)
        if 'train' in (opt.get('datasets') or {}):
            _check_cost(opt, network, losses, data_sets, found)
    return found


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
        for judge in sorted(trained & _judges_of_metric(metrics_of(opt).get(name))):
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
    with at('val.metrics'):
        return set(_names_of(importlib.import_module('nriqa_plugin.basicsr.validation').judge_of(option)))


def _names_of(judge):
    return [judge.name, *getattr(judge, 'shares', ())]


def _check_validation(opt, data_sets, found):
    """Build every judge of ours as the training would and let it score a synthetic image."""
    metrics, validation = (importlib.import_module(f'nriqa_plugin.basicsr.{m}') for m in ('metrics', 'validation'))
    val = {'metrics': None, **copy.deepcopy(opt.get('val') or {})}
    parsed = {'val': val, 'train': opt.get('train'), 'is_train': 'train' in opt, 'dist': False}
    if opt['model_type'] == 'PerceptualModel':
        with at('val'):
            validation.ValidationMixin().check_metrics(parsed)  # also fills in better
    rows = []
    for name, option in (val['metrics'] or {}).items():
        if option['type'] not in OUR_METRICS:
            continue
        with at(f'val.metrics.{name}'):
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
    if 'lq_size' in data and 'gt_size' not in data:  # LROnlyDataset
        data = {**data, 'gt_size': data['lq_size'] * opt.get('scale', 1)}
    sizes = sampling_of(data)
    if 'train' in data_sets:
        try:
            check_one_batch(len(data_sets['train']) * sizes['dataset_enlarge_ratio'], sizes['batch_size_per_gpu'])
        except ValueError as error:
            found.problems.append(str(error))
    device = torch.device('cuda' if opt.get('num_gpu') != 0 and torch.cuda.is_available() else 'cpu')
    for slot in [slot for slot, loss in losses.items() if getattr(loss, 'balance', None) is not None]:
        found.advice.append(
            f"train.{slot} learns its weights (balance): those shown are the start's, and what learning costs is not "
            'measured'
        )
    channels = 1 if data.get('color') in ('y', 'grey') else 3
    frames = data.get('num_frame')
    if frames is not None and data.get('flip_sequence'):
        frames *= 2  # the window and its mirror image in time
    size = sizes['batch_size_per_gpu'], sizes['gt_size'], opt.get('scale', 1), frames, channels
    lq, gt = training_batch(*size)
    rows = measure_step(network.to(device), losses, lq.to(device), gt.to(device), found.problems)
    where = torch.cuda.get_device_name() if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    shape = ' x '.join(map(str, gt.shape))
    columns = ('term', 'weight', 'value', 'gradient norm', 'ms', 'share of step')
    found.add(f'One training step on {shape} px of synthetic images ({where})', columns, rows)
