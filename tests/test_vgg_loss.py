"""VGGLoss against torchvision's networks run plainly, with the layers of every recipe written out by index."""

import copy
import math
import urllib.error

import pytest
import torch
import torchvision
from torch import nn

from nriqa_plugin.losses import LossSum, VGGLoss, check_slot
from tests.test_losses import gradient, images

HGGT = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}
EVERY_RELU = (1, 3, 6, 8, 11, 13, 15, 17, 20, 22, 24, 26, 29, 31, 33, 35)

# preset -> (backbone, {index in torchvision's features: weight}, squared, ImageNet statistics)
RECIPES = {
    'hggt': ('vgg19', HGGT, False, True),
    'johnson': ('vgg16', {8: 1.0}, True, True),
    'simple_vsr': ('vgg19', dict.fromkeys((3, 8, 17, 26, 35), 1.0), False, False),
    'all_relu': ('vgg19', dict.fromkeys(EVERY_RELU, 1.0), False, False),
    'isee_better': ('vgg16', {30: 1.0}, True, False),
}


def random_features(backbone):
    """Torchvision's layers with random weights that keep the signal's size."""
    with torch.device('meta'):
        features = getattr(torchvision.models, backbone)(weights=None).features
    features = features.to_empty(device='cpu')
    generator = torch.Generator().manual_seed(0)
    for parameter in features.parameters():
        width = math.prod(parameter.shape[1:]) or 1
        bound = (6 / width) ** 0.5 if parameter.dim() > 1 else 0.1
        torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return features.requires_grad_(False)


def saved_backbone(folder, name):
    """Torchvision's layers with random weights, and a file that holds their state."""
    features, file = random_features(name), folder / f'{name}.pth'
    torch.save({f'features.{key}': value for key, value in features.state_dict().items()}, file)
    return features, file


@pytest.fixture(scope='module')
def backbones(tmp_path_factory):
    """``backbones(name)`` gives what :func:`saved_backbone` does, made once."""
    folder, made = tmp_path_factory.mktemp('backbones'), {}

    def backbone(name):
        if name not in made:
            made[name] = saved_backbone(folder, name)
        return made[name]

    yield backbone
    for _, file in made.values():
        file.unlink()  # up to 80 MB


@pytest.fixture
def squeeze(backbones):
    return backbones('squeezenet1_1')[1]


def plain_distance(features, taps, squared, normalised, reduction='mean'):
    """The published formula as a loop over layers and ``torch.nn.functional``."""
    features = copy.deepcopy(features)
    for layer in features.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    criterion = nn.functional.mse_loss if squared else nn.functional.l1_loss

    def taken(x):
        if normalised:
            x = torchvision.transforms.functional.normalize(x, mean, std)
        outputs = {}
        for index in range(max(taps) + 1):
            x = features[index](x)
            outputs[index] = x
        return outputs

    def distance(pred, target):
        ours, theirs = taken(pred), taken(target)
        total = sum(weight * criterion(ours[i], theirs[i], reduction=reduction) for i, weight in taps.items())
        return total / len(pred) if reduction == 'sum' else total

    return distance


def assert_same(loss, reference, pred, target):
    value, grad = gradient(loss, pred, target)
    expected, expected_grad = gradient(reference, pred, target)
    assert expected > 0
    assert value == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=1e-3 * expected_grad.abs().max().item())


@pytest.mark.parametrize('preset', RECIPES)
def test_presets_equal_their_recipe_run_plainly_on_torchvisions_network(preset, backbones):
    backbone, taps, squared, normalised = RECIPES[preset]
    features, file = backbones(backbone)
    reference = plain_distance(features, taps, squared, normalised)
    assert_same(VGGLoss(preset, weights=file), reference, images(2, 3, 32, 48), images(2, 3, 32, 48, seed=1))


@pytest.mark.parametrize('preset', RECIPES)
def test_a_preset_is_nothing_but_its_written_out_options(preset, backbones):
    backbone, taps, squared, normalised = RECIPES[preset]
    written_out = VGGLoss(
        {str(index): weight for index, weight in taps.items()},  # by index, as YAML may have it
        backbone=backbone,
        weights=(file := backbones(backbone)[1]),
        distance='l2' if squared else 'l1',
        reduction='mean',
        imagenet_norm=normalised,
        probe=False,
    )
    assert VGGLoss(preset, weights=file, probe=False).scorer.weights_hash() == written_out.scorer.weights_hash()


