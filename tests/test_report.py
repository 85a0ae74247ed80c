"""The report: one file that needs nothing else, and crops where methods differ."""

import base64
import io
import re
import shutil
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nriqa_plugin.evaluation.report import Crop, Judge, Method, methods_from_scores, worst_crops, write_report
from nriqa_plugin.evaluation.scores import Score, write_scores

ROOT = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    """Text, image sources and table cells of a page; fails on tags that do not match."""

    VOID = ('meta', 'img', 'link', 'br')

    def __init__(self, html):
        super().__init__()
        self.open, self.sources, self.cells, self.alts = [], [], [], []
        self.text = ''
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'img':
            self.sources.append(attrs['src'])
            self.alts.append(attrs['alt'])
        if tag in ('td', 'th'):
            self.cells.append('')
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != 'style':
            self.text += data
            if {'td', 'th'} & set(self.open):
                self.cells[-1] += data


def images(**values):
    """Noise-free test images: a ramp plus a constant."""
    ramp = torch.linspace(0, 0.5, 40).expand(3, 32, 40)
    return {name: ramp + value for name, value in values.items()}


@pytest.fixture
def report(tmp_path):
    pytest.importorskip('jinja2')
    pytest.importorskip('matplotlib')

    def write(*args, **options):
        write_report(tmp_path / 'report.html', *args, **options)
        return (tmp_path / 'report.html').read_text(encoding='utf-8')

    return write


JUDGES = [Judge('niqe', False, 5, 'abc123', 'def456'), Judge('psnr', True, 5, 'eee', 'fff')]


def sample():
    base = Method(
        'Baseline', {'niqe': 6.0, 'psnr': 28.0}, {}, {'niqe': [(0, 6.1), (100, 6.0)]}, images(**{'x.png': 0.0})
    )
    test = Method(
        'Ours',
        {'niqe': 4.5, 'psnr': 27.3},
        {'niqe': 25.0, 'psnr': -2.5},
        {'niqe': [(0, 6.1), (100, 4.5)], 'psnr': [(0, 28.0), (100, 27.3)]},
        images(**{'x.png': 0.2}),
    )
    return [base, test]


def test_report_needs_no_other_file(report):
    html = report('Title', sample(), JUDGES, lq={'x.png': torch.rand(3, 8, 10)}, reference=images(**{'x.png': 0.1}))
    page = Page(html)
    assert page.sources
    assert all(source.startswith('data:image/') for source in page.sources)
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"|"http://www\.w3\.org/1999/xlink"', '', html)
    assert not re.search(r'<(script|link|iframe|object)\b|@import|url\((?!#)', without_namespaces)
    assert not re.search(r'(?:src|href)="(?!data:|#)', without_namespaces)


def test_equal_inputs_give_equal_files(report):
    assert report('Title', sample(), JUDGES) == report('Title', sample(), JUDGES)


def test_table_states_values_gains_and_how_they_were_measured(report):
    html = report('Title', sample(), JUDGES)
    cells = Page(html).cells
    assert cells[:3] == ['Method', 'niqe ↓', 'psnr ↑']
    assert cells[3:9] == ['Baseline', '6.000', '28.00', 'Ours', '4.500+25.00 %', '27.30\N{MINUS SIGN}2.50 %']
    assert cells[14:19] == ['niqe', 'lower ↓', '5', 'abc123', 'def456']
    assert re.findall(r'class="gain (\w+)"', html) == ['good', 'bad']
    best = re.findall(r'<td class="best">([\d.]+)', html)
    assert best == ['28.00', '4.500'], 'lower is better for niqe, higher for psnr'


def test_missing_scores_and_gains_that_round_to_zero_are_neutral(report):
    methods = [Method('A', {'niqe': 6.0}), Method('B', {'psnr': 28.0}, {'psnr': -0.001})]
    html = report('Title', methods, JUDGES)
    assert Page(html).cells[3:9] == ['A', '6.000', '\N{EN DASH}', 'B', '\N{EN DASH}', '28.000.00 %']
    assert 'class="gain none"' in html


def test_one_plot_for_each_metric_with_a_curve(report):
    html = report('Title', sample(), JUDGES)
    assert html.count('<svg') == 2
    niqe, psnr = re.findall(r'<svg.*?</svg>', html, re.DOTALL)
    assert 'var(--series-1)' in niqe
    assert 'var(--series-2)' in niqe
    assert 'var(--series-1)' not in psnr, 'the baseline has no psnr curve'
    assert '#01020' not in html, 'every placeholder colour was replaced'
    assert '<svg' not in report('Title', [Method('A', {'niqe': 1.0})], JUDGES)


