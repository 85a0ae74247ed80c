"""DnCNN through the stock scripts of both hosts: degradation on the fly, decay, validation loss, best checkpoint, resume."""

import csv
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

from nriqa_plugin.mdf.discriminator import Discriminator
from nriqa_plugin.mdf.mdf_file import save_mdf
from tests.conftest import ROOT

STEPS, HALF = 6, 3


@pytest.fixture
def folder(tmp_path):
    """``train/one.png``, ``val/*.png`` and ``mdf.pth``."""
    rng = np.random.default_rng(0)
    for name in ('train/one', 'val/two', 'val/three'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (13, 14, 3), dtype=np.uint8))
        small.resize((112, 104), Image.BICUBIC).save(tmp_path / f'{name}.png')
    torch.manual_seed(0)
    save_mdf(tmp_path / 'mdf.pth', [Discriminator(4), Discriminator(4)], {'task': 'denoise', 'range': [0, 1]})
    return tmp_path


def write_yml(folder, name):
    """Our own option file at a size for tests; one image and batch 1, for BasicSR replays the epoch after a resume."""
    import yaml

    line = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n'
    text = (ROOT / 'options' / 'basicsr' / 'dncnn_denoise_mdf.yml').read_text()
    assert line in text
    opt = yaml.safe_load(text.replace(line, ''))
    opt |= {'name': name, 'num_gpu': 0, 'manual_seed': 3}
    opt['network_g'] |= {'nc': 4, 'nb': 3}
    train, val = opt['datasets']['train'], opt['datasets']['val']
    train |= {'dataroot_gt': str(folder / 'train'), 'gt_size': 24, 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0}
    train |= {'dataset_enlarge_ratio': 100}
    val |= {'dataroot_gt': str(folder / 'val')}
    opt['datasets']['val_2'] = {**val, 'name': 'q7', 'degradation': {'type': 'jpeg', 'quality': 7}}
    opt['train'] |= {'total_iter': STEPS, 'warmup_iter': 2}
    opt['train']['pixel_opt']['terms'] = {
        'mdf': {'type': 'MDFLoss', 'weights': str(folder / 'mdf.pth'), 'weight': 1.0, 'warmup_iter': 4},
        'l2': {'type': 'MSELoss', 'weight': 2.0, 'start_iter': 1000},
    }
    opt['val']['val_freq'] = HALF
    opt['val']['metrics']['own'] = {'type': 'calculate_loss', 'terms': [{'type': 'MSELoss', 'weight': 2.0}]}
    opt['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': HALF, 'use_tb_logger': False}
    (folder / f'{name}.yml').write_text(line + yaml.safe_dump(opt))
    return folder / f'{name}.yml'


@pytest.fixture
def basicsr_runs():
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from tests import test_basicsr_train

    return test_basicsr_train


def rates(text):
    import re

    return {int(i): float(lr) for i, lr in re.findall(r'iter: +(\d+), lr:\(([^,]+),', text)}


def history(folder, name):
    """``{(data set, metric): {iteration: mean}}``."""
    found = {}
    with open(folder / 'experiments' / name / 'validation.csv', newline='') as file:
        for row in csv.DictReader(file):
            found.setdefault((row['dataset'], row['metric']), {})[int(row['iteration'])] = float(row['mean'])
    return found


def reference_loss(folder, state, seeds):
    """MDF and 2 * MSE of the validation images, by the core alone; ``seeds`` are those of their noise."""
    from nriqa_plugin.archs import DnCNN
    from nriqa_plugin.losses import MDFLoss
    from nriqa_plugin.mdf.distortions import GaussianNoise

    net = DnCNN(in_nc=3, out_nc=3, nc=4, nb=3).eval()
    net.load_state_dict(state)
    mdf, values, squares = MDFLoss(weights=str(folder / 'mdf.pth')), [], []
    for name, seed in zip(('three', 'two'), seeds, strict=True):
        image = np.array(Image.open(folder / 'val' / f'{name}.png'))
        gt = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence((0, seed)).generate_state(1)[0]))
        lq = GaussianNoise((0, 55))(gt, generator)
        with torch.no_grad():
            out = (net(lq).clamp(0, 1) * 255).round() / 255
            squares.append(2 * (out - gt).square().mean().item())
            values.append(mdf(out, gt).item())
    return np.mean(values), np.mean(squares)


