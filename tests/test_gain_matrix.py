"""The matrix of relative gains: its numbers against Eq. 1 by hand, what it refuses, its files and the heat map."""

import csv
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from nriqa_plugin.evaluation.gain_matrix import gain_matrix
from nriqa_plugin.evaluation.gain_tables import markdown_matrix, percent, write_long, write_wide
from nriqa_plugin.evaluation.run_index import Run, RunIndex
from nriqa_plugin.evaluation.scores import Score, write_scores

UP = {'psnr': True, 'lpips': False, 'nima': True}
IMAGES = ('a.png', 'b.png', 'c.png')


def index_of(folder, values, own=None, baseline='start', **changes):
    """Scores files of ``{(loss, network, dataset): {metric: [score of each image]}}``."""
    runs = []
    for (loss, network, dataset), metrics in values.items():
        file = folder / f'{loss}_{network}_{dataset}.csv'
        rows = [
            Score(image, metric, score, UP[metric], changes.get('judge_hash', 'j'))
            for metric, scores in metrics.items()
            for image, score in zip(IMAGES, scores, strict=False)
        ]
        write_scores(file, rows)
        runs.append(Run(loss, network, loss, dataset, scores=file, optimised=tuple((own or {}).get(loss, ()))))
    return RunIndex(tuple(runs), baseline)


@pytest.fixture
def values():
    """Two networks and two data sets, a baseline and two losses, random scores."""
    rng = np.random.default_rng(1)
    return {
        (loss, network, dataset): {metric: rng.uniform(0.5, 2, 3).tolist() for metric in UP}
        for loss in ('start', 'nima', 'pixel')
        for network in ('one', 'two')
        for dataset in ('x', 'y')
    }


def by_hand(values, loss, metric, per_image):
    gains = []
    for network in ('one', 'two'):
        for dataset in ('x', 'y'):
            base, test = (np.array(values[name, network, dataset][metric]) for name in ('start', loss))
            sign = 1 if UP[metric] else -1
            single = 100 * sign * (test - base) / base
            gains.append(single.mean() if per_image else 100 * sign * (test.mean() - base.mean()) / base.mean())
    return np.mean(gains)


@pytest.mark.parametrize('per_image', [False, True])
def test_a_cell_is_the_mean_over_places_of_equation_1(per_image, values, tmp_path):
    matrix = gain_matrix(index_of(tmp_path, values), per_image=per_image)
    assert matrix.losses == ('nima', 'pixel')
    assert matrix.metrics == ('lpips', 'nima', 'psnr')
    for loss in matrix.losses:
        for metric in UP:
            assert matrix.gain(loss, metric) == pytest.approx(by_hand(values, loss, metric, per_image), rel=1e-12)
        assert matrix.mean(loss) == pytest.approx(np.mean([by_hand(values, loss, m, per_image) for m in UP]))
    assert (matrix.gain('nima', 'psnr') == pytest.approx(by_hand(values, 'nima', 'psnr', False))) is not per_image
    assert ('relative gains of single images' in matrix.notes()[0]) is per_image
    assert ('mean score over the images first' in matrix.notes()[0]) is not per_image


def test_the_order_of_means_matters_as_in_the_paper(tmp_path):
    values = {('start', 'n', 'd'): {'nima': [1.0, 3.0]}, ('pixel', 'n', 'd'): {'nima': [2.0, 3.0]}}
    index = index_of(tmp_path, values)
    assert gain_matrix(index).gain('pixel', 'nima') == pytest.approx(25.0)
    assert gain_matrix(index, per_image=True).gain('pixel', 'nima') == pytest.approx(50.0)


def test_equal_scores_gain_nothing_and_direction_turns_the_sign(tmp_path):
    same = {'psnr': [1.0, 2.0], 'lpips': [1.0, 2.0]}
    values = {('start', 'n', 'd'): same, ('same', 'n', 'd'): same,
              ('more', 'n', 'd'): {metric: [2.0, 4.0] for metric in same}}  # fmt: skip
    matrix = gain_matrix(index_of(tmp_path, values))
    assert [matrix.gain('same', metric) for metric in matrix.metrics] == [0.0, 0.0]
    assert matrix.gain('more', 'psnr') == 100.0
    assert matrix.gain('more', 'lpips') == -100.0


def test_frames_of_a_clip_count_as_one(tmp_path):
    rows = {'start': {'c': 1.0, 'c::1': 1.0, 'd': 1.0}, 'pixel': {'c': 2.0, 'c::1': 4.0, 'd': 1.0}}
    runs = []
    for loss, scores in rows.items():
        write_scores(tmp_path / f'{loss}.csv', [Score(name, 'nima', s, True, 'j') for name, s in scores.items()])
        runs.append(Run(loss, 'n', loss, 'd', scores=tmp_path / f'{loss}.csv'))
    for per_image in (False, True):
        gain = gain_matrix(RunIndex(tuple(runs), 'start'), per_image=per_image).gain('pixel', 'nima')
        assert gain == pytest.approx(100.0)  # (200 + 0) / 2, not (100 + 300 + 0) / 3


