"""LPIPS and the formulas of piq against the packages called plainly, BasicSR, and published numbers."""

import math
import sys
import urllib.error

import numpy as np
import pytest
import torch
import torchvision

from nriqa_plugin.iqa import lpips_scorer, piq_scorer
from nriqa_plugin.iqa.lpips_scorer import LPIPS
from nriqa_plugin.iqa.scorer import create_scorer

FORMULAS = ('psnr', 'ssim', 'ms_ssim', 'gmsd', 'vsi', 'fsim')


def scene(seed=0, size=176, n=1, dtype=torch.float32):
    """Smooth colour blobs in [0.1, 0.9], ``(n, 3, size, size)``: something with structure, unlike white noise."""
    coarse = torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, size=(size, size), mode='bicubic', align_corners=False)
    return image.clamp(0.1, 0.9).to(dtype)


def noisy(image, sigma, seed=1):
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).to(image)
    return (image + sigma * noise).clamp(0, 1)


def gradient_of(judge, pred, ref):
    pred = pred.clone().requires_grad_()
    return torch.autograd.grad(judge(pred, ref).sum(), pred)[0]


# --- the formulas ---


@pytest.mark.parametrize('name', FORMULAS)
def test_every_formula_ranks_distortions_in_its_own_direction(name):
    judge, image = create_scorer(name), scene()
    scores = [judge(noisy(image, sigma), image).item() for sigma in (0.02, 0.05, 0.1, 0.2)]
    assert scores == sorted(scores, reverse=judge.higher_better)
    assert len(set(scores)) == 4
    low, high = judge.score_range
    assert all(low <= score <= high for score in scores)


@pytest.mark.parametrize(
    ('name', 'best'), [('psnr', math.inf), ('ssim', 1), ('ms_ssim', 1), ('gmsd', 0), ('vsi', 1), ('fsim', 1)]
)
def test_equal_images_reach_the_best_end_of_the_range(name, best):
    judge, image = create_scorer(name), scene()
    assert judge(image, image).item() == pytest.approx(best, abs=1e-5)
    assert judge.score_range[1 if judge.higher_better else 0] == best
    assert torch.isfinite(gradient_of(judge, image, image)).all()


@pytest.mark.parametrize('name', FORMULAS)
def test_the_gradient_of_improvement_points_to_the_reference(name):
    judge, ref = create_scorer(name), scene()
    pred = noisy(ref, 0.05)
    gradient = gradient_of(judge, pred, ref)
    assert torch.isfinite(gradient).all()
    towards = torch.nn.functional.cosine_similarity(gradient.flatten(), (ref - pred).flatten(), dim=0)
    assert (towards > 0.05) if judge.higher_better else (towards < -0.05), towards


@pytest.mark.parametrize(
    ('name', 'plain', 'options'),
    [
        ('ssim', 'ssim', {'downsample': False}),
        ('ms_ssim', 'multi_scale_ssim', {}),
        ('gmsd', 'gmsd', {}),
        ('vsi', 'vsi', {}),
        ('fsim', 'fsim', {}),
    ],
)
def test_formulas_equal_piq_called_plainly(name, plain, options):
    piq = pytest.importorskip('piq')
    ref = scene(n=2)
    pred = noisy(ref, 0.05).clamp(0.01, 0.99)
    judge, reference = create_scorer(name), getattr(piq, plain)

    def plainly(x, y):
        return torch.stack([reference(a[None], b[None], data_range=1.0, **options) for a, b in zip(x, y, strict=True)])

    torch.testing.assert_close(judge(pred, ref), plainly(pred, ref).view(2), rtol=1e-4, atol=1e-5)
    expected = gradient_of(plainly, pred, ref)
    torch.testing.assert_close(
        gradient_of(judge, pred, ref), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item()
    )


@pytest.mark.parametrize('crop_border', [0, 4])
@pytest.mark.parametrize('y_channel', [False, True])
def test_psnr_and_ssim_equal_basicsr_on_8_bit_images(crop_border, y_channel):
    metrics = pytest.importorskip('basicsr.metrics')
    ref = (scene(size=96) * 255).round() / 255
    pred = (noisy(ref, 0.04) * 255).round() / 255
    pred[..., :4, :] = 1  # so that forgetting to crop shows
    arrays = [(x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)[..., ::-1] for x in (pred, ref)]
    for name in ('psnr', 'ssim'):
        judge = create_scorer(name, crop_border=crop_border, y_channel=y_channel)
        expected = getattr(metrics, f'calculate_{name}')(*arrays, crop_border=crop_border, test_y_channel=y_channel)
        assert judge(pred, ref).item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize('offset', [1e-1, 1e-2, 1e-4])
