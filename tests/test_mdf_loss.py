"""MDFLoss against the discriminators run plainly, layer by layer, with batch norm and autograd."""

import copy
import io

import pytest
import torch
from torch import nn

from nriqa_plugin.evaluation.relative_gain import gains
from nriqa_plugin.evaluation.scoring import score_folder
from nriqa_plugin.iqa import create_scorer, mdf
from nriqa_plugin.losses import FRIQALoss, LossSum, MDFLoss
from nriqa_plugin.mdf import Discriminator, load_mdf, save_mdf
from nriqa_plugin.mdf.folded import cut_windows, paste_windows
from nriqa_plugin.mdf.legacy import convert
from tests.test_losses import gradient, images

WIDTHS = (4, 4, 6, 8)
RELU_TAPS = ('head', 'block1', 'block2', 'block3')


def random_discriminators(widths=WIDTHS, channels=3):
    """Batch norm statistics and signs of its weights as unlike the identity as they can be."""
    generator = torch.Generator().manual_seed(0)
    networks = [Discriminator(width, channels).eval() for width in widths]
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, -2, 2), (module.bias, -1, 1), (module.running_mean, -1, 1),
                    (module.running_var, 0.05, 3),
                ):  # fmt: skip
                    nn.init.uniform_(tensor, low, high, generator=generator)
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.3, generator=generator)
                nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
    return networks


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp('mdf') / 'mdf.pth'
    save_mdf(path, random_discriminators(), {'range': [0, 1], 'task': 'test'})
    return path


def plain(networks, pred, target, taps=('head', 'block3', 'tail'), summed=False, span=(0, 1)):
    """The formula: sum over discriminators and taps of the mean or sum of squares; mean over the images."""
    total = 0
    for network in networks:
        network, features = copy.deepcopy(network).to(pred.dtype), []
        for image in (pred, target):
            x = network.head(span[0] + (span[1] - span[0]) * image)
            found = {'head': x}
            for index, block in enumerate(network.body, 1):
                x = found[f'block{index}'] = block(x)
            features.append({**found, 'tail': network.tail(x)})
        for tap in taps:
            squares = (features[0][tap] - features[1][tap]).square()
            total = total + (squares.sum((1, 2, 3)) if summed else squares.mean((1, 2, 3)))
    return total.mean()


def assert_equal(loss, expected, pred, target, tolerance=1e-5):
    """Value and gradient, in float64, relative; the gradient in Euclidean norm."""
    pred, target = pred.double(), target.double()
    value, grad = gradient(loss.double(), pred, target)
    wanted, wanted_grad = gradient(expected, pred, target)
    assert value == pytest.approx(wanted, rel=tolerance)
    assert (grad - wanted_grad).norm() < tolerance * wanted_grad.norm()


@pytest.mark.parametrize('shape', [(2, 3, 11, 11), (3, 3, 17, 14)])
def test_value_and_gradient_equal_the_plain_loss(file, shape):
    pred, target = images(*shape), images(*shape, seed=1)
    assert_equal(MDFLoss(weights=file), lambda x, y: plain(random_discriminators(), x, y), pred, target)


@pytest.mark.parametrize('name', ['Ds_SISR.pth', 'Ds_JPEG.pth'])
def test_value_and_gradient_equal_the_plain_loss_with_the_authors_weights(name, test_data, tmp_path):
    weights = test_data / 'weights' / name
    if not weights.is_file():
        pytest.skip(f'no {name} in {weights.parent}')
    convert(weights, tmp_path / 'mdf.pth')
    networks = load_mdf('weights', tmp_path / 'mdf.pth')[0][:8]
    pred, target = images(2, 3, 17, 15), images(2, 3, 17, 15, seed=1)
    assert_equal(MDFLoss(weights=tmp_path / 'mdf.pth'), lambda x, y: plain(networks, x, y), pred, target)
    # In float32 a feature beside 0 may take the other side of LeakyReLU, as in the plain way.
    value, grad = gradient(MDFLoss(weights=tmp_path / 'mdf.pth'), pred, target)
    wanted, wanted_grad = gradient(lambda x, y: plain(networks, x, y), pred.double(), target.double())
    assert value == pytest.approx(wanted, rel=1e-5)
    assert (grad - wanted_grad).norm() < 2e-3 * wanted_grad.norm()


