"""``nriqa sweep``: which trainings follow from a file and a grid, that they go on, and what the figure is given."""

import csv
import subprocess
import sys

import pytest
from typer.testing import CliRunner

pytest.importorskip('yaml', reason='the extra basicsr is not installed')
pytest.importorskip('scipy', reason='the extra report is not installed')
pytest.importorskip('matplotlib', reason='the extra report is not installed')

from nriqa_plugin.cli import app
from nriqa_plugin.cli.sweep import parse_ratio
from nriqa_plugin.compare import runs
from nriqa_plugin.compare.sweep import read_sweep, run_sweep, write_sweep
from nriqa_plugin.compare.yaml_files import read_yaml, yaml_text
from nriqa_plugin.evaluation.comparison import compare_methods
from nriqa_plugin.evaluation.sweep_figure import sweep_figure
from tests.compare_families import PLUGIN, FakeHost, base_options, write_images
from tests.conftest import ROOT

L1 = {'type': 'L1Loss', 'weight': 1.0}
SSIM = {'type': 'FRIQALoss', 'metric': 'ssim', 'weight': 0.2}
BRIGHT = {'type': 'NRIQALoss', 'metric': 'tests.judges:Brightness', 'weight': 0.05, 'name': 'bright'}
JUDGES = [{'metric': 'psnr'}, {'metric': 'ssim'}, {'metric': 'tests.judges:Brightness'}]
GAN = {
    'perceptual_opt': None,
    'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'real_label_val': 1.0, 'fake_label_val': 0.0, 'loss_weight': 0.1},
    'optim_d': {'type': 'Adam', 'lr': 1e-4},
    'net_d_iters': 1,
    'net_d_init_iters': 0,
}  # fmt: skip


def write_base(folder, name='base', terms=(L1, SSIM, BRIGHT), gan=False, steps=8):
    options = base_options(folder, steps)
    options['train']['pixel_opt']['terms'] = terms if isinstance(terms, dict) else list(terms)
    if gan:
        options['base_model'] = 'SRGANModel'
        options['train'] |= GAN
        options['network_d'] = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}
    file = folder / f'{name}.yml'
    file.write_text(PLUGIN + yaml_text(options))
    return file


def sweep_of(folder, **options):
    given = {'perceptual': 'ssim', 'judge': 'bright', 'ratios': [(1, 1), (1, 0), (2, 0.5)], **options}
    return read_sweep(write_base(folder), judges=JUDGES, **given)


def test_ratios_are_multiples_of_the_files_weights_by_rising_share_of_the_judge(tmp_path):
    points = sweep_of(tmp_path)
    assert [(p.name, p.kind, p.label) for p in points] == [
        ('p1_q0', 'ratio', '1:0'), ('p2_q0p5', 'ratio', '2:0.5'), ('p1_q1', 'ratio', '1:1')
    ]  # fmt: skip
    assert [(p.lambda_p, p.lambda_q) for p in points] == [(0.2, 0.0), (0.4, 0.025), (0.2, 0.05)]
    terms = [p.family.losses[p.name] for p in points]
    assert list(terms[0]) == ['l1', 'ssim'], 'a judge of weight 0 is not even built'
    assert terms[1]['ssim'] == {**SSIM, 'weight': 0.4}
    assert terms[1]['bright']['weight'] == 0.025
    assert terms[1]['l1'] == L1
    assert 'name' not in terms[1]['bright'], 'the key is the name'


def test_gan_points_scale_the_gan_of_their_own_file_and_have_no_judge(tmp_path):
    gan = write_base(tmp_path, 'gan', gan=True)
    points = sweep_of(tmp_path, ratios=[(1, 1)], gan=[10, 1, 3], gan_base=gan, settings={'train:total_iter': 6})
    assert [(p.name, p.label, round(p.gan_weight or 0, 9)) for p in points] == [
        ('p1_q1', '1:1', 0), ('gan_x1', 'x1', 0.1), ('gan_x3', 'x3', 0.3), ('gan_x10', 'x10', 1.0)
    ]  # fmt: skip
    for point, factor in zip(points[1:], (1, 3, 10), strict=True):
        assert point.family.base == gan
        assert 'bright' not in point.family.losses[point.name]
        text = runs.Training(
            runs.host_of(point.family), tmp_path / point.name, point.name, point.family.losses[point.name]
        ).option_text()
        (tmp_path / 'written.yml').write_text(text)
        written = read_yaml(tmp_path / 'written.yml')
        assert written['train']['gan_opt']['loss_weight'] == pytest.approx(0.1 * factor)
        assert written['train']['total_iter'] == 6
        assert set(written['train']['pixel_opt']['terms']) == {'l1', 'ssim'}


