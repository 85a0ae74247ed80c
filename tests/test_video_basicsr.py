"""BasicVSR++ on a CPU as on a GPU, RBPN and iSeeBetter in BasicSR: steps, validation, resume, the stock script."""

import copy
import importlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
import yaml
from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.models import build_model
from basicsr.utils.options import yaml_load

import nriqa_plugin.basicsr  # noqa: F401
from nriqa_plugin.basicsr.basicvsrpp import mend_basicvsrpp

TINY = {
    'BasicVSRPlusPlus': {'mid_channels': 16, 'num_blocks': 1, 'spynet_path': None},
    'RBPN': {'base_filter': 6, 'feat': 4, 'n_resblock': 1, 'nFrames': 3, 'spynet_path': None},
    'SRGANDiscriminator': {'num_feat': 4},
}
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}


@pytest.fixture
def basicvsrpp():
    """The host's module and a tiny network of its class."""
    module = pytest.importorskip('basicsr.archs.basicvsrpp_arch')
    return module, build_network({'type': 'BasicVSRPlusPlus', **TINY['BasicVSRPlusPlus']})


def test_basicvsrpp_has_the_same_state_on_a_cpu_as_with_cuda(monkeypatch):
    """7.323 M parameters at the paper's size, by the class as it is where CUDA is found."""
    module = pytest.importorskip('basicsr.archs.basicvsrpp_arch')
    network = build_network({'type': 'BasicVSRPlusPlus', 'mid_channels': 64, 'num_blocks': 7})
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    stock = module.BasicVSRPlusPlus.__new__(module.BasicVSRPlusPlus)
    module.BasicVSRPlusPlus.__init__.__wrapped__(stock, mid_channels=64, num_blocks=7)
    shapes, expected = ({key: value.shape for key, value in net.state_dict().items()} for net in (network, stock))
    assert shapes == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == 7_322_927
    assert network.is_with_alignment


def test_building_basicvsrpp_leaves_the_answer_about_cuda_alone(basicvsrpp):
    module, _ = basicvsrpp
    before = torch.cuda.is_available
    with pytest.raises(TypeError):
        module.BasicVSRPlusPlus(mid_chanels=16)
    assert torch.cuda.is_available is before
    once = module.BasicVSRPlusPlus.__init__
    mend_basicvsrpp()
    assert module.BasicVSRPlusPlus.__init__ is once


def test_the_alignment_takes_part_in_the_output_and_every_parameter_gets_a_gradient(basicvsrpp):
    _, network = basicvsrpp
    for alignment in network.deform_align.values():  # starts with no offset, as the host has it
        torch.nn.init.normal_(alignment.conv_offset[-1].weight, std=0.01)
    network(torch.rand(1, 3, 3, 64, 64)).square().mean().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert not missing


def test_a_mirrored_clip_does_not_change_how_later_clips_are_taken(basicvsrpp):
    _, network = basicvsrpp
    clip = torch.rand(1, 2, 3, 64, 64)
    with torch.no_grad():
        expected = network(clip)
        network(clip[:, [0, 0]])  # a still clip
        assert network.is_mirror_extended
        torch.testing.assert_close(network(clip), expected, rtol=0, atol=0)


