"""``nriqa artifacts``: the pattern detector, the rule image by image, crops, table, page, and the run index."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.evaluation.artifact_alarm import Change
from nriqa_plugin.evaluation.artifact_crops import worst_crop
from nriqa_plugin.evaluation.artifacts import ImageRule, Item, examine, find_items, mean_reasons
from nriqa_plugin.evaluation.flat_areas import FlatRegions, flat_windows
from nriqa_plugin.evaluation.images import list_images, read_image
from nriqa_plugin.evaluation.periodic import PatternRule, find_pattern
from nriqa_plugin.evaluation.run_index import Run, RunIndex, write_runs
from nriqa_plugin.evaluation.scores import Score, read_scores, write_scores
from nriqa_plugin.iqa import create_scorer
from tests.judges import Distance

ROOT = Path(__file__).resolve().parent.parent
SIDE = 256
JUDGES = ['-m', 'tests.judges:Brightness', '--lpips', 'tests.judges:Distance']


def photograph(seed=0, side=SIDE):
    """Smooth blobs with a little noise, in 8-bit steps."""
    generator = torch.Generator().manual_seed(seed)
    blobs = nn.functional.interpolate(torch.rand(1, 3, 9, 9, generator=generator), size=(side, side), mode='bicubic')[0]
    return rounded(0.2 + 0.6 * blobs + 0.01 * torch.randn(3, side, side, generator=generator))


def rounded(image):
    return image.clamp(0, 1).mul(255).round() / 255


def dotted(image, period, levels, top=0, left=0, size=10000):
    dots = torch.zeros_like(image)
    dots[:, ::period, ::period] = levels / 255
    inside = torch.zeros(image.shape[-2:])
    inside[top : top + size, left : left + size] = 1
    return rounded(image + dots * inside)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


# --- the detector ---


def naive_fold(image, period):
    """Largest deviation of a position's mean over the image less its 3x3 mean, in levels, pixel by pixel."""
    pixels = image.double().numpy()
    height, width = pixels.shape[1:]
    mean = sum(pixels[:, y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3)) / 9
    detail = np.clip(pixels[:, 1:-1, 1:-1] - mean, -16 / 255, 16 / 255)
    rows, columns = (side // period * period for side in detail.shape[1:])
    detail = detail[:, :rows, :columns]
    folds = np.stack([[detail[:, y::period, x::period].mean((1, 2)) for x in range(period)] for y in range(period)])
    return 255 * np.abs(folds - folds.mean((0, 1))).max()


@pytest.mark.parametrize('period', [2, 3, 5, 16])
def test_the_amplitude_is_that_of_the_folded_difference(period):
    before, after = photograph(), dotted(photograph(), period, 3)
    found = find_pattern(after, before)
    assert found.period == period
    assert not found.local
    assert found.amplitude == pytest.approx(naive_fold(after - before, period), rel=1e-3)
    assert found.amplitude == pytest.approx(3 * 8 / 9, rel=0.05)
    assert found.errors > PatternRule().whole


def test_alone_it_agrees_with_the_judge_pattern_on_what_is_significant():
    image = dotted(photograph(), 4, 5)
    score, found = create_scorer('pattern')(image[None]).item(), find_pattern(image)
    assert found.period == 4
    # The judge takes the largest of 4, 8, 12 and 16 px, of which chance is a part; here the shortest counts.
    assert 0.8 * score <= found.amplitude <= score


def test_equal_images_and_an_honest_change_have_no_pattern():
    image = photograph()
    blurred = rounded(nn.functional.avg_pool2d(image[None], 3, 1, 1, count_include_pad=False)[0])
    assert find_pattern(image, image) is None
    assert find_pattern(blurred, image) is None
    assert find_pattern(image, blurred) is None
    assert find_pattern(image) is None


def test_a_pattern_that_only_the_baseline_has_is_no_fault_of_the_result():
    clean, dots = photograph(), dotted(photograph(), 4, 6)
    assert find_pattern(clean, dots) is None
    assert find_pattern(dots, clean).period == 4
    assert find_pattern(dots, dots) is None


def test_dots_in_a_part_of_the_image_are_found_there():
    before = photograph(side=512)
    found = find_pattern(dotted(before, 3, 4, top=300, left=100, size=100), before)
    assert found.local
    assert found.period == 3
    middle = found.top + found.height / 2, found.left + found.width / 2
    assert abs(middle[0] - 350) < 64
    assert abs(middle[1] - 150) < 64


def test_dots_outside_the_mask_do_not_count():
    before = photograph()
    after = dotted(before, 4, 6, top=0, left=0, size=128)
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[140:, 140:] = True
    assert find_pattern(after, before) is not None
    assert find_pattern(after, before, mask=mask) is None
    assert find_pattern(after, before, mask=~mask).period == 4


def test_the_thresholds_decide():
    before, after = photograph(), dotted(photograph(), 4, 3)
    amplitude = find_pattern(after, before).amplitude
    assert find_pattern(after, before, PatternRule(amplitude=amplitude - 0.01)) is not None
    assert find_pattern(after, before, PatternRule(amplitude=amplitude + 0.01)) is None
    assert find_pattern(after, before, PatternRule(whole=1e6, local=1e6)) is None
    with pytest.raises(ValueError, match='pattern rule: local'):
        PatternRule(local=-1)


def test_an_image_too_small_to_fold_has_none_and_sizes_must_agree():
    assert find_pattern(torch.zeros(3, 31, 100), torch.zeros(3, 31, 100)) is None
    with pytest.raises(ValueError, match='one size'):
        find_pattern(torch.zeros(3, 64, 64), torch.zeros(3, 64, 65))


def test_clean_kodak_has_no_pattern_and_dots_of_2_levels_are_found(test_data):
    """Rates over all images and periods: docs/artifacts.md."""
    for path in list_images(test_data / 'images' / 'kodak24')[::8]:
        truth = read_image(path)
        small = nn.functional.interpolate(truth[None], scale_factor=0.25, mode='bicubic', antialias=True)
        result = rounded(nn.functional.interpolate(small, scale_factor=4, mode='bicubic')[0])
        assert find_pattern(truth) is None, path
        assert find_pattern(truth, result) is None, path
        assert find_pattern(result, truth) is None, path
        for period in (2, 8):
            assert find_pattern(dotted(result, period, 2), truth) is not None, (path, period)


# --- the rule image by image ---


def change(name, before, after, higher_better=False):
    return Change(name, higher_better, before, after)


@pytest.fixture
def items(tmp_path):
    """Two images: the results are the baseline's, the ground truth is another photograph."""
    for number, name in enumerate('ab'):
        for folder in ('results', 'baseline'):
            save(tmp_path / folder / f'{name}.png', photograph(number))
        save(tmp_path / 'gt' / f'{name}.png', photograph(number + 5))
    return find_items(tmp_path / 'results', tmp_path / 'baseline', tmp_path / 'gt')


def test_an_image_is_flagged_when_lpips_fell_and_the_judge_rose_on_it(items):
    judge = change('judge', {'a.png': 50, 'b.png': 30}, {'a.png': 55, 'b.png': 29}, higher_better=True)
    lpips = change('lpips', {'a.png': 0.2, 'b.png': 0.2}, {'a.png': 0.23, 'b.png': 0.3})
    a, b = examine(items, [judge], lpips)
    assert a.kinds == ('reference',)
    assert a.reference_gain == pytest.approx(-15)
    assert a.judge_gain == pytest.approx(100 * 5 / 40)
    assert a.reasons == ('lpips fell by 15.0 % while judge rose by 12.5 %',)
    assert not b.reasons  # the judge fell, too: an honest bad result


def test_gains_of_images_average_to_eq_1():
    lpips = change('lpips', {'a': 0.1, 'b': 0.3, 'c': 0.0}, {'a': 0.2, 'b': 0.2, 'c': 0.1})
    assert np.mean(list(lpips.gains().values())) == pytest.approx(lpips.gain)


def test_a_fall_up_to_the_threshold_is_allowed(items):
    judge = change('judge', dict.fromkeys(items, 1.0), dict.fromkeys(items, 2.0), higher_better=True)
    lpips = change('lpips', dict.fromkeys(items, 0.2), dict.fromkeys(items, 0.224))
    assert not any(finding.reasons for finding in examine(items, [judge], lpips, ImageRule(fall=12.1)))
    assert all(finding.reasons for finding in examine(items, [judge], lpips, ImageRule(fall=11.9)))


def test_of_several_judges_the_one_that_rose_counts(items):
    up = change('up', dict.fromkeys(items, 1.0), dict.fromkeys(items, 2.0), higher_better=True)
    down = change('down', dict.fromkeys(items, 1.0), dict.fromkeys(items, 1.5))
    lpips = change('lpips', dict.fromkeys(items, 0.2), dict.fromkeys(items, 0.4))
    assert [finding.judge for finding in examine(items, [down, up], lpips)] == ['up', 'up']
    assert not any(finding.reasons for finding in examine(items, [down], lpips))


def test_a_judge_without_scores_of_some_image_is_an_error_that_names_both(items):
    short = change('musiq', {'a.png': 1.0}, {'a.png': 2.0}, higher_better=True)
    with pytest.raises(ValueError, match=r'musiq.*b\.png'):
        list(examine(items, [short], None))


def test_in_flat_areas_a_missing_score_is_an_error_that_names_judge_and_image(tmp_path):
    for folder in ('results', 'baseline', 'gt'):
        save(tmp_path / folder / 'a.png', torch.full((3, 96, 96), 0.5))
    flat = find_items(tmp_path / 'results', tmp_path / 'baseline', tmp_path / 'gt')
    other = change('musiq', {'b.png': 1.0}, {'b.png': 2.0}, higher_better=True)
    with pytest.raises(ValueError, match=r'musiq has no score of a\.png'):
        list(examine(flat, [other], None, flat=FlatRegions(64)))


def test_the_rule_on_the_means_is_that_of_the_alarm():
    judge = change('judge', {'a': 50, 'b': 30}, {'a': 60, 'b': 40}, higher_better=True)
    lpips = change('lpips', {'a': 0.2, 'b': 0.2}, {'a': 0.2, 'b': 0.198})
    assert not mean_reasons([judge], lpips)
    (reason,) = mean_reasons([judge], lpips, reference_optimised=True)
    assert 'optimised and yet its gain is +0.5 %' in reason


# --- pairing ---


def test_results_of_another_size_than_their_baseline_are_named(items, tmp_path):
    save(tmp_path / 'baseline' / 'b.png', photograph(1, side=200))
    with pytest.raises(ValueError, match=r'results/b\.png is 256 x 256 px, .*baseline/b\.png is 200 x 200'):
        list(examine(items))


def test_images_that_do_not_pair_are_named(items, tmp_path):
    save(tmp_path / 'results' / 'c.png', photograph(2))
    with pytest.raises(ValueError, match=r'do not pair.*c'):
        find_items(tmp_path / 'results', tmp_path / 'baseline')
    with pytest.raises(ValueError, match=r'do not pair.*c'):
        find_items(tmp_path / 'results', tmp_path / 'baseline', tmp_path / 'gt')


def test_the_option_that_would_pair_results_with_their_baseline_is_named(items, tmp_path):
    for name in 'ab':
        (tmp_path / 'baseline' / f'{name}.png').rename(tmp_path / 'baseline' / f'{name}_old.png')
    with pytest.raises(ValueError, match='without a baseline, .* they would pair with --baseline-suffix _old'):
        find_items(tmp_path / 'results', tmp_path / 'baseline')
    with pytest.raises(ValueError, match='without a reference, .* they would pair with --baseline-suffix _old'):
        find_items(tmp_path / 'results', tmp_path / 'baseline', tmp_path / 'gt')
    assert list(find_items(tmp_path / 'results', tmp_path / 'baseline', baseline_suffix='_old')) == ['a.png', 'b.png']
    for name in 'ab':
        (tmp_path / 'baseline' / f'{name}_old.png').rename(tmp_path / 'baseline' / f'{name}.png')
        (tmp_path / 'results' / f'{name}.png').rename(tmp_path / 'results' / f'{name}_new.png')
    with pytest.raises(ValueError, match='they would pair with --suffix _new'):
        find_items(tmp_path / 'results', tmp_path / 'baseline')


def test_suffixes_of_both_runs_are_left_out_of_the_names(items, tmp_path):
    for folder, suffix in (('results', '_new'), ('baseline', '_old')):
        for name in 'ab':
            path = tmp_path / folder / f'{name}.png'
            path.rename(path.with_stem(name + suffix))
    found = find_items(tmp_path / 'results', tmp_path / 'baseline', tmp_path / 'gt', '_new', '_old')
    assert list(found) == ['a.png', 'b.png']
    assert found['a.png'].baseline.name == 'a_old.png'
    with pytest.raises(ValueError, match='ground truths'):
        find_items(tmp_path / 'results', tmp_path / 'baseline', None, '_new', '_old')


# --- the crop ---


def test_the_crop_is_where_the_reference_judge_got_worst(tmp_path):
    truth = photograph()
    bad = truth.clone()
    bad[:, 128:192, 64:128] = rounded(bad[:, 128:192, 64:128] * 0.5)
    for name, image in (('result', bad), ('base', truth), ('gt', truth)):
        save(tmp_path / f'{name}.png', image)
    item = Item(*(tmp_path / f'{name}.png' for name in ('result', 'base', 'gt')))
    judge = change('j', {'x': 1.0}, {'x': 2.0}, higher_better=True)
    (finding,) = examine({'x': item}, [judge], change('d', {'x': 0.1}, {'x': 0.2}))
    for reference_judge in (Distance(), None):
        crop = worst_crop(finding, item, 64, reference_judge)
        assert (crop.top, crop.left, crop.size) == (128, 64, 64)
    crop = worst_crop(finding, item._replace(reference=None), 64)
    assert (crop.top, crop.left) == (128, 64), 'without ground truth: where result and baseline differ most'


# --- the command ---


def run(*arguments):
    return CliRunner().invoke(app, ['artifacts', *map(str, arguments)], env={'COLUMNS': '200'})


@pytest.fixture
def folders(tmp_path):
    """``dots.png`` has dots, ``brighter.png`` pleases the judge Brightness far from the truth, ``same.png`` is clean."""
    for number, name in enumerate(('brighter', 'dots', 'same')):
        truth = photograph(number)
        base = rounded(truth + 0.04)
        result = {'dots': dotted(base, 4, 5), 'brighter': rounded(base + 0.2), 'same': base}[name]
        for folder, image in (('results', result), ('baseline', base), ('gt', truth)):
            save(tmp_path / folder / f'{name}.png', image)
    return tmp_path


def options(folders, *more, judges=JUDGES):
    return [
        folders / 'results',
        '-b',
        folders / 'baseline',
        '-r',
        folders / 'gt',
        '-o',
        folders / 'out',
        *judges,
        *more,
    ]


def as_clips(folders):
    (folders / 'clips').mkdir()
    return (folders / 'results').rename(folders / 'clips' / 'one').parent


def table_of(folders, *place):
    with open(folders.joinpath('out', *place, 'artifacts.csv'), newline='') as file:
        return {row['image']: row for row in csv.DictReader(file)}


def test_the_command_flags_and_shows_and_returns_1(folders):
    result = run(*options(folders))
    assert result.exit_code == 1, result.output
    assert '2 of 3 images flagged' in result.output
    rows = table_of(folders)
    assert [rows[f'{name}.png']['flagged'] for name in ('brighter', 'dots', 'same')] == ['True', 'True', 'False']
    assert 'distance fell' in rows['brighter.png']['reasons']
    assert rows['dots.png']['period'] == '4'
    assert float(rows['dots.png']['amplitude']) == pytest.approx(5 * 8 / 9, rel=0.05)
    crops = sorted(path.name for path in (folders / 'out' / 'crops').iterdir())
    assert crops == ['001_brighter.png', '002_dots.png']
    assert Image.open(folders / 'out' / 'crops' / crops[0]).size == (4 * 96 + 3 * 4, 96)
    page = (folders / 'out' / 'artifacts.html').read_text()
    assert page.count('<section>') == 2
    assert page.count('data:image/png;base64,') == 8
    assert 'http' not in page.replace('http-equiv', '')
    again = run(*options(folders))  # from the stored scores
    assert again.output == result.output


def test_a_clean_folder_returns_0_and_patterns_need_no_judge(folders):
    for name in ('brighter', 'same'):
        (folders / 'results' / f'{name}.png').write_bytes((folders / 'baseline' / f'{name}.png').read_bytes())
    result = run(folders / 'results', '-b', folders / 'baseline', '-o', folders / 'out')
    assert result.exit_code == 1
    assert [row['flagged'] for row in table_of(folders).values()] == ['False', 'True', 'False']
    (folders / 'results' / 'dots.png').write_bytes((folders / 'baseline' / 'dots.png').read_bytes())
    result = run(folders / 'results', '-b', folders / 'baseline', '-o', folders / 'out')
    assert result.exit_code == 0, result.output
    assert 'only patterns were looked for' in result.output
    assert not list((folders / 'out' / 'crops').iterdir()), 'crops of an earlier call stay behind'


def test_flat_areas_only(folders):
    """The dots lie in the half that is not flat; the third image has no flat area at all."""
    noise = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    for number, name in enumerate(('brighter', 'dots', 'same')):
        truth = rounded(noise) if name == 'same' else torch.full((3, SIDE, SIDE), (100 + number) / 255)
        truth[:, :128] = rounded(noise[:, :128])
        base = rounded(truth + 2 / 255)
        result = rounded(base + 0.2) if name == 'brighter' else base
        if name == 'dots':
            result = dotted(base, 4, 6, top=0, left=0, size=128)
        for folder, image in (('results', result), ('baseline', base), ('gt', truth)):
            save(folders / folder / f'{name}.png', image)
    result = run(*options(folders, '--flat'))
    assert result.exit_code == 1, result.output
    assert '1 (same.png) of 3 images have no flat window' in result.output
    rows = table_of(folders)
    assert [row['flagged'] for row in rows.values()] == ['True', 'False', 'False']
    windows = [len(flat_windows(read_image(folders / 'gt' / name))) for name in rows]
    assert [int(row['flat_windows']) for row in rows.values()] == windows
    assert windows[0] >= 2
    assert windows[2] == 0
    assert (folders / 'out' / 'scores' / 'result.csv').read_text().count('brightness@flat') == 2
    assert rows['brighter.png']['crop_size'] == '64'
    assert int(rows['brighter.png']['crop_top']) >= 128


@pytest.mark.parametrize(
    ('change_call', 'message'),
    [
        (lambda f: [f / 'results', '-o', f / 'out'], '--baseline'),
        (lambda f: [f / 'results', '-b', f / 'baseline', '-o', f / 'out', *JUDGES], '--reference'),
        (lambda f: [f / 'results', '-b', f / 'baseline', '-o', f / 'out', '--flat'], '--flat needs the ground truths'),
        (lambda f: [f / 'results', '-b', f / 'baseline', '-o', f / 'out', '--lpips', 'lpips'], 'with -m'),
        (lambda f: options(f, '--flat-size', 64), '--flat-size needs --flat'),
        (lambda f: options(f, '--flat', judges=[*JUDGES, '-m', 'niqe']), 'niqe needs at least 192 px.*--flat-size 192'),
        (lambda f: options(f, '--flat', '--flat-size', 250), 'no image has'),
        (lambda f: options(f, '--optimised', 'distanec'), "--optimised: 'distanec'. Did you mean 'distance'"),
        (lambda f: [f / 'nowhere', '-b', f / 'baseline', '-o', f / 'out'], 'no such folder.*nowhere'),
        (lambda f: [as_clips(f), '-b', f / 'baseline', '-o', f / 'out'], 'clips holds clips.*one folder of images'),
        (lambda f: [f / 'baseline', '-b', as_clips(f), '-o', f / 'out'], 'clips holds clips.*one folder of images'),
    ],
)
def test_bad_calls_name_the_option(folders, change_call, message):
    result = run(*change_call(folders))
    assert result.exit_code == 2, result.output
    assert re.search(message, ' '.join(result.output.split())), result.output


def test_a_judge_that_is_undefined_for_an_image_is_named_with_it(folders):
    for folder in ('results', 'baseline', 'gt'):
        save(folders / folder / 'same.png', torch.full((3, SIDE, SIDE), 0.5))
    judges = ['-m', 'tests.judges:FlatIsUndefined', '--lpips', 'tests.judges:Distance']
    result = run(*options(folders, judges=judges))
    assert result.exit_code == 2
    assert 'flat_is_undefined' in result.output
    assert 'same.png' in result.output


# --- the run index ---


@pytest.fixture
def index(folders):
    """A baseline, a run with scores and images, and one without images."""

    def scores(name, brightness, distance):
        names = ('brighter.png', 'dots.png', 'same.png')
        rows = [Score(image, 'judge', value, True, 'h') for image, value in zip(names, brightness, strict=True)]
        rows += [Score(image, 'lpips', value, False, 'h') for image, value in zip(names, distance, strict=True)]
        write_scores(folders / f'{name}.csv', rows)
        return folders / f'{name}.csv'

    base = scores('base', (0.5, 0.5, 0.5), (0.1, 0.1, 0.1))
    new = scores('new', (0.7, 0.5, 0.5), (0.2, 0.1, 0.1))
    shared = {'references': folders / 'gt'}
    runs = (
        Run('start', 'tiny', 'pixel', 'set', base, folders / 'baseline', **shared),
        Run('tuned', 'tiny', 'pixel + judge', 'set', new, folders / 'results', optimised=('judge',), **shared),
        Run('lost', 'tiny', 'other', 'set', new, None),
    )
    return write_runs(folders / 'runs', RunIndex(runs, 'pixel'))


def test_every_run_of_an_index_is_compared_with_its_baseline_by_the_stored_scores(index, folders):
    for place in (index, index.parent):
        result = run(place, '-o', folders / 'out', '-m', 'judge', '--lpips', 'lpips')
        assert result.exit_code == 1, result.output
        assert 'tuned (tiny, set): 2 of 3 images flagged' in result.output
        assert 'lost (tiny, set) was left out: it has no images' in ' '.join(result.output.split())
    rows = table_of(folders, 'tiny_set_tuned')
    assert [row['flagged'] for row in rows.values()] == ['True', 'True', 'False']
    assert 'lpips fell by 100.0 % while judge rose by 40.0 %' in rows['brighter.png']['reasons']


def test_judges_that_the_index_lacks_score_the_images(index, folders):
    result = run(index, '-o', folders / 'out', *JUDGES)
    assert result.exit_code == 1, result.output
    assert (folders / 'out' / 'tiny_set_tuned' / 'scores' / 'result.csv').is_file()


def rewritten(index, **changes):
    """The index with other fields in its run ``tuned``."""
    raw = json.loads(index.read_text())
    raw['runs'][1] |= changes
    index.write_text(json.dumps(raw))
    return raw


def test_stored_scores_need_no_ground_truths_and_judges_that_need_them_name_the_run(index, folders):
    rewritten(index, references=None)
    result = run(index, '-o', folders / 'out', '-m', 'judge', '--lpips', 'lpips')
    assert result.exit_code == 1, result.output
    assert table_of(folders, 'tiny_set_tuned')['brighter.png']['crop_size'] == '96'
    result = run(index, '-o', folders / 'out', *JUDGES)
    assert result.exit_code == 2
    assert 'tuned (tiny, set): distance needs the ground truths' in ' '.join(result.output.split())


def test_runs_whose_names_differ_in_signs_only_have_folders_of_their_own(index, folders):
    raw = rewritten(index, name='tuned+')
    raw['runs'].append(raw['runs'][1] | {'name': 'tuned*', 'loss': 'third', 'images': raw['runs'][0]['images']})
    index.write_text(json.dumps(raw))
    assert run(index, '-o', folders / 'out').exit_code == 1
    assert table_of(folders, 'tiny_set_tuned_')['dots.png']['flagged'] == 'True'
    assert table_of(folders, 'tiny_set_tuned__')['dots.png']['flagged'] == 'False'


def test_stored_scores_against_other_references_are_refused(index, folders):
    for name, reference in (('base', 'aaa'), ('new', 'bbb')):
        rows = read_scores(folders / f'{name}.csv').rows
        write_scores(folders / f'{name}.csv', [replace(row, reference_hash=reference) for row in rows])
    result = run(index, '-o', folders / 'out', '-m', 'judge', '--lpips', 'lpips')
    assert result.exit_code == 2
    assert 'tuned (tiny, set): judge of brighter.png was scored against two' in ' '.join(result.output.split())


def test_scores_that_lack_an_image_are_an_error(index, folders):
    text = (folders / 'new.csv').read_text()
    (folders / 'new.csv').write_text(''.join(line for line in text.splitlines(True) if 'same.png,judge' not in line))
    result = run(index, '-o', folders / 'out', '-m', 'judge', '--lpips', 'lpips')
    assert result.exit_code == 2
    assert 'judge' in result.output
    assert 'same.png' in result.output


def test_an_index_names_its_baseline_itself(index, folders):
    result = run(index, '-o', folders / 'out', '-b', folders / 'baseline')
    assert result.exit_code == 2
    assert 'names baseline' in ' '.join(result.output.split())
    raw = json.loads(index.read_text())
    index.write_text(json.dumps(raw | {'baseline': None}))
    result = run(index, '-o', folders / 'out')
    assert 'names no baseline' in result.output


@pytest.mark.slow
def test_nr_only_results_are_flagged_and_the_same_command_is_silent_on_the_baseline(test_data, tmp_path):
    """Real LPIPS and CNNIQA: dots of 8 levels, which please neither the eye nor the detector."""
    pytest.importorskip('lpips')
    for path in list_images(test_data / 'images' / 'kodak24')[:2]:
        truth = read_image(path)[:, :256, :384]
        base = rounded(nn.functional.avg_pool2d(truth[None], 5, 1, 2, count_include_pad=False)[0])
        for folder, image in (('gt', truth), ('baseline', base), ('results', dotted(base, 4, 8))):
            save(tmp_path / folder / path.name, image)
    weights = test_data / 'weights'
    judges = ['-m', f'cnniqa:weights={weights / "CNNIQA-LIVE.pth"}',
              '--lpips', f'lpips:net=squeeze,weights={weights / "squeezenet1_1-torchvision-fp16.pth"}']  # fmt: skip
    command = [sys.executable, '-m', 'nriqa_plugin', 'artifacts', '-b', tmp_path / 'baseline', '-r', tmp_path / 'gt']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    for folder, expected in (('results', 1), ('baseline', 0)):
        call = [*command, tmp_path / folder, '-o', tmp_path / f'out_{folder}', *judges]
        done = subprocess.run(list(map(str, call)), capture_output=True, text=True, env=environment)
        assert done.returncode == expected, done.stdout + done.stderr
