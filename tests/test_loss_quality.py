"""Losses as predictors of quality: tables, correlations, the wrapped loss, and the command on distorted images."""

import csv
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip('scipy', reason='the extra report is not installed')
pytest.importorskip('matplotlib', reason='the extra report is not installed')

from scipy import stats
from torch import nn

from nriqa_plugin.cli import app
from nriqa_plugin.cli.losses import NAMED, loss_of, losses_of_file
from nriqa_plugin.evaluation.images import write_image
from nriqa_plugin.losses import FRIQALoss, LossSum
from nriqa_plugin.preference.loss_judge import LossJudge
from nriqa_plugin.preference.loss_quality import Rated, loss_rows, read_rated, srocc, too_few
from nriqa_plugin.preference.loss_quality_figure import loss_quality_figure


def rated(n=24, kinds=('blur', 'noise'), scenes=6, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Rated(f'{i}.png', rng.normal(), f'ref{i % scenes}', kinds[i % len(kinds)], f'ref{i % scenes}') for i in range(n)
    ]


def values_of(images, noise, seed=1):
    rng = np.random.default_rng(seed)
    return {one.image: -one.quality + noise * rng.normal() for one in images}


def test_the_correlation_is_scipys_and_that_of_minus_the_loss():
    images = rated()
    losses = {'good': values_of(images, 0.3), 'wrong': {one.image: one.quality for one in images}}
    rows = {(row.kind, row.loss): row for row in loss_rows(images, losses, resamples=200)}
    expected = stats.spearmanr([-losses['good'][one.image] for one in images], [one.quality for one in images])
    assert rows['all', 'good'].srocc == pytest.approx(expected.statistic)
    assert rows['all', 'wrong'].srocc == pytest.approx(-1)
    blurred = [one for one in images if one.kind == 'blur']
    expected = stats.spearmanr([-losses['good'][one.image] for one in blurred], [one.quality for one in blurred])
    assert rows['blur', 'good'].srocc == pytest.approx(expected.statistic)
    assert (rows['blur', 'good'].n, rows['all', 'good'].n, rows['all', 'good'].scenes) == (12, 24, 6)
    assert rows['all', 'good'].low < rows['all', 'good'].srocc < rows['all', 'good'].high


def test_ties_are_shared_ranks_and_a_constant_has_no_correlation():
    pairs = np.array([[1, 2], [1, 3], [2, 3], [5, 9], [4, 1]], dtype=float)
    assert srocc(pairs) == pytest.approx(stats.spearmanr(*pairs.T).statistic)
    assert math.isnan(srocc(np.array([[1.0, 2.0], [1.0, 3.0]])))
    images = rated()
    row = loss_rows(images, {'flat': {one.image: 1.0 for one in images}}, resamples=20)[0]
    assert math.isnan(row.srocc)


def test_within_a_scene_its_own_level_does_not_matter():
    """Quality and loss both shift from scene to scene: only the order within counts."""
    images, values = [], {}
    for scene in range(5):
        for place, method in enumerate('abcd'):
            name = f'{method}/{scene}'
            images.append(Rated(name, float(place), kind=method, scene=str(scene)))
            values[name] = 100.0 * scene - place
    (row,) = loss_rows(images, {'loss': values}, within=True, resamples=50)
    assert (row.srocc, row.low, row.high, row.n, row.scenes) == (1, 1, 1, 20, 5)
    across = loss_rows(images, {'loss': values}, resamples=50)[0]
    assert abs(across.srocc) < 0.3
    values['a/0'], values['d/0'] = values['d/0'], values['a/0']  # one scene upside down but for the middle
    (row,) = loss_rows(images, {'loss': values}, within=True, resamples=50)
    each = [1, 1, 1, 1, stats.spearmanr([3, 1, 2, 0], range(4)).statistic]
    assert row.srocc == pytest.approx(np.mean(each))
    for name in 'abcd':
        values[f'{name}/4'] = 7.0  # a scene about which the loss says nothing
    (row,) = loss_rows(images, {'loss': values}, within=True, resamples=50)
    assert row.srocc == pytest.approx(np.mean(each[1:]))
    assert (row.n, row.scenes) == (20, 4)
    with pytest.raises(ValueError, match='must say the scene'):
        loss_rows([Rated('x', 1.0)] * 3, {'loss': {'x': 1.0}}, within=True)