def test_terms_may_be_a_mapping_and_judges_follow_from_them(tmp_path):
    terms = {'l1': L1, 'p': SSIM, 'q': {**BRIGHT, 'options': {}}, 'off': None}
    terms['q'].pop('name')
    points = read_sweep(write_base(tmp_path, terms=terms), 'p', 'q', [(1, 1)])
    assert points[0].family.judges == [
        {'metric': 'psnr'}, {'metric': 'ssim'}, {'metric': 'tests.judges:Brightness', 'options': {}}
    ]  # fmt: skip
    terms['q'] = {'type': 'NRIQALoss', 'ensemble': [{'niqe': 1.0}, {'cnniqa': 2.0}], 'weight': 0.1}
    points = read_sweep(write_base(tmp_path, terms=terms), 'p', 'q', [(1, 1)])
    assert points[0].family.judges[2] == {'metric': 'ensemble', 'options': {'judges': terms['q']['ensemble']}}


def test_configs_of_mmagic_are_swept_too(tmp_path):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from mmengine.config import Config

    folder = ROOT / 'options' / 'mmagic'
    base, gan = folder / 'realesrgan_x4_amo_ft.py', folder / 'realesrgan_x4_amo_ft_ig.py'
    points = read_sweep(base, 'perceptual', 'judge', [(1, 0), (2, 3)], [10], gan, JUDGES, {'train_cfg.max_iters': 6})
    written = {}
    for point in points:
        training = runs.Training(runs.host_of(point.family), tmp_path, point.name, point.family.losses[point.name])
        training.file.write_text(training.option_text())
        written[point.name] = Config.fromfile(training.file, import_custom_modules=False)
    assert list(written) == ['p1_q0', 'p2_q3', 'gan_x10']
    for name, judge in (('p1_q0', None), ('p2_q3', 1.5e-4), ('gan_x10', None)):
        terms = written[name].model.pixel_loss.terms
        assert terms.get('judge', {}).get('weight') == (judge and pytest.approx(judge))
        assert terms.perceptual.weight == (2.0 if name == 'p2_q3' else 1.0)
        assert written[name].train_cfg.max_iters == 6
    assert written['gan_x10'].model.gan_loss.loss_weight == pytest.approx(1.0)
    assert written['p1_q0'].model.gan_loss is None
    with pytest.raises(ValueError, match=r'amo_ft\.py has no model\.gan_loss\.loss_weight to scale; .*--gan-base'):
        read_sweep(base, 'perceptual', 'judge', gan=[1], judges=JUDGES)
    with pytest.raises(ValueError, match='is of another framework than'):
        read_sweep(base, 'perceptual', 'judge', gan=[1], gan_base=write_base(tmp_path, gan=True), judges=JUDGES)


def test_a_gan_that_the_model_does_not_train_with_is_no_control(tmp_path):
    base = ROOT / 'options' / 'basicsr' / 'swinir_x4_amo_ft.yml'  # its gan_opt is read with RealESRGANModel only
    with pytest.raises(ValueError, match='RealESRNetModel does not read train.gan_opt.loss_weight'):
        read_sweep(base, 'perceptual', 'judge', gan=[1, 3], judges=JUDGES)
    points = read_sweep(base, 'perceptual', 'judge', gan=[3], judges=JUDGES, settings={'base_model': 'RealESRGANModel'})
    assert points[0].gan_weight == pytest.approx(0.3)


