"""``nriqa report``: what stands on the page, where runs are found, what fits into the file, and what is refused."""

import base64
import dataclasses
import hashlib
import html
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip('jinja2', reason='the extra report is not installed')
pytest.importorskip('matplotlib', reason='the extra report is not installed')
pytest.importorskip('scipy', reason='the extra report is not installed')

from nriqa_plugin.checks import file_hash
from nriqa_plugin.cli import app
from nriqa_plugin.evaluation.curves import find_curve, read_curve
from nriqa_plugin.evaluation.relative_gain import gains
from nriqa_plugin.evaluation.run_index import Run, RunIndex, write_runs
from nriqa_plugin.evaluation.scores import read_scores, write_scores
from nriqa_plugin.report.drawings import as_svg, plane, planes_of, read_jnd, tiers
from nriqa_plugin.report.page import number as shown
from nriqa_plugin.report.page import region_size, render
from nriqa_plugin.report.pictures import find_pictures
from nriqa_plugin.report.places import Judge, compare_place, load_place
from nriqa_plugin.report.sources import index_of
from nriqa_plugin.report.tiles import choose_regions, encode
from tests.report_data import IMAGES, METHODS, write_pictures, write_runs_of, write_scores_of


def run(*arguments):
    return CliRunner().invoke(app, ['report', *map(str, arguments)])


def built(*arguments, out):
    result = run(*arguments, '-o', out)
    assert result.exit_code == 0, result.output
    return out.read_text(encoding='utf-8')


def refused(*arguments, out='r.html'):
    result = run(*arguments, '-o', out)
    assert result.exit_code == 2, result.output
    return ' '.join(result.output.split())


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def text_of(page):
    page = re.sub(r'<(script|style|svg)\b.*?</\1>', ' ', page, flags=re.DOTALL)
    return ' '.join(html.unescape(re.sub(r'<[^>]+>', ' ', page)).split())


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def arguments(folder):
    return write_runs_of(folder)


@pytest.fixture(scope='module')
def page(folder, arguments):
    """The page, and its figures in ``folder / 'figures'``."""
    return built(*arguments, '--figures', folder / 'figures', '--title', 'A <b> & c', out=folder / 'report.html')


# --- the page


def test_the_file_asks_for_nothing_from_anywhere(page):
    names = {'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'}  # of XML, not fetched
    assert set(re.findall(r'https?://[^\s"\'<>)]+', page)) <= names
    assert not re.search(r'<(link|script|img|iframe)[^>]+(src|href)="(?!data:)', page)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none';")
    script = re.search(r'<script>(.*?)</script>', page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert html.unescape(policy).count(f"script-src 'sha256-{digest}'") == 1


def test_gains_statistics_and_hashes_stand_on_the_page(folder, page):
    text = text_of(page)
    assert text.count('A <b> & c') == 2  # title and heading
    assert file_hash(folder / 'base.csv') in text
    for method in METHODS[1:]:
        for gain in gains(folder / 'base.csv', folder / f'{method}.csv'):
            shown = f'{gain.gain:+.1f}'.replace('-', '\N{MINUS SIGN}')
            assert text.count(shown) >= 2, (method, gain)  # heat map and table of scores
    assert 'psnr ↑' in text
    assert 'niqe ↓' in text
    assert 'hashpsnr' in text
    rows = read_scores(folder / 'base.csv')
    assert f'{rows.mean("psnr"):.2f}' in text
    assert '95 % CI' in text
    assert 'Holm' in text
    assert '★' in text


def test_the_scores_of_every_image_are_in_the_page(folder, page):
    (place,) = data_of(page)['places']
    assert (place['images'], place['methods'], place['baseline']) == (IMAGES, list(METHODS), 0)
    for number, method in enumerate(METHODS):
        for row in read_scores(folder / f'{method}.csv').rows:
            image = place['images'].index(row.image.removesuffix('.png'))
            assert place['scores'][row.metric][number][image] == row.score


def test_every_tile_is_the_same_region_of_its_file(folder, page):
    regions = data_of(page)['regions']
    assert len(regions) == 4
    for region in regions:
        assert region['names'] == ['Input', 'Ground truth', *METHODS]
        box = (region['left'], region['top'], region['left'] + region['size'], region['top'] + region['size'])
        folders = {'Ground truth': folder / 'gt', **{m: folder / 'results' / m for m in METHODS}}
        for name, uri in zip(region['names'], region['tiles'], strict=True):
            tile = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(',')[2]))))
            if name == 'Input':
                whole = Image.open(folder / 'lr' / f'{region["image"]}x4.png').resize((96, 80), Image.NEAREST)
            else:
                ending = f'_{name}' if name in METHODS else ''
                whole = Image.open(folders[name] / f'{region["image"]}{ending}.png')
            np.testing.assert_array_equal(tile, np.asarray(whole.crop(box)))


