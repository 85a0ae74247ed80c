"""MDTVSFA: the whole judge against a computation of its own, with the authors' head and a random backbone."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.evaluation.scoring import score_folder
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.iqa.mdtvsfa import MDTVSFA, pooled_over_time
from nriqa_plugin.losses import LossSum, NRIQALoss
from tests.conftest import _weights

mdtvsfa_weights = _weights('MDTVSFA.pt')


@pytest.fixture(scope='module')
def backbone(tmp_path_factory):
    """A file of a random ResNet-50, in torchvision's layout with its last layer, and the network itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.resnet50(weights=None)
    # Random residual branches would add up to features of another size than real ones.
    for name, module in network.named_modules():
        if name.endswith('bn3'):
            module.weight.data.fill_(0.2)
    file = tmp_path_factory.mktemp('weights') / 'resnet50.pth'
    torch.save(network.state_dict(), file)
    return file, network.eval().requires_grad_(False)


@pytest.fixture(scope='module')
def random_head(tmp_path_factory):
    """A file of random weights in the layout of the authors' head, of two data sets."""
    generator = torch.Generator().manual_seed(3)
    shapes = {
        'dimemsion_reduction.weight': (128, 4096), 'dimemsion_reduction.bias': (128,),
        'feature_aggregation.weight_ih_l0': (96, 128), 'feature_aggregation.weight_hh_l0': (96, 32),
        'feature_aggregation.bias_ih_l0': (96,), 'feature_aggregation.bias_hh_l0': (96,),
        'regression.weight': (1, 32), 'regression.bias': (1,),
        **{f'{layer}.{part}': (1, 1)[: 2 - (part == 'bias')] for layer in ('nlm.0', 'nlm.2', 'lm.K', 'lm.C') for part in ('weight', 'bias')},
    }  # fmt: skip
    state = {key: torch.randn(*shape, generator=generator) * 0.1 for key, shape in shapes.items()}
    state |= {'nlm.0.weight': torch.full((1, 1), 3.4), 'nlm.0.bias': torch.full((1,), -1.7)}
    state |= {'nlm.2.weight': torch.ones(1, 1), 'nlm.2.bias': torch.zeros(1)}
    state |= {'lm.K.weight': torch.full((1, 1), 3.5), 'lm.K.bias': torch.full((1,), 1.2)}
    file = tmp_path_factory.mktemp('weights') / 'head.pt'
    torch.save(state, file)
    return file