def test_psnr_and_its_gradient_follow_the_definition(offset):
    ref = torch.full((1, 3, 16, 16), 0.5)
    pred = ref + offset
    judge = create_scorer('psnr')
    assert judge(pred, ref).item() == pytest.approx(-20 * math.log10(offset), abs=1e-2)
    # d(-10 log10(mean d^2)) / dx = -20 d / (ln 10 * sum d^2)
    expected = torch.full_like(pred, -20 / (math.log(10) * pred.numel() * offset))
    torch.testing.assert_close(gradient_of(judge, pred, ref), expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize('name', ['psnr', 'ssim', 'gmsd', 'fsim'])
def test_formulas_gradcheck_in_double_precision(name):
    judge = create_scorer(name, **({'crop_border': 1, 'y_channel': True} if name in ('psnr', 'ssim') else {})).double()
    ref = scene(size=24, dtype=torch.float64)
    pred = noisy(ref, 0.05).clamp(0.01, 0.99).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: judge(x, ref), (pred,), fast_mode=True)


def test_ms_ssim_of_fewer_scales_is_the_product_of_the_finest_ones_with_exponents_that_sum_to_1():
    """By hand: contrast at every scale but the last, whole SSIM at the last; 2 x 2 means between the scales."""
    piq = pytest.importorskip('piq', reason='the extra iqa is not installed')
    x, noise = (torch.rand(2, 1, 96, 96).expand(-1, 3, -1, -1) for _ in range(2))  # the formula averages channels last
    y = 0.7 * x + 0.3 * noise
    exponents = torch.tensor([0.0448, 0.2856])
    exponents = exponents / exponents.sum()
    kernel = {'kernel_size': 11, 'kernel_sigma': 1.5, 'downsample': False, 'full': True, 'reduction': 'none'}
    _, contrast = piq.ssim(x, y, **kernel)
    coarse = [torch.nn.functional.avg_pool2d(image, 2) for image in (x, y)]
    whole, _ = piq.ssim(*coarse, **kernel)
    expected = contrast ** exponents[0] * whole ** exponents[1]
    assert create_scorer('ms_ssim', scales=2)(x, y) == pytest.approx(expected.tolist(), abs=1e-6)
    assert create_scorer('ms_ssim', scales=4).min_side == 81
    assert create_scorer('ms_ssim', scales=5).weights_hash() == create_scorer('ms_ssim').weights_hash()
    assert create_scorer('ms_ssim', scales=4).weights_hash() != create_scorer('ms_ssim').weights_hash()
    with pytest.raises(ValueError, match='scales must be finite and in'):
        create_scorer('ms_ssim', scales=6)


@pytest.mark.parametrize(('name', 'side'), [('ssim', 11), ('ms_ssim', 161), ('gmsd', 3), ('vsi', 2), ('fsim', 2)])
def test_min_side_is_the_smallest_that_works(name, side):
    piq = pytest.importorskip('piq')
    judge = create_scorer(name)
    assert judge.min_side == side
    ref = torch.rand(1, 3, side, side)
    pred = torch.rand(1, 3, side, side)
    assert torch.isfinite(judge(pred, ref)).all()
    assert gradient_of(judge, pred, ref).abs().sum() > 0
    small = torch.rand(1, 3, side - 1, side - 1)
    with pytest.raises(ValueError, match=f'at least {side} px'):
        judge(small, small)
    plain = getattr(piq, {'ms_ssim': 'multi_scale_ssim'}.get(name, name))
    try:
        score = plain(torch.rand_like(small), small)
    except ValueError:
        return
    # nothing left to compare: constant or undefined, whatever the image
    assert not torch.isfinite(score) or score in (0, 1)


def test_cropping_raises_the_smallest_side():
    assert create_scorer('ssim', crop_border=4).min_side == 19
    assert create_scorer('psnr', crop_border=4).min_side == 9


@pytest.mark.parametrize('name', FORMULAS)
def test_flat_areas_keep_the_gradient_finite(name):
    judge, ref = create_scorer(name), scene()
    for level in (0.0, 0.5, 1.0):
        pred = noisy(ref, 0.05)
        pred[..., 60:100, 60:100] = level
        gradient = gradient_of(judge, pred, ref)
        assert torch.isfinite(gradient).all()
        assert gradient[..., :40, :40].abs().sum() > 0