@pytest.mark.parametrize(
    ('options', 'numbers', 'formula'),
    [
        ({'taps': 'all_relu', 'distance': 'sum'}, range(4), {'taps': RELU_TAPS, 'summed': True}),
        ({'taps': ['tail']}, range(4), {'taps': ['tail']}),
        ({'taps': ['block2', 'head'], 'distance': 'sum'}, range(4), {'taps': ['head', 'block2'], 'summed': True}),
        ({'taps': ['block1']}, range(4), {'taps': ['block1']}),
        ({'scales': 2}, (0, 1), {}),
        ({'scales': 2, 'order': 'fine_first'}, (2, 3), {}),
        ({'scales': [3, 0]}, (0, 3), {}),
        ({'input_range': [-1, 1]}, range(4), {'span': (-1, 1)}),
        ({'input_range': [0.5, 3]}, range(4), {'span': (0.5, 3)}),
    ],
    ids=str,
)
def test_every_difference_to_the_released_code_is_an_option(file, options, numbers, formula):
    networks = [random_discriminators()[index] for index in numbers]
    pred, target = images(2, 3, 16, 13), images(2, 3, 16, 13, seed=1)
    assert_equal(MDFLoss(weights=file, **options), lambda x, y: plain(networks, x, y, **formula), pred, target)


def test_the_range_is_read_from_the_file(tmp_path):
    save_mdf(tmp_path / 'mdf.pth', random_discriminators(), {'range': [-1, 1]})
    pred, target = images(1, 3, 13, 13), images(1, 3, 13, 13, seed=1)
    loss = MDFLoss(weights=tmp_path / 'mdf.pth')
    assert_equal(loss, lambda x, y: plain(random_discriminators(), x, y, span=(-1, 1)), pred, target)


def test_as_released_the_first_eight_of_more_discriminators_are_used(tmp_path):
    networks = random_discriminators((2,) * 9)
    save_mdf(tmp_path / 'mdf.pth', networks, {'range': [0, 1]})
    pred, target = images(1, 3, 12, 12), images(1, 3, 12, 12, seed=1)
    assert_equal(MDFLoss(weights=tmp_path / 'mdf.pth'), lambda x, y: plain(networks[:8], x, y), pred, target)
    nine = MDFLoss(weights=tmp_path / 'mdf.pth', scales=9)
    assert_equal(nine, lambda x, y: plain(networks, x, y), pred, target)


def test_gradcheck_passes(file):
    loss = MDFLoss(weights=file, scales=[0, 2]).double()
    pred, target = images(2, 3, 12, 11).double().requires_grad_(), images(2, 3, 12, 11, seed=1).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), pred, fast_mode=True)


def test_equal_images_give_zero_and_no_gradient(file):
    value, grad = gradient(MDFLoss(weights=file), images(1, 3, 20, 20), images(1, 3, 20, 20))
    assert value == 0
    assert not grad.any()


def test_the_sum_over_taps_and_scales_is_the_sum_of_single_ones(file):
    pred, target = images(1, 3, 15, 15), images(1, 3, 15, 15, seed=1)
    parts = [
        MDFLoss(weights=file, scales=[n], taps=[tap])(pred, target) for n in range(4) for tap in (*RELU_TAPS, 'tail')
    ]
    whole = MDFLoss(weights=file, taps=[*RELU_TAPS, 'tail'])(pred, target)
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)


def test_an_image_is_scored_alike_alone_and_in_a_batch_whatever_the_chunks(file, monkeypatch):
    judge = create_scorer('mdf', weights=file).double()
    pred, target = images(5, 3, 14, 16).double().requires_grad_(), images(5, 3, 14, 16, seed=1).double()
    alone = torch.cat([judge(x[None], y[None]) for x, y in zip(pred, target, strict=True)])
    results = []
    for pixels in (1, 2 * 14 * 16, 10**6):
        monkeypatch.setitem(mdf.PIXELS, 'cpu', pixels)
        scores = judge(pred, target)
        results.append(torch.autograd.grad(scores.sum(), pred)[0])
        assert torch.allclose(scores, alone, rtol=1e-12)
    assert all(torch.allclose(result, results[0], rtol=1e-9, atol=1e-12) for result in results)


def test_clips_are_scored_frame_by_frame(file):
    loss, pred, target = MDFLoss(weights=file), images(2, 3, 3, 12, 12), images(2, 3, 3, 12, 12, seed=1)
    frames = loss(pred.flatten(0, 1), target.flatten(0, 1))
    assert loss(pred, target).item() == pytest.approx(frames.item(), rel=1e-6)


def test_pasting_is_the_gradient_of_cutting():
    x = images(2, 3, 6, 7).double().requires_grad_()
    windows = cut_windows(x)
    weights = torch.rand_like(windows)
    (grad,) = torch.autograd.grad((windows * weights).sum(), x)
    assert windows.shape == (2, 4, 5, 28)
    assert torch.allclose(paste_windows(weights), grad)


