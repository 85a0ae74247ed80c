"""Distortions, Lanczos resizing and the file of MDF discriminators against Pillow, numpy and plain torch."""

import io
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from nriqa_plugin.mdf import JPEG, Discriminator, Downscale, GaussianNoise, create_distortion, load_mdf, save_mdf
from nriqa_plugin.mdf.distortions import check_distorted
from nriqa_plugin.mdf.resize import resize


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_images(n=2, channels=3, height=40, width=56):
    """Random images with structure, in [0, 1]."""
    coarse = torch.rand(n, channels, 5, 7, generator=generator(5))
    return torch.nn.functional.interpolate(coarse, (height, width), mode='bilinear')


def pillow_lanczos(plane, size):
    image = Image.fromarray(plane.numpy().astype(np.float32), mode='F')
    return torch.from_numpy(np.array(image.resize((size[1], size[0]), Image.Resampling.LANCZOS)))


@pytest.mark.filterwarnings('ignore:.*mode.*:DeprecationWarning')
@pytest.mark.parametrize('size', [(20, 28), (13, 17), (80, 112), (40, 56), (41, 20)])
def test_resize_equals_pillow(size):
    images = smooth_images() * 2 - 1
    expected = torch.stack([torch.stack([pillow_lanczos(plane, size) for plane in image]) for image in images])
    torch.testing.assert_close(resize(images, size), expected, atol=2e-6, rtol=0)


def test_resize_has_the_gradient_of_a_linear_map():
    images = torch.rand(1, 2, 9, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resize(x, (5, 12)), images)


def test_resize_keeps_constants_and_the_type():
    images = torch.full((1, 3, 30, 31), 0.25, dtype=torch.float64)
    small = resize(images, (11, 12))
    assert small.dtype == torch.float64
    assert (small - 0.25).abs().max() < 1e-6


def test_noise_has_the_strength_it_says_and_is_not_clipped():
    images = torch.ones(4, 3, 100, 100)
    noise = GaussianNoise(25)(images, generator()) - images
    assert (noise.std(dim=(1, 2, 3)) * 255 - 25).abs().max() < 0.5
    assert abs(noise.mean()) * 255 < 0.3
    assert noise.max() > 0


def test_noise_draws_a_strength_for_each_image():
    """Uniform in the span: mean and extremes of 400 draws lie where 400 uniform numbers lie."""
    strengths = GaussianNoise((10, 50))(torch.zeros(400, 1, 40, 40), generator()).std(dim=(1, 2, 3)) * 255
    assert 9 < strengths.min() < 12
    assert 48 < strengths.max() < 53
    assert abs(strengths.mean() - 30) < 2


def test_no_noise_at_sigma_0():
    images = smooth_images()
    assert torch.equal(GaussianNoise(0)(images, generator()), images)


@pytest.mark.parametrize('channels', [1, 3])
def test_jpeg_equals_pillow(channels):
    images = smooth_images(channels=channels) * 1.2 - 0.1  # overshoots are clipped
    expected = []
    for image in images:
        levels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy().squeeze()
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, 'JPEG', quality=9)
        decoded = np.asarray(Image.open(buffer)).reshape(*levels.shape[:2], -1)
        expected.append(torch.from_numpy(decoded.transpose(2, 0, 1) / 255).float())
    torch.testing.assert_close(JPEG(9)(images, generator()), torch.stack(expected), atol=1e-7, rtol=0)


def test_jpeg_draws_every_quality_of_its_span_and_no_other():
    image = smooth_images(1)
    by_quality = {q: JPEG(q)(image, generator()) for q in range(6, 12)}
    assert not torch.equal(by_quality[7], by_quality[8])
    results = JPEG((7, 10))(image.expand(60, -1, -1, -1), generator())
    drawn = {q for result in results for q, one in by_quality.items() if torch.equal(result, one[0])}
    assert drawn == {7, 8, 9, 10}


