"""Bad options of BasicVSR++ in both hosts: flow files that are none, crops that are too small for its flow."""

import re

import pytest
import torch

from nriqa_plugin.archs.spynet import SpyNet
from tests.clip_files import write_pair

NETWORK = {'mid_channels': 16, 'num_blocks': 1}
PIXEL = {'type': 'LossSum', 'terms': [{'type': 'L1Loss', 'weight': 1.0}]}


@pytest.fixture
def flow_file(tmp_path):
    """A file of BasicSR's kind, its SpyNet filled with tenths."""
    state = {k: torch.full_like(v, 0.1) for k, v in SpyNet().state_dict().items() if k not in ('mean', 'std')}
    torch.save({'params': state}, tmp_path / 'spynet.pth')
    return tmp_path / 'spynet.pth'


# ---------------------------------------------------------------------------------------------------- BasicSR


@pytest.fixture
def basicsr():
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    import nriqa_plugin.basicsr  # noqa: F401

    return pytest.importorskip('basicsr.archs.basicvsrpp_arch').BasicVSRPlusPlus


def test_the_flow_file_of_basicsr_is_loaded_as_by_the_host(basicsr, flow_file, monkeypatch):
    torch.manual_seed(0)
    ours = basicsr(**NETWORK, spynet_path=str(flow_file)).state_dict()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    stock = basicsr.__new__(basicsr)
    torch.manual_seed(0)
    basicsr.__init__.__wrapped__(stock, **NETWORK, spynet_path=str(flow_file))
    expected = stock.state_dict()
    assert (ours['spynet.basic_module.5.basic_module.8.weight'] == 0.1).all()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
    by_position = basicsr(16, 1, 10, True, str(flow_file), 7)
    assert by_position.cpu_cache_length == 7
    assert (by_position.spynet.basic_module[0].basic_module[0].bias == 0.1).all()


def test_the_class_of_basicsr_takes_mmagics_flow_file(basicsr, flow_file, tmp_path):
    renamed = {}
    for key, value in torch.load(flow_file, weights_only=True)['params'].items():
        level, index, kind = re.fullmatch(r'basic_module\.(\d)\.basic_module\.(\d)\.(\w+)', key).groups()
        renamed[f'basic_module.{level}.basic_module.{int(index) // 2}.conv.{kind}'] = value
    torch.save({'state_dict': renamed}, tmp_path / 'mmagic.pth')
    network = basicsr(**NETWORK, spynet_path=str(tmp_path / 'mmagic.pth'))
    assert all((value == 0.1).all() for value in network.spynet.parameters())


def test_a_bad_flow_file_is_named_in_basicsr(basicsr, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'spynet_path: no such file: nope\.pth'):
        basicsr(**NETWORK, spynet_path='nope.pth')
    (tmp_path / 'text.pth').write_text('not found')
    with pytest.raises(ValueError, match=r'spynet_path: .*text\.pth is not a checkpoint'):
        basicsr(**NETWORK, spynet_path=str(tmp_path / 'text.pth'))
    torch.save({'params': basicsr(**NETWORK).state_dict()}, tmp_path / 'whole.pth')
    with pytest.raises(ValueError, match=r'spynet_path: .*whole\.pth belongs to another network than SpyNet'):
        basicsr(**NETWORK, spynet_path=str(tmp_path / 'whole.pth'))


def model_options(folder, gt_size, scale=4, **network):
    from tests.test_basicsr_adapter import options

    net = {'type': 'BasicVSRPlusPlus', **NETWORK, **network}
    return options(
        folder, base_model='VideoRecurrentModel', scale=scale, network_g=net, train={'pixel_opt': PIXEL},
        datasets={'train': {'gt_size': gt_size}},
    )  # fmt: skip


def test_crops_below_64_px_of_lq_are_refused_by_perceptual_model(basicsr, tmp_path):
    from basicsr.models import build_model

    message = (
        r'datasets\.train\.gt_size must be at least 256: .* at least 64 px a side, gt_size 192 at scale 4 gives 48'
    )
    with pytest.raises(ValueError, match=message):
        build_model(model_options(tmp_path, 192))
    build_model(model_options(tmp_path, 256))
    same_size = {'scale': 1, 'is_low_res_input': False}
    with pytest.raises(ValueError, match=r'gt_size must be at least 256: .* at least 256 px .* at scale 1 gives 252'):
        build_model(model_options(tmp_path, 252, **same_size))
    build_model(model_options(tmp_path, 256, **same_size))
    lora = model_options(tmp_path, 192)
    lora['network_g'] = {'type': 'LoRANet', 'base': lora['network_g'], 'rank': 2}
    with pytest.raises(ValueError, match=message):
        build_model(lora)


# ----------------------------------------------------------------------------------------------------- mmagic


@pytest.fixture
def mmagic():
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from mmengine.registry import init_default_scope

    import nriqa_plugin.mmagic  # noqa: F401

    init_default_scope('mmagic')


