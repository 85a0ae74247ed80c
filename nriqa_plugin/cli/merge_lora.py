"""``nriqa merge-lora``: a plain checkpoint from one with LoRA weights."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

EXAMPLES = """Examples:

nriqa merge-lora experiments/my_run/models/net_g_latest.pth --out plain.pth

nriqa merge-lora net_g_5000.pth --scale 0.5 --out half.pth

nriqa merge-lora work_dirs/my_run/iter_5000.pth --base swinir_x4.pth --out plain.pth"""


def merge_lora(
    checkpoint: Annotated[
        Path, typer.Argument(help='Checkpoint of a training with LoRANet, of either host.', show_default=False)
    ],
    out: Annotated[Path, typer.Option('--out', '-o', help='The plain checkpoint to write.', show_default=False)],
    scale: Annotated[
        float, typer.Option(help='How much of the trained change, from 0 (the base) to 1 (all of it).')
    ] = 1.0,
    base: Annotated[
        Path | None,
        typer.Option(
            help="The base's plain checkpoint, for one written with save: adapter. Default: the file that it names.",
            show_default=False,
        ),
    ] = None,
):
    """A plain checkpoint that the stock test scripts load, with the LoRA weights merged into the base's.

    All of params and params_ema (BasicSR), generator and generator_ema (mmagic) are merged. Steps of --scale walk
    between the base's outputs and those of the trained network.
    """
    import torch

    from nriqa_plugin.checks import atomic_path
    from nriqa_plugin.lora.base_file import MARK
    from nriqa_plugin.lora.merge import merge_checkpoint

    if out.resolve() == checkpoint.resolve() or (base and out.resolve() == base.resolve()):
        raise ValueError(f'--out {out} would overwrite a file that is read')
    merged = merge_checkpoint(str(checkpoint), _load(checkpoint), scale, base and str(base))
    with atomic_path(out) as temporary:
        torch.save(merged, temporary)
    names = ', '.join(key for key in merged if key not in (MARK, 'meta'))
    Console().print(f'Written: {out} ({names})', markup=False, highlight=False, soft_wrap=True)


def _load(checkpoint):
    """mmengine's checkpoints hold objects of its own, which its adapter lets through, and nothing else."""
    from nriqa_plugin.checks import load_weights

    try:
        return load_weights('checkpoint', checkpoint)
    except ValueError as error:
        if 'mmengine' not in str(error):
            raise
        from nriqa_plugin.mmagic.resume import trust_host_checkpoints

        trust_host_checkpoints()
        return load_weights('checkpoint', checkpoint)