def test_the_figures_are_also_written_for_papers(folder, page):
    written = {path.name for path in (folder / 'figures').iterdir()}
    names = {'relative_gains', 'plane_psnr_lpips', 'plane_psnr_niqe', 'plane_lpips_niqe'}
    names |= {f'violin_{metric}' for metric in ('psnr', 'lpips', 'niqe')}
    assert written == {f'{name}.{ending}' for name in names for ending in ('png', 'pdf')}


def test_figures_take_the_colours_of_the_page_and_no_id_comes_twice(page):
    svgs = re.findall(r'<svg.*?</svg>', page, re.DOTALL)
    assert len(svgs) == 6
    for svg in svgs:
        assert 'var(--ink)' in svg
        assert not re.search(r'#[0-9a-f]{6}\b', svg)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


# --- size


def test_a_small_limit_makes_crops_jpeg_and_then_fewer_and_says_so(folder, arguments):
    index = index_of([f'{m}={folder / m}.csv' for m in METHODS], None, folder / 'gt', None,
                     {m: folder / 'results' / m for m in METHODS})  # fmt: skip
    place = load_place(index, *index.places[0])
    regions = choose_regions(place, 0, 6, 32)
    shown, notes = encode(regions, 10**9)
    assert len(shown) == 6
    assert not notes
    assert all(t.startswith('data:image/png') for t in shown[0].tiles.values())
    total = sum(len(uri) for region in shown for uri in [region.thumbnail, *region.tiles.values()])
    shown, notes = encode(regions, total - 1)
    assert len(shown) == 6
    assert 'JPEG' in notes[0]
    assert all(t.startswith('data:image/jpeg') for t in shown[0].tiles.values())
    size = sum(len(uri) for region in shown for uri in [region.thumbnail, *region.tiles.values()])
    fewer, notes = encode(regions, size - 1)
    assert len(fewer) == 5
    assert '5 of 6 crops' in notes[1]


def test_the_file_stays_below_its_limit(folder, arguments, page):
    limit = round((len(page.encode()) - 15_000) / 1e6, 3)
    small = built(*arguments, '--max-mb', limit, out=folder / 'small.html')
    assert len(small.encode()) <= limit * 1e6
    assert 'JPEG of quality' in text_of(small)
    assert '--max-mb 0.1: the page is larger than that' in refused(*arguments, '--max-mb', 0.1)


def test_a_region_is_counted_with_every_byte_of_its_names(folder):
    name = '<\u4e2d\u6587>' * 20
    index = index_of([f'{name}={folder / "base.csv"}'], images={name: folder / 'results' / 'base'}, suffix='_base')
    (region,), _ = encode(choose_regions(load_place(index, *index.places[0]), 0, 1, 32), 10**9)
    content = data_of(render('t', [], None, [], {}, [region], []))['regions'][0]
    text = json.dumps(content, ensure_ascii=False).replace('<', '\\u003c')
    assert len(text.encode()) <= region_size(region) < len(text.encode()) + 10


