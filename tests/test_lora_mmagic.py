"""LoRANet in mmagic: its models train it, its hooks average it, its loaders read plain and own checkpoints."""

import copy
import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmagic.engine.hooks import ExponentialMovingAverageHook
from mmagic.registry import MODELS
from mmengine.hooks import EMAHook
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import get_state_dict, load_checkpoint, save_checkpoint

import nriqa_plugin.mmagic  # noqa: F401
from nriqa_plugin.lora import LoRANet
from tests.mmagic_runs import ENVIRONMENT, forget_after, logged, paired, pipeline, run, stock_script, write_images
from tests.test_lora import equal, merge, randomised
from tests.test_mmagic_models import FLOW, PAIR, RRDB, SR, UNET, batch, build, gan, plain
from tests.test_mmagic_train import CHECKPOINT, STEPS, swinir, weights

L1 = {'type': 'L1Loss'}
SWINIR = {
    'type': 'SwinIRNet', 'upscale': 4, 'in_chans': 3, 'img_size': 8, 'window_size': 4, 'depths': [2], 'embed_dim': 8,
    'num_heads': [2], 'upsampler': 'pixelshuffledirect',
}  # fmt: skip
# the model around the generator, the generator, side of the input, frames, changed by default, not changed
NETWORKS = {
    'EDSR': (plain, {**SR, 'type': 'EDSRNet'}, 8, None, 'body.0.conv1', 'conv_first'),
    'MSRResNet': (plain, SR, 8, None, 'trunk_net.0.conv2', 'conv_hr'),
    'SwinIR': (plain, SWINIR, 8, None, 'layers.0.residual_group.blocks.0.attn.qkv', 'conv_first'),
    'RRDB': (lambda g: gan('RealESRGAN', g, UNET, perceptual_loss=PAIR), RRDB, 16, None, 'body.0.rdb1.conv1', 'conv_last'),
    'BasicVSR': (lambda g: plain(g, 'BasicVSR'), {'type': 'BasicVSRNet', 'mid_channels': 4, 'num_blocks': 1, **FLOW}, 64, 2, 'fusion', 'conv_last'),
    'BasicVSR++': (lambda g: plain(g, 'BasicVSR'), {'type': 'BasicVSRPlusPlusNet', 'mid_channels': 16, 'num_blocks': 1, **FLOW}, 64, 2, 'backbone.forward_2.main.0', 'deform_align.forward_1.conv_offset.0'),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _mmagic_scope():
    """What ``default_scope = 'mmagic'`` does in a config."""
    init_default_scope('mmagic')


def lora(base=SR, **options):
    return {'type': 'LoRANet', 'base': copy.deepcopy(base), 'rank': 2, **options}


def edit_model(generator=None, **more):
    return build(plain(generator or lora(), **more), L1)


def frozen_copy(net):
    return {key: value.clone() for key, value in net.base_state().items()}


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=pytest.mark.slow if n == 'BasicVSR++' else []) for n in NETWORKS]
)
def test_mmagics_models_train_the_change_only(name):
    model_of, generator, side, frames, changed, left = NETWORKS[name]
    model, optim_wrapper = build(model_of(lora(generator)), L1)
    net = model.generator
    assert isinstance(net, LoRANet)
    assert changed in net.adapted
    assert left not in net.adapted
    before = frozen_copy(net)
    optimizer = (optim_wrapper['generator'] if name == 'RRDB' else optim_wrapper).optimizer
    wanted = list(net.parameters())
    assert {id(p) for group in optimizer.param_groups for p in group['params']} == {id(p) for p in wanted}
    start = [p.clone() for p in wanted]
    for _ in range(2):
        model.train_step(batch(side, frames), optim_wrapper)
    assert equal(net.base_state(), before)
    assert all(not torch.equal(old, new) for old, new in zip(start, wanted, strict=True))
    stock = MODELS.build(generator)
    stock.load_state_dict(net.merged_state_dict(), strict=True)
    x = torch.rand(1, *([frames] if frames else []), 3, side, side)
    with torch.no_grad():
        assert (stock.eval()(x) - net.eval()(x)).abs().max() < 1e-5


