"""Weights for an option file's terms, measured on its own network and images: ``calibrate_option_file(path)``."""

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from nriqa_plugin.checks import check_file, check_number
from nriqa_plugin.doctor.reading import (
    at,
    build_loss,
    check_names,
    import_adapter,
    like_the_training_script,
    loss_slots,
    read,
)
from nriqa_plugin.doctor.training_batches import training_batches
from nriqa_plugin.doctor.weights_in_file import WeightsInFile
from nriqa_plugin.losses.calibration import GAMED, Gauge, check_shares, propose
from nriqa_plugin.losses.presets import with_preset

UNSURE = 0.1  # standard error of the mean gradient norm, as a part of it
SUMS = {'pixel_opt': 'LossSum', 'perceptual_opt': 'LossPair'}


@dataclass(frozen=True)
class Calibrated:
    """Result of :func:`calibrate_option_file`.

    Attributes:
        title (str): what was measured, in words.
        rows (list[Proposal]): one per term.
        advice (list[str]): remarks.
    """

    title: str
    rows: list
    advice: list


def calibrate_option_file(
    path, shares=None, anchor=None, batches=8, seed=0, device='auto', out=None, progress=lambda done: None
):
    """Measure every term of the file's ``LossSum`` (and ``LossPair``) and propose weights.

    Network, start weights, training images, crops and degradations are those of the training; see
    :func:`nriqa_plugin.doctor.training_batches.training_batches`. The file is read as BasicSR does, which can run code
    that it names.

    Args:
        path (str | Path): a BasicSR training's option file.
        shares (dict[str, float] | None): name of a term -> how hard it shall pull, as a multiple of the anchor; see
            :func:`nriqa_plugin.losses.calibration.propose`.
        anchor (str | None): name of the term that keeps its weight; default: the pixel loss.
        batches (int): how many to measure on, at least 1.
        seed (int): which batches, in [0, 2^32).
        device (str): ``auto`` (a GPU if the file allows and there is one) or a torch device.
        out (str | Path | None): where to write a copy of the file with the proposed weights.
        progress (Callable[[int], None]): told the number of measured batches after each.

    Returns:
        Calibrated

    Raises:
        ValueError, TypeError, OSError, ImportError: naming the option or file; nothing was written.
    """
    file = check_file('option file', path)
    check_number('batches', batches, low=1, integer=True)
    check_number('seed', seed, low=0, high=2**32 - 1, integer=True)
    out = None if out is None else _new_file(out, file)
    with like_the_training_script():
        import_adapter('nriqa calibrate')
        opt = read(file)
        check_names(opt)
        wanted = [(slot, option) for slot, option in loss_slots(opt) if option['type'] == SUMS[slot]]
        if not wanted:
            raise ValueError(f'{file}: neither train.pixel_opt is a LossSum nor train.perceptual_opt a LossPair: '
                             'there are no terms to weigh')  # fmt: skip
        device = _device(device, opt)
        losses = {slot: build_loss(slot, option) for slot, option in wanted}
        for slot in [slot for slot, loss in losses.items() if loss.balance is not None]:
            raise ValueError(f'{file}: train.{slot} learns its weights (balance), there is none to calibrate')
        gauges = {slot: Gauge(loss.to(device)) for slot, loss in losses.items()}
        terms = [part.term for gauge in gauges.values() for part in gauge.terms]
        check_shares(terms, shares, anchor)
        places = None if out is None else _places(file, opt, gauges)
        shapes = {}
        with contextlib.closing(training_batches(opt, gauges, batches, seed, device)) as stream:
            for done, tensors in enumerate(stream, 1):
                for slot, (pred, target, *lq) in tensors.items():
                    shapes[slot] = ' x '.join(map(str, pred.shape)) + ' px'
                    with at(f'train.{slot}'):
                        gauges[slot].add(pred, target, *lq)
                progress(done)
        rows = propose([part for gauge in gauges.values() for part in gauge.terms], shares, anchor)
        advice = list(_advice(opt, rows, batches))
        if out is not None:
            _write(file, out, opt, gauges, rows, *places)
    return Calibrated(_title(opt, batches, shapes), rows, advice)