def test_names_are_text_and_no_formulas(folder, tmp_path):
    odd = ['$a$', 'b$\\foo$', '_c', '</script><b>']
    curve = folder / 'curve.csv'
    runs = [
        Run(name, 'n', name, 'd', scores=folder / f'{METHODS[i % 3]}.csv', curve=curve) for i, name in enumerate(odd)
    ]
    write_runs(tmp_path, RunIndex(tuple(runs), '$a$'))
    page = built(tmp_path, '--figures', tmp_path / 'figures', out=tmp_path / 'r.html')
    figures = ' '.join(re.findall(r'<svg.*?</svg>', page, re.DOTALL))
    for name in odd:
        assert figures.count(f'{html.escape(name)}</text>') + figures.count(f' {name}</text>') >= 3, name
    assert page.count('</script>') == 2
    assert [one['methods'] for one in data_of(page)['places']] == [odd]


def test_a_suffix_counts_for_the_runs_of_an_index_too(folder, tmp_path):
    write_runs(tmp_path, RunIndex((Run('x', 'n', 'x', 'd', scores=folder / 'base.csv', suffix='_own'),), 'x'))
    assert index_of([str(tmp_path)]).runs[0].suffix == '_own'
    assert index_of([str(tmp_path)], suffix='_new').runs[0].suffix == '_new'


@pytest.mark.parametrize('name', ['Ground truth', 'Input'])
def test_a_run_is_not_taken_for_the_ground_truth(folder, name):
    index = index_of([f'{name}={folder / "base.csv"}'], references=folder / 'gt', lq=folder / 'lr')
    with pytest.raises(ValueError, match=f"a run cannot be called '{name}'"):
        load_place(index, *index.places[0])


def test_a_long_run_is_no_error_of_the_file_system(folder):
    name = 'x' * 300
    assert index_of([f'{name}={folder / "base.csv"}']).runs[0].name == name


def test_numbers_that_are_shown_as_zero_have_no_sign():
    assert shown(-0.00001, 5.0) == '0.000'
    assert shown(-0.0) == '0'
    assert shown(-0.5, 5.0) == '\N{MINUS SIGN}0.500'


# --- where runs are found


def test_the_folders_of_both_hosts_are_read(tmp_path):
    """BasicSR's training and test folders and mmagic's work_dir, as the stock scripts write them."""
    experiment = tmp_path / 'experiments' / 'exp'
    for name in IMAGES[:3]:
        for seed, iteration in ((1, 500), (2, 10000)):
            write_pictures(experiment / 'visualization' / name, seed, [name], f'_{iteration}')
    (experiment / 'train_exp_1.log').write_text(
        'x INFO: [exp..][epoch:  0, iter:     500, lr:(1e-04,)]\n'
        'x INFO: Validation Set5\n\t # psnr: 20.5000\tBest: 20.5000 @ 500 iter\n'
        'x INFO: [exp..][epoch:  0, iter:   1,000, lr:(1e-04,)]\n\t # psnr: 21.0000\tBest: 21.0000 @ 1000 iter\n'
    )
    results = tmp_path / 'results' / 'tested'
    write_pictures(results / 'visualization' / 'Set5', 3, IMAGES[:3], '_tested')
    work = tmp_path / 'work' / '20240101_000000' / 'vis_data'
    write_pictures(work / 'vis_image', 4, IMAGES[:3], '_0')
    (work / 'scalars.json').write_text(
        '{"lr": 0.1, "loss": 1.0, "iter": 10, "step": 10}\n{"Set5/PSNR": 22.5, "data_time": 0.1, "time": 1, "step": 10}\n{"PS'
    )
    write_pictures(tmp_path / 'gt', 0, IMAGES[:3])
    index = index_of([str(experiment), f'test={results}', f'mm={tmp_path / "work"}'], None, tmp_path / 'gt')
    place = load_place(index, *index.places[0])
    assert place.methods == ['exp', 'test', 'mm']
    assert place.baseline is None
    assert {name: sorted(files) for name, files in place.pictures.items()} == dict.fromkeys(place.methods, IMAGES[:3])
    assert place.pictures['exp'][IMAGES[0]].stem == f'{IMAGES[0]}_10000'
    assert place.curves == {'exp': {'psnr': [(500, 20.5), (1000, 21.0)]}, 'mm': {'Set5/PSNR': [(10, 22.5)]}}
    assert place.notes == [f'{name}: no scores.' for name in place.methods]
    page = built(experiment, f'test={results}', '-r', tmp_path / 'gt', '--size', 32, out=tmp_path / 'r.html')
    assert 'id="viewer"' in page
    assert 'id="scores"' not in page
    assert 'test: no scores.' in text_of(page)


