"""Frames of clips as images: which are scored, and that the gradient is that of scoring them one by one."""

import pytest
import torch
from torchvision.models import squeezenet1_1

from nriqa_plugin.iqa.cnniqa import PATCH, PATCHES_AT_ONCE, PatchNet
from nriqa_plugin.losses import FRIQALoss, LossSum, NRIQALoss
from nriqa_plugin.losses.frames import Frames
from tests.judges import Brightness, Distance, TinyNet
from tests.test_losses import gradient, images


def framewise(loss, clips, target=None, chosen=None):
    """Value and gradient, ``(N, T, C, H, W)``, of the mean over frames that are scored in calls of their own."""
    values, grads = [], torch.zeros_like(clips)
    places = chosen or [(n, t) for n in range(clips.shape[0]) for t in range(clips.shape[1])]
    for n, t in places:
        ref = None if target is None else target[n : n + 1, t]
        value, grad = gradient(loss, clips[n : n + 1, t], ref)
        values.append(value)
        grads[n, t] += grad[0] / len(places)
    return sum(values) / len(values), grads


@pytest.mark.parametrize('checkpoint', [False, True])
@pytest.mark.parametrize('judge', ['no_reference', 'full_reference'])
def test_all_frames_give_the_gradient_of_scoring_them_one_by_one(judge, checkpoint):
    clips, target = images(2, 3, 3, 12, 12), images(2, 3, 3, 12, 12, seed=1)
    kind, metric = (NRIQALoss, TinyNet()) if judge == 'no_reference' else (FRIQALoss, Distance())
    value, grad = gradient(kind(metric, frames='all', checkpoint=checkpoint), clips, target)
    expected, expected_grad = framewise(kind(metric), clips, target)
    assert value == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(grad, expected_grad, atol=1e-7)


@pytest.fixture(params=['niqe', 'cnniqa', 'lpips'])
def real_loss(request, tmp_path):
    """A loss by a real judge in float64: NIQE's own parameters, random weights for the networks."""
    if request.param == 'niqe':
        try:
            return NRIQALoss('niqe').double()
        except FileNotFoundError as missing:
            pytest.skip(str(missing))
    if request.param == 'cnniqa':
        torch.save(PatchNet().state_dict(), tmp_path / 'cnniqa.pth')
        return NRIQALoss('cnniqa', weights=str(tmp_path / 'cnniqa.pth'), options={'full_cover': True}).double()
    pytest.importorskip('lpips', reason='the extra iqa is not installed')
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / 'squeeze.pth')
    return FRIQALoss('lpips', weights=str(tmp_path / 'squeeze.pth'), options={'net': 'squeeze'}).double()


