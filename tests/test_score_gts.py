"""The file of candidates' scores: values, resuming after a kill, integrity, several processes, bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from nriqa_plugin.checks import file_hash
from nriqa_plugin.cli import app
from nriqa_plugin.evaluation.images import read_image
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.multigt.layout import read_sets
from nriqa_plugin.multigt.score_table import ScoreTable
from nriqa_plugin.multigt.scoring import score_candidates
from nriqa_plugin.multigt.stored_images import LmdbImages
from tests.conftest import ROOT
from tests.judges import Brightness
from tests.multigt_data import write_lmdb

ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
TINY = 'tests.judges:TinyNet'


class Slow(Brightness):
    """Takes a while, so that a run can be killed in the middle."""

    name = 'slow'

    def score(self, pred, ref=None):
        time.sleep(0.1)
        return super().score(pred)


def write_set(root, names=('a', 'b', 'c'), columns=('gt', 'gt_01', 'gt_02'), size=(40, 52)):
    for i, column in enumerate(columns):
        (root / column).mkdir(parents=True, exist_ok=True)
        for j, name in enumerate(names):
            pixels = np.random.default_rng(10 * i + j).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / column / f'{name}.png')
    return root


@pytest.fixture
def root(tmp_path):
    root = write_set(tmp_path / 'candidates')
    (root / 'gt_02' / 'b.png').unlink()
    return root


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_whole_images_have_the_judges_scores(root, tmp_path):
    judge, out = create_scorer(TINY), tmp_path / 'scores.jsonl'
    assert score_candidates(read_sets(str(root))[0], judge, out) == {'scored': 8, 'kept': 0}
    header, *rows = rows_of(out)
    assert (header['judge'], header['judge_hash'], header['patch']) == ('tinynet', judge.weights_hash(), None)
    assert len(rows) == 8
    for row in rows:
        path = root / ('gt' if row['candidate'] == 0 else f'gt_{row["candidate"]:02d}') / f'{row["set"]}.png'
        assert row['image_hash'] == file_hash(path)
        assert row['scores'] == pytest.approx(judge(read_image(path)[None]).item(), rel=1e-6)
    table = ScoreTable(out, 'tinynet', judge.weights_hash())
    table.check_sets(read_sets(str(root))[0])


@pytest.mark.parametrize('chunk', [1, 3, 100])
def test_patches_are_scored_on_the_grid_whatever_the_chunk(chunk, root, tmp_path):
    judge, out = create_scorer(TINY), tmp_path / 'scores.jsonl'
    score_candidates(read_sets(str(root))[0], judge, out, patch=16, stride=12, chunk=chunk)
    table = ScoreTable(out)
    image = read_image(root / 'gt_01' / 'c.png')[None]
    assert table.tables['c', 1].shape == (3, 4)
    for top in (0, 12, 24):
        for left in (0, 12, 24, 36):
            expected = judge(image[..., top : top + 16, left : left + 16]).item()
            assert table.look_up('c', 1, (top, left, 16)) == pytest.approx(expected, rel=1e-5)


def test_lower_is_better_is_turned_by_the_reader_only(root, tmp_path):
    judge = create_scorer('tests.judges:Darkness')
    score_candidates(read_sets(str(root))[0], judge, tmp_path / 's.jsonl')
    expected = judge(read_image(root / 'gt' / 'a.png')[None]).item()
    assert expected > 0
    assert ScoreTable(tmp_path / 's.jsonl').look_up('a', 0) == pytest.approx(-expected, rel=1e-6)


def test_sets_without_an_original_are_scored(root, tmp_path):
    (root / 'gt' / 'a.png').unlink()
    result = CliRunner().invoke(app, ['score-gts', str(root), '-m', TINY, '-o', str(tmp_path / 's.jsonl')])
    assert result.exit_code == 0, result.output
    assert set(ScoreTable(tmp_path / 's.jsonl').tables) == {*(('a', k) for k in (1, 2)), ('b', 0), ('b', 1),
                                                           *(('c', k) for k in range(3))}  # fmt: skip


def test_an_image_without_a_score_is_not_the_end(root, tmp_path):
    Image.new('RGB', (52, 40)).save(root / 'gt' / 'a.png')
    score_candidates(read_sets(str(root))[0], create_scorer('tests.judges:FlatIsUndefined'), tmp_path / 's.jsonl')
    table = ScoreTable(tmp_path / 's.jsonl')
    assert np.isnan(table.look_up('a', 0))
    assert np.isfinite(table.look_up('a', 1))


def test_a_second_run_scores_nothing_and_new_candidates_are_added(root, tmp_path):
    judge, out = create_scorer(TINY), tmp_path / 'scores.jsonl'
    score_candidates(read_sets(str(root))[0], judge, out)
    before = out.read_bytes()
    assert score_candidates(read_sets(str(root))[0], judge, out) == {'scored': 0, 'kept': 8}
    assert out.read_bytes() == before
    write_set(root, columns=('gt', 'gt_01', 'gt_02', 'gt_03'))
    assert score_candidates(read_sets(str(root))[0], judge, out) == {'scored': 4, 'kept': 8}


def test_changed_images_other_data_judges_and_grids_are_refused(root, tmp_path):
    judge, out = create_scorer(TINY), tmp_path / 'scores.jsonl'
    sets = read_sets(str(root))[0]
    score_candidates(sets, judge, out)
    with pytest.raises(ValueError, match='holds other scores'):
        score_candidates(sets, create_scorer(TINY, seed=1), out)
    with pytest.raises(ValueError, match='holds other scores'):
        score_candidates(sets, judge, out, patch=16, stride=16)
    Image.new('RGB', (52, 40), (9, 9, 9)).save(root / 'gt_01' / 'a.png')
    with pytest.raises(ValueError, match=r'gt_01/a\.png has changed since it was scored'):
        score_candidates(sets, judge, out)
    other = write_set(tmp_path / 'other', names=('x', 'a'))
    with pytest.raises(ValueError, match=r'is of other data: it holds candidates that are not there: \d+ \(0 of b'):
        score_candidates(read_sets(str(other))[0], judge, out)
    lines = out.read_text().splitlines()
    out.write_text('\n'.join([lines[0], lines[1][:20], *lines[2:]]) + '\n')
    with pytest.raises(ValueError, match='line 2 is damaged'):
        score_candidates(sets, judge, out)


@pytest.mark.parametrize(
    ('judge', 'options', 'message'),
    [
        ('tests.judges:Distance', {}, 'distance is a full-reference judge; candidates are scored alone'),
        ('tests.judges:Clip', {}, 'clip is a video judge'),
        (TINY, {'patch': 4, 'stride': 4}, 'patch: tinynet needs at least 8 px a side, got 4'),
        (TINY, {'patch': 48, 'stride': 4}, r'tinynet cannot score .*a\.png: .*holds no patch of 48 px'),
        (TINY, {'chunk': 0}, 'chunk must be'),
    ],
)
def test_what_cannot_be_scored_is_named(judge, options, message, root, tmp_path):
    with pytest.raises(ValueError, match=message):
        score_candidates(read_sets(str(root))[0], create_scorer(judge), tmp_path / 's.jsonl', **options)


def test_a_killed_run_goes_on_and_ends_as_in_one_go(root, tmp_path):
    out = tmp_path / 'scores.jsonl'
    command = [sys.executable, '-m', 'nriqa_plugin', 'score-gts', str(root), '-m', 'tests.test_score_gts:Slow']
    process = subprocess.Popen([*command, '-o', str(out)], env=ENVIRONMENT, cwd=ROOT)
    deadline = time.monotonic() + 240
    while (not out.is_file() or len(out.read_bytes().splitlines()) < 4) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(out.read_bytes().splitlines()) - 1
    assert 3 <= done < 8
    with open(out, 'ab') as file:
        file.write(b'{"set": "c", "cand')  # as a kill in the middle of a line leaves it
    judge = create_scorer('tests.test_score_gts:Slow')
    counts = score_candidates(read_sets(str(root))[0], judge, out)
    assert counts == {'scored': 8 - done, 'kept': done}
    score_candidates(read_sets(str(root))[0], judge, tmp_path / 'one_go.jsonl')
    assert out.read_bytes() == (tmp_path / 'one_go.jsonl').read_bytes()


def test_parts_of_a_killed_run_of_several_processes_are_taken_up_by_one(root, tmp_path):
    judge, out = create_scorer(TINY), tmp_path / 'scores.jsonl'
    sets = read_sets(str(root))[0]
    score_candidates(sets, judge, tmp_path / 'one_go.jsonl')
    header, *rows = (tmp_path / 'one_go.jsonl').read_text().splitlines()
    (tmp_path / 'scores.jsonl.part0of2').write_text('\n'.join([header, *rows[:5:2]]) + '\n')
    (tmp_path / 'scores.jsonl.part1of2').write_text('\n'.join([header, rows[1]]) + '\n{"torn')
    assert score_candidates(sets, judge, out) == {'scored': 4, 'kept': 4}
    assert out.read_bytes() == (tmp_path / 'one_go.jsonl').read_bytes()
    assert not list(tmp_path.glob('*.part*'))


def test_an_lmdb_is_scored_as_its_files_are_and_training_from_it_takes_the_scores(root, tmp_path):
    """Images are stored re-encoded, as BasicSR's own tool does: other bytes, so other hashes, and the same scores."""
    pytest.importorskip('lmdb', reason='the extra basicsr is not installed')
    base, again = tmp_path / 'base', tmp_path / 'again'
    base.mkdir()
    for column in ('gt', 'gt_01', 'gt_02'):
        for path in (root / column).iterdir():
            (again / column).mkdir(parents=True, exist_ok=True)
            Image.open(path).save(again / column / path.name, compress_level=1)
        write_lmdb(again / column, base / f'{column}.lmdb')
    out = {}
    for name, arguments in {'files': [str(root)], 'lmdb': [str(base), '--lmdb']}.items():
        out[name] = tmp_path / f'{name}.jsonl'
        command = ['score-gts', *arguments, '-m', TINY, '-o', str(out[name]), '--patch', '16', '--stride', '12']
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    files, stored = (ScoreTable(path) for path in out.values())
    assert files.tables.keys() == stored.tables.keys()
    for key, table in files.tables.items():
        assert np.array_equal(table, stored.tables[key])
        assert files.hashes[key] != stored.hashes[key]
    assert stored.hashes['c', 1] == file_hash(again / 'gt_01' / 'c.png')
    sets, _ = read_sets(str(base), lmdb=True)
    gone = [replace(sets[0], paths=('nothing',))]
    with pytest.raises(ValueError, match=r"there is no key 'nothing' in .*gt\.lmdb"):
        score_candidates(gone, create_scorer(TINY), tmp_path / 'x.jsonl', stored=LmdbImages(base))