def test_fix_iter_of_basicvsr_reaches_the_change_only():
    generator = lora(NETWORKS['BasicVSR'][1], target=['*_resblocks.*', 'spynet.basic_module.0.*', '!*.4.conv'])
    model, optim_wrapper = build(plain(generator, 'BasicVSR', train_cfg={'fix_iter': 2}), L1)
    before = frozen_copy(model.generator)
    flow = [p for name, p in model.generator.named_parameters() if 'spynet' in name]
    start = [p.clone() for p in flow]
    data = batch(64, 2)
    for _ in range(2):
        model.train_step(data, optim_wrapper)
    assert flow
    assert all(torch.equal(old, new) for old, new in zip(start, flow, strict=True))
    for _ in range(2):
        model.train_step(data, optim_wrapper)
    assert not all(torch.equal(old, new) for old, new in zip(start, flow, strict=True))
    assert equal(model.generator.base_state(), before)


def test_the_hosts_initialisation_does_not_reach_the_base(tmp_path):
    """The runner calls ``init_weights`` of everything; the base's own ``init_cfg`` is obeyed when it is built."""
    torch.manual_seed(4)
    pretrained = MODELS.build({**SR, 'type': 'EDSRNet'}).state_dict()
    torch.save({'state_dict': {f'generator.{key}': value for key, value in pretrained.items()}}, tmp_path / 'sr.pth')
    edsr = {**SR, 'type': 'EDSRNet'}  # initialises nothing itself
    for generator in (lora(edsr, base_weights=str(tmp_path / 'sr.pth')), lora(RRDB)):
        model, _ = edit_model(generator)
        before = frozen_copy(model.generator)
        model.init_weights()
        assert equal(model.generator.base_state(), before)
    assert equal(edit_model(lora(edsr, base_weights=str(tmp_path / 'sr.pth')))[0].generator.base_state(), pretrained)
    # Nor does a pretrained init_cfg of the whole model go astray.
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'sr.pth')}
    model, _ = edit_model(lora(edsr), init_cfg=init_cfg)
    model.init_weights()
    assert equal(model.generator.base_state(), pretrained)


@pytest.mark.parametrize('update_buffers', [False, True])
def test_mmengines_moving_average_leaves_the_base_exact(update_buffers):
    model, optim_wrapper = edit_model()
    before = frozen_copy(model.generator)
    hook = EMAHook('ExponentialMovingAverage', momentum=0.3, update_buffers=update_buffers, begin_iter=2)
    runner = SimpleNamespace(model=model, iter=0, _resume=False)
    hook.before_run(runner)
    for runner.iter in range(6):
        model.train_step(batch(8), optim_wrapper)
        hook.after_train_iter(runner, runner.iter)
    average = hook.ema_model.module.generator
    assert equal(average.base_state(), before)
    mine, theirs = (dict(n.named_parameters()) for n in (model.generator, average))
    assert all(not torch.equal(mine[key], theirs[key]) for key in mine)
    checkpoint = {'state_dict': get_state_dict(model)}
    hook.before_save_checkpoint(runner, checkpoint)
    saved = {k: v.clone() for k, v in checkpoint['state_dict'].items() if k.startswith('generator.')}
    assert equal({k.removeprefix('generator.'): v for k, v in saved.items()}, average.state_dict())
    hook.before_val_epoch(runner)
    assert equal({k: v for k, v in model.state_dict().items() if k in saved}, saved)
    assert equal(model.generator.base_state(), before)


@pytest.mark.parametrize('save', ['full', 'adapter'])
def test_mmagics_moving_average_leaves_the_base_exact(tmp_path, save):
    torch.save(MODELS.build(RRDB).state_dict(), tmp_path / 'base.pth')
    generator = lora(RRDB, save=save, base_weights=str(tmp_path / 'base.pth'))
    model, optim_wrapper = build(gan('RealESRGAN', generator, UNET), L1)
    before = frozen_copy(model.generator)
    hook = ExponentialMovingAverageHook('generator_ema', interp_cfg={'momentum': 0.3}, interval=1, start_iter=1)
    runner = SimpleNamespace(model=model, iter=0)
    hook.before_run(runner)
    for runner.iter in range(4):
        model.train_step(batch(16), optim_wrapper)
        hook.after_train_iter(runner, runner.iter)
    assert equal(model.generator_ema.base_state(), before)
    mine, theirs = (dict(n.named_parameters()) for n in (model.generator, model.generator_ema))
    assert all(not torch.equal(mine[key], theirs[key]) for key in mine)


