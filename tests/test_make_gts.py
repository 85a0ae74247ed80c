"""Candidate ground truths: tiles, filters, networks and folders, resuming, provenance and bad input."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from nriqa_plugin.checks import file_hash
from nriqa_plugin.cli import app
from nriqa_plugin.evaluation.images import read_image, write_image
from nriqa_plugin.multigt.enhancer import Enhancer, create_enhancer
from nriqa_plugin.multigt.filters import Denoise, gaussian_blur, guided_filter
from nriqa_plugin.multigt.making import make_gts
from nriqa_plugin.multigt.tiles import in_tiles
from tests.conftest import ROOT

TWO = [('unsharp', {'amount': 0.5}), ('denoise', {})]


@pytest.fixture
def originals(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / 'originals'
    folder.mkdir()
    for name, size in (('a.png', (50, 42)), ('b.jpg', (37, 61))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(folder / name)
    return folder


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*.png'))}


@pytest.mark.parametrize('scale', [1, 2])
@pytest.mark.parametrize('tile', [7, 16, 64])
def test_tiles_give_the_whole_image_exactly(tile, scale):
    """Two valid convolutions look 3 px far; upscaled by nearest neighbour."""
    images = torch.rand(1, 3, 40, 29, dtype=torch.float64)
    first, second = torch.rand(4, 3, 3, 3, dtype=torch.float64), torch.rand(3, 4, 5, 5, dtype=torch.float64)
    seen = []

    def function(part):
        seen.append(part.shape[-2:])
        made = F.conv2d(F.pad(F.conv2d(F.pad(part, (1,) * 4), first), (2,) * 4), second)
        return F.interpolate(made, scale_factor=scale)

    expected = function(images)
    assert torch.allclose(in_tiles(function, images, tile, 3, scale), expected, rtol=1e-12)
    assert max(map(max, seen[1:])) <= tile + 6
    if tile == 16:  # the overlap is what makes them equal
        assert not torch.allclose(in_tiles(function, images, tile, 2, scale), expected, rtol=1e-3)


@pytest.mark.parametrize('name', ['unsharp', 'detail', 'denoise'])
def test_filters_in_tiles_are_exact_and_keep_flat_images(name):
    enhancer = create_enhancer(name)
    image = torch.rand(1, 3, 70, 50, dtype=torch.float64)
    assert torch.allclose(enhancer.candidate(image, 'x', 24), enhancer.candidate(image, 'x', 512), rtol=1e-9)
    flat = torch.full((1, 3, 20, 20), 0.3, dtype=torch.float64)
    assert torch.allclose(enhancer.candidate(flat, 'x', 512), flat)


def test_filters_do_what_their_formulas_say():
    image = torch.rand(1, 3, 30, 30, dtype=torch.float64)
    assert torch.equal(create_enhancer('unsharp', amount=0).candidate(image, '', 99), image)
    assert torch.equal(create_enhancer('detail', amount=0).candidate(image, '', 99), image)
    # The Gaussian against scipy's, which is cut at four sigma unless told and repeats the border too.
    ndimage = pytest.importorskip('scipy.ndimage')
    blurred = ndimage.gaussian_filter(image.numpy(), (0, 0, 1.5, 1.5), mode='nearest', radius=(0, 0, 4, 4))
    assert np.allclose(gaussian_blur(image, 1.5).numpy(), blurred, rtol=1e-12)
    # Limits of the guided filter.
    assert torch.allclose(guided_filter(image, 2, 1e-14), image, atol=1e-9)
    box = torch.from_numpy(ndimage.uniform_filter(image.numpy(), (1, 1, 5, 5)))
    box = torch.from_numpy(ndimage.uniform_filter(box.numpy(), (1, 1, 5, 5)))
    inner = (..., slice(4, -4), slice(4, -4))
    assert torch.allclose(guided_filter(image, 2, 1e12)[inner], box[inner], rtol=1e-6)


def test_denoising_lowers_the_error_of_a_noisy_picture_and_sharpening_raises_contrast(test_data):
    clean = read_image(test_data / 'images' / 'kodak24' / '07.png')[None, :, 100:356, 100:356].double()
    noisy = clean + 0.04 * torch.randn(clean.shape, dtype=torch.float64)
    before, after = ((image - clean).square().mean() for image in (noisy, Denoise().candidate(noisy, '', 512)))
    assert after < 0.6 * before
    for name in ('unsharp', 'detail'):
        assert create_enhancer(name).candidate(clean, '', 512).std() > 1.01 * clean.std()


def test_layout_names_sizes_and_provenance(originals, tmp_path):
    out = tmp_path / 'out'
    counts = make_gts(originals, out, TWO)
    assert counts == {'made': 6, 'kept': 0}
    assert [p.name for p in sorted(out.iterdir())] == ['candidates.csv', 'candidates.json', 'gt', 'gt_01', 'gt_02']
    for name in ('a', 'b'):
        source = next(originals.glob(f'{name}.*'))
        original = read_image(source)
        assert torch.equal(read_image(out / 'gt' / f'{name}.png'), original)
        expected = create_enhancer('unsharp', amount=0.5).candidate(original[None], name, 512)[0]
        write_image(tmp_path / 'expected.png', expected)
        assert torch.equal(read_image(out / 'gt_01' / f'{name}.png'), read_image(tmp_path / 'expected.png'))
        assert read_image(out / 'gt_02' / f'{name}.png').shape == original.shape
    settings = json.loads((out / 'candidates.json').read_text())
    assert [(c['folder'], c['enhancer']) for c in settings['candidates']] == [
        ('gt_01', 'unsharp'),
        ('gt_02', 'denoise'),
    ]
    with open(out / 'candidates.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        assert row['file_hash'] == file_hash(out / row['folder'] / row['image'])
        source = next(originals.glob(row['image'].replace('png', '*')))
        assert row['source_hash'] == file_hash(source)


def test_a_second_run_keeps_all_and_makes_what_is_missing_damaged_or_outdated(originals, tmp_path, plugin_log):
    out = tmp_path / 'out'
    make_gts(originals, out, TWO)
    whole = files_of(out)
    assert make_gts(originals, out, TWO) == {'made': 0, 'kept': 6}
    (out / 'gt_01' / 'a.png').unlink()
    (out / 'gt_02' / 'b.png').write_bytes(b'damaged')
    assert make_gts(originals, out, TWO) == {'made': 2, 'kept': 4}
    assert files_of(out) == whole
    assert make_gts(originals, out, [*TWO, ('detail', {})]) == {'made': 2, 'kept': 6}
    assert not plugin_log.records
    write_image(originals / 'a.png', torch.rand(3, 42, 50))
    assert make_gts(originals, out, [*TWO, ('detail', {})]) == {'made': 4, 'kept': 4}
    assert 'a.png has changed' in plugin_log.text
    assert torch.equal(read_image(out / 'gt' / 'a.png'), read_image(originals / 'a.png'))


def test_a_killed_run_goes_on(originals, tmp_path):
    """SIGKILL while candidates are made; afterwards all is as of one go."""
    for i in range(20):
        write_image(originals / f'c{i:02d}.png', torch.rand(3, 64, 64))
    out = tmp_path / 'out'
    code = (
        'import sys, time; sys.path.insert(0, sys.argv[3])\n'
        'from nriqa_plugin.multigt.making import make_gts\n'
        "make_gts(sys.argv[1], sys.argv[2], [('unsharp', {'amount': 0.5}), ('denoise', {})], "
        'progress=lambda *_: time.sleep(0.2))'
    )
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen([sys.executable, '-c', code, str(originals), str(out), str(ROOT)], env=environment)
    deadline = time.monotonic() + 240
    while len(list(out.glob('gt_02/*.png'))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(out.glob('gt*/*.png')))
    assert 9 <= done < 60
    (out / 'gt_02' / '.c19.png.k1lled_x.png').write_bytes(b'half a file')  # as a kill while writing leaves it
    counts = make_gts(originals, out, TWO)
    assert counts['made'] + counts['kept'] == 66
    assert counts['kept'] >= done - 1, 'at most the file whose line was not yet written is made again'
    make_gts(originals, tmp_path / 'one_go', TWO)
    assert files_of(out) == files_of(tmp_path / 'one_go')


def tiny_esrgan(file, scale=4):
    """A random network in ESRGAN's published layout, as spandrel finds it."""
    pytest.importorskip('spandrel', reason='the extra gts is not installed')
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    network = ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=scale).model
    state = {f'model.{key}': value for key, value in network.state_dict().items()}
    torch.save({'params_ema': state}, file)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize('down', [4, 2])