def test_a_damaged_image_in_an_lmdb_is_named(root, tmp_path):
    pytest.importorskip('lmdb', reason='the extra basicsr is not installed')
    write_lmdb(root / 'gt', tmp_path / 'gt.lmdb', damage=True)
    sets, _ = read_sets(str(tmp_path), lmdb=True)
    with pytest.raises(ValueError, match=r"^'a' in .*gt\.lmdb is not a readable image"):
        score_candidates(sets, create_scorer(TINY), tmp_path / 'x.jsonl', stored=LmdbImages(tmp_path))


@pytest.mark.slow
def test_two_processes_share_the_work_and_write_the_same_file(root, tmp_path):
    out = tmp_path / 'scores.jsonl'
    launch = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', '29617']
    command = [*launch, '-m', 'nriqa_plugin', 'score-gts', str(root), '-m', TINY, '--patch', '16', '-o', str(out)]
    result = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    assert sorted(re.findall(r'process (\d): .*?: (\d+) candidates scored', result.stdout.replace('\n', ' '))) == [
        ('0', '4'),
        ('1', '4'),
    ]
    score_candidates(read_sets(str(root))[0], create_scorer(TINY), tmp_path / 'one.jsonl', patch=16, stride=8)
    assert out.read_bytes() == (tmp_path / 'one.jsonl').read_bytes()
    assert not list(tmp_path.glob('*.part*'))