def test_downscale_equals_pillow_down_and_up():
    images = smooth_images(1, height=41, width=60)
    small = torch.stack([pillow_lanczos(plane, (20, 30)) for plane in images[0]])
    expected = torch.stack([pillow_lanczos(plane, (41, 60)) for plane in small])
    torch.testing.assert_close(Downscale(2)(images)[0], expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize('option', ['gaussian_noise', 'jpeg', 'downscale'])
def test_distortions_keep_shape_and_follow_their_generator(option):
    distortion, images = create_distortion(option), smooth_images()
    first, again, other = (distortion(images, generator(seed)) for seed in (1, 1, 2))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (option == 'downscale')


def test_options_of_distortions_are_checked_by_name():
    assert repr(create_distortion({'type': 'gaussian_noise', 'sigma': [0, 55]})) == 'GaussianNoise(sigma=(0, 55))'
    assert create_distortion('tests.test_distortions:smooth_images') is smooth_images
    for option, message in [
        ({'type': 'gausian_noise'}, "Did you mean 'gaussian_noise'"),
        ({'type': 'jpeg', 'qualty': 10}, 'quality'),
        ({'type': 'jpeg', 'quality': 0}, 'quality must be'),
        ({'type': 'jpeg', 'quality': [10, 7]}, 'must rise'),
        ({'type': 'gaussian_noise', 'sigma': -1}, 'sigma must be'),
        ({'type': 'gaussian_noise', 'sigma': [1, 2, 3]}, 'sigma must be a number or'),
        ({'type': 'downscale', 'scale': 0.5}, 'scale must be'),
    ]:
        with pytest.raises(ValueError, match=message):
            create_distortion(option)
    with pytest.raises(TypeError, match='a distortion is'):
        create_distortion(7)
    with pytest.raises(ValueError, match='1 or 3 channels'):
        JPEG(9)(torch.rand(1, 2, 16, 16), generator())


def brighter(images, generator, by=0.0):
    return images + by


def test_options_beside_a_dotted_path_arrive():
    images = smooth_images()
    distortion = create_distortion({'type': 'tests.test_distortions:brighter', 'by': 0.25})
    assert torch.equal(distortion(images, generator()), images + 0.25)
    built = create_distortion({'type': 'nriqa_plugin.mdf.distortions:JPEG', 'quality': 30})
    assert repr(built) == 'JPEG(quality=(30, 30))'
    with pytest.raises(TypeError, match='must be a function'):
        create_distortion('tests.test_distortions:__name__')


def test_what_a_distortion_gives_back_is_checked():
    images = smooth_images()
    assert check_distorted(abs, images, images) is images
    with pytest.raises(ValueError, match='must keep the shape'):
        check_distorted(abs, images, images[..., 1:])
    with pytest.raises(ValueError, match='NaN'):
        check_distorted(abs, images, images / 0)
    with pytest.raises(TypeError, match='must return a tensor, got ndarray'):
        check_distorted(abs, images, images.numpy())
    with pytest.raises(ValueError, match=r'the distortion tests\.test_distortions:brighter must keep the shape'):
        check_distorted(brighter, images, images[..., 1:])


def test_a_distortion_that_counts_in_0_to_255_is_refused():
    images = smooth_images() * 0.1  # a dark image
    for given in (images * 255, (images * 255).byte(), -images * 255):
        with pytest.raises(ValueError, match=r'test_distortions:brighter .* in \[0, 1\] .* does it count in 0 to 255'):
            check_distorted(brighter, images, given)
    for sigma in (55, 255):  # unclipped noise goes far out, but not that far
        given = GaussianNoise(sigma)(torch.rand(8, 3, 256, 256, generator=generator()), generator(1))
        assert check_distorted(GaussianNoise, given, given) is given


def one_argument(images):
    return images


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (one_argument, r'tests\.test_distortions:one_argument must take \(images, generator\): too many'),
        ('tests.test_distortions:one_argument', r'test_distortions:one_argument must take \(images, generator\): too'),
        ({'type': 'tests.test_distortions:brighter', 'bye': 1},
         r"brighter must take \(images, generator\) and the options bye: got an unexpected keyword argument 'bye'"),
        (JPEG, r'distortions:JPEG must take \(images, generator\)'),
    ],
)  # fmt: skip
def test_a_distortion_with_other_arguments_is_refused_when_it_is_built(option, message):
    with pytest.raises(TypeError, match=message):
        create_distortion(option)