@pytest.mark.parametrize('name', FORMULAS)
def test_overshoot_is_scored_as_clipped_and_pulled_back(name):
    judge, ref = create_scorer(name), scene()
    pred = noisy(ref, 0.02)
    pred[..., 80:96, 80:96] = 1.0
    over = pred.clone()
    over[..., 80:96, 80:96] = 1.08
    assert judge(over, ref).item() == judge(pred, ref).item()
    torch.testing.assert_close(gradient_of(judge, over, ref), gradient_of(judge, pred, ref))
    if name in ('psnr', 'ssim'):
        assert gradient_of(judge, over, ref)[..., 80:96, 80:96].sum() < 0


@pytest.mark.parametrize('name', FORMULAS)
def test_an_image_with_nan_scores_nan_and_spares_the_others(name):
    judge, ref = create_scorer(name), scene(n=2)
    pred = noisy(ref, 0.05)
    expected = judge(pred, ref)[1]
    pred[0, 0, 5, 5] = math.nan
    scores = judge.raw_scores(pred, ref)
    assert torch.isnan(scores[0])
    torch.testing.assert_close(scores[1], expected)
    with pytest.raises(ValueError, match='NaN'):
        judge(pred, ref)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'crop_border': -1}, ValueError, 'crop_border'),
        ({'crop_border': 1.5}, TypeError, 'crop_border'),
        ({'y_channel': 1}, TypeError, 'y_channel'),
        ({'border': 4}, ValueError, 'border'),
    ],
)
def test_wrong_options_of_a_formula_are_named(options, error, message):
    with pytest.raises(error, match=message):
        create_scorer('psnr', **options)


@pytest.mark.parametrize('name', FORMULAS[1:])
def test_without_piq_the_error_says_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, 'piq', None)
    with pytest.raises(ImportError, match=rf'the judge {name} needs the package piq: pip install .*\[iqa\]'):
        getattr(piq_scorer, name)()
    assert create_scorer('psnr').name == 'psnr'  # needs no package


# --- LPIPS ---


@pytest.fixture(scope='module')
def lpips():
    return pytest.importorskip('lpips')


def saved_backbone(folder, net):
    """Torchvision's network with random weights, and its state in a file (without the large, unused classifier)."""
    with torch.device('meta'):
        model = getattr(torchvision.models, lpips_scorer.BACKBONES[net][0])(weights=None)
    features = model.features.to_empty(device='cpu')
    generator = torch.Generator().manual_seed(0)
    for parameter in features.parameters():
        width = math.prod(parameter.shape[1:]) or 1
        torch.nn.init.normal_(parameter, std=(2 / width) ** 0.5 if parameter.dim() > 1 else 0.1, generator=generator)
    file = folder / f'{net}.pth'
    torch.save({f'features.{key}': value for key, value in features.state_dict().items()}, file)
    return file, features


@pytest.mark.filterwarnings('ignore::UserWarning:torchvision')  # lpips builds its backbones the old way
@pytest.mark.parametrize('net', ['squeeze', 'alex', pytest.param('vgg', marks=pytest.mark.slow)])
def test_lpips_equals_the_package_called_plainly(lpips, tmp_path, net):
    file, features = saved_backbone(tmp_path, net)
    reference = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    for part in reference.net.children():
        for number, layer in part.named_children():
            layer.load_state_dict(features[int(number)].state_dict())
    judge = LPIPS(net, file)
    ref = scene(n=2, size=64)
    pred = noisy(ref, 0.1)
    expected = reference(2 * pred - 1, 2 * ref - 1).flatten()
    assert expected.min() > 1e-3
    torch.testing.assert_close(judge(pred, ref), expected, rtol=1e-4, atol=1e-6)
    gradient = gradient_of(judge, pred, ref)
    expected_gradient = gradient_of(lambda x, y: reference(2 * x - 1, 2 * y - 1), pred, ref)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-3 * expected_gradient.abs().max().item())
    smallest = torch.rand(1, 3, judge.min_side, judge.min_side)
    assert judge(smallest, smallest.flip(-1)).item() > 0
    below = smallest[..., 1:, 1:]
    with pytest.raises(ValueError, match='at least'):
        judge(below, below)
    with pytest.raises(RuntimeError):
        reference(below, below)


@pytest.fixture
def squeeze(lpips, tmp_path):
    return saved_backbone(tmp_path, 'squeeze')[0]


def test_equal_images_have_no_distance(squeeze):
    judge, image = LPIPS('squeeze', squeeze), scene(n=2, size=48)
    assert judge(image, image).tolist() == [0, 0]
    assert torch.isfinite(gradient_of(judge, image, image)).all()