def test_groups_of_fewer_than_three_images_have_no_row_and_are_told():
    images = [Rated(f'{i}', float(i), kind='ab'[i > 3], dataset='big') for i in range(6)]
    images += [Rated(f'x{i}', float(i), dataset='small') for i in range(2)]
    rows = loss_rows(images, {'loss': values_of(images, 0)}, resamples=20)
    assert [(row.dataset, row.kind) for row in rows] == [('big', 'all'), ('big', 'a')]
    assert too_few(images) == {('big', 'b'): 2, ('small', 'all'): 2}


def test_images_without_a_value_are_named():
    images = rated(6)
    with pytest.raises(ValueError, match=r'l1 has no finite value for .*3\.png'):
        loss_rows(images, {'l1': {**values_of(images, 0), '3.png': math.nan}})
    with pytest.raises(ValueError, match=r'l1 has no finite value for .*3\.png'):
        loss_rows(images, {'l1': {k: v for k, v in values_of(images, 0).items() if k != '3.png'}})


def write_table(path, header, rows):
    with open(path, 'w', newline='') as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_table_is_read_by_its_columns_or_a_mapping(tmp_path):
    header = ('image', 'mos', 'reference', 'kind', 'dataset', 'low')
    plain = write_table(tmp_path / 'mos.csv', header, [('a.png', 3.5, 'r.png', 'blur', 'live', 3.0)])
    (one,) = read_rated(plain)
    assert one.__dict__ | {'high': 0} == {
        'image': 'a.png', 'quality': 3.5, 'reference': 'r.png', 'kind': 'blur', 'scene': 'r.png', 'dataset': 'live',
        'low': 3.0, 'high': 0,
    }  # fmt: skip
    assert math.isnan(one.high)
    jnd = write_table(tmp_path / 'jnd.csv', ('scene', 'condition', 'jnd'), [('s1.png', 'm', 0.7), ('s2.png', 'm', -1)])
    found = read_rated(jnd, 'image={condition}/{scene},mos=jnd,kind=condition,scene=scene,mos_better=lower')
    assert [(one.image, one.quality, one.scene, one.kind) for one in found] == [
        ('m/s1.png', -0.7, 's1.png', 'm'), ('m/s2.png', 1, 's2.png', 'm')
    ]  # fmt: skip


def test_the_interval_of_a_dmos_changes_its_sign_with_it(tmp_path):
    table = write_table(tmp_path / 't.csv', ('image', 'dmos', 'from', 'to'), [('a', 3, 2.5, 4), ('b', 1, '', 2)])
    one, two = read_rated(table, 'image=image,mos=dmos,low=from,high=to,mos_better=lower')
    assert (one.quality, one.low, one.high) == (-3, -4, -2.5)
    assert (two.quality, two.low) == (-1, -2)
    assert math.isnan(two.high)


def test_ends_of_an_interval_may_be_empty_or_nan_but_no_words(tmp_path):
    header = ('image', 'mos', 'low', 'high')
    rows = [('a', 1, 0.5, 1.5), ('b', 2, '', ''), ('c', 3, 'nan', 'NaN')]
    known, *unknown = read_rated(write_table(tmp_path / 't.csv', header, rows))
    assert (known.low, known.high) == (0.5, 1.5)
    assert [one.quality for one in unknown] == [2, 3]
    assert all(math.isnan(end) for one in unknown for end in (one.low, one.high))
    with pytest.raises(ValueError, match='low is no number'):
        read_rated(write_table(tmp_path / 't.csv', header, [('a', 1, 'none', 2)]))