def test_a_folder_with_scores_and_images_is_a_run(tmp_path):
    for method in METHODS[:2]:
        write_pictures(tmp_path / method, 1)
        shutil.move(write_scores_of(tmp_path, method), tmp_path / method / 'scores.csv')
    index = index_of([str(tmp_path / method) for method in METHODS[:2]])
    assert [run.name for run in index.runs] == ['base', 'sharp']
    assert index.baseline == 'base'
    assert all(run.scores.name == 'scores.csv' and run.images == tmp_path / run.name for run in index.runs)


def matrix_folder(tmp_path):
    """A result folder of ``nriqa matrix``: two networks, two losses, one of which optimises niqe and lowers it."""
    runs = []
    for network in ('rlfn', 'edsr'):
        (tmp_path / network).mkdir()
        for loss, method in (('start', 'noisy'), ('niqe', 'base')):
            file = write_scores_of(tmp_path / network, method)
            curve = tmp_path / network / 'curve.csv'
            curve.write_text('iteration,metric,value\n100,psnr,20\n200,psnr,21\n')
            runs.append(Run(loss, network, loss, 'Set5', file, curve=curve if loss == 'niqe' else None,
                            optimised=('niqe',) if loss == 'niqe' else ()))  # fmt: skip
    write_runs(tmp_path, RunIndex(tuple(runs), 'start'))
    return tmp_path


def test_a_result_folder_with_a_run_index_is_a_report_of_all_its_places(tmp_path):
    page = built(matrix_folder(tmp_path), out=tmp_path / 'r.html')
    text = text_of(page)
    assert 'rlfn on Set5' in text
    assert 'edsr on Set5' in text
    assert 'niqe lowers its own judge niqe' in text
    assert page.count('lowered" style') == 1
    assert '▼' in text
    assert [place['label'] for place in data_of(page)['places']] == ['rlfn on Set5', 'edsr on Set5']
    for network in ('rlfn', 'edsr'):
        assert f'start, {network} on Set5, {file_hash(tmp_path / network / "noisy.csv")}' in text
    assert len(re.findall('<svg', page)) == 2 * (3 + 3 + 1)
    assert 'id="viewer"' not in page  # it holds no pictures


def test_curves_of_a_resumed_training_keep_the_later_value(tmp_path):
    file = tmp_path / 'validation.csv'
    file.write_text('iteration,dataset,metric,n,mean\n100,Set5,psnr,5,20\n200,Set5,psnr,5,21\n200,Set5,psnr,5,22\n'
                    '300,Set5,psnr,5,nan\n')  # fmt: skip
    assert read_curve(file) == {'psnr': [(100, 20.0), (200, 22.0)]}
    assert find_curve(tmp_path) == file
    file.write_text('iteration,metric,value\n100,psnr,x\n')
    with pytest.raises(ValueError, match='line 2'):
        read_curve(file)
    file.write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='is no record of a training'):
        read_curve(file)


def test_an_ending_counts_only_where_the_name_without_it_is_known(tmp_path):
    write_pictures(tmp_path, 0, ['a_1', 'a_2', 'b'])
    assert list(find_pictures(tmp_path)) == ['a_1', 'a_2', 'b']
    assert {key: path.stem for key, path in find_pictures(tmp_path, {'a', 'b'}).items()} == {'a': 'a_2', 'b': 'b'}


# --- planes


def judges(*metrics):
    return [Judge(metric, higher, 1, '', reference) for metric, higher, reference in metrics]


def test_the_tiers_are_pixels_features_and_judges_without_reference():
    found = tiers(judges(('lpips', False, True), ('niqe', False, False), ('psnr', True, True),
                         ('stlpips', False, True), ('musiq', True, False)))  # fmt: skip
    assert found == ('psnr', 'stlpips', ['niqe', 'musiq'])
    assert tiers(judges(('lpips', False, True), ('niqe', False, False))) == ('lpips', None, ['niqe'])
    assert tiers(judges(('niqe', False, False))) == (None, None, ['niqe'])