def test_real_judges_give_the_gradient_of_scoring_frames_one_by_one(real_loss):
    clips, target = images(2, 2, 3, 192, 192).double(), images(2, 2, 3, 192, 192, seed=1).double()
    if real_loss.scorer.name == 'cnniqa':
        patches = (192 // PATCH) ** 2
        assert 4 * patches > PATCHES_AT_ONCE > patches  # its blocks of patches run across frames
        assert PATCHES_AT_ONCE % patches
    value, grad = gradient(real_loss, clips, target)
    expected, expected_grad = framewise(real_loss, clips, target)
    assert value == pytest.approx(expected, rel=1e-12)
    assert expected_grad.flatten(2).abs().amax(2).min() > 0, 'a frame without a gradient'
    assert (grad - expected_grad).abs().max() < 1e-10 * expected_grad.abs().max()


def test_a_checkpoint_scores_one_frame_at_a_time():
    sizes = []

    class Counts(Brightness):
        def score(self, pred, ref=None):
            sizes.append(len(pred))
            return super().score(pred)

    gradient(NRIQALoss(Counts(), checkpoint=True, probe=False), images(2, 3, 3, 8, 8))
    assert sizes == [1] * 6


def test_the_middle_frame_alone_is_scored():
    for length, middle in ((1, 0), (4, 2), (7, 3)):
        clips, target = images(2, length, 3, 12, 12), images(2, length, 3, 12, 12, seed=1)
        value, grad = gradient(FRIQALoss(Distance(), frames='middle'), clips, target)
        expected, expected_grad = framewise(FRIQALoss(Distance()), clips, target, [(0, middle), (1, middle)])
        assert value == pytest.approx(expected, rel=1e-5)
        assert torch.allclose(grad, expected_grad, atol=1e-8)


@pytest.mark.parametrize('option', [{'random': 2}, 'random 2'])
def test_random_frames_are_different_ones_of_each_clip_and_the_same_of_the_target(option):
    clips, target = images(3, 5, 3, 12, 12), images(3, 5, 3, 12, 12, seed=1)
    loss, seen = FRIQALoss(Distance(), frames=option), []
    for iteration in range(1, 13):
        loss.set_iteration(iteration)
        value, grad = gradient(loss, clips, target)
        chosen = [tuple(place) for place in grad.flatten(2).abs().sum(2).nonzero().tolist()]
        assert [n for n, _ in chosen] == [0, 0, 1, 1, 2, 2]
        expected, expected_grad = framewise(FRIQALoss(Distance()), clips, target, chosen)
        assert value == pytest.approx(expected, rel=1e-5)
        assert torch.allclose(grad, expected_grad, atol=1e-8)
        seen.append(chosen)
    assert {t for chosen in seen for _, t in chosen} == set(range(5))
    assert any(chosen[0][1] != chosen[2][1] or chosen[1][1] != chosen[3][1] for chosen in seen)  # clip by clip
    loss.set_iteration(4)
    again = gradient(loss, clips, target)[1]
    assert [tuple(p) for p in again.flatten(2).abs().sum(2).nonzero().tolist()] == seen[3]


def test_as_many_random_frames_as_there_are_give_all_of_them():
    clips = images(2, 3, 3, 12, 12)
    all_of_them = gradient(NRIQALoss(TinyNet()), clips)
    drawn = gradient(NRIQALoss(TinyNet(), frames={'random': 3}), clips)
    assert drawn[0] == pytest.approx(all_of_them[0])
    assert torch.allclose(drawn[1], all_of_them[1])


def test_stop_at_target_compares_frames_with_their_own():
    clips, target = images(1, 3, 3, 8, 8, low=0.2, high=0.3), images(1, 3, 3, 8, 8, low=0.6, high=0.7)
    target[:, 1] = 0.1  # its own score is worse than the prediction's
    loss = NRIQALoss(Brightness(), stop_at='target', frames='middle')
    assert not gradient(loss, clips, target)[1].any()


def test_frames_work_within_a_sum_and_with_crops():
    loss = LossSum([{'type': 'NRIQALoss', 'metric': TinyNet(), 'weight': 1.0, 'frames': {'random': 1}, 'crop': 8}])
    grad = gradient(loss, images(2, 3, 3, 16, 16), images(2, 3, 3, 16, 16, seed=1))[1]
    touched = (grad != 0).any(2)
    assert touched.flatten(2).any(2).sum(1).tolist() == [1, 1]
    assert (touched.sum((-1, -2)).flatten(1).sum(1) <= 64).all()


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('first', 'frames must be all, middle or {random: n}, got .first.'),
        ({}, 'frames must be all, middle'),
        ({'middle': 1}, "option of frames: 'middle'"),
        ({'random': 0}, 'frames.random must be finite and at least 1'),
        ({'random': 1.5}, 'frames.random must be an integer'),
        ({'random': 2.0}, 'frames.random must be an integer without a decimal point, got 2.0; write 2'),
        ('random 0', 'frames.random must be finite and at least 1'),
        (None, 'frames must be all'),
        (3, 'frames must be all'),
    ],
)
def test_a_wrong_option_is_named(option, message):
    with pytest.raises((ValueError, TypeError), match=message):
        NRIQALoss(Brightness(), frames=option)


def test_what_frames_cannot_be_chosen_from_is_told():
    with pytest.raises(ValueError, match=r"frames: middle: 'clip' is a video judge, which scores whole clips"):
        NRIQALoss('tests.judges:Clip', frames='middle')
    NRIQALoss('tests.judges:Clip', frames='all')
    with pytest.raises(ValueError, match=r'frames: random 2: wants clips .*got \(2, 3, 8, 8\): this model hands over'):
        NRIQALoss(Brightness(), frames={'random': 2})(images(2, 3, 8, 8))
    with pytest.raises(ValueError, match='frames: random 4: the clips have only 3 frames'):
        NRIQALoss(Brightness(), frames={'random': 4})(images(2, 3, 3, 8, 8))


def test_all_and_middle_draw_no_random_numbers():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    for option in ('all', 'middle'):
        Frames(option).of([images(2, 3, 3, 8, 8)], generator)
    assert torch.equal(generator.get_state(), before)
