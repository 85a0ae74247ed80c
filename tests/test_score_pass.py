"""One pass over the images: each file read once, in the background, regions, what made the scores, memory."""

import builtins
import json
import logging
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nriqa_plugin.checks import file_hash
from nriqa_plugin.evaluation import provenance, sources
from nriqa_plugin.evaluation.images import read_hashed_image, read_image
from nriqa_plugin.evaluation.prefetch import prefetch
from nriqa_plugin.evaluation.provenance import provenance_path, read_provenance
from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.evaluation.scoring import score_folder
from tests.judges import Brightness, Clip, Darkness, Distance

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folders(tmp_path):
    """Five random images and their references."""
    pixels = np.random.default_rng(0)
    for kind in ('x', 'y'):
        (tmp_path / kind).mkdir()
        for i in range(5):
            Image.fromarray(pixels.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(tmp_path / kind / f'{i}.png')
    return tmp_path / 'x', tmp_path / 'y'


# --- reading ------------------------------------------------------------------------------------------------------


def test_every_file_is_decoded_once_for_all_judges(folders, tmp_path, monkeypatch):
    read, opened = [], []
    decode, real_open = sources.read_hashed_image, builtins.open

    def counted(path):
        read.append(str(path))
        return decode(path)

    def watched(file, *args, **kwargs):
        opened.append(str(file))
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr(sources, 'read_hashed_image', counted)
    monkeypatch.setattr(sources, 'file_hash', lambda path: pytest.fail('read twice'))
    monkeypatch.setattr(builtins, 'open', watched)
    images, references = folders
    score_folder(images, [Brightness(), Darkness(), Distance()], tmp_path / 's.csv', references, 'cpu')
    assert sorted(read) == sorted(map(str, [*images.iterdir(), *references.iterdir()]))
    assert not [file for file in opened if file.endswith('.png')]


def test_references_are_not_read_for_judges_without(folders, tmp_path, monkeypatch):
    decode = sources.read_hashed_image
    monkeypatch.setattr(
        sources, 'read_hashed_image', lambda p: pytest.fail('read') if p.parent.name == 'y' else decode(p)
    )
    score_folder(folders[0], [Brightness()], tmp_path / 's.csv', folders[1], 'cpu')


def test_the_hash_is_of_the_bytes_that_were_decoded(folders):
    path = folders[0] / '0.png'
    image, digest = read_hashed_image(path)
    assert torch.equal(image, read_image(path))
    assert digest == file_hash(path)


def test_prefetching_keeps_order_and_works_in_another_thread():
    threads = set()

    def things():
        for i in range(50):
            threads.add(threading.current_thread().name)
            yield i

    assert list(prefetch(things())) == list(range(50))
    assert threads == {'prefetch'}


def test_no_more_than_asked_for_is_made_ahead():
    made = []

    def things():
        for i in range(100):
            made.append(i)
            yield i

    ahead = prefetch(things(), ahead=2)
    for used in range(5):
        assert next(ahead) == used
        time.sleep(0.05)
        assert len(made) <= used + 1 + 2 + 1  # the used ones, the waiting ones, and one at the door
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name == 'prefetch']


def test_an_error_ahead_comes_in_its_turn():
    def things():
        yield 1
        yield 2
        raise ValueError('broken')

    seen = []
    with pytest.raises(ValueError, match='broken'):
        for thing in prefetch(things()):
            seen.append(thing)
    assert seen == [1, 2]


def test_an_unreadable_image_is_named_and_what_came_before_is_kept(folders, tmp_path):
    (folders[0] / '3.png').write_text('hello')
    with pytest.raises(ValueError, match=r'3\.png is not a readable image'):
        score_folder(folders[0], Brightness(), tmp_path / 's.csv', device='cpu')
    assert [row.image for row in read_scores(tmp_path / 's.csv').rows] == ['0.png', '1.png', '2.png']