def test_own_judges_are_marked_and_left_out_of_the_mean_of_others(tmp_path):
    values = {('start', 'n', 'd'): {metric: [1.0] for metric in UP},
              ('nima', 'n', 'd'): {'nima': [0.9], 'psnr': [1.1], 'lpips': [0.7]}}  # fmt: skip
    matrix = gain_matrix(index_of(tmp_path, values, {'nima': ['nima', 'not in the table']}))
    assert matrix.own == {'nima': {'nima'}}
    assert matrix.lowered('nima') == ['nima']
    assert matrix.mean('nima') == pytest.approx((10 + 30 - 10) / 3)
    assert matrix.mean_of_others('nima') == pytest.approx(20)
    assert any('nima lowers its own judge nima: -10.00 % (lower in 1 of 1)' in note for note in matrix.notes())
    assert '−10.0 °▼' in markdown_matrix(matrix)  # noqa: RUF001
    values['nima', 'n', 'd']['nima'] = [1.2]
    better = gain_matrix(index_of(tmp_path, values, {'nima': ['nima']}))
    assert better.lowered('nima') == []
    assert '+20.0 °' in markdown_matrix(better)
    assert not any('lowers' in note for note in better.notes())


# --- what is refused


def spoil(values, place, metric, scores):
    return {**values, place: {**values[place], metric: scores}}


@pytest.mark.parametrize('bad', [[0.0, 0.0, 0.0], [-1.0, -1.0, -1.0], [1.0, -1.0, 0.0]])
def test_a_baseline_that_is_not_positive_is_an_error_with_its_place_or_an_empty_column(bad, values, tmp_path):
    index = index_of(tmp_path, spoil(values, ('start', 'two', 'x'), 'nima', bad))
    with pytest.raises(ValueError, match=r'nima has no relative gain: the baseline of two on x \(the mean\) is'):
        gain_matrix(index)
    matrix = gain_matrix(index, undefined='empty')
    assert math.isnan(matrix.gain('pixel', 'nima'))
    expected = np.mean([by_hand(values, 'pixel', metric, False) for metric in ('psnr', 'lpips')])
    assert matrix.mean('pixel') == pytest.approx(expected)
    assert any('Column left empty: nima has no relative gain' in note for note in matrix.notes())


def test_per_image_gains_need_every_image_to_be_positive(values, tmp_path):
    index = index_of(tmp_path, spoil(values, ('start', 'one', 'y'), 'nima', [1.0, 0.0, 1.0]))
    assert math.isfinite(gain_matrix(index).gain('pixel', 'nima'))
    with pytest.raises(ValueError, match=r'the baseline of one on y \(b.png\) is 0'):
        gain_matrix(index, per_image=True)


def test_missing_scores_of_images_and_judges_are_errors_with_their_place(values, tmp_path):
    with pytest.raises(ValueError, match=r'pixel of two on y: missing scores: nima of 3 images .* of 2 in the test'):
        gain_matrix(index_of(tmp_path, spoil(values, ('pixel', 'two', 'y'), 'nima', [1.0, 2.0])))
    without = {**values, ('pixel', 'one', 'x'): {'psnr': [1.0] * 3, 'lpips': [1.0] * 3}}
    for named in (None, ['psnr', 'nima']):
        with pytest.raises(ValueError) as caught:
            gain_matrix(index_of(tmp_path, without), named)
        file = tmp_path / 'pixel_one_x.csv'
        assert str(caught.value).startswith(
            f'pixel of one on x ({file}) has no scores of nima, which start of one on x'
        )
    matrix = gain_matrix(index_of(tmp_path, without), ['psnr', 'lpips'])
    assert matrix.metrics == ('psnr', 'lpips')
    with pytest.raises(ValueError, match="'niam'. Did you mean 'nima'"):
        gain_matrix(index_of(tmp_path, values), ['niam'])


def test_a_judge_that_the_baseline_lacks_is_not_dropped_in_silence(values, tmp_path):
    less = {place: metrics if place[0] != 'start' else {'psnr': metrics['psnr'], 'lpips': metrics['lpips']}
            for place, metrics in values.items()}  # fmt: skip
    index = index_of(tmp_path, less)
    with pytest.raises(ValueError, match='nima of one on x has nima, which start of one on x has not'):
        gain_matrix(index)
    assert gain_matrix(index, ['psnr']).metrics == ('psnr',)


