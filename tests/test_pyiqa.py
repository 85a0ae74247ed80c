"""Metrics of pyiqa as judges against pyiqa itself; nothing is downloaded."""

import concurrent.futures
import hashlib
import logging
import math
import os
import pickle
import re
import socket
import sys
import urllib.error

import pytest
import torch
from torch import nn

from nriqa_plugin.iqa import cached_files, create_scorer, pyiqa_build, pyiqa_scorer, pyiqa_tables
from nriqa_plugin.iqa.pyiqa_scorer import PyiqaScorer
from nriqa_plugin.iqa.pyiqa_tables import metric_configs, parse_range
from nriqa_plugin.losses import FRIQALoss, NRIQALoss
from nriqa_plugin.losses.iqa_loss import pink_noise

if not metric_configs():  # not importorskip: importing takes seconds even when every test here is deselected
    pytest.skip('pyiqa is not installed', allow_module_level=True)


def images(seed=0, n=2, size=64):
    """Smooth colour blobs in [0.1, 0.9], ``(n, 3, size, size)``."""
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(size, size), mode='bicubic').clamp(0.1, 0.9)


def value_and_gradient(judge, pred, *ref):
    pred = pred.clone().requires_grad_()
    scores = judge(pred, *ref)
    return scores.detach().flatten(), torch.autograd.grad(scores.sum(), pred)[0]


def pyiqa_metric(name, monkeypatch, **options):
    """pyiqa called plainly; it changes cuDNN's mode for the whole process, which is put back after the test."""
    import pyiqa

    for flag in ('deterministic', 'benchmark'):
        monkeypatch.setattr(torch.backends.cudnn, flag, getattr(torch.backends.cudnn, flag))
    return pyiqa.create_metric(name, as_loss=True, loss_reduction='none', device='cpu', **options)


@pytest.fixture(scope='module')
def musiq_weights(tmp_path_factory):
    """A file with random weights for MUSIQ."""
    from pyiqa.archs.musiq_arch import MUSIQ

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MUSIQ(pretrained=False)
    file = tmp_path_factory.mktemp('weights') / 'musiq.pth'
    torch.save(network.state_dict(), file)
    return file


# --- against pyiqa itself ---


def test_musiq_from_a_file_equals_pyiqa_with_gradient(musiq_weights, monkeypatch):
    judge = create_scorer('musiq', weights=str(musiq_weights))
    assert (judge.name, judge.higher_better, judge.score_range) == ('musiq', True, (0.0, 100.0))
    assert (judge.needs_reference, judge.differentiable, judge.no_gradient) == (False, True, '')
    plain = pyiqa_metric('musiq', monkeypatch, pretrained_model_path=str(musiq_weights))
    pred = images(size=96)
    for got, expected in zip(value_and_gradient(judge, pred), value_and_gradient(plain, pred), strict=True):
        assert expected.abs().max() > 0
        assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(('name', 'higher_better'), [('ssim', True), ('gmsd', False)])
def test_full_reference_metrics_equal_pyiqa_with_gradient(name, higher_better, monkeypatch):
    judge = create_scorer(f'pyiqa:{name}')
    assert (judge.name, judge.needs_reference, judge.higher_better) == (f'pyiqa:{name}', True, higher_better)
    plain = pyiqa_metric(name, monkeypatch)
    pred, ref = images(), images(seed=1)
    for got, expected in zip(value_and_gradient(judge, pred, ref), value_and_gradient(plain, pred, ref), strict=True):
        assert expected.abs().max() > 0
        assert torch.allclose(got, expected.float(), rtol=1e-5, atol=1e-7)
    assert FRIQALoss(judge)(pred, ref).item() == pytest.approx(judge(pred, ref).mean().item() * (-1) ** higher_better)


def test_the_musiq_loss_falls_when_the_score_rises(musiq_weights):
    loss = NRIQALoss('musiq', weights=musiq_weights)
    pred = images(size=96)
    before, gradient = value_and_gradient(loss, pred)
    better = pred - 1e-3 * gradient / gradient.norm()
    scores = loss.scorer(torch.cat([pred, better])).view(2, -1).mean(1)
    assert before.item() == pytest.approx(-scores[0].item(), abs=1e-6)
    assert scores[1] > scores[0]
    assert loss(better) < before