@pytest.fixture
def place(folder, arguments):
    index = index_of([f'{m}={folder / m}.csv' for m in METHODS])
    one = load_place(index, *index.places[0])
    compare_place(one)
    return one


def test_planes_have_their_best_corner_at_the_lower_left(place):
    jnd = {'base': (0.0, -0.1, 0.1), 'sharp': (1.0, 0.8, 1.3), 'other': (2.0, 1.5, 2.5)}
    pairs, more = planes_of(place, jnd)
    assert pairs == [('psnr', 'jnd'), ('lpips', 'jnd'), ('psnr', 'lpips'), ('psnr', 'niqe'), ('lpips', 'niqe')]
    assert more == 0
    for pair in pairs:
        figure = plane(place, pair, 'x', jnd)
        (axes,) = figure.axes
        assert axes.xaxis_inverted() == (pair[0] == 'psnr')
        assert axes.yaxis_inverted() == (pair[1] == 'jnd')
        labels = [container.get_label() for container in axes.containers]
        assert labels == (['base', 'sharp'] if 'jnd' in pair else list(METHODS))
    svg, below = as_svg(plane(place, ('psnr', 'jnd'), 'x', jnd), 'f')
    assert 'reversed' in svg
    assert 'JND' in svg
    assert 'Bars: 95 %' not in svg
    assert 'JND: bootstrap over observers' in below
    with pytest.raises(ValueError, match="metric in --plane: 'ssim'"):
        planes_of(place, jnd, [('ssim', 'jnd')])


def test_jnds_that_fit_no_run_or_are_damaged_are_refused(tmp_path, folder, arguments):
    table = tmp_path / 'jnd.csv'
    table.write_text('condition,jnd,low,high\nbase,0,,\nsharp,1.5,1,2\nextra,2,1,3\n')
    assert read_jnd(table)['sharp'] == (1.5, 1.0, 2.0)
    text = text_of(built(*arguments, '--jnd', table, '--crops', 0, '--plane', 'psnr:jnd', out=tmp_path / 'r.html'))
    assert 'No JND of noisy' in text
    assert 'no run here: extra' in text
    for content, message in (
        ('condition,jnd,low,high\nx,0,0,0\n', 'are none of the runs'),
        ('condition,jnd,low,high\nbase,0,0,0\nbase,0,0,0\n', 'line 3: base stands twice'),
        ('condition,jnd,low,high\nbase,nan,0,0\n', 'line 2: the JND of base'),
        ('condition,score\nbase,1\n', 'must have the columns'),
    ):
        table.write_text(content)
        assert message in refused(*arguments, '--jnd', table)


# --- bad input


def test_results_of_different_size_are_refused_by_both_files(folder, arguments, tmp_path):
    write_pictures(tmp_path / 'odd', 1, size=(95, 80))
    text = refused(*arguments, '--images', f'noisy={tmp_path / "odd"}')
    assert f'{IMAGES[0]}_base.png is 96x80' in text
    assert f'{IMAGES[0]}.png is 95x80' in text


def test_a_missing_picture_is_shown_as_missing_and_counted(folder, arguments, tmp_path):
    write_pictures(tmp_path / 'few', 1, IMAGES[:-1])
    page = built(*arguments, '--images', f'noisy={tmp_path / "few"}', '--crops', 12, out=tmp_path / 'r.html')
    assert f'noisy: no picture of 1 ({IMAGES[-1]}) of 12 images' in text_of(page)
    tiles = {
        region['image']: dict(zip(region['names'], region['tiles'], strict=True)) for region in data_of(page)['regions']
    }
    assert tiles[IMAGES[-1]]['noisy'] is None
    assert tiles[IMAGES[-1]]['base']
    assert all(tile['noisy'] for name, tile in tiles.items() if name != IMAGES[-1])


