"""Modulated deformable convolution, forward and backward, against torchvision's own on a CPU.

    python benchmarks/bench_deformable.py [--threads 1] [--runs 9]

Shapes are those of the alignment in BasicVSR++ (64 channels, 16 groups), a small one of it, and VRT (120 channels, 16
groups). Both sides alternate in one process.
"""

import torch
from paired import arguments, circumstances, milliseconds, paired_seconds, ratio_text
from torchvision import ops

from nriqa_plugin.archs.deformable import deform_conv2d

SHAPES = {
    'BasicVSR++ 64 channels': (128, 64, 16, 64),
    'BasicVSR++ 16 channels': (32, 16, 16, 64),
    'VRT 120 channels': (120, 60, 12, 64),
}  # in, out, groups, side


def main():
    options = arguments(__doc__, runs=9).parse_args()
    torch.set_num_threads(options.threads)
    print(circumstances(options))
    print(f'{"":24s}{"ours, ms":>10s}{"torchvision, ms":>17s}   ours / torchvision')
    for name, (channels, out, groups, side) in SHAPES.items():
        tensors = operands(channels, out, groups, side)
        rows = paired_seconds(step(deform_conv2d, tensors), step(ops.deform_conv2d, tensors), options.runs)
        ours, theirs = milliseconds(rows)[:2]
        print(f'{name:24s}{ours:10.0f}{theirs:17.0f}   {ratio_text(rows)}')


def operands(channels, out, groups, side):
    """Input, offset, weight and mask, which all want gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (1, channels, side, side),
        (1, 18 * groups, side, side),
        (out, channels, 3, 3),
        (1, 9 * groups, side, side),
    )
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def step(function, tensors):
    """A forward and backward pass."""
    image, offset, weight, mask = tensors

    def run():
        torch.autograd.grad(function(image, offset, weight, padding=1, mask=mask).sum(), tensors)

    return run


if __name__ == '__main__':
    main()
