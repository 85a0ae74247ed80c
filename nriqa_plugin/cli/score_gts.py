"""``nriqa score-gts``: scores of all candidate ground truths, once, for training without a judge."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nriqa_plugin.cli.judges import judge_of

EXAMPLES = """Examples:

nriqa score-gts candidates -m musiq -o musiq.jsonl

nriqa score-gts candidates -m musiq -o musiq_256.jsonl --patch 256 --stride 64

torchrun --nproc_per_node 4 -m nriqa_plugin score-gts HGGT/Train --layout hggt -m musiq -o hggt_musiq.jsonl"""


def score_gts(
    root: Annotated[Path, typer.Argument(help='Folder with gt/, gt_01/, gt_02/, ...', show_default=False)],
    metric: Annotated[
        str, typer.Option('--metric', '-m', help='Judge: NAME or NAME:key=value,key=value.', show_default=False)
    ],
    out: Annotated[Path, typer.Option('--out', '-o', help='The file of scores.', show_default=False)],
    patch: Annotated[
        int | None,
        typer.Option(help="Score patches of this side in px: the training's gt_size. Default: whole images."),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="Distance of the patches in px: the training's crop_stride. Default: half a patch."),
    ] = None,
    layout: Annotated[str, typer.Option(help='folders, index or hggt.')] = 'folders',
    index: Annotated[Path | None, typer.Option(help='With --layout index: the CSV or JSONL file.')] = None,
    lmdb: Annotated[
        bool, typer.Option('--lmdb', help='The folders are gt.lmdb, gt_01.lmdb, ... as BasicSR makes them.')
    ] = False,
    chunk: Annotated[int, typer.Option(help='Patches that are scored at a time.')] = 8,
    device: Annotated[
        str, typer.Option(help='auto, cpu, cuda, cuda:1, ... With torchrun every process has one.')
    ] = 'auto',
):
    """Score all candidate ground truths with a judge, once.

    A training with `scores: FILE` then needs no judge: exactly the same choice
    by whole images (sma, smp), and by patches (amo) where its crops lie on the
    grid. An interrupted run goes on where it stopped; with torchrun the
    candidates are shared out among the processes.
    """
    from nriqa_plugin.multigt.candidate_set import describe
    from nriqa_plugin.multigt.layout import read_sets
    from nriqa_plugin.multigt.scoring import score_candidates
    from nriqa_plugin.multigt.stored_images import ImageFiles, LmdbImages

    if patch is None and stride is not None:
        raise ValueError('--stride needs --patch')
    stride = max(1, patch // 2) if patch and stride is None else stride
    sets, _ = read_sets(str(root), layout, index and str(index), need_positive=False, lmdb=lmdb, training=False)
    console = Console(stderr=True)
    with _processes(device) as (rank, place):
        if rank == 0:
            console.print(describe(sets), markup=False, highlight=False, soft_wrap=True)
        columns = (TextColumn('scoring'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=rank or not console.is_terminal) as bar:
            task = bar.add_task('', total=None)

            def told(done, total):
                bar.update(task, completed=done, total=total)

            stored = LmdbImages(root) if lmdb else ImageFiles()
            counts = score_candidates(sets, judge_of(metric), out, patch, stride, place, chunk, told, stored)
        text = f'{out}: {counts["scored"]} candidates scored, {counts["kept"]} were there already'
        who = f'process {rank}: ' if 'RANK' in os.environ else ''
        Console().print(who + text, markup=False, highlight=False, soft_wrap=True)


class _processes:
    """Joins the processes that torchrun has started, if it has; gives the rank and this process's device."""

    def __init__(self, device):
        self.device, self.joined = device, int(os.environ.get('WORLD_SIZE', 1)) > 1

    def __enter__(self):
        import torch

        from nriqa_plugin.checks import check_device

        place = self.device
        if self.joined:
            torch.distributed.init_process_group('gloo')  # they only wait for each other
            if place == 'auto' and torch.cuda.is_available():
                place = f'cuda:{int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()}'
        return int(os.environ.get('RANK', 0)) if self.joined else 0, check_device(place)

    def __exit__(self, *_):
        import torch

        if self.joined:
            torch.distributed.destroy_process_group()
