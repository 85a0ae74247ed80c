"""The share of a SwinIR training step that each judge costs: forward and backward pass, without optimizer and data.

    python benchmarks/bench_step_share.py [--threads 1] [--runs 3] [--device cuda --embed 180 --depths 6 6 6 6 6 6]

The network is BasicSR's SwinIR x4 with random weights, by default far smaller than the published ones, so that a CPU
can run it: the share that it shows is an upper bound. Every run times each judge beside the network, in one process.
"""

import statistics
import tempfile

import torch
from basicsr.archs.swinir_arch import SwinIR
from bench_judges import random_weights
from paired import arguments, circumstances, seconds

from nriqa_plugin.losses import LossSum
from nriqa_plugin.losses.iqa_loss import pink_noise

SCALE = 4
WINDOW = 8
FROM_FILE = ('musiq', 'pyiqa:cnniqa', 'topiq_nr')


def main():
    parser = arguments(__doc__, runs=3)
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--gt-size', type=int, default=192, help='px; NIQE needs 192')
    parser.add_argument('--embed', type=int, default=60)
    parser.add_argument('--depths', type=int, nargs='+', default=[2, 2])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    side = options.gt_size // SCALE
    network = SwinIR(
        upscale=SCALE, img_size=side, window_size=WINDOW, img_range=1.0, depths=options.depths,
        embed_dim=options.embed, num_heads=[6] * len(options.depths), mlp_ratio=2, upsampler='pixelshuffledirect',
    ).to(options.device)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    gt = pink_noise((options.batch, 3, options.gt_size, options.gt_size), generator).to(options.device)
    lq = torch.nn.functional.avg_pool2d(gt, SCALE)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(
        f'SwinIR x{SCALE}, {millions:.2f} M parameters (embed {options.embed}, depths {options.depths}), batch '
        f'{options.batch}, {options.gt_size} px; {circumstances(options)}'
    )
    steps = {'network': lambda: network_step(network, lq)}
    with tempfile.TemporaryDirectory() as folder:
        for judge in ('niqe', *FROM_FILE):
            weights = {'weights': str(random_weights(judge, folder))} if judge in FROM_FILE else {}
            term = {'type': 'NRIQALoss', 'metric': judge, 'weight': 1.0, **weights}
            loss = LossSum([term]).to(options.device)
            steps[judge] = lambda loss=loss: loss_step(loss, gt)
    for step in steps.values():
        step()  # warm-up
    rows = [{name: seconds(step, options.device) for name, step in steps.items()} for _ in range(options.runs)]
    print(f'{"":16s}{"ms":>8s}   share of a step with this judge')
    for name in steps:
        time_ms = 1000 * statistics.median(row[name] for row in rows)
        share = statistics.median(row[name] / (row['network'] + row[name]) for row in rows)
        print(f'{name:16s}{time_ms:8.0f}   ' + ('' if name == 'network' else f'{100 * share:.0f} %'))


def network_step(network, lq):
    network.zero_grad(set_to_none=True)
    network(lq).mean().backward()


def loss_step(loss, gt):
    pred = (0.9 * gt).requires_grad_()
    loss(pred, gt).backward()


if __name__ == '__main__':
    main()