def test_target_and_weights_get_no_gradient_and_nothing_enters_a_checkpoint(file):
    loss = MDFLoss(weights=file)
    target = images(1, 3, 12, 12, seed=1).requires_grad_()
    loss(images(1, 3, 12, 12).requires_grad_(), target).backward()
    assert target.grad is None
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_train_mode_half_precision_and_copies_leave_the_judge_as_it_was(file):
    loss, pred, target = MDFLoss(weights=file), images(1, 3, 12, 12), images(1, 3, 12, 12, seed=1)
    before = loss(pred, target).item()
    model = nn.ModuleDict({'loss': loss}).train().half()
    assert loss(pred, target).item() == before
    assert copy.deepcopy(model)['loss'](pred, target).item() == before
    assert len(model.state_dict()) == 0


def test_without_a_graph_none_is_made_and_the_value_is_the_same(file):
    loss, pred, target = MDFLoss(weights=file), images(1, 3, 12, 12), images(1, 3, 12, 12, seed=1)
    with torch.no_grad():
        silent = loss(pred.clone().requires_grad_(), target)
    assert not silent.requires_grad
    assert not loss(pred, target).requires_grad
    assert silent.item() == gradient(loss, pred, target)[0]


def test_autocast_around_the_loss_changes_nothing(file):
    loss, pred, target = MDFLoss(weights=file), images(1, 3, 12, 12), images(1, 3, 12, 12, seed=1)
    value, grad = gradient(loss, pred, target)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        under = gradient(loss, pred, target)
    assert under[0] == value
    assert torch.equal(under[1], grad)


def test_bf16_gives_about_two_digits(file):
    pred, target = images(2, 3, 20, 20), images(2, 3, 20, 20, seed=1)
    value, grad = gradient(MDFLoss(weights=file), pred, target)
    rough, rough_grad = gradient(MDFLoss(weights=file, precision='bf16'), pred, target)
    assert rough == pytest.approx(value, rel=0.03)
    assert rough != value
    assert rough_grad.dtype == torch.float32
    assert (rough_grad - grad).norm() < 0.2 * grad.norm()


def test_no_gradient_of_the_gradient(file):
    pred = images(1, 3, 12, 12).requires_grad_()
    value = MDFLoss(weights=file)(pred, images(1, 3, 12, 12, seed=1))
    (grad,) = torch.autograd.grad(value, pred, create_graph=True)
    with pytest.raises(RuntimeError, match='does not require grad|once_differentiable'):
        grad.sum().backward()


def test_nan_in_the_prediction_gives_nan(file):
    pred = images(1, 3, 12, 12)
    pred[0, 0, 5, 5] = float('nan')
    assert MDFLoss(weights=file)(pred, images(1, 3, 12, 12)).isnan()


def test_as_a_term_it_follows_the_sum_and_the_papers_weight_is_one(file):
    term = {'type': 'MDFLoss', 'weights': str(file), 'weight': 'paper'}
    total = LossSum([{'type': 'L1Loss', 'weight': 2.0}, term])
    pred, target = images(1, 3, 12, 12), images(1, 3, 12, 12, seed=1)
    value, grad = gradient(total, pred, target)
    mine, my_grad = gradient(MDFLoss(weights=file), pred, target)
    assert total.terms[1].name == 'mdf'
    assert total.terms[1].weight == 1.0
    assert value == pytest.approx(mine + 2 * (pred - target).abs().mean().item(), rel=1e-6)
    assert torch.allclose(grad, my_grad + 2 * (pred - target).sign() / pred.numel(), rtol=1e-4, atol=1e-7)


def test_the_judge_mdf_is_the_same_distance_also_with_the_loss_of_any_judge(file):
    pred, target = images(2, 3, 12, 12), images(2, 3, 12, 12, seed=1)
    value = MDFLoss(weights=file)(pred, target).item()
    assert FRIQALoss('mdf', weights=str(file))(pred, target).item() == pytest.approx(value)
    assert FRIQALoss('mdf', weights=str(file), checkpoint=True)(pred, target).item() == pytest.approx(value)
    judge = create_scorer('mdf', weights=str(file), scales=3)
    assert not judge.higher_better
    assert judge.weights_hash() != create_scorer('mdf', weights=str(file), scales=[0, 1, 3]).weights_hash()