def test_text_is_escaped(report):
    methods = [Method('<b>A</b>', {'niqe': 1.0}, {}, {'niqe': [(0, 1.0), (1, 2.0)]}), Method('$x_1$ & co')]
    html = report('<i>T</i>', methods, JUDGES, notes=['<script>alert(1)</script>'])
    page = Page(html)
    assert '<b>A</b>' in page.text
    assert '$x_1$ & co' in page.text
    assert '<script>alert(1)</script>' in page.text
    assert '<script' not in html
    assert '<b>' not in html


def test_crops_show_exactly_the_pixels(report):
    lq = torch.arange(3 * 8 * 10).reshape(3, 8, 10) / 255
    methods = sample()
    html = report('Title', methods, JUDGES, lq={'x.png': lq}, crops=[Crop('x.png', 4, 9, 12)])
    page = Page(html)
    assert page.alts[1:] == ['Input', 'Baseline', 'Ours']
    tiles = [Image.open(io.BytesIO(base64.b64decode(s.partition(',')[2]))) for s in page.sources[1:]]
    window = np.s_[4:16, 9:21]
    for tile, method in zip(tiles[1:], methods, strict=True):
        expected = (method.images['x.png'] * 255).round().byte().permute(1, 2, 0).numpy()[window]
        np.testing.assert_array_equal(np.asarray(tile), expected)
    enlarged = np.repeat(np.repeat(lq.permute(1, 2, 0).numpy(), 4, 0), 4, 1)[window]
    np.testing.assert_array_equal(np.asarray(tiles[0]), (enlarged * 255).round().astype(np.uint8))
    assert 'left: 22.500%; top: 12.500%; width: 30.000%; height: 37.500%' in html


def test_ground_truth_stands_beside_the_input(report):
    lq, reference = {'x.png': torch.rand(3, 8, 10)}, images(**{'x.png': 0.1})
    assert Page(report('Title', sample(), JUDGES, lq, reference)).alts[1:5] == [
        'Input', 'Ground truth', 'Baseline', 'Ours'
    ]  # fmt: skip
    assert Page(report('Title', sample(), JUDGES, None, reference)).alts[1:4] == ['Ground truth', 'Baseline', 'Ours']


def test_legend_and_marks_name_only_methods_with_a_curve(report):
    html = report('Title', [*sample(), Method('No curve', {'niqe': 5.0}, curve={'niqe': []})], JUDGES)
    legend = re.search(r'<ul class="legend">.*?</ul>', html, re.DOTALL)[0]
    assert re.findall(r'</span>([^<]+)</li>', legend) == ['Baseline', 'Ours']
    assert re.findall(r'<th scope="row" class="(\w+)">', html) == ['marked', 'marked', 'unmarked']


def test_all_scores_that_look_best_are_bold(report):
    """29.901 and 29.899 are both shown as 29.90."""
    methods = [Method('A', {'psnr': 29.901}), Method('B', {'psnr': 29.899}), Method('C', {'psnr': 29.89})]
    assert re.findall(r'<td class="best">([\d.]+)', report('Title', methods, JUDGES)) == ['29.90', '29.90']


MEASURE = """<iframe id="page" style="border: 0; width: WIDTHpx; height: 3000px" srcdoc="PAGE"></iframe><script>
onload = () => {
  const page = document.getElementById('page').contentDocument;
  const tops = [...page.querySelectorAll('.tiles figure')].map(tile => tile.offsetTop);
  const wider = [page.documentElement, ...page.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth);
  document.title = `${new Set(tops).size} ${Math.max(...wider)}`;
};
</script>"""


