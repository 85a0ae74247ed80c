"""Tables and figures of a comparison hold what the statistics say."""

import math

import numpy as np
import pytest

pytest.importorskip('scipy', reason='the extra report is not installed')
pytest.importorskip('matplotlib', reason='the extra report is not installed')

from nriqa_plugin.evaluation.comparison import compare_methods, markdown_table
from nriqa_plugin.evaluation.figures import plane_figure, violin_figure
from nriqa_plugin.evaluation.significance import holm, one_tailed_t_test, wilcoxon_one_tailed
from nriqa_plugin.evaluation.statistics import mean_with_ci


def made_up(seed=0, n=30):
    rng = np.random.default_rng(seed)
    images = [f'{i}.png' for i in range(n)]
    base = rng.normal(28, 3, n)
    return {name: dict(zip(images, base + rng.normal(shift, 0.2, n), strict=True))
            for name, shift in (('l1', 0.0), ('mdf', 0.3), ('good', 1.0))}  # fmt: skip


def test_the_table_holds_what_the_statistics_say():
    samples = made_up()
    rows = {row.method: row for row in compare_methods('set', 'psnr', True, samples, 'mdf')}
    values = [samples['l1'][image] for image in sorted(samples['l1'])]
    reference = [samples['mdf'][image] for image in sorted(samples['l1'])]
    assert (rows['l1'].mean, rows['l1'].mean_low, rows['l1'].mean_high) == mean_with_ci(values)
    assert rows['l1'].p_against_better == one_tailed_t_test(reference, values).p < 0.05
    assert rows['l1'].tail == np.percentile(values, 5)
    assert rows['l1'].tail_low <= rows['l1'].tail <= rows['l1'].tail_high
    assert [row.star for row in rows.values()] == ['*', '', '']
    assert rows['good'].p_better < 0.05
    assert math.isnan(rows['mdf'].p_better)
    lower = {name: {image: -v for image, v in scores.items()} for name, scores in samples.items()}
    mirrored = compare_methods('set', 'lpips', False, lower, 'mdf')[0]
    assert mirrored.tail_percent == 95
    assert mirrored.tail == pytest.approx(-rows['l1'].tail)
    assert mirrored.p_against_better == pytest.approx(rows['l1'].p_against_better)
    assert f'| set | psnr ↑ | l1 | 30 | {rows["l1"].mean:.4f} [' in markdown_table(rows.values())


def test_the_tests_of_one_judge_are_corrected_together_and_the_stars_follow():
    """Seven equal methods and one that is worse: with 8 tests the smallest p counts eightfold."""
    rng = np.random.default_rng(3)
    base = rng.normal(28, 3, 12)
    shifts = {'mdf': 0.0, 'bad': -0.5, **{f'same{i}': -0.06 for i in range(7)}}
    samples = {name: {f'{i}.png': v for i, v in enumerate(base + rng.normal(shift, 0.1, 12))}
               for name, shift in shifts.items()}  # fmt: skip
    rows = compare_methods('set', 'psnr', True, samples, 'mdf')
    images = sorted(samples['mdf'])
    values = {name: [scores[image] for image in images] for name, scores in samples.items()}
    others = [row for row in rows if row.method != 'mdf']
    for test, plain, corrected in (
        (one_tailed_t_test, 'p', 'holm'),
        (wilcoxon_one_tailed, None, 'wilcoxon'),
    ):
        worse = [test(values['mdf'], values[row.method]).p for row in others]
        better = [test(values[row.method], values['mdf']).p for row in others]
        assert [getattr(row, f'{corrected}_against_better') for row in others] == holm(worse)
        assert [getattr(row, f'{corrected}_better') for row in others] == holm(better)
        if plain:
            assert [row.p_against_better for row in others] == worse
            assert [row.p_better for row in others] == better
    starred = {row.method for row in rows if row.star}
    assert starred == {row.method for row in others if row.holm_against_better < 0.05}
    assert 'bad' in starred
    only_before = {row.method for row in others if row.p_against_better < 0.05} - starred
    assert only_before  # the correction has taken stars away
    table = markdown_table(rows)
    bad = next(row for row in rows if row.method == 'bad')
    assert f'| {bad.holm_against_better:.3g}, {bad.wilcoxon_against_better:.3g} ★ |' in table
    assert '★ marks a method that is worse and ✓ one that is better' in table
    assert "Holm's correction" in table
    assert '| mdf | 12 |' in table
    assert 'nan' not in table


def test_without_a_method_to_test_against_there_is_no_p_value():
    rows = compare_methods('set', 'psnr', True, made_up())
    for row in rows:
        assert all(math.isnan(p) for p in (row.p_better, row.holm_against_better, row.wilcoxon_better))
        assert row.star == ''
    assert 'correction' not in markdown_table(rows)