def test_blur_costs_more_than_none_and_relative_gains_follow(file, tmp_path):
    from PIL import Image, ImageFilter

    for name in ('gt', 'soft', 'softer'):
        (tmp_path / name).mkdir()
    noise = Image.effect_noise((24, 24), 80).convert('RGB')
    noise.save(tmp_path / 'gt' / 'a.png')
    for name, radius in (('soft', 0.6), ('softer', 3)):
        noise.filter(ImageFilter.GaussianBlur(radius)).save(tmp_path / name / 'a.png')
    for name in ('soft', 'softer'):
        judge = create_scorer('mdf', weights=str(file))
        score_folder(tmp_path / name, [judge], tmp_path / f'{name}.csv', tmp_path / 'gt', 'cpu')
    (row,) = gains(tmp_path / 'softer.csv', tmp_path / 'soft.csv', None)
    assert row.gain > 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'scales': 5}, r'scales: 5 discriminators are wanted, the file of weights holds 4'),
        ({'scales': 0}, 'scales must be finite and at least 1, got 0'),
        ({'scales': [0, 4]}, r'scales must be finite and in \[0, 3\], got 4'),
        ({'scales': [1, 1]}, r'scales must name one or more discriminators once each'),
        ({'scales': []}, r'scales must name one or more'),
        ({'scales': '4'}, r'scales must be a number, got the text'),
        ({'order': 'fine'}, r"unknown value for order: 'fine'. Did you mean 'fine_first'"),
        ({'taps': 'relu'}, r"unknown value for taps: 'relu'"),
        ({'taps': ['block4']}, r"unknown layer in taps: 'block4'"),
        ({'taps': []}, r'taps must be released or all_relu, or a list'),
        ({'distance': 'l1'}, r"unknown value for distance: 'l1'"),
        ({'input_range': 'unit'}, r"input_range must be 'file' or \[low, high\]"),
        ({'input_range': [1, 0]}, r'input_range must rise'),
        ({'input_range': [0, float('nan')]}, r'input_range must be finite'),
        ({'checkpoint': True}, r"unknown option of MDFLoss: 'checkpoint'"),
    ],
    ids=str,
)
def test_wrong_options_are_named(file, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        MDFLoss(weights=file, **options)


def test_wrong_files_are_named(tmp_path, test_data):
    with pytest.raises(ValueError, match='needs the option weights'):
        MDFLoss()
    with pytest.raises(FileNotFoundError, match=r'weights: no such file: .*none\.pth'):
        MDFLoss(weights=tmp_path / 'none.pth')
    torch.save({'a': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='holds no MDF discriminators'):
        MDFLoss(weights=tmp_path / 'other.pth')
    stream = io.BytesIO()
    torch.save({'a': torch.zeros(1)}, stream)
    (tmp_path / 'cut.pth').write_bytes(stream.getvalue()[:-100])
    with pytest.raises(ValueError, match='not a readable checkpoint'):
        MDFLoss(weights=tmp_path / 'cut.pth')
    save_mdf(tmp_path / 'grey.pth', random_discriminators((4,), channels=1), {'range': [0, 1]})
    with pytest.raises(ValueError, match='discriminator 0 of .* is for 1 channels'):
        MDFLoss(weights=tmp_path / 'grey.pth')
    save_mdf(tmp_path / 'norange.pth', random_discriminators((4,)), {})
    with pytest.raises(ValueError, match='input_range: the file of weights does not say'):
        MDFLoss(weights=tmp_path / 'norange.pth')
    MDFLoss(weights=tmp_path / 'norange.pth', input_range=[0, 1])


def test_the_authors_own_file_names_the_command_that_makes_it_safe(test_data):
    weights = test_data / 'weights' / 'Ds_SISR.pth'
    if not weights.is_file():
        pytest.skip(f'no {weights.name} in {weights.parent}')
    with pytest.raises(ValueError, match='nriqa convert-mdf'):
        MDFLoss(weights=weights)


@pytest.mark.parametrize(
    ('pred', 'target', 'message'),
    [
        ((1, 3, 10, 32), (1, 3, 10, 32), 'mdf needs at least 11 px a side'),
        ((1, 1, 16, 16), (1, 1, 16, 16), 'mdf wants 3 channels'),
        ((1, 3, 16, 16), (1, 3, 16, 15), 'but the reference is'),
        ((3, 16, 16), (3, 16, 16), 'must have the shape'),
    ],
)
def test_wrong_shapes_are_named(file, pred, target, message):
    with pytest.raises(ValueError, match=message):
        MDFLoss(weights=file)(torch.rand(pred), torch.rand(target))
    with pytest.raises(ValueError, match='needs a target'):
        MDFLoss(weights=file)(torch.rand(1, 3, 16, 16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_on_a_gpu_value_and_gradient_are_those_of_the_cpu(file):
    pred, target = images(3, 3, 40, 40), images(3, 3, 40, 40, seed=1)
    value, grad = gradient(MDFLoss(weights=file), pred, target)
    on_gpu, grad_on_gpu = gradient(MDFLoss(weights=file).cuda(), pred.cuda(), target.cuda())
    assert on_gpu == pytest.approx(value, rel=1e-3)
    assert (grad_on_gpu.cpu() - grad).norm() < 1e-2 * grad.norm()
