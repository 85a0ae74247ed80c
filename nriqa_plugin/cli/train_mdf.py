"""``nriqa train-mdf``: the discriminators of the MDF loss, trained on one image."""

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nriqa_plugin.cli.judges import parse_judge
from nriqa_plugin.cli.long_run import Interruptible, ScaleProgress, WarningsAsNotes
from nriqa_plugin.cli.tables import show_notes

EXAMPLES = """Examples:

nriqa train-mdf --image kodim07.png --task sisr --out mdf_sisr.pth

nriqa train-mdf --image kodim07.png --task jpeg --out mdf_jpeg.pth --scales 6 --iterations 300 --crop 48

nriqa train-mdf --image a.png --image b.png --task my_package.spoil:salt_and_pepper --out mdf_salt.pth

nriqa train-mdf --image a.png --task denoise --out mdf.pth --generator my_package.networks:Net:width=32"""


def train_mdf(
    image: Annotated[
        list[Path], typer.Option(help='Training image, 8-bit RGB. Repeatable: taken in turn.', show_default=False)
    ],
    task: Annotated[
        str,
        typer.Option(
            help='sisr, denoise, jpeg, or package.module:function, a distortion (images, generator) -> images '
            'on (N, 3, H, W) in [0, 1].',
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            '--out', '-o', help='The file of discriminators (.pth); picture and curves beside it.', show_default=False
        ),
    ],
    scales: Annotated[int, typer.Option(help='K; lowered with a warning when the image is too small.')] = 8,
    rho: Annotated[float, typer.Option(help='Ratio of neighbouring scales.')] = 2,
    iterations: Annotated[int, typer.Option(help='At each scale.')] = 3000,
    alpha: Annotated[float, typer.Option(help="Weight of the generator's mean squared error.")] = 100,
    widths: Annotated[
        str | None,
        typer.Option(
            help='Hidden channels: one number, or one for each scale, coarsest first, as 32,32,64. '
            'Default: 32 for four scales, 64 for four, then 128.',
            show_default=False,
        ),
    ] = None,
    adversarial: Annotated[str, typer.Option(help='wgan-gp (SinGAN) or bce (the text of the paper).')] = 'wgan-gp',
    generator: Annotated[
        str,
        typer.Option(
            help='singan; or package.module:Class, basicsr:NAME, mmagic:NAME with :key=value,... behind it: '
            'a network that keeps the size, (N, 3, H, W) in [0, 1].'
        ),
    ] = 'singan',
    crop: Annotated[
        int | None,
        typer.Option(
            help='Train on random pieces of at most this many px a side instead of whole images: bounds the '
            'time of the fine scales. Ours, not in the paper.',
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help='auto, cpu, cuda, cuda:1, ...')] = 'auto',
    seed: Annotated[int, typer.Option(help='Of everything random.')] = 0,
    checkpoint_every: Annotated[int, typer.Option(help='Iterations between checkpoints.')] = 100,
    restart: Annotated[bool, typer.Option('--restart', help='Start anew; replaces what is there.')] = False,
    picture: Annotated[bool, typer.Option(help='Draw OUT.png: images, maps of activations, losses.')] = True,
):
    """Train the discriminators of the MDF loss for a task, on one image or a few (Mustafa et al., WACV 2022).

    Writes OUT, its curves as CSV and a picture beside it. Interrupt it with
    Ctrl-C or kill it: the same command goes on where the last checkpoint was.
    """
    from nriqa_plugin.checks import import_extra
    from nriqa_plugin.evaluation.images import read_image
    from nriqa_plugin.mdf.training import Stopped
    from nriqa_plugin.mdf.training import train_mdf as train

    if picture:
        try:
            import_extra('matplotlib', 'report', 'the picture')
        except ImportError as error:
            show_notes([f'{error}; there will be no picture'])
            picture = False
    if out.suffix != '.pth':
        raise ValueError(f'--out {out}: must end in .pth')
    for path in (out.with_suffix('.png'), out.with_suffix('.csv')):
        if any(path.exists() and path.samefile(given) for given in image if given.exists()):
            raise ValueError(
                f'--out {out}: {path} would be overwritten, which is a training image; choose another name'
            )
    names = [path.name for path in image]
    if len(set(names)) < len(names):
        raise ValueError(f'two images of one name: {", ".join(names)}')
    options = {'scales': scales, 'rho': rho, 'iterations': iterations, 'alpha': alpha, 'seed': seed, 'crop': crop}
    options |= {'widths': parse_widths(widths), 'adversarial': adversarial, 'generator': parse_generator(generator)}
    images = {path.name: read_image(path) for path in image}
    written = [out]

    def finish(trained):
        written.extend(write_extras(out, trained, picture))

    with Interruptible() as interrupted, ScaleProgress() as progress, WarningsAsNotes(show_notes):
        try:
            train(out, images, task, device, checkpoint_every, restart, progress, interrupted, finish, **options)
        except Stopped as stopped:
            progress.close()
            same = 'without --restart ' if restart else ''
            show_notes([f'{stopped}. The same command {same}goes on from there; --restart would start anew'])
            raise typer.Exit(130) from stopped
    Console().print(f'Written: {", ".join(map(str, written))}', markup=False, highlight=False, soft_wrap=True)


def write_extras(out, trained, picture):
    """The curves as CSV, and the picture; their paths."""
    from nriqa_plugin.evaluation.mdf_picture import draw_training, write_curves
    from nriqa_plugin.mdf.scale_training import COLUMNS

    files = [out.with_suffix('.csv')]
    write_curves(files[0], COLUMNS, trained.curves)
    if picture:
        files.append(out.with_suffix('.png'))
        draw_training(files[1], trained.samples, COLUMNS, trained.curves)
    return files


def parse_widths(text):
    """``32,32,64`` as a list of whole numbers, ``None`` as ``None``.

    Raises:
        ValueError: something else.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(',')]
    except ValueError as error:
        raise ValueError(f'--widths {text}: must be whole numbers, for example 32,32,64') from error


def parse_generator(text):
    """A generator's name or dotted path as it is; a host's registered network, or one with options, as a factory."""
    name, options = parse_judge(text, '--generator')
    host = name.partition(':')[0]
    return RegisteredNetwork(name, options) if host in ('basicsr', 'mmagic') or options else name


class RegisteredNetwork:
    """Builds ``basicsr:NAME``, ``mmagic:NAME`` or ``package.module:Class`` with options, anew at each call."""

    def __init__(self, name, options):
        self.name, self.options = name, options

    def __repr__(self):
        return ':'.join([self.name, *([','.join(f'{k}={v}' for k, v in self.options.items())] if self.options else [])])

    def __call__(self):
        from nriqa_plugin.checks import import_dotted, import_extra, in_place, unknown_name

        host, _, name = self.name.partition(':')
        with in_place(f'--generator {self}'):
            if host == 'basicsr':
                import_extra('basicsr', 'basicsr', 'this generator')
                importlib.import_module('nriqa_plugin.basicsr')
                registry = importlib.import_module('basicsr.utils.registry').ARCH_REGISTRY
                known = dict(iter(registry))
            elif host == 'mmagic':
                import_extra('mmagic', 'mmagic', 'this generator')
                importlib.import_module('nriqa_plugin.mmagic')
                known = importlib.import_module('mmagic.registry').MODELS.module_dict
            else:
                return import_dotted('generator', self.name)(**self.options)
            name = name if name in known else f'{name}_{host}'  # so called when another package had the name first
            if name not in known:
                name = name.removesuffix(f'_{host}')
                raise unknown_name(f'network of {host}:', name, known)
            return known[name](**self.options)