def clips(count=2, frames=2, height=34, width=40, seed=0):
    return torch.rand(count, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pooled_in_loops(scores, tau=12, beta=0.5):
    """Time step by time step, as the paper writes it."""
    found = []
    for t in range(len(scores)):
        last = min(scores[max(0, t - tau + 1) : t + 1])
        coming = np.array(scores[t : t + tau])
        weights = np.exp(-coming) / np.exp(-coming).sum()
        found.append(beta * (weights * coming).sum() + (1 - beta) * last)
    return np.mean(found)


def by_hand(head, network, clip):
    """``{'mapped': s, 'K': s, ...}`` of one clip ``(T, 3, H, W)``: NumPy in float64 behind torchvision's network."""
    weights = {
        key: value.double().numpy() for key, value in torch.load(head, map_location='cpu', weights_only=True).items()
    }
    features = torch.nn.Sequential(*list(network.children())[:-2])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    hidden, scores = np.zeros(32), []
    for frame in clip.double().numpy():
        frame = (frame - mean[:, None, None]) / std[:, None, None]
        with torch.no_grad():
            maps = features(torch.from_numpy(frame).float()[None])[0].double().numpy().reshape(2048, -1)
        x = np.concatenate([maps.mean(1), maps.std(1, ddof=1)])
        x = weights['dimemsion_reduction.weight'] @ x + weights['dimemsion_reduction.bias']
        gates_x = weights['feature_aggregation.weight_ih_l0'] @ x + weights['feature_aggregation.bias_ih_l0']
        gates_h = weights['feature_aggregation.weight_hh_l0'] @ hidden + weights['feature_aggregation.bias_hh_l0']
        reset, update = (sigmoid(gates_x[i : i + 32] + gates_h[i : i + 32]) for i in (0, 32))
        new = np.tanh(gates_x[64:] + reset * gates_h[64:])
        hidden = (1 - update) * new + update * hidden
        scores.append((weights['regression.weight'] @ hidden + weights['regression.bias']).item())
    relative = sigmoid(pooled_in_loops(scores))
    mapped = sigmoid(weights['nlm.0.weight'].item() * relative + weights['nlm.0.bias'].item())
    mapped = weights['nlm.2.weight'].item() * mapped + weights['nlm.2.bias'].item()
    found = {'mapped': mapped}
    for letter in 'KCLN':
        if f'lm.{letter}.weight' in weights:
            found[letter] = weights[f'lm.{letter}.weight'].item() * mapped + weights[f'lm.{letter}.bias'].item()
    return found


@pytest.mark.parametrize('head', ['random', 'real'])
def test_scores_equal_a_computation_of_its_own(head, backbone, random_head, request):
    file, network = backbone
    head = random_head if head == 'random' else request.getfixturevalue('mdtvsfa_weights')
    batch = clips()
    expected = [by_hand(head, network, clip) for clip in batch]
    assert abs(expected[0]['mapped'] - expected[1]['mapped']) > 1e-5
    scores = create_scorer('mdtvsfa', head, backbone=file)(batch)
    assert scores.tolist() == pytest.approx([one['mapped'] for one in expected], rel=1e-5)
    for name, letter in (('konvid_1k', 'K'), ('cvd2014', 'C')):
        judge = create_scorer('mdtvsfa', head, backbone=file, dataset=name)
        assert judge(batch).tolist() == pytest.approx([one[letter] for one in expected], rel=1e-4)
        assert judge.score_range[0] < judge(batch).min() < judge(batch).max() < judge.score_range[1]


@pytest.mark.parametrize('length', [1, 2, 11, 12, 30])
def test_pooling_over_time_equals_its_formula_in_loops_and_passes_gradcheck(length):
    scores = torch.randn(2, length, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    expected = [pooled_in_loops(row) for row in scores.numpy()]
    assert pooled_over_time(scores).tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(pooled_over_time, (scores.requires_grad_(),))


def test_a_bad_moment_weighs_more_than_its_share():
    good = torch.ones(1, 24)
    bad = good.clone()
    bad[0, 12] = 0.0
    assert pooled_over_time(good).item() == pytest.approx(1.0)
    assert pooled_over_time(bad) < bad.mean() - 0.2


def test_the_order_of_frames_matters(backbone, random_head):
    clip = clips(1, 4)
    clip[:, 0] *= 0.1
    judge = create_scorer('mdtvsfa', random_head, backbone=backbone[0])
    assert abs(judge(clip) - judge(clip.flip(1))).item() > 1e-6


@pytest.mark.parametrize('checkpoint', [False, True])
def test_small_steps_change_the_score_as_the_gradient_says(checkpoint, backbone, random_head):
    judge = create_scorer('mdtvsfa', random_head, backbone=backbone[0], checkpoint=checkpoint).double()
    try:
        clip = clips(1, 3, 36, 36).double()
        (gradient,) = torch.autograd.grad(judge(leaf := clip.clone().requires_grad_()).sum(), leaf)
        assert gradient.flatten(2).abs().sum(2).min() > 0  # every frame has one
        direction = torch.randn(clip.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        direction = direction * 0.1 + gradient / gradient.abs().max()
        step = 1e-7
        change = (judge.score(clip + step * direction) - judge.score(clip - step * direction)) / (2 * step)
        assert change.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4)
    finally:
        judge.head.float(), judge.backbone.float()


def test_a_checkpoint_takes_frames_one_by_one_and_changes_nothing(backbone, random_head):
    batch, results, sizes = clips(2, 3), [], []
    for checkpoint in (False, True):
        judge = MDTVSFA(random_head, backbone[0], checkpoint=checkpoint)
        judge.backbone.conv1.register_forward_hook(lambda layer, inputs, output: sizes.append(len(inputs[0])))
        leaf = batch.clone().requires_grad_()
        scores = judge(leaf)
        (gradient,) = torch.autograd.grad(scores.sum(), leaf)
        results.append((scores, gradient))
    assert sizes == [6, *[1] * 12]  # computed again in the backward pass
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-7)
    # Not value by value: where two features are nearly equal, another batch rounds them to the other side of a maximum.
    assert (results[0][1] - results[1][1]).norm() < 1e-3 * results[0][1].norm()


def test_without_gradients_frames_go_one_by_one(backbone, random_head):
    judge, sizes = MDTVSFA(random_head, backbone[0]), []
    judge.backbone.conv1.register_forward_hook(lambda layer, inputs, output: sizes.append(len(inputs[0])))
    with torch.no_grad():
        alone = judge(clips(2, 3))
    assert sizes == [1] * 6
    torch.testing.assert_close(alone, judge(clips(2, 3).requires_grad_()).detach(), rtol=1e-5, atol=1e-7)


def test_it_is_a_term_on_clips_and_refuses_images(backbone, random_head):
    options = {'backbone': str(backbone[0])}
    terms = [
        {'type': 'NRIQALoss', 'metric': 'mdtvsfa', 'weights': str(random_head), 'options': options, 'weight': 'paper'}
    ]
    loss, clip = LossSum(terms), clips(2, 3).requires_grad_()
    value = loss(clip, None)
    value.backward()
    score = create_scorer('mdtvsfa', random_head, **options)(clip.detach())
    assert value.item() == pytest.approx(-0.005 * score.mean().item(), rel=1e-5)
    assert clip.grad.flatten(2).abs().sum(2).min() > 0
    with pytest.raises(ValueError, match=r'pred must have the shape \(N, T, C, H, W\), got \(2, 3, 34, 40\)'):
        loss(clip[:, 0], None)
    with pytest.raises(ValueError, match='mdtvsfa needs at least 33 px a side'):
        loss(clip[..., :32], None)
    with pytest.raises(ValueError, match="frames: middle: 'mdtvsfa' is a video judge"):
        NRIQALoss('mdtvsfa', random_head, options, frames='middle')


def test_clips_are_scored_from_folders_of_frames(tmp_path, backbone, random_head):
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 52, 3), dtype=np.uint8)
    (tmp_path / 'clips' / 'one').mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / 'clips' / 'one' / f'{number:02d}.png')
    judge = create_scorer('mdtvsfa', random_head, backbone=backbone[0])
    score_folder(tmp_path / 'clips', judge, tmp_path / 'scores.csv', device='cpu')
    (row,) = read_scores(tmp_path / 'scores.csv').rows
    clip = torch.from_numpy(frames.astype(np.float32) / 255).permute(0, 3, 1, 2)[None]
    assert row.score == pytest.approx(judge(clip).item(), rel=1e-5)


