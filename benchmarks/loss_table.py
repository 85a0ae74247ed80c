"""What every loss costs and needs, as a Markdown table: forward, backward, memory, weights, data, regularisation.

    python benchmarks/loss_table.py [--weights mdf_sisr.pth] [--shape 2 192] [--threads 1] [--runs 5] [--device cuda]

All losses see the same images in one process, in turn; ms are medians, ``of MDF`` is the median over the rounds of the
time of forward and backward divided by MDF's. Losses that take their gradient at once (MDF) have it in the forward
time. Memory is the peak of a process of its own above what it held before the first step. Networks have random weights,
which cost what trained ones cost. NIQE needs 192 px and MS-SSIM 161 px a side; those that the images are too small for,
or whose package is missing, are left out and named.
"""

import statistics
import tempfile
from pathlib import Path

import torch
from bench_judges import random_weights
from bench_mdf import pairs, random_discriminators
from paired import Peak, arguments, circumstances, memory_of_own_process, seconds
from torch import nn
from torchvision import models

from nriqa_plugin.iqa.cnniqa import PatchNet
from nriqa_plugin.losses import FRIQALoss, LossSum, MDFLoss, NRIQALoss

NOTHING, IMAGENET = 'none', '1.28 million'
# name -> (training images behind it, multi-scale, what it needs beside it)
FACTS = {
    'L1': (NOTHING, 'no', '-'),
    'L2': (NOTHING, 'no', '-'),
    'SSIM': (NOTHING, 'no', '-'),
    'MS-SSIM': (NOTHING, 'yes', '-'),
    'MS-SSIM + L1': (NOTHING, 'yes', '-'),
    'VGG-19': (IMAGENET, 'layers', 'pixel loss'),
    'LPIPS (VGG-16)': (f'{IMAGENET}, 151 400 pairs', 'layers', 'pixel loss'),
    'MDF': ('1', 'yes', '-'),
    'NIQE': ('125', 'yes', 'full-reference loss'),
    'CNNIQA': ('779 rated', 'no', 'full-reference loss'),
    'MUSIQ': (f'{IMAGENET}, 10 073 rated', 'yes', 'full-reference loss'),
}


def main():
    parser = arguments(__doc__, runs=5)
    parser.add_argument('--weights', help='discriminators of MDF; default: random ones, 8 as released')
    parser.add_argument('--shape', type=int, nargs=2, default=[2, 192], metavar=('BATCH', 'SIDE'), help='of the images')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = pairs(*options.shape, options.device)
    with tempfile.TemporaryDirectory() as folder:
        if options.memory_of:
            print(memory(options.memory_of, Path(folder), options, images))
        else:
            report(Path(folder), options, images)


def report(folder, options, images):
    losses, left_out = {}, []
    for name in FACTS:
        try:
            losses[name] = build(name, folder, options)
            step(losses[name], images, options.device)
        except (ImportError, ValueError) as error:
            losses.pop(name, None)
            left_out.append(f'{name}: {error}')
    rounds = [{name: step(loss, images, options.device) for name, loss in losses.items()} for _ in range(options.runs)]
    batch, side = options.shape
    print(f'{batch} x 3 x {side} x {side}; {circumstances(options)}\n')
    print('| loss | forward ms | backward ms | of MDF | peak MB | parameters | MB of weights | training images '
          '| multi-scale | needs beside it |')  # fmt: skip
    print('|---|---|---|---|---|---|---|---|---|---|')
    for name, loss in losses.items():
        forward, backward = (1000 * statistics.median(times) for times in zip(*(r[name] for r in rounds), strict=True))
        ratio = statistics.median(sum(r[name]) / sum(r['MDF']) for r in rounds)
        count = parameters(loss)
        cells = [name, f'{forward:.3g}', f'{backward:.3g}', f'{ratio:.3g}', f'{memory_of_own_process(name):.0f}',
                 f'{count:,}'.replace(',', ' '), f'{4 * count / 1e6:.1f}', *FACTS[name]]  # fmt: skip
        print(f'| {" | ".join(cells)} |', flush=True)
    for line in left_out:
        print(f'\nleft out: {line}')


def step(loss, images, device):
    """Seconds of forward and of backward."""
    pred, found = images[0].clone().requires_grad_(), []
    forward = seconds(lambda: found.append(loss(pred, images[1])), device)
    return forward, seconds(found[0].backward, device)


def memory(name, folder, options, images):
    """Peak in MB of two steps above what was held before."""
    loss = build(name, folder, options)
    peak = Peak(options.device)
    for _ in range(2):
        step(loss, images, options.device)
    return peak.megabytes()


def build(name, folder, options):
    if name in ('L1', 'L2'):
        return {'L1': nn.L1Loss, 'L2': nn.MSELoss}[name]()
    makers = {
        'SSIM': lambda: FRIQALoss('ssim'),
        'MS-SSIM': lambda: FRIQALoss('ms_ssim'),
        'MS-SSIM + L1': lambda: LossSum([
            {'type': 'FRIQALoss', 'metric': 'ms_ssim', 'weight': 0.84}, {'type': 'L1Loss', 'weight': 0.16}
        ]),
        'VGG-19': lambda: LossSum([{'type': 'VGGLoss', 'weights': backbone('vgg19', folder), 'weight': 1.0}]),
        'LPIPS (VGG-16)': lambda: FRIQALoss('lpips', options={'net': 'vgg'}, weights=backbone('vgg16', folder)),
        'MDF': lambda: MDFLoss(weights=options.weights or random_discriminators(folder / 'mdf.pth')),
        'NIQE': lambda: NRIQALoss('niqe'),
        'CNNIQA': lambda: NRIQALoss('cnniqa', weights=patch_net(folder)),
        'MUSIQ': lambda: NRIQALoss('musiq', weights=str(random_weights('musiq', folder))),
    }  # fmt: skip
    return makers[name]().to(options.device)


def backbone(name, folder):
    """A file of random weights that keep the signal's size."""
    torch.manual_seed(0)
    network = getattr(models, name)(weights=None, init_weights=False).features
    for module in network:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    torch.save({f'features.{key}': value for key, value in network.state_dict().items()}, folder / name)
    return str(folder / name)


def patch_net(folder):
    torch.manual_seed(0)
    torch.save(PatchNet().state_dict(), folder / 'cnniqa.pth')
    return str(folder / 'cnniqa.pth')


def parameters(loss):
    """How many numbers a judge holds that were trained, also in a sum of terms."""
    if isinstance(loss, LossSum):
        return sum(parameters(term.loss) for term in loss.terms)
    networks = getattr(getattr(loss, 'scorer', None), '_networks', {})
    tensors = [t for network in networks.values() for t in (*network.parameters(), *network.buffers())]
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


if __name__ == '__main__':
    main()