def test_a_scale_model_gets_the_downscaled_original(down, tmp_path):
    network = tiny_esrgan(tmp_path / 'x4.pth')
    enhancer = create_enhancer('model', weights=tmp_path / 'x4.pth', down=down)
    image = torch.rand(1, 3, 48, 64)
    small = F.interpolate(image, scale_factor=1 / down, mode='bicubic', antialias=True)
    expected = network(small).clamp(0, 1)  # as spandrel does
    if down == 2:
        expected = F.interpolate(expected, scale_factor=0.5, mode='bicubic', antialias=True)
    assert torch.allclose(enhancer.candidate(image, 'x', 512), expected, atol=1e-5)
    odd = torch.rand(1, 3, 45, 63)
    assert enhancer.candidate(odd, 'x', 512).shape == odd.shape
    # The network looks about 25 px far, so an overlap of 32 px leaves no seam.
    large = torch.rand(1, 3, 4 * 80, 4 * 24)
    assert torch.allclose(enhancer.candidate(large, 'x', 160), enhancer.candidate(large, 'x', 999), atol=1e-4)


def test_a_grey_denoiser_is_applied_to_each_colour(test_data):
    pytest.importorskip('spandrel', reason='the extra gts is not installed')
    enhancer = create_enhancer('model', weights=test_data / 'weights' / 'dncnn_25.pth')
    clean = read_image(test_data / 'images' / 'kodak24' / '07.png')[None, :, 100:196, 100:196]
    noisy = clean + 25 / 255 * torch.randn(clean.shape)
    with torch.no_grad():
        made = enhancer.candidate(noisy, 'x', 512)
        red = enhancer.network.model(noisy[:, :1])
    assert torch.allclose(made[:, :1], red, atol=1e-5)
    before, after = (-10 * torch.log10((image - clean).square().mean()) for image in (noisy, made))
    assert before < 21
    assert after > 28