def test_a_damaged_scores_file_is_an_error_and_not_silently_made_again(folders, tmp_path):
    """A score twice, of an image that is not there, or NaN."""
    out = tmp_path / 's.csv'
    score_folder(folders[0], Brightness(), out, device='cpu')
    lines = out.read_text().splitlines(keepends=True)
    for bad, message in ((lines[1], 'stands in line 2 too'), (lines[1].replace('0.png', '9.png'), 'another folder')):
        out.write_text(''.join([*lines, bad]))
        with pytest.raises(ValueError, match=message):
            score_folder(folders[0], Brightness(), out, device='cpu')
    out.write_text(
        ''.join([lines[0], *(','.join([*line.split(',')[:2], 'nan', *line.split(',')[3:]]) for line in lines[1:])])
    )
    with pytest.raises(ValueError, match='is NaN'):
        score_folder(folders[0], Brightness(), out, device='cpu')


# --- regions ------------------------------------------------------------------------------------------------------


class Corners:
    """Two corners of 8 px and a window of 12 px; remembers whether it saw a reference."""

    label, identity = 'corners', 'v1'

    def __init__(self):
        self.references = []

    def __call__(self, image, reference):
        assert image.shape == (3, 24, 30)
        self.references.append(reference is not None)
        return [(0, 0, 8), (4, 6, 12), (16, 22, 8)]


def test_regions_are_scored_alone_and_averaged(folders, tmp_path):
    regions = Corners()
    scores = score_folder(*_regional(folders, tmp_path, regions))
    assert scores.metrics == ['brightness@corners', 'distance@corners']
    for row in scores.rows:
        image, truth = (read_image(folder / row.image) for folder in folders)
        crops = [(slice(None), slice(t, t + s), slice(x, x + s)) for t, x, s in regions(image, None)]
        if row.metric.startswith('brightness'):
            expected = np.mean([image[crop].mean().item() for crop in crops])
        else:
            expected = np.mean([(image[crop] - truth[crop]).abs().mean().item() for crop in crops])
        assert row.score == pytest.approx(expected, abs=1e-6)
    assert scores == read_scores(tmp_path / 's.csv')


@pytest.mark.parametrize('wanted', [False, True])
def test_regions_see_the_reference_when_they_want_it_whatever_the_judges(wanted, folders, tmp_path):
    images, _, _, references, device = _regional(folders, tmp_path)
    for i, judges in enumerate(([Brightness()], [Brightness(), Distance()])):
        regions = Corners()
        regions.needs_reference = wanted
        scores = score_folder(images, judges, tmp_path / f'{i}.csv', references, device, regions=regions)
        assert regions.references == [wanted] * 5
        assert all(bool(row.reference_hash) == wanted for row in scores.of('brightness@corners'))


def test_regions_stand_beside_whole_images_in_one_file(folders, tmp_path):
    images, judges, out, references, device = _regional(folders, tmp_path)
    score_folder(images, judges, out, references, device)
    scores = score_folder(*_regional(folders, tmp_path, Corners()))
    assert scores.metrics == ['brightness', 'brightness@corners', 'distance', 'distance@corners']
    before = out.read_bytes()
    score_folder(*_regional(folders, tmp_path, Corners()))
    assert out.read_bytes() == before


def test_other_regions_are_another_judge(folders, tmp_path):
    score_folder(*_regional(folders, tmp_path, Corners()))
    other = Corners()
    other.identity = 'v2'
    with pytest.raises(ValueError, match='holds brightness@corners by another judge'):
        score_folder(*_regional(folders, tmp_path, other))


def test_images_without_a_region_are_counted_and_none_at_all_is_an_error(folders, tmp_path, plugin_log):
    dark = read_image(folders[0] / '2.png')

    def regions(image, reference):
        return [] if torch.equal(image, dark) else [(0, 0, 8)]

    scores = score_folder(*_regional(folders, tmp_path, regions))
    assert [row.image for row in scores.of('brightness@flat')] == ['0.png', '1.png', '3.png', '4.png']
    assert '1 (2.png) have no region to score' in plugin_log.messages[-1]
    images, judges, _, references, device = _regional(folders, tmp_path)
    with pytest.raises(ValueError, match='no image has a region to score'):
        score_folder(images, judges, tmp_path / 't.csv', references, device, regions=lambda image, reference: [])