def test_a_pyiqa_judge_is_frozen_hidden_and_stays_in_eval_mode(musiq_weights):
    judge = create_scorer('musiq', weights=musiq_weights)
    parent = nn.Sequential(judge).train()
    assert not list(parent.parameters())
    assert not parent.state_dict()
    assert not any(p.requires_grad for p in judge.network.parameters())
    assert not any(module.training for module in judge.network.modules())
    assert next(parent.half()[0].network.parameters()).dtype == torch.float32
    other = create_scorer('musiq', weights=musiq_weights, longer_side_lengths=[224])
    assert create_scorer('musiq', weights=musiq_weights).weights_hash() == judge.weights_hash() != other.weights_hash()


def test_cudnn_standard_output_and_random_numbers_are_left_alone(musiq_weights, monkeypatch, capfd):
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', True)
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', False)
    state = torch.get_rng_state()
    load = nn.Module.load_state_dict
    create_scorer('musiq', weights=musiq_weights).raw_scores(images() * 2)  # overshoot is no error in training
    assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.deterministic
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.Module.load_state_dict is load
    assert capfd.readouterr() == ('', '')


# --- a stand-in for networks that cannot be built without a download ---


class StandIn(nn.Module):
    """As some of pyiqa's: a network in a plain list, dropout, by-products beside the score."""

    def __init__(self, gain=1.0, **swallowed):
        super().__init__()
        self.clip_model = [nn.Conv2d(3, 1, 3)]
        self.drop, self.gain, self.batches = nn.Dropout(), gain, []

    def forward(self, x):
        self.batches.append(len(x))
        scores = self.gain * self.drop(self.clip_model[0](x)).mean((1, 2, 3))
        return scores[:, None], 'by-product'


def stand_in(monkeypatch, kind):
    from pyiqa.utils.registry import ARCH_REGISTRY

    config = {'metric_opts': {'type': kind}, 'metric_mode': 'NR', 'lower_better': True, 'score_range': '0, ~'}
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, kind, StandIn)
    monkeypatch.setattr(pyiqa_scorer, 'metric_configs', lambda: {'standin': config})
    return create_scorer('pyiqa:standin')


def test_a_network_in_a_plain_list_is_frozen_and_moved_too(monkeypatch):
    judge = stand_in(monkeypatch, 'StandIn')
    hidden = judge.network.clip_model[0]
    assert not any(p.requires_grad for p in hidden.parameters())
    assert torch.equal(judge(images()), hidden(images()).mean((1, 2, 3)))
    assert (judge.higher_better, judge.score_range) == (False, (0.0, math.inf))
    assert judge.double()(images()).dtype == hidden.weight.dtype == torch.float64


def test_a_metric_without_gradient_scores_one_by_one_and_is_refused_as_a_loss(monkeypatch):
    judge = stand_in(monkeypatch, 'QAlign')
    assert (judge.differentiable, judge.no_gradient) == (False, 'the image goes through PIL')
    scores = judge(images(n=3).requires_grad_())
    assert judge.network.batches == [1, 1, 1]
    assert not scores.requires_grad
    assert torch.allclose(scores, judge.network.clip_model[0](images(n=3)).mean((1, 2, 3)))
    with pytest.raises(ValueError, match="judge 'standin' gives no usable gradient"):
        NRIQALoss(judge)


@pytest.mark.parametrize('name', ['piqe', 'entropy'])
def test_metrics_listed_without_gradient_have_none(name):
    judge, pred = create_scorer(name), images().requires_grad_()
    assert judge.no_gradient
    assert judge(pred).shape == (2,)
    scores = judge.network(pred)
    if scores.requires_grad:
        assert not torch.autograd.grad(scores.sum(), pred)[0].nan_to_num().any()
    with pytest.raises(ValueError, match=f"judge '{name}' gives no usable gradient"):
        NRIQALoss(judge)


def with_published_parameters_of_niqe(monkeypatch, folder):
    """pyiqa's NIQE on the parameters that BasicSR ships."""
    from pyiqa.utils import download_util
    from scipy.io import savemat

    ours = create_scorer('niqe')
    mean, covariance = ours.mean.double().numpy(), ours.covariance.double().numpy()
    savemat(folder / 'niqe_modelparameters.mat', {'mu_prisparam': mean, 'cov_prisparam': covariance})
    monkeypatch.setattr(download_util, 'DEFAULT_CACHE_DIR', str(folder))
    return create_scorer('pyiqa:niqe'), ours


