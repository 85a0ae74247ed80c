"""LoRANet in BasicSR (in mmagic: test_lora_mmagic.py): its models train, average, save, load and resume it."""

import copy
import logging
import signal
import subprocess
import time

import pytest
import torch

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')

from basicsr.archs import build_network
from basicsr.models import build_model

import nriqa_plugin.basicsr  # noqa: F401
from nriqa_plugin.basicsr import cpu
from nriqa_plugin.lora import LoRANet
from tests.test_basicsr_adapter import SMALL_SR, options, pair
from tests.test_basicsr_train import CHECKPOINT, ENVIRONMENT, NETWORK, OURS, STEPS, STOCK, losses, run, write_options
from tests.test_lora import equal, merge, randomised

SWINIR = {
    'type': 'SwinIR', 'upscale': 4, 'img_size': 8, 'window_size': 4, 'embed_dim': 8, 'depths': [2], 'num_heads': [2],
    'mlp_ratio': 2, 'upsampler': 'pixelshuffledirect', 'drop_path_rate': 0.3,
}  # fmt: skip
CHANNELS = {'num_in_ch': 3, 'num_out_ch': 3}
# network, input, layers that are changed by default, and one that is not
NETWORKS = {
    'SwinIR': (SWINIR, (2, 3, 8, 8), 2 * 4 + 2, 'layers.0.residual_group.blocks.1.mlp.fc2', 'conv_first'),
    'RRDBNet': ({'type': 'RRDBNet', **CHANNELS, 'num_feat': 8, 'num_block': 1, 'num_grow_ch': 4}, (2, 3, 8, 8), 16, 'body.0.rdb3.conv5', 'conv_hr'),
    'EDSR': ({'type': 'EDSR', **CHANNELS, 'num_feat': 8, 'num_block': 2}, (2, 3, 8, 8), 5, 'conv_after_body', 'conv_first'),
    'MSRResNet': ({**SMALL_SR, 'num_feat': 8, 'num_block': 2}, (2, 3, 8, 8), 4, 'body.1.conv2', 'upconv1'),
    'BasicVSR': ({'type': 'BasicVSR', 'num_feat': 8, 'num_block': 1}, (1, 2, 3, 64, 64), 7, 'fusion', 'spynet.basic_module.0.basic_module.0'),
    'RLFN': ({'type': 'RLFN', 'feature_channels': 8}, (2, 3, 16, 16), 6 * 9 + 1, 'block_3.esa.conv_f', 'conv_1'),
}  # fmt: skip
LORA = {'type': 'LoRANet', 'rank': 2, 'base': {**SMALL_SR, 'num_feat': 8}}
PLAIN = LORA['base']
SGD = {'optim_g': {'type': 'Adam', 'lr': 0.02}, 'ema_decay': 0.9}


def frozen_copy(net):
    return {key: value.clone() for key, value in net.base_state().items()}


def plain_weights(folder, name='plain.pth', seed=3, network=PLAIN, **more):
    """A plain checkpoint of BasicSR and its state dict."""
    torch.manual_seed(seed)
    state = build_network(network).state_dict()
    torch.save({'params': state, **more}, folder / name)
    return folder / name, state


def lora_options(tmp_path, model_type='SRModel', network=LORA, path=None, train=None, **more):
    opt = options(
        tmp_path, model_type, terms=[{'type': 'L1Loss', 'weight': 1.0}], train={**SGD, **(train or {})}, **more
    )
    opt['path'] |= path or {}
    return {**opt, 'network_g': copy.deepcopy(network)}


def steps(model, data, count=3, start=1, average=True):
    for iteration in range(start, start + count):
        model.feed_data({**data})
        model.optimize_parameters(iteration)
    return model.get_current_log()


@pytest.mark.parametrize('name', NETWORKS)
def test_basicsrs_networks_start_as_their_base_and_only_their_body_changes(name):
    network, shape, count, changed, left = NETWORKS[name]
    net = build_network({'type': 'LoRANet', 'base': network, 'rank': 2}).eval()
    base = build_network(network).eval()
    base.load_state_dict(net.base_state())
    x = torch.rand(shape)
    with torch.no_grad():
        assert torch.equal(net(x), base(x))
    assert len(net.adapted) == count
    assert changed in net.adapted
    assert left not in net.adapted
    randomised(net)
    with torch.no_grad():
        got = net(x)
        assert not torch.allclose(got, base(x))
        base.load_state_dict(net.merged_state_dict(), strict=True)
        assert (base(x) - got).abs().max() < 1e-5 * max(1, got.abs().max().item())


