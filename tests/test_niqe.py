"""NIQE against BasicSR's own, its gradient against finite differences, and what it refuses."""

import importlib.util
import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from nriqa_plugin.iqa import aggd, niqe
from nriqa_plugin.iqa.niqe import NIQE

try:
    niqe._shipped_parameters()
except FileNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

data = pytest.importorskip('skimage.data')


@pytest.fixture(scope='module')
def basicsr_niqe():
    """BasicSR's own score of an 8-bit RGB image ``(H, W, 3)``: the reference, run in this process."""
    reference = pytest.importorskip('basicsr.metrics.niqe', exc_type=ImportError).calculate_niqe
    return lambda image, crop_border=0: reference(image[..., ::-1], crop_border, convert_to='y')


@pytest.fixture(scope='module')
def judge():
    return NIQE()


@pytest.fixture(scope='module')
def photo():
    """192 x 192 px, so that there are 2 x 2 blocks, of a photograph: ``(1, 3, 192, 192)``, float64."""
    return _tensor(data.astronaut()[100:292, 100:292]).double()


def _tensor(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


def _image(tensor):
    return (tensor[0].detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _gradient(judge, images):
    images = images.detach().clone().requires_grad_()
    return torch.autograd.grad(judge.raw_scores(images).sum(), images)[0]


def test_kodak_scores_are_those_of_basicsr(test_data, judge, basicsr_niqe):
    files = sorted((test_data / 'images' / 'kodak24').glob('*.png'))
    if len(files) != 24:
        pytest.skip(f'{len(files)} of the 24 Kodak images in {test_data}')
    images = [np.asarray(Image.open(file).convert('RGB')) for file in files]
    theirs = np.array([basicsr_niqe(image) for image in images])
    exact = np.abs(np.array([judge(_tensor(image)).item() for image in images]) / theirs - 1)
    differentiable = np.abs(np.array([judge(_tensor(image).requires_grad_()).item() for image in images]) / theirs - 1)
    for name, apart in (('without gradient', exact), ('with', differentiable)):
        print(f'relative difference {name}: median {np.median(apart):.1e}, largest {apart.max():.1e}')
    assert exact.max() < 2e-5  # seen: 8e-6
    # Its arithmetic is another one: here and there a shape takes the neighbouring entry of the table, and one such
    # feature of 1440 moves a score by about 2e-4.
    assert differentiable.max() < 1e-3
    assert np.median(differentiable) < 1e-4


@pytest.mark.parametrize(
    ('name', 'crop_border', 'quality'), [('astronaut', 0, 0), ('chelsea', 4, 0), ('coffee', 7, 0), ('coffee', 0, 20)]
)
def test_photograph_scores_are_those_of_basicsr(name, crop_border, quality, basicsr_niqe):
    image = getattr(data, name)()
    if quality:
        file = io.BytesIO()
        Image.fromarray(image).save(file, 'JPEG', quality=quality)
        image = np.asarray(Image.open(file))
    pixels, theirs = _tensor(image), basicsr_niqe(image, crop_border)
    judge = NIQE(crop_border=crop_border)
    assert judge(pixels).item() == pytest.approx(theirs, rel=2e-5)
    assert judge(pixels.requires_grad_()).item() == pytest.approx(theirs, rel=0.01)


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_flat_blocks_count_as_in_basicsr(judge, basicsr_niqe):
    image = data.astronaut().copy()
    image[:192, :192], image[192:288] = 255, 0
    pixels, theirs = _tensor(image), basicsr_niqe(image)
    assert judge(pixels).item() == pytest.approx(theirs, rel=2e-5)
    assert judge(pixels.requires_grad_()).item() == pytest.approx(theirs, rel=0.01)
    assert torch.isfinite(_gradient(judge, pixels)).all()


def test_gradient_agrees_with_finite_differences(photo):
    judge = NIQE().double()
    judge._rounding = False
    gradient, generator = _gradient(judge, photo), torch.Generator().manual_seed(0)
    directions = [torch.randn(photo.shape, generator=generator, dtype=torch.float64) for _ in range(5)]
    # A pixel that changes sign changes the score by a step; so short a step of the differences meets none.
    for direction in [*directions, 100 * F.normalize(gradient.flatten(), dim=0).view_as(gradient)]:
        with torch.no_grad():
            higher, lower = (judge(photo + step * direction) for step in (1e-9, -1e-9))
        slope = (gradient * direction).sum().item()
        assert ((higher - lower) / 2e-9).item() == pytest.approx(slope, rel=1e-3)


def test_rounding_passes_the_gradient_straight_through(photo):
    rounded, plain = NIQE().double(), NIQE().double()
    plain._rounding = False
    levels = (photo.mean(1, keepdim=True) * 219).round() / 219  # greys whose luma is an integer
    greys = levels.expand(-1, 3, -1, -1)
    # What is left apart is the rounding of the shapes, half of 0.001 at most.
    assert rounded(greys).item() == pytest.approx(plain(greys).item(), rel=3e-3)
    slopes = [_gradient(judge, greys).flatten() for judge in (rounded, plain)]
    assert F.cosine_similarity(*slopes, dim=0) > 0.999
    assert slopes[0].norm().item() == pytest.approx(slopes[1].norm().item(), rel=1e-2)


def test_shape_solves_its_equation_and_has_its_implicit_derivative():
    shapes = torch.tensor([0.25, 0.7001, 1.0, 1.9996, 3.3, 9.5], dtype=torch.float64)
    ratios = aggd._log_ratio(shapes).exp().requires_grad_()
    exact = aggd._Shape.apply(ratios, False)
    torch.testing.assert_close(exact, shapes, rtol=1e-9, atol=0)
    assert torch.autograd.gradcheck(lambda r: aggd._Shape.apply(r, False), ratios)
    rounded = aggd._Shape.apply(ratios, True)
    torch.testing.assert_close(rounded, shapes.mul(1000).round() / 1000, rtol=1e-12, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(s.sum(), ratios)[0] for s in (exact, rounded)), rtol=1e-3, atol=0)
    beyond = torch.tensor([1e-3, 5.0], dtype=torch.float64, requires_grad=True)
    for is_rounded in (False, True):
        held = aggd._Shape.apply(beyond, is_rounded)
        assert held.tolist() == pytest.approx([0.2, 10.0])
        assert torch.autograd.grad(held.sum(), beyond)[0].tolist() == [0, 0]


def test_block_moments_pass_gradcheck():
    blocks = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: aggd.BlockMoments.apply(b)[:3], blocks)


