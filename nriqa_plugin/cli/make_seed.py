"""``nriqa make-seed``: synthetic images to train MDF discriminators on."""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

EXAMPLES = """Examples:

nriqa make-seed pink-noise --out pink.png

nriqa make-seed contrast-rings --size 1408x1408 --seed 3 --out rings.png

nriqa make-seed pyramid-permutation --from kodim07.png --out permuted.png"""


def make_seed(
    kind: Annotated[str, typer.Argument(help='pyramid-permutation, pink-noise or contrast-rings.', show_default=False)],
    out: Annotated[Path, typer.Option('--out', '-o', help='The image (PNG).', show_default=False)],
    size: Annotated[
        str | None,
        typer.Option(help='HEIGHTxWIDTH. Default: 512x768, or the size of --from.', show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help='Of the random numbers.', min=0)] = 0,
    source: Annotated[
        Path | None,
        typer.Option('--from', help='The natural image of pyramid-permutation.', show_default=False),
    ] = None,
):
    """Make one of the synthetic images on which the paper trains MDF beside natural ones.

    pyramid-permutation: the bands of a natural image's pyramid, each in random
    order. pink-noise: 1/f noise. contrast-rings: rings of many frequencies,
    contrasts and colours.
    """
    from nriqa_plugin.evaluation.images import read_image, write_image
    from nriqa_plugin.mdf.seeds import make_seed as make

    if out.suffix.lower() != '.png':
        raise ValueError(f'--out {out}: must end in .png, other formats may lose what was made')
    image = None if source is None else read_image(source)
    if source is not None and out.exists() and out.samefile(source):
        raise ValueError(f'--out {out} is the image of --from, which would be replaced; choose another name')
    made = make(kind, parse_size(size), seed, image)
    write_image(out, made)
    Console().print(
        f'Written: {out}, {made.shape[1]}x{made.shape[2]} (height x width)', markup=False, soft_wrap=True,
        highlight=False,
    )  # fmt: skip


def parse_size(text):
    """``512x768`` as height and width, ``None`` as ``None``.

    Raises:
        ValueError: something else, or a side below 11 px, which no discriminator can see.
    """
    if text is None:
        return None
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if not match or min(int(side) for side in match.groups()) < 11:
        raise ValueError(f'--size {text}: must be HEIGHTxWIDTH of at least 11 px a side, for example 512x768')
    return int(match[1]), int(match[2])
