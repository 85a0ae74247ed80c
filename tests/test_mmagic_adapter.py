"""The mmagic adapter inside the process: registries, hooks in a real runner, metrics, gains, and what is refused."""

import copy
import itertools

import numpy as np
import pytest
import torch

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmagic.registry import HOOKS, METRICS, MODELS
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from nriqa_plugin.evaluation.relative_gain import relative_gain
from nriqa_plugin.evaluation.scores import read_scores, score_row, write_scores
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.losses import LossSum as CoreLossSum
from nriqa_plugin.mdf import Discriminator, save_mdf
from nriqa_plugin.mmagic import metrics, registration, resume
from tests.clip_files import SMALL_RBPN, SMALL_VRT, write_clip
from tests.judges import Brightness, Darkness, TinyNet
from tests.mmagic_runs import paired, pipeline, write_images
from tests.multigt_data import write_sets
from tests.test_mmagic_models import PAIR, SR, TERMS, UNET, UNIT, VANILLA, batch, build, plain
from tests.test_vgg_loss import saved_backbone

JUDGE = 'tests.judges:TinyNet'
JUDGES = ['tests.judges:Brightness', 'tests.judges:Darkness', 'tests.judges:Distance']
numbers = itertools.count()


@pytest.fixture(autouse=True)
def _mmagic_scope():
    init_default_scope('mmagic')


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'), side=48)


def runner(
    work_dir,
    images,
    steps=2,
    val_interval=1,
    judges=JUDGES,
    gain='RelativeGain',
    order='rgb',
    model=None,
    hooks=(),
    **more,
):
    """mmengine's runner for a tiny network, as the stock script builds it from a config."""
    data = {'type': 'BasicImageDataset', **paired(images)}
    loaders = {
        'train_dataloader': {'batch_size': 2, 'num_workers': 0, 'sampler': {'type': 'InfiniteSampler', 'shuffle': False}, 'dataset': {**data, 'pipeline': pipeline(order)}},
        'val_dataloader': {'batch_size': 1, 'num_workers': 0, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}, 'dataset': {**data, 'pipeline': pipeline(order)}},
    }  # fmt: skip
    config = {
        'default_scope': 'mmagic', 'experiment_name': f'run{next(numbers)}', 'work_dir': str(work_dir), **loaders,
        'model': model or plain(SR, data_preprocessor=UNIT, pixel_loss={'type': 'LossSum', 'terms': TERMS, 'grad_norms': True}),
        'train_cfg': {'type': 'IterBasedTrainLoop', 'max_iters': steps, 'val_interval': val_interval},
        'val_cfg': {'type': 'MultiValLoop'},
        'val_evaluator': {'type': 'Evaluator', 'metrics': [{'type': 'PSNR'}, {'type': gain, 'judges': judges}]},
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'Adam', 'lr': 0.01}},
        'default_hooks': {
            'perceptual': {'type': 'PerceptualHook'}, 'gain': {'type': 'RelativeGainHook'},
            'logger': {'type': 'LoggerHook', 'interval': 1, 'log_metric_by_epoch': False},
            'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False, 'save_best': 'gain/darkness', 'rule': 'greater'},
        },
        'log_processor': {'by_epoch': False}, 'randomness': {'seed': 3}, 'log_level': 'ERROR', 'custom_hooks': list(hooks),
    }  # fmt: skip
    built = Config(config)
    built.merge_from_dict(more)
    run = Runner.from_cfg(built)
    run.register_hook(RemembersStart(), 'HIGHEST')
    return run


class RemembersStart(Hook):
    """Keeps the weights that training starts from, which mmengine draws only then, as ``runner.start``."""

    def before_train(self, runner):
        runner.start = copy.deepcopy(runner.model.generator.state_dict())


def moved(runner):
    """Whether any weight is another than at the start."""
    state = runner.model.generator.state_dict()
    return any(not torch.equal(runner.start[key], value) for key, value in state.items())


def scalar(runner, name):
    """Everything that the message hub knows of one scalar."""
    return runner.message_hub.get_scalar(name).data[0].tolist()


# --------------------------------------------------------------------------------------------- registries


