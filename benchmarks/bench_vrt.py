"""Time and peak memory of a small VRT: fused attention or not, activation checkpointing or not.

    python benchmarks/bench_vrt.py [--threads 1] [--runs 8] [--device cpu] [--side 64] [--frames 7] [--sides ...]

One forward and backward pass (``train``) or one forward pass without gradients (``infer``) of ``SMALL`` on a clip
``(1, frames, 3, side, side)``, each against explicit attention without checkpointing, in turn in one process. Peaks are
taken in a fresh process each, above what it held before the pass. The flow network is frozen: it is the same in all.
"""

import torch
from paired import Peak, arguments, circumstances, memory_of_own_process, milliseconds, paired_seconds, ratio_text

from nriqa_plugin.archs.vrt import SMALL, VRT

EVERYWHERE = {'use_checkpoint_attn': True, 'use_checkpoint_ffn': True}
BASE = {'use_sdpa': False}  # what `train` and `infer` are compared with
SIDES = {
    'train': BASE,
    'infer': BASE,
    'train sdpa': {'use_sdpa': True},
    'train explicit, attention checkpointed': {'use_sdpa': False, 'use_checkpoint_attn': True},
    'train sdpa, attention checkpointed': {'use_sdpa': True, 'use_checkpoint_attn': True},
    'train explicit, all checkpointed': {'use_sdpa': False, **EVERYWHERE},
    'train sdpa, all checkpointed': {'use_sdpa': True, **EVERYWHERE},
    'infer sdpa': {'use_sdpa': True},
}


def main():
    parser = arguments(__doc__, runs=8)
    parser.add_argument('--side', type=int, default=64, help='px of the LR frames')
    parser.add_argument('--frames', type=int, default=7)
    parser.add_argument('--sides', nargs='+', choices=SIDES, default=list(SIDES), help='rows of the table')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        step = make_step(options.memory_of, options)
        peak = Peak(options.device)
        step()
        print(peak.megabytes())
        return
    print(circumstances(options))
    print(f'{"":42s}{"ms":>8s}   time / explicit   {"peak, MB":>12s}')
    for name in options.sides:
        kind = name.split()[0]
        if name == kind:
            print(f'{name + " explicit":42s}{"":8s}   {"1":20s}{memory_of_own_process(name):9.0f}', flush=True)
            continue
        step, base = make_step(name, options), make_step(kind, options)
        rows = paired_seconds(step, base, options.runs, options.device)
        text = ratio_text(rows)
        print(f'{name:42s}{milliseconds(rows)[0]:8.0f}   {text:20s}{memory_of_own_process(name):9.0f}', flush=True)


def make_step(name, options):
    """A function that does one pass, on the same weights and clip for every side."""
    torch.manual_seed(0)
    net = VRT(**{**SMALL, **SIDES[name]}).to(options.device)
    net.spynet.requires_grad_(False)
    clip = torch.rand(1, options.frames, 3, options.side, options.side, device=options.device)
    if name.startswith('infer'):
        return torch.no_grad()(lambda: net.eval()(clip))

    def step():
        net.zero_grad(set_to_none=True)
        net(clip).square().mean().backward()

    return step


if __name__ == '__main__':
    main()
