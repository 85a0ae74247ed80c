"""LPIPS-ST (ST-LPIPS, Ghildyal and Liu, ECCV 2022) from a local file: as a metric and as a loss."""

import pytest
import torch

pytest.importorskip('pyiqa', reason='the extra iqa is not installed')
from pyiqa.archs.stlpips_arch import STLPIPS

from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.losses import FRIQALoss, LossSum


@pytest.fixture(scope='module')
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = STLPIPS(pretrained=False, net='alex')
        for layer in network.lins:
            layer.model[-1].weight.data.abs_()  # as the trained ones: a distance
    return network.requires_grad_(False)


@pytest.fixture(scope='module')
def weights(network, tmp_path_factory):
    """A file in the layout of the authors' alex_shift_tolerant.pth: the linear layers under their first names only."""
    file = tmp_path_factory.mktemp('weights') / 'alex_shift_tolerant.pth'
    state = {key: value for key, value in network.state_dict().items() if not key.startswith('lins.')}
    assert len(state) == 20  # tensors of the published file
    torch.save(state, file)
    return file


def test_metric_is_the_authors_network_and_zero_for_equal_images(network, weights):
    judge = create_scorer('stlpips', weights=weights)
    pred, ref = torch.rand(2, 3, 40, 48), torch.rand(2, 3, 40, 48)
    assert torch.allclose(judge(pred, ref), network(pred, ref).flatten(), rtol=1e-6)
    assert (judge(pred, ref) > 0).all()
    assert judge(ref, ref).tolist() == [0, 0]
    assert judge.needs_reference
    assert not judge.higher_better


def test_loss_has_the_gradient_of_the_network(network, weights):
    loss = LossSum([{'type': 'FRIQALoss', 'metric': 'stlpips', 'weights': str(weights), 'weight': 2.0}])
    pred, ref = torch.rand(2, 3, 40, 48, requires_grad=True), torch.rand(2, 3, 40, 48)
    value = loss(pred, ref)
    (gradient,) = torch.autograd.grad(value, pred)
    (expected,) = torch.autograd.grad(2 * network(pred, ref).mean(), pred)
    assert expected.any()
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-9)
    assert loss.values.keys() == {'stlpips'}


def test_it_is_a_full_reference_judge_in_units_of_0_to_1(weights):
    with pytest.raises(ValueError, match="judge 'stlpips' needs reference image; use FRIQALoss"):
        LossSum([{'type': 'NRIQALoss', 'metric': 'stlpips', 'weights': str(weights), 'weight': 1.0}])
    assert FRIQALoss('stlpips', weights=str(weights)).scorer.score_range == (0.0, 1.0)


def test_a_file_without_one_of_the_layers_is_refused(network, weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    del state['lin0.model.1.weight']
    torch.save(state, tmp_path / 'cut.pth')
    with pytest.raises(ValueError, match=r'cut\.pth belongs to another network than STLPIPS: lin0\.model\.1\.weight'):
        create_scorer('stlpips', weights=tmp_path / 'cut.pth')