def test_every_registered_name_builds_from_a_plain_config_dict(tmp_path):
    backbone = {'backbone': 'squeezenet1_1', 'weights': str(saved_backbone(tmp_path, 'squeezenet1_1')[1])}
    save_mdf(tmp_path / 'mdf.pth', [Discriminator(4)], {'range': [0, 1]})
    candidates = str(write_sets(tmp_path / 'sets'))
    write_clip(tmp_path / 'clips' / 'a', frames=3)
    np.save(tmp_path / 'digits.npy', np.zeros((2, 20, 64, 64), np.uint8))
    options = {
        'LossSum': {'terms': TERMS},
        'LossPair': {'terms': TERMS},
        'MDFLoss': {'weights': str(tmp_path / 'mdf.pth')},
        'NRIQALoss': {'metric': JUDGE},
        'FRIQALoss': {'metric': 'tests.judges:Distance'},
        'VGGLoss': {'layers': {'fire2': 1.0}, **backbone},
        'ColourLoss': {'factor': 4},
        'TVLoss': {},
        'LRConsistencyLoss': {'downscaling': 'area'},
        'RLFN': {'feature_channels': 8},
        'DnCNN': {'nc': 4, 'nb': 3},
        'RBPN': SMALL_RBPN,
        'VRT': SMALL_VRT,
        'SimpleVSR': {},
        'SRGANDiscriminator': {},
        'ClipFolderDataset': {'data_root': str(tmp_path), 'data_prefix': {'gt': 'clips'}, 'num_input_frames': 3},
        'ClipWindow': {'num_frames': 3},
        'ClipCrop': {'gt_size': 32},
        'MovingDigitsDataset': {'file': str(tmp_path / 'digits.npy'), 'pipeline': []},
        'LossMetric': {'terms': TERMS},
        'Degrade': {'degradation': 'jpeg'},
        'ExponentialToLR': {'optimizer': torch.optim.SGD([torch.zeros(1)], 0.1), 'eta_min': 1e-4, 'end': 9},
        'LoRANet': {'base': {'type': 'RLFN', 'feature_channels': 8}, 'rank': 2},
        'IQAMetric': {'judges': JUDGES},
        'RelativeGain': {'judges': JUDGES},
        'PerceptualHook': {},
        'RelativeGainHook': {},
        'ArtifactAlarmHook': {'judge': 'musiq'},
        'AnchorHook': {},
        'SeveralGTsMetric': {'judges': JUDGES, 'gts': candidates},
        'AMOSampler': {'method': 'amo', 'metric': JUDGE},
        'MultiGTPreprocessor': {'selection': {'type': 'AMOSampler', 'method': 'random'}},
        'MultiGTDataset': {'data_root': candidates, 'pipeline': []},
        'LoadGroundTruths': {'channel_order': 'rgb'},
        'MultiGTCrop': {'gt_patch_size': 32},
        'OriginalToLQ': {},
        'PackGroundTruths': {},
    }
    listed = {thing.__name__: (registry, thing) for registry, things in registration.REGISTERED for thing in things}
    assert options.keys() == listed.keys()
    for name, (registry, thing) in listed.items():
        built = registry.build(ConfigDict(type=name, **options[name]))
        assert type(built) is thing
        if registry is MODELS and name.endswith(('Loss', 'LossSum', 'LossPair')):
            if name == 'LRConsistencyLoss':
                built.set_lq(torch.rand(1, 3, 8, 8))
            value = built(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
            assert torch.isfinite(value[0] if name == 'LossPair' else value)


def test_registering_twice_does_nothing_and_a_foreign_name_is_refused(monkeypatch):
    sizes = [len(registry.module_dict) for registry in (MODELS, METRICS, HOOKS)]
    registration.register_all()
    assert sizes == [len(registry.module_dict) for registry in (MODELS, METRICS, HOOKS)]
    monkeypatch.setitem(MODELS.module_dict, 'LossSum', type('LossSum', (), {'__module__': 'somebody.else'}))
    with pytest.raises(ValueError, match=r'LossSum is already registered in mmagic by somebody\.else'):
        registration.register_all()


def test_terms_find_mmagics_own_losses_by_registered_name():
    loss = MODELS.build({'type': 'LossSum', 'terms': [{'type': 'CharbonnierLoss', 'weight': 2.0, 'eps': 1e-6}]})
    pred, target = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    host = MODELS.build({'type': 'CharbonnierLoss', 'eps': 1e-6})
    assert type(loss.terms[0].loss) is type(host)
    assert loss(pred, target).item() == pytest.approx(2 * host(pred, target).item())


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'type': 'LossSum', 'terms': [{'type': 'CharbonierLoss', 'weight': 1.0}]}, "'CharbonierLoss'. Did you mean 'CharbonnierLoss'"),
        ({'type': 'LossSum', 'terms': [{'type': 'MaskedTVLoss', 'weight': 1.0}]}, "second argument is 'mask'"),
        ({'type': 'LossSum', 'terms': TERMS, 'loss_weight': 1.0, 'reduction': 'mean'}, r"unknown option of LossSum: 'loss_weight'.*config in _base_.*dict\(_delete_=True, type='LossSum'"),
        ({'type': 'LossPair', 'terms': TERMS, 'vgg_type': 'vgg19'}, r"unknown option of LossPair: 'vgg_type'.*_delete_=True"),
        ({'type': 'NRIQALoss', 'metric': JUDGE, 'reduction': 'mean'}, r"unknown option of NRIQALoss: 'reduction'.*_delete_=True"),
        ({'type': 'LossSum', 'terms': []}, 'terms must be a non-empty'),
        ({'type': 'LossSum', 'terms': [*TERMS, TERMS[1]]}, "two terms are named 'tinynet'"),
        ({'type': 'LossSum', 'terms': [{'type': 'NRIQALoss', 'metric': 'niqee', 'weight': 1.0}]}, "'niqee'. Did you mean 'niqe'"),
    ],
)  # fmt: skip
def test_wrong_losses_are_refused_with_the_fix(config, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(config)


# ----------------------------------------------------------------------------------- in mmengine's training


def test_terms_norms_and_gains_reach_the_message_hub_and_the_best_checkpoint_is_by_gain(tmp_path, images):
    run = runner(tmp_path, images)
    run.train()
    l1, tiny, total = (scalar(run, f'train/{name}') for name in ('loss_l1', 'loss_tinynet', 'loss'))
    assert total == pytest.approx([a + 0.1 * b for a, b in zip(l1, tiny, strict=True)], rel=1e-5)
    assert all(norm > 0 for norm in scalar(run, 'train/grad_l1') + scalar(run, 'train/grad_tinynet'))
    assert 'train/dropped_l1' not in run.message_hub.log_scalars
    baseline = read_scores(tmp_path / 'baseline.csv')
    assert [row.image for row in baseline.of('darkness')] == ['one.png', 'two.png']
    for name, up in (('brightness', True), ('darkness', False), ('distance', False)):
        expected = [relative_gain(v, baseline.mean(name), up) for v in scalar(run, f'val/{name}')]
        assert scalar(run, f'val/gain/{name}') == pytest.approx(expected, rel=1e-6)
    assert len(scalar(run, 'val/PSNR')) == 2  # the baseline is not logged as a validation
    best = 1 + int(np.argmax(scalar(run, 'val/gain/darkness')))
    assert [file.name for file in tmp_path.glob('best*')] == [f'best_gain_darkness_iter_{best}.pth']


def test_the_baseline_is_the_start_weights_and_leaves_no_trace(tmp_path, images):
    plain_run = runner(tmp_path / 'plain', images, gain='IQAMetric', default_hooks={'checkpoint': {'save_best': None}})
    plain_run.train()
    run = runner(tmp_path / 'gain', images)
    run.train()
    for name in ('train/loss_l1', 'train/loss_tinynet', 'val/darkness', 'val/PSNR'):
        assert scalar(run, name) == scalar(plain_run, name)
    run.model.generator.load_state_dict(run.start)
    gain = run.val_loop.evaluators[0].metrics[1]
    lq = next(iter(run.val_dataloader))
    with torch.no_grad():
        sample = run.model.eval().val_step(lq)[0]
    image = sample.output.pred_img.round().clamp(0, 255).flip(0)[None] / 255
    scores = {row.image: row.score for row in read_scores(tmp_path / 'gain' / 'baseline.csv').of('darkness')}
    assert scores[metrics.image_name(sample.metainfo)] == pytest.approx(gain.judges['darkness'](image).item(), abs=1e-6)


def test_a_gan_model_gets_guards_for_both_optimizers_and_names_never_clash(tmp_path, images):
    terms = [{**TERMS[0], 'name': 'pix'}, TERMS[1]]
    model = {
        'type': 'SRGAN', 'generator': SR, 'discriminator': UNET, 'gan_loss': VANILLA, 'data_preprocessor': UNIT,
        'pixel_loss': {'type': 'LossSum', 'terms': terms}, 'perceptual_loss': PAIR,
    }  # fmt: skip
    parts = {
        part: {'type': 'OptimWrapper', 'optimizer': {'type': 'Adam', 'lr': 1e-3}}
        for part in ('generator', 'discriminator')
    }
    wrapper = {'_delete_': True, 'constructor': 'MultiOptimWrapperConstructor', **parts}
    run = runner(tmp_path, images, steps=1, model=model, optim_wrapper=wrapper)
    run.train()
    (pix,), (total,), (tiny,) = (scalar(run, f'train/{k}') for k in ('loss_pixel_loss_pix', 'loss_pix', 'loss_tinynet'))
    assert total == pytest.approx(pix + 0.1 * tiny, rel=1e-5)
    assert scalar(run, 'train/loss_perceptual') == pytest.approx(
        [0.5 * scalar(run, 'train/loss_distance')[0]], rel=1e-5
    )
    hook = next(hook for hook in run.hooks if type(hook).__name__ == 'PerceptualHook')
    assert sorted(hook.guards) == ['discriminator', 'generator']


def test_schedules_follow_the_runners_iteration(tmp_path, images):
    terms = [TERMS[0], {**TERMS[1], 'start_iter': 2, 'warmup_iter': 2}]
    model = plain(SR, data_preprocessor=UNIT, pixel_loss={'type': 'LossSum', 'terms': terms})
    run = runner(tmp_path, images, steps=4, val_interval=100, model=model)
    run.train()
    l1, tiny, total = (scalar(run, f'train/{name}') for name in ('loss_l1', 'loss_tinynet', 'loss'))
    weights = [0, 0, 0.05, 0.1]
    assert total == pytest.approx([a + w * b for a, w, b in zip(l1, weights, [0, 0, *tiny], strict=True)], rel=1e-5)
    assert run.model.pixel_loss.iteration == 4
    again = runner(tmp_path, images, steps=5, val_interval=100, model=model, resume=True)
    again.train()
    assert again.model.pixel_loss.iteration == 5
    with torch.no_grad():  # after the training the sum stands alone again
        assert again.model.pixel_loss(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)).isfinite()
    assert again.model.pixel_loss.iteration == 5


