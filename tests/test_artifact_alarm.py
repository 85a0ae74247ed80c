"""The artifact alarm: the pattern judge, the paper's rule, and the alarm inside a BasicSR training."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from nriqa_plugin.evaluation.artifact_alarm import AlarmRule, Change, WorstImages
from nriqa_plugin.evaluation.images import list_images, read_image
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.losses import FRIQALoss, LossSum, NRIQALoss
from nriqa_plugin.losses.optimised import is_optimised
from tests.judges import Brightness, Darkness, Distance


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


def test_the_smallest_image_is_scored_at_the_periods_that_fit_twice():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        flat = torch.full((1, 3, 32, 32), 0.5)
        assert create_scorer('pattern')(dotted(flat, 4, 4)).item() == pytest.approx(4 * 8 / 9, rel=0.01)


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


def test_noise_and_blur_are_no_pattern_in_photographs(test_data):
    """So that ``worst_pattern`` (2 levels in one image) does not take an honest change for dots."""
    judge = create_scorer('pattern')
    generator = torch.Generator().manual_seed(0)
    for file in list_images(test_data / 'images' / 'kodak24')[::4]:
        image = read_image(file)[None]
        noisy = (image + 8 / 255 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
        blurred = nn.functional.avg_pool2d(image, 5, stride=1, padding=2, count_include_pad=False)
        for changed in (noisy, blurred):
            assert judge(changed).item() - judge(image).item() < 1, file


# --- the rule ---


def change(name, before, after, higher_better=False):
    return Change(name, higher_better, {'a': before}, {'a': after})


# README, "Is it being gamed?": (CNNIQA, LPIPS, growth of pattern, LPIPS optimised, alarm on LPIPS alone)
REAL_RUNS = {
    'pixel': (31.51, 0.1527, 0.0, False, False),
    'pixel + CNNIQA': (8.59, 0.1318, 2.2, False, False),
    'pixel + CNNIQA + LPIPS': (9.69, 0.0806, 3.3, True, False),
    'pixel + 10 x CNNIQA': (14.87, 0.2373, 8.3, False, True),
    'pixel + 10 x CNNIQA + LPIPS': (35.47, 0.6313, 4.7, True, True),
    'CNNIQA without pixel loss': (101.49, 0.8885, 18.2, False, True),
}


@pytest.mark.parametrize('run', REAL_RUNS)
def test_the_rule_on_lpips_finds_the_gamed_runs_of_the_readme_and_with_the_pattern_all_that_draw_dots(run):
    judge, reference, pattern, optimised, expected = REAL_RUNS[run]
    gains = [change('cnniqa', 34.34, judge).gain, change('lpips', 0.1515, reference).gain]
    assert bool(AlarmRule().reasons(*gains, None, optimised)) == expected
    assert bool(AlarmRule().reasons(*gains, pattern, optimised)) == (run != 'pixel')


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


def test_thresholds_may_be_reached_but_not_passed():
    assert not AlarmRule().reasons(20.0, -10.0, 1.0, False, 2.0)
    assert len(AlarmRule().reasons(20.0, -10.01, 1.01, False)) == 2
    assert not AlarmRule().reasons(20.0, 5.0, None, True)


def test_dots_on_one_of_five_images_raise_the_alarm():
    judge = create_scorer('pattern')
    images = {f'{seed}.png': photograph(seed=seed) for seed in range(5)}
    before = {name: judge(image).item() for name, image in images.items()}
    after = {**before, '3.png': judge(dotted(images['3.png'], 4, 4).clamp(0, 1)).item()}
    grown = Change('pattern', False, before, after)
    assert not AlarmRule().reasons(pattern=grown.growth)
    (reason,) = AlarmRule().reasons(pattern=grown.growth, worst_pattern=grown.worst_growth)
    assert 'in one image a periodic pattern grew by' in reason


def test_clips_count_alike_whatever_their_length():
    before = {'a': 1.0, 'b': 2.0, 'b::1': 2.0, 'b::2': 2.0}
    assert Change('x', True, before, {**before, 'a': 2.5}).gain == pytest.approx(100 * 0.75 / 1.5)
    assert Change('x', True, before, {**before, 'a': 2.5}).growth == pytest.approx(0.75)


def test_a_baseline_that_cannot_be_divided_by_names_its_judge():
    with pytest.raises(ValueError, match='quality: .*must be positive'):
        _ = change('quality', -1.0, 2.0).gain


def test_other_images_than_the_baselines_are_refused():
    with pytest.raises(ValueError, match=r'lpips of 1 images in the baseline.*only in the test: 1 \(b\)'):
        Change('lpips', False, {'a': 1.0}, {'a': 1.0, 'b': 2.0})


@pytest.mark.parametrize('option', [{'fall': -1}, {'rise': float('nan')}, {'pattern': '1.0'}, {'worst_pattern': -1}])
def test_thresholds_are_positive_numbers(option):
    with pytest.raises((ValueError, TypeError), match=f'artifact alarm: {next(iter(option))}'):
        AlarmRule(**option)


@pytest.mark.parametrize(('higher_better', 'expected'), [(False, ['b', 'd']), (True, ['c', 'a'])])
def test_only_the_images_that_got_worst_are_kept_worst_first(higher_better, expected):
    worst = WorstImages(2, dict.fromkeys('abcd', 1.0), higher_better)
    for name, score in (('a', 1.1), ('b', 4.0), ('c', 0.0), ('d', 3.0), ('unknown', 99.0)):
        worst.show(name, score, torch.full((3, 1, 1), ord(name[0]) / 255))
    assert [(name, image.tolist()) for name, image in worst.worst_first()] == [(n, [[[ord(n)] * 3]]) for n in expected]
    assert WorstImages(0, {'a': 1.0}, False).worst_first() == []


@pytest.mark.parametrize('kind', ['tensor', 'array'])
def test_what_is_kept_is_a_copy_of_one_frame_in_8_bits(kind):
    clip = torch.rand(7, 3, 8, 8)
    clip = clip if kind == 'tensor' else (255 * clip).byte().permute(0, 2, 3, 1).numpy()
    worst = WorstImages(2, dict.fromkeys('abc', 0.0), False)
    for name, frame in zip('abc', clip, strict=False):
        worst.show(name, 1.0, frame)
    for _, image in worst.worst_first():
        assert image.dtype == np.uint8
        assert image.nbytes == (image if image.base is None else image.base).nbytes == 3 * 8 * 8


def test_worst_images_are_written_as_they_were(tmp_path):
    worst = WorstImages(1, {'clip::3': 0.0}, higher_better=False)
    image = (photograph(32)[0] * 255).round() / 255
    worst.show('clip::3', 2.0, image)
    worst.write(tmp_path / 'new', 'x')
    assert torch.allclose(read_image(tmp_path / 'new' / 'x_1_clip_3.png'), image, atol=1e-6)


def test_no_worst_image_is_written_over_another(tmp_path):
    names = ['a/1.png', 'b/1.png', 'a/1.png::2', '雪.png', '花.jpg', 'v1.5 x.png', 'v1.5.png', 'a_1.png']
    worst = WorstImages(20, dict.fromkeys(names, 0.0), False)
    for i, name in enumerate(names):
        worst.show(name, float(-i), torch.rand(3, 4, 4))
    worst.write(tmp_path, 'x')
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        'x_1_a_1.png', 'x_2_b_1.png', 'x_3_a_1_2.png', 'x_4_雪.png', 'x_5_花.jpg.png', 'x_6_v1.5_x.png',
        'x_7_v1.5.png', 'x_8_a_1.png',
    ]  # fmt: skip


# --- what is optimised ---


def loss_sum(**term):
    return LossSum([{'type': 'L1Loss', 'weight': 1.0}, {'weight': 0.1, **term}])


def test_a_judge_counts_as_optimised_wherever_it_acts():
    judge = Distance()
    far = {'type': 'FRIQALoss', 'metric': 'tests.judges:Distance'}
    assert is_optimised(judge, [loss_sum(**far)])
    assert is_optimised(judge, [FRIQALoss('tests.judges:Distance')])
    assert not is_optimised(judge, [loss_sum(**{**far, 'weight': 0.0})])
    assert not is_optimised(judge, [FRIQALoss('tests.judges:Distance', loss_weight=0)])
    assert not is_optimised(judge, [nn.L1Loss(), loss_sum(type='NRIQALoss', metric='tests.judges:Brightness')])
    foreign = Distance()
    foreign.name = 'pyiqa:distance'
    assert is_optimised(foreign, [loss_sum(**far)])


def test_a_judge_in_an_ensemble_is_optimised_too():
    mixed = loss_sum(type='NRIQALoss', ensemble=[{'tests.judges:Brightness': 1.0}, {'tests.judges:Darkness': 2.0}])
    assert is_optimised(Brightness(), [mixed])
    assert is_optimised(Darkness(), [nn.ModuleList([mixed])])
    assert not is_optimised(Distance(), [mixed])


# --- inside a BasicSR training ---

GAIN = {'type': 'calculate_relative_gain', 'metric': 'tests.judges:Brightness', 'baseline': 'start'}


@pytest.fixture
def training(tmp_path):
    """A PerceptualModel with an alarm and its validation loader; the images are large enough for the pattern judge."""
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
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

    def build(terms=None, metrics=None, is_train=True, **alarm):
        judges = {'judge': 'tests.judges:Brightness', 'far': 'tests.judges:Distance'}
        val = {'save_img': False, 'artifact_alarm': {'judge': 'judge', 'reference': 'far', **alarm},
               'metrics': {name: {'type': 'calculate_iqa', 'metric': judge} for name, judge in judges.items()}}  # fmt: skip
        val['metrics'].update(metrics or {})
        plain = [{'type': 'L1Loss', 'weight': 1.0}]
        opt = options(tmp_path, terms=plain if terms is None else plain + terms, val=val, is_train=is_train)
        opt['path']['results_root'] = str(tmp_path / 'run')
        model = build_model(opt)
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
    assert [(name[:16], name[17:]) for name in shown] in (
        [('2_two_pattern_1_', 'ne.png'), ('2_two_pattern_2_', 'wo.png')],
        [('2_two_pattern_1_', 'wo.png'), ('2_two_pattern_2_', 'ne.png')],
    )
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
        ({'judge': 'pattern'}, r'val\.artifact_alarm\.judge: pattern has no relative gain'),
        (
            {'metrics': {'gain': {**GAIN, 'crop_border': 4}}},
            r"val\.metrics\.gain and val\.metrics\.judge are both measured .* by the judge 'brightness'",
        ),
    ],
)
def test_wrong_alarm_options_are_refused_before_training(training, option, message):
    with pytest.raises(ValueError, match=message):
        training(**option)


def test_an_alarm_that_is_misspelt_or_no_mapping_is_named(training, tmp_path):
    from basicsr.models import build_model

    from tests.test_basicsr_adapter import options

    with pytest.raises(ValueError, match="unknown option 'artefact_alarm' in val; did you mean 'artifact_alarm'"):
        build_model(options(tmp_path, val={'artefact_alarm': {'judge': 'judge'}}))
    with pytest.raises(TypeError, match=r'val\.artifact_alarm must be a mapping .*, got True'):
        build_model(options(tmp_path, val={'artifact_alarm': True}))


def test_two_metrics_of_one_judge_are_heard_once(training, plugin_log):
    again = {'type': 'calculate_iqa', 'metric': 'tests.judges:Brightness'}
    model, loader = training(metrics={'again': again, 'gain': GAIN})
    model.validation(loader, 1, None)
    assert not alarms(plugin_log)
    assert model.metric_results['again'] == model.metric_results['judge']


def test_a_baseline_that_is_not_positive_stops_right_after_it_was_measured(training):
    model, loader = training()
    with torch.no_grad():
        model.net_g.conv_last.weight.zero_()
        model.net_g.conv_last.bias.fill_(-5.0)  # black
    model.net_g.forward = lambda x: torch.zeros(len(x), 3, 4 * x.shape[2], 4 * x.shape[3])
    with pytest.raises(ValueError, match='the baseline of brightness has the mean 0.0'):
        model.validation(loader, 1, None)


def test_a_test_run_ignores_the_alarm(training):
    model, loader = training(is_train=False)
    assert model.alarm is None
    model.validation(loader, 'run', None)
    assert 'pattern' not in model.metric_results