def test_an_infinite_score_is_refused_with_judge_and_place(values, tmp_path):
    index = index_of(tmp_path, spoil(values, ('pixel', 'two', 'y'), 'psnr', [1.0, math.inf, 1.0]))
    with pytest.raises(ValueError, match='pixel of two on y: psnr: .* finite mean of the test, got inf'):
        gain_matrix(index)


def test_other_weights_of_a_judge_are_refused(values, tmp_path):
    index = index_of(tmp_path, values)
    file = index.runs[-1].scores
    file.write_text(file.read_text().replace(',j,', ',k,'))
    with pytest.raises(ValueError, match='pixel of two on y: .* was scored by two judges: j .* k '):
        gain_matrix(index)


def test_runs_without_scores_or_baseline_are_refused(values, tmp_path):
    index = index_of(tmp_path, values)
    with pytest.raises(ValueError, match='need a baseline: name one of the losses start, nima, pixel'):
        gain_matrix(replace(index, baseline=None))
    with pytest.raises(ValueError, match='pixel of two on y: it has no scores file'):
        gain_matrix(RunIndex((*index.runs[:-1], replace(index.runs[-1], scores=None)), 'start'))
    with pytest.raises(ValueError, match='every run is one of the baseline start'):
        gain_matrix(RunIndex(index.runs[:2], 'start'))
    with pytest.raises(ValueError, match="value for undefined: 'emtpy'"):
        gain_matrix(index, undefined='emtpy')


def test_an_incomplete_row_has_no_means(values, tmp_path):
    del values['pixel', 'two', 'x']
    matrix = gain_matrix(index_of(tmp_path, values), losses=['start', 'pixel', 'nima', 'failed'])
    assert matrix.losses == ('pixel', 'nima', 'failed')
    assert math.isnan(matrix.gain('pixel', 'psnr'))
    assert math.isnan(matrix.mean('pixel'))
    assert math.isnan(matrix.mean_of_others('failed'))
    assert matrix.gain('nima', 'psnr') == pytest.approx(by_hand(values, 'nima', 'psnr', False))
    assert matrix.missing['pixel'] == (('two', 'x'),)
    assert len(matrix.missing['failed']) == 4
    assert any('pixel has no means: its scores are missing for two on x' in note for note in matrix.notes())
    assert sum(cell.loss == 'pixel' for cell in matrix.cells) == 3 * 3  # what there is stays in the long table


# --- files


def test_the_tables_hold_the_numbers_and_say_how_they_were_made(values, tmp_path):
    del values['pixel', 'two', 'x']
    matrix = gain_matrix(index_of(tmp_path, values, {'nima': ['nima']}))
    write_wide(tmp_path / 'wide.csv', matrix)
    write_long(tmp_path / 'long.csv', matrix)
    with open(tmp_path / 'wide.csv', newline='') as file:
        wide = {row['loss']: row for row in csv.DictReader(file)}
    assert float(wide['nima']['lpips']) == pytest.approx(matrix.gain('nima', 'lpips'), abs=1e-10)
    assert float(wide['nima']['mean_of_others']) == pytest.approx(matrix.mean_of_others('nima'), abs=1e-10)
    assert (wide['nima']['optimised'], wide['nima']['gains']) == ('nima', 'of means')
    assert wide['nima']['lowers_own'] == ('nima' if matrix.gain('nima', 'nima') < 0 else '')
    assert (wide['pixel']['mean'], wide['pixel']['n_places'], wide['nima']['n_places']) == ('', '3', '4')
    with open(tmp_path / 'long.csv', newline='') as file:
        long = list(csv.DictReader(file))
    assert len(long) == 4 * 3 + 3 * 3
    for row in long:
        base, test = (np.mean(values[loss, row['network'], row['dataset']][row['metric']])
                      for loss in ('start', row['loss']))  # fmt: skip
        assert float(row['baseline_mean']) == pytest.approx(base)
        assert float(row['test_mean']) == pytest.approx(test)
        sign = 1 if row['higher_better'] == 'True' else -1
        assert float(row['gain']) == pytest.approx(100 * sign * (test - base) / base)
        assert row['own'] == str(row['metric'] == row['loss'])
        assert row['lowers_own'] == str(row['metric'] == row['loss'] and float(row['gain']) < 0)
    text = markdown_matrix(matrix, ['something else'])
    assert '| loss | lpips ↓ | nima ↑ | psnr ↑ | mean | others |' in text
    assert '- something else' in text
    assert percent(matrix.gain('nima', 'lpips')) in text


@pytest.mark.parametrize(
    ('gain', 'text'),
    [(0.004, '0.00'), (-0.004, '0.00'), (-0.126, '−0.13'), (9.994, '+9.99'), (9.996, '+10.0'),  # noqa: RUF001
     (99.94, '+99.9'), (99.96, '+100'), (-111.4, '−111'), (math.nan, '–')],  # noqa: RUF001
)  # fmt: skip
def test_percents_have_a_sign_and_three_digits(gain, text):
    assert percent(gain) == text


