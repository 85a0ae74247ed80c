"""What ``LossSum`` costs beside the same terms summed by hand: one step of a small network, forward and backward.

    python benchmarks/bench_loss_sum.py [--threads 1] [--runs 100] [--device cuda]

Both sides hold the same loss objects and take their steps in turn, in one process. The noise is what the same
measurement gives for two sides that are both summed by hand: a difference counts as measurable if the 95 % intervals of
the two medians do not meet. Small images show the fixed cost of a term; a judge (our NIQE, and CNNIQA of pyiqa with
random weights) hides it.
"""

import tempfile

import torch
from bench_judges import random_weights
from paired import arguments, circumstances, median_interval, milliseconds, paired_seconds, ratio_text
from torch import nn

from nriqa_plugin.losses import LossSum
from nriqa_plugin.losses.iqa_loss import pink_noise

CHEAP = [{'type': 'L1Loss', 'weight': 1.0}, {'type': 'FRIQALoss', 'metric': 'ssim', 'weight': 0.1}]


def main():
    parser = arguments(__doc__, runs=100)
    parser.add_argument('--batch', type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f'batch {options.batch}; {circumstances(options)}')
    with tempfile.TemporaryDirectory() as folder:
        weights = str(random_weights('pyiqa:cnniqa', folder))
        niqe = {'type': 'NRIQALoss', 'metric': 'niqe', 'weight': 0.005}
        cnniqa = {'type': 'NRIQALoss', 'metric': 'pyiqa:cnniqa', 'weights': weights, 'weight': 0.005}
        report('L1', CHEAP[:1], 64, options.runs, options)
        report('L1 + SSIM', CHEAP, 64, options.runs, options)
        # NIQE needs two blocks of 96 px a side.
        report('L1 + SSIM + CNNIQA + NIQE', [*CHEAP, cnniqa, niqe], 192, max(10, options.runs // 8), options)


def report(name, terms, side, runs, options):
    total = LossSum([dict(term) for term in terms]).to(options.device)
    parts = [(term.weight, term.loss) for term in total.terms]

    def by_hand(pred, target):
        return sum(weight * loss(pred, target) for weight, loss in parts)

    generator = torch.Generator().manual_seed(0)
    target = pink_noise((options.batch, 3, side, side), generator).to(options.device)
    network = small_network().to(options.device)
    sides = [step(network, loss, target) for loss in (total, by_hand)]
    if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(sides[0](), sides[1](), strict=True)):
        raise SystemExit(f'{name}: LossSum and the sum by hand give different gradients')
    rows = paired_seconds(*sides, runs, options.device)
    null = paired_seconds(sides[1], step(network, by_hand, target), runs, options.device)
    ours, hand = milliseconds(rows)
    (low, high), (null_low, null_high) = median_interval(rows), median_interval(null)
    verdict = 'within the noise' if low <= null_high and null_low <= high else 'measurable'
    print(f'\n{name}, {side} px, {runs} pairs: LossSum {ours:.2f} ms, by hand {hand:.2f} ms: {verdict}')
    for label, pairs, interval in (('LossSum', rows, (low, high)), ('by hand', null, (null_low, null_high))):
        print(f'  {label} / by hand {ratio_text(pairs)}, median in {interval[0]:.3f} to {interval[1]:.3f}')


def step(network, loss, target):
    """A function that takes one training step without the optimizer and returns the gradients of the weights."""

    def take():
        network.zero_grad(set_to_none=True)
        loss(network(target), target).backward()
        return [parameter.grad for parameter in network.parameters()]

    return take


def small_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))


if __name__ == '__main__':
    main()
