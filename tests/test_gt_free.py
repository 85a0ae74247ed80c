"""Training from LR images alone: consistency with the input, the anchor in both hosts, guards that act together."""

import copy
import csv
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from nriqa_plugin.losses import LossSum, LRConsistencyLoss
from nriqa_plugin.losses.calibration import Gauge
from tests.conftest import ROOT

ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}


def consistency(pred, lq, **options):
    loss = LRConsistencyLoss(**options)
    loss.set_lq(lq)
    return loss(pred)


# --- the loss ---


def test_bicubic_is_that_of_pillow_but_for_its_rounding():
    small = consistency(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 4, 4))
    assert small == 0
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    lq = np.asarray(Image.fromarray(pixels).resize((16, 12), Image.BICUBIC))
    pred, lq = (torch.tensor(image).permute(2, 0, 1)[None] / 255 for image in (pixels, lq))
    assert consistency(pred, lq).item() < 0.5 / 255


def test_area_is_the_mean_of_blocks_and_has_its_gradient():
    pred = torch.rand(2, 3, 12, 8, dtype=torch.float64, requires_grad=True)
    lq = torch.rand(2, 3, 3, 2, dtype=torch.float64)
    means = pred.reshape(2, 3, 3, 4, 2, 4).mean((3, 5))
    expected = (means - lq).abs().mean()
    value = consistency(pred, lq, downscaling='area')
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(*(torch.autograd.grad(v, pred)[0] for v in (value, expected)))


@pytest.mark.parametrize('downscaling', ['bicubic', 'area'])
def test_gradcheck(downscaling):
    lq = torch.rand(1, 3, 3, 3, dtype=torch.float64) + 2  # far from the kink of the absolute value
    pred = torch.rand(1, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: consistency(x, lq, downscaling=downscaling), pred)


def test_texture_that_the_downscaling_does_not_see_is_free_and_a_shift_of_colour_is_not():
    lq = torch.full((1, 3, 8, 8), 0.5)
    checkers = 0.5 + 0.2 * (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).mul(2).sub(1)
    pred = checkers.expand(1, 3, 32, 32)
    assert consistency(pred, lq, downscaling='area').item() == pytest.approx(0, abs=1e-7)
    assert consistency(pred + 0.1, lq, downscaling='area').item() == pytest.approx(0.1, rel=1e-5)


def test_clips_are_compared_frame_by_frame_and_equal_sizes_plainly():
    pred, lq = torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 3, 4, 4)
    frames = [consistency(pred[:, t], lq[:, t]) for t in range(3)]
    assert consistency(pred, lq).item() == pytest.approx(torch.stack(frames).mean().item(), rel=1e-6)
    assert consistency(pred, 0.9 * pred).item() == pytest.approx(0.1 * pred.mean().item(), rel=1e-5)


def test_in_a_sum_the_input_is_converted_from_the_networks_space():
    unit = LossSum([{'type': 'LRConsistencyLoss', 'weight': 2.0}])
    wide = LossSum(
        [{'type': 'LRConsistencyLoss', 'weight': 2.0}], space={'range': [0, 255], 'order': 'bgr'}, grad_norms=True
    )
    pred, lq = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 2, 2)
    unit.set_lq(lq)
    expected = unit(pred)
    assert expected.item() == pytest.approx(2 * consistency(pred, lq).item(), rel=1e-6)
    wide.set_lq(255 * lq.flip(1))
    assert wide((255 * pred).flip(1)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_input_is_used_once_and_never_that_of_an_earlier_step():
    loss = LossSum([{'type': 'LRConsistencyLoss', 'weight': 1.0}])
    with pytest.raises(ValueError, match=r"term 'lrconsistency': LRConsistencyLoss: nobody told it the LR image"):
        loss(torch.rand(1, 3, 8, 8))
    loss.set_lq(torch.rand(1, 3, 4, 4))
    loss(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match='nobody told it the LR image'):
        loss(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize('shape', [(1, 3, 9, 4), (2, 3, 4, 4), (1, 3, 3, 4, 4)])
def test_an_input_of_another_batch_or_a_larger_one_is_refused(shape):
    with pytest.raises(ValueError, match='is no smaller version of pred'):
        consistency(torch.rand(1, 3, 8, 8), torch.rand(shape))


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match=r"unknown value for downscaling: 'bicubc'.*'bicubic'"):
        LRConsistencyLoss('bicubc')
    with pytest.raises(ValueError, match="unknown option of LRConsistencyLoss: 'scale'"):
        LRConsistencyLoss(scale=4)


def test_the_gauge_of_calibrate_measures_it_too():
    gauge = Gauge(LossSum([{'type': 'L1Loss', 'weight': 1.0}, {'type': 'LRConsistencyLoss', 'weight': 1.0}]))
    pred, lq = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 2, 2)
    gauge.add(pred, torch.rand(1, 3, 8, 8), lq)
    leaf = pred.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(consistency(leaf, lq), leaf)
    assert gauge.terms[1].norm == pytest.approx(gradient.norm().item(), rel=1e-5)