# --- the heat map


def drawn(matrix):
    pytest.importorskip('matplotlib', reason='the extra report is not installed')
    from nriqa_plugin.evaluation.heat_map import heat_map

    figure = heat_map('title', matrix, ['a note'])
    return figure, figure.axes[0]


def test_the_heat_map_shows_every_number_and_frames_own_judges(tmp_path):
    values = {('start', 'n', 'd'): {metric: [1.0] for metric in UP},
              ('nima', 'n', 'd'): {'nima': [0.9], 'psnr': [1.1], 'lpips': [0.7]},
              ('pixel', 'n', 'd'): {'nima': [0.5], 'psnr': [1.0], 'lpips': [1.3]},
              ('both', 'n', 'd'): {'nima': [2.0], 'psnr': [1.0], 'lpips': [1.3]}}  # fmt: skip
    own = {'nima': ['nima'], 'both': ['nima', 'lpips']}
    matrix = gain_matrix(index_of(tmp_path, values, own))
    figure, axes = drawn(matrix)
    shown = {tuple(text.get_position()): text.get_text() for text in axes.texts}
    for y, loss in enumerate(matrix.losses):
        for x, metric in enumerate(matrix.metrics):
            mark = '▼' if matrix.lowers_own(loss, metric) else ''
            assert shown[x, y] == percent(matrix.gain(loss, metric)) + mark
    frames = {
        (round(box.get_x() + 0.46), round(box.get_y() + 0.46)): box.get_edgecolor()
        for box in axes.patches if box.get_gid() == 'own judge'
    }  # fmt: skip
    places = {(matrix.metrics.index(metric), matrix.losses.index(loss)) for loss in own for metric in own[loss]}
    assert frames.keys() == places
    red = {place for place, colour in frames.items() if colour[0] > 0.5}
    assert red == {(matrix.metrics.index('nima'), 0), (matrix.metrics.index('lpips'), 2)}
    explained = figure.get_supxlabel()
    for words in ('Black frame: the loss optimises this judge', 'Red frame', 'positive is better', 'a note'):
        assert words in ' '.join(explained.split())
    assert [label.get_text() for label in axes.get_yticklabels()] == ['nima', 'pixel', 'both']
    assert [label.get_text() for label in axes.get_xticklabels()] == ['lpips ↓', 'nima ↑', 'psnr ↑', 'mean', 'others']


def test_colours_diverge_from_0_and_numbers_contrast_with_them(values, tmp_path):
    colours = pytest.importorskip('matplotlib.colors', reason='the extra report is not installed')
    matrix = gain_matrix(index_of(tmp_path, values))
    _, axes = drawn(matrix)
    cells = {
        (round(box.get_x() + 0.5), round(box.get_y() + 0.5)): box.get_facecolor()
        for box in axes.patches
        if box.get_fill() and box.get_x() + 0.5 in range(len(matrix.metrics))
    }
    texts = {tuple(text.get_position()): colours.to_rgb(text.get_color()) for text in axes.texts}

    def luminance(colour):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour[:3]]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    for y, loss in enumerate(matrix.losses):
        for x, metric in enumerate(matrix.metrics):
            red, _, blue, _ = cells[x, y]
            if abs(matrix.gain(loss, metric)) > 0.5:
                assert (blue > red) == (matrix.gain(loss, metric) > 0)
            light, dark = sorted((luminance(cells[x, y]), luminance(texts[x, y])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 4.5, 'WCAG AA'


def test_nothing_overlaps_with_20_rows_and_12_columns(tmp_path, monkeypatch):
    metrics = [f'judge_{i}' for i in range(12)]
    for metric in metrics:
        monkeypatch.setitem(UP, metric, True)
    rng = np.random.default_rng(0)
    losses = ['start', *(f'lpips_nima_clipiqa_{i}' for i in range(20))]
    values = {(loss, 'n', 'd'): {m: [float(10 ** rng.uniform(-1, 1))] for m in metrics} for loss in losses}
    own = dict.fromkeys(losses, metrics[:2])
    figure, axes = drawn(gain_matrix(index_of(tmp_path, values, own)))
    figure.canvas.draw()
    cell = axes.transData.transform([(0.5, 0), (-0.5, 0)])
    width = abs(cell[0][0] - cell[1][0])
    whole = figure.get_window_extent()
    for text in axes.texts:
        assert text.get_window_extent().width < width
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels(), figure._suptitle, figure._supxlabel]:
        box = label.get_window_extent()
        assert min(box.x0, box.y0, whole.x1 - box.x1, whole.y1 - box.y1) >= 0, label.get_text()
    boxes = sorted((label.get_window_extent() for label in axes.get_yticklabels()), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(boxes))