def test_bad_models_are_refused_by_name(tmp_path):
    pytest.importorskip('spandrel', reason='the extra gts is not installed')
    with pytest.raises(FileNotFoundError, match=r'model: weights: no such file: .*none\.pth'):
        create_enhancer('model', weights=tmp_path / 'none.pth')
    torch.save({'what.weight': torch.rand(3)}, tmp_path / 'what.pth')
    with pytest.raises(ValueError, match=r'spandrel knows no network that .*what\.pth belongs to'):
        create_enhancer('model', weights=tmp_path / 'what.pth')
    (tmp_path / 'half.pth').write_bytes(b'PK\3\4half')
    with pytest.raises(ValueError, match=r'half\.pth is not a readable checkpoint'):
        create_enhancer('model', weights=tmp_path / 'half.pth')
    tiny_esrgan(tmp_path / 'x4.pth')
    with pytest.raises(ValueError, match=r'model: down must divide the scale 4 of .*x4\.pth, got 3'):
        create_enhancer('model', weights=tmp_path / 'x4.pth', down=3)


def test_without_spandrel_the_error_names_the_extra(tmp_path, monkeypatch):
    torch.save({}, tmp_path / 'w.pth')
    monkeypatch.setitem(sys.modules, 'spandrel', None)
    monkeypatch.delitem(sys.modules, 'spandrel')
    monkeypatch.setattr(sys, 'meta_path', [Blocked(), *sys.meta_path])
    with pytest.raises(ImportError, match=r"pip install 'nriqa-plugin\[gts\]'"):
        create_enhancer('model', weights=tmp_path / 'w.pth')


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'spandrel':
            raise ModuleNotFoundError(f'{name} is blocked', name=name)


def test_outputs_in_a_folder_become_candidates(originals, tmp_path):
    outputs = tmp_path / 'outputs'
    for name, size in (('a', (42, 50)), ('b', (61, 37))):
        write_image(outputs / f'{name}_hat.png', torch.rand(3, *size))
    out = tmp_path / 'out'
    make_gts(originals, out, [('folder', {'path': str(outputs), 'suffix': '_hat'})])
    assert torch.equal(read_image(out / 'gt_01' / 'b.png'), read_image(outputs / 'b_hat.png'))
    write_image(outputs / 'b_hat.png', torch.rand(3, 60, 37))
    with pytest.raises(ValueError, match=r'b_hat\.png is 37 x 60 px, the original 37 x 61 px: a candidate must have'):
        make_gts(originals, tmp_path / 'other', [('folder', {'path': str(outputs), 'suffix': '_hat'})])
    (outputs / 'a_hat.png').unlink()
    with pytest.raises(ValueError, match=r'outputs has no a_hat\.\*'):
        make_gts(originals, tmp_path / 'third', [('folder', {'path': str(outputs), 'suffix': '_hat'})])


def test_changed_outputs_in_a_folder_are_taken_anew(originals, tmp_path):
    outputs, out = tmp_path / 'outputs', tmp_path / 'out'
    for name, size in (('a', (42, 50)), ('b', (61, 37))):
        write_image(outputs / f'{name}.png', torch.rand(3, *size))
    enhancers = [('folder', {'path': str(outputs)}), ('denoise', {})]
    make_gts(originals, out, enhancers)
    assert make_gts(originals, out, enhancers) == {'made': 0, 'kept': 6}
    write_image(outputs / 'b.png', torch.rand(3, 61, 37))
    assert make_gts(originals, out, enhancers) == {'made': 1, 'kept': 5}
    assert torch.equal(read_image(out / 'gt_01' / 'b.png'), read_image(outputs / 'b.png'))


