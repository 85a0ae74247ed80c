"""Phase 1 of MDF: the rules of its training against a plain loop, its pieces against definitions, and its restarts."""

import csv
import functools
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.cli.long_run import Interruptible, ScaleProgress
from nriqa_plugin.cli.train_mdf import parse_generator
from nriqa_plugin.evaluation.images import write_image
from nriqa_plugin.mdf import JPEG, Discriminator, Downscale, GaussianNoise, load_mdf
from nriqa_plugin.mdf.adversarial import gradient_penalty
from nriqa_plugin.mdf.checkpoint import partial_path
from nriqa_plugin.mdf.distortions import described
from nriqa_plugin.mdf.generator import Generator, generate, initialise, run
from nriqa_plugin.mdf.pyramid import fit_scales, pyramid, smallest_side
from nriqa_plugin.mdf.resize import resize
from nriqa_plugin.mdf.scale_training import COLUMNS, ScaleTraining
from nriqa_plugin.mdf.seeds import make_seed
from nriqa_plugin.mdf.settings import Settings
from nriqa_plugin.mdf.task import Task
from nriqa_plugin.mdf.training import Stopped, train_mdf
from tests.test_distortions import generator, pillow_lanczos, smooth_images

ROOT = Path(__file__).resolve().parent.parent


def image(seed=0, height=44, width=48):
    return make_seed('pink-noise', (height, width), seed)


def tiny(out, task='denoise', images=None, **options):
    """A training of seconds: two scales of 22 and 44 px, widths 4 and 6."""
    options = {'scales': 2, 'widths': [4, 6], 'iterations': 3, **options}
    return train_mdf(out, images or {'a.png': image()}, task, **options)


def stored(out):
    """Everything in a file of discriminators, as bytes that can be compared."""
    discriminators, header = load_mdf('weights', out)
    return header, [{k: v.numpy().tobytes() for k, v in d.state_dict().items()} for d in discriminators]


# Pyramid


@pytest.mark.parametrize('rho', [2, 1.5, 4 / 3, 3])
@pytest.mark.parametrize('scales', [1, 2, 5, 8])
def test_smallest_side_is_exact(scales, rho, plugin_log):
    side = smallest_side(scales, rho)
    assert fit_scales(scales, rho, [(side, side + 5)]) == scales
    assert not plugin_log.records
    if scales > 2:
        assert fit_scales(scales, rho, [(side, 9999), (9999, side - 1)]) == scales - 1
    else:
        with pytest.raises(ValueError, match=f'need {side} px'):
            fit_scales(scales, rho, [(side - 1, 9999)])


def test_too_many_scales_are_lowered_with_a_warning_that_says_what_they_need(plugin_log):
    assert fit_scales(8, 2, [(1408, 1408)]) == 8
    assert fit_scales(8, 2, [(512, 768)]) == 6
    assert len(plugin_log.records) == 1
    assert '1408 px' in plugin_log.text
    assert '512 px allow 6 scales' in plugin_log.text


@pytest.mark.filterwarnings('ignore:.*mode.*:DeprecationWarning')
def test_pyramid_is_pillows_lanczos_from_the_original():
    original = smooth_images(1, height=66, width=51) * 2 - 1
    levels = pyramid(original, 3, 2)
    assert [level.shape[-2:] for level in levels] == [(16, 12), (33, 25), (66, 51)]
    assert torch.equal(levels[-1], original)
    for level in levels[:-1]:
        expected = torch.stack([pillow_lanczos(plane, level.shape[-2:]) for plane in original[0]]).clamp(-1, 1)
        torch.testing.assert_close(level[0], expected, atol=5e-6, rtol=0)


# Networks


def test_a_piece_with_its_border_gives_that_piece_of_the_whole_result():
    network, whole = initialise(Generator(5)).eval().double(), torch.rand(1, 3, 30, 26, dtype=torch.float64)
    for parameter in network.parameters():
        nn.init.normal_(parameter)  # so that the border matters
    result, padded = generate(network, whole), functional.pad(whole, [5] * 4)
    for top, left in [(0, 0), (19, 15), (4, 7)]:
        cut = run(network, padded[..., top : top + 21, left : left + 21])
        torch.testing.assert_close(cut, result[..., top : top + 11, left : left + 11], atol=1e-12, rtol=0)
    assert (generate(network, whole[..., :11, :11]) - result[..., :11, :11]).abs().max() > 1e-3