def test_a_network_that_does_not_exist_and_options_that_are_none_are_refused():
    for base, error, message in (
        ({'type': 'SwinIr'}, ValueError, "LoRANet.base.type 'SwinIr'. Did you mean 'SwinIR'"),
        ('SwinIR', TypeError, "must be the options of a network, with its type, got 'SwinIR'"),
        ({'upscale': 4}, TypeError, 'with its type'),
    ):
        with pytest.raises(error, match=message):
            build_network({'type': 'LoRANet', 'base': base})
    with pytest.raises(ValueError, match="unknown option of LoRANet: 'ranks'"):
        build_network({**LORA, 'ranks': 2})


@pytest.mark.parametrize('model_type', ['SRModel', 'PerceptualModel'])
def test_basicsr_trains_averages_and_saves_the_change_and_keeps_the_base(tmp_path, model_type):
    model = build_model(lora_options(tmp_path, model_type))
    before = frozen_copy(model.net_g)
    assert equal(model.net_g.state_dict(), model.net_g_ema.state_dict()), 'also without pretrained weights'
    inside = {id(p) for group in model.optimizer_g.param_groups for p in group['params']}
    assert inside == {id(p) for p in model.net_g.parameters()}
    assert len(inside) == 2 * len(model.net_g.adapted)
    steps(model, pair(), 4)
    assert equal(model.net_g.base_state(), before)
    assert equal(model.net_g_ema.base_state(), before)
    name = next(iter(model.net_g.adapted))
    key = f'{name}.lora_B'
    assert 0 < model.net_g_ema.state_dict()[key].norm() < model.net_g.state_dict()[key].norm()
    model.save(0, 4)
    saved = torch.load(tmp_path / 'run' / 'models' / 'net_g_4.pth', weights_only=True)
    assert equal(saved['params'], model.net_g.state_dict())
    assert equal(saved['params_ema'], model.net_g_ema.state_dict())


@pytest.mark.parametrize('key', ['params', 'params_ema'])
def test_basicsr_loads_plain_weights_strictly_by_their_own_keys(tmp_path, key):
    torch.manual_seed(9)
    file, _ = plain_weights(tmp_path, params_ema=build_network(PLAIN).state_dict())
    expected = torch.load(file, weights_only=True)[key]
    path = {'pretrain_network_g': str(file), 'param_key_g': key, 'strict_load_g': True}
    model = build_model(lora_options(tmp_path, path=path, train={'ema_decay': 0}))
    assert equal(model.net_g.base_state(), expected)
    stock = build_network(PLAIN)
    stock.load_state_dict(expected)
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(model.net_g(x), stock(x))
    other = {**PLAIN, 'num_feat': 4}
    with pytest.raises(RuntimeError, match=r'size mismatch for conv_first.weight: \(8, 3, 3, 3\) in the state dict'):
        build_model(lora_options(tmp_path, network={**LORA, 'base': other}, path=path))


def test_what_a_plain_file_or_an_adapter_rightly_lacks_is_no_warning_and_what_else_is_missing_is(tmp_path, caplog):
    """The host warns of every key that differs, in the run's log."""
    file, state = plain_weights(tmp_path)
    network = {**LORA, 'save': 'adapter', 'base_weights': str(file)}
    torch.save({'params': build_network(network).state_dict()}, tmp_path / 'adapter.pth')
    torch.save({'params': {**state, 'foreign': torch.zeros(1)}}, tmp_path / 'other.pth')
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    try:
        for name, net, strict, lines in (
            ('plain.pth', LORA, True, 0),
            ('adapter.pth', network | {'save': 'full'}, True, 0),
            ('other.pth', LORA, False, 3),  # two headings and the foreign key
        ):
            caplog.clear()
            path = {'pretrain_network_g': str(tmp_path / name), 'param_key_g': 'params', 'strict_load_g': strict}
            model = build_model(lora_options(tmp_path, 'PerceptualModel', net, path=path, train={'ema_decay': 0}))
            texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
            assert sum('net' in text or 'lora' in text or 'foreign' in text for text in texts) == lines, texts
            assert equal(model.net_g.base_state(), state)
    finally:
        logger.removeHandler(caplog.handler)