def test_scores_that_do_not_compare_are_refused_by_name():
    samples = made_up()
    samples['l1'].pop('0.png')
    with pytest.raises(ValueError, match='mdf and l1 were scored on different images.*0.png'):
        compare_methods('set', 'psnr', True, samples)
    samples = made_up()
    samples['mdf']['1.png'] = math.inf
    with pytest.raises(ValueError, match='score of 1.png by mdf is inf'):
        compare_methods('set', 'psnr', True, samples)
    with pytest.raises(ValueError, match="method to test against: 'l2'"):
        compare_methods('set', 'psnr', True, made_up(), 'l2')


def test_the_violins_show_every_method_its_mean_its_tail_and_the_stars():
    samples = made_up()
    rows = compare_methods('set', 'psnr', True, samples, 'mdf')
    plain = {name: list(scores.values()) for name, scores in samples.items()}
    figure = violin_figure('title', [(rows, plain)], 'mdf', missing={'broken': 'failed'})
    (axes,) = figure.axes
    marks = [line for line in axes.lines if line.get_marker() in ('o', '_') and len(line.get_ydata()) == 1]
    means = [line.get_ydata()[0] for line in marks if line.get_marker() == 'o']
    assert means == [row.mean for row in rows]
    tails = [line.get_ydata()[0] for line in marks if line.get_markersize() == 12]
    assert tails == [row.tail for row in rows]
    segments = [
        segment for part in axes.collections if hasattr(part, 'get_segments') for segment in part.get_segments()
    ]
    ends = {tuple(np.round(segment[:, 1], 9)) for segment in segments}
    for row in rows:
        for low, high in ((row.mean_low, row.mean_high), (row.tail_low, row.tail_high)):
            assert (round(low, 9), round(high, 9)) in ends
    assert [label.get_text() for label in axes.get_xticklabels()] == ['l1', 'mdf', 'good', 'broken']
    texts = [(text.get_position()[0], text.get_text()) for text in axes.texts]
    assert (0, '★') in texts
    assert (2, '✓') in texts  # the method ``good``
    assert (3, 'broken: failed') in texts
    assert [text for _, text in texts if text in '★✓'] == ['★', '✓']
    bodies = [part for part in axes.collections if not hasattr(part, 'get_segments')]
    spans = [(body.get_paths()[0].vertices[:, 1].min(), body.get_paths()[0].vertices[:, 1].max()) for body in bodies]
    assert np.array(spans) == pytest.approx(np.array([(min(values), max(values)) for values in plain.values()]))
    explained = ' '.join(figure.get_supxlabel().split())
    assert '★: mdf is better, ✓: this one is better' in explained
    assert "one-tailed paired t-test over the images, p < 0.05 after Holm's correction" in explained
    assert '30 images' in explained


def test_the_plane_has_a_point_a_method_and_the_directions():
    rows = [compare_methods('set', name, higher, made_up(seed), 'mdf') for seed, name, higher in
            ((0, 'psnr', True), (1, 'lpips', False))]  # fmt: skip
    figure = plane_figure('title', *rows, against='mdf')
    (axes,) = figure.axes
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == 'o']
    assert points == [(x.mean, y.mean) for x, y in zip(*rows, strict=True)]
    assert [text.get_text() for text in axes.texts] == ['l1', 'mdf', 'good']
    assert axes.get_xlabel() == 'distortion: psnr (higher is better)'
    assert axes.get_ylabel() == 'perception: lpips (lower is better)'
    assert (axes.get_title(loc='right'), axes.get_title(loc='left')) == ('↘ better', '')  # higher psnr, lower lpips
    with pytest.raises(ValueError, match='different methods'):
        plane_figure('title', rows[0], rows[1][::-1])


def test_a_reversed_plane_has_its_best_corner_at_the_lower_left():
    rows = [compare_methods('set', name, higher, made_up(seed), 'mdf') for seed, name, higher in
            ((0, 'psnr', True), (1, 'lpips', False))]  # fmt: skip
    for pair, inverted in ((rows, (True, False)), (rows[::-1], (False, True)), ([rows[0]] * 2, (True, True))):
        (axes,) = plane_figure('title', *pair, reverse=True).axes
        assert (axes.xaxis_inverted(), axes.yaxis_inverted()) == inverted
        assert axes.get_title(loc='left') == '↙ better'
        assert [', reversed' in label for label in (axes.get_xlabel(), axes.get_ylabel())] == list(inverted)


def test_names_in_the_plane_cover_neither_each_other_nor_a_point():
    names = ('l1', 'l2', 'ssim', 'ms_ssim', 'ms_ssim_l1', 'vgg_l2', 'lpips_l2', 'mdf')
    same = {name: {str(i): 20.0 + i + 0.01 * k for i in range(5)} for k, name in enumerate(names)}
    figure = plane_figure('title', *(compare_methods('set', metric, True, same) for metric in ('psnr', 'ssim')))
    (axes,) = figure.axes
    figure.draw_without_rendering()
    labels = [text.get_bbox_patch().get_window_extent() for text in axes.texts if text.get_text() in names]
    assert len(labels) == 8
    for i, one in enumerate(labels):
        assert not any(one.overlaps(other) for other in labels[:i])
        for line in axes.lines:
            if line.get_marker() == 'o':
                assert not one.contains(*axes.transData.transform((line.get_xdata()[0], line.get_ydata()[0])))