def test_images_without_ground_truth_or_picture_are_counted(folder, arguments, tmp_path):
    write_pictures(tmp_path / 'gt', 0, IMAGES[2:])
    index = index_of(
        [f'base={folder / "base.csv"}'], None, tmp_path / 'gt', None, {'base': folder / 'results' / 'base'}
    )
    assert load_place(index, *index.places[0]).notes == ['No ground truth of 2 (im00, im01) of 12 images.']
    write_pictures(tmp_path / 'few', 1, IMAGES[1:])
    index = index_of([f'base={folder / "base.csv"}'], None, None, None, {'base': tmp_path / 'few'})
    assert load_place(index, *index.places[0]).notes == ['No picture of 1 (im00) of 12 images.']


def changed(folder, tmp_path, change):
    """The scores of ``sharp`` with other rows."""
    rows = [new for row in read_scores(folder / 'sharp.csv').rows if (new := change(row))]
    write_scores(tmp_path / 'sharp.csv', rows)
    return tmp_path / 'sharp.csv'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda row: None if row.image == 'im03.png' and row.metric == 'niqe' else row, 'niqe of 12 images in the'),
        (lambda row: dataclasses.replace(row, judge_hash='other'), 'was scored by two judges: other for sharp'),
        (lambda row: dataclasses.replace(row, reference_hash=row.reference_hash and 'x'), 'against two references'),
        (lambda row: dataclasses.replace(row, score=float('inf')) if row.image == 'im03.png' else row,
         'the score of im03 by sharp is inf'),
    ],
)  # fmt: skip
def test_scores_that_cannot_be_compared_are_refused(folder, arguments, tmp_path, change, message):
    file = changed(folder, tmp_path, change)
    assert message in refused(f'base={folder / "base.csv"}', f'sharp={file}')


def test_nan_and_duplicate_scores_are_refused_by_their_line(folder, arguments, tmp_path):
    lines = (folder / 'sharp.csv').read_text().splitlines(keepends=True)
    file = tmp_path / 'sharp.csv'
    file.write_text(''.join([*lines, lines[3]]))
    assert f'{file}, line {len(lines) + 1}' in refused(f'base={folder / "base.csv"}', f'sharp={file}')
    file.write_text(lines[0] + lines[1].replace(lines[1].split(',')[2], 'nan'))
    assert 'is NaN' in refused(file)


def test_a_judge_of_some_runs_and_a_baseline_of_zero_are_named(folder, arguments, tmp_path):
    file = changed(folder, tmp_path, lambda row: None if row.metric == 'niqe' else row)
    text = text_of(built(f'base={folder / "base.csv"}', f'sharp={file}', out=tmp_path / 'r.html'))
    assert 'niqe: not scored for sharp.' in text
    assert 'niqe has no relative gains' in text
    zero = [dataclasses.replace(row, score=0.0) for row in read_scores(folder / 'base.csv').of('niqe')]
    write_scores(tmp_path / 'zero.csv', [*zero, *read_scores(folder / 'base.csv').of('psnr')])
    other = changed(folder, tmp_path, lambda row: None if row.metric == 'lpips' else row)
    text = text_of(built(f'zero={tmp_path / "zero.csv"}', f'sharp={other}', out=tmp_path / 'r.html'))
    assert 'niqe has no relative gain: the baseline' in text


def test_wrong_arguments_are_refused_with_the_run(folder, arguments, tmp_path):
    base = folder / 'base.csv'
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert 'no such run' in refused('a=gone')
    assert 'two runs are called' in refused(base, base)
    assert 'holds no scores file, no images' in refused(f'a={empty}')
    assert "unknown run in --images: 'bas'. Did you mean 'base'" in refused(base, '--images', f'bas={empty}')
    assert '--images base: no such folder' in refused(base, '--images', 'base=gone')
    assert "unknown baseline 'other'" in refused(base, '--baseline', 'other')
    assert '--plane must be two names' in refused(base, '--plane', 'psnr')
    assert '--references: no such folder' in refused(base, '-r', 'gone')
    assert 'holds several scores files' in refused(folder)
    assert 'report it alone' in refused(matrix_folder(tmp_path), base)