def test_float32_gradient_points_where_the_float64_one_does(judge, photo):
    single, double = _gradient(judge, photo.float()), _gradient(NIQE().double(), photo.float().double())
    assert single.dtype == torch.float32
    assert F.cosine_similarity(single.double().flatten(), double.flatten(), dim=0) > 0.999


def test_descent_halves_the_score_that_basicsr_gives(judge, basicsr_niqe):
    sharp = _tensor(data.astronaut()[60:444, 100:484])
    small = F.interpolate(sharp, scale_factor=0.25, mode='bicubic', antialias=True)
    start = F.interpolate(small, scale_factor=4, mode='bicubic').clamp(0, 1)
    pixels = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.003)
    for _ in range(30):
        optimizer.zero_grad()
        judge(pixels.clamp(0, 1)).sum().backward()
        optimizer.step()
    before, after = basicsr_niqe(_image(start)), basicsr_niqe(_image(pixels))
    print(f'NIQE of BasicSR: {before:.2f} -> {after:.2f}')
    assert after <= before / 2


def test_blur_and_noise_score_worse(judge):
    image = _tensor(data.astronaut())
    noisy = (image + 0.1 * torch.randn_like(image)).clamp(0, 1)
    clean, blurred, grainy = judge(torch.cat((image, F.avg_pool2d(image, 5, 1, 2), noisy))).tolist()
    assert clean < min(blurred, grainy)
    assert not judge.higher_better


def test_batch_scores_as_one_by_one(judge):
    images = [_tensor(data.astronaut()[top : top + 210, 90:395]) for top in (0, 100, 290)]
    together = torch.cat(images)
    alone = torch.cat([judge(image) for image in images])
    torch.testing.assert_close(judge(together), alone, rtol=1e-6, atol=0)
    torch.testing.assert_close(judge(together.repeat(4, 1, 1, 1)), alone.repeat(4), rtol=1e-6, atol=0)
    torch.testing.assert_close(judge.raw_scores(together, bf16=True), alone, rtol=1e-6, atol=0)
    one_by_one = torch.cat([_gradient(judge, image) for image in images])
    torch.testing.assert_close(_gradient(judge, together), one_by_one, rtol=1e-3, atol=1e-4)