def test_judges_stay_out_of_checkpoint_optimizer_train_mode_and_averages(tmp_path, images):
    run = runner(tmp_path, images, hooks=[{'type': 'EMAHook', 'momentum': 0.5, 'update_buffers': True}])
    judge = run.model.pixel_loss.terms[1].loss.scorer
    before = {key: value.clone() for key, value in judge.net.state_dict().items()}
    run.train()
    own = set(run.model.generator.state_dict())
    saved = torch.load(tmp_path / 'iter_2.pth', weights_only=True)
    assert set(saved['state_dict']) == {f'generator.{key}' for key in own}
    assert {key.removeprefix('module.') for key in saved['ema_state_dict']} == {f'generator.{key}' for key in own} | {
        'steps'
    }
    optimised = {id(p) for group in run.optim_wrapper.param_groups for p in group['params']}
    assert optimised == {id(p) for p in run.model.generator.parameters()}
    run.model.train()
    assert not judge.training
    assert not judge.net.training
    assert not any(p.requires_grad or p.grad is not None for p in judge.net.parameters())
    assert all(torch.equal(before[key], value) for key, value in judge.net.state_dict().items())
    average = next(hook for hook in run.hooks if hasattr(hook, 'ema_model')).ema_model.module
    assert average.pixel_loss.terms[1].loss.scorer is judge
    assert average.generator is not run.model.generator
    run.model.to('meta')
    assert judge.device.type == 'meta'


