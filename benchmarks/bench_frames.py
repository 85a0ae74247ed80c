"""One loss step on the 7 frames of a clip, forward and backward: all frames in one call against frame by frame.

    python benchmarks/bench_frames.py --cnniqa CNNIQA-LIVE.pth --squeezenet squeezenet1_1.pth [--runs 20] [--memory]
    python benchmarks/bench_frames.py ... --score           # without gradients

Both sides are our loss, ``frames: all`` of a clip ``(N, T, 3, H, W)`` against T calls with its frames and one backward
pass through their mean. They alternate in one process; ratios are medians over the pairs with their quartiles, and
more than 1 means that one call is faster. Memory is the peak of a process of its own above what it held before.
"""

import torch
from paired import Peak, arguments, circumstances, memory_of_own_process, milliseconds, paired_seconds, ratio_text

from nriqa_plugin.losses import FRIQALoss, NRIQALoss
from nriqa_plugin.losses.iqa_loss import pink_noise

SIDES = (64, 128, 192, 256)
JUDGES = ('cnniqa', 'lpips', 'niqe')


def main():
    parser = arguments(__doc__, runs=20)
    parser.add_argument('judges', nargs='*', default=list(JUDGES), help=f'of {", ".join(JUDGES)}')
    parser.add_argument('--cnniqa', help="CNNIQA's weights")
    parser.add_argument('--squeezenet', help="the backbone's weights of lpips")
    parser.add_argument('--frames', type=int, default=7)
    parser.add_argument('--batch', type=int, default=1, help='clips')
    parser.add_argument('--sides', type=int, nargs='*', default=list(SIDES), help='of the frames in px')
    parser.add_argument('--memory', action='store_true', help='measure the peaks of memory, too')
    parser.add_argument('--score', action='store_true', help='forward only, without gradients')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(memory(options))
        return
    print(f'{options.batch} x {options.frames} frames; {circumstances(options)}')
    print(f'{"judge":10s}{"px":>5s}{"ms by frame":>14s}{"ms one call":>14s}   by frame / one call')
    for judge in options.judges:
        loss = built(judge, options)
        for side in options.sides:
            if side < loss.scorer.min_side:
                continue
            whole, single = steps(loss, side, options)
            difference = ((whole() - single()).norm() / single().norm()).item()
            if difference > 1e-3:
                raise ValueError(f'{judge}: the two results differ by {difference:.1e}')
            rows = paired_seconds(single, whole, options.runs, options.device)
            ms = milliseconds(rows)
            peaks = ''
            if options.memory:
                one, many = (memory_of_own_process(f'{way}/{judge}/{side}') for way in ('whole', 'single'))
                peaks = f', {many:.0f} against {one:.0f} MB'
            print(f'{judge:10s}{side:5d}{ms[0]:14.1f}{ms[1]:14.1f}   {ratio_text(rows)}{peaks}', flush=True)


def built(judge, options):
    if judge == 'lpips':
        return FRIQALoss('lpips', weights=options.squeezenet, options={'net': 'squeeze'}).to(options.device)
    return NRIQALoss(judge, weights=options.cnniqa if judge == 'cnniqa' else None).to(options.device)


def steps(loss, side, options):
    """The two ways as functions that take a step and return the clip's gradient, or with ``--score`` the value."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, options.frames, 3, side, side)
    clip, target = (pink_noise(shape, generator).to(options.device) for _ in range(2))

    @torch.no_grad()
    def score_whole():
        return loss(clip, target)

    @torch.no_grad()
    def score_single():
        return torch.stack([loss(clip[:, t], target[:, t]) for t in range(options.frames)]).mean()

    if options.score:
        return score_whole, score_single

    def whole():
        pred = clip.clone().requires_grad_()
        loss(pred, target).backward()
        return pred.grad

    def single():
        pred = clip.clone().requires_grad_()
        values = [loss(pred[:, t], target[:, t]) for t in range(options.frames)]
        torch.stack(values).mean().backward()
        return pred.grad

    return whole, single


def memory(options):
    way, judge, side = options.memory_of.split('/')
    ways = dict(zip(('whole', 'single'), steps(built(judge, options), int(side), options), strict=True))
    peak = Peak(options.device)
    for _ in range(2):
        ways[way]()
    return peak.megabytes()


if __name__ == '__main__':
    main()