def test_a_generator_that_adds_nothing_gives_back_its_image():
    network, whole = Generator(4).eval(), torch.rand(1, 3, 13, 12)
    nn.init.zeros_(network.tail[0].weight)
    nn.init.zeros_(network.tail[0].bias)
    assert torch.equal(generate(network, whole), whole)


def test_generator_and_discriminator_start_as_singans_do():
    network = initialise(Generator(64))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2000:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.mean().item() == pytest.approx(1, abs=0.01)
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.4)
            assert layer.bias.abs().max() == 0
    assert [k.split('.')[0] for k in network.state_dict()] == [k.split('.')[0] for k in Discriminator(64).state_dict()]


def test_gradient_penalty_of_a_linear_map():
    """Every pixel's gradient is the sum of the kernel's columns, where all activations that see it exist."""
    network = nn.Conv2d(3, 1, 1, bias=False).double()
    norm = network.weight.flatten().norm()
    expected = (norm - 1) ** 2
    penalty = gradient_penalty(network, torch.rand(2, 3, 7, 8, dtype=torch.float64))
    torch.testing.assert_close(penalty, expected)
    (got,) = torch.autograd.grad(penalty, network.weight)
    torch.testing.assert_close(got, 2 * (norm - 1) * network.weight / norm)


def test_gradient_penalty_against_the_jacobian():
    network = Discriminator(3).double().train()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.0, 0.5)
    images = torch.rand(1, 3, 13, 12, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x).sum(), images)
    expected = ((jacobian.square().sum(1).sqrt() - 1) ** 2).mean()
    torch.testing.assert_close(gradient_penalty(network, images), expected)

    weight, step = network.body.block2.conv.weight, 1e-6
    (got,) = torch.autograd.grad(gradient_penalty(network, images), weight)
    for place in [(0, 0, 0, 0), (2, 1, 2, 1)]:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
            values.append(gradient_penalty(network, images).item())
            with torch.no_grad():
                weight[place] -= sign * step
        assert got[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


def plain_iterations(training, form, count):
    """SinGAN's rules as one loop with whole losses and torch's own schedule, on copies of the networks."""
    padded = functional.pad(training.settings.built_task.scale_input(training.reals[0], (), None), [5] * 4)
    real, alpha, rng = training.reals[0][0], training.settings.alpha, generator()
    rng.set_state(training.rng.get_state())
    networks = Generator(4), Discriminator(4)
    for copy, network in zip(networks, (training.generator, training.discriminator), strict=True):
        copy.load_state_dict(network.state_dict())
    g, d = networks
    adams = [torch.optim.Adam(n.parameters(), lr=5e-4, betas=(0.5, 0.999)) for n in networks]
    schedules = [torch.optim.lr_scheduler.MultiStepLR(adam, [2], 0.1) for adam in adams]
    for _ in range(count):
        fake = g(padded)
        for _ in range(3):
            if form == 'wgan-gp':
                on_real, on_fake = d(real), d(fake.detach())
                share = torch.rand(1, generator=rng).item()
                mixed = (share * real + (1 - share) * fake.detach()).requires_grad_()
                slope = torch.autograd.grad(d(mixed).sum(), mixed, create_graph=True)[0]
                loss = on_fake.mean() - on_real.mean() + 0.1 * ((slope.norm(2, dim=1) - 1) ** 2).mean()
            else:
                on_real, on_fake = d(real), d(fake.detach())
                loss = -(on_real.sigmoid().log().mean() + (1 - on_fake.sigmoid()).log().mean())
            adams[1].zero_grad()
            loss.backward()
            adams[1].step()
        for _ in range(3):
            fake = g(padded)
            on_fake = d(fake)
            against = -on_fake.mean() if form == 'wgan-gp' else -on_fake.sigmoid().log().mean()
            adams[0].zero_grad()
            (against + alpha * ((fake - real) ** 2).mean()).backward()
            adams[0].step()
        for schedule in schedules:
            schedule.step()
    return networks


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize('form', ['wgan-gp', 'bce'])
def test_iterations_equal_a_plain_loop(double, monkeypatch, form):
    """Weights and running statistics after four iterations, the learning rate falling after the second."""
    monkeypatch.setattr('nriqa_plugin.mdf.scale_training.DECAY_AT', 2)
    settings = Settings({'a': image(height=22, width=25).double()}, 'sisr', scales=1, widths=4, adversarial=form)
    real = settings.images['a'][None] * 2 - 1
    training = ScaleTraining(settings, 0, [[real]], (), None, generator(), torch.device('cpu'))
    before = {k: v.clone() for k, v in training.discriminator.state_dict().items()}
    expected = plain_iterations(training, form, 4)
    for _ in range(4):
        training.step()
    for got, wanted in zip((training.generator, training.discriminator), expected, strict=True):
        for key, value in wanted.state_dict().items():
            torch.testing.assert_close(got.state_dict()[key], value, atol=1e-7, rtol=1e-6, msg=lambda m, k=key: k + m)
    moved = (training.discriminator.state_dict()['tail.weight'] - before['tail.weight']).abs().max()
    assert moved > 1e-3  # far more than the tolerance


# Tasks


def test_coarsest_input_of_sisr_is_the_image_down_and_up_and_finer_ones_enlarge_the_result():
    task, levels = Task('sisr', 2), pyramid(image()[None] * 2 - 1, 2, 2)
    torch.testing.assert_close(
        task.scale_input(levels, [], None), Downscale(2)((levels[0] + 1) / 2) * 2 - 1, atol=1e-6, rtol=0
    )
    network = initialise(Generator(4)).eval()
    given = task.scale_input(levels, [network], None)
    restored = network(functional.pad(task.scale_input(levels, [], None), [5] * 4)).clamp(-1, 1)
    torch.testing.assert_close(given, resize(restored, (44, 48)).clamp(-1, 1))


def test_noise_and_jpeg_are_added_at_every_scale():
    levels, network = pyramid(image()[None] * 2 - 1, 2, 2), initialise(Generator(4)).eval()
    plain = Task('tests.test_mdf_training:unchanged', 2).scale_input(levels, [network], generator())
    assert torch.equal(Task('denoise', 2).scale_input(levels, [], generator(7)) - levels[0] == 0, levels[0] == 9)
    rng = generator(3)
    noisy = Task({'type': 'gaussian_noise', 'sigma': 10}, 2).scale_input(levels, [network], rng)
    assert 8 < (noisy - plain).std() / 2 * 255 < 16  # its own and what is left of the coarser scale's
    jpeg = Task('jpeg', 2).scale_input(levels, [], generator(3))
    expected = JPEG((7, 10))((levels[0] + 1) / 2, generator(3)) * 2 - 1
    torch.testing.assert_close(jpeg, expected, atol=1e-6, rtol=0)
    levels_of_255 = (jpeg + 1) / 2 * 255
    assert (levels_of_255 - levels_of_255.round()).abs().max() < 1e-3


SEEN = []


def unchanged(images, generator):
    SEEN.append((images.min().item(), images.max().item(), images.shape))
    return images


def half(images, generator):
    return images[..., ::2, ::2]


def to_nan(images, generator):
    return images * float('nan')


def test_custom_distortion_gets_unit_range_images_and_its_name_is_stored(tmp_path):
    SEEN.clear()
    trained = tiny(tmp_path / 'm.pth', 'tests.test_mdf_training:unchanged')
    assert {shape for *_, shape in SEEN} == {(1, 3, 22, 24), (1, 3, 44, 48)}
    assert min(low for low, *_ in SEEN) >= 0
    assert 0.5 < max(high for _, high, _ in SEEN) <= 1
    assert trained.header['task'] == trained.header['distortion'] == 'tests.test_mdf_training:unchanged'


@pytest.mark.parametrize(
    ('task', 'message'),
    [
        ('tests.test_mdf_training:half', 'must keep the shape'),
        ('tests.test_mdf_training:to_nan', 'gave NaN'),
        ('tests.test_mdf_training:ROOT', 'must be a function'),
        ('tests.test_mdf_training:nothing', "has no 'nothing'"),
        ('no_such_module:f', 'no module'),
        ('denoize', "Did you mean 'denoise'"),
    ],
)
def test_wrong_tasks_are_refused_and_nothing_is_left(tmp_path, task, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tiny(tmp_path / 'm.pth', task)
    assert list(tmp_path.iterdir()) == []


# Settings


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'images': {'a': image(height=21)}}, 'side of 21 px; 2 scale.* need 22 px'),
        ({'images': {'a': image()[:1].expand(3, -1, -1)}}, 'a is grey'),
        ({'images': {'a': image() * 255}}, r'a must lie in \[0, 1\]'),
        ({'images': {'a': image()[:1]}}, 'must be a floating-point RGB image'),
        ({'scales': 0}, 'scales must be'),
        ({'rho': 1}, 'rho must be above 1'),
        ({'iterations': 0}, 'iterations must be'),
        ({'alpha': -1}, 'alpha must be'),
        ({'widths': [4]}, None),
        ({'widths': [4, 0]}, 'widths must be'),
        ({'widths': [4, 5], 'scales': 3, 'images': {'a': image(height=80, width=80)}}, 'each of the 3 scales'),
        ({'adversarial': 'wgan'}, "Did you mean 'wgan-gp'"),
        ({'crop': 10}, 'crop must be'),
        ({'checkpoint_every': 0}, 'checkpoint_every must be'),
        ({'device': 'cuda:99'}, "device 'cuda:99' cannot be used"),
        ({'widths': 2000}, r'widths must be .* \[1, 1024\]'),
        ({'generator': 'sin-gan'}, "generator must be 'singan' or"),
        ({'generator': 'tests.test_mdf_training:ROOT.parent'}, 'has no'),
        ({'generator': 'tests.test_mdf_training:Shrinks'}, r'Shrinks must keep the shape.*\(1, 3, 20, 22\)'),
        ({'generator': dict}, 'must be a network with parameters'),
        ({'itertions': 3}, 'itertions'),
    ],
)
def test_wrong_options_are_named_and_nothing_is_left(tmp_path, options, message):
    if message is None:  # one width is taken for all scales
        assert tiny(tmp_path / 'm.pth', **options).header['widths'] == [4, 4]
        return
    with pytest.raises((ValueError, TypeError), match=message):
        tiny(tmp_path / 'm.pth', **options)
    assert list(tmp_path.iterdir()) == []