def test_mmagics_moving_average_takes_over_a_base_that_only_the_generator_has_loaded(tmp_path):
    torch.save(MODELS.build(RRDB).state_dict(), tmp_path / 'a_file_with_a_long_name.pth')
    generator = lora(RRDB, base_weights=str(tmp_path / 'a_file_with_a_long_name.pth'))
    model, optim_wrapper = build(gan('RealESRGAN', generator, UNET), L1)
    torch.manual_seed(8)
    other = MODELS.build(RRDB).state_dict()
    save_checkpoint(
        {'state_dict': {f'generator.{key}': value for key, value in other.items()}}, str(tmp_path / 'x.pth')
    )
    load_checkpoint(model, str(tmp_path / 'x.pth'), strict=False)
    assert equal(model.generator.base_state(), other)
    hook = ExponentialMovingAverageHook('generator_ema', interp_cfg={'momentum': 0.3}, interval=1)
    runner = SimpleNamespace(model=model, iter=0)
    for runner.iter in range(3):
        model.train_step(batch(16), optim_wrapper)
        hook.after_train_iter(runner, runner.iter)
    assert equal(model.generator_ema.base_state(), other)
    assert model.generator_ema.base_hash == model.generator.base_hash


@pytest.mark.parametrize('strict', [True, False])
def test_load_from_takes_plain_full_and_adapter_checkpoints(tmp_path, strict):
    torch.manual_seed(4)
    stock = MODELS.build({**plain(SR), 'pixel_loss': L1})
    torch.save(stock.generator.state_dict(), tmp_path / 'base.pth')
    save_checkpoint({'state_dict': get_state_dict(stock), 'meta': {}}, str(tmp_path / 'plain.pth'))
    model, _ = edit_model()
    load_checkpoint(model, str(tmp_path / 'plain.pth'), strict=strict)
    assert equal(model.generator.base_state(), stock.generator.state_dict())
    for save in ('full', 'adapter'):
        options = {'save': save, 'base_weights': str(tmp_path / 'base.pth')}
        trained, _ = edit_model(lora(**options))
        randomised(trained.generator)
        state = get_state_dict(trained)
        assert ('generator.conv_first.weight' in state) == (save == 'full')
        assert equal(state, trained.state_dict()), 'mmengine walks over modules in its own way'
        save_checkpoint({'state_dict': state, 'meta': {}}, str(tmp_path / f'{save}.pth'))
        other, _ = edit_model(lora(**options))
        load_checkpoint(other, str(tmp_path / f'{save}.pth'), strict=strict)
        assert equal(other.state_dict(), trained.state_dict())
        wrong, _ = edit_model(lora(rank=3))
        with pytest.raises(ValueError, match='LoRANet in generator: the LoRA weights have rank 2, the option is 3'):
            load_checkpoint(wrong, str(tmp_path / f'{save}.pth'), strict=strict)
        result = merge(tmp_path / f'{save}.pth', '--out', tmp_path / 'merged.pth')
        assert result.exit_code == 0, result.output
        load_checkpoint(stock, str(tmp_path / 'merged.pth'), strict=True)
        x = torch.rand(1, 3, 8, 8)
        with torch.no_grad():
            assert (stock.generator(x) - trained.generator(x)).abs().max() < 1e-5
    stranger, _ = edit_model()
    with pytest.raises(ValueError, match='LoRANet in generator: the adapter belongs to another base'):
        load_checkpoint(stranger, str(tmp_path / 'adapter.pth'), strict=strict)


def test_missing_and_unexpected_keys_are_reported_by_their_plain_names(tmp_path):
    model, _ = edit_model()
    state = {f'generator.{key}': value for key, value in MODELS.build(SR).state_dict().items()}
    del state['generator.conv_last.bias']
    save_checkpoint({'state_dict': {**state, 'generator.more': torch.ones(1)}}, str(tmp_path / 'x.pth'))
    with pytest.raises(RuntimeError) as error:
        load_checkpoint(model, str(tmp_path / 'x.pth'), strict=True)
    assert 'unexpected key in source state_dict: generator.more' in str(error.value)
    assert 'missing keys in source state_dict: generator.conv_last.bias' in str(error.value)
    assert 'parametrizations' not in str(error.value)