def test_hggt_equals_basicsrs_perceptual_loss(backbones, monkeypatch, tmp_path):
    vgg_arch = pytest.importorskip('basicsr.archs.vgg_arch')
    from basicsr.losses import build_loss

    features, file = backbones('vgg19')
    holder = nn.Module()
    holder.features = copy.deepcopy(features)
    monkeypatch.chdir(tmp_path)  # BasicSR looks for a file in the current folder first
    monkeypatch.setattr(vgg_arch.vgg, 'vgg19', lambda pretrained: holder)
    layers = {'conv1_2': 0.1, 'conv2_2': 0.1, 'conv3_4': 1.0, 'conv4_4': 1.0, 'conv5_4': 1.0}
    host = build_loss({'type': 'PerceptualLoss', 'layer_weights': layers, 'criterion': 'l1'})
    pred, target = images(2, 3, 32, 32), images(2, 3, 32, 32, seed=1)
    assert_same(VGGLoss('hggt', weights=file), lambda x, y: host(x, y)[0], pred, target)


@pytest.mark.parametrize('squared', [False, True])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_squeezenet_with_real_weights_equals_torchvision_run_plainly(squeezenet_weights, squared, reduction):
    state = torch.load(squeezenet_weights, weights_only=True)
    network = torchvision.models.squeezenet1_1(weights=None).eval()
    network.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    loss = VGGLoss(
        {'conv1': 0.5, 'fire3': 1.0, 'fire7': 2.0},
        backbone='squeezenet1_1',
        weights=squeezenet_weights,
        distance='l2' if squared else 'l1',
        reduction=reduction,
    )
    reference = plain_distance(network.features, {0: 0.5, 4: 1.0, 10: 2.0}, squared, True, reduction)
    assert_same(loss, reference, images(2, 3, 40, 33), images(2, 3, 40, 33, seed=1))


def test_options_that_are_given_change_a_preset(backbones):
    features, file = backbones('vgg16')
    loss = VGGLoss('johnson', weights=file, before_relu=True, distance='l1', reduction='sum', imagenet_norm=False)
    reference = plain_distance(features, {7: 1.0}, False, False, 'sum')
    assert_same(loss, reference, images(2, 3, 16, 16), images(2, 3, 16, 16, seed=1))
    after = VGGLoss({'conv2_2': 1.0}, backbone='vgg16', weights=file, before_relu=False, distance='l2')
    assert after.scorer.weights_hash() == VGGLoss('johnson', weights=file).scorer.weights_hash()


def test_a_named_convolution_is_read_before_the_relu_overwrites_it(squeeze):
    before, after = (VGGLoss({name: 1.0}, 'squeezenet1_1', squeeze) for name in ('conv1', 'relu1'))
    both = VGGLoss({'conv1': 1.0, 'relu1': 1.0}, 'squeezenet1_1', squeeze)
    pair = images(1, 3, 24, 24), images(1, 3, 24, 24, seed=1)
    assert before(*pair).item() != pytest.approx(after(*pair).item(), rel=1e-2)
    assert both(*pair).item() == pytest.approx((before(*pair) + after(*pair)).item(), rel=1e-5)


def test_equal_images_give_zero_and_a_zero_gradient(squeeze):
    value, grad = gradient(
        VGGLoss({'fire5': 1.0}, 'squeezenet1_1', squeeze), images(2, 3, 32, 32), images(2, 3, 32, 32)
    )
    assert value == 0
    assert grad.abs().max() == 0


def test_it_gradchecks_in_double_precision(squeeze):
    loss = VGGLoss({'conv1': 1.0, 'fire4': 1.0}, 'squeezenet1_1', squeeze, distance='l2').double()
    pred, target = images(2, 3, 20, 20).double().requires_grad_(), images(2, 3, 20, 20, seed=1).double()
    assert torch.autograd.gradcheck(
        lambda x: loss(x, target), (pred,), fast_mode=True, atol=1e-6, check_undefined_grad=False
    )


def test_clips_crops_checkpointing_and_autocast_work_as_for_judges(squeeze):
    def loss(**options):
        return VGGLoss({'fire5': 1.0}, 'squeezenet1_1', squeeze, **options)

    pred, target = images(2, 3, 3, 32, 32), images(2, 3, 3, 32, 32, seed=1)
    value, grad = gradient(loss(), pred, target)
    assert value == pytest.approx(loss()(pred.flatten(0, 1), target.flatten(0, 1)).item(), rel=1e-5)
    again, same_grad = gradient(loss(checkpoint=True), pred, target)
    assert again == pytest.approx(value)
    torch.testing.assert_close(same_grad, grad)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert loss()(pred, target).item() == pytest.approx(value, rel=1e-5)
    assert loss(precision='bf16')(pred, target).item() == pytest.approx(value, rel=0.03)
    score = loss(precision='bf16')(pred[:1, 0], target[:1, 0])
    assert score != score.bfloat16().float(), 'the mean over the features must not be rounded to bfloat16'
    assert loss(crop=24, crops=2, augment=True)(pred, pred.clone()).item() == pytest.approx(0, abs=1e-5)
    assert loss(loss_weight=2.0)(pred, target).item() == pytest.approx(2 * value, rel=1e-5)