def test_following_the_gradient_of_pyiqas_niqe_makes_it_worse_and_following_ours_makes_it_better(monkeypatch, tmp_path):
    theirs, ours = with_published_parameters_of_niqe(monkeypatch, tmp_path)
    start = pink_noise((1, 3, 192, 192), torch.Generator().manual_seed(0))
    assert theirs(start).item() == pytest.approx(ours(start).item(), rel=0.05)  # borders and resizing differ a little
    assert not theirs.differentiable
    theirs.differentiable = True
    for judge, better in ((theirs, False), (ours, True)):
        image = start
        for _ in range(10):
            gradient = value_and_gradient(judge.raw_scores, image)[1]
            image = (image - gradient.sign() / 255).clamp(0, 1)
        assert (theirs(image).item() < theirs(start).item()) == better


def test_sides_that_a_network_would_refuse_are_named_before_it_runs(monkeypatch):
    judge = stand_in(monkeypatch, 'AFINE')
    assert judge(images(size=64)).shape == (2,)
    with pytest.raises(ValueError, match=r'sides that are multiples of 32 px, pred is \(2, 3, 72, 72\)'):
        judge(images(size=72))
    assert judge.leave_out_border(4)(images(size=72)).shape == (2,)
    with pytest.raises(ValueError, match='multiples of 32 px and a border of 4 px'):
        judge(images(size=64 + 32))


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_metric_that_moves_itself_to_a_gpu_says_so_when_there_is_none():
    with pytest.raises(RuntimeError, match='the judge maclip needs a CUDA GPU'):
        create_scorer('maclip')


# --- names, options and files ---


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('~0, ~100', (0, 100)),
        ('-2, 2', (-2, 2)),
        ('~-1, ~0.1', (-1, 0.1)),
        ('0, ~', (0, math.inf)),
        ('~, 2', (-math.inf, 2)),
        (None, (-math.inf, math.inf)),
        ('about one', (-math.inf, math.inf)),
        ('1.2.3, 4', (-math.inf, math.inf)),
    ],
)
def test_range_texts_become_numbers(text, expected):
    assert parse_range(text) == expected


def test_the_table_of_metrics_is_pyiqas_and_every_range_in_it_is_understood():
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    assert metric_configs() == DEFAULT_CONFIGS
    for config in metric_configs().values():
        low, high = parse_range(config['score_range'])
        assert low < high
        assert math.isfinite(low) or math.isfinite(high)
    kinds = {config['metric_opts']['type'] for config in metric_configs().values()}
    names = ('FROM_FILE', 'NO_GRADIENT', 'NO_JUDGE', 'NEEDS_CUDA', 'ONE_BY_ONE', 'MULTIPLE', 'MIN_SIDE')
    tables = [getattr(pyiqa_tables, name) for name in names]
    assert {*(kind for table in tables for kind in table)} <= kinds


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('musik', r"unknown judge 'musik'\. Did you mean 'musiq'\? Allowed: cnniqa, .*vsi, or any pyiqa metric$"),
        ('MUSIQ', r"Did you mean 'musiq'\?"),
        ('nique', r"Did you mean 'niqe' or 'unique'\?"),
        ('zzz', r"unknown judge 'zzz'\. Allowed:"),
        ('pyiqa:musik', r"unknown metric of pyiqa 'musik'\. Did you mean 'musiq'\?"),
        ('fid', 'fid cannot be a judge: it compares two sets of images'),
    ],
)
def test_a_wrong_name_shows_the_closest_ones(name, message):
    with pytest.raises(ValueError, match=message):
        create_scorer(name)