def test_a_gan_file_whose_judge_has_another_name_is_no_control(tmp_path):
    gan = write_base(tmp_path, 'gan', (L1, SSIM, {**BRIGHT, 'name': 'light'}), gan=True)
    with pytest.raises(ValueError, match=r"gan\.yml has the no-reference term 'light'"):
        sweep_of(tmp_path, gan=[1], gan_base=gan)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'judge': 'brihgt'}, r"unknown term for --judge in .*base\.yml: 'brihgt'\. Did you mean 'bright'"),
        ({'perceptual': 'bright'}, "--perceptual and --judge name the same term 'bright'"),
        ({'ratios': [(1, -1)]}, r'--ratio 1:-1 must be finite and at least 0'),
        ({'ratios': [(1, 1), (1, 1)]}, 'the sweep holds 1:1 twice'),
        ({'ratios': []}, 'nothing to sweep'),
        ({'gan': [1]}, r'base\.yml has no train\.gan_opt\.loss_weight to scale; .*--gan-base'),
    ],
)
def test_wrong_options_are_named(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sweep_of(tmp_path, **options)


def test_files_that_cannot_be_swept_are_named(tmp_path):
    with pytest.raises(ValueError, match=r'base\.yml: weight of bright must be|weight of bright'):
        read_sweep(write_base(tmp_path, terms=[L1, SSIM, {**BRIGHT, 'weight': 0.0}]), 'ssim', 'bright', [(1, 1)])
    with pytest.raises(TypeError, match='weight of bright must be a number'):
        read_sweep(write_base(tmp_path, terms=[L1, SSIM, {**BRIGHT, 'weight': 'paper'}]), 'ssim', 'bright', [(1, 1)])
    with pytest.raises(ValueError, match='two terms of .* are named'):
        read_sweep(write_base(tmp_path, terms=[L1, L1, SSIM, BRIGHT]), 'ssim', 'bright', [(1, 1)])
    with pytest.raises(ValueError, match='the term L1Loss is no judge that could score the results'):
        read_sweep(write_base(tmp_path), 'l1', 'bright', [(1, 1)])
    (tmp_path / 'plain.yml').write_text('train: {pixel_opt: {type: L1Loss}}')
    with pytest.raises(ValueError, match=r'plain\.yml: train\.pixel_opt must be a LossSum with terms'):
        read_sweep(tmp_path / 'plain.yml', 'a', 'b', [(1, 1)])
    with pytest.raises(ValueError, match=r'--ratio 1-3: must be P:Q'):
        parse_ratio('1-3')


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Every training is a copy of the ground truth with noise that grows with the judge's weight."""
    write_images(tmp_path)
    host = FakeHost(tmp_path, lambda terms: 0.01 + terms.get('bright', {'weight': 0})['weight'])
    monkeypatch.setattr(runs, 'host_of', lambda family, seed=0: host)
    return host


def test_a_stopped_sweep_goes_on_and_the_table_holds_the_means(fake, tmp_path):
    points = sweep_of(tmp_path)
    fake.interrupt = {'p2_q0p5'}
    with pytest.raises(KeyboardInterrupt):
        run_sweep(points, tmp_path / 'out')
    assert fake.trained == ['p1_q0', 'p2_q0p5']
    outcomes = run_sweep(points, tmp_path / 'out')
    assert fake.trained == ['p1_q0', 'p2_q0p5', 'p2_q0p5', 'p1_q1']
    assert [outcome.status for outcome in outcomes] == ['finished'] * 3
    rows, _ = write_sweep(points, outcomes, tmp_path / 'out')
    means = {(row.metric, row.method): row.mean for row in rows}
    assert means['psnr', 'p1_q0'] > means['psnr', 'p2_q0p5'] > means['psnr', 'p1_q1']
    with open(tmp_path / 'out' / 'sweep.csv', newline='') as file:
        table = list(csv.DictReader(file))
    assert [(row['name'], float(row['lambda_q']), row['status']) for row in table] == [
        ('p1_q0', 0.0, 'finished'), ('p2_q0p5', 0.025, 'finished'), ('p1_q1', 0.05, 'finished')
    ]  # fmt: skip
    for row in table:
        assert float(row['held_out/psnr']) == pytest.approx(means['psnr', row['name']])
    for name in ('sweep_held_out.png', 'sweep_held_out.pdf', 'report.html', 'scores.csv'):
        assert (tmp_path / 'out' / name).stat().st_size > 1000
    assert [o.status for o in run_sweep(points, tmp_path / 'out', report_only=True)] == ['finished'] * 3


def test_a_training_that_breaks_down_leaves_the_others(fake, tmp_path):
    points = sweep_of(tmp_path)
    fake.breaks = {'p1_q1'}
    outcomes = run_sweep(points, tmp_path / 'out')
    assert [outcome.status for outcome in outcomes] == ['finished', 'finished', 'failed']
    write_sweep(points, outcomes, tmp_path / 'out')
    last = (tmp_path / 'out' / 'sweep.csv').read_text().splitlines()[-1]
    assert last.startswith('p1_q1,ratio,0.2,0.05,,failed,,')


def test_other_options_are_refused_before_anything_runs(fake, tmp_path):
    run_sweep(sweep_of(tmp_path, ratios=[(1, 1)]), tmp_path / 'out')
    with pytest.raises(ValueError, match='was begun with other options'):
        run_sweep(sweep_of(tmp_path), tmp_path / 'out', steps=7)
    assert fake.trained == ['p1_q1']


def test_the_figure_is_given_every_mean_interval_and_gap():
    samples = {name: {f'{i}': base + i for i in range(4)} for name, base in (('a', 1.0), ('c', 3.0), ('g', 5.0))}
    panels = [compare_methods('set', metric, True, samples) for metric in ('psnr', 'musiq')]
    figure = sweep_figure('title', panels, {'ratios': {'a': '1:0', 'b': '1:1', 'c': '1:3'}, 'GAN': {'g': 'x3'}})
    axes = figure.axes
    assert len(axes) == 4
    line = axes[0].containers[0].lines[0]
    assert line.get_xdata().tolist() == [0, 2], 'b has not finished'
    assert line.get_ydata().tolist() == [2.5, 4.5]
    (bars,) = axes[0].containers[0].lines[2]
    row = panels[0][0]
    assert bars.get_segments()[0][:, 1].tolist() == pytest.approx([row.mean_low, row.mean_high])
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ['1:0', '1:1', '1:3']
    assert axes[0].get_ylabel() == 'psnr (higher is better)'
    assert axes[1].containers[0].lines[0].get_ydata().tolist() == [6.5]


@pytest.mark.slow
def test_the_command_sweeps_ratios_and_gan_weights_through_the_stock_script(tmp_path):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    write_images(tmp_path)
    base, gan = write_base(tmp_path), write_base(tmp_path, 'gan', gan=True)
    out = tmp_path / 'out'
    command = [sys.executable, '-m', 'nriqa_plugin', 'sweep', str(base), '-o', str(out), '--perceptual', 'ssim', '--judge',
               'bright', '--ratio', '1:0', '--ratio', '1:1', '--gan', '3', '--gan-base', str(gan), '--steps', '4']  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    with open(out / 'sweep.csv', newline='') as file:
        table = {row['name']: row for row in csv.DictReader(file)}
    assert list(table) == ['p1_q0', 'p1_q1', 'gan_x3']
    for row in table.values():
        assert row['status'] == 'finished'
        assert float(row['val/psnr']) > 5
        assert 0 < float(row['val/brightness']) < 1
    assert float(table['gan_x3']['gan_weight']) == pytest.approx(0.3)
    written = read_yaml(out / 'gan_x3' / 'gan_x3.yml')
    assert written['base_model'] == 'SRGANModel'
    assert (out / 'sweep_val.png').is_file()


def test_the_command_names_what_is_wrong(tmp_path):
    arguments = [
        'sweep',
        str(write_base(tmp_path)),
        '-o',
        str(tmp_path / 'out'),
        '--perceptual',
        'ssim',
        '--judge',
        'no',
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert 'unknown term for --judge in' in ' '.join(result.output.split())