@pytest.fixture
def mdf_file(tmp_path):
    discriminators = [Discriminator(4), Discriminator(6)]
    for network in discriminators:
        network(torch.rand(2, 3, 20, 20))  # batch norm has seen something
    save_mdf(tmp_path / 'mdf.pth', discriminators, {'task': 'sisr', 'range': [-1.0, 1.0]})
    return tmp_path / 'mdf.pth', discriminators


def test_discriminators_come_back_from_their_file(mdf_file):
    path, discriminators = mdf_file
    loaded, header = load_mdf('weights', path)
    assert header == {
        'task': 'sisr', 'range': [-1.0, 1.0], 'scales': 2, 'widths': [4, 6], 'receptive_field': 11,
    }  # fmt: skip
    for before, after in zip(discriminators, loaded, strict=True):
        assert not after.training
        assert before.state_dict().keys() == after.state_dict().keys()
        assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())


def test_a_discriminator_sees_11_px():
    network = Discriminator(4).eval().double()
    image = torch.rand(1, 3, 25, 27, dtype=torch.float64, requires_grad=True)
    maps = network(image)
    assert maps.shape == (1, 1, 15, 17)
    (gradient,) = torch.autograd.grad(maps[0, 0, 4, 7], image)
    rows, columns = (gradient[0].abs().sum(0) > 0).nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 14, 7, 17)


@pytest.mark.parametrize('size', [0, 10, 500, -200])
def test_truncated_files_are_refused(mdf_file, size):
    path = mdf_file[0]
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r'weights: .*mdf\.pth'):
        load_mdf('weights', path)


def test_foreign_files_are_refused(mdf_file, tmp_path):
    path, discriminators = mdf_file
    state = discriminators[0].state_dict()
    missing = {key: value for key, value in state.items() if key != 'tail.bias'}
    whole = {'format': 'nriqa-mdf-1', 'discriminators': [state]}
    for content, message in [
        (state, 'no MDF discriminators.*convert-mdf'),
        ([1, 2], 'no MDF discriminators'),
        ({'format': 'nriqa-mdf-1'}, 'no MDF discriminators'),
        (whole, 'holds no header'),
        ({**whole, 'discriminators': []}, 'holds a list of 0, not a list of 1 to 32'),
        ({**whole, 'discriminators': [state] * 33}, 'holds a list of 33, not'),
        ({**whole, 'discriminators': state['tail.bias']}, 'holds a Tensor, not a list'),
        ({**whole, 'discriminators': [{'a': torch.zeros(1)}]}, 'discriminator 0: .* no state dict'),
        ({**whole, 'discriminators': [state, missing]}, 'discriminator 1: .*tail.bias'),
        ({**whole, 'discriminators': [{**state, 'tail.bias': 3}]}, 'no state dict'),
        ({**whole, 'discriminators': [{**state, 'head.conv.weight': torch.zeros(50000, 3)}]}, 'no state dict'),
        ({**whole, 'discriminators': [{**state, 'head.conv.weight': torch.zeros(1025, 3, 1, 1)}]}, 'width must be'),
        ({**whole, 'discriminators': [{**state, 'tail.bias': torch.tensor([math.nan])}]}, 'NaN.*tail.bias'),
        ({**whole, 'discriminators': [{**state, 'head.norm.running_var': -torch.ones(4)}]}, 'negative variances'),
    ]:
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            load_mdf('weights', path)
    (tmp_path / 'text.pth').write_text('not a checkpoint')
    with pytest.raises(ValueError, match='text.pth'):
        load_mdf('weights', tmp_path / 'text.pth')
    with pytest.raises(FileNotFoundError, match='weights'):
        load_mdf('weights', tmp_path / 'nothing.pth')


class Evil:
    def __reduce__(self):
        return (print, ('code ran',))


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({'format': 'nriqa-mdf-1', 'discriminators': [Evil()]}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match='might run code'):
        load_mdf('weights', tmp_path / 'evil.pth')
    assert capsys.readouterr().out == ''
    pickle.loads(pickle.dumps(Evil()))
    assert capsys.readouterr().out == 'code ran\n'  # it would have


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match='pickle'):
        save_mdf(tmp_path / 'mdf.pth', [Discriminator(2)], {'bad': lambda: None})
    assert list(tmp_path.iterdir()) == []