# --- BasicSR ---

basicsr = pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
import yaml  # noqa: E402, comes with BasicSR
from basicsr.data import build_dataset  # noqa: E402
from basicsr.models import build_model  # noqa: E402

import nriqa_plugin.basicsr  # noqa: E402, F401, registers

TERMS = [
    {'type': 'L1Loss', 'weight': 1.0, 'name': 'anchor'},
    {'type': 'LRConsistencyLoss', 'weight': 1.0, 'name': 'input'},
    {'type': 'NRIQALoss', 'metric': 'tests.judges:Brightness', 'weight': 0.1},
]


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / 'photographs'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate(((20, 24), (17, 19))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f'{i}.png')
    return folder


def train_data(folder, **more):
    return {'name': 'photographs', 'type': 'LROnlyDataset', 'phase': 'train', 'dataroot_lq': str(folder), 'lq_size': 8,
            'io_backend': {'type': 'disk'}, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0,
            'dataset_enlarge_ratio': 100, **more}  # fmt: skip


def options(folder, network=None, **train):
    folder.mkdir(exist_ok=True)
    paths = {key: str(folder / key) for key in ('models', 'training_states', 'visualization')}
    for path in paths.values():
        os.makedirs(path, exist_ok=True)
    return {
        'name': 'gt_free', 'model_type': 'PerceptualModel', 'base_model': 'SRModel', 'scale': 4, 'num_gpu': 0,
        'dist': False, 'rank': 0, 'world_size': 1, 'is_train': True,
        'network_g': network or {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 4},
        'path': {**paths, 'experiments_root': str(folder), 'resume_state': None},
        'train': {'total_iter': 10, 'warmup_iter': -1, 'optim_g': {'type': 'Adam', 'lr': 0.01}, 'anchor': 'start',
                  'scheduler': {'type': 'MultiStepLR', 'milestones': [9]},
                  'pixel_opt': {'type': 'LossSum', 'terms': copy.deepcopy(TERMS)}, **train},
        'val': {'metrics': {'brightness': {'type': 'calculate_iqa', 'metric': 'tests.judges:Brightness'}}},
    }  # fmt: skip