def test_regions_outside_the_image_and_clips_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match=r'region \(20, 0, 8\) is not inside the image of \(24, 30\) px'):
        score_folder(*_regional(folders, tmp_path, lambda image, reference: [(20, 0, 8)]))
    with pytest.raises(ValueError, match='video judge and cannot score crops'):
        score_folder(folders[0], Clip(), tmp_path / 's.csv', regions=Corners(), one_clip=True)


def _regional(folders, tmp_path, regions=None):
    arguments = [folders[0], [Brightness(), Distance()], tmp_path / 's.csv', folders[1], 'cpu']
    return arguments if regions is None else [*arguments, False, '', regions]


# --- what made the scores -----------------------------------------------------------------------------------------


def test_judges_versions_and_device_stand_beside_the_file(folders, tmp_path):
    out = tmp_path / 's.csv'
    score_folder(folders[0], Darkness(gain=2.0), out, device='cpu')
    (run,) = read_provenance(out)
    assert run['packages']['torch'] == version('torch')
    assert run['device'].startswith('cpu')
    assert run['judges'] == {
        'darkness': {
            'judge': 'tests.judges.Darkness',
            'judge_hash': Darkness(gain=2.0).weights_hash(),
            'higher_better': False,
            'options': {'gain': '2.0', 'score_range': '(0.0, 2.0)'},
        }
    }
    assert json.loads(provenance_path(out).read_text())['version'] == 1


def test_a_run_that_scores_nothing_is_no_run(folders, tmp_path):
    out = tmp_path / 's.csv'
    score_folder(folders[0], Brightness(), out, device='cpu')
    first = provenance_path(out).read_bytes()
    score_folder(folders[0], Brightness(), out, device='cpu')
    assert provenance_path(out).read_bytes() == first
    score_folder(folders[0], Darkness(), out, device='cpu')
    assert [list(run['judges']) for run in read_provenance(out)] == [['brightness'], ['darkness']]


def test_going_on_with_another_version_is_told_and_recorded(folders, tmp_path, plugin_log, monkeypatch):
    out = tmp_path / 's.csv'
    score_folder(folders[0], Brightness(), out, device='cpu')
    Image.new('RGB', (30, 24)).save(folders[0] / 'new.png')
    monkeypatch.setattr(provenance, '_versions', lambda: {'torch': '99.0'})
    score_folder(folders[0], Brightness(), out, device='cpu')
    assert any('was begun with' in m and f'torch {version("torch")}' in m and '(now 99.0)' in m
               for m in plugin_log.messages)  # fmt: skip
    assert [run['packages']['torch'] for run in read_provenance(out)][1] == '99.0'


def test_an_older_file_without_record_is_told_of_and_a_new_file_begins_anew(folders, tmp_path, plugin_log):
    out = tmp_path / 's.csv'
    score_folder(folders[0], Brightness(), out, device='cpu')
    provenance_path(out).unlink()
    score_folder(folders[0], Darkness(), out, device='cpu')
    assert 'what made them is not known' in plugin_log.messages[-1]
    out.unlink()
    score_folder(folders[0], Brightness(), out, device='cpu')
    assert [list(run['judges']) for run in read_provenance(out)] == [['brightness']]


def test_a_damaged_record_is_refused_before_a_row_is_written(folders, tmp_path):
    out = tmp_path / 's.csv'
    score_folder(folders[0], Brightness(), out, device='cpu')
    before = out.read_bytes()
    provenance_path(out).write_text('{"runs": [1]}')
    with pytest.raises(ValueError, match=r's\.csv\.provenance\.json is no record'):
        score_folder(folders[0], Darkness(), out, device='cpu')
    assert out.read_bytes() == before


def test_a_run_that_says_nothing_leaves_no_warning(folders, tmp_path, plugin_log):
    score_folder(folders[0], Brightness(), tmp_path / 's.csv', device='cpu')
    assert [record for record in plugin_log.records if record.levelno >= logging.WARNING] == []


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_does_not_grow_with_the_folder():
    """From 100 to 10,000 images the peak may grow by the rows only: less than 700 bytes for each."""
    peaks = {}
    for count in (100, 10000):
        command = [sys.executable, ROOT / 'benchmarks' / 'bench_scoring.py', '--peak-of', str(count)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        peaks[count] = float(done.stdout.split()[0])
    assert peaks[10000] - peaks[100] < 9900 * 5 * 700 / 2**20