@pytest.mark.parametrize(
    ('rows', 'columns', 'said'),
    [
        ([('a.png', 'x')], None, 'mos is no number'),
        ([('a.png', 'nan')], None, 'mos is NaN'),
        ([('a.png', 1), ('a.png', 2)], None, 'has an opinion already'),
        ([('a.png', 1)], 'image=image', 'mos must be given'),
        ([('a.png', 1)], 'image=image,mos=mso', "column of .*'mso'. Did you mean 'mos'"),
        ([('a.png', 1)], 'image=image,mos=mos,low=mos,hihg=mos', "field of --columns: 'hihg'. Did you mean 'high'"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, rows, columns, said):
    with pytest.raises(ValueError, match=said):
        read_rated(write_table(tmp_path / 't.csv', ('image', 'mos'), rows), columns)


def test_a_wrapped_loss_is_the_loss_image_by_image():
    pred, target = torch.rand(3, 3, 24, 24), torch.rand(3, 3, 24, 24)
    judge = loss_of('l2')
    expected = [nn.functional.mse_loss(p, t).item() for p, t in zip(pred, target, strict=True)]
    assert judge(pred, target).tolist() == pytest.approx(expected)
    assert not judge.higher_better
    assert judge.needs_reference
    ssim = loss_of('ssim')(pred, target)
    assert ssim.tolist() == pytest.approx([FRIQALoss('ssim')(p[None], t[None]).item() for p, t in
                                           zip(pred, target, strict=True)])  # fmt: skip
    same = loss_of('ssim')(target, target)
    assert (same < ssim).all()  # a loss: lower is better


def test_the_hash_of_a_loss_knows_its_options_and_its_weights(tmp_path):
    one, same, other = (loss_of(text).weights_hash() for text in ('ssim', 'ssim', 'ssim:crop_border=4'))
    assert one == same != other
    sums = [LossJudge('s', LossSum(terms), repr(terms)).weights_hash() for terms in
            ({'l1': {'type': 'L1Loss', 'weight': w}} for w in (1.0, 2.0))]  # fmt: skip
    assert sums[0] != sums[1]


def test_an_image_that_a_loss_leaves_out_in_training_is_refused_here():
    """NIQE is undefined on flat images; in training they are left out, here that would be a value of 0."""
    judge = loss_of('niqe')
    with pytest.raises(ValueError, match='niqe is undefined for image'):
        judge(torch.zeros(1, 3, 192, 192))


def test_the_losses_of_a_file_are_those_of_compare(tmp_path):
    from tests.conftest import ROOT

    text = (ROOT / 'options' / 'compare' / 'eight_losses.yml').read_text()
    file = tmp_path / 'losses.yml'
    file.write_text('losses:\n' + text.split('losses:\n')[1].split('  vgg_l2:')[0])
    found = {judge.name: judge for judge in losses_of_file(file, {})}
    assert list(found) == ['l1', 'l2', 'ssim', 'ms_ssim', 'ms_ssim_l1']
    pred, target = torch.rand(1, 3, 96, 96), torch.rand(1, 3, 96, 96)
    mixed, l1, ms_ssim = (found[name](pred, target).item() for name in ('ms_ssim_l1', 'l1', 'ms_ssim'))
    assert mixed == pytest.approx(0.84 * ms_ssim + 0.16 * l1)
    with pytest.raises(ValueError, match="term in --weights: 'mfd'"):
        losses_of_file(file, {'mfd': 'x.pth'})
    for text, said in (
        ('losses: [l1]', 'must hold losses'),
        ('losses: {a: {l1: 1.0}}', r'losses\.a\.l1 must be .* got 1\.0'),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=said):
            losses_of_file(file, {})


def test_wrong_losses_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="--loss ssmi: .*'ssmi'"):
        loss_of('ssmi')
    with pytest.raises(ValueError, match='--loss l1:sclae=unit: .*sclae'):
        loss_of('l1:sclae=unit')
    with pytest.raises(ValueError, match='is a sum and takes no options'):
        loss_of('ms_ssim_l1:weights=x')
    with pytest.raises(FileNotFoundError, match='no such file'):
        loss_of(f'mdf:weights={tmp_path / "no.pth"}')
    assert set(NAMED) == {'l1', 'l2', 'charbonnier', 'ms_ssim_l1', 'vgg', 'mdf'}


def test_the_figure_has_a_panel_a_loss_and_means_of_kinds():
    images = [Rated(f'{m}{s}', float(k) + 0.1 * s, kind=m, scene=str(s), low=k - 1.0, high=k + 1.0)
              for k, m in enumerate('abc') for s in range(4)]  # fmt: skip
    losses = {'one': values_of(images, 0.2), 'two': values_of(images, 2)}
    rows = loss_rows(images, losses, resamples=20)
    figure = loss_quality_figure('title', images, losses, rows, 'JND')
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 2
    large = [line for line in panels[0].lines if line.get_markersize() == 9]
    expected = [np.mean([losses['one'][one.image] for one in images if one.kind == kind]) for kind in 'abc']
    assert [line.get_xdata()[0] for line in large] == pytest.approx(expected)
    assert panels[0].get_title() == f'one: SROCC {rows[0].srocc:.2f}'
    within = loss_quality_figure('title', images, losses, rows, 'JND', within=True)
    small = [line for line in within.axes[0].lines if line.get_markersize() == 3]
    for scene in range(4):
        total = sum(line.get_xdata()[scene] for line in small)
        assert total == pytest.approx(0, abs=1e-9)


def noisy_images(folder, images=4, levels=(0.01, 0.03, 0.1)):
    rows = []
    for i in range(images):
        generator = torch.Generator().manual_seed(i)
        clean = 0.25 + 0.5 * torch.nn.functional.interpolate(
            torch.rand(1, 3, 6, 6, generator=generator), (64, 64), mode='bilinear')[0]  # fmt: skip
        write(folder / 'clean' / f'{i}.png', clean)
        for level, sigma in enumerate(levels):
            write(folder / f'noise{level}' / f'{i}.png', clean + sigma * torch.randn(clean.shape, generator=generator))
            rows.append((f'noise{level}/{i}.png', f'clean/{i}.png', level))
    return write_table(folder / 'levels.csv', ('image', 'reference', 'level'), rows)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image.clamp(0, 1))