class Shrinks(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 3)


class Lightens(nn.Module):
    """Remembers the range that it is given."""

    seen = ()

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images):
        type(self).seen = (*self.seen, images.min().item(), images.max().item())
        return images + 0.1 * self.conv(images)


def test_any_network_can_be_the_generator_and_speaks_the_unit_range(tmp_path):
    Lightens.seen = ()
    trained = tiny(tmp_path / 'm.pth', 'jpeg', generator='tests.test_mdf_training:Lightens', crop=16)
    assert min(Lightens.seen) >= 0
    assert 0.5 < max(Lightens.seen) <= 1
    assert trained.header['generator'] == 'tests.test_mdf_training:Lightens'


def test_a_registered_network_can_be_the_generator(tmp_path):
    pytest.importorskip('basicsr')
    factory = parse_generator('basicsr:SRVGGNetCompact:num_feat=4,num_conv=1,upscale=1')
    assert repr(factory) == 'basicsr:SRVGGNetCompact:num_feat=4,num_conv=1,upscale=1'
    assert tiny(tmp_path / 'm.pth', generator=factory).header['generator'] == repr(factory)
    with pytest.raises(ValueError, match="Did you mean 'SRVGGNetCompact"):
        parse_generator('basicsr:SRVGNetCompact')()
    with pytest.raises(ValueError, match="--generator a:b:c=: the option 'c' has no value"):
        parse_generator('a:b:c=')
    assert parse_generator('singan') == 'singan'


