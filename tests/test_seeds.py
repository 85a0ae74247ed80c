"""The synthetic training images of MDF, by what defines them."""

import itertools

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.evaluation.images import read_image, write_image
from nriqa_plugin.mdf.resize import resize
from nriqa_plugin.mdf.seeds import BY_NAME, laplacian_bands, make_seed, pyramid_permutation
from tests.test_distortions import generator, smooth_images


def natural():
    """An image with edges: a bright disc on a gradient, in [0.2, 0.8], coloured."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 128), indexing='ij')
    disc = (torch.hypot(rows, columns) < 0.5).float()
    return torch.stack([0.3 + 0.3 * disc, 0.5 + 0.1 * rows, 0.5 + 0.1 * columns - 0.2 * disc])


def seed_of(kind, seed=0, **options):
    image = natural() if kind == 'pyramid-permutation' else None
    return make_seed(kind, seed=seed, image=image, **options)


@pytest.mark.parametrize('kind', BY_NAME)
def test_seeds_are_colour_images_and_a_function_of_the_seed(kind):
    first, again, other = seed_of(kind), seed_of(kind), seed_of(kind, seed=1)
    assert first.shape == ((3, 96, 128) if kind == 'pyramid-permutation' else (3, 512, 768))
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert (first - first[:1]).abs().max() > 0.05
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert seed_of(kind, size=(40, 57)).shape == (3, 40, 57)


def test_bands_add_up_to_the_image():
    image = smooth_images(1)[0]
    *bands, total = laplacian_bands(image)
    assert len(bands) == 2  # 40 -> 20 -> 10 px
    for band in reversed(bands):
        total = resize(total, band.shape[-2:]) + band
    torch.testing.assert_close(total, image, atol=1e-6, rtol=0)


def test_permutation_keeps_the_finest_band_but_for_its_order(monkeypatch):
    """With one band the result is the image's own pixels in another order, colours intact."""
    monkeypatch.setattr('nriqa_plugin.mdf.seeds.COARSEST', 1000)
    image = natural()
    result = pyramid_permutation(image, generator())
    assert not torch.equal(result, image)
    pixels, permuted = (sorted(map(tuple, x.flatten(1).T.tolist())) for x in (image, result))
    assert pixels == permuted


def test_permutation_destroys_structure_and_keeps_the_mean():
    image, result = natural(), seed_of('pyramid-permutation')
    torch.testing.assert_close(result.mean((1, 2)), image.mean((1, 2)), atol=0.05, rtol=0)
    correlation = np.corrcoef(image[0].flatten(), result[0].flatten())[0, 1]
    assert abs(correlation) < 0.5


def test_amplitude_of_pink_noise_falls_as_one_over_f():
    luminance = make_seed('pink-noise', (512, 512)).mean(0).double().numpy()
    spectrum = np.abs(np.fft.fft2(luminance - luminance.mean())) ** 2
    axis = np.fft.fftfreq(512)
    radius = np.hypot(axis[:, None], axis[None])
    edges = np.geomspace(4 / 512, 0.3, 12)
    power = [spectrum[(radius >= low) & (radius < high)].mean() for low, high in itertools.pairwise(edges)]
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(power), 1)[0]
    assert slope == pytest.approx(-2, abs=0.15)  # power is amplitude squared
    assert abs(luminance.mean() - 0.5) < 0.03


def test_rings_are_round_and_differ_from_cell_to_cell():
    rings = make_seed('contrast-rings', (288, 288))
    contrasts = torch.stack([cell.std((1, 2)).max() for row in rings.split(96, 1) for cell in row.split(96, 2)])
    assert contrasts.max() > 3 * contrasts.min()
    # The whole cell is a function of the distance from one centre: pixels of equal distance are equal.
    from nriqa_plugin.mdf.seeds import CELL

    draws = torch.rand(11, generator=generator(), dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(CELL), torch.arange(CELL), indexing='ij')
    radius = torch.hypot(rows - draws[2] * CELL, columns - draws[3] * CELL).flatten()
    order = radius.argsort()
    along = rings[0, :CELL, :CELL].flatten()[order]
    close = radius[order].diff() < 1e-3
    assert close.sum() > 500
    assert along.diff()[close].abs().max() < 2e-3
    assert along.max() - along.min() > 0.01


def run(*arguments):
    return CliRunner().invoke(app, ['make-seed', *map(str, arguments)])


def test_command_writes_the_image(tmp_path):
    write_image(tmp_path / 'natural.png', natural())
    for kind, more in [('pink-noise', []), ('pyramid-permutation', ['--from', tmp_path / 'natural.png'])]:
        result = run(kind, '--size', '48x64', '--seed', 3, '-o', tmp_path / 'seed.png', *more)
        assert result.exit_code == 0, result.output
        assert read_image(tmp_path / 'seed.png').shape == (3, 48, 64)
    expected = make_seed('pyramid-permutation', (48, 64), 3, read_image(tmp_path / 'natural.png'))
    torch.testing.assert_close(read_image(tmp_path / 'seed.png'), expected, atol=0.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['pink-nois'], "Did you mean 'pink-noise'"),
        (['pyramid-permutation'], 'needs a natural image'),
        (['pink-noise', '--from', 'natural.png'], 'takes no image'),
        (['pink-noise', '--size', '512'], 'HEIGHTxWIDTH'),
        (['pink-noise', '--size', '10x512'], 'at least 11 px'),
        (['pyramid-permutation', '--from', 'missing.png'], 'no such image'),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_image('natural.png', natural())
    result = run(*arguments, '-o', 'seed.png')
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / 'seed.png').exists()
    assert run('pink-noise', '-o', 'seed.jpg').exit_code == 2


def test_the_natural_image_is_never_replaced(tmp_path):
    write_image(tmp_path / 'natural.png', natural())
    before = (tmp_path / 'natural.png').read_bytes()
    result = run('pyramid-permutation', '--from', tmp_path / 'natural.png', '-o', tmp_path / '.' / 'natural.png')
    assert result.exit_code == 2
    assert 'would be replaced' in result.stderr
    assert (tmp_path / 'natural.png').read_bytes() == before
