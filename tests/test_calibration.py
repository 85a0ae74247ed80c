"""Weights from gradient norms: what they promise, and what ``nriqa calibrate`` does to an option file."""

import copy
import importlib
import logging
import math
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.cli.calibrate import parse_shares
from nriqa_plugin.doctor import calibrate_option_file
from nriqa_plugin.doctor.weights_in_file import WeightsInFile, yaml_float
from nriqa_plugin.losses import LossPair, LossSum, NRIQALoss
from nriqa_plugin.losses.calibration import DEFAULT_SHARE, Gauge, propose
from nriqa_plugin.losses.table_weights import weight_by_rule
from tests.judges import Darkness
from tests.test_vgg_loss import saved_backbone

L1 = {'type': 'L1Loss', 'weight': 1.0}
TINY = {'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 0.1}
DARK = {'type': 'NRIQALoss', 'metric': 'tests.judges:Darkness', 'weight': 0.1}
ROUNDED = 0.005  # three digits


def batches(count=3, shape=(2, 3, 16, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.rand(2, *shape, generator=generator)) for _ in range(count)]


def measured(terms, images=None, **options):
    gauge = Gauge(terms if isinstance(terms, LossSum) else LossSum(terms, **options))
    for pred, target in images or batches():
        gauge.add(pred, target)
    return gauge.terms


def proposals(terms, images=None, **options):
    return {row.name: row for row in propose(measured(terms, images), **options)}


def judge(gain):
    return {**DARK, 'options': {'gain': gain}}


def scaled_l1(factor=1.0):
    return ScaledL1(factor)


class ScaledL1(nn.Module):
    """A loss of one's own with a known gradient; it can break."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, pred, target):
        return self.factor * (pred - target).abs().mean() + 0 * target.max().log()


# -------------------------------------------------------------------------------------------- measuring


def test_norms_and_values_are_those_of_autograd():
    loss, images = NRIQALoss('tests.judges:TinyNet'), batches()
    values, norms = [], []
    for pred, _ in images:
        leaf = pred.clone().requires_grad_()
        value = loss(leaf)
        values.append(value.item())
        norms.append(torch.autograd.grad(value, leaf)[0].norm().item())
    row = proposals([L1, TINY], images)['tinynet']
    assert row.value == pytest.approx(np.mean(values), rel=1e-5)
    assert row.norm == pytest.approx(np.mean(norms), rel=1e-5)
    assert row.spread == pytest.approx(np.std(norms, ddof=1) / np.mean(norms), rel=1e-3)


def test_the_pixel_term_pulls_with_1_and_every_pull_is_a_multiple_of_it():
    """L1 and a mean have the gradient +-1/n at every of n values, hence the norm 1/sqrt(n)."""
    rows = proposals([{**L1, 'weight': 2.0}, judge(5)])
    assert rows['l1'].norm == pytest.approx(1 / math.sqrt(2 * 3 * 16 * 16), rel=1e-5)
    assert rows['l1'].anchor
    assert (rows['l1'].pull, rows['l1'].proposed) == (1.0, None)
    assert rows['darkness'].pull == pytest.approx(0.1 * 5 / 2, rel=1e-5)
    assert rows['darkness'].proposed == pytest.approx(DEFAULT_SHARE * 2 / 5, rel=ROUNDED)


def test_schedules_do_not_change_what_is_measured():
    asleep = {**TINY, 'start_iter': 1000, 'warmup_iter': 50, 'every': 7, 'stop_iter': 2000}
    now, later = (proposals([L1, term])['tinynet'] for term in (TINY, asleep))
    assert (now.norm, now.value, now.proposed) == (later.norm, later.value, later.proposed)
    assert (now.every, later.every) == (1, 7)


def test_crops_and_changes_are_those_of_the_first_iterations():
    option = {'crop': 8, 'augment': True, 'seed': 5}
    loss, (pred, _) = NRIQALoss('tests.judges:TinyNet', **option), batches()[0]
    values = []
    for iteration in (1, 2):
        loss.set_iteration(iteration)
        values.append(loss(pred).item())
    row = proposals([L1, {**TINY, **option}], [(pred, pred / 2)] * 2)['tinynet']
    assert values[0] != values[1]
    assert row.value == pytest.approx(np.mean(values), rel=1e-5)


def test_measuring_leaves_the_sum_as_it_was():
    def state():
        schedules = [(t.weight, t.start_iter, t.stop_iter, t.warmup_iter, t.every) for t in loss.terms]
        inner = loss.terms[1].loss
        attributes = loss.nonfinite, loss.grad_norms_wanted, loss.counts_itself, inner.counts_itself, inner.iteration
        return schedules, attributes, copy.deepcopy(loss.loss_state())

    loss = LossSum([L1, {**TINY, 'start_iter': 2, 'every': 3, 'warmup_iter': 9}])
    images = batches()
    loss(*images[0])
    before = state()
    measured(loss, [*images, (images[0][0] * math.nan, images[0][1])])
    assert state() == before


def test_a_term_in_another_space_is_measured_on_the_networks_own_output():
    images = batches()
    plain = proposals([L1, TINY], images)['tinynet']
    loss = LossSum([L1, TINY], space={'range': [0.0, 2.0], 'order': 'bgr'})
    other = proposals(loss, [(2 * pred.flip(1), 2 * target.flip(1)) for pred, target in images])['tinynet']
    assert other.norm == pytest.approx(plain.norm / 2, rel=1e-4)


def test_a_pair_and_clips_are_measured_like_a_sum_and_images():
    clips = batches(shape=(2, 2, 3, 16, 16))
    flat = [(pred.flatten(0, 1), target.flatten(0, 1)) for pred, target in clips]
    pair = propose(measured(LossPair([L1, TINY]), clips))[1]
    assert pair.proposed == pytest.approx(proposals([L1, TINY], flat)['tinynet'].proposed, rel=0.02)


# -------------------------------------------------------------------------------------------- proposing


def test_a_judge_times_100_gets_a_weight_100_times_smaller():
    one, hundred = (proposals([L1, judge(gain)])['darkness'].proposed for gain in (1.0, 100.0))
    assert one / hundred == pytest.approx(100, rel=2 * ROUNDED)


def test_with_the_proposed_weights_the_pulls_are_as_wanted():
    """Seen by the gradient norms that a training logs, on the same images."""
    terms = [{**L1, 'weight': 0.7}, TINY, judge(100), {'type': 'TVLoss', 'weight': 0.3}]
    shares = {'tinynet': 2.0, 'tv': 0.25}
    rows = proposals(terms, shares=shares)
    for term, row in zip(terms, rows.values(), strict=True):
        term['weight'] = row.weight if row.proposed is None else row.proposed
    loss, norms = LossSum(terms, grad_norms=True), {}
    for pred, target in batches():
        loss(pred.clone().requires_grad_(), target).backward()
        for name, norm in loss.grad_norms.items():
            norms[name] = norms.get(name, 0) + norm.item()
    for name, share in {**shares, 'darkness': DEFAULT_SHARE}.items():
        assert norms[name] / norms['l1'] == pytest.approx(share, rel=2 * ROUNDED)


def test_terms_that_are_no_judges_and_terms_of_weight_0_stay_unless_they_are_named():
    terms = [L1, {'type': 'TVLoss', 'weight': 0.2}, {**TINY, 'weight': 0.0}]
    rows = proposals(terms)
    assert [(row.share, row.proposed) for row in rows.values()] == [(1.0, None), (None, None), (None, None)]
    rows = proposals(terms, shares={'tv': 0.5, 'tinynet': 1})
    assert rows['tv'].proposed * rows['tv'].norm == pytest.approx(0.5 * rows['l1'].norm, rel=ROUNDED)
    assert rows['tinynet'].proposed * rows['tinynet'].norm == pytest.approx(rows['l1'].norm, rel=ROUNDED)


def test_a_feature_distance_is_no_judge_and_stays_unless_it_is_named(tmp_path):
    pytest.importorskip('torchvision')
    vgg = {'type': 'VGGLoss', 'backbone': 'squeezenet1_1', 'layers': {'relu1': 1.0}, 'weight': 0.5, 'name': 'vgg'}
    terms = [L1, {**vgg, 'weights': saved_backbone(tmp_path, 'squeezenet1_1')[1]}]
    images = batches(shape=(1, 3, 32, 32))
    row = proposals(terms, images)['vgg']
    assert (row.share, row.proposed, row.by_rule) == (None, None, None)
    assert proposals(terms, images, shares={'vgg': 0.5})['vgg'].proposed > 0


def test_a_share_of_0_turns_a_term_off():
    assert proposals([L1, TINY], shares={'tinynet': 0})['tinynet'].proposed == 0


def test_the_rule_of_table_i_stands_beside_the_proposal_where_it_holds():
    rows = proposals([L1, judge(100), {**judge(9), 'scale': 'unit', 'name': 'unit'}])
    assert rows['darkness'].by_rule == weight_by_rule(rows['darkness'].value)
    assert rows['unit'].by_rule is rows['l1'].by_rule is None


def test_the_anchor_is_the_first_pixel_loss_with_a_weight_or_the_term_that_is_named():
    own = {'type': f'{__name__}:scaled_l1', 'weight': 1.0, 'name': 'own', 'factor': 4.0}
    terms = [{'type': 'TVLoss', 'weight': 1.0}, TINY, {**L1, 'weight': 0.0}, own]
    rows = proposals(terms)
    assert [row.name for row in rows.values() if row.anchor] == ['own']
    rows = proposals(terms[:2], anchor='tv')
    assert rows['tinynet'].proposed * rows['tinynet'].norm == pytest.approx(
        DEFAULT_SHARE * rows['tv'].norm, rel=ROUNDED
    )


def test_batches_on_which_a_term_is_not_finite_are_left_out_and_counted():
    first, *rest = batches()
    black = (first[0], torch.zeros_like(first[1]))  # 0 * log 0
    terms = [L1, {'type': f'{__name__}:scaled_l1', 'weight': 1.0, 'name': 'own', 'factor': 4.0}]
    row = proposals(terms, [black, *rest], shares={'own': 1.0})['own']
    assert (row.left_out, row.proposed) == (1, 0.25)
    with pytest.raises(ValueError, match="term 'own': its value or gradient is not finite on any of 2 batches"):
        proposals(terms, [black, black], shares={'own': 1.0})


@pytest.mark.parametrize(
    ('terms', 'options', 'message'),
    [
        ([L1, TINY], {'shares': {'tinynte': 1}}, "unknown term in share: 'tinynte'. Did you mean 'tinynet'?"),
        ([L1, TINY], {'shares': {'tinynet': -1}}, 'share of tinynet must be finite and at least 0, got -1'),
        ([L1, TINY], {'shares': {'tinynet': math.nan}}, 'share of tinynet must be finite'),
        ([L1, TINY], {'shares': {'l1': 2.0}}, 'share of l1: it is the anchor'),
        ([L1, TINY], {'anchor': 'l2'}, "unknown term as anchor: 'l2'"),
        ([{**L1, 'weight': 0.0}, TINY], {'anchor': 'l1'}, "the anchor 'l1' has weight 0"),
        ([TINY], {}, r'no term of positive weight is one \(terms: tinynet\); add one, or name another term'),
        ([L1, {**TINY, 'metric': 'tests.judges:Constant', 'probe': False}], {}, "term 'constant': its gradient is zero on all of 3 batches"),
        ([L1, {**TINY, 'metric': 'tests.judges:Detached', 'probe': False}], {}, "term 'detached': its gradient is zero"),
        ([L1, {**TINY, 'metric': 'tests.judges:NaNGradient', 'probe': False}], {}, "term 'nan_gradient': its value or gradient is not finite"),
        ([L1, {**TINY, 'metric': 'tests.judges:Brightness', 'stop_at': 0.0}], {}, 'does every image pass its stop_at'),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else '',
)  # fmt: skip
def test_what_cannot_be_weighed_is_refused(terms, options, message):
    with pytest.raises(ValueError, match=message):
        proposals(terms, **options)


def test_a_network_that_returns_the_target_gives_no_anchor():
    pred, _ = batches()[0]
    with pytest.raises(ValueError, match="the anchor 'l1': its gradient is zero"):
        proposals([L1, TINY], [(pred, pred)])


def test_without_a_batch_nothing_is_proposed():
    with pytest.raises(ValueError, match='there was no batch'):
        propose(Gauge(LossSum([L1, TINY])).terms)


def test_two_sums_with_one_name_are_refused():
    with pytest.raises(ValueError, match="two terms are named 'tinynet'"):
        propose(measured([L1, TINY]) + measured(LossPair([TINY])))


def test_shares_are_written_as_term_and_ratio():
    assert parse_shares(['a=0.5', 'b=c=2']) == {'a': 0.5, 'b=c': 2.0}
    for wrong in ('a', '=1', 'a=', 'a=x'):
        with pytest.raises(ValueError, match='must be TERM=RATIO'):
            parse_shares([wrong])
    with pytest.raises(ValueError, match="'a' is given twice"):
        parse_shares(['a=1', 'a=2'])


# -------------------------------------------------------------------------------------------- weights in a file


@pytest.mark.parametrize('number', [5e-05, 1.12e-05, 0.0, 1.0, 0.000675, 123.0, 1e22, 3e-300, 1.5e16])
def test_numbers_read_back_as_the_same_float(number):
    yaml = pytest.importorskip('yaml')
    read = yaml.safe_load(f'{{weight: {yaml_float(number)}}}')['weight']
    assert isinstance(read, float)
    assert read == number


def rewritten(tmp_path, text, numbers, slot='pixel_opt'):
    """The text with other weights, by term."""
    pytest.importorskip('yaml')
    file = tmp_path / 'in.yml'
    file.write_bytes(text.encode())
    places = WeightsInFile(file)
    spans = places.spans(slot, list(numbers))
    places.write(tmp_path / 'out.yml', [(spans[name], value) for name, value in numbers.items()], lambda path: None)
    return (tmp_path / 'out.yml').read_bytes().decode()


LIST = """\
# über 5e-5 — kept
plugin: !!python/name:no.such.module   # is not run
train:
  other: {terms: [{weight: 0.5}]}
  pixel_opt:
    terms:
      - {type: A, weight: 1}       # weight: 1
      - type: "B, weight: 7"
        weight: paper   # becomes a number
        options: {weight: 3}
      - {weight: !!float 2, weight: &w 5.0e-5, name: c}
"""


@pytest.mark.parametrize('newline', ['\n', '\r\n'])
def test_only_the_weights_change(tmp_path, newline):
    text = LIST.replace('\n', newline)
    expected = (
        text.replace('A, weight: 1}', 'A, weight: 2.5}').replace('paper ', '1.0e-06 ').replace('&w 5.0e-5', '0.25')
    )
    assert rewritten(tmp_path, text, {'a': 2.5, 'b': 1e-6, 'c': 0.25}) == expected


def test_a_mapping_of_terms_is_as_good_as_a_list(tmp_path):
    text = 'train: {pixel_opt: {terms: {off: ~, pixel: {weight: 1.0}, judge: {weight: 2}}}}'
    assert rewritten(tmp_path, text, {'pixel': 3, 'judge': 0.5}) == text.replace('1.0', '3.0').replace('2}', '0.5}')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('w: &w 1.0\ntrain: {pixel_opt: {terms: [{weight: *w}]}}', r'train.pixel_opt.terms\[0\].weight is shared by an alias .*\(line 1\)'),
        ('a: &a {weight: 1.0}\ntrain: {pixel_opt: {terms: [*a]}}', r'train.pixel_opt.terms\[0\] is shared by an alias'),
        ('train: {pixel_opt: &p {terms: [{weight: 1.0}]}}\nother: *p', 'train.pixel_opt is shared by an alias'),
        ('train: {pixel_opt: {terms: {a: {weight: 1.0}, a: {weight: 2.0}}}}', 'train.pixel_opt.terms.a is given twice'),
    ],
    ids=['number', 'term', 'sum', 'twice'],
)  # fmt: skip
def test_a_weight_without_a_place_of_its_own_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        rewritten(tmp_path, text, {'a': 1.0})
    assert not (tmp_path / 'out.yml').exists()


PRESET = """\
train:
  pixel_opt:
    type: LossSum   # one sum
    preset: both
    TERMS
"""


@pytest.mark.parametrize('newline', ['\n', '\r\n'])
@pytest.mark.parametrize(
    ('there', 'expected'),
    [
        (None, None),
        ('terms: {}', {'far': {'weight': 2.5}, 'bright': {'weight': 1e-06}}),
        ('terms: {bright: {weight: paper, every: 2}, gone: ~}',
         {'far': {'weight': 2.5}, 'bright': {'weight': 1e-06, 'every': 2}, 'gone': None}),
        ('terms:\n      bright:   # this one\n        every: 2\n      far: {}',
         {'bright': {'weight': 1e-06, 'every': 2}, 'far': {'weight': 2.5}}),
    ],
)  # fmt: skip
def test_weights_of_a_preset_are_put_beside_it_and_nothing_else_changes(tmp_path, there, expected, newline):
    yaml = pytest.importorskip('yaml')
    text = PRESET.replace('TERMS', there or 'presets: p.yml').replace('\n', newline)
    (tmp_path / 'in.yml').write_bytes(text.encode())
    places = WeightsInFile(tmp_path / 'in.yml')
    places.write(
        tmp_path / 'out.yml', places.beside_preset('pixel_opt', {'far': 2.5, 'bright': 1e-6}), lambda path: None
    )
    made = (tmp_path / 'out.yml').read_bytes().decode()
    before, after = (yaml.safe_load(content)['train']['pixel_opt'] for content in (text, made))
    expected = expected or {'far': {'weight': 2.5}, 'bright': {'weight': 1e-06}}
    assert after == {**before, 'terms': expected}
    assert made.count('# one sum') == 1
    assert ('\n' in made.replace('\r\n', '')) == (newline == '\n')


def test_a_flow_mapping_takes_the_weights_too_and_empty_terms_are_refused(tmp_path):
    yaml = pytest.importorskip('yaml')
    file = tmp_path / 'in.yml'
    file.write_text('train: {pixel_opt: {type: LossSum, preset: a}}')
    places = WeightsInFile(file)
    places.write(tmp_path / 'out.yml', places.beside_preset('pixel_opt', {'x': 3}), lambda path: None)
    assert yaml.safe_load((tmp_path / 'out.yml').read_text())['train']['pixel_opt']['terms'] == {'x': {'weight': 3.0}}
    file.write_text('train: {pixel_opt: {type: LossSum, preset: a, terms: }}')
    with pytest.raises(ValueError, match=r'in.yml: train.pixel_opt.terms is empty'):
        WeightsInFile(file).beside_preset('pixel_opt', {'x': 3})


# -------------------------------------------------------------------------------------------- option files

OPTIONS = """\
# Train a tiny network.
plugin: !!python/name:nriqa_plugin.basicsr.VERSION  # our types
name: tiny
model_type: {model}
scale: 4
num_gpu: 0
datasets:
  train:
    name: noise
    type: PairedImageDataset
    dataroot_gt: {folder}/HR
    dataroot_lq: {folder}/LR
    io_backend: {{type: disk}}
    gt_size: 16
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 2
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 2
network_g: {{type: MSRResNet, num_in_ch: 3, num_out_ch: 3, num_feat: 4, num_block: 1, upscale: 4}}
{discriminator}
path:
  pretrain_network_g: {weights}
  resume_state: ~
train:
  optim_g: {{type: Adam, lr: 1.0e-4}}
  scheduler: {{type: MultiStepLR, milestones: [5]}}
  total_iter: 9
{losses}
logger: {{print_freq: 1, save_checkpoint_freq: 1}}
"""
TERMS = """\
  pixel_opt:
    type: LossSum   # one sum
    terms:
      - {type: L1Loss, weight: 1.0}
      - {type: NRIQALoss, metric: 'tests.judges:TinyNet', weight: 0.1, start_iter: 5, augment: true}   # the judge
      - {type: NRIQALoss, metric: 'tests.judges:Darkness', weight: 5.0e-5}
"""
GAN = {
    'model': 'SRGANModel',
    'discriminator': 'network_d: {type: VGGStyleDiscriminator, num_in_ch: 3, num_feat: 2, input_size: 128}',
    'losses': TERMS
    + '  gan_opt: {type: GANLoss, gan_type: vanilla, real_label_val: 1.0, fake_label_val: 0.0, loss_weight: 0.1}\n'
    + '  optim_d: {type: Adam, lr: 1.0e-4}\n  net_d_iters: 2\n  net_d_init_iters: 5\n',
}


@pytest.fixture
def option_file(tmp_path):
    """Write an option file of a tiny network with a checkpoint, and images of noise; keywords fill the template."""
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from basicsr.archs.srresnet_arch import MSRResNet

    noise = np.random.default_rng(0)
    for kind, side in (('HR', 24), ('LR', 6)):
        (tmp_path / kind).mkdir()
        for name in 'abc':
            Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
                tmp_path / kind / f'{name}.png'
            )
    weights = tmp_path / 'start.pth'
    torch.save({'params': MSRResNet(num_feat=4, num_block=1).state_dict()}, weights)

    def write(**more):
        fill = {
            'model': 'PerceptualModel',
            'folder': tmp_path,
            'weights': weights,
            'discriminator': '',
            'losses': TERMS,
        }
        file = tmp_path / 'options.yml'
        file.write_text(OPTIONS.format(**{**fill, **more}))
        return file

    return write


def nriqa(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={'COLUMNS': '250', 'NRIQA_DEBUG': '0'})


def by_name(result):
    return {row.name: row for row in result.rows}


def test_the_new_file_differs_in_its_weights_only_and_the_doctor_accepts_it(option_file, tmp_path):
    file, out = option_file(), tmp_path / 'new' / 'calibrated.yml'
    result = nriqa('calibrate', file, '--share', 'tinynet=2', '--batches', 2, '--out', out)
    assert result.exit_code == 0, result.output
    assert result.stderr == ''
    weights = re.findall(r'weight: ([\d.e-]+)', out.read_text())
    old = file.read_text()
    assert out.read_text() == old.replace('weight: 0.1', f'weight: {weights[1]}').replace('5.0e-5', weights[2])
    assert weights[0] == '1.0'
    assert weights[1] != '0.1'
    checked = nriqa('doctor', out)
    assert (checked.exit_code, checked.stderr) == (0, ''), checked.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith('tinynet')]
    assert line.split()[8:10] == ['2', 'x'], line
    assert line.split()[10] == f'{float(weights[1]):g}'


def test_with_the_new_file_the_pulls_are_as_wanted(option_file, tmp_path):
    """On the same batches within the three digits that are written; the crops of another seed are other images."""
    shares, out = {'tinynet': 2.0, 'darkness': 0.5}, tmp_path / 'out.yml'
    calibrate_option_file(option_file(), shares, batches=3, seed=4, out=out)
    rows = by_name(calibrate_option_file(out, shares, batches=3, seed=4))
    for name, share in shares.items():
        assert rows[name].pull == pytest.approx(share, rel=2 * ROUNDED)
    others = by_name(calibrate_option_file(out, shares, batches=3, seed=5))
    assert others['tinynet'].pull != rows['tinynet'].pull
    assert others['tinynet'].pull == pytest.approx(2.0, rel=0.5)


@pytest.mark.parametrize('beside', ['', '    terms: {tinynet: {augment: true}}\n'])
def test_a_preset_is_calibrated_and_its_new_weights_stand_beside_it(option_file, tmp_path, beside):
    (tmp_path / 'presets.yml').write_text(
        """\
terms:
  pixel: {type: L1Loss, weight: 1.0}
  tinynet: {type: NRIQALoss, metric: 'tests.judges:TinyNet', weight: 0.1}
presets:
  both: {terms: [pixel, tinynet]}
"""
    )
    losses = (
        f'  pixel_opt:\n    type: LossSum   # one sum\n    preset: both\n    presets: {tmp_path}/presets.yml\n{beside}'
    )
    file, out = option_file(losses=losses), tmp_path / 'out.yml'
    row = by_name(calibrate_option_file(file, {'tinynet': 2.0}, batches=2, seed=4, out=out))['tinynet']
    assert row.weight == 0.1
    assert row.proposed != 0.1
    added = f'tinynet: {{weight: {yaml_float(row.proposed)}}}'
    text = file.read_text().replace('tinynet: {', added[:-1] + ', ') if beside else file.read_text().replace(
        '    type: LossSum', f'    terms: {{{added}}}\n    type: LossSum'
    )  # fmt: skip
    assert out.read_text() == text
    again = by_name(calibrate_option_file(out, {'tinynet': 2.0}, batches=2, seed=4))['tinynet']
    assert again.weight == row.proposed
    assert again.pull == pytest.approx(2.0, rel=2 * ROUNDED)


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_generators_alone(option_file):
    def drawn():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    file = option_file()
    before, level = states(), logging.root.manager.disable
    first = calibrate_option_file(file, batches=3)
    assert states() == before
    assert logging.root.manager.disable == level
    drawn()
    assert calibrate_option_file(file, batches=3).rows == first.rows
    assert calibrate_option_file(file, batches=3, seed=1).rows != first.rows


def test_the_network_is_the_pretrained_one_on_real_batches(option_file, tmp_path):
    """A network that returns 0.5 everywhere: its distance to the ground truth is that of the images' crops."""
    file = option_file()
    state = torch.load(tmp_path / 'start.pth', weights_only=True)['params']
    for tensor in state.values():
        tensor.zero_()
    torch.save({'params': state}, tmp_path / 'start.pth')  # what is left is the bilinear base
    row = by_name(calibrate_option_file(file, batches=4))['l1']
    hr, lq = (
        torch.stack([torch.from_numpy(np.array(Image.open(tmp_path / kind / f'{n}.png'))) for n in 'abc']) / 255
        for kind in ('HR', 'LR')
    )
    base = nn.functional.interpolate(lq.permute(0, 3, 1, 2), scale_factor=4, mode='bilinear', align_corners=False)
    assert row.value == pytest.approx((base - hr.permute(0, 3, 1, 2)).abs().mean().item(), rel=0.1)


def test_paper_weights_and_terms_by_name_are_replaced_too(option_file, tmp_path):
    losses = """\
  pixel_opt:
    type: LossSum
    terms:
      pixel: {type: L1Loss, weight: 1}
      off: ~
      judge: {type: NRIQALoss, metric: cnniqa, weights: %s, weight: paper}
"""
    from nriqa_plugin.iqa.cnniqa import PatchNet

    torch.save(PatchNet().state_dict(), tmp_path / 'cnniqa.pth')
    file = option_file(losses=losses % (tmp_path / 'cnniqa.pth'))
    file.write_text(file.read_text().replace('gt_size: 16', 'gt_size: 64').replace('    scale: 4', ''))
    for kind, side in (('HR', 64), ('LR', 16)):
        for name in 'abc':
            image = Image.open(tmp_path / kind / f'{name}.png')
            image.resize((side, side)).save(tmp_path / kind / f'{name}.png')
    row = by_name(calibrate_option_file(file, batches=1, out=tmp_path / 'out.yml'))['judge']
    assert row.weight == 5e-5
    assert (tmp_path / 'out.yml').read_text() == file.read_text().replace(
        'weight: paper', f'weight: {yaml_float(row.proposed)}'
    )


@pytest.mark.slow
def test_on_photographs_other_batches_show_the_pulls_roughly(test_data, cnniqa_weights, tmp_path):
    """The pretrained RLFN on Kodak24: within the digits on the same images, within a half on others.

    CNNIQA's gradient norm differs by 70 % between batches of 4 crops, so that eight of them give it to about 25 %.
    """
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    for folder in ('HR', 'LR'):
        (tmp_path / folder).mkdir()
    for path in sorted((test_data / 'images' / 'kodak24').glob('*.png')):
        with Image.open(path) as image:
            image.save(tmp_path / 'HR' / path.name)
            image.resize((image.width // 4, image.height // 4), Image.BICUBIC).save(tmp_path / 'LR' / path.name)
    losses = TERMS.replace("metric: 'tests.judges:TinyNet'", f'metric: cnniqa, weights: {cnniqa_weights}')
    text = OPTIONS.format(
        model='PerceptualModel', folder=tmp_path, discriminator='', losses=losses,
        weights=f'{test_data / "weights" / "rlfn_s_x4.pth"}\n  param_key_g: ~',
    )  # fmt: skip
    text = re.sub('(?m)^network_g: .*', 'network_g: {type: RLFN, upscale: 4}', text).replace(
        'gt_size: 16', 'gt_size: 128'
    )
    (tmp_path / 'in.yml').write_text(text.replace('batch_size_per_gpu: 2', 'batch_size_per_gpu: 4'))
    calibrate_option_file(tmp_path / 'in.yml', out=tmp_path / 'out.yml', device='cpu')
    same, other = (calibrate_option_file(tmp_path / 'out.yml', seed=seed, device='cpu').rows[1] for seed in (0, 1))
    assert same.pull == pytest.approx(DEFAULT_SHARE, rel=2 * ROUNDED)
    assert other.pull == pytest.approx(DEFAULT_SHARE, rel=0.5)


@pytest.mark.parametrize('stock', [False, True])
def test_generators_that_train_at_some_iterations_only_are_measured(option_file, stock):
    file = option_file(**GAN)
    if not stock:
        text = file.read_text().replace('model_type: SRGANModel', 'model_type: PerceptualModel\nbase_model: SRGANModel')
        file.write_text(text)
    result = calibrate_option_file(file, batches=2)
    assert by_name(result)['darkness'].proposed > 0
    assert result.advice == ['train.gan_opt: not measured, only the terms of LossSum and LossPair are']


def test_both_slots_are_weighed_against_one_anchor(option_file, tmp_path):
    pair = "  perceptual_opt: {type: LossPair, terms: [{type: NRIQALoss, metric: 'tests.judges:Brightness', weight: 0.3}]}\n"
    out = tmp_path / 'out.yml'
    calibrate_option_file(option_file(losses=TERMS + pair), batches=2, out=out)
    rows = by_name(calibrate_option_file(out, batches=2))
    assert rows['brightness'].pull == pytest.approx(DEFAULT_SHARE, rel=2 * ROUNDED)
    assert rows['darkness'].pull == pytest.approx(DEFAULT_SHARE, rel=2 * ROUNDED)


def test_what_ends_like_a_loss_but_is_none_is_passed_over(option_file, tmp_path):
    losses = TERMS + '  mix_opt: [1, 2]\n  own_opt: {weight: 1.0}\n'
    result = calibrate_option_file(option_file(losses=losses), batches=1, out=tmp_path / 'out.yml')
    assert not [remark for remark in result.advice if '_opt' in remark]
    assert (tmp_path / 'out.yml').exists()


def test_the_title_names_the_shape_of_every_slot_where_they_differ(option_file, monkeypatch):
    def stream(*_):
        yield {'pixel_opt': torch.rand(2, 1, 3, 16, 16), 'perceptual_opt': torch.rand(2, 2, 3, 8, 8)}

    pair = "  perceptual_opt: {type: LossPair, terms: [{type: NRIQALoss, metric: 'tests.judges:Brightness', weight: 0.3}]}\n"
    file = option_file(losses=TERMS + pair)
    monkeypatch.setattr('nriqa_plugin.doctor.calibrate.training_batches', stream)
    title = calibrate_option_file(file, batches=1).title
    assert title.endswith('1 x 3 x 16 x 16 px in pixel_opt, 2 x 3 x 8 x 8 px in perceptual_opt')


def test_a_model_that_stops_calling_its_loss_is_refused(option_file, monkeypatch):
    module = importlib.import_module('nriqa_plugin.doctor.training_batches')
    calls = [module._call_losses, lambda *_: None]
    monkeypatch.setattr(module, '_call_losses', lambda *given: calls.pop(0)(*given))
    with pytest.raises(ValueError, match='does not call its loss train.pixel_opt'):
        calibrate_option_file(option_file(), batches=2)


def test_an_untrained_network_and_a_judge_that_would_be_gamed_are_noted(option_file):
    result = nriqa('calibrate', option_file(weights='~'), '--batches', 1, '--share', 'darkness=30')
    assert result.exit_code == 0, result.output
    untrained, gamed = result.stderr.splitlines()  # one batch has no spread
    assert untrained.startswith('Note: path.pretrain_network_g is not set: measured on an untrained network')
    assert gamed.startswith('Note: darkness would pull 30 times as hard as l1')


def test_a_proposal_that_other_batches_would_not_give_is_noted(option_file):
    losses = TERMS.replace("'tests.judges:Darkness'", f"'{__name__}:Fickle'")
    result = calibrate_option_file(option_file(losses=losses), batches=4)
    assert by_name(result)['fickle'].spread > 0.2
    (note,) = result.advice
    assert note.startswith('fickle: batches differ so much')


class Fickle(Darkness):
    """Its gradient depends much on the image."""

    name = 'fickle'

    def score(self, pred, ref=None):
        return (500 * (pred.flatten(1).mean(1) - 0.5)).exp()


def replaced(old, new):
    return lambda file: file.write_text(file.read_text().replace(old, new))


def too_small(file):
    replaced('gt_size: 16', 'gt_size: 4')(file)
    replaced(', augment: true', '')(file)


def learnt(file):
    replaced('    terms:', '    balance: {method: gradnorm}\n    terms:')(file)


def without_images(file):
    for image in file.parent.rglob('*.png'):
        image.unlink()


@pytest.mark.parametrize(
    ('edit', 'arguments', 'message'),
    [
        (replaced(TERMS, '  pixel_opt: {type: L1Loss}'), (), 'neither train.pixel_opt is a LossSum nor train.perceptual_opt a LossPair'),
        (replaced('start.pth', 'no.pth'), (), 'path.pretrain_network_g: no such file: '),
        (replaced('num_feat: 4', 'num_feat: 6'), (), 'model_type SRModel: '),
        (replaced('batch_size_per_gpu: 2', 'batch_size_per_gpu: 7'), (), '6 images (dataset_enlarge_ratio included) are less than one batch of 7'),
        (replaced('dataroot_gt: ', 'dataroot_gt: /no/where'), (), 'datasets.train: '),
        (without_images, (), 'datasets.train: it holds no images'),
        (replaced('datasets:\n  train:', 'datasets:\n  val:'), (), 'the key datasets.train is missing'),
        (too_small, (), "train.pixel_opt: term 'tinynet': tinynet needs at least 8 px a side"),
        (learnt, ('--out', 'new.yml'), 'options.yml: train.pixel_opt learns its weights (balance), there is none to calibrate'),
        (replaced('tests.judges:Darkness', 'niqee'), (), "train.pixel_opt: terms[2] (NRIQALoss): unknown judge 'niqee'"),
        (replaced('L1Loss, weight: 1.0}', 'L1Loss, weight: &w 1.0}\n      - {type: MSELoss, weight: *w}'), ('--out', 'new.yml'), 'terms[0].weight is shared by an alias'),
        (replaced('', ''), ('--share', 'tinynte=1'), "unknown term in share: 'tinynte'. Did you mean 'tinynet'?"),
        (replaced('', ''), ('--share', 'tinynet=-1'), 'share of tinynet must be finite and at least 0, got -1.0'),
        (replaced('', ''), ('--share', 'tinynet'), 'must be TERM=RATIO'),
        (replaced('', ''), ('--anchor', 'l2'), "unknown term as anchor: 'l2'"),
        (replaced('', ''), ('--batches', '0'), 'batches must be finite and at least 1, got 0'),
        (replaced('', ''), ('--seed', '-1'), 'seed must be'),
        (replaced('', ''), ('--device', 'gpu'), "device 'gpu' cannot be used"),
        (replaced('', ''), ('--out', '.'), 'out: . is a folder'),
        (replaced('', ''), ('--out', 'options.yml'), 'out: options.yml is the option file itself'),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else '',
)  # fmt: skip
def test_a_wrong_option_is_one_line_and_nothing_is_written(
    option_file, tmp_path, monkeypatch, edit, arguments, message
):
    file = option_file()
    edit(file)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    result = nriqa('calibrate', file, '--batches', 1, *arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith('Error: ')
    assert message in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_would_change_in_more_than_its_weights_is_not_written(option_file, tmp_path, monkeypatch):
    monkeypatch.setattr('nriqa_plugin.doctor.weights_in_file.yaml_float', lambda number: f'{number}, crop: 8')
    with pytest.raises(ValueError, match='more than the weights would change'):
        calibrate_option_file(option_file(), batches=1, out=tmp_path / 'out.yml')
    assert not list(tmp_path.glob('*out.yml*'))