def test_distributed_training_leaves_the_base_exact(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1)
    try:
        model, _ = edit_model()
        before = frozen_copy(model.generator)
        start = [p.clone() for p in model.generator.parameters()]
        wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
        optim_wrapper = OptimWrapper(torch.optim.Adam(wrapped.parameters(), 1e-2))
        for _ in range(2):
            wrapped.train_step(batch(8), optim_wrapper)
        assert equal(model.generator.base_state(), before)
        assert not any(torch.equal(old, new) for old, new in zip(start, model.generator.parameters(), strict=True))
    finally:
        torch.distributed.destroy_process_group()


def test_a_network_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="LoRANet.base type 'MSRResNett'. Did you mean 'MSRResNet'"):
        MODELS.build(lora({'type': 'MSRResNett'}))
    with pytest.raises(TypeError, match='must be the config of a network, with its type'):
        MODELS.build(lora('MSRResNet'))


@pytest.mark.slow
@pytest.mark.parametrize('save', ['full', 'adapter'])
def test_a_killed_run_of_the_stock_script_resumes_to_the_same_losses_and_weights(tmp_path, save):
    """And its merged checkpoint is one that the stock test script reads."""
    write_images(tmp_path)
    base = {**SWINIR, 'drop_rate': 0.2, 'drop_path_rate': 0.3}
    torch.save(MODELS.build(base).state_dict(), tmp_path / 'base.pth')
    generator = lora(base, save=save, dropout=0.1, base_weights=str(tmp_path / 'base.pth'), _delete_=True)
    terms = [{'type': 'L1Loss', 'weight': 1.0}, {'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 0.5}]
    model = {'generator': generator, 'pixel_loss': {'terms': terms}}
    whole = run('train', tmp_path, swinir(tmp_path, 'whole', model=model))
    assert whole.returncode == 0, whole.text[-4000:]
    assert '10 layers of SwinIRNet, rank 2' in whole.text
    steps, validations = logged(tmp_path, 'whole')
    assert sorted(steps) == list(range(1, STEPS + 1))

    config = swinir(tmp_path, 'killed', model=model)
    command = [sys.executable, stock_script('train'), str(config)]
    with open(tmp_path / 'killed.log', 'w') as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=log, stderr=log)
        marker, deadline = tmp_path / 'killed' / 'last_checkpoint', time.monotonic() + 1500
        while not marker.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / 'killed' / f'iter_{CHECKPOINT}.pth').is_file(), (tmp_path / 'killed.log').read_text()[-4000:]
    forget_after(tmp_path, 'killed', CHECKPOINT)  # the run may have been faster than the signal
    resumed = run('train', tmp_path, config, '--resume')
    assert resumed.returncode == 0, resumed.text[-4000:]
    again, validations_again = logged(tmp_path, 'killed')
    assert again == {i: steps[i] for i in range(CHECKPOINT + 1, STEPS + 1)}
    assert validations_again == {STEPS: validations[STEPS]}
    one, other = (weights(tmp_path, name, STEPS)['state_dict'] for name in ('whole', 'killed'))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert 'generator.lora_info' in one
    assert ('generator.conv_first.weight' in one) == (save == 'full')

    result = merge(tmp_path / 'whole' / f'iter_{STEPS}.pth', '--out', tmp_path / 'merged.pth')
    assert result.exit_code == 0, result.output
    dataset = {'type': 'BasicImageDataset', **paired(tmp_path), 'pipeline': pipeline()}
    config = swinir(
        tmp_path,
        'plain',
        model={**model, 'generator': {**base, '_delete_': True}},
        test_dataloader=[
            {'num_workers': 0, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}, 'dataset': dataset}
        ],
        test_evaluator=[{'type': 'Evaluator', 'metrics': [{'type': 'PSNR', 'prefix': 'x'}]}],
        test_cfg={'type': 'MultiTestLoop'},
    )
    tested = run('test', tmp_path, config, 'merged.pth', '--out', 'scores.json')
    assert tested.returncode == 0, tested.text[-4000:]
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert scores['x/PSNR'] == pytest.approx(validations[STEPS]['PSNR'], abs=0.01)