class Drops(Lightens):
    """Draws from the global random numbers in training."""

    def forward(self, images):
        return super().forward(functional.dropout(images, 0.2, self.training))


# Training


@pytest.mark.parametrize('task', ['sisr', 'denoise', 'jpeg'])
def test_every_task_writes_discriminators_that_moved(tmp_path, task):
    trained = tiny(tmp_path / 'sub' / 'm.pth', task, crop=15)
    header, _ = stored(tmp_path / 'sub' / 'm.pth')
    assert header == {**trained.header, 'receptive_field': 11}
    assert header['range'] == [-1.0, 1.0]
    assert header['images'][0]['size'] == [44, 48]
    assert set(header['versions']) == {'nriqa_plugin', 'torch'}
    assert [path.name for path in (tmp_path / 'sub').iterdir()] == ['m.pth']
    assert [tuple(curve.shape) for curve in trained.curves] == [(3, len(COLUMNS))] * 2
    assert [tuple(sample['on_fake'].shape) for sample in trained.samples] == [(12, 14), (34, 38)]
    other = tiny(tmp_path / 'other.pth', task, crop=15, seed=1)
    assert not torch.equal(trained.discriminators[0].tail.weight, other.discriminators[0].tail.weight)
    assert all(d.head.norm.num_batches_tracked == 36 for d in trained.discriminators)  # 3 x (3 x 3 + 3)