def test_accumulated_gradients_step_once_and_norms_are_those_of_a_single_step(tmp_path, images):
    runs = []
    for n in (1, 2):
        wrapper = {'accumulative_counts': n, 'optimizer': {'type': 'SGD', 'lr': 0.1}}
        runs.append(runner(tmp_path / str(n), images, steps=2, val_interval=100, optim_wrapper=wrapper))
        runs[-1].train()
    one, two = runs
    assert scalar(two, 'train/grad_tinynet')[0] == pytest.approx(scalar(one, 'train/grad_tinynet')[0], rel=1e-5)
    l1 = scalar(two, 'train/loss_l1')
    assert l1[0] == pytest.approx(l1[1], rel=1e-6)  # the same batch, no step between
    assert moved(two)


def test_bf16_amp_trains_judges_score_in_float32_and_norms_are_unscaled(tmp_path, images, monkeypatch):
    """mmengine refuses AMP without a GPU, though autocast works on a CPU: its look at the hardware is passed over."""
    from mmengine.optim.optimizer import amp_optimizer_wrapper

    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', lambda **kwargs: torch.amp.GradScaler('cpu', **kwargs))
    types = []
    monkeypatch.setattr(
        TinyNet,
        'score',
        lambda self, pred, ref=None: (
            types.append((pred.dtype, self.net(pred).dtype)) or self.net(pred).flatten(1).mean(1)
        ),
    )
    full = runner(tmp_path / 'full', images, val_interval=100)
    full.train()
    amp = runner(
        tmp_path / 'amp', images, val_interval=100, optim_wrapper={'type': 'AmpOptimWrapper', 'dtype': 'bfloat16'}
    )
    seen = []
    amp.model.pixel_loss.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    amp.train()
    assert set(seen) == {torch.bfloat16}
    assert set(types) == {(torch.float32, torch.float32)}
    for name in ('loss_l1', 'grad_l1', 'grad_tinynet'):
        assert scalar(amp, f'train/{name}')[0] == pytest.approx(scalar(full, f'train/{name}')[0], rel=0.05), name
    assert moved(amp)


def test_a_step_with_a_nan_term_is_dropped_named_and_ten_in_a_row_are_an_error(tmp_path, images, plugin_log):
    bad = {'type': 'NRIQALoss', 'metric': 'tests.judges:NaNGradient', 'weight': 1.0, 'probe': False}
    model = plain(SR, data_preprocessor=UNIT, pixel_loss={'type': 'LossSum', 'terms': [TERMS[0], bad]})
    run = runner(
        tmp_path, images, steps=11, val_interval=100, model=model, default_hooks={'checkpoint': {'interval': 3}}
    )
    with pytest.raises(FloatingPointError, match=r'10 in a row.*nan_gradient \(pixel_loss\)'):
        run.train()
    assert not moved(run)
    assert not run.optim_wrapper.optimizer.state
    assert scalar(run, 'train/skipped_steps') == list(range(1, 10))
    assert scalar(run, 'train/dropped_nan_gradient') == list(range(1, 10))
    assert "'nan_gradient (pixel_loss)': 1" in plugin_log.text
    saved = torch.load(tmp_path / 'iter_9.pth', weights_only=True)[resume.KEY]
    assert saved['skipped'] == {'generator': 9}
    assert saved['losses']['pixel_loss']['dropped'] == {'nan_gradient': 9}
    again = runner(tmp_path, images, steps=10, val_interval=100, model=model, resume=True)
    again.train()
    assert scalar(again, 'train/skipped_steps')[-1] == 10  # the count goes on, the row starts anew


def test_without_the_hook_only_the_term_is_dropped(tmp_path, images):
    bad = {'type': 'NRIQALoss', 'metric': 'tests.judges:NaNGradient', 'weight': 1.0, 'probe': False}
    model, optim_wrapper = build(plain(SR), {'type': 'LossSum', 'terms': [TERMS[0], bad]})
    start = {key: value.clone() for key, value in model.generator.state_dict().items()}
    model.train_step(batch(8), optim_wrapper)
    assert model.pixel_loss.dropped() == {'nan_gradient': 1}
    assert any(not torch.equal(start[key], value) for key, value in model.generator.state_dict().items())
    assert all(value.isfinite().all() for value in model.generator.state_dict().values())


class DrawsInValidation(Hook):
    """Draws random numbers in validation and remembers the generators at every training step."""

    def __init__(self):
        self.states = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.states.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        torch.rand(3)
        np.random.rand(3)


def test_validation_leaves_no_trace_in_the_random_generators(tmp_path, images):
    often, never = DrawsInValidation(), DrawsInValidation()
    for hook, interval in ((often, 1), (never, 100)):
        run = runner(
            tmp_path / str(interval),
            images,
            steps=3,
            val_interval=interval,
            gain='IQAMetric',
            default_hooks={'checkpoint': {'save_best': None}},
        )
        run.register_hook(hook)
        run.train()
    assert len(often.states) == 3
    assert often.states == never.states