def test_the_command_and_the_sampler_agree_with_scoring_online(root, tmp_path):
    """AMO from the file chooses what AMO with the judge at hand chooses."""
    from nriqa_plugin.multigt import AMOSampler

    out = tmp_path / 'scores.jsonl'
    arguments = ['score-gts', str(root), '-m', TINY, '-o', str(out), '--patch', '16', '--stride', '12']
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert '8 candidates scored' in ' '.join(result.output.split())
    sets = read_sets(str(root))[0]
    crops = torch.tensor([[12, 24], [0, 36], [24, 0]])
    images = torch.stack([
        torch.stack([read_image(path or one.paths[0])[:, t : t + 16, x : x + 16] for path in one.paths])
        for one, (t, x) in zip(sets, crops.tolist(), strict=True)
    ])  # fmt: skip
    valid = torch.tensor([one.valid for one in sets])
    positive = torch.tensor([one.positive for one in sets])
    names = [one.name for one in sets]
    hashes = [[path and file_hash(path) for path in one.paths] for one in sets]
    online = AMOSampler(method='amo', metric=TINY)(images, valid, positive, names, crops, hashes)
    cached = AMOSampler(method='amo', metric=TINY, scores=str(out))(images, valid, positive, names, crops, hashes)
    assert torch.equal(online.index, cached.index)
    assert torch.allclose(online.scores[valid], cached.scores[valid], rtol=1e-4)
    result = CliRunner().invoke(app, [*arguments[:-2][:-2], '--stride', '12'])
    assert result.exit_code == 2
    assert '--stride needs --patch' in result.output