@pytest.mark.parametrize('network', ['BasicVSRPlusPlusNet', 'BasicVSRNet'])
def test_a_bad_flow_file_is_named_in_mmagic_and_addresses_are_left_to_it(mmagic, network, tmp_path, monkeypatch):
    from mmagic.models.editors.basicvsr import basicvsr_net
    from mmagic.registry import MODELS

    asked = []
    monkeypatch.setattr(basicvsr_net, 'load_checkpoint', lambda model, name, **more: asked.append(name))
    with pytest.raises(FileNotFoundError, match='spynet_pretrained: no such file: nope'):
        MODELS.build({'type': network, **NETWORK, 'spynet_pretrained': 'nope'})
    (tmp_path / 'text.pth').write_text('not found')
    with pytest.raises(ValueError, match=r'spynet_pretrained: .*text\.pth is not a checkpoint'):
        MODELS.build({'type': network, **NETWORK, 'spynet_pretrained': str(tmp_path / 'text.pth')})
    assert asked == []
    torch.save({}, tmp_path / 'flow.pth')
    names = ['https://somewhere/spynet.pth', 'open-mmlab://spynet', str(tmp_path / 'flow.pth')]
    for name in names:
        MODELS.build({'type': network, **NETWORK, 'spynet_pretrained': name})
    assert asked == names


def runner(folder, crop):
    """A training of BasicVSR++ on clips of 256 px without validation, as the stock script builds it."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    from tests.test_mmagic_models import UNIT, plain

    load = [{'type': 'LoadImageFromFile', 'key': key, 'channel_order': 'rgb'} for key in ('gt', 'img')]
    pipeline = [
        {'type': 'ClipWindow', 'num_frames': 2}, *load, {'type': 'SetValues', 'dictionary': {'scale': 4}},
        *([crop] if crop else []), {'type': 'PackInputs'},
    ]  # fmt: skip
    data = {
        'type': 'ClipFolderDataset', 'data_root': str(folder), 'data_prefix': {'gt': 'GT', 'img': 'LQ'},
        'pipeline': pipeline, 'num_input_frames': 2, 'serialize_data': False,
    }  # fmt: skip
    network = {'type': 'BasicVSRPlusPlusNet', **NETWORK, 'spynet_pretrained': None}
    return Runner.from_cfg(Config({
        'default_scope': 'mmagic', 'experiment_name': folder.name, 'work_dir': str(folder / 'run'), 'log_level': 'ERROR',
        'model': plain(network, 'BasicVSR', data_preprocessor=UNIT, pixel_loss=PIXEL, train_cfg={'fix_iter': 0}),
        'train_dataloader': {'batch_size': 1, 'num_workers': 0, 'dataset': data,
                             'sampler': {'type': 'InfiniteSampler', 'shuffle': False}},
        'train_cfg': {'type': 'IterBasedTrainLoop', 'max_iters': 1},
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'Adam', 'lr': 0.01}},
        'default_hooks': {'perceptual': {'type': 'PerceptualHook'}}, 'randomness': {'seed': 3},
    }))  # fmt: skip


CROPS = {
    'PairedRandomCrop': ({'type': 'PairedRandomCrop', 'gt_patch_size': 192}, 256, 'gt_patch_size'),
    'ClipCrop': ({'type': 'ClipCrop', 'gt_size': 192}, 256, 'gt_size'),
    'none': (None, 248, None),
}


@pytest.mark.parametrize('crop', CROPS)
def test_crops_below_64_px_of_lq_are_refused_by_the_hook(mmagic, crop, tmp_path):
    transform, side, option = CROPS[crop]
    write_pair(tmp_path, 'a', 2, (side, side))
    got, cause = (48, f': {option} of {crop} in its pipeline is 192, write at least 256$') if option else (62, '$')
    with pytest.raises(ValueError, match=f'at least 64 px a side, the first batch has {got}{cause}'):
        runner(tmp_path, transform).train()


def test_crops_of_64_px_of_lq_train_with_the_hook(mmagic, tmp_path):
    write_pair(tmp_path, 'a', 2, (256, 256))
    run = runner(tmp_path, CROPS['PairedRandomCrop'][0] | {'gt_patch_size': 256})
    run.train()
    assert run.iter == 1


def test_the_hooks_size_check_looks_into_lora_and_asks_256_px_of_inputs_of_full_size(mmagic):
    from types import SimpleNamespace

    from mmagic.registry import MODELS

    from nriqa_plugin.mmagic.basicvsrpp import check_lq_size

    base = {'type': 'BasicVSRPlusPlusNet', **NETWORK, 'spynet_pretrained': None, 'is_low_res_input': False}
    loader = SimpleNamespace(dataset=[])
    for network in (base, {'type': 'LoRANet', 'base': base, 'rank': 2}):
        network = MODELS.build(network)
        check_lq_size(network, loader, {'inputs': [torch.zeros(2, 3, 256, 256)]})
        with pytest.raises(ValueError, match='at least 256 px a side, the first batch has 252'):
            check_lq_size(network, loader, {'inputs': [torch.zeros(2, 3, 252, 300)]})
    check_lq_size(torch.nn.Conv2d(3, 3, 1), loader, {'inputs': [torch.zeros(3, 8, 8)]})