def test_without_pyiqa_its_metrics_are_unknown_and_the_message_says_what_brings_them(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
    install = re.escape("pip install 'nriqa-plugin[iqa]'")
    with pytest.raises(ValueError, match=f"unknown judge 'musiq'.*unless the extra iqa is installed: {install}"):
        create_scorer('musiq')
    with pytest.raises(ImportError, match=f'the judge musiq needs the package pyiqa: {install}'):
        create_scorer('pyiqa:musiq')


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        (
            'pyiqa:ssim',
            {'downsampl': True},
            r"unknown option of the judge pyiqa:ssim: 'downsampl'\. Did you mean 'downs",
        ),
        ('pyiqa:psnr', {'crop_bordr': 4}, r"option of the judge pyiqa:psnr: 'crop_bordr'"),  # pyiqa would swallow it
        ('musiq', {'pretrained_model_path': 'x'}, "option of the judge musiq: 'pretrained_model_path'"),
        ('musiq', {'metric': 'x'}, "judge 'musiq': .*multiple values for argument 'metric'"),
    ],
)
def test_unknown_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_scorer(name, **options)


def test_a_failed_download_is_one_error_that_names_metric_file_and_option(monkeypatch, tmp_path):
    from pyiqa.utils import download_util

    def fail(*args, **options):
        raise urllib.error.URLError('no route to host')

    monkeypatch.setattr(download_util, 'download_url_to_file', fail)
    monkeypatch.setattr(download_util, 'DEFAULT_CACHE_DIR', str(tmp_path / 'pyiqa'))
    message = (
        r"^the judge musiq needs the file (musiq\S+\.pth) from pyiqa's model hub, which could not be fetched or read "
        r'\(URLError: .*no route to host.*\); get it elsewhere and give its path with the option weights or put it at '
        r'\S+\1$'
    )
    with pytest.raises(RuntimeError, match=message):
        create_scorer('musiq')
    with pytest.raises(
        RuntimeError, match=r'the judge brisque needs the file (\S+) .*put it at \S+\1 \(this judge takes no option w'
    ):
        create_scorer('brisque')


def test_a_cached_file_that_is_not_what_its_name_says_is_told_once_and_used(
    musiq_weights, tmp_path, monkeypatch, caplog
):
    from pyiqa.utils import download_util

    monkeypatch.setattr(download_util, 'DEFAULT_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(cached_files, '_told', set())
    file = tmp_path / 'musiq_koniq_ckpt-e95806b9.pth'
    file.write_bytes(musiq_weights.read_bytes())
    load, digest = torch.load, hashlib.sha256(file.read_bytes()).hexdigest()
    with caplog.at_level(logging.WARNING, 'nriqa_plugin'):
        judges = [create_scorer('musiq'), create_scorer('musiq')]
    text = (f'the judge musiq: by its name the SHA-256 of {file} begins with e95806b9, but it begins with {digest[:8]}: '
            'a broken or foreign file?')  # fmt: skip
    assert [record.getMessage() for record in caplog.records] == [text]
    assert [judge.notes for judge in judges] == [(text,), (text,)]
    assert torch.load is load
    assert create_scorer('musiq', weights=file).notes == ()  # the user chose this one
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(RuntimeError, match=r'could not be fetched or read .*: a broken or foreign file\?$'):
        create_scorer('musiq')


def test_only_names_with_a_hash_are_held_against_the_file_and_each_file_is_read_once(tmp_path, monkeypatch):
    digest = hashlib.sha256(b'weights').hexdigest()
    for name in ('net.pth', f'net-{digest[:8]}.pth', f'net-{digest}.pth', 'net-abc.pth', 'net-20150101.bin'):
        (tmp_path / name).write_bytes(b'weights')
        assert cached_files.mismatch('x', tmp_path / name) == ''
    assert cached_files.mismatch('x', tmp_path / 'gone-00000000.pth') == ''
    assert cached_files.mismatch('x', 3) == ''
    file, reads = tmp_path / 'net-00000000.pth', []
    file.write_bytes(b'weights')
    monkeypatch.setattr('builtins.open', lambda *args, _open=open: reads.append(args[0]) or _open(*args))
    for _ in range(3):
        assert f'begins with 00000000, but it begins with {digest[:8]}' in cached_files.mismatch('x', str(file))
    assert len(reads) == 1
    file.write_bytes(b'other weights')
    os.utime(file, ns=(1, 1))
    other = hashlib.sha256(b'other weights').hexdigest()
    assert f'but it begins with {other[:8]}' in cached_files.mismatch('x', file)


def test_files_are_held_against_their_names_however_torch_load_is_called_and_from_any_thread(tmp_path):
    path, load = tmp_path / 'net-00000000.pth', torch.load
    torch.save({}, path)
    with open(path, 'rb') as file:
        for call in ((lambda: torch.load(str(path))), lambda: torch.load(path), lambda: torch.load(f=path),
                     lambda: torch.load(file)):  # fmt: skip
            with cached_files.watched_files('x') as found:
                call()
            assert len(found) == 1

    def build():
        with cached_files.watched_files('x'):
            torch.load(path)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(build) for _ in range(64)]:
            done.result()
    assert torch.load is load


