"""Evaluation against several ground truths: the mean over positives, the gold standard, in files and in both hosts."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.evaluation.images import read_image
from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.evaluation.several_gts import find_set, positives, score_gold_standard, score_several
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.multigt.layout import read_sets

BRIGHTNESS = 'tests.judges:Brightness'
DISTANCE = 'tests.judges:Distance'
NAMES = ('bird', 'boat')


def noise(seed, size=(40, 48)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    """Three ground truths of two images; boat lacks the third."""
    folder = tmp_path / 'gts'
    for k, column in enumerate(('gt', 'gt_01', 'gt_02')):
        (folder / column).mkdir(parents=True)
        for i, name in enumerate(NAMES):
            if (k, name) != (2, 'boat'):
                Image.fromarray(noise(10 * i + k)).save(folder / column / f'{name}.png')
    with open(folder / 'index.csv', 'w', newline='') as file:
        rows = csv.writer(file)
        rows.writerow(['name', 'gt', 'gt_01', 'gt_02', 'positive'])
        rows.writerow(['bird', 'gt/bird.png', 'gt_01/bird.png', 'gt_02/bird.png', '1 2'])
        rows.writerow(['boat', 'gt/boat.png', 'gt_01/boat.png', '', '1'])
    return folder


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / 'results'
    folder.mkdir()
    for i, name in enumerate(NAMES):
        Image.fromarray(noise(100 + i)).save(folder / f'{name}_run.png')
    return folder


def expected_distance(results, root, name, columns):
    image = read_image(results / f'{name}_run.png')
    return np.mean([(image - read_image(root / c / f'{name}.png')).abs().mean().item() for c in columns])


def test_positives_count_or_all_where_there_are_no_labels(root):
    plain = positives(read_sets(str(root))[0])
    assert {name: len(paths) for name, paths in plain.items()} == {'bird': 3, 'boat': 2}
    labelled = positives(read_sets(str(root), 'index', str(root / 'index.csv'))[0])
    folders = {name: [path.split('/')[-2] for path in paths] for name, paths in labelled.items()}
    assert folders == {'bird': ['gt_01', 'gt_02'], 'boat': ['gt_01']}


def test_one_set_without_a_positive_is_refused(root):
    text = (root / 'index.csv').read_text().replace('gt_01/boat.png,,1', 'gt_01/boat.png,,')
    (root / 'index.csv').write_text(text)
    with pytest.raises(ValueError, match=r'sets without a positive ground truth: 1 \(boat\)'):
        positives(read_sets(str(root), 'index', str(root / 'index.csv'))[0])


def test_an_image_finds_its_set_by_the_longest_fitting_name():
    gts = {'baby': [], 'babyx': [], 'part/0001': [], 'other/0002': []}
    assert find_set(gts, 'baby') == 'baby'
    assert find_set(gts, 'babyx4') == 'babyx'
    assert find_set(gts, 'unknown', '0001_run') == 'part/0001'
    with pytest.raises(ValueError, match=r'no ground truths for the image head; there are 4 \(baby, '):
        find_set(gts, 'head')
    numbers = {'img_1': [], 'img_10': [], 'x2': []}
    assert find_set(numbers, 'img_1_run') == 'img_1'
    assert find_set(numbers, 'img_10x4') == 'img_10'
    with pytest.raises(ValueError, match='no ground truths for the image img_100 or x24'):
        find_set(numbers, 'img_100', 'x24')
    with pytest.raises(ValueError, match=r'may belong to several sets: 2 \(a/1, b/1\)'):
        find_set({'a/1': [], 'b/1': []}, '1')


def test_full_reference_scores_are_means_over_the_ground_truths(root, results, tmp_path):
    gts = positives(read_sets(str(root))[0])
    scores = score_several(results, [create_scorer(DISTANCE), create_scorer(BRIGHTNESS)], tmp_path / 's.csv', gts,
                           'cpu', suffix='_run')  # fmt: skip
    by_image = {row.image: row.score for row in scores.of('distance')}
    for name, columns in (('bird', ('gt', 'gt_01', 'gt_02')), ('boat', ('gt', 'gt_01'))):
        assert by_image[f'{name}.png'] == pytest.approx(expected_distance(results, root, name, columns), rel=1e-6)
    assert scores.mean('brightness') == pytest.approx(
        np.mean([read_image(results / f'{name}_run.png').mean().item() for name in NAMES]), rel=1e-6
    )


def test_one_ground_truth_gives_what_the_plain_reference_gives(root, results, tmp_path):
    from nriqa_plugin.evaluation.scoring import score_folder

    gts = {name: [str(root / 'gt' / f'{name}.png')] for name in NAMES}
    several = score_several(results, [create_scorer('psnr')], tmp_path / 'a.csv', gts, 'cpu', suffix='_run')
    plain = score_folder(results, [create_scorer('psnr')], tmp_path / 'b.csv', root / 'gt', 'cpu', suffix='_run')
    assert several.rows == plain.rows


def test_a_changed_ground_truth_is_scored_again(root, results, tmp_path, plugin_log):
    gts = positives(read_sets(str(root))[0])
    before = score_several(results, [create_scorer(DISTANCE)], tmp_path / 's.csv', gts, 'cpu', suffix='_run')
    Image.fromarray(noise(77)).save(root / 'gt_02' / 'bird.png')
    after = score_several(results, [create_scorer(DISTANCE)], tmp_path / 's.csv', gts, 'cpu', suffix='_run')
    one, two = ({row.image: row for row in scores.rows} for scores in (before, after))
    assert one['boat.png'] == two['boat.png']
    assert two['bird.png'].score == pytest.approx(
        expected_distance(results, root, 'bird', ('gt', 'gt_01', 'gt_02')), rel=1e-6
    )
    assert one['bird.png'].score != two['bird.png'].score
    assert 'were scored again' in plugin_log.text or 'was scored again' in plugin_log.text


def test_gold_standard_is_the_judge_on_the_ground_truths_set_by_set(root, tmp_path):
    gts = positives(read_sets(str(root))[0])
    scores = score_gold_standard([BRIGHTNESS], tmp_path / 'gold.csv', gts, 'cpu')
    means = [np.mean([read_image(path).mean().item() for path in paths]) for paths in gts.values()]
    assert len(scores.rows) == 5
    assert scores.mean('brightness') == pytest.approx(np.mean(means), rel=1e-6)
    assert read_scores(tmp_path / 'gold.csv').rows == scores.rows
    with pytest.raises(ValueError, match='gold standard: distance is a full-reference judge'):
        score_gold_standard([DISTANCE], tmp_path / 'other.csv', gts, 'cpu')


def test_images_and_ground_truths_have_to_pair_and_fit(root, results, tmp_path):
    gts = positives(read_sets(str(root))[0])
    with pytest.raises(ValueError, match=r'ground truths without an image: 1 \(cat\)'):
        score_several(results, [DISTANCE], tmp_path / 's.csv', {**gts, 'cat': []}, 'cpu', suffix='_run')
    Image.fromarray(noise(5)).save(results / 'bird_too.png')
    with pytest.raises(ValueError, match=r'bird_run\.png and bird_too\.png belong to the same ground truths, bird'):
        score_several(results, [DISTANCE], tmp_path / 's.csv', gts, 'cpu', suffix='')
    (results / 'bird_too.png').unlink()
    Image.fromarray(noise(5, (40, 40))).save(root / 'gt_01' / 'boat.png')
    with pytest.raises(
        ValueError, match=r'distance cannot score .*boat_run\.png: distance: pred is .*48.* reference is'
    ):
        score_several(results, [DISTANCE], tmp_path / 's.csv', gts, 'cpu', suffix='_run')


def test_ground_truths_without_an_original_are_evaluated_with(root, results, tmp_path):
    (root / 'gt' / 'boat.png').unlink()
    out = tmp_path / 'scores.csv'
    command = ['score', str(results), '-m', DISTANCE, '-o', str(out), '--gts', str(root), '--suffix', '_run']
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    by_image = {row.image: row.score for row in read_scores(out).rows}
    assert by_image['boat.png'] == pytest.approx(expected_distance(results, root, 'boat', ['gt_01']), rel=1e-6)


def test_the_command_scores_both_rows(root, results, tmp_path):
    out, gold = tmp_path / 'scores.csv', tmp_path / 'gold.csv'
    index = ['--layout', 'index', '--index', str(root / 'index.csv')]
    command = ['score', str(results), '-m', DISTANCE, '-o', str(out), '--gts', str(root), '--suffix', '_run', *index]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    by_image = {row.image: row.score for row in read_scores(out).rows}
    assert by_image['bird.png'] == pytest.approx(expected_distance(results, root, 'bird', ('gt_01', 'gt_02')), rel=1e-6)
    result = CliRunner().invoke(app, ['score', str(root), '-m', BRIGHTNESS, '-o', str(gold), '--gold-standard', *index])
    assert result.exit_code == 0, result.output
    assert len(read_scores(gold).rows) == 3
    result = CliRunner().invoke(app, [*command, '--reference', str(root / 'gt')])
    assert result.exit_code == 2
    assert 'exclude each other' in result.output
    result = CliRunner().invoke(app, ['score', str(results), '-m', DISTANCE, '-o', str(out), '--layout', 'hggt'])
    assert result.exit_code == 2
    assert '--layout and --index need' in result.output


def model_options(folder, root, **metrics):
    disk = {'type': 'disk'}
    roots = {'dataroot_gt': str(root / 'gt'), 'dataroot_lq': str(folder / 'lq')}
    return {
        'name': 'several', 'model_type': 'PerceptualModel', 'base_model': 'SRModel', 'scale': 4, 'num_gpu': 0,
        'dist': False, 'rank': 0, 'world_size': 1, 'is_train': False,
        'network_g': {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 4},
        'path': {'results_root': str(folder / 'results'), 'visualization': str(folder / 'vis')},
        'datasets': {},
        'data': {'name': 'val', 'type': 'CheckedPairedImageDataset', 'phase': 'val', 'scale': 4, **roots,
                 'io_backend': disk, 'filename_tmpl': '{}'},
        'val': {'metrics': metrics, 'save_img': False},
    }  # fmt: skip


@pytest.fixture
def basicsr_model(root, tmp_path):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from basicsr.data import build_dataset
    from basicsr.models import build_model

    import nriqa_plugin.basicsr  # noqa: F401, registers

    (tmp_path / 'lq').mkdir()
    for i, name in enumerate(NAMES):
        Image.fromarray(noise(50 + i, (10, 12))).save(tmp_path / 'lq' / f'{name}.png')

    def build(**metrics):
        options = model_options(tmp_path, root, **metrics)
        dataset = build_dataset(options.pop('data'))
        return build_model(options), torch.utils.data.DataLoader(dataset)

    return build


def test_basicsr_metric_averages_over_the_sets_of_each_validation_image(root, basicsr_model, tmp_path):
    type_ = {'type': 'calculate_several_gts', 'gts': str(root)}
    model, loader = basicsr_model(
        distance={**type_, 'metric': DISTANCE},
        gold={**type_, 'metric': BRIGHTNESS, 'gold_standard': True},
        one={'type': 'calculate_iqa', 'metric': DISTANCE},
    )
    assert model.opt['val']['metrics']['distance']['better'] == 'lower'
    model.validation(loader, 0, None, False)
    expected, golden = [], []
    for name in NAMES:
        lq = read_image(tmp_path / 'lq' / f'{name}.png')[None]
        with torch.no_grad():
            output = (model.net_g(lq).clamp(0, 1) * 255).round() / 255
        paths = sorted(root.glob(f'gt*/{name}.png'))
        expected.append(np.mean([(output - read_image(path)).abs().mean().item() for path in paths]))
        golden.append(np.mean([read_image(path).mean().item() for path in paths]))
    assert model.metric_results['distance'] == pytest.approx(np.mean(expected), rel=1e-5)
    assert model.metric_results['gold'] == pytest.approx(np.mean(golden), rel=1e-6)
    assert model.metric_results['one'] != pytest.approx(model.metric_results['distance'], rel=1e-5)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'metric': DISTANCE}, 'the option gts is missing'),
        ({'metric': BRIGHTNESS, 'gts': 'ROOT'}, 'brightness needs no ground truth: use calculate_iqa'),
        ({'metric': DISTANCE, 'gts': 'ROOT', 'gold_standard': True}, 'distance is a full-reference judge'),
        ({'metric': DISTANCE, 'gts': 'ROOT', 'better': 'higher'}, "lower is better; write 'better: lower'"),
        ({'metric': DISTANCE, 'gts': {'rot': 'ROOT'}}, r"unknown option of gts: 'rot'\. Did you mean 'root'"),
        ({'metric': DISTANCE, 'gts': 'ROOT', 'borders': 3}, 'unknown option of calculate_several_gts'),
    ],
)
def test_basicsr_options_fail_at_construction(option, message, root, basicsr_model):
    option = json.loads(json.dumps(option).replace('ROOT', str(root)))
    with pytest.raises(ValueError, match=rf'val\.metrics\.m: .*{message}'):
        basicsr_model(m={'type': 'calculate_several_gts', **option})


def test_basicsr_metric_without_our_model_says_what_it_needs(root):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from nriqa_plugin.basicsr import several_gts

    several_gts.image_is('', '')
    with pytest.raises(ValueError, match='needs model_type: PerceptualModel'):
        several_gts.calculate_several_gts(noise(1), metric=DISTANCE, gts=str(root), better='lower')
    several_gts.image_is('', 'dog.png')
    with pytest.raises(ValueError, match=r'no ground truths for the image dog; there are 2 \(bird, boat\)'):
        several_gts.calculate_several_gts(noise(1), metric=DISTANCE, gts=str(root), better='lower')
    several_gts.image_is('', 'bird.png')
    image = cv2.cvtColor(noise(1), cv2.COLOR_RGB2BGR)
    score = several_gts.calculate_several_gts(image, metric=DISTANCE, gts=str(root), better='lower')
    unit = torch.from_numpy(noise(1)).permute(2, 0, 1) / 255
    expected = np.mean([(unit - read_image(path)).abs().mean().item() for path in sorted(root.glob('gt*/bird.png'))])
    assert score == pytest.approx(expected, rel=1e-6)
    several_gts.image_is('', '')


def test_mmagic_metric_averages_over_the_sets(root):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from mmagic.registry import METRICS

    import nriqa_plugin.mmagic  # noqa: F401, registers

    judges = [{'metric': DISTANCE}, {'metric': BRIGHTNESS}]
    metric = METRICS.build({'type': 'SeveralGTsMetric', 'judges': judges, 'gts': str(root), 'device': 'cpu'})
    gold = METRICS.build({'type': 'SeveralGTsMetric', 'judges': [BRIGHTNESS], 'gts': str(root), 'device': 'cpu',
                          'gold_standard': True})  # fmt: skip
    expected, bright = [], []
    for i, name in enumerate(NAMES):
        pixels = noise(200 + i)
        bgr = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1).float()
        sample = {'output': {'pred_img': bgr}, 'gt_path': f'somewhere/{name}.png'}
        metric.process(None, [sample])
        gold.process(None, [sample])
        unit = torch.from_numpy(pixels).permute(2, 0, 1) / 255
        paths = sorted(root.glob(f'gt*/{name}.png'))
        expected.append(np.mean([(unit - read_image(path)).abs().mean().item() for path in paths]))
        bright.append(np.mean([read_image(path).mean().item() for path in paths]))
    means = metric.compute_metrics(metric.results)
    assert means['distance'] == pytest.approx(np.mean(expected), rel=1e-5)
    assert gold.compute_metrics(gold.results) == {'gold_standard/brightness': pytest.approx(np.mean(bright), rel=1e-6)}
    assert gold.directions() == {'gold_standard/brightness': True}
    with pytest.raises(ValueError, match='distance is a full-reference judge'):
        METRICS.build({'type': 'SeveralGTsMetric', 'judges': [DISTANCE], 'gts': str(root), 'gold_standard': True})
