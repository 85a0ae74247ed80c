"""What a training would hand to its losses: its network's outputs and their targets, without any training step."""

import contextlib
import copy
import importlib
import itertools
import random

import numpy
import torch

from nriqa_plugin.checks import check_file
from nriqa_plugin.doctor.data_sets import as_parsed, build_data_set, check_first_item, check_one_batch, sampling_of
from nriqa_plugin.doctor.reading import at, host
from nriqa_plugin.losses.training_state import unchanged_random

CRITERIA = {'pixel_opt': 'cri_pix', 'perceptual_opt': 'cri_perceptual'}  # slot -> the host models' attribute
STAND_IN = {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}


def training_batches(opt, slots, count, seed, device):
    """Images, degradations and network as in the training that the options describe, from its start weights.

    The host's own model, under our ``PerceptualModel``, takes real batches of the training data set up to the point
    where it calls its losses. Nothing is written, no step is made, and the global generators are left as they were.
    One device is used, and one process for loading, so that the batches are a function of the seed.

    Args:
        opt (dict): BasicSR's options; they stay as they are.
        slots (Collection[str]): of ``pixel_opt`` and ``perceptual_opt``, those whose tensors are wanted.
        count (int): batches.
        seed (int): of the order of the images, of crops, degradations and of an untrained network.
        device (torch.device): where the network runs.

    Yields:
        dict: slot -> ``(pred, target, lq)``, each ``(N, C, H, W)`` or ``(N, T, C, H, W)`` on the device.

    Raises:
        ValueError, TypeError, OSError: naming the option; too few images for a batch, a missing pretrained file, or a
            model that does not call its losses.
    """
    parsed = _as_for_training(opt, slots, seed, device)
    on_device = torch.cuda.device(device) if device.type == 'cuda' else contextlib.nullcontext()
    with unchanged_random(), on_device:
        _set_seed(seed)
        batches = _batches(parsed, seed)
        with at(f'model_type {parsed["base_model"]}'):
            model = host('models').build_model(copy.deepcopy(parsed))
        calls = {slot: _Call(last=slot == _last(slots)) for slot in slots}
        for slot, call in calls.items():
            setattr(model, CRITERIA[slot], call)
        for data in itertools.islice(batches, count):
            for call in calls.values():
                call.tensors = None
            _call_losses(model, data, parsed['train'])
            if missing := [slot for slot, call in calls.items() if call.tensors is None]:
                raise ValueError(f'model_type {parsed["base_model"]} does not call its loss train.{missing[0]}')
            yield {slot: (*call.tensors, model.lq) for slot, call in calls.items()}


class _Called(Exception):
    """The last loss has been called; the rest of the step must not happen."""


class _Call:
    """Stands where a loss would and keeps what it is called with."""

    def __init__(self, last):
        self.last, self.tensors = last, None

    def __call__(self, pred, target, **_):
        self.tensors = pred.detach(), target.detach()
        if self.last:
            raise _Called
        return pred.sum() * 0


def _last(slots):
    return 'perceptual_opt' if 'perceptual_opt' in slots else 'pixel_opt'  # every host model calls it second


def _call_losses(model, data, train):
    # Models with a discriminator train their generator at some iterations only.
    every, after = train.get('net_d_iters', 1), train.get('net_d_init_iters', 0)
    with torch.no_grad(), at('the training step'):
        model.feed_data(data)
        with contextlib.suppress(_Called):
            model.optimize_parameters((after // every + 1) * every)


def _batches(parsed, seed):
    """The training's batches, without end; checked to be at least one."""
    option = parsed['datasets']['train']
    sizes = sampling_of(option, needed=('batch_size_per_gpu',))
    with at('datasets.train'):
        data_set = build_data_set(option)
        check_first_item(data_set)
    check_one_batch(len(data_set) * sizes['dataset_enlarge_ratio'], sizes['batch_size_per_gpu'])
    sampler = importlib.import_module('basicsr.data.data_sampler').EnlargedSampler(
        data_set, 1, 0, sizes['dataset_enlarge_ratio']
    )
    with at('datasets.train'):
        loader = host('data').build_dataloader(data_set, option, num_gpu=0, sampler=sampler)

    def endless():
        for epoch in itertools.count():
            sampler.set_epoch(seed + epoch)
            with at('datasets.train'):
                yield from loader

    return endless()


def _as_for_training(opt, slots, seed, device):
    """What BasicSR's ``parse_options`` makes of a file, for one process that only looks.

    Raises:
        ValueError: there is no training in the file.
        FileNotFoundError: a pretrained file is missing.
    """
    for section in ('train', 'datasets', 'path'):
        if not opt.get(section):
            raise ValueError(f'the section {section} is missing')
    if not (opt['datasets'] or {}).get('train'):
        raise ValueError('the key datasets.train is missing')
    parsed = copy.deepcopy(opt)
    parsed['base_model'] = (
        opt['model_type'] if opt['model_type'] != 'PerceptualModel' else opt.get('base_model', 'SRModel')
    )
    parsed |= {'model_type': 'PerceptualModel', 'is_train': True, 'val': {}, 'manual_seed': seed}
    parsed |= {'dist': False, 'rank': 0, 'world_size': 1, 'num_gpu': int(device.type == 'cuda'), 'auto_resume': False}
    data = as_parsed(opt, 'train', opt['datasets']['train'])
    # One process loads, so that the global generators alone decide.
    data |= {'num_worker_per_gpu': 0, 'prefetch_mode': None, 'persistent_workers': False, 'pin_memory': False}
    parsed['datasets'] = {'train': data}
    parsed['path']['resume_state'] = None
    for key, path in parsed['path'].items():
        if key.startswith('pretrain_network') and path is not None:
            parsed['path'][key] = str(check_file(f'path.{key}', path))  # with ~ expanded
    if not isinstance(parsed['train'].get('perceptual_opt'), dict) or 'perceptual_opt' not in slots:
        parsed['train'].pop('perceptual_opt', None)  # would be built, with its downloads, and never be called
    parsed['train'].update({slot: dict(STAND_IN) for slot in slots})
    return parsed


def _set_seed(seed):
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