def _title(opt, batches, shapes):
    same = len(set(shapes.values())) == 1
    of = next(iter(shapes.values())) if same else ', '.join(f'{shape} in {slot}' for slot, shape in shapes.items())
    return f'Pulls on the output of {opt["network_g"]["type"]}, {batches} training batches of {of}'


def _new_file(out, file):
    out = Path(out).expanduser()
    if out.is_dir():
        raise ValueError(f'out: {out} is a folder, name a file in it')
    if out.exists() and os.path.samefile(out, file):
        raise ValueError(f'out: {out} is the option file itself, name another')
    return out


def _device(device, opt):
    if device == 'auto':
        return torch.device('cuda' if opt.get('num_gpu') != 0 and torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'device {device!r} cannot be used: {str(error).splitlines()[0]}') from error
    return torch.device(device)


def _places(file, opt, gauges):
    """The file's text and, by term, where its weight stands in it; not those that a preset brings."""
    text, spans = WeightsInFile(file), {}
    for slot, gauge in gauges.items():
        names = [part.term.name for part in gauge.terms]
        if opt['train'][slot].get('preset') is None:
            spans |= text.spans(slot, names)
        else:
            text.beside_preset(slot, dict.fromkeys(names, 1.0))  # raises now rather than after measuring
    return text, spans


def _write(file, out, opt, gauges, rows, text, spans):
    new = {row.name: row.proposed for row in rows if row.proposed is not None}
    opt = _written_out(opt, gauges)

    def check(written):
        """The weights are the new ones, and the rest is what it was."""
        options = _written_out(read(written), gauges)
        for slot, gauge in gauges.items():
            given = [option['train'][slot]['terms'] for option in (opt, options)]
            pairs = zip(*(_as_list(terms) for terms in given), strict=True)
            for (before, after), part in zip(pairs, gauge.terms, strict=True):
                expected = new.get(part.term.name, before['weight'])
                if after['weight'] != expected:
                    raise ValueError(f'{file}: the weight of {part.term.name} would read as {after["weight"]!r}')
                after['weight'] = before['weight']
        if options != opt:
            raise ValueError(f'{file}: more than the weights would change; set them by hand')

    changes = [(spans[name], weight) for name, weight in new.items() if name in spans]
    for slot, gauge in gauges.items():
        others = {part.term.name for part in gauge.terms} - spans.keys()
        if others:
            changes += text.beside_preset(slot, {name: weight for name, weight in new.items() if name in others})
    text.write(out, changes, check)


def _written_out(opt, slots):
    """The options with the presets of these slots as terms."""
    train = opt['train']
    return {**opt, 'train': {**train, **{slot: with_preset(train[slot]) for slot in slots}}}


def _as_list(terms):
    return [term for term in terms.values() if term is not None] if isinstance(terms, dict) else terms


def _advice(opt, rows, batches):
    anchor = next(row.name for row in rows if row.anchor)
    if not (opt['path'] or {}).get('pretrain_network_g'):
        yield (
            'path.pretrain_network_g is not set: measured on an untrained network, whose ratios are not those of '
            'the training; calibrate again from a checkpoint'
        )
    if (opt['path'] or {}).get('resume_state'):
        yield 'path.resume_state was not read: measured on path.pretrain_network_g'
    losses = {
        key: value['type']
        for key, value in opt['train'].items()
        if key.endswith('_opt') and isinstance(value, dict) and 'type' in value
    }
    others = [key for key, kind in losses.items() if SUMS.get(key) != kind]
    if others:
        yield f'train.{", train.".join(others)}: not measured, only the terms of LossSum and LossPair are'
    for row in rows:
        if row.left_out:
            yield f'{row.name}: {row.left_out} batches were left out, its value or gradient was not finite there'
        error = row.spread / math.sqrt(batches) if row.proposed else 0.0
        if error > UNSURE:
            yield (
                f'{row.name}: batches differ so much that on others its pull may well be {100 * error:.0f} % off; '
                'more batches tell it better'
            )
        pull = row.pull if row.share is None else row.share
        if row.judge and pull >= GAMED:
            yield (
                f'{row.name} would pull {pull:.3g} times as hard as {anchor}: in our runs a judge at 3 times trained '
                'well, at 30 times it was gamed'
            )
