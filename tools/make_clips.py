"""Clips for video super-resolution out of videos, folders of frames or still images: GT, bicubic LQ and lists.

Clips of seven frames, one after the other, in ``OUT/GT``, ``OUT/BIx4`` and ``OUT/meta_info.txt``::

    python tools/make_clips.py cut film.mp4 frames/ --out clips

Training and test on disjoint parts of the same frames, in ``OUT/train`` and ``OUT/test``::

    python tools/make_clips.py cut frames/ --out clips --train-region 0,0,608,720 --test-region 672,0,608,720

Synthetic clips, a window that moves over photographs (their names begin with ``synthetic_``)::

    python tools/make_clips.py cut photos/ --out clips --moving-window 256x256 --speed 4 --windows 3

A fixed test list, the same for everybody who has the official list::

    python tools/make_clips.py pick meta_info_Vimeo90K_test_GT.txt --count 100 --out vimeo90k_test100.txt
"""

import argparse
import logging
import sys
from pathlib import Path

from nriqa_plugin.checks import atomic_path, check_file
from nriqa_plugin.clips.making import LAYOUTS, Making, make_clips
from nriqa_plugin.clips.moving_window import MovingWindow
from nriqa_plugin.clips.picking import pick
from nriqa_plugin.clips.regions import GAP, read_region
from nriqa_plugin.clips.sources import find_sources

OF_WINDOWS = {'speed': 'speed', 'subpixel': 'subpixel', 'windows': 'count', 'seed': 'seed'}  # options, MovingWindow's


def main(arguments=None):
    """Run one of the two commands; what is wrong with the input ends in one line and exit status 2."""
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)


def cut(options):
    """Cut clips out of the sources."""
    splits = {'train': options.train_region, 'test': options.test_region}
    regions = {split: read_region(f'--{split}-region', text, options.scale) for split, text in splits.items() if text}
    if len(regions) == 1:
        raise ValueError('--train-region and --test-region belong together')
    if options.gap is not None and not regions:
        raise ValueError('--gap is of --train-region and --test-region')
    window, gap = _window(options), GAP if options.gap is None else options.gap
    making = Making(options.frames, options.step, options.scale, options.names, regions, gap, window)
    counts = make_clips(find_sources(options.sources, stills=window is not None), options.out, making)
    for split, count in counts.items():
        print(f'{count} clips of {making.frames} frames in {options.out / split}')


def pick_list(options):
    """Write the picked lines of a list, and the other ones where asked for."""
    lines = [line for line in check_file('LIST', options.list).read_text(encoding='utf-8').splitlines() if line.strip()]
    names = [line.split()[0] for line in lines]
    chosen = set(pick(names, options.count, options.seed))
    for path, wanted in ((options.out, True), (options.rest, False)):
        if path is not None:
            found = [line for name, line in zip(names, lines, strict=True) if (name in chosen) == wanted]
            with atomic_path(path) as temporary:
                temporary.write_text(''.join(f'{line}\n' for line in found), encoding='utf-8')
            print(f'{len(found)} of {len(lines)} in {path}')


def _window(options):
    given = {option: getattr(options, option) for option in OF_WINDOWS if getattr(options, option) is not None}
    if options.moving_window is None:
        if given:
            raise ValueError(f'--{next(iter(given))} is of --moving-window')
        return None
    if options.step is not None:
        raise ValueError('--step is of videos and frames, not of --moving-window')
    width, _, height = options.moving_window.partition('x')
    if not (width.isdigit() and height.isdigit()):
        raise ValueError(f'--moving-window must be WIDTHxHEIGHT in px, got {options.moving_window!r}')
    given = {OF_WINDOWS[option]: value for option, value in given.items()}
    return MovingWindow(int(width), int(height), **given).check()


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser('cut', help='cut clips out of videos, frames or stills')
    command.set_defaults(run=cut)
    command.add_argument('sources', nargs='+', type=Path, help='videos, folders of frames or of videos; or stills')
    command.add_argument('--out', required=True, type=Path, help='folder; what is finished in it is not made again')
    command.add_argument('--frames', type=int, default=7, help='of a clip (7)')
    command.add_argument('--step', type=int, help='frames from start to start; smaller than --frames: clips overlap')
    command.add_argument('--scale', type=int, default=4, help='of the bicubic downscaling (4)')
    command.add_argument('--names', choices=LAYOUTS, default='plain', help='vimeo: NAME/0000/im1.png')
    command.add_argument('--train-region', help='LEFT,TOP,WIDTH,HEIGHT in px of GT')
    command.add_argument('--test-region', help='the same for the test')
    command.add_argument('--gap', type=int, help=f'px that the regions lie apart at least ({GAP})')
    command.add_argument('--moving-window', help='WIDTHxHEIGHT: sources are stills, the window moves over them')
    command.add_argument('--speed', type=float, help='of the window, px a frame at most (4)')
    command.add_argument('--subpixel', action='store_true', default=None, help='do not round its positions to px')
    command.add_argument('--windows', type=int, help='clips of a still (1)')
    command.add_argument('--seed', type=int, help='of the windows (0)')
    command = commands.add_parser('pick', help='pick a fixed test list out of a list')
    command.set_defaults(run=pick_list)
    command.add_argument('list', type=Path, help='a list of clips, one a line, the name first')
    command.add_argument('--count', required=True, type=int)
    command.add_argument('--seed', type=int, default=0)
    command.add_argument('--out', required=True, type=Path, help='the picked lines')
    command.add_argument('--rest', type=Path, help='the other lines')
    return parser


if __name__ == '__main__':
    main()