def test_a_moving_average_on_another_base_is_refused(tmp_path):
    torch.manual_seed(9)
    file, _ = plain_weights(tmp_path, params_ema=build_network(PLAIN).state_dict())
    path = {'pretrain_network_g': str(file), 'param_key_g': 'params'}
    with pytest.raises(ValueError, match='different bases: .* param_key_g: params_ema'):
        build_model(lora_options(tmp_path, 'PerceptualModel', path=path))
    build_model(lora_options(tmp_path, 'PerceptualModel', path={**path, 'param_key_g': 'params_ema'}))
    build_model(lora_options(tmp_path, 'PerceptualModel', network={**LORA, 'base_weights': str(file)}))


VIDEO_LORA = {
    'type': 'LoRANet', 'rank': 2, 'base': {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1},
    'target': ['*_trunk.*', 'spynet.basic_module.0.*', '!*.8'],
}  # fmt: skip


@pytest.mark.parametrize('spynet', [True, False])
def test_fix_flow_and_its_end_reach_the_change_only(tmp_path, spynet):
    """``fix_flow`` freezes by name at step 1 and frees all at its end; the flow's group may be empty."""
    network = {**VIDEO_LORA, 'target': VIDEO_LORA['target'] if spynet else '*_trunk.*'}
    train = {'fix_flow': 3, 'flow_lr_mul': 0.5}
    model = build_model(lora_options(tmp_path, 'VideoRecurrentModel', network, train=train))
    before = frozen_copy(model.net_g)
    flow = [p for name, p in model.net_g.named_parameters() if 'spynet' in name]
    assert bool(flow) == spynet
    start = [p.clone() for p in flow]
    assert [len(group['params']) for group in model.optimizer_g.param_groups] == [
        len(list(model.net_g.parameters())) - len(flow), len(flow)]  # fmt: skip
    data = pair(batch=1, side=64, frames=2)
    steps(model, data, 2)
    assert all(torch.equal(old, new) for old, new in zip(start, flow, strict=True))
    steps(model, data, 2, start=3)
    assert all(p.requires_grad for p in flow)
    assert equal(model.net_g.base_state(), before)
    assert equal(model.net_g_ema.base_state(), before)
    if spynet:
        assert not any(torch.equal(old, new) for old, new in zip(start[1::2], flow[1::2], strict=True))


def test_edvrs_flag_setting_reaches_the_change_only(tmp_path):
    base = {
        'type': 'EDVR',
        'num_feat': 8,
        'num_frame': 3,
        'deformable_groups': 2,
        'num_extract_block': 1,
        'num_reconstruct_block': 1,
    }
    network = {'type': 'LoRANet', 'base': base, 'rank': 2}
    model = build_model(lora_options(tmp_path, 'EDVRModel', network, train={'tsa_iter': 3, 'dcn_lr_mul': 0.5}))
    before = frozen_copy(model.net_g)
    fusion = [p for name, p in model.net_g.named_parameters() if 'fusion' in name]
    data = pair(batch=1, side=16, frames=3)
    data['gt'] = data['gt'][:, 1]
    steps(model, data, 2)
    trained = {id(p) for p in model.net_g.parameters() if p.grad is not None and p.grad.any()}
    assert trained
    assert trained <= {id(p) for p in fusion}
    steps(model, data, 2, start=3)
    assert all(p.requires_grad for p in model.net_g.parameters())
    assert equal(model.net_g.base_state(), before)
    assert equal(model.net_g_ema.base_state(), before)


def test_swinir_model_finds_the_window_size_of_the_base(tmp_path):
    """It pads to whole windows; the stock class alone looks for the size among LoRANet's own options."""
    network = {'type': 'LoRANet', 'base': SWINIR, 'rank': 2}
    model = build_model(lora_options(tmp_path, 'PerceptualModel', network, base_model='SwinIRModel'))
    model.feed_data(pair(batch=1, side=10))
    model.test()
    assert model.output.shape == (1, 3, 40, 40)
    with pytest.raises(KeyError):
        model.opt['network_g']['no_such_key']