def test_weights_that_do_not_fit_are_named(musiq_weights, tmp_path):
    file = tmp_path / 'w.pth'
    with pytest.raises(FileNotFoundError, match=r'weights: no such file: .*w\.pth'):
        create_scorer('musiq', weights=file)
    torch.save({'params': nn.Linear(3, 4).state_dict()}, file)
    with pytest.raises(ValueError, match=r'weights: .*w\.pth belongs to another network than MUSIQ: '):
        create_scorer('musiq', weights=file)
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match=r'w\.pth holds a list, not a state dict'):
        create_scorer('musiq', weights=file)
    file.write_bytes(musiq_weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r'w\.pth is not a readable checkpoint'):
        create_scorer('musiq', weights=file)
    file.write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(ValueError, match=r'w\.pth was refused'):
        create_scorer('musiq', weights=file)
    with pytest.raises(ValueError, match='weights: the judge pyiqa:ssim is not one file of weights, so it takes none'):
        create_scorer('pyiqa:ssim', weights=musiq_weights)


# Fewer crops, for speed; the number does not change the weights.
ONE_CROP = {'hyperiqa': {'num_crop': 1}, 'maniqa': {'test_sample': 1}, 'tres': {'test_sample': 1}}


def from_file(name, folder, monkeypatch):
    """The judge ``name`` from a file of random weights, any use of the internet being an error."""
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *args, **options: pytest.fail('asked for the internet'))
    config = metric_configs()[name]
    options = {key: value for key, value in config['metric_opts'].items() if key != 'type'}
    network_class = pyiqa_build.network_class_of(name, config['metric_opts']['type'])
    with pyiqa_build.loading_nothing(network_class):
        network = network_class(**options)
    torch.save({'params': {f'module.{key}': value for key, value in network.state_dict().items()}}, folder / 'w.pth')
    judge = PyiqaScorer(name, weights=folder / 'w.pth', **ONE_CROP.get(name, {}))
    expected = network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in judge.network.state_dict().items())
    return judge


def test_wrapped_weights_load_without_a_download(tmp_path, monkeypatch):
    assert from_file('cnniqa', tmp_path, monkeypatch).name == 'pyiqa:cnniqa'
    ava = from_file('musiq-ava', tmp_path, monkeypatch)
    assert ava.network.head[0].out_features == 10, 'pyiqa itself builds the wrong head when it gets a file'


def one_metric_per_network():
    """The first metric of every network that takes a file."""
    kinds = {config['metric_opts']['type']: name for name, config in reversed(metric_configs().items())}
    return [kinds[kind] for kind in pyiqa_tables.FROM_FILE]


def test_the_face_detector_keeps_its_weights_while_the_metrics_own_come_from_a_file():
    # It is no part of the network, so no file of ``weights`` brings them back.
    detector_class = type('Detector', (nn.Linear,), {'__module__': 'facexlib.detection'})
    trained, detector, backbone = nn.Linear(3, 2), detector_class(3, 2), nn.Linear(3, 2)
    with pyiqa_build.loading_nothing(pyiqa_build.network_class_of('topiq_nr-face', 'CFANet')):
        detector.load_state_dict(trained.state_dict())
        backbone.load_state_dict(trained.state_dict())
    assert torch.equal(detector.weight, trained.weight)
    assert not torch.equal(backbone.weight, trained.weight)


@pytest.mark.slow
@pytest.mark.parametrize('name', one_metric_per_network())
def test_every_network_that_takes_a_file_loads_it_without_a_download(name, tmp_path, monkeypatch):
    judge = from_file(name, tmp_path, monkeypatch)
    pred, ref = images(size=judge.min_side), images(seed=1, size=judge.min_side)
    assert torch.isfinite(judge(pred, ref)).all()