# ------------------------------------------------------------------------------- refused before the first step


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'order': 'bgr'}, r"pixel_loss: the ground truth has the channel order bgr .*space=dict\(order='bgr'\)"),
        ({'model': plain(SR, data_preprocessor={**UNIT, 'std': [127.5] * 3}, pixel_loss={'type': 'LossSum', 'terms': TERMS})}, r'write space=dict\(range=\[0.0, 2.0\]\)'),
        ({'model': plain(SR, data_preprocessor=UNIT, pixel_loss={'type': 'LossPair', 'terms': TERMS})}, 'pixel slot wants one number'),
        ({'default_hooks': {'checkpoint': {'save_best': 'darkness'}}}, r"save_best='darkness' with rule='greater', but for darkness lower is better: rule='less'"),
        ({'val_evaluator': {'metrics': [{'type': 'IQAMetric', 'judges': JUDGES[:1]}] * 2}}, r"two results are called 'brightness'; give one of the metrics a prefix"),
        ({'default_hooks': {'checkpoint': {'rule': 'less'}}}, r"for gain/darkness higher is better: rule='greater'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_the_first_step(change, message, tmp_path, images):
    run = runner(tmp_path, images, **change)
    with pytest.raises(ValueError, match=message):
        run.train()
    assert not moved(run)


def test_bgr_pipelines_train_with_bgr_space_or_when_the_preprocessor_turns_them(tmp_path, images):
    told = plain(SR, data_preprocessor=UNIT, pixel_loss={'type': 'LossSum', 'terms': TERMS, 'space': {'order': 'bgr'}})
    turned = plain(
        SR, data_preprocessor={**UNIT, 'output_channel_order': 'RGB'}, pixel_loss={'type': 'LossSum', 'terms': TERMS}
    )
    for name, model in (('told', told), ('turned', turned)):
        run = runner(tmp_path / name, images, steps=1, order='bgr', model=model)
        run.train()
        assert np.isfinite(scalar(run, 'train/loss_tinynet')).all()


def test_a_resumed_run_without_its_baseline_and_one_with_other_slots_are_refused(tmp_path, images):
    runner(tmp_path, images, steps=1).train()
    model = plain(SR, data_preprocessor=UNIT, pixel_loss={'type': 'L1Loss'})
    with pytest.raises(ValueError, match=r"saved with our losses in \['pixel_loss'\], the config has them in \[\]"):
        runner(tmp_path, images, steps=2, model=model, resume=True).train()
    (tmp_path / 'baseline.csv').unlink()
    with pytest.raises(
        FileNotFoundError, match=r'the baseline of the run that is resumed: no such file: .*baseline\.csv'
    ):
        runner(tmp_path, images, steps=2, resume=True).train()


# ------------------------------------------------------------------------------------------------- metrics


def samples(count=3, frames=None, seed=0, gt=True):
    """Data samples as mmagic's evaluator hands them to metrics: BGR, 0 to 255, in float."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        shape = (3, 24, 32) if frames is None else (frames[i], 3, 24, 32)
        image, truth = (255 * torch.rand(shape, generator=generator) for _ in range(2))
        names = (
            {'gt_path': f'some/where/{i}.png'}
            if frames is None
            else {'gt_path': [f'REDS/clip{i}/{t}.png' for t in range(frames[i])]}
        )
        found.append({'output': {'pred_img': image}, **names, **({'gt_img': truth} if gt else {})})
    return found


def unit_rgb(image):
    return image.round().flip(-3) / 255


def evaluated(metric, data):
    metric.process(None, data)
    return metric.evaluate(len(data))


def test_scores_are_those_of_the_rounded_rgb_image_without_its_border():
    data = samples()
    judges = ['tests.judges:Brightness', {'metric': JUDGE, 'crop_border': 4, 'name': 'inner'}, 'tests.judges:Distance']
    result = evaluated(METRICS.build({'type': 'IQAMetric', 'judges': judges, 'prefix': 'Set5'}), data)
    pairs = [(unit_rgb(d['output']['pred_img']), unit_rgb(d['gt_img'])) for d in data]
    assert result['Set5/brightness'] == pytest.approx(np.mean([p.mean().item() for p, _ in pairs]), rel=1e-5)
    assert result['Set5/inner'] == pytest.approx(
        np.mean([TinyNet()(p[None, :, 4:-4, 4:-4]).item() for p, _ in pairs]), rel=1e-4
    )
    assert result['Set5/distance'] == pytest.approx(np.mean([(p - g).abs().mean().item() for p, g in pairs]), rel=1e-5)


def test_a_data_set_of_clips_is_averaged_over_the_clips_means_and_a_video_judge_sees_whole_clips():
    data = samples(2, frames=[2, 3])
    metric = METRICS.build({'type': 'IQAMetric', 'judges': [*JUDGES, 'tests.judges:Clip']})
    result = evaluated(metric, data)
    means = [unit_rgb(d['output']['pred_img']).mean().item() for d in data]
    assert result['brightness'] == pytest.approx(np.mean(means), rel=1e-5)
    assert result['clip'] == pytest.approx(np.mean(means), rel=1e-5)
    metric.process(None, data)
    rows = metric.rows(metric.results)
    assert [row.image for row in rows['clip']] == ['REDS/clip0', 'REDS/clip1']
    assert [row.image for row in rows['brightness']][:3] == ['REDS/clip0', 'REDS/clip0::1', 'REDS/clip1']
    assert metrics.image_name({'gt_path': ['GT/00001/0266/im4.png']}) == '00001/0266/im4.png'


def test_every_image_is_converted_once_for_all_judges(monkeypatch):
    calls = []
    convert = metrics.IQAMetric._to_unit_rgb
    monkeypatch.setattr(metrics.IQAMetric, '_to_unit_rgb', lambda self, image: calls.append(1) or convert(self, image))
    evaluated(METRICS.build({'type': 'IQAMetric', 'judges': [*JUDGES, JUDGE, 'psnr']}), samples())
    assert len(calls) == 6  # prediction and ground truth of three images


def test_a_data_set_without_ground_truth_is_scored_by_no_reference_judges_only():
    data = samples(gt=False)
    assert 0 < evaluated(METRICS.build({'type': 'IQAMetric', 'judges': JUDGES[:2]}), data)['brightness'] < 1
    with pytest.raises(
        ValueError, match=r"image 0\.png: the full-reference judge 'distance' needs the ground truth.*no 'gt_img'"
    ):
        METRICS.build({'type': 'IQAMetric', 'judges': JUDGES}).process(None, data)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'judges': []}, r"IQAMetric: judges must be a list of names"),
        ({'judges': 'niqe'}, r"judges must be a list"),
        ({'judges': ['niqee']}, r"judges\[0\]: unknown judge 'niqee'. Did you mean 'niqe'"),
        ({'judges': [JUDGE, {'metric': JUDGE}]}, r"judges\[1\]: a judge called 'tinynet' is there already; .*own 'name'"),
        ({'judges': [{'metrik': JUDGE}]}, "'metrik'. Did you mean 'metric'"),
        ({'judges': [{'weights': 'x'}]}, "the option 'metric' names the judge and is missing"),
    ],
)  # fmt: skip
def test_wrong_metric_options_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        METRICS.build({'type': 'IQAMetric', **option})


def baseline_file(path, names=('0.png', '1.png', '2.png'), judge=None, score=0.25):
    judge = judge or Darkness()
    write_scores(path, [score_row(name, judge, score) for name in names])
    return str(path)


def test_gain_over_a_scores_file_is_equation_1_of_the_means(tmp_path):
    data = samples()
    file = baseline_file(tmp_path / 'b.csv')
    result = evaluated(
        METRICS.build({'type': 'RelativeGain', 'judges': ['tests.judges:Darkness'], 'baseline': file}), data
    )
    mean = np.mean([unit_rgb(d['output']['pred_img']).mean().item() for d in data])
    assert result == pytest.approx({'darkness': mean, 'gain/darkness': 100 * (0.25 - mean) / 0.25}, rel=1e-5)


def test_a_baseline_of_other_images_another_judge_or_none_is_refused(tmp_path):
    option = {'type': 'RelativeGain', 'judges': ['tests.judges:Darkness']}
    with pytest.raises(
        ValueError, match=r"baseline='start' needs default_hooks = dict\(gain=dict\(type='RelativeGainHook'\)\)"
    ):
        evaluated(METRICS.build(option), samples())
    with pytest.raises(FileNotFoundError, match=r'no such file: nowhere\.csv'):
        METRICS.build({**option, 'baseline': 'nowhere.csv'})
    other = baseline_file(tmp_path / 'other.csv', judge=Darkness(gain=2.0))
    with pytest.raises(ValueError, match=r'other\.csv was scored by other weights or options of darkness'):
        METRICS.build({**option, 'baseline': other})
    with pytest.raises(ValueError, match='unknown metric in the baseline'):
        METRICS.build({**option, 'baseline': baseline_file(tmp_path / 'c.csv', judge=Brightness())})
    strange = METRICS.build({**option, 'baseline': baseline_file(tmp_path / 'd.csv', names=('0.png', 'x.png'))})
    with pytest.raises(ValueError, match=r'baseline file of another data set.*only in the baseline: 1 \(x\.png\)'):
        evaluated(strange, samples())
    with pytest.raises(ValueError, match='must be positive'):
        METRICS.build({**option, 'baseline': baseline_file(tmp_path / 'e.csv', score=0.0)})


def test_two_judges_of_one_kind_get_names_of_their_own(tmp_path, images):
    judges = [
        {'metric': 'tests.judges:Darkness', 'name': 'whole'},
        {'metric': 'tests.judges:Darkness', 'crop_border': 4, 'name': 'inner'},
    ]
    run = runner(tmp_path, images, steps=1, judges=judges, default_hooks={'checkpoint': {'save_best': 'gain/inner'}})
    run.train()
    assert read_scores(tmp_path / 'baseline.csv').metrics == ['inner', 'whole']
    assert scalar(run, 'val/whole') != scalar(run, 'val/inner')


# -------------------------------------------------------------------------------------------------- resume


class Fetches:
    def __init__(self, owner, name):
        self.pair = (owner, name)

    def __reduce__(self):
        return getattr, self.pair


def test_checkpoints_of_mmengine_load_safely_and_fetch_nothing_but_statistics(tmp_path):
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    torch.save({'buffer': buffer}, tmp_path / 'good.pth')
    loaded = torch.load(tmp_path / 'good.pth', weights_only=True)['buffer']
    assert loaded.mean() == 2.0
    torch.save({'x': Fetches(HistoryBuffer, '__init__')}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match="asks for '__init__'"):
        torch.load(tmp_path / 'evil.pth', weights_only=True)
    torch.save({'x': Fetches(np.ndarray, 'dump')}, tmp_path / 'worse.pth')
    with pytest.raises(ValueError, match="asks for 'dump'"):
        torch.load(tmp_path / 'worse.pth', weights_only=True)


def test_best_values_of_mmagics_own_metrics_load_safely_too(tmp_path):
    torch.save({'best_score': np.float64(31.5)}, tmp_path / 'best.pth')
    assert torch.load(tmp_path / 'best.pth', weights_only=True) == {'best_score': 31.5}


def test_a_gan_whose_discriminator_starts_later_goes_on_counting_after_a_resume(tmp_path, images):
    model = {
        'type': 'SRGAN', 'generator': SR, 'discriminator': UNET, 'gan_loss': VANILLA, 'data_preprocessor': UNIT,
        'pixel_loss': {'type': 'LossSum', 'terms': TERMS}, 'train_cfg': {'disc_init_steps': 2},
    }  # fmt: skip
    parts = {
        part: {'type': 'OptimWrapper', 'optimizer': {'type': 'Adam', 'lr': 1e-3}}
        for part in ('generator', 'discriminator')
    }
    for steps, resume_it in ((2, False), (3, True)):
        wrapper = {'_delete_': True, 'constructor': 'MultiOptimWrapperConstructor', **copy.deepcopy(parts)}
        run = runner(
            tmp_path, images, steps=steps, val_interval=100, model=model, optim_wrapper=wrapper, resume=resume_it
        )
        run.train()
    assert int(run.model.step_counter) == 3
    assert len(scalar(run, 'train/loss_l1')) == 1  # the generator waits for two steps, then learns in the third


def test_mmengines_own_validation_loop_takes_our_metrics(tmp_path, images):
    evaluator = {
        '_delete_': True,
        'type': 'mmengine.Evaluator',
        'metrics': [{'type': 'RelativeGain', 'judges': JUDGES}],
    }
    run = runner(tmp_path, images, steps=1, val_cfg={'_delete_': True, 'type': 'ValLoop'}, val_evaluator=evaluator)
    run.train()
    assert len(scalar(run, 'val/gain/darkness')) == 1


def test_training_by_epochs_logs_terms_and_saves_our_state(tmp_path, images):
    loop = {'_delete_': True, 'type': 'EpochBasedTrainLoop', 'max_epochs': 2}
    sampler = {'sampler': {'type': 'DefaultSampler', 'shuffle': False}, 'batch_size': 1}
    run = runner(
        tmp_path, images, train_cfg=loop, train_dataloader=sampler, default_hooks={'checkpoint': {'by_epoch': True}}
    )
    run.train()
    assert len(scalar(run, 'train/loss_tinynet')) == 4
    assert len(scalar(run, 'val/gain/darkness')) == 2
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=True)[resume.KEY]
    assert saved['losses']['pixel_loss']['iteration'] == 4


def test_our_warnings_go_to_the_log_of_the_run(tmp_path, images):
    bad = {'type': 'NRIQALoss', 'metric': 'tests.judges:NaNGradient', 'weight': 1.0, 'probe': False}
    model = plain(SR, data_preprocessor=UNIT, pixel_loss={'type': 'LossSum', 'terms': [TERMS[0], bad]})
    run = runner(tmp_path, images, steps=1, val_interval=100, model=model, log_level='INFO')
    run.train()
    (log,) = tmp_path.rglob('*.log')
    assert 'step dropped, its gradients are not finite' in log.read_text()


def test_the_sum_of_the_core_and_of_the_adapter_agree():
    init_default_scope('mmagic')
    hub = MessageHub.get_current_instance()
    assert hub.runtime_info.get('loop_stage') != 'train'
    terms = [
        {'type': 'NRIQALoss', 'metric': create_scorer(JUDGE), 'weight': 0.5},
        {'type': 'ColourLoss', 'weight': 1.0},
    ]
    pred, target = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    assert MODELS.build({'type': 'LossSum', 'terms': terms})(pred, target) == CoreLossSum(terms)(pred, target)


# --------------------------------------------------------------------------------------------- artifact alarm


class Spoils(Hook):
    """Makes every output brighter after the second step."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 1:
            with torch.no_grad():
                runner.model.generator.conv_last.bias += 1.0


def alarmed(work_dir, images, alarm=None, **more):
    """A run of four steps at a learning rate of 0 which is spoiled after the second."""
    hooks = {'alarm': {'type': 'ArtifactAlarmHook', 'judge': 'brightness', 'reference': 'distance', **(alarm or {})}}
    still = {'optim_wrapper': {'optimizer': {'lr': 0.0}}}
    options = {'default_hooks': hooks, **still, **more}
    return runner(work_dir, images, steps=4, judges=[*JUDGES, 'pattern'], **options)


def test_the_alarm_is_silent_before_and_shows_the_worst_images_after_the_output_is_spoiled(
    tmp_path, images, plugin_log
):
    run = alarmed(tmp_path, images, {'images': 1, 'pattern': 1e6})
    run.register_hook(Spoils())
    run.train()
    shown = sorted(path.name for path in (tmp_path / 'artifacts').iterdir())
    assert [name.split('_')[:3] for name in shown if 'reference' in name] == [[i, 'reference', '1'] for i in '234']
    assert {name.split('_')[0] for name in shown} == {'2', '3', '4'}  # not 1
    assert run.iter == 4
    assert 'val/gain/pattern' not in run.message_hub.log_scalars
    growths = zip(*(scalar(run, f'val/{name}/pattern') for name in ('growth', 'growth_of_worst')), strict=True)
    assert scalar(run, 'val/pattern')
    assert all(mean <= worst for mean, worst in growths)
    alarm = next(hook for hook in run.hooks if type(hook).__name__ == 'ArtifactAlarmHook')
    assert all(metric.listener is None for metric, _ in alarm.watched)
    assert alarm.worst == []  # no image is kept


def test_the_alarm_saves_a_checkpoint_and_ends_the_training(tmp_path, images):
    run = alarmed(tmp_path, images, {'action': 'stop', 'pattern': 1e6})
    run.register_hook(Spoils())
    run.train()
    assert run.iter < 4
    saved = torch.load(tmp_path / 'alarm.pth', weights_only=True)
    assert saved['state_dict']['generator.conv_last.bias'].mean() > 0.5
    again = alarmed(tmp_path, images, {'pattern': 1e6}, load_from=str(tmp_path / 'alarm.pth'), resume=True)
    again.train()
    assert saved['meta']['iter'] == run.iter
    assert len(scalar(again, 'train/loss_l1')) == 4  # those of the first run, and what was left


def test_the_alarms_checkpoint_is_a_common_one_under_ema(tmp_path, images):
    """The average where networks are loaded from, the trained weights beside it."""
    run = alarmed(tmp_path, images, {'action': 'stop', 'pattern': 1e6}, hooks=[{'type': 'EMAHook', 'momentum': 0.5}])
    run.register_hook(Spoils(), 'HIGH')
    run.train()
    saved = torch.load(tmp_path / 'alarm.pth', weights_only=True)
    average = next(hook for hook in run.hooks if hasattr(hook, 'ema_model')).ema_model.module
    key = 'generator.conv_last.bias'
    assert not torch.equal(average.generator.conv_last.bias, run.model.generator.conv_last.bias)
    assert torch.equal(saved['state_dict'][key], average.generator.conv_last.bias)
    assert torch.equal(saved['ema_state_dict'][f'module.{key}'], run.model.generator.conv_last.bias)
    assert saved['meta']['iter'] == run.iter


def test_every_data_set_with_the_alarms_judges_is_watched(tmp_path, images):
    gain = {'type': 'RelativeGain', 'judges': [*JUDGES, 'pattern']}
    evaluator = {'type': 'Evaluator', 'metrics': [{**gain, 'prefix': name} for name in ('Set5', 'Set14')]}
    run = alarmed(tmp_path, images, {'images': 1, 'pattern': 1e6}, val_evaluator={'_delete_': True, **evaluator})
    next(hook for hook in run.hooks if type(hook).__name__ == 'CheckpointHook').save_best = None
    run.register_hook(Spoils())
    run.train()
    shown = [path.name for path in (tmp_path / 'artifacts').iterdir() if path.name.startswith('3_')]
    assert {name.split('_')[1] for name in shown if '_reference_' in name} == {'Set5', 'Set14'}


def test_the_alarm_knows_whether_its_reference_is_optimised(tmp_path, images):
    terms = [*TERMS, {'type': 'FRIQALoss', 'metric': 'tests.judges:Distance', 'weight': 0.1}]
    thresholds = {'fall': 1e6, 'judge_rise': 0.5, 'rise': 1e6, 'pattern': 1e6, 'worst_pattern': 1e6}
    for name, used in (('without', TERMS), ('with', terms)):
        model = plain(SR, data_preprocessor=UNIT, pixel_loss={'type': 'LossSum', 'terms': used})
        run = alarmed(tmp_path / name, images, thresholds, model=model)
        run.register_hook(Spoils())
        run.train()
        assert (tmp_path / name / 'artifacts').exists() == (name == 'with')


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'falls': 1.0}, "threshold of ArtifactAlarmHook: 'falls'. Did you mean 'fall'"),
        ({'action': 'halt'}, 'ArtifactAlarmHook: action'),
        ({'images': -1}, 'ArtifactAlarmHook: images'),
        ({'fall': -1.0}, 'artifact alarm: fall'),
        ({'judge': 'pattern'}, 'ArtifactAlarmHook: judge: pattern has no relative gain'),
        ({'reference': 'pattern'}, 'ArtifactAlarmHook: reference: pattern has no relative gain'),
    ],
)
def test_wrong_alarm_options_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build({'type': 'ArtifactAlarmHook', 'judge': 'musiq', **option})