@pytest.mark.parametrize('save', ['full', 'adapter'])
def test_basicsr_resumes_exactly_and_the_merged_checkpoint_is_plain(tmp_path, save):
    file, _ = plain_weights(tmp_path)
    network = {**LORA, 'save': save, 'base_weights': str(file), 'dropout': 0.2}
    data = pair()

    def build(**path):
        torch.manual_seed(5)
        return build_model(lora_options(tmp_path, 'PerceptualModel', network, path=path))

    whole = build()
    steps(whole, data, 2)
    whole.save(0, 2)
    log = [steps(whole, data, 1, start=i) for i in (3, 4)]
    models = tmp_path / 'run' / 'models'
    saved = torch.load(models / 'net_g_2.pth', weights_only=True)
    assert ('conv_first.weight' in saved['params']) == (save == 'full')

    resumed = build(pretrain_network_g=str(models / 'net_g_2.pth'))
    with cpu.cuda_calls_stay_on_cpu(True):
        resumed.resume_training(torch.load(tmp_path / 'run' / 'training_states' / '2.state', weights_only=True))
    assert [steps(resumed, data, 1, start=i) for i in (3, 4)] == log
    for name in ('net_g', 'net_g_ema'):
        assert equal(getattr(resumed, name).state_dict(), getattr(whole, name).state_dict())

    assert merge(models / 'net_g_2.pth', '--out', tmp_path / 'merged.pth').exit_code == 0
    path = {'pretrain_network_g': str(tmp_path / 'merged.pth'), 'param_key_g': 'params_ema', 'strict_load_g': True}
    stock = build_model(lora_options(tmp_path, network=PLAIN, path=path, train={'ema_decay': 0}))
    tested = build_network(network)
    tested.load_state_dict(saved['params_ema'])
    stock.net_g.eval()
    with torch.no_grad():
        assert (stock.net_g(data['lq']) - tested.eval()(data['lq'])).abs().max() < 1e-5


def test_an_adapter_is_refused_by_a_training_with_another_base(tmp_path):
    file, _ = plain_weights(tmp_path)
    other, _ = plain_weights(tmp_path, 'other.pth', seed=4)
    net = build_network({**LORA, 'save': 'adapter', 'base_weights': str(file)})
    torch.save({'params': net.state_dict()}, tmp_path / 'adapter.pth')
    network = {**LORA, 'save': 'adapter', 'base_weights': str(other)}
    path = {'pretrain_network_g': str(tmp_path / 'adapter.pth'), 'strict_load_g': False}
    with pytest.raises(
        ValueError, match=r'belongs to another base: to \w{12} from the file .*plain\.pth.* from .*other\.pth'
    ):
        build_model(lora_options(tmp_path, network=network, path=path))
    path['pretrain_network_g'] = str(file)
    with pytest.raises(ValueError, match='save: adapter writes no base'):
        build_model(lora_options(tmp_path, network=network, path=path))


def test_the_wrapper_is_the_cores():
    assert isinstance(build_network(LORA), LoRANet)


@pytest.mark.slow
@pytest.mark.parametrize('save', ['full', 'adapter'])
def test_a_killed_run_of_the_stock_script_resumes_to_the_same_losses_and_weights(tmp_path, save):
    network = {'type': 'LoRANet', 'rank': 2, 'dropout': 0.1, 'base': {'type': 'SwinIR', **NETWORK}}
    if save == 'adapter':
        network |= {'save': save, 'base_weights': str(tmp_path / 'bare.pth')}
    whole = run(STOCK, tmp_path, write_options(tmp_path, 'whole', network_g=network))
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert f'{2 * 4 + 2} layers of SwinIR, rank 2' in whole.stdout + whole.stderr
    expected = losses(whole.stderr + whole.stdout)
    assert sorted(expected) == list(range(1, STEPS + 1))

    killed, log = write_options(tmp_path, 'killed', network_g=network), tmp_path / 'killed.log'
    states = tmp_path / 'experiments' / 'killed' / 'training_states'
    with open(log, 'w') as file:
        process = subprocess.Popen(
            [*OURS, '-opt', str(killed)], cwd=tmp_path, env=ENVIRONMENT, stdout=file, stderr=file
        )
        deadline = time.monotonic() + 1500
        while CHECKPOINT + 1 not in losses(log.read_text()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (states / f'{STEPS}.state').unlink(missing_ok=True)  # the run was faster than the signal
    assert (states / f'{CHECKPOINT}.state').is_file(), log.read_text()[-4000:]
    resumed = run(OURS, tmp_path, killed, '--auto_resume')
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert losses(resumed.stderr + resumed.stdout) == {i: expected[i] for i in range(CHECKPOINT + 1, STEPS + 1)}
    one, other = (
        torch.load(tmp_path / 'experiments' / name / 'models' / 'net_g_latest.pth', weights_only=True)
        for name in ('whole', 'killed')
    )
    for key in ('params', 'params_ema'):
        assert equal(one[key], other[key])
        assert ('conv_first.weight' in one[key]) == (save == 'full')