@pytest.mark.skipif(not shutil.which('chromium'), reason='needs the browser chromium')
@pytest.mark.parametrize(('width', 'rows'), [(1280, 1), (390, 4)])
def test_eight_tiles_fill_a_row_of_a_screen_and_nothing_is_cut_on_a_phone(report, tmp_path, width, rows):
    more = [
        Method(f'Method {i}', {'niqe': 5.0, 'psnr': 29.0}, {'niqe': 9.25}, {}, sample()[1].images) for i in range(4)
    ]
    html = report(
        'Title', [*sample(), *more], JUDGES, {'x.png': torch.rand(3, 8, 10)}, images(**{'x.png': 0.1}),
        crops=[Crop('x.png', 4, 9, 12)],
    )  # fmt: skip
    assert html.count('<figure><img') == 8
    file = tmp_path / 'measure.html'
    file.write_text(MEASURE.replace('WIDTH', str(width)).replace('PAGE', escape(html)), encoding='utf-8')
    command = [
        'chromium', '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
        '--disable-background-networking', '--disable-component-update', '--disable-sync',
        f'--user-data-dir={tmp_path / "profile"}', '--window-size=1400,3000', '--dump-dom', file.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert re.search(r'<title>(.*?)</title>', dom)[1] == f'{rows} 0', 'rows of tiles, px that stand out'


def test_wrong_reports_are_refused(report, tmp_path):
    with pytest.raises(ValueError, match='at least one method'):
        report('T', [], JUDGES)
    with pytest.raises(ValueError, match='two methods of one name'):
        report('T', [Method('A'), Method('A')], JUDGES)
    with pytest.raises(ValueError, match=r"'nique'. Did you mean 'niqe'"):
        report('T', [Method('A', {'nique': 1.0})], JUDGES)
    with pytest.raises(ValueError, match=r"image of a crop: 'y\.png'"):
        report('T', sample(), JUDGES, crops=[Crop('y.png', 0, 0, 8)])
    other = Method('C', images={'x.png': torch.zeros(3, 5, 5)})
    with pytest.raises(ValueError, match=r'x\.png: images to compare must be \(3, H, W\) of one size'):
        report('T', [*sample(), other], JUDGES)
    assert not (tmp_path / 'report.html').exists()


def test_table_from_scores_files(tmp_path):
    for name, values in {'base': [8.0, 4.0], 'test': [3.0, 6.0]}.items():
        rows = [Score(f'{i}.png', 'niqe', value, False, 'aaa') for i, value in enumerate(values)]
        write_scores(tmp_path / f'{name}.csv', rows)
    files = {'Ours': tmp_path / 'test.csv', 'Baseline': tmp_path / 'base.csv'}
    (base, ours), (judge,) = methods_from_scores(files, 'Baseline')
    assert (base.name, base.scores, base.gains) == ('Baseline', {'niqe': 6.0}, {})
    assert (ours.name, ours.scores, ours.gains) == ('Ours', {'niqe': 4.5}, {'niqe': 25.0})
    assert (judge.metric, judge.higher_better, judge.n, judge.judge_hash) == ('niqe', False, 2, 'aaa')
    with pytest.raises(ValueError, match="Did you mean 'Baseline'"):
        methods_from_scores(files, 'Baselin')


def test_crop_lies_where_methods_differ_most():
    a = {'x': torch.zeros(3, 40, 50), 'y': torch.zeros(3, 40, 50)}
    b = {name: image.clone() for name, image in a.items()}
    b['x'][:, 20:30, 7:17] = 0.5
    b['y'][:, 3:13, 31:41] = 0.9
    assert worst_crops({'a': a, 'b': b}, size=10, count=2) == [Crop('y', 3, 31, 10), Crop('x', 20, 7, 10)]


def test_crops_equal_an_exhaustive_search():
    generator = torch.Generator().manual_seed(3)
    group = {m: {'x': torch.rand(3, 15, 18, generator=generator)} for m in 'abc'}
    (crop,) = worst_crops(group, size=6, count=1)
    stack = np.stack([g['x'].double().numpy() for g in group.values()])
    values = {
        (top, left): stack[:, :, top : top + 6, left : left + 6].var(0).mean()
        for top in range(10)
        for left in range(13)
    }
    assert (crop.top, crop.left) == max(values, key=values.get)


def test_one_method_is_compared_with_the_reference():
    reference = {'x': torch.zeros(3, 20, 20)}
    result = {'x': torch.zeros(3, 20, 20)}
    result['x'][:, 5:9, 11:15] = 1
    assert worst_crops({'a': result}, reference, size=4, count=1) == [Crop('x', 5, 11, 4)]
    with pytest.raises(ValueError, match='give a reference or a second method'):
        worst_crops({'a': result}, size=4)


def test_crops_of_one_image_do_not_overlap_and_end_when_it_is_full():
    generator = torch.Generator().manual_seed(0)
    group = {m: {'x': torch.rand(3, 32, 32, generator=generator)} for m in 'ab'}
    crops = worst_crops(group, size=12, count=100)
    assert 1 < len(crops) <= 4
    for i, first in enumerate(crops):
        for second in crops[:i]:
            assert max(abs(first.top - second.top), abs(first.left - second.left)) >= 12


def test_small_images_are_cropped_to_their_short_side():
    group = {'a': {'x': torch.zeros(3, 8, 20)}, 'b': {'x': torch.zeros(3, 8, 20)}}
    group['b']['x'][:, :, 12:20] = 1
    assert worst_crops(group, size=96, count=1) == [Crop('x', 0, 12, 8)]


def test_only_images_of_all_methods_are_compared():
    group = {'a': images(x=0.0, y=0.0), 'b': images(x=0.1)}
    assert {crop.image for crop in worst_crops(group, size=8, count=5)} == {'x'}


def test_missing_packages_are_named_when_the_report_is_written(tmp_path):
    code = """
import sys
sys.modules['jinja2'] = None
from nriqa_plugin.evaluation.report import Method, write_report
try:
    write_report(sys.argv[1], 'T', [Method('A')], [])
except ImportError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'r.html')], capture_output=True, text=True, cwd=ROOT
    )
    assert "pip install 'nriqa-plugin[report]'" in result.stdout, result.stderr