def test_an_alarm_without_its_judges_among_the_metrics_is_refused(tmp_path, images):
    run = alarmed(tmp_path, images, {'reference': 'lpips'})
    with pytest.raises(
        ValueError, match=r"has all of the judges \['brightness', 'lpips', 'pattern'\], only \[\['brightness"
    ):
        run.train()


def test_an_alarm_without_a_baseline_or_with_one_that_lacks_the_pattern_is_refused_before_the_first_step(
    tmp_path, images
):
    run = alarmed(tmp_path / 'none', images)
    hook = next(hook for hook in run.hooks if type(hook).__name__ == 'RelativeGainHook')
    run.hooks.remove(hook)
    with pytest.raises(ValueError, match=r'ArtifactAlarmHook: .* needs default_hooks = dict\(gain=dict'):
        run.train()
    runner(tmp_path / 'old', images, steps=1).train()  # its baseline has no pattern
    with pytest.raises(ValueError, match=r"unknown metric in the baseline .*baseline\.csv: 'pattern'"):
        alarmed(tmp_path / 'old', images, resume=True).train()


def test_images_of_one_name_in_two_folders_get_their_folder_in_front(tmp_path):
    data = samples(2)
    for sample, folder in zip(data, 'ab', strict=True):
        sample['gt_path'] = f'gt/{folder}/1.png'
    file = baseline_file(tmp_path / 'b.csv', names=('a/1.png', 'b/1.png'))
    metric = METRICS.build({'type': 'RelativeGain', 'judges': ['tests.judges:Darkness'], 'baseline': file})
    assert 'gain/darkness' in evaluated(metric, data)
    data[1]['gt_path'] = 'other/a/1.png'
    metric.measuring = True
    with pytest.raises(ValueError, match=r"two validation images are called 'a/1\.png'"):
        evaluated(metric, data)


def test_a_baseline_of_the_pattern_by_another_border_is_refused(tmp_path):
    file = baseline_file(tmp_path / 'b.csv', judge=create_scorer('pattern'), score=0.0)
    option = {'type': 'RelativeGain', 'judges': ['pattern'], 'baseline': file}
    METRICS.build(option)
    with pytest.raises(ValueError, match=r'scored by other weights or options of pattern'):
        METRICS.build({**option, 'crop_border': 4})


def test_save_best_of_anothers_metric_or_of_the_first_one_is_none_of_our_business(tmp_path, images):
    best = {'save_best': 'auto', 'rule': None, 'greater_keys': ['PSNR']}
    run = runner(tmp_path, images, steps=1, default_hooks={'checkpoint': best})
    run.train()
    assert list(tmp_path.glob('best_PSNR*'))


def test_a_step_counter_that_the_model_saves_itself_is_left_alone(tmp_path, images):
    for steps, resume_it in ((2, False), (3, True)):
        run = runner(tmp_path, images, steps=steps, val_interval=100, resume=resume_it)
        run.model.register_buffer('step_counter', torch.full((1,), 7.0))
        run.train()
    assert run.model.step_counter.item() == 7