def test_stock_basicsr_trains_dncnn_with_mdf_and_keeps_the_best_validation_loss(folder, basicsr_runs):
    result = basicsr_runs.run(basicsr_runs.STOCK, folder, write_yml(folder, 'whole'))
    log = result.stdout + result.stderr
    assert result.returncode == 0, log
    losses = basicsr_runs.losses(log)
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert all('l_mdf' in line and 'l_l2' not in line for line in losses.values())  # l2 sleeps in the training
    expected = [0.1 * 0.001 ** ((i - 1) / (STEPS - 1)) for i in range(1, STEPS + 1)]
    expected[0] = 0.1 / 2  # the host's warm-up covers the first iteration
    assert [rates(log)[i] for i in range(1, STEPS + 1)] == pytest.approx(expected, rel=1e-3)

    found = history(folder, 'whole')
    assert {name for name, _ in found} == {'DIV2K_val', 'q7'}
    models = folder / 'experiments' / 'whole' / 'models'
    for iteration in (HALF, STEPS):
        state = torch.load(models / f'net_g_{iteration}.pth', weights_only=True)['params']
        distance, square = reference_loss(folder, state, seeds=(0, 1))  # the images' places
        assert found['DIV2K_val', 'loss'][iteration] == pytest.approx(distance + square, rel=1e-3)
        assert found['DIV2K_val', 'own'][iteration] == pytest.approx(square, rel=1e-3)
    for data_set in ('DIV2K_val', 'q7'):
        values = found[data_set, 'loss']
        best = torch.load(models / f'net_g_best_{data_set}_loss.pth', weights_only=True)['params']
        lowest = torch.load(models / f'net_g_{min(values, key=values.get)}.pth', weights_only=True)['params']
        assert all(torch.equal(best[key], lowest[key]) for key in best)


@pytest.mark.slow
def test_a_resumed_basicsr_run_has_the_same_losses_rates_and_validations(folder, basicsr_runs):
    whole = basicsr_runs.run(basicsr_runs.OURS, folder, write_yml(folder, 'whole'))
    expected = basicsr_runs.losses(whole.stdout + whole.stderr)
    experiment = folder / 'experiments' / 'whole'
    before = (experiment / 'validation.csv').read_text()
    (experiment / 'training_states' / f'{STEPS}.state').unlink()
    resumed = basicsr_runs.run(basicsr_runs.OURS, folder, folder / 'whole.yml', '--auto_resume')
    log = resumed.stdout + resumed.stderr
    assert resumed.returncode == 0, log
    assert basicsr_runs.losses(log) == {i: expected[i] for i in range(HALF + 1, STEPS + 1)}
    first = rates(whole.stdout + whole.stderr)
    assert rates(log) == {i: first[i] for i in range(HALF + 1, STEPS + 1)}
    assert (experiment / 'validation.csv').read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize('loss', ['mdf', 'ssim'])
def test_stock_mmagic_trains_dncnn_keeps_the_best_validation_loss_and_resumes_to_the_same_losses(
    folder, loss, monkeypatch
):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from tests import mmagic_runs

    monkeypatch.setitem(mmagic_runs.ENVIRONMENT, 'LOSS', loss)
    pipeline_free = {'num_workers': 0, 'persistent_workers': False}
    images = {kind: {'data_root': str(folder), 'data_prefix': {'gt': kind}} for kind in ('train', 'val')}
    model = {'generator': {'nc': 4, 'nb': 3}}
    if loss == 'mdf':
        model['pixel_loss'] = {'terms': {'mdf': {'weights': str(folder / 'mdf.pth')}}}
    config = mmagic_runs.write_config(
        folder,
        'run',
        'dncnn_denoise_mdf.py',
        model=model,
        train_dataloader={**pipeline_free, 'batch_size': 2, 'dataset': images['val']},
        val_dataloader={**pipeline_free, 'dataset': images['val']},
        **mmagic_runs.short_run(folder / 'run', STEPS, HALF, save_best='objective'),
    )
    whole = mmagic_runs.run('train', folder, config)
    assert whole.returncode == 0, whole.text
    steps, validations = mmagic_runs.logged(folder, 'run')
    assert sorted(steps) == list(range(1, STEPS + 1))
    for iteration, row in steps.items():
        assert row['lr'] == pytest.approx(0.1 * 0.001 ** ((iteration - 1) / (STEPS - 1)), rel=1e-5)
        assert f'loss_{loss}' in row
    values = {iteration: row['objective'] for iteration, row in validations.items()}
    assert sorted(values) == [HALF, STEPS]
    best = list((folder / 'run').rglob('best_objective_iter_*.pth'))
    assert [file.stem for file in best] == [f'best_objective_iter_{min(values, key=values.get)}']

    checkpoints = next((folder / 'run').rglob(f'iter_{HALF}.pth')).parent
    if loss == 'mdf':
        import nriqa_plugin.mmagic  # noqa: F401 - torch.load accepts what mmengine's checkpoints hold

        for iteration, value in values.items():
            saved = torch.load(checkpoints / f'iter_{iteration}.pth', weights_only=True)['state_dict']
            state = {key.removeprefix('generator.'): part for key, part in saved.items() if 'generator.' in key}
            distance, _ = reference_loss(folder, state, seeds=[crc32(name) for name in (b'three.png', b'two.png')])
            assert value == pytest.approx(distance, rel=1e-3)

    (checkpoints / f'iter_{STEPS}.pth').unlink()
    (folder / 'run' / 'last_checkpoint').write_text(str(checkpoints / f'iter_{HALF}.pth'))
    resumed = mmagic_runs.run('train', folder, config, '--resume')
    assert resumed.returncode == 0, resumed.text
    again, validated = mmagic_runs.logged(folder, 'run')
    assert again == {i: steps[i] for i in range(HALF + 1, STEPS + 1)}
    assert validated[STEPS]['objective'] == values[STEPS]