def test_data_set_gives_crops_in_training_and_whole_images_otherwise(photographs):
    data = build_dataset(train_data(photographs))
    images = [np.asarray(Image.open(photographs / f'{i}.png')) for i in range(2)]
    for _ in range(5):
        item = data[1]
        assert item['lq'].shape == (3, 8, 8)
        assert item['lq_path'].endswith('1.png')
        window = (item['lq'] * 255).round().byte().permute(1, 2, 0).numpy()
        turned = [np.rot90(w, k) for k in range(4) for w in (window, window[:, ::-1])]
        places = [images[1][t : t + 8, x : x + 8] for t in range(10) for x in range(12)]
        assert any(np.array_equal(place, turn) for place in places for turn in turned)
    plain = build_dataset({'name': 'v', 'type': 'LROnlyDataset', 'phase': 'val', 'dataroot_lq': str(photographs),
                           'io_backend': {'type': 'disk'}})  # fmt: skip
    assert torch.equal((plain[0]['lq'] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(images[0].copy()))


def test_data_set_reads_lists_and_lmdb(photographs, tmp_path):
    (tmp_path / 'list.txt').write_text('1.png (17,19,3)\n')
    data = build_dataset(train_data(photographs, meta_info_file=str(tmp_path / 'list.txt')))
    assert [os.path.basename(path) for path in data.paths] == ['1.png']
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    make_lmdb_from_imgs(str(photographs), str(tmp_path / 'p.lmdb'), ['0.png', '1.png'], ['0', '1'])
    stored = build_dataset({**train_data(tmp_path / 'p.lmdb'), 'phase': 'val', 'io_backend': {'type': 'lmdb'}})
    plain = build_dataset({**train_data(photographs), 'phase': 'val'})
    assert all(torch.equal(stored[i]['lq'], plain[i]['lq']) for i in range(2))


def test_bad_data_is_named(photographs, tmp_path):
    with pytest.raises(ValueError, match=r'lq_size: .*1\.png has 19 x 17 px, a crop 18'):
        build_dataset(train_data(photographs, lq_size=18))[1]
    with pytest.raises(TypeError, match='lq_size must be an integer, got None'):
        build_dataset(train_data(photographs, lq_size=None))
    with pytest.raises(ValueError, match="unknown option of LROnlyDataset: 'gt_size'"):
        build_dataset(train_data(photographs, gt_size=32))
    with pytest.raises(FileNotFoundError, match='dataroot_lq: no such folder'):
        build_dataset(train_data(tmp_path / 'none'))
    with pytest.raises(ValueError, match="the option 'io_backend' is missing"):
        build_dataset(train_data(photographs, io_backend=None))
    with pytest.raises(ValueError, match='meta_info_file is for folders'):
        build_dataset(train_data(photographs, meta_info_file='list.txt', io_backend={'type': 'lmdb'}))
    (tmp_path / 'empty.txt').write_text('\n')
    with pytest.raises(ValueError, match='the list of images of .* is empty'):
        build_dataset(train_data(photographs, meta_info_file=str(tmp_path / 'empty.txt')))
    (photographs / '0.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'cannot load .*0\.png'):
        build_dataset(train_data(photographs))[0]


@pytest.mark.parametrize('lora', [False, True])
def test_the_target_is_the_start_networks_output_and_stays_so(lora, tmp_path):
    base = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 4}
    network = {'type': 'LoRANet', 'base': base, 'rank': 2} if lora else base
    model = build_model(options(tmp_path / 'run', network))
    start = copy.deepcopy(model.net_g).eval()
    batches = [torch.rand(2, 3, 8, 8) for _ in range(4)]
    logs = []
    for i, lq in enumerate(batches, 1):
        model.feed_data({'lq': lq, 'lq_path': ['a', 'b']})
        with torch.no_grad():
            assert torch.equal(model.gt, start(lq).clamp(0, 1))
            away = (model.net_g(lq) - model.gt).abs().mean().item()
            expected = F.interpolate(model.net_g(lq), (8, 8), mode='bicubic', antialias=True).sub(lq).abs().mean()
        model.optimize_parameters(i)
        logs.append(dict(model.get_current_log()))
        assert logs[-1]['l_input'] == pytest.approx(expected.item(), rel=1e-5)
        assert logs[-1]['l_anchor'] == pytest.approx(away, rel=1e-5, abs=1e-9)
    assert logs[-1]['l_anchor'] > 10 * logs[0]['l_anchor'], 'at the start the network is its own anchor'
    assert not any(p.requires_grad for p in model.anchor.parameters())
    trained, kept = (dict(net.state_dict()) for net in (model.net_g, model.anchor))
    assert any(not torch.equal(trained[key], kept[key]) for key in trained if isinstance(trained[key], torch.Tensor))


def test_a_resumed_run_has_the_same_anchor(tmp_path):
    opt = options(tmp_path / 'run')
    whole = build_model(copy.deepcopy(opt))
    batches = [torch.rand(2, 3, 8, 8) for _ in range(6)]

    def step(model, i):
        model.update_learning_rate(i)
        model.feed_data({'lq': batches[i - 1], 'lq_path': ['a', 'b']})
        model.optimize_parameters(i)
        return dict(model.get_current_log())

    for i in (1, 2, 3):
        step(whole, i)
    whole.save(0, 3)
    expected = [step(whole, i) for i in (4, 5, 6)]
    state = torch.load(tmp_path / 'run' / 'training_states' / '3.state', weights_only=True)
    again = copy.deepcopy(opt)
    again['path'] |= {
        'resume_state': str(tmp_path / 'run' / 'training_states' / '3.state'),
        'pretrain_network_g': str(tmp_path / 'run' / 'models' / 'net_g_3.pth'),
    }
    resumed = build_model(copy.deepcopy(again))
    resumed.resume_training(state)
    assert [step(resumed, i) for i in (4, 5, 6)] == expected
    (tmp_path / 'run' / 'models' / 'net_g_start.pth').unlink()
    with pytest.raises(FileNotFoundError, match=r'train\.anchor: the resumed run lacks its start weights'):
        build_model(again)


def test_validation_never_sees_the_anchors_target(photographs, tmp_path):
    model = build_model(options(tmp_path / 'run'))
    model.feed_data({'lq': torch.rand(2, 3, 8, 8), 'lq_path': ['a', 'b']})
    data = build_dataset({'name': 'v', 'type': 'LROnlyDataset', 'phase': 'val', 'dataroot_lq': str(photographs),
                          'io_backend': {'type': 'disk'}})  # fmt: skip
    seen = []
    stock = model.test
    model.test = lambda: (seen.append(hasattr(model, 'gt')), stock())
    model.validation(torch.utils.data.DataLoader(data), 1, None, False)
    assert seen == [False, False]
    assert 0 < model.metric_results['brightness'] < 1
    model.feed_data({'lq': torch.rand(2, 3, 8, 8), 'lq_path': ['a', 'b']})
    assert model.gt.shape == (2, 3, 32, 32)


def test_options_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown value for train\.anchor: 'satrt'\. Did you mean 'start'"):
        build_model(options(tmp_path / 'a', anchor='satrt'))
    with pytest.raises(ValueError, match=r"unknown option 'ancor' in train; did you mean 'anchor'"):
        build_model(options(tmp_path / 'b', ancor='start'))


# --- several guards at once ---


def write_run(folder, network):
    """GT-free training by an ensemble, watched by a held-out judge and the alarm, on one LR image."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    lq = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for kind, image in (('gt', lq.resize((64, 64), Image.BICUBIC)), ('lq', lq)):
        (folder / kind).mkdir()
        image.save(folder / kind / 'one.png')
    terms = [
        {'type': 'L1Loss', 'weight': 0.1, 'name': 'anchor'},
        {'type': 'LRConsistencyLoss', 'weight': 0.1, 'name': 'input'},
        {'type': 'NRIQALoss', 'weight': 5.0, 'stop_at': 'target', 'ensemble': [
            {'tests.judges:Darkness': 2.0}, {'tests.judges:TinyNet': 1.0}]},
    ]  # fmt: skip
    pair = {'dataroot_gt': str(folder / 'gt'), 'dataroot_lq': str(folder / 'lq')}
    iqa = {'type': 'calculate_iqa'}
    opt = {
        'name': 'guards', 'model_type': 'PerceptualModel', 'scale': 4, 'num_gpu': 0, 'manual_seed': 1,
        'datasets': {
            'train': {**train_data(folder / 'lq', batch_size_per_gpu=1), 'use_hflip': True, 'use_rot': True},
            'val': {'name': 'one', 'type': 'CheckedPairedImageDataset', **pair, 'io_backend': {'type': 'disk'}},
        },
        'network_g': network,
        'path': {'experiments_root': 'experiments', 'resume_state': None, 'pretrain_network_g': None},
        'train': {
            'anchor': 'start', 'total_iter': 6, 'warmup_iter': -1, 'clip_grad_norm': 5.0,
            'optim_g': {'type': 'Adam', 'lr': 0.02}, 'scheduler': {'type': 'MultiStepLR', 'milestones': [5]},
            'pixel_opt': {'type': 'LossSum', 'terms': terms},
        },
        'val': {'val_freq': 3, 'save_img': False, 'save_best': 'held_out', 'metrics': {
            'held_out': {**iqa, 'metric': 'tests.judges:Brightness'},
            'judge': {**iqa, 'metric': 'tests.judges:Darkness'},
            'reference': {**iqa, 'metric': 'tests.judges:Distance'},
            'ensemble': {**iqa, 'ensemble': [{'tests.judges:Darkness': 2.0}, {'tests.judges:TinyNet': 1.0}]},
            'psnr': {'type': 'calculate_psnr', 'crop_border': 0}},
            'artifact_alarm': {'judge': 'judge', 'reference': 'reference', 'fall': 0.01}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 6, 'use_tb_logger': False, 'wandb': None},
    }  # fmt: skip
    file = folder / 'guards.yml'
    file.write_text('plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n' + yaml.safe_dump(opt))
    return file


def check_guards(tmp_path, network):
    file = write_run(tmp_path, network)
    command = [sys.executable, '-m', 'basicsr.train', '-opt', str(file)]
    result = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    text = result.stdout + result.stderr
    assert result.returncode == 0, text[-4000:]
    logged = re.findall(r'iter: +(\d+), .*?time \(data\): [^\]]*\] (.*)', text)
    assert [int(i) for i, _ in logged] == [1, 2, 3, 4, 5, 6]
    assert all(f'l_{name}: ' in rest for _, rest in logged for name in ('anchor', 'input', 'ensemble'))
    anchors = [float(re.search(r'l_anchor: (\S+)', rest)[1]) for _, rest in logged]
    assert anchors[-1] > 10 * anchors[0], 'at the start the network is its own anchor'
    experiment = tmp_path / 'experiments' / 'guards'
    with open(experiment / 'validation.csv', newline='') as rows:
        means = {(int(r['iteration']), r['metric']): float(r['mean']) for r in csv.DictReader(rows)}
    assert {i for i, _ in means} == {3, 6}
    names = {'held_out', 'judge', 'reference', 'ensemble', 'psnr', 'pattern'}
    assert {name for _, name in means} == names
    assert (experiment / 'models' / 'net_g_best_one_held_out.pth').is_file()
    return text, experiment


def test_ensemble_held_out_judge_stop_at_target_and_alarm_work_together_in_a_stock_training(tmp_path):
    text, experiment = check_guards(tmp_path, {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 4})
    assert 'ARTIFACT ALARM, one, iteration' in text, 'the distance to the ground truth grew'
    assert list((experiment / 'artifacts').glob('*.png'))


@pytest.mark.slow
def test_and_with_lora(tmp_path):
    base = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 4}
    check_guards(tmp_path, {'type': 'LoRANet', 'base': base, 'rank': 2})


def test_doctor_and_calibrate_know_training_without_ground_truth(tmp_path):
    from typer.testing import CliRunner

    from nriqa_plugin.cli import app

    file = write_run(tmp_path, {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 4})
    result = CliRunner().invoke(app, ['doctor', str(file)])
    text = ' '.join(result.output.split())
    assert result.exit_code == 0, result.output
    assert 'input' in text
    assert 'nobody told it' not in text
    # At the start the network is its own anchor, which pulls nowhere: the input is what shares refer to.
    result = CliRunner().invoke(
        app, ['calibrate', str(file), '--anchor', 'input', '--share', 'ensemble=1', '--batches', '2']
    )
    assert result.exit_code == 0, result.output
    assert not (tmp_path / 'experiments').exists(), 'nothing is written'


# --- mmagic ---


@pytest.mark.slow
def test_mmagic_trains_towards_the_start_generator_and_resumes_exactly(tmp_path):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from tests.mmagic_runs import JUDGES, forget_after, logged, paired, pipeline, run, short_run, write_config
    from tests.mmagic_runs import write_images as write_pairs

    write_pairs(tmp_path)
    terms = [*TERMS[:2], {'type': 'NRIQALoss', 'metric': 'tests.judges:Brightness', 'weight': 1.0}]
    load = [
        {'type': 'LoadImageFromFile', 'key': 'img', 'channel_order': 'rgb'},
        {'type': 'Crop', 'keys': ['img'], 'crop_size': (8, 8), 'random_crop': True},
        {'type': 'PackInputs'},
    ]
    config = {
        'model': {
            'generator': {'mid_channels': 4, 'num_blocks': 1},
            'pixel_loss': {'_delete_': True, 'type': 'LossSum', 'terms': terms, 'grad_norms': True},
        },
        'train_dataloader': {'num_workers': 0, 'batch_size': 2, 'dataset': {
            'data_root': str(tmp_path), 'data_prefix': {'img': 'lq'}, 'ann_file': '', 'pipeline': load}},
        'val_dataloader': {'num_workers': 0, 'dataset': {**paired(tmp_path), 'pipeline': pipeline()}},
        'val_evaluator': {'metrics': [{'type': 'PSNR', 'crop_border': 4}, {'type': 'RelativeGain', 'judges': JUDGES}]},
        **short_run(tmp_path),
        'optim_wrapper': {'optimizer': {'lr': 0.01}},
    }  # fmt: skip
    file = write_config(tmp_path, 'free', 'msrresnet_x4_gt_free.py', **config)
    whole = run('train', tmp_path, file)
    assert whole.returncode == 0, whole.text[-4000:]
    steps, validations = logged(tmp_path, 'free')
    assert sorted(steps) == [1, 2, 3, 4]
    assert sorted(validations) == [2, 4]
    assert steps[1]['loss_anchor'] < 0.1 * steps[4]['loss_anchor'], 'at the start the network is its own anchor'
    assert all(step['loss_input'] > 0 for step in steps.values())
    start = torch.load(tmp_path / 'free' / 'anchor.pth', weights_only=True)
    assert start
    assert not any('scorer' in key for key in start)
    forget_after(tmp_path, 'free', 2)
    resumed = run('train', tmp_path, file, '--resume')
    assert resumed.returncode == 0, resumed.text[-4000:]
    again, _ = logged(tmp_path, 'free')
    assert again == {i: steps[i] for i in (3, 4)}
    assert all(torch.equal(start[key], value) for key, value in
               torch.load(tmp_path / 'free' / 'anchor.pth', weights_only=True).items())  # fmt: skip


def test_mmagics_hook_copies_a_generator_wrapped_for_distributed_training_and_refuses_another_target(tmp_path):
    """``MMSeparateDistributedDataParallel`` wraps the networks of a GAN one by one."""
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from types import SimpleNamespace

    from mmagic.models.data_preprocessors import DataPreprocessor
    from mmengine.model import MMDistributedDataParallel

    from nriqa_plugin.mmagic.gt_free import AnchorHook
    from nriqa_plugin.mmagic.multigt import MultiGTPreprocessor

    generator = torch.nn.Conv2d(3, 3, 1)
    model = torch.nn.Module()
    model.data_preprocessor = DataPreprocessor()
    runner = SimpleNamespace(model=model, work_dir=tmp_path, iter=0, epoch=0)
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1)
    try:
        model.generator = MMDistributedDataParallel(generator, broadcast_buffers=False)
        hook = AnchorHook()
        hook.before_train(runner)
    finally:
        torch.distributed.destroy_process_group()
    assert type(hook.anchor) is torch.nn.Conv2d
    assert torch.load(tmp_path / 'anchor.pth', weights_only=True).keys() == generator.state_dict().keys()
    assert all(parameter.requires_grad for parameter in generator.parameters())
    model.data_preprocessor = object.__new__(MultiGTPreprocessor)
    with pytest.raises(ValueError, match='AnchorHook and MultiGTPreprocessor exclude each other'):
        AnchorHook().before_train(runner)