def test_overshoot_costs_unless_clamped(squeeze):
    target = torch.ones(1, 3, 24, 24)
    free, clamped = (VGGLoss({'fire3': 1.0}, 'squeezenet1_1', squeeze, clamp=clamp) for clamp in (False, True))
    assert free(target + 0.2, target) > 1e-3
    assert clamped(target + 0.2, target).item() == pytest.approx(0, abs=1e-6)


def test_grey_is_repeated_only_when_asked_for(squeeze):
    grey, colour = (VGGLoss({'fire3': 1.0}, 'squeezenet1_1', squeeze, grey=grey) for grey in (True, False))
    pred, target = images(2, 4, 1, 24, 24), images(2, 4, 1, 24, 24, seed=1)
    value, grad = gradient(grey, pred, target)
    expected, expected_grad = gradient(
        lambda x, y: colour(x.repeat(1, 1, 3, 1, 1), y.repeat(1, 1, 3, 1, 1)), pred, target
    )
    assert value == pytest.approx(expected)
    torch.testing.assert_close(grad, expected_grad)
    with pytest.raises(ValueError, match='wants 3 channels, pred has 1'):
        colour(pred, target)
    with pytest.raises(ValueError, match=r'grey: wants 1 channel, got the shape \(2, 4, 3, 24, 24\)'):
        grey(images(2, 4, 3, 24, 24), target)


def test_it_stays_out_of_checkpoints_parameters_and_train_mode(squeeze):
    loss = LossSum(
        [
            {
                'type': 'VGGLoss',
                'layers': {'fire2': 1},
                'backbone': 'squeezenet1_1',
                'weights': str(squeeze),
                'weight': 1.0,
            }
        ]
    )
    assert not loss.state_dict()
    assert not list(loss.parameters())
    network = loss.terms[0].loss.scorer.features
    loss.train()
    assert not any(module.training for module in (loss.terms[0].loss.scorer, *network.modules()))
    assert not any(p.requires_grad for p in network.parameters())
    assert copy.deepcopy(loss).terms[0].loss.scorer.features is network
    loss(images(1, 3, 24, 24), images(1, 3, 24, 24, seed=1))
    assert list(loss.values) == ['squeezenet1_1']
    moved = loss.to('meta').terms[0].loss.scorer
    assert {t.device.type for t in (*moved.features.parameters(), moved.mean)} == {'meta'}


def test_only_the_layers_that_are_needed_are_built_and_must_be_in_the_file(squeeze, tmp_path):
    state = torch.load(squeeze, weights_only=True)
    short = {key: value.half() for key, value in state.items() if int(key.split('.')[1]) <= 4}
    torch.save(short | {'classifier.1.bias': torch.zeros(1000)}, tmp_path / 'short.pth')
    loss = VGGLoss({'fire3': 1.0}, 'squeezenet1_1', tmp_path / 'short.pth')
    assert len(loss.scorer.features) == 5
    assert loss.scorer.dtype == torch.float32
    pair = images(1, 3, 24, 24), images(1, 3, 24, 24, seed=1)
    assert loss(*pair).item() == pytest.approx(
        VGGLoss({'fire3': 1.0}, 'squeezenet1_1', squeeze)(*pair).item(), rel=1e-2
    )
    with pytest.raises(
        ValueError, match=r'short\.pth.*features\.6\.expand1x1\.bias: expected \(128,\), file has nothing'
    ):
        VGGLoss({'fire4': 1.0}, 'squeezenet1_1', tmp_path / 'short.pth')


@pytest.mark.parametrize(
    ('backbone', 'layer', 'side'),
    [
        ('vgg19', 'relu1_2', 1), ('vgg19', 'pool1', 2), ('vgg16', 'conv3_3', 4), ('vgg16', 'conv5_1', 16), ('vgg16', 'pool5', 32),
        ('squeezenet1_1', 'relu1', 3), ('squeezenet1_1', 'fire3', 5), ('squeezenet1_1', 'fire5', 9), ('squeezenet1_1', 'fire9', 17),
    ],
)  # fmt: skip
def test_the_shortest_side_follows_from_the_depth(backbones, backbone, layer, side):
    features, file = backbones(backbone)
    loss = VGGLoss({layer: 1.0}, backbone, file, probe=False)
    smallest = images(1, 3, side, side)
    assert loss(smallest, 1 - smallest) > 0
    with pytest.raises(ValueError, match=f'needs at least {side} px a side'):
        loss(smallest[..., 1:, :], smallest[..., 1:, :])
    with pytest.raises(RuntimeError):
        features[: len(loss.scorer.features)](smallest[..., 1:, :])


