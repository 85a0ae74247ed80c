"""Flat areas: which windows of a ground truth count, and judges that are restricted to them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.evaluation.flat_areas import NEIGHBOURHOOD, FlatRegions, detail_map, flat_regions, flat_windows
from nriqa_plugin.evaluation.images import list_images, read_image
from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.evaluation.scoring import score_folder
from nriqa_plugin.iqa import create_scorer
from tests.judges import Brightness, Distance


def noisy(height=96, width=128, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def with_flat(image, *places, size=32):
    for top, left in places:
        image[:, top : top + size, left : left + size] = 0.5
    return image


def naive_detail(image, size):
    """The definition, window by window, in numpy."""
    luma = np.tensordot([0.299, 0.587, 0.114], 255 * image.double().numpy(), 1)
    half = NEIGHBOURHOOD // 2
    padded = np.pad(luma, half, mode='edge')
    height, width = luma.shape
    variance = [[padded[y : y + 7, x : x + 7].var() for x in range(width)] for y in range(height)]
    variance = np.array(variance)
    return np.array([[math.sqrt(variance[y : y + size, x : x + size].mean()) for x in range(width - size + 1)]
                     for y in range(height - size + 1)])  # fmt: skip


def test_detail_is_the_rms_of_local_standard_deviations():
    image = noisy(24, 30) * 0.2 + 0.7
    np.testing.assert_allclose(detail_map(image, 16).numpy(), naive_detail(image, 16), rtol=1e-9, atol=1e-9)


def test_the_flat_place_is_found_and_nothing_else():
    # The 7 x 7 px around a pixel at the border of the flat square reach 3 px into the noise.
    assert flat_windows(with_flat(noisy(), (20, 50), size=38), size=32) == [(23, 53)]
    assert flat_windows(noisy(), size=32) == []


def test_windows_come_flattest_first_and_do_not_overlap():
    image = with_flat(noisy(), (0, 0), (40, 60), size=40)
    image[:, :40, :40] += 0.004 * noisy(40, 40, 1)
    windows = flat_windows(image, size=16)
    details = detail_map(image, 16)
    assert len(windows) >= 4
    values = [details[window].item() for window in windows]
    assert values == sorted(values)
    for i, (top, left) in enumerate(windows):
        assert all(abs(top - t) >= 16 or abs(left - x) >= 16 for t, x in windows[:i])
    assert flat_windows(image, size=16, count=2) == windows[:2]
    assert flat_windows(image.clone(), size=16) == windows


def test_a_slow_gradient_is_flat_and_an_edge_is_not():
    ramp = torch.linspace(0.4, 0.6, 64).expand(3, 64, 64).clone()
    assert flat_windows(ramp, size=64) == [(0, 0)]
    ramp[..., 32:] += 0.2
    assert flat_windows(ramp, size=64) == []


def test_the_threshold_is_in_grey_levels():
    stripes = torch.full((3, 64, 64), 0.5)
    stripes[..., ::2] += 2 * 3 / 255  # local standard deviation: 3 levels, less a little for the odd 7 px
    assert flat_windows(stripes, size=64, threshold=3.01)
    assert not flat_windows(stripes, size=64, threshold=2.9)


def test_an_image_smaller_than_a_window_has_none():
    assert flat_windows(torch.full((3, 40, 100), 0.5), size=64) == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [({'size': 3}, 'size'), ({'threshold': -1}, 'threshold'), ({'count': 0}, 'count')],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        flat_windows(noisy(), **options)


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match=r'must be \(3, H, W\)'):
        flat_windows(noisy()[None])


def test_flat_windows_of_64_px_cover_an_eighth_of_kodak(test_data):
    truths = [read_image(path) for path in list_images(test_data / 'images' / 'kodak24')[:6]]
    counts = [len(flat_windows(truth)) for truth in truths]
    assert 0.05 < sum(counts) * 64**2 / (6 * 768 * 512) < 0.3
    for truth, count in zip(truths, counts, strict=True):
        assert len(flat_windows(truth, threshold=8)) >= count


# --- judges on flat areas ---


def save(path, image):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def folders(tmp_path):
    """Two images: ``a`` has two flat places in its ground truth, ``b`` has none."""
    save(tmp_path / 'gt' / 'a.png', with_flat(noisy(), (0, 0), (40, 60), size=40))
    save(tmp_path / 'gt' / 'b.png', noisy(seed=3))
    save(tmp_path / 'images' / 'a.png', noisy(seed=1))
    save(tmp_path / 'images' / 'b.png', noisy(seed=2))
    return tmp_path


def test_a_judge_on_flat_areas_scores_the_mean_over_the_windows_of_the_ground_truth(folders, plugin_log):
    out, regions = folders / 'scores.csv', FlatRegions(32)
    judges = [Brightness(), Distance()]
    scores = score_folder(folders / 'images', judges, out, folders / 'gt', regions=regions, progress=False)
    assert scores.metrics == ['brightness@flat', 'distance@flat']
    assert [row.image for row in scores.of('brightness@flat')] == ['a.png']
    assert 'b.png' in plugin_log.text
    image, truth = read_image(folders / 'images' / 'a.png'), read_image(folders / 'gt' / 'a.png')
    cuts = [(slice(None), slice(t, t + 32), slice(x, x + 32)) for t, x in flat_windows(truth, 32)]
    assert len(cuts) >= 2
    expected = np.mean([image[cut].mean().item() for cut in cuts])
    assert scores.mean('brightness@flat') == pytest.approx(expected, rel=1e-5)
    expected = np.mean([(image[cut] - truth[cut]).abs().mean().item() for cut in cuts])
    assert scores.mean('distance@flat') == pytest.approx(expected, rel=1e-5)


def test_scores_of_other_windows_are_another_judge(folders):
    out = folders / 'scores.csv'
    score_folder(folders / 'images', Brightness(), out, folders / 'gt', regions=FlatRegions(32), progress=False)
    with pytest.raises(ValueError, match='by another judge'):
        score_folder(folders / 'images', Brightness(), out, folders / 'gt', regions=FlatRegions(16), progress=False)
    plain = folders / 'plain.csv'
    score_folder(folders / 'images', Brightness(), plain, progress=False)
    assert read_scores(plain).rows[0].judge_hash != read_scores(out).rows[0].judge_hash


def test_not_one_flat_window_is_an_error_that_names_the_images(folders):
    (folders / 'gt' / 'a.png').unlink()
    (folders / 'images' / 'a.png').unlink()
    with pytest.raises(ValueError, match=r'b\.png'):
        score_folder(folders / 'images', Brightness(), folders / 's.csv', folders / 'gt', regions=FlatRegions(32),
                     progress=False)  # fmt: skip


def test_a_judge_that_needs_more_than_a_window_is_refused_with_its_size():
    with pytest.raises(ValueError, match=r'niqe needs at least 192 px.*--flat-size 192'):
        flat_regions(None, [create_scorer('niqe')])
    assert flat_regions(192, [create_scorer('niqe')]).size == 192


def test_flat_areas_want_the_ground_truth(folders):
    with pytest.raises(ValueError, match='ground truth'):
        FlatRegions()(noisy(), None)
    with pytest.raises(ValueError, match='brightness@flat needs a folder of references'):
        score_folder(folders / 'images', Brightness(), folders / 's.csv', regions=FlatRegions(), progress=False)


def test_another_ground_truth_has_other_windows_so_its_scores_are_made_again(folders, plugin_log):
    call = [folders / 'images', Brightness(), folders / 's.csv', folders / 'gt']
    save(folders / 'gt' / 'b.png', with_flat(noisy(seed=3), (0, 0), size=40))
    before = score_folder(*call, regions=FlatRegions(32), progress=False).rows
    save(folders / 'gt' / 'b.png', with_flat(noisy(seed=3), (50, 80), size=40))
    after = score_folder(*call, regions=FlatRegions(32), progress=False).rows
    assert [row.score == old.score for row, old in zip(after, before, strict=True)] == [True, False]
    assert 'reference had changed' in plugin_log.text


# --- nriqa score --flat ---


def score(*arguments):
    return CliRunner().invoke(app, ['score', *map(str, arguments)], env={'COLUMNS': '200'})


def test_the_command_scores_flat_areas_under_their_own_name(folders):
    call = [folders / 'images', '-m', 'tests.judges:Brightness', '-o', folders / 's.csv', '-r', folders / 'gt']
    result = score(*call, '--flat', '--flat-size', 32)
    assert result.exit_code == 0, result.output
    assert read_scores(folders / 's.csv').metrics == ['brightness@flat']
    result = score(*call)  # whole images beside them, in the same file
    assert result.exit_code == 0, result.output
    assert read_scores(folders / 's.csv').metrics == ['brightness', 'brightness@flat']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--flat'], '--flat needs --reference'),
        (['--flat-size', 32, '-r', 'gt'], '--flat-size needs --flat'),
        (['--flat', '-r', 'gt', '-m', 'niqe'], 'niqe needs at least 192 px'),
    ],
)
def test_wrong_calls_of_the_command_name_the_option(folders, options, message):
    options = [folders / 'gt' if option == 'gt' else option for option in options]
    result = score(folders / 'images', '-m', 'tests.judges:Brightness', '-o', folders / 's.csv', *options)
    assert result.exit_code == 2
    assert message in ' '.join(result.output.split())