def test_a_scale_of_the_same_width_starts_from_the_one_below(tmp_path):
    """The statistics of batch norm count on; with another width they start anew (above)."""
    trained = tiny(tmp_path / 'm.pth', widths=4)
    assert [d.head.norm.num_batches_tracked.item() for d in trained.discriminators] == [36, 72]


def test_images_are_taken_in_turn(tmp_path):
    images = {'a': image(), 'b': image(1, 60, 44), 'c': image(2, 50, 50)}
    shapes = []

    def note(training):
        shapes.append(tuple(training.reals[training.iteration % 3][training.index].shape[-2:]))

    trained = tiny(tmp_path / 'm.pth', 'sisr', images, iterations=4, progress=note)
    assert shapes[5:9] == [(44, 48), (60, 44), (50, 50), (44, 48)]
    assert [entry['name'] for entry in trained.header['images']] == ['a', 'b', 'c']
    alone = tiny(tmp_path / 'alone.pth', 'sisr', iterations=4)
    assert torch.equal(alone.curves[0][0], trained.curves[0][0])
    assert not torch.equal(alone.curves[0][1], trained.curves[0][1])


def test_losses_that_are_not_finite_name_scale_and_iteration(tmp_path):
    with pytest.raises(FloatingPointError, match='scale 1 of 2, iteration 1 are not finite.*mse nan.*smaller alpha'):
        tiny(tmp_path / 'm.pth', alpha=1e39)

    def spoil(training):
        if (training.index, training.iteration) == (1, 3):
            training.discriminator.tail.bias.data.fill_(float('nan'))

    with pytest.raises(FloatingPointError, match='weights at scale 2 of 2, iteration 3 are not finite'):
        tiny(tmp_path / 'm.pth', progress=spoil, restart=True)
    assert not (tmp_path / 'm.pth').exists()


def tap_distance(network, first, second):
    """Mean squared difference after the head, after the body and at the tail, added up."""
    total = 0
    with torch.no_grad():
        for part in (network.head, network.body, network.tail):
            first, second = part(first), part(second)
            total += functional.mse_loss(first, second).item()
    return total


def test_training_teaches_both_networks_their_task(tmp_path):
    """Real images score above the generator's, which get better; the distance rises with strength on a new image."""
    images = {'a': image(0, 32, 36)}
    trained = tiny(tmp_path / 'm.pth', images=images, scales=1, widths=8, iterations=30)
    early, late = (dict(zip(COLUMNS, part.mean(0), strict=True)) for part in trained.curves[0].split(15))
    assert late['real'] - late['fake'] > 0.02
    assert late['real'] - late['fake'] > early['real'] - early['fake']
    assert late['mse'] < 0.85 * early['mse']
    new = image(9, 64, 64)[None]
    for distortions in ([GaussianNoise(s) for s in (2, 8, 20, 50)], [JPEG(q) for q in (95, 60, 25, 6)]):
        distances = [
            tap_distance(trained.discriminators[0], new * 2 - 1, d(new, generator(1)) * 2 - 1) for d in distortions
        ]
        assert distances[0] > 0
        assert distances == sorted(distances)


# Going on


