"""The artifact alarm: the pattern judge, the paper's rule, and the alarm inside a BasicSR training."""

import pytest
import torch
from torch import nn

from nriqa_plugin.evaluation.artifact_alarm import AlarmRule, Change, WorstImages
from nriqa_plugin.evaluation.images import list_images, read_image
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.losses import NRIQALoss


def photograph(side=128, seed=0):
    """Smooth blobs with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    blobs = nn.functional.interpolate(torch.rand(1, 3, 9, 9, generator=generator), size=(side, side), mode='bicubic')
    return (0.2 + 0.6 * blobs + 0.01 * torch.randn(1, 3, side, side, generator=generator)).clamp(0, 1)


def dotted(image, period, levels):
    dots = torch.zeros_like(image)
    dots[..., ::period, ::period] = levels / 255
    return image + dots


# --- the judge 'pattern' ---


@pytest.mark.parametrize('period', [2, 3, 4, 8, 16])
def test_dots_score_their_amplitude_less_what_the_3x3_mean_takes(period):
    """A dot is alone in the window around it, of which it is one ninth."""
    flat = torch.full((1, 3, 98, 98), 0.5)
    assert create_scorer('pattern')(dotted(flat, period, 4)).item() == pytest.approx(4 * 8 / 9, rel=1e-3)


def test_a_photograph_has_no_pattern_and_every_image_of_a_batch_its_own():
    judge = create_scorer('pattern')
    batch = torch.cat([photograph(), dotted(photograph(seed=1), 4, 6).clamp(0, 1)])
    clean, dots = judge(batch).tolist()
    assert clean == 0
    assert dots == judge(batch[1:]).item() == pytest.approx(6 * 8 / 9, rel=0.15)


def test_a_pattern_is_found_in_one_colour_channel_and_at_any_phase():
    image = photograph()
    image[:, 1, 3::5, 2::5] += 5 / 255
    assert create_scorer('pattern')(image.clamp(0, 1)).item() == pytest.approx(5 * 8 / 9, rel=0.2)


def test_strong_edges_do_not_look_like_a_pattern():
    image = photograph()
    image[..., 40:] = 1 - image[..., 40:]
    assert create_scorer('pattern')(image).item() < 0.5


def test_the_pattern_judge_is_for_watching_only():
    with pytest.raises(ValueError, match='pattern.*counts only where it is significant'):
        NRIQALoss('pattern')


def test_dots_of_4_levels_are_found_in_every_kodak_image_and_nothing_in_a_clean_one(test_data):
    judge = create_scorer('pattern')
    files = list_images(test_data / 'images' / 'kodak24')
    for file in files:
        image = read_image(file)[None]
        clean = judge(image).item()
        assert clean < 1, file
        for period in (2, 4, 8):
            assert judge(dotted(image, period, 4).clamp(0, 1)).item() - clean > 2, (file, period)


# --- the rule ---


def change(name, before, after, higher_better=False):
    return Change(name, higher_better, {'a': before}, {'a': after})


# README, "Does it help?": (CNNIQA, LPIPS, LPIPS optimised, alarm)
REAL_RUNS = {
    'pixel': (31.66, 0.1525, False, False),
    'pixel + CNNIQA': (8.67, 0.1323, False, False),
    'pixel + CNNIQA + LPIPS': (9.66, 0.0810, True, False),
    'pixel + 10 x CNNIQA': (13.40, 0.6396, False, True),
    'pixel + 10 x CNNIQA + LPIPS': (22.30, 0.2290, True, True),
    'CNNIQA without pixel loss': (57.84, 0.7671, False, True),
}


@pytest.mark.parametrize('run', REAL_RUNS)
def test_the_rule_on_lpips_tells_the_gamed_runs_of_the_readme_from_the_others(run):
    judge, reference, optimised, expected = REAL_RUNS[run]
    changes = (change('cnniqa', 34.34, judge), change('lpips', 0.1515, reference))
    assert bool(AlarmRule().reasons(*(c.gain for c in changes), 0.0, optimised)) == expected


def test_lpips_that_hardly_rises_though_optimised_is_suspicious_only_once_the_judge_has_risen():
    lpips = change('lpips', 0.20, 0.199).gain
    assert lpips == pytest.approx(0.5)
    assert AlarmRule().reasons(20.0, lpips, None, True)
    assert not AlarmRule().reasons(2.0, lpips, None, True)
    assert not AlarmRule().reasons(20.0, lpips, None, False)
    assert not AlarmRule(rise=0.1).reasons(20.0, lpips, None, True)


def test_a_pattern_that_was_there_before_raises_no_alarm():
    assert not AlarmRule().reasons(pattern=change('pattern', 3.0, 3.2).growth)
    (reason,) = AlarmRule().reasons(pattern=change('pattern', 0.1, 2.2).growth)
    assert 'grew by 2.10 grey levels' in reason


def test_other_images_than_the_baselines_are_refused():
    with pytest.raises(ValueError, match="lpips was scored for other images than its baseline: \\['b'\\]"):
        Change('lpips', False, {'a': 1.0}, {'a': 1.0, 'b': 2.0})


@pytest.mark.parametrize('option', [{'fall': -1}, {'rise': float('nan')}, {'pattern': '1.0'}])
def test_thresholds_are_positive_numbers(option):
    with pytest.raises((ValueError, TypeError), match=f'artifact alarm: {next(iter(option))}'):
        AlarmRule(**option)


@pytest.mark.parametrize(('higher_better', 'expected'), [(False, ['b', 'd']), (True, ['c', 'a'])])
def test_only_the_images_that_got_worst_are_kept_worst_first(higher_better, expected):
    worst = WorstImages(2, dict.fromkeys('abcd', 1.0), higher_better)
    for name, score in (('a', 1.1), ('b', 4.0), ('c', 0.0), ('d', 3.0), ('unknown', 99.0)):
        worst.show(name, score, name.upper())
    assert worst.worst_first() == [(name, name.upper()) for name in expected]
    assert WorstImages(0, {'a': 1.0}, False).worst_first() == []


def test_worst_images_are_written_as_they_were(tmp_path):
    worst = WorstImages(1, {'clip::3': 0.0}, higher_better=False)
    image = (photograph(32)[0] * 255).round() / 255
    worst.show('clip::3', 2.0, image)
    worst.write(tmp_path / 'new', 'x')
    assert torch.allclose(read_image(tmp_path / 'new' / 'x_clip_3.png'), image, atol=1e-6)


# --- inside a BasicSR training ---


@pytest.fixture
def training(tmp_path):
    """A PerceptualModel with an alarm and its validation loader; the images are large enough for the pattern judge."""
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    import numpy as np
    from basicsr.data import build_dataloader, build_dataset
    from basicsr.models import build_model
    from PIL import Image

    import nriqa_plugin.basicsr  # noqa: F401
    from tests.test_basicsr_adapter import options

    for kind in ('gt', 'lq'):
        (tmp_path / kind).mkdir()
    for seed, name in enumerate(('one', 'two')):
        gt = photograph(64, seed)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        Image.fromarray(gt).save(tmp_path / 'gt' / f'{name}.png')
        Image.fromarray(np.ascontiguousarray(gt[::4, ::4])).save(tmp_path / 'lq' / f'{name}.png')

    def build(terms=None, **alarm):
        judges = {'judge': 'tests.judges:Brightness', 'far': 'tests.judges:Distance'}
        val = {'save_img': False, 'artifact_alarm': {'judge': 'judge', 'reference': 'far', **alarm},
               'metrics': {name: {'type': 'calculate_iqa', 'metric': judge} for name, judge in judges.items()}}  # fmt: skip
        plain = [{'type': 'L1Loss', 'weight': 1.0}]
        model = build_model(options(tmp_path, terms=plain if terms is None else plain + terms, val=val))
        data = {
            'name': 'two', 'phase': 'val', 'type': 'CheckedPairedImageDataset', 'scale': 4,
            'io_backend': {'type': 'disk'}, 'dataroot_gt': str(tmp_path / 'gt'), 'dataroot_lq': str(tmp_path / 'lq'),
        }  # fmt: skip
        return model, build_dataloader(build_dataset(data), data)

    return build


def draw_dots(model, levels):
    """Let the last convolution's output channels, which pixel shuffle spreads over 2 x 2 positions, differ."""
    with torch.no_grad():
        bias = model.net_g.conv_hr.bias  # before the last convolution
        model.net_g.conv_last.weight.zero_()
        bias.zero_()
        upconv = model.net_g.upconv2.bias  # 4 positions per channel
        upconv[::4] += levels / 255
        model.net_g.conv_hr.weight.zero_()
        model.net_g.conv_hr.weight[0, 0, 1, 1] = 1
        model.net_g.conv_last.weight[:, 0, 1, 1] = 1