def test_damaged_settings_and_a_wrong_number_of_enhancers_are_named(originals, tmp_path):
    out = tmp_path / 'out'
    make_gts(originals, out, TWO)
    for text in ('{"version"', '{}', '[]'):
        (out / 'candidates.json').write_text(text)
        with pytest.raises(ValueError, match=r'candidates\.json is damaged'):
            make_gts(originals, out, TWO)
    for number in (0, 100):
        with pytest.raises(ValueError, match=f'1 to 99 enhancers are needed to make candidates, got {number}'):
            make_gts(originals, tmp_path / 'other', [('denoise', {})] * number)


class Half(Enhancer):
    def candidate(self, image, stem, tile):
        return image[..., ::2, ::2]


def invert(amount=1):
    return lambda image: amount - image


def not_callable():
    return 3


def nan():
    return lambda image: image / 0 * 0


def test_an_enhancer_of_ones_own_by_dotted_path(originals, tmp_path):
    make_gts(originals, tmp_path / 'out', [('tests.test_make_gts:invert', {'amount': 1})])
    made, original = (read_image(tmp_path / 'out' / kind / 'a.png') for kind in ('gt_01', 'gt'))
    assert torch.allclose(made, 1 - original)
    with pytest.raises(ValueError, match=r'Half made .* a candidate must have the size of the original'):
        make_gts(originals, tmp_path / 'half', [('tests.test_make_gts:Half', {})])
    with pytest.raises(ValueError, match='made NaN or infinite values of'):
        make_gts(originals, tmp_path / 'nan', [('tests.test_make_gts:nan', {})])
    with pytest.raises(TypeError, match='returned a int, wanted an Enhancer or a function'):
        create_enhancer('tests.test_make_gts:not_callable')


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('unsharpp', {}, r"unknown enhancer 'unsharpp'\. Did you mean 'unsharp'\?"),
        ('unsharp', {'amuont': 1}, r"unknown option of the enhancer unsharp: 'amuont'\. Did you mean 'amount'\?"),
        ('unsharp', {'amount': -1}, r'unsharp: amount must be finite and at least 0'),
        ('denoise', {'radius': 0}, 'denoise: radius must be finite'),
        ('model', {}, "the enhancer model needs the option 'weights'"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_enhancer(name, **options)


def test_a_folder_of_other_images_or_enhancers_is_refused(originals, tmp_path):
    out = tmp_path / 'out'
    make_gts(originals, out, TWO)
    with pytest.raises(ValueError, match=r'gt_01 was made by unsharp:amount=0\.5 .*, now it would be by detail'):
        make_gts(originals, out, [('detail', {}), TWO[1]])
    with pytest.raises(ValueError, match='has 2 candidates, of which 1 are asked for now'):
        make_gts(originals, out, TWO[:1])
    (originals / 'a.png').rename(originals / 'z.png')
    with pytest.raises(ValueError, match=r'holds candidates of other images: 1 \(a\.png\)'):
        make_gts(originals, out, TWO)
    (tmp_path / 'foreign' / 'gt').mkdir(parents=True)
    with pytest.raises(ValueError, match=r'has a folder gt or gt_01 but no candidates\.json'):
        make_gts(originals, tmp_path / 'foreign', TWO)
    write_image(originals / 'b.png', torch.rand(3, 9, 9))
    with pytest.raises(ValueError, match=r'would both be called b\.png'):
        make_gts(originals, tmp_path / 'new', TWO)


def test_16_bit_images_are_refused_and_not_rounded(originals, tmp_path):
    Image.fromarray(np.full((20, 20), 40000, dtype=np.uint16)).save(originals / 'deep.png')
    with pytest.raises(ValueError, match=r'deep\.png has 16 bits'):
        make_gts(originals, tmp_path / 'out', TWO)


def test_the_command(originals, tmp_path):
    arguments = [
        'make-gts',
        str(originals),
        '--out',
        str(tmp_path / 'out'),
        '-e',
        'unsharp:amount=0.5',
        '-e',
        'denoise',
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert '6 files made, 0 were there already' in ' '.join(result.output.split())
    make_gts(originals, tmp_path / 'same', TWO)
    assert files_of(tmp_path / 'out') == files_of(tmp_path / 'same')
    result = CliRunner().invoke(app, [*arguments, '-e', 'blurr'])
    assert result.exit_code == 2
    assert "unknown enhancer 'blurr'" in result.output