@pytest.mark.parametrize(
    ('task', 'options'),
    [
        ('denoise', {'crop': 15}),
        ('sisr', {'widths': 4, 'generator': 'tests.test_mdf_training:Drops'}),
        ('jpeg', {'adversarial': 'bce'}),
    ],
)
def test_stopped_after_every_iteration_it_ends_as_if_never_stopped(tmp_path, task, options):
    images = {'a': image(), 'b': image(1, 46, 50)}
    whole = tiny(tmp_path / 'whole.pth', task, images, **options)
    for _ in range(6):
        with pytest.raises(Stopped, match=r'stopped at scale \d of 2'):
            tiny(tmp_path / 'parts.pth', task, images, stop=lambda: True, **options)
        torch.rand(7)  # another process has other global random numbers
    parts = tiny(tmp_path / 'parts.pth', task, images, stop=lambda: True, **options)
    assert stored(tmp_path / 'parts.pth') == stored(tmp_path / 'whole.pth')
    assert all(map(torch.equal, parts.curves, whole.curves))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(parts.samples, whole.samples, strict=True) for key in a)
    assert not partial_path(tmp_path / 'parts.pth').exists()


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from tests.test_mdf_training import tiny
def kill(training):
    if (training.index, training.iteration) == (1, 3):
        os.kill(os.getpid(), signal.SIGKILL)