COLUMNS = 'image=image,mos=level,mos_better=lower,reference=reference'


def test_the_command_finds_the_known_order_and_keeps_its_values(tmp_path):
    table = noisy_images(tmp_path)
    out = tmp_path / 'out'
    arguments = ['loss-quality', str(table), '--images', str(tmp_path), '--columns', COLUMNS, '--within', '--device',
                 'cpu', '-o', str(out), '--resamples', '50']  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, '--loss', 'l1', '--loss', 'l2', '--loss', 'ssim'])
    assert result.exit_code == 0, result.output
    with open(out / 'loss_quality.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert {row['loss']: float(row['srocc']) for row in rows} == {'l1': 1, 'l2': 1, 'ssim': 1}
    assert {row['scenes'] for row in rows} == {'4'}
    assert '4 scenes: the intervals of so few' in result.output
    assert (out / 'loss_quality.pdf').stat().st_size > 1000
    kept = (out / 'losses.csv').read_text().splitlines()
    again = CliRunner().invoke(app, [*arguments, '--loss', 'l1', '--loss', 'charbonnier'])
    assert again.exit_code == 0, again.output
    assert set(kept) < set((out / 'losses.csv').read_text().splitlines())


def test_the_command_names_data_sets_that_are_too_small(tmp_path):
    text = noisy_images(tmp_path).read_text().splitlines()
    sets = ['dataset', 'few', 'few', *['many'] * 10]
    table = tmp_path / 'sets.csv'
    table.write_text('\n'.join(f'{line},{name}' for line, name in zip(text, sets, strict=True)))
    result = CliRunner().invoke(app, ['loss-quality', str(table), '--images', str(tmp_path), '--loss', 'l1', '-o',
                                      str(tmp_path / 'out'), '--columns', f'{COLUMNS},dataset=dataset', '--device',
                                      'cpu', '--resamples', '20'])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert 'fewer than three images have no rank correlation: few all (2)' in result.output
    with open(tmp_path / 'out' / 'loss_quality.csv', newline='') as file:
        assert [row['dataset'] for row in csv.DictReader(file)] == ['many']


def test_the_command_says_what_is_missing(tmp_path):
    table = noisy_images(tmp_path, images=1)

    def said(*more):
        result = CliRunner().invoke(app, ['loss-quality', str(table), '-o', str(tmp_path / 'out'), *more])
        assert result.exit_code == 2
        return result.output

    here = ('--images', str(tmp_path))
    assert 'no such folder' in said('--images', str(tmp_path / 'no'), '--columns', COLUMNS)
    assert 'need references' in said(*here, '--columns', 'image=image,mos=level', '--loss', 'l1')
    assert '--weights is for --losses' in said(*here, '--columns', COLUMNS, '--weights', 'mdf=x')
    assert 'must be TERM=FILE' in said(*here, '--columns', COLUMNS, '--weights', 'mdf')
    (tmp_path / 'noise0' / '0.png').unlink()
    assert 'noise0/0.png' in said(*here, '--columns', COLUMNS, '--loss', 'l1')


def test_ssim_follows_the_strength_of_blur_on_kodak(test_data, tmp_path):
    from torchvision.transforms.functional import gaussian_blur

    from nriqa_plugin.evaluation.images import read_image

    files = sorted((test_data / 'images' / 'kodak24').glob('*.png'))[:3]
    if not files:
        pytest.skip('no Kodak images')
    images, values, judge = [], {}, loss_of('ssim')
    for file in files:
        clean = read_image(file)[None, :, 100:292, 100:292]
        for level, sigma in enumerate((0.6, 1.2, 2.4)):
            name = f'{file.stem}_{level}'
            images.append(Rated(name, -float(level), scene=file.stem))
            values[name] = judge(gaussian_blur(clean, 15, sigma).clamp(0, 1), clean).item()
    (row,) = loss_rows(images, {'ssim': values}, within=True, resamples=20)
    assert row.srocc == 1