def alarms(log):
    return [record.message for record in log.records if 'ARTIFACT ALARM' in record.message]


def test_a_training_that_changes_nothing_raises_no_alarm(training, plugin_log, tmp_path):
    model, loader = training()
    model.validation(loader, 1, None)
    assert not alarms(plugin_log)
    assert not (tmp_path / 'run' / 'artifacts').exists()


def test_dots_that_the_network_learned_raise_the_alarm_and_are_shown(training, plugin_log, tmp_path):
    model, loader = training(fall=1e6)
    model.validation(loader, 1, None)
    draw_dots(model, 60)
    model.validation(loader, 2, None)
    (message,) = alarms(plugin_log)
    assert 'a periodic pattern grew by' in message
    shown = sorted(p.name for p in (tmp_path / 'run' / 'artifacts').glob('*_pattern_*.png'))
    assert shown == ['2_two_pattern_one.png', '2_two_pattern_two.png']
    model.validation(loader, 2, None)  # the host validates twice at the end
    assert len(alarms(plugin_log)) == 1


def test_a_fall_of_the_reference_raises_the_alarm_and_can_stop_the_training(training, plugin_log, tmp_path):
    model, loader = training(action='stop', images=1, pattern=1e6)
    model.validation(loader, 1, None)
    with torch.no_grad():
        model.net_g.conv_last.bias += 1.0
    with pytest.raises(
        RuntimeError,
        match=r'ARTIFACT ALARM, two, iteration 2, brightness against distance: the reference judge fell by .* %',
    ):
        model.validation(loader, 2, None)
    assert len(alarms(plugin_log)) == 1
    assert (tmp_path / 'run' / 'models' / 'net_g_alarm.pth').is_file()
    assert len(list((tmp_path / 'run' / 'artifacts').glob('*_reference_*.png'))) == 1