tiny(sys.argv[2], 'denoise', iterations=4, checkpoint_every=2, progress=kill)
"""


def test_killed_inside_a_scale_it_ends_as_if_never_stopped(tmp_path):
    out = tmp_path / 'killed.pth'
    command = [sys.executable, '-c', KILLED, str(torch.get_num_threads()), str(out)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert not out.exists()
    began = []
    tiny(out, iterations=4, checkpoint_every=2, progress=lambda t: began.append((t.index, t.iteration)))
    assert began[0] == (1, 2)
    tiny(tmp_path / 'whole.pth', iterations=4)
    assert stored(out) == stored(tmp_path / 'whole.pth')


def test_interrupted_while_picture_and_curves_are_written_it_writes_them_the_next_time(tmp_path):
    def fails(trained):
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        tiny(tmp_path / 'm.pth', finish=fails)
    before, results = stored(tmp_path / 'm.pth'), []
    trained = tiny(tmp_path / 'm.pth', finish=results.append)
    assert results == [trained]
    assert stored(tmp_path / 'm.pth') == before
    assert [tuple(curve.shape) for curve in trained.curves] == [(3, len(COLUMNS))] * 2
    assert not partial_path(tmp_path / 'm.pth').exists()


def test_what_is_stored_of_a_callable_is_the_same_in_every_process():
    assert described(unchanged) == 'tests.test_mdf_training:unchanged'
    assert described(functools.partial(unchanged, generator=3)) == 'tests.test_mdf_training:unchanged(generator=3)'
    assert described(JPEG(9)) == 'JPEG(quality=(9, 9))'
    assert described(Interruptible()) == 'Interruptible()'


def test_a_checkpoint_of_other_options_is_refused_by_name(tmp_path):
    out = tmp_path / 'm.pth'
    with pytest.raises(Stopped):
        tiny(out, stop=lambda: True)
    checkpoint = partial_path(out).read_bytes()
    for options, message in [
        ({'alpha': 7}, 'alpha: 100 there, 7 now.*--restart'),
        ({'task': 'jpeg'}, 'task: denoise there, jpeg now'),
        ({'images': {'a.png': image(1)}}, 'images: '),
    ]:
        with pytest.raises(ValueError, match=message):
            tiny(out, **options)
    assert partial_path(out).read_bytes() == checkpoint
    tiny(out, alpha=7, restart=True, iterations=1)
    with pytest.raises(ValueError, match='exists already'):
        tiny(out)
    tiny(out, restart=True, iterations=1)
    assert load_mdf('weights', out)[1]['alpha'] == 100


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 half a file', None])
def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path, content):
    partial = partial_path(tmp_path / 'm.pth')
    if content is None:
        torch.save({'weights': torch.zeros(3)}, partial)
    else:
        partial.write_bytes(content)
    with pytest.raises(ValueError, match=r'm\.pth\.partial.*--restart'):
        tiny(tmp_path / 'm.pth')
    assert not (tmp_path / 'm.pth').exists()


# The command


def cli(*arguments):
    return CliRunner().invoke(app, ['train-mdf', *map(str, arguments)])


def test_command_writes_discriminators_curves_and_picture(tmp_path):
    pytest.importorskip('matplotlib')
    write_image(tmp_path / 'a.png', image())
    more = ('--iterations', 3, '--scales', 2, '--widths', '4,5', '--crop', 16, '--device', 'cpu')
    result = cli('--image', tmp_path / 'a.png', '--task', 'jpeg', '--out', tmp_path / 'm.pth', *more)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png', 'm.csv', 'm.png', 'm.pth']
    discriminators, header = load_mdf('weights', tmp_path / 'm.pth')
    assert [d.width for d in discriminators] == [4, 5]
    assert header['crop'] == 16
    with open(tmp_path / 'm.csv', newline='') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['scale', 'iteration', *COLUMNS]
    assert len(rows) == 1 + 2 * 3
    from PIL import Image

    with Image.open(tmp_path / 'm.png') as picture:
        assert picture.width > 1000
        assert len(picture.convert('RGB').getcolors(1 << 20)) > 500


def test_command_refuses_bad_input(tmp_path):
    write_image(tmp_path / 'a.png', image())
    write_image(tmp_path / 'grey.png', image()[:1].expand(3, -1, -1))
    (tmp_path / 'b').mkdir()
    write_image(tmp_path / 'b' / 'a.png', image())
    a = ('--image', tmp_path / 'a.png')
    for arguments, message in [
        ((*a, '--out', 'm.pth', '--task', 'noise', '--scales', 2), 'unknown task'),
        ((*a, '--out', tmp_path / 'a.pth', '--task', 'sisr'), 'would be overwritten'),
        ((*a, '--out', 'm.png', '--task', 'sisr'), 'must end in .pth'),
        ((*a, '--out', 'm.pth', '--task', 'sisr', '--widths', '4;5'), 'whole numbers'),
        ((*a, '--image', tmp_path / 'b' / 'a.png', '--out', 'm.pth', '--task', 'sisr'), 'two images of one name'),
        (('--image', tmp_path / 'grey.png', '--out', 'm.pth', '--task', 'sisr'), 'grey.png is grey'),
        (('--image', tmp_path / 'no.png', '--out', 'm.pth', '--task', 'sisr'), 'no such image'),
        (('--image', tmp_path / 'b', '--out', 'm.pth', '--task', 'sisr'), 'b is a folder, not an image'),
    ]:
        result = cli(*arguments)
        assert result.exit_code == 2
        assert message in ' '.join(result.stderr.split())
    assert not Path('m.pth').exists()


def test_a_line_of_progress_says_no_losses_before_the_first_iteration(capsys):
    show = ScaleProgress()
    training = SimpleNamespace(
        settings=SimpleNamespace(widths=(4, 4), crop=None, iterations=2), sizes=[(12, 12), (16, 16)], index=0,
        iteration=0, curve=torch.tensor([[0.5, 0.25, 0.0, 0.125]]),
    )  # fmt: skip
    show(training)
    assert capsys.readouterr().err == 'scale 1 of 2, iteration 0\n'
    show.said, training.iteration = -math.inf, 1
    show(training)
    line = 'scale 1 of 2, iteration 1; D 0.5 on real, 0.25 on fake, error 0.125, about '
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_goes_on(tmp_path, monkeypatch, number):
    write_image(tmp_path / 'a.png', image())
    command = ['--image', tmp_path / 'a.png', '--task', 'denoise', '--out', tmp_path / 'm.pth', '--scales', 2]
    command += ['--widths', 4, '--iterations', 3, '--device', 'cpu', '--no-picture']
    show, seen, before = ScaleProgress.__call__, [], signal.getsignal(number)

    def interrupt(self, training):
        seen.append((training.index, training.iteration))
        show(self, training)
        if seen == [(0, 0), (0, 1), (0, 2)]:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(ScaleProgress, '__call__', interrupt)
    result = cli(*command, '--restart')
    assert result.exit_code == 130
    said = ' '.join(result.stderr.split())
    assert 'stopped at scale 1 of 2, iteration 2 of 3. The same command without --restart goes on' in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png', 'm.pth.partial']
    assert signal.getsignal(number) is before
    seen.clear()
    result = cli(*command)
    assert result.exit_code == 0, result.output
    assert seen == [(0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png', 'm.csv', 'm.pth']