@pytest.mark.parametrize(
    ('options', 'kind', 'message'),
    [
        ({'layers': {'relu2_3': 1.0}}, ValueError, r"unknown layer of vgg19: 'relu2_3'\. Did you mean '?relu"),
        ({'layers': {'conv3_4': 1.0}, 'backbone': 'vgg16'}, ValueError, "layer of vgg16: 'conv3_4'.*conv3_3"),
        ({'backbone': 'vgg16'}, ValueError, "layer of vgg16: 'conv3_4'"),
        ({'layers': {'37': 1.0}}, ValueError, "layer of vgg19: '37'"),
        ({'layers': {34: 1.0, 'conv5_4': 1.0}}, ValueError, 'conv5_4 is named twice'),
        ({'layers': {'conv1_2': 1.0, 'relu1_2': 1.0}, 'before_relu': True}, ValueError, 'conv1_2 is named twice'),
        ({'layers': {'conv1_2': '5e-5'}}, TypeError, r'layers\.conv1_2.*YAML'),
        ({'layers': {'conv1_2': -1}}, ValueError, r'layers\.conv1_2'),
        ({'layers': {'conv1_2': 0.0}}, ValueError, 'every weight is 0'),
        ({'layers': {}}, TypeError, 'layers must be a preset'),
        ({'layers': ['conv1_2']}, TypeError, 'layers must be a preset'),
        ({'layers': 'hgt'}, ValueError, "layers: 'hgt'. Did you mean 'hggt'"),
        ({'backbone': 'vgg18'}, ValueError, "backbone: 'vgg18'. Did you mean"),
        ({'layers': 'isee_better', 'before_relu': True}, ValueError, 'before_relu: pool5 of vgg16'),
        ({'before_relu': 'yes'}, TypeError, 'before_relu'),
        ({'distance': 'l3'}, ValueError, 'distance'),
        ({'reduction': 'none'}, ValueError, 'reduction'),
        ({'imagenet_norm': 1}, TypeError, 'imagenet_norm'),
    ],
)
def test_wrong_options_are_named(options, kind, message):
    with pytest.raises(kind, match=message):
        VGGLoss(**{'weights': 'unread.pth', **options})


def test_a_crop_below_the_networks_side_a_typo_and_the_slot_of_pairs_are_refused(squeeze):
    small = {'layers': {'fire2': 1.0}, 'backbone': 'squeezenet1_1', 'weights': squeeze}
    with pytest.raises(TypeError, match='grey'):
        VGGLoss(**small, grey='no')
    with pytest.raises(ValueError, match='crop: .*at least 5 px'):
        VGGLoss(**small, crop=4)
    with pytest.raises(ValueError, match="option of VGGLoss: 'layer'. Did you mean 'layers'"):
        LossSum([{'type': 'VGGLoss', 'weight': 1.0, 'layer': 'hggt'}])
    with pytest.raises(ValueError, match='LossPair'):
        check_slot('perceptual', VGGLoss(**small))


def test_files_of_other_networks_are_refused(backbones, squeeze, tmp_path):
    with pytest.raises(FileNotFoundError, match='weights: no such file'):
        VGGLoss(weights=tmp_path / 'absent.pth')
    # VGG-16 and VGG-19 begin alike: the layers behind tell them apart.
    vgg16, vgg19 = backbones('vgg16')[1], backbones('vgg19')[1]
    with pytest.raises(
        ValueError, match=r"features\.17\.bias: expected nothing.*backbone 'vgg19' wants .*vgg19-dcbb9e9d\.pth"
    ):
        VGGLoss({'conv1_2': 1.0}, 'vgg19', vgg16)
    with pytest.raises(ValueError, match=r"backbone 'vgg16' wants .*vgg16-397923af\.pth"):
        VGGLoss({'conv1_2': 1.0}, 'vgg16', vgg19)
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='not a state dict'):
        VGGLoss(weights=tmp_path / 'list.pth')
    (tmp_path / 'cut.pth').write_bytes(squeeze.read_bytes()[:2000])
    with pytest.raises(ValueError, match='truncated or damaged'):
        VGGLoss({'fire2': 1.0}, 'squeezenet1_1', tmp_path / 'cut.pth')


def test_without_weights_a_failed_download_says_which_file_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))

    def offline(*args, **kwargs):
        raise urllib.error.URLError('no network')

    monkeypatch.setattr('torch.hub.download_url_to_file', offline)
    with pytest.raises(
        RuntimeError, match=r'vgg19 \(vgg19-dcbb9e9d\.pth\), which torchvision could not download.*weights'
    ):
        VGGLoss()


def test_building_it_leaves_the_global_generator_alone(squeeze):
    before = torch.random.get_rng_state()
    VGGLoss({'fire9': 1.0}, 'squeezenet1_1', squeeze)
    assert torch.equal(torch.random.get_rng_state(), before)