def test_the_alarm_knows_whether_its_reference_is_optimised(training, plugin_log):
    """An optimised reference that does not rise while the judge does is suspicious; the same without it is not."""
    for terms, expected in (([{'type': 'FRIQALoss', 'metric': 'tests.judges:Distance', 'weight': 0.1}], 1), (None, 0)):
        model, loader = training(terms, fall=1e6, judge_rise=0.5, rise=1e6, pattern=1e6)
        plugin_log.clear()
        model.validation(loader, 1, None)
        with torch.no_grad():
            model.net_g.conv_last.bias += 0.2  # brighter: the judge rises
        model.validation(loader, 2, None)
        assert len(alarms(plugin_log)) == expected


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            {'judge': 'judg'},
            r"metric of type calculate_iqa in val\.artifact_alarm\.judge: 'judg'\. Did you mean 'judge'",
        ),
        ({'reference': 'lpips'}, r'val\.artifact_alarm\.reference'),
        ({'action': 'wran'}, r"val\.artifact_alarm\.action: 'wran'\. Did you mean 'warn'"),
        ({'falls': 3}, "option of val.artifact_alarm: 'falls'"),
        ({'fall': -3}, 'artifact alarm: fall'),
        ({'images': -1}, r'val\.artifact_alarm\.images'),
    ],
)
def test_wrong_alarm_options_are_refused_before_training(training, option, message):
    with pytest.raises(ValueError, match=message):
        training(**option)