def test_lpips_gradchecks_in_double_precision(squeeze):
    judge = LPIPS('squeeze', squeeze).double()
    ref = scene(size=24, dtype=torch.float64)
    pred = noisy(ref, 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: judge(x, ref), (pred,), fast_mode=True, atol=1e-6)


def test_a_silent_layer_keeps_the_gradient_finite(squeeze, tmp_path):
    state = torch.load(squeeze, weights_only=True)
    for key in ('expand1x1', 'expand3x3'):
        state[f'features.12.{key}.bias'].fill_(-1e6)  # no channel of the last layer ever fires
    torch.save(state, tmp_path / 'silent.pth')
    judge = LPIPS('squeeze', tmp_path / 'silent.pth')
    ref = scene(size=48)
    pred = noisy(ref, 0.1)
    gradient = gradient_of(judge, pred, ref)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_half_precision_files_and_classifiers_are_accepted(squeeze, tmp_path):
    state = torch.load(squeeze, weights_only=True)
    half = {key: value.half() for key, value in state.items()} | {'classifier.1.bias': torch.zeros(1000)}
    torch.save(half, tmp_path / 'half.pth')
    judge = LPIPS('squeeze', tmp_path / 'half.pth')
    assert judge.dtype == torch.float32
    pred, ref = noisy(scene(size=48), 0.1), scene(size=48)
    torch.testing.assert_close(judge(pred, ref), LPIPS('squeeze', squeeze)(pred, ref), rtol=1e-2, atol=1e-4)


def test_building_lpips_leaves_the_global_generator_alone(squeeze):
    before = torch.random.get_rng_state()
    LPIPS('squeeze', squeeze)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_lpips_refuses_files_of_other_networks(squeeze, tmp_path):
    with pytest.raises(FileNotFoundError, match='weights: no such file'):
        LPIPS('squeeze', tmp_path / 'absent.pth')
    with pytest.raises(ValueError, match=r'features\.0\.weight.*alexnet-owt-7be5be79\.pth'):
        LPIPS('alex', squeeze)
    state = torch.load(squeeze, weights_only=True)
    del state['features.12.squeeze.bias']
    torch.save(state, tmp_path / 'gap.pth')
    with pytest.raises(ValueError, match=r'gap\.pth.*features\.12\.squeeze\.bias: expected \(64,\), file has nothing'):
        LPIPS('squeeze', tmp_path / 'gap.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='not a state dict'):
        LPIPS('squeeze', tmp_path / 'list.pth')
    (tmp_path / 'cut.pth').write_bytes(squeeze.read_bytes()[:2000])
    with pytest.raises(ValueError, match='truncated or damaged'):
        LPIPS('squeeze', tmp_path / 'cut.pth')
    with pytest.raises(ValueError, match='net'):
        LPIPS('resnet', squeeze)


def test_foreign_linear_layers_are_refused(lpips, squeeze, tmp_path, monkeypatch):
    folder = tmp_path / 'weights' / 'v0.1'
    folder.mkdir(parents=True)
    torch.save({'lin0.weight': torch.zeros(1, 64, 1, 1)}, folder / 'squeeze.pth')
    monkeypatch.setattr(lpips, '__file__', str(tmp_path / '__init__.py'))
    with pytest.raises(ValueError, match='package lpips'):
        LPIPS('squeeze', squeeze)


def test_a_failed_download_names_the_file_and_the_option(lpips, monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise urllib.error.URLError('no network')

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('torch.hub.urlopen', offline)
    with pytest.raises(RuntimeError, match=r'squeezenet1_1-b8a52dc0\.pth.*torchvision.*no network.*option weights'):
        LPIPS('squeeze')


def test_without_weights_torchvisions_cached_file_is_used(squeeze, monkeypatch, tmp_path):
    cache = tmp_path / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    (cache / 'squeezenet1_1-b8a52dc0.pth').write_bytes(squeeze.read_bytes())
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    assert LPIPS('squeeze').weights_hash() == LPIPS('squeeze', squeeze).weights_hash()


def test_without_lpips_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'lpips', None)
    with pytest.raises(ImportError, match=r'the judge lpips needs the package lpips: pip install .*\[iqa\]'):
        LPIPS('squeeze')


def test_lpips_gives_the_published_example(lpips, squeezenet_weights):
    # torchmetrics, learned_perceptual_image_patch_similarity, docstring example with net_type='squeeze': 0.1008.
    generator = torch.Generator().manual_seed(123)
    pred, ref = (torch.rand(10, 3, 100, 100, generator=generator) for _ in range(2))
    score = LPIPS('squeeze', squeezenet_weights)(pred, ref).mean().item()
    assert score == pytest.approx(0.1008, abs=1e-3)