def test_clips_longer_than_the_cache_stay_on_a_cpu(basicvsrpp):
    module, network = basicvsrpp
    short = module.BasicVSRPlusPlus(**TINY['BasicVSRPlusPlus'], cpu_cache_length=1)
    short.load_state_dict(network.state_dict())
    clip = torch.rand(1, 2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(short(clip), network(clip), rtol=0, atol=0)
    assert copy.deepcopy(short)(clip).requires_grad


def test_a_basicsr_without_basicvsrpp_is_left_alone(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(importlib, 'import_module', import_module)
    mend_basicvsrpp()


def write_clips(root, side=256, frames=7):
    """Moving septuplets ``gt/00001/000{1,2}/im1.png`` ..., x1/4 in ``lq``, a list of both, and clips of two frames."""
    rng = np.random.default_rng(0)
    for name in ('00001/0001', '00001/0002'):
        field = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((side + 48,) * 2, 3)
        for t in range(frames):
            gt = field.crop((4 * t, 2 * t, 4 * t + side, 2 * t + side))
            for kind, image in (('gt', gt), ('lq', gt.resize((side // 4, side // 4), Image.BICUBIC))):
                path = root / kind / name / f'im{t + 1}.png'
                for file in (path, root / 'whole' / kind / name[-4:] / path.name):
                    if file is path or t < 2:
                        file.parent.mkdir(parents=True, exist_ok=True)
                        image.save(file)
    (root / 'list.txt').write_text('00001/0001 7 (256,256,3)\n00001/0002 7 (256,256,3)\n')


def options(name, root, **train):
    """An option file of ours at a size for tests, on the clips of :func:`write_clips`; four steps on a CPU."""
    opt = yaml_load(str(ROOT / 'options' / 'basicsr' / f'{name}.yml'))
    opt.pop('plugin')
    files = {'dataroot_gt': str(root / 'gt'), 'dataroot_lq': str(root / 'lq'), 'meta_info_file': str(root / 'list.txt')}
    opt['datasets']['train'] |= {**files, 'gt_size': 256, 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0}
    if opt['datasets']['val']['type'] == 'VideoRecurrentTestDataset':  # whole clips
        files = {key: str(root / 'whole' / key[-2:]) for key in ('dataroot_gt', 'dataroot_lq')}
    opt['datasets']['val'] |= files
    if 'num_frame' in opt['datasets']['train'] and opt['network_g']['type'] == 'RBPN':
        opt['datasets']['train']['num_frame'] = opt['datasets']['val']['num_frame'] = 3
    for net in ('network_g', 'network_d'):
        if net in opt:
            opt[net] |= TINY[opt[net]['type']]
    opt['path'] |= {'pretrain_network_g': None, 'experiments_root': 'experiments'}
    if 'vgg' in opt['train']['pixel_opt']['terms']:
        layers = {'layers': {'fire2': 1.0}, 'backbone': 'squeezenet1_1', 'weights': str(root / 'squeeze.pth')}
        opt['train']['pixel_opt']['terms']['vgg'] |= layers
    opt['train'] |= {'total_iter': 4, 'warmup_iter': 2, **train}
    opt['val'] |= {'val_freq': 2}
    opt |= {'num_gpu': 0, 'logger': {**opt['logger'], 'print_freq': 1, 'use_tb_logger': False}}
    opt['logger']['save_checkpoint_freq'] = 2
    return opt


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    from torchvision import models

    root = tmp_path_factory.mktemp('clips')
    write_clips(root)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), root / 'squeeze.pth')
    return root


NAMES = ['rbpn_x4_charbonnier', 'rbpn_x4_iseebetter', 'basicvsrpp_x4_charbonnier']


@pytest.mark.parametrize('name', NAMES)
def test_clips_of_the_hosts_data_sets_train_and_validate_in_process(name, clips, tmp_path):
    """One step on a real batch of the option file's own data set, then its validation, frame by frame."""
    opt = options(name, clips)
    for folder in ('models', 'training_states', 'visualization'):
        opt['path'][folder] = str(tmp_path / folder)
        (tmp_path / folder).mkdir()
    opt['path']['experiments_root'] = str(tmp_path)
    opt |= {'dist': False, 'rank': 0, 'world_size': 1, 'is_train': True}
    for phase, data in opt['datasets'].items():
        data |= {'phase': phase, 'scale': 4}
    model = build_model(opt)
    train, val = (build_dataset(opt['datasets'][phase]) for phase in ('train', 'val'))
    sample = train[0]
    assert sample['lq'].shape[0] == (7 if 'vsrpp' in name else 3)
    if 'vsrpp' in name:  # its alignment is slow on a CPU
        sample |= {key: sample[key][:2] for key in ('lq', 'gt')}
    model.feed_data({key: value[None] if key != 'key' else [value] for key, value in sample.items()})
    model.optimize_parameters(1)
    log = model.get_current_log()
    assert {f'l_{term.name}' for term in model.cri_pix.terms} <= log.keys()
    assert all(np.isfinite(value) for value in log.values())
    if 'iseebetter' in name:
        assert {'l_g_gan', 'l_d_real', 'l_d_fake'} <= log.keys()
    assert model.output.shape == model.gt.shape
    model.validation(torch.utils.data.DataLoader(val), 2, None, False)
    rows = (tmp_path / 'validation.csv').read_text()
    assert {'psnr', 'ssim', 'niqe'} <= set(re.findall(r'\d+,[^,]+,(\w+),', rows))
    measured = model.metric_results
    assert sum(len(table) for table in measured.values()) == (4 if 'vsrpp' in name else 2)
    assert all((table[:, 0] > 5).all() for table in measured.values()), 'a frame was left out'


def test_lora_changes_the_body_of_basicvsrpp_by_default():
    base = {'type': 'BasicVSRPlusPlus', 'mid_channels': 16, 'num_blocks': 1}
    net = build_network({'type': 'LoRANet', 'base': base, 'rank': 2})
    assert {name.split('.')[0] for name in net.adapted} == {'feat_extract', 'backbone', 'reconstruction'}
    assert {name.split('.')[1] for name in net.adapted if name.startswith('backbone')} == {
        'backward_1', 'forward_1', 'backward_2', 'forward_2'
    }  # fmt: skip
    with torch.no_grad():
        for change in net.adapted.values():
            change.lora_B.normal_(std=0.01)
    net(torch.rand(1, 2, 3, 64, 64)).square().mean().backward()
    unused = {name for name, change in net.adapted.items() if not change.lora_A.grad.any()}
    assert not unused
    plain = build_network(base)
    plain.load_state_dict(net.merged_state_dict())


def test_iseebetter_steps_both_networks_and_1_minus_d_has_the_published_gradients(clips, tmp_path):
    """``wgan`` on probabilities: 1 - D(fake) for the generator, 1 - D(real) + D(fake) for the discriminator."""
    from basicsr.losses import build_loss

    gan = build_loss({'type': 'GANLoss', 'gan_type': 'wgan', 'loss_weight': 1.0})
    net = build_network({'type': 'SRGANDiscriminator', 'num_feat': 4, 'sigmoid': True}).double().eval()
    real, fake = torch.rand(2, 2, 3, 32, 32, dtype=torch.float64)
    fake.requires_grad_()
    (got,) = torch.autograd.grad(gan(net(fake), True, is_disc=False), fake)
    (expected,) = torch.autograd.grad((1 - net(fake)).mean(), fake)
    torch.testing.assert_close(got, expected)
    parameters = list(net.parameters())
    loss = gan(net(real), True, is_disc=True) + gan(net(fake.detach()), False, is_disc=True)
    got = torch.autograd.grad(loss, parameters)
    expected = torch.autograd.grad(1 - net(real).mean() + net(fake.detach()).mean(), parameters)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def run(command, folder, *arguments):
    return subprocess.run(
        [sys.executable, *command, '-opt', *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=1500,
    )


def losses(text):
    """``{iteration: everything logged after the timings}``, digits as printed."""
    return {int(i): rest.strip() for i, rest in re.findall(r'iter: +(\d+), .*?time \(data\): [^\]]*\] (.*)', text)}


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_the_stock_script_trains_validates_and_our_launcher_resumes_on_a_cpu(name, clips, tmp_path):
    opt = options(name, clips, **({'fix_flow': 3} if 'vsrpp' in name else {}))
    # BasicSR replays the epoch after a resume: one clip only
    (tmp_path / 'one.txt').write_text('00001/0001 7 (256,256,3)\n')
    opt['datasets']['train'] |= {'meta_info_file': str(tmp_path / 'one.txt'), 'dataset_enlarge_ratio': 100}
    opt['datasets']['train'] |= {'use_hflip': False, 'use_rot': False}
    if 'vsrpp' in name:  # its alignment is slow on a CPU: two frames
        (tmp_path / 'one.txt').write_text('0001\n')
        del opt['datasets']['train']['flip_sequence']
        roots = {f'dataroot_{kind}': str(clips / 'whole' / kind) for kind in ('gt', 'lq')}
        opt['datasets']['train'] |= {**roots, 'type': 'ClipFolderDataset', 'num_frame': 2}
    (tmp_path / 'tiny.yml').write_text(
        'plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n' + yaml.safe_dump(json.loads(json.dumps(opt)))
    )
    whole = run(['-m', 'basicsr.train'], tmp_path, 'tiny.yml')
    log = whole.stdout + whole.stderr
    assert whole.returncode == 0, log
    expected = losses(log)
    assert sorted(expected) == [1, 2, 3, 4]
    assert 'l_pixel' in expected[1]
    experiment = tmp_path / 'experiments' / name
    rows = (experiment / 'validation.csv').read_text()
    assert {int(i) for i in re.findall(r'^(\d+),', rows, re.M)} == {2, 4}
    (experiment / 'training_states' / '4.state').unlink()
    resumed = run([str(ROOT / 'tools' / 'train_basicsr.py')], tmp_path, 'tiny.yml', '--auto_resume')
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert losses(resumed.stdout + resumed.stderr) == {i: expected[i] for i in (3, 4)}
