"""What learning the weights by GradNorm costs in a training step, against the same sum with fixed weights.

    python benchmarks/bench_gradnorm.py --squeezenet squeezenet1_1.pth [--threads 1] [--runs 20] [--device cuda]

A step is RLFN x4 and its loss, forward and backward, without the optimizer: LR of 48 px for Charbonnier + LPIPS
(squeeze) and of 64 px with NIQE, too. Both sides have the same network and take their steps in turn in one process,
with ``every: n`` n steps at a time; ratios are medians over the pairs with their quartiles, more than 1 means that
GradNorm costs time.
"""

import torch
from paired import arguments, circumstances, milliseconds, paired_seconds, ratio_text

from nriqa_plugin.archs import RLFN
from nriqa_plugin.losses import LossSum
from nriqa_plugin.losses.iqa_loss import pink_noise

CHARBONNIER = {'type': 'CharbonnierLoss', 'weight': 1.0}
NIQE = {'type': 'NRIQALoss', 'metric': 'niqe', 'weight': 0.001}
BALANCES = {
    'at the last layer': {'method': 'gradnorm'},
    'at the output': {'method': 'gradnorm', 'wrt': 'output'},
    'at the last layer, every 10': {'method': 'gradnorm', 'every': 10},
}


def main():
    parser = arguments(__doc__, runs=20)
    parser.add_argument('--squeezenet', required=True, help="the backbone's weights of lpips")
    parser.add_argument('--batch', type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lpips = {
        'type': 'FRIQALoss', 'metric': 'lpips', 'weights': options.squeezenet, 'options': {'net': 'squeeze'},
        'weight': 0.05,
    }  # fmt: skip
    print(f'batch {options.batch}; {circumstances(options)}')
    for side, terms in ((48, {'pixel': CHARBONNIER, 'lpips': lpips}),
                        (64, {'pixel': CHARBONNIER, 'lpips': lpips, 'niqe': NIQE})):  # fmt: skip
        torch.manual_seed(0)
        network = RLFN(img_range=1.0).to(options.device)
        generator = torch.Generator().manual_seed(0)
        lq, gt = (pink_noise((options.batch, 3, s, s), generator).to(options.device) for s in (side, 4 * side))
        for name, balance in BALANCES.items():
            cycle = balance.get('every', 1)
            fixed = steps(network, LossSum(dict(terms)).to(options.device), lq, gt, cycle)
            learnt = steps(network, LossSum(dict(terms), balance=dict(balance)).to(options.device), lq, gt, cycle)
            rows = paired_seconds(learnt, fixed, options.runs, options.device)
            ms = [time / cycle for time in milliseconds(rows)]
            print(f'{" + ".join(terms):22s}{name:30s}{ms[1]:8.0f} ms fixed,{ms[0]:8.0f} ms learnt, '
                  f'learnt / fixed {ratio_text(rows)}', flush=True)  # fmt: skip


def steps(network, loss, lq, gt, count):
    """A function that takes ``count`` training steps without the optimizer."""

    def take():
        for _ in range(count):
            network.zero_grad(set_to_none=True)
            loss(network(lq), gt).backward()

    return take


if __name__ == '__main__':
    main()
