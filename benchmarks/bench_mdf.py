"""One step of the MDF loss, forward and backward to the image: ours against the plain way.

    python benchmarks/bench_mdf.py [--weights mdf_sisr.pth] [--shape 4 96] [--threads 1] [--runs 8] [--device cuda]

The plain way calls the discriminators as they are, on the whole batch, with frozen weights and no graph for the
target. ``folded`` is the same with batch norm folded into the convolutions; ``autograd`` folds, and takes and frees
the gradient of one discriminator before the next. Both sides see the same images in one process, in turn; the ratios
are medians over the pairs with their quartiles. Memory is the peak of a process of its own above what it held before
the first step. The errors are relative, against the plain way in float64, in Euclidean norm. Without ``--weights`` the
discriminators are random, of the widths that the authors released.
"""

import copy
import tempfile
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
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
from torch import nn

from nriqa_plugin.iqa import mdf
from nriqa_plugin.losses import MDFLoss
from nriqa_plugin.losses.iqa_loss import pink_noise
from nriqa_plugin.mdf import Discriminator, load_mdf, save_mdf
from nriqa_plugin.mdf.folded import fold_batch_norm

WIDTHS = (32, 32, 32, 32, 64, 64, 64, 64)


def main():
    parser = arguments(__doc__, runs=8)
    parser.add_argument('--weights', help='discriminators; default: random ones')
    parser.add_argument('--shape', type=int, nargs=2, default=[4, 96], metavar=('BATCH', 'SIDE'), help='of the images')
    parser.add_argument('--variants', action='store_true', help='also ways that were tried')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        file = options.weights or random_discriminators(Path(folder) / 'mdf.pth')
        images = pairs(*options.shape, options.device)
        if options.memory_of:
            print(memory(options.memory_of, file, images))
        else:
            report(file, images, options)


def report(file, images, options):
    print(f'{options.shape[0]} x 3 x {options.shape[1]} x {options.shape[1]}; {circumstances(options)}')
    loss = MDFLoss(weights=file)
    print(f'{len(loss.scorer.scales)} discriminators')
    exact = exact_gradient(file, images)
    plain = build('plain', file, options.device, images)
    peak = memory_of_own_process('plain')
    print(f'{"":22s}{"ms":>8s}{"MB":>8s}  plain / this, memory, error of the gradient')
    print(f'{"plain":22s}{"":8s}{peak:8.0f}  {"":24s}{relative_error(plain().double(), exact):8.0e}')
    for side in SIDES[1:] if options.variants else ['ours']:
        step = build(side, file, options.device, images)
        rows = paired_seconds(plain, step, options.runs, options.device)
        mine, error = memory_of_own_process(side), relative_error(step().double(), exact)
        print(f'{side:22s}{milliseconds(rows)[1]:8.0f}{mine:8.0f}  {ratio_text(rows):24s}{mine / peak:6.2f}{error:8.0e}'
              f'  (plain {milliseconds(rows)[0]:.0f} ms)', flush=True)  # fmt: skip


def memory(side, file, images):
    """Peak in MB of two steps above what was held before."""
    step = build(side, file, images[0].device.type, images)
    small = [image[:1, :, :32, :32].contiguous() for image in images]
    build(side, file, images[0].device.type, small)()  # what only the first call takes
    peak = Peak(images[0].device.type)
    for _ in range(2):
        step()
    return peak.megabytes()


SIDES = ['plain', 'folded', 'autograd', 'ours', 'ours, image by image', 'ours, whole batch', 'ours, bf16']


def build(side, file, device, images):
    """A function that takes one step and returns the prediction's gradient."""
    pixels = {'ours, image by image': 1, 'ours, whole batch': 1 << 40}.get(side)
    if side.startswith('ours'):
        loss = MDFLoss(weights=file, precision='bf16' if side.endswith('bf16') else 'fp32').to(device)
    elif side == 'autograd':
        networks = [[network] for network in (Folded(d).to(device) for d in discriminators(file))]
    else:
        kind = Plain if side == 'plain' else Folded
        networks = [[kind(d).to(device) for d in discriminators(file)]]

    def step():
        pred = images[0].clone().requires_grad_()
        if side.startswith('ours'):
            with mock.patch.dict(mdf.PIXELS, {'cpu': pixels, 'cuda': pixels} if pixels else {}):
                loss(pred, images[1]).backward()
        else:
            for group in networks:
                plain_distance(group, pred, images[1]).backward()
        return pred.grad

    return step


def plain_distance(networks, pred, target):
    """The loss as the paper's authors released it: mean of squares per tap, sum over taps and scales."""
    total = 0
    for network in networks:
        with torch.no_grad():
            wanted = network(target)
        total = total + sum((a - b).square().mean((1, 2, 3)) for a, b in zip(network(pred), wanted, strict=True))
    return total.mean()


class Plain(nn.Module):
    """A discriminator's three taps."""

    def __init__(self, discriminator):
        super().__init__()
        self.network = copy.deepcopy(discriminator).requires_grad_(False).eval()

    def forward(self, images):
        head = self.network.head(images)
        body = self.network.body(head)
        return head, body, self.network.tail(body)


class Folded(Plain):
    """The same with batch norm in the convolutions, in channels-last."""

    def __init__(self, discriminator):
        super().__init__(discriminator)
        blocks = [self.network.head, *self.network.body]
        self.layers = nn.ParameterList(part.float() for block in blocks for part in fold_batch_norm(block))
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images):
        x = images.contiguous(memory_format=torch.channels_last)
        taps = []
        for weight, bias in zip(self.layers[::2], self.layers[1::2], strict=True):
            x = F.leaky_relu_(F.conv2d(x, weight, bias), 0.2)
            taps.append(x)
        return taps[0], taps[-1], self.network.tail(x)


def exact_gradient(file, images):
    """The plain way in float64, image by image."""
    networks = [Plain(d).double().to(images[0].device) for d in discriminators(file)]
    gradients = []
    for pred, target in zip(*(part.double().split(1) for part in images), strict=True):
        pred = pred.clone().requires_grad_()
        plain_distance(networks, pred, target).backward()
        gradients.append(pred.grad / len(images[0]))
    return torch.cat(gradients)


def discriminators(file):
    return load_mdf('weights', file)[0][:8]


def random_discriminators(file):
    torch.manual_seed(0)
    networks = [Discriminator(width) for width in WIDTHS]
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.1, 1)
    save_mdf(file, networks, {'range': [0, 1]})
    return file


def pairs(batch, side, device):
    """Images and the same with slight noise."""
    generator = torch.Generator().manual_seed(0)
    target = pink_noise((batch, 3, side, side), generator)
    pred = (target + 0.05 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    return pred.to(device), target.to(device)


if __name__ == '__main__':
    main()
