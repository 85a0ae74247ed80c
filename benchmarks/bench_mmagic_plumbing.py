"""What our hook, terms and logging cost over mmagic's bare training step with the same losses called by hand.

    python benchmarks/bench_mmagic_plumbing.py [--pairs 10] [--steps 30] [--side 128]

Both sides train MSRResNet x4 on the same images through mmengine's runner, in turns, in one process and one thread.
A pair gives the median CPU time of a step on either side; a third run without the plugin tells what the same thing
costs twice: the noise of the comparison. The validation metric is compared with the judges called by hand.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from mmagic.registry import MODELS
from mmagic_runner import build_runner, write_pairs
from mmengine.hooks import Hook
from torch import nn

import nriqa_plugin.mmagic  # noqa: F401
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.mmagic.metrics import IQAMetric

JUDGES = ('ssim', 'gmsd')


@MODELS.register_module()
class ByHand(nn.Module):
    """L1, SSIM and GMSD as a user would write them into a loss of his own."""

    def __init__(self):
        super().__init__()
        self.ssim, self.gmsd = map(create_scorer, JUDGES)

    def forward(self, pred, target):
        seen = pred + (pred.clamp(0, 1) - pred).detach()
        ssim, gmsd = (judge.raw_scores(seen, target).mean() for judge in (self.ssim, self.gmsd))
        return (pred - target).abs().mean() - 0.1 * ssim + 0.1 * gmsd


TERMS = [
    {'type': 'L1Loss', 'weight': 1.0},
    *({'type': 'FRIQALoss', 'metric': judge, 'weight': 0.1, 'probe': False} for judge in JUDGES),
]
SIDES = {
    'bare': ({'type': 'ByHand'}, None),
    'bare again': ({'type': 'ByHand'}, None),
    'plugin': ({'type': 'LossSum', 'terms': TERMS}, {'perceptual': {'type': 'PerceptualHook'}}),
    'plugin, gradient norms': (
        {'type': 'LossSum', 'terms': TERMS, 'grad_norms': True},
        {'perceptual': {'type': 'PerceptualHook'}},
    ),
}


class Clock(Hook):
    """CPU seconds from one step's beginning to the next one's, data and logging included."""

    def __init__(self):
        self.times = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.times.append(time.process_time())

    def median(self):
        steps = [after - before for before, after in zip(self.times[3:], self.times[4:], strict=False)]
        return statistics.median(steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pairs', type=int, default=10)
    parser.add_argument('--steps', type=int, default=30)
    parser.add_argument('--side', type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images = write_pairs(Path(folder), options.side, 4)
        for pair in range(options.pairs):
            row = {}
            order = list(SIDES) if pair % 2 else list(reversed(SIDES))
            for side in order:
                loss, hooks = SIDES[side]
                clock = Clock()
                runner = build_runner(images, loss, [{'type': 'PSNR'}], options.steps, hooks)
                runner.register_hook(clock, 'HIGHEST')
                runner.train()
                row[side] = clock.median()
            rows.append(row)
    print(f'{options.pairs} paired runs of {options.steps} steps, {options.side} px, torch {torch.__version__}')
    for side in SIDES:
        own = 1000 * statistics.median(row[side] for row in rows)
        ratios = sorted(row[side] / row['bare'] for row in rows)
        print(f'{side:24s}{own:8.2f} ms a step   over bare: median {statistics.median(ratios):.3f}, '
              f'from {ratios[0]:.3f} to {ratios[-1]:.3f}')  # fmt: skip
    validation(options.side, options.pairs)


@torch.no_grad()
def validation(side, pairs):
    """The metric against its judges called by hand on the same prediction."""
    metric, judges = IQAMetric(judges=list(JUDGES), device='cpu'), [create_scorer(judge) for judge in JUDGES]
    pred, target = (255 * torch.rand(3, side, side) for _ in range(2))
    data = [{'output': {'pred_img': pred}, 'gt_img': target, 'gt_path': 'a.png'}]

    def by_hand():
        images = [(image.clamp(0, 255).round() / 255).flip(0)[None] for image in (pred, target)]
        return [judge(*images).item() for judge in judges]

    ratios = []
    for _ in range(5 * pairs):
        times = []
        for function in (by_hand, lambda: metric.process(None, data)):
            start = time.process_time()
            for _ in range(3):
                function()
            times.append(time.process_time() - start)
        ratios.append(times[1] / times[0])
    print(f'validation metric over its judges by hand: median {statistics.median(ratios):.3f}')


if __name__ == '__main__':
    main()
