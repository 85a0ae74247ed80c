"""One loss step of a judge, forward and backward to the image: our loss against pyiqa called as a loss.

    python benchmarks/bench_judges.py [musiq ...] [--threads 1] [--runs 8] [--device cuda]

Both sides hold the same random weights and see the same images in one process, in turn; the ratios are medians over
the pairs with their quartiles. Memory is the peak of a process of its own above what it held before the judge was
built, weights included. The error of the gradient is relative, in Euclidean norm. pyiqa is used as its own
documentation says (``create_metric(name, as_loss=True)``), so that it also computes gradients of its weights.
"""

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import torch
from paired import (
    Peak,
    arguments,
    circumstances,
    memory_of_own_process,
    milliseconds,
    paired_seconds,
    ratio_text,
    relative_error,
)

from nriqa_plugin.losses import NRIQALoss
from nriqa_plugin.losses.iqa_loss import pink_noise

# Our name of the judge, pyiqa's name of it.
JUDGES = {'musiq': 'musiq', 'pyiqa:cnniqa': 'cnniqa', 'topiq_nr': 'topiq_nr'}
# Variants of our loss, each against our loss as it is by default.
VARIANTS = {'checkpoint: true': {'checkpoint': True}, 'precision: bf16': {'precision': 'bf16'}}


def main():
    parser = arguments(__doc__, runs=8)
    parser.add_argument('judges', nargs='*', default=list(JUDGES), help=f'of {", ".join(JUDGES)}')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--side', type=int, default=128, help='of the images in px')
    parser.add_argument('--no-variants', action='store_true', help='leave out checkpoint and bf16')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = pink_noise((options.batch, 3, options.side, options.side), torch.Generator().manual_seed(0))
    images = images.to(options.device)
    if options.memory_of:
        print(memory(options.memory_of, options.judges[0], images))
        return
    print(f'batch {options.batch}, {options.side} px; {circumstances(options)}')
    for judge in options.judges:
        report(judge, images, options)


def report(judge, images, options):
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(judge, folder)
        theirs = step(pyiqa_loss(judge, weights, options.device), images, sign=-1)
        our_loss = NRIQALoss(judge, weights=weights).to(options.device)
        ours = step(our_loss, images)
        rows = paired_seconds(theirs, ours, options.runs, options.device)
        error = relative_error(ours(), theirs())
        peaks = [memory_of_own_process(f'{judge}/{side}') for side in ('pyiqa', 'ours')]
        print(f'\n{judge:18s}{"ms":>8s}{"MB":>8s}   pyiqa / ours')
        for side, time_ms, peak in zip(('pyiqa', 'ours'), milliseconds(rows), peaks, strict=True):
            print(f'  {side:16s}{time_ms:8.0f}{peak:8.0f}')
        print(
            f'  time {ratio_text(rows)}, memory ours / pyiqa {peaks[1] / peaks[0]:.2f}, '
            f'error of the gradient {error:.0e}'
        )
        if options.no_variants:
            return
        for name, changed in VARIANTS.items():
            variant = step(NRIQALoss(judge, weights=weights, **changed).to(options.device), images)
            rows = paired_seconds(ours, variant, max(2, options.runs // 2), options.device)
            error, peak = relative_error(variant(), ours()), memory_of_own_process(f'{judge}/{name}')
            print(
                f'  {name}: time default / variant {ratio_text(rows)}, {peak:.0f} MB, '
                f'difference of the gradient {error:.0e}'
            )


def memory(side, judge, images):
    """Peak in MB of building one side and of two steps with it."""
    judge, _, side = side.partition('/')
    pyiqa_metric('psnr')  # imports what there is to import
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(judge, folder)
        build = (
            (lambda: pyiqa_loss(judge, weights, images.device.type))
            if side == 'pyiqa'
            else (lambda: NRIQALoss(judge, weights=weights, **VARIANTS.get(side, {})).to(images.device))
        )
        build()  # what only the first call takes
        peak = Peak(images.device.type)
        take = step(build(), images)
        # Reading the file holds the weights twice for a moment, which is not what a step needs.
        held = Peak(images.device.type)
        for _ in range(2):
            take()
    return held.before - peak.before + held.megabytes()


def step(loss, images, sign=1):
    """A function that takes one step and returns the image's gradient, ``sign`` times."""

    def take():
        pred = images.clone().requires_grad_()
        loss(pred).backward()
        return sign * pred.grad

    return take


def pyiqa_loss(judge, weights, device='cpu'):
    loss = pyiqa_metric(JUDGES[judge], device)
    loss.net.load_state_dict(torch.load(weights, weights_only=True, map_location=device))
    return loss


def random_weights(judge, folder):
    """A file of random weights for a judge."""
    file = Path(folder) / 'weights.pth'
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(pyiqa_metric(JUDGES[judge]).net.state_dict(), file)
    return file


def pyiqa_metric(name, device='cpu'):
    """pyiqa's metric as a loss, without the downloads."""
    import pyiqa
    import timm

    create = timm.create_model
    untrained = {'musiq': {'pretrained': False}, 'cnniqa': {'pretrained': None}, 'topiq_nr': {'pretrained': False}}
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        mock.patch('timm.create_model', lambda *args, **kw: create(*args, **{**kw, 'pretrained': False})),
    ):
        warnings.simplefilter('ignore')
        return pyiqa.create_metric(name, as_loss=True, device=torch.device(device), **untrained.get(name, {}))


if __name__ == '__main__':
    main()
