"""The study of crops: its ranks, its grid and what it concludes."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).resolve().parent.parent / 'tools' / 'crop_study.py'


@pytest.fixture(scope='module')
def study():
    pytest.importorskip('numpy')
    spec = importlib.util.spec_from_file_location('crop_study', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbers(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('levels', [3, 1000])
def test_the_rank_correlation_is_scipys_also_with_ties(study, levels):
    stats = pytest.importorskip('scipy.stats')
    a, b = ((levels * numbers(40, seed=seed)).floor().numpy() for seed in (1, 2))
    assert study.rank_correlation(a, a + b) == pytest.approx(stats.spearmanr(a, a + b).statistic, abs=1e-12)


def test_a_side_that_does_not_vary_has_no_rank_correlation(study):
    assert math.isnan(study.rank_correlation([1.0, 2.0], [3.0, 3.0]))


def test_the_grid_covers_an_image_of_whole_crops_exactly_once(study):
    image = numbers(3, 8, 12)
    crops = study.grid(image, 4)
    assert crops.shape == (6, 3, 4, 4)
    rows = crops.view(2, 3, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, 8, 12)
    assert torch.equal(rows, image)


def test_the_grid_leaves_out_the_same_margin_on_both_sides(study):
    image = numbers(3, 10, 7)
    assert torch.equal(study.grid(image, 5)[0], image[:, :5, 1:6])
    assert study.grid(image, 8).shape == (0, 3, 8, 8)


def test_sizes_are_compared_by_the_judges_that_can_score_both(study):
    def row(value):
        return {'mean': value, 'single': value, 'within': value, 'bias': 0.0}

    small, large = study.SIZES[0], study.SIZES[-1]
    found = {
        ('models', small): [(row(0.5), 'piqe')],
        ('models', large): [(row(0.25), 'niqe'), (row(0.75), 'piqe')],
    }
    text = ' '.join(study._conclusions(found).split())
    assert '0.25' not in text
    assert f'of the 1 judges that can score {small} px, without niqe.' in text