def test_a_backbone_file_may_be_half_precision_and_lack_what_is_not_used(tmp_path, backbone, random_head):
    state = torch.load(backbone[0], weights_only=True)
    kept = {k: v.half() for k, v in state.items() if not k.startswith('fc.') and not k.endswith('num_batches_tracked')}
    torch.save(kept, tmp_path / 'half.pth')
    scores = [
        create_scorer('mdtvsfa', random_head, backbone=file)(clips()) for file in (backbone[0], tmp_path / 'half.pth')
    ]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-4)


def test_what_is_missing_foreign_or_unknown_is_told(tmp_path, backbone, random_head, monkeypatch):
    with pytest.raises(ValueError, match=r'option weights.*MDTVSFA\.pt.*lidq92/MDTVSFA'):
        create_scorer('mdtvsfa')
    with pytest.raises(FileNotFoundError, match='weights: no such file'):
        create_scorer('mdtvsfa', tmp_path / 'absent.pt')
    with pytest.raises(FileNotFoundError, match='backbone: no such file'):
        create_scorer('mdtvsfa', random_head, backbone=tmp_path / 'absent.pth')
    with pytest.raises(ValueError, match='weights: .* belongs to another network than Head'):
        create_scorer('mdtvsfa', backbone[0])
    with pytest.raises(ValueError, match=r'backbone: .*another network than ResNet.*wants torchvision.s file resnet50'):
        create_scorer('mdtvsfa', random_head, backbone=random_head)
    with pytest.raises(ValueError, match="value for dataset: 'live_vqc'.* Allowed: cvd2014, konvid_1k"):
        create_scorer('mdtvsfa', random_head, backbone=backbone[0], dataset='live_vqc')
    with pytest.raises(TypeError, match='checkpoint must be true or false'):
        create_scorer('mdtvsfa', random_head, backbone=backbone[0], checkpoint='yes')

    def offline(*args, **options):
        raise OSError('no network')

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', offline)
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', offline)
    with pytest.raises(RuntimeError, match='could not download .*give its path with the option backbone'):
        create_scorer('mdtvsfa', random_head)