def test_undefined_images_are_nan_alone(judge, photo):
    photo = photo.float()
    one_block = photo.clone()
    one_block[..., 90:] = 0.5
    one_block[..., 90:, :] = 0.5
    damaged = photo.clone()
    damaged[0, 1, 100, 100] = torch.nan
    batch = torch.cat((photo, torch.zeros_like(photo), torch.full_like(photo, 0.5), damaged, one_block, photo))
    batch.requires_grad_()
    scores = judge.raw_scores(batch)
    assert torch.isnan(scores).tolist() == [False, True, True, True, True, False]
    torch.testing.assert_close(scores[[0, 5]], judge(photo.clone().requires_grad_()).expand(2), rtol=1e-5, atol=0)
    assert torch.isnan(judge.raw_scores(batch.detach())).tolist() == torch.isnan(scores).tolist()
    (gradient,) = torch.autograd.grad(scores[torch.isfinite(scores)].sum(), batch)
    alone = _gradient(judge, photo)
    torch.testing.assert_close(gradient[[0, 5]], alone.expand(2, -1, -1, -1), rtol=1e-3, atol=1e-4)
    assert torch.isfinite(gradient[[0, 1, 2, 4, 5]]).all()
    with pytest.raises(ValueError, match=r'niqe is undefined for image \[1\]'):
        judge(batch[:2])


@pytest.mark.parametrize(('crop_border', 'side'), [(0, 191), (4, 199)])
def test_small_images_are_refused(crop_border, side):
    judge = NIQE(crop_border=crop_border)
    with pytest.raises(ValueError, match=rf'niqe needs at least {side + 1} px a side'):
        judge(torch.rand(1, 3, 300, side))
    assert torch.isfinite(judge(torch.rand(1, 3, 300, side + 1))).all()


def test_precision_follows_the_judge(photo):
    assert NIQE()(photo).dtype == torch.float32
    double = NIQE().double()
    assert double(photo.float()).dtype == torch.float64
    assert _gradient(double, photo.float()).dtype == torch.float32
    assert double(photo).item() == pytest.approx(NIQE()(photo).item(), rel=1e-3)


def test_a_judge_has_no_checkpoint_and_a_stable_hash(judge):
    assert judge.state_dict() == {}
    assert judge.weights_hash() == NIQE().weights_hash()


def test_own_parameter_file_is_used(tmp_path, photo):
    own = shutil.copy(niqe._shipped_parameters(), tmp_path / 'own.npz')
    assert NIQE(weights=own)(photo).item() == NIQE()(photo).item()
    with np.load(own) as file:
        np.savez(own.with_name('far.npz'), **{**file, 'mu_pris_param': file['mu_pris_param'] + 1})
    assert NIQE(weights=str(own.with_name('far.npz')))(photo).item() > 2 * NIQE()(photo).item()


def test_missing_parameters_name_the_option(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match='weights: no such file'):
        NIQE(weights=tmp_path / 'none.npz')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"the option 'weights' to a copy of niqe_pris_params\.npz"):
        NIQE()


@pytest.mark.parametrize('content', ['text', 'truncated', 'array', 'other keys', 'objects', 'shape', 'singular'])
def test_foreign_parameter_file_is_refused_by_name(content, tmp_path):
    path = tmp_path / 'foreign.npz'
    source = niqe._shipped_parameters()
    with np.load(source) as file:
        arrays = dict(file)
    if content == 'text':
        path.write_text('not an archive')
    elif content == 'truncated':
        path.write_bytes(source.read_bytes()[:5000])
    elif content == 'array':
        with open(path, 'wb') as file:
            np.save(file, np.ones(3))
    elif content == 'other keys':
        np.savez(path, weight=np.ones(3))
    elif content == 'objects':
        np.savez(path, **{**arrays, 'mu_pris_param': np.array([None], dtype=object)})
    elif content == 'shape':
        np.savez(path, **{**arrays, 'cov_pris_param': np.eye(18)})
    else:
        np.savez(path, **{**arrays, 'cov_pris_param': np.ones((36, 36))})
    with pytest.raises(ValueError, match=r'weights: .*foreign\.npz is no NIQE parameter file'):
        NIQE(weights=path)


@pytest.mark.parametrize(('value', 'error'), [(-1, ValueError), (1.5, TypeError), ('4', TypeError)])
def test_senseless_crop_border_is_refused(value, error):
    with pytest.raises(error, match='crop_border'):
        NIQE(crop_border=value)


def test_building_the_judge_imports_no_framework():
    code = (
        'import sys\n'
        'from nriqa_plugin.iqa.niqe import NIQE\n'
        'NIQE()\n'
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'basicsr', 'mmagic', 'mmcv', 'mmengine'}))\n"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
