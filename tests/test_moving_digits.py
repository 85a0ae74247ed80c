"""Moving digits: paths, clips, the two halves of the data, windows of a file, and both makers' refusals."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from nriqa_plugin.clips.bicubic import bicubic_down
from nriqa_plugin.clips.digit_windows import DigitWindows
from nriqa_plugin.clips.moving_digits import bouncing, moving_digits, split_original
from tests.conftest import ROOT


@pytest.fixture(scope='module')
def tool():
    """``tools/moving_mnist.py`` as a module."""
    spec = importlib.util.spec_from_file_location('moving_mnist', ROOT / 'tools' / 'moving_mnist.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def file(tmp_path):
    """Three clips of random numbers, and their array."""
    clips = np.random.default_rng(0).integers(0, 256, (3, 9, 64, 64), dtype=np.uint8)
    np.save(tmp_path / 'test.npy', clips)
    return tmp_path / 'test.npy', clips


def test_paths_stay_inside_move_straight_on_and_are_reflected():
    room, speed = (36, 20), 0.1
    paths = bouncing(400, room, 50, speed, np.random.default_rng(0))
    assert (paths >= 0).all()
    assert (paths <= room).all()
    assert (paths.min((0, 1)) == 0).all()
    assert (paths.max((0, 1)) == room).all(), 'no side was ever reached'
    steps = np.diff(paths / room, axis=1)
    rounding = 1 / np.array(room)  # two corners rounded to px
    assert (np.hypot(*np.moveaxis(np.maximum(np.abs(steps) - rounding, 0), -1, 0)) <= speed + 1e-9).all()
    # Between two reflections a direction is kept: an axis turns no more often than its way is long.
    moves = np.sign(np.where(np.abs(steps) > rounding, steps, 0))
    turns = (moves[:, 1:] * moves[:, :-1] < 0).sum(1)
    assert turns.max() <= 400 * speed
    assert turns.max() > 0


def test_a_clip_shows_its_digits_whole_and_the_brighter_one_on_top():
    digits = np.full((2, 10, 10), (7,), np.uint8)
    digits[1] = 200
    clips = moving_digits(digits, 30, frames=6, side=24, together=2, seed=3)
    assert clips.shape == (30, 6, 24, 24)
    assert set(np.unique(clips)) == {0, 7, 200}
    bright = (clips == 200).sum((2, 3))
    both = (bright > 0).all(1) & (clips == 7).any((1, 2, 3))
    assert both.any()
    one_of_each = bright[both]
    assert (one_of_each == 100).all(), 'the bright digit is never covered and never cut off'


def test_clips_depend_on_the_seed_and_their_place_alone():
    digits = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    four = moving_digits(digits, 4, seed=1)
    assert np.array_equal(four, moving_digits(digits, 4, seed=1))
    assert np.array_equal(four[:2], moving_digits(digits, 2, seed=1))
    assert not np.array_equal(four, moving_digits(digits, 4, seed=2))
    assert not np.array_equal(four[0], four[1])


@pytest.mark.parametrize(
    ('digits', 'options', 'error', 'message'),
    [
        (np.zeros((2, 8, 8)), {}, TypeError, 'uint8 array'),
        (np.zeros((0, 8, 8), np.uint8), {}, TypeError, 'uint8 array'),
        ([[1]], {}, TypeError, 'got list'),
        (np.zeros((2, 70, 8), np.uint8), {}, ValueError, r'70 x 8 px do not fit'),
        (np.zeros((2, 8, 8), np.uint8), {'frames': 0}, ValueError, 'frames'),
        (np.zeros((2, 8, 8), np.uint8), {'speed': 1.5}, ValueError, 'speed'),
    ],
)
def test_wrong_digits_and_numbers_are_named(digits, options, error, message):
    with pytest.raises(error, match=message):
        moving_digits(digits, 1, **options)


def test_the_original_file_is_split_without_a_clip_in_both_parts():
    original = np.broadcast_to(np.arange(10_000).astype(np.uint8)[None, :, None, None], (20, 10_000, 64, 64))
    train, test = split_original(original)
    assert (train.shape, test.shape) == ((8000, 20, 64, 64), (2000, 20, 64, 64))
    assert np.array_equal(train[:, 0, 0, 0], original[0, :8000, 0, 0])
    assert np.array_equal(test[:, 5, 0, 0], original[5, 8000:, 0, 0])


@pytest.mark.parametrize('shape', [(10_000, 20, 64, 64), (20, 64, 64), (20, 10_000, 32, 32)])
def test_another_file_than_the_original_is_refused(shape):
    with pytest.raises(ValueError, match=r'Moving MNIST is uint8 \(20, 10000, 64, 64\)'):
        split_original(np.broadcast_to(np.uint8(0), shape))


def test_the_substitute_has_no_digit_in_both_halves(tool):
    pytest.importorskip('sklearn', reason='scikit-learn is not installed')
    train, test = tool.substitute_digits()
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape[1:] == test.shape[1:] == (28, 28)
    assert not {digit.tobytes() for digit in train} & {digit.tobytes() for digit in test}
    assert all(digit.max() > 150 for digit in train), 'an empty box'
    margins = np.ones((28, 28), bool)
    margins[4:24, 4:24] = False
    assert not train[:, margins].any(), "MNIST's margin of 4 px"


def test_the_tool_writes_labelled_clips(tool, tmp_path, capsys):
    pytest.importorskip('sklearn', reason='scikit-learn is not installed')
    tool.main(['--out', str(tmp_path), '--train', '3', '--test', '2'])
    assert np.load(tmp_path / 'train.npy').shape == (3, 20, 64, 64)
    assert np.load(tmp_path / 'test.npy').shape == (2, 20, 64, 64)
    source = json.loads((tmp_path / 'source.json').read_text())
    assert source['clips'] == {'train': 3, 'test': 2}
    assert 'substitute' in source['source']
    assert 'substitute' in capsys.readouterr().out


def test_without_scikit_learn_the_tool_says_what_to_install(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(SystemExit):
        tool.main(['--out', str(tmp_path)])
    assert 'pip install scikit-learn' in capsys.readouterr().err


def test_a_window_is_the_clips_frames_halved_and_blurred(file):
    path, clips = file
    lq, gt = DigitWindows(path, blur_sigma=0).window(1, 3)
    frames = torch.from_numpy(clips[1, 3:8]).float()[:, None] / 255
    assert torch.equal(gt, frames[2])
    torch.testing.assert_close(lq, (bicubic_down(frames, 2).clamp(0, 1) * 255).round() / 255)
    blurred, _ = DigitWindows(path, blur_sigma=1.0).window(1, 3)
    assert blurred.shape == (5, 1, 32, 32)
    # 0.159 and 0.242 are the centre taps of a Gaussian of sigma 1 in two and one dimensions
    reach = torch.arange(-4, 5)
    taps = torch.exp(-(reach**2) / 2)
    taps = taps / taps.sum()
    centre = (lq[:, 0, 12:21, 12:21] * taps[:, None] * taps).sum((1, 2))
    torch.testing.assert_close(blurred[:, 0, 16, 16], (centre * 255).round() / 255, rtol=0, atol=1.01 / 255)


def test_whole_clips_hold_every_window(file):
    windows = DigitWindows(file[0])
    lq, gt = windows.whole(2)
    small, target = windows.window(2, 4)
    assert lq.shape == (9, 1, 32, 32)
    torch.testing.assert_close(lq[4:9], small)
    assert torch.equal(gt[6], target)


def test_windows_neither_draw_from_nor_move_the_global_generator(file):
    windows, before = DigitWindows(file[0]), torch.get_rng_state()
    windows.window(0, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_fixed_starts_stay_and_random_ones_reach_every_frame(file):
    windows = DigitWindows(file[0], seed=1)
    assert [windows.fixed_start(i) for i in range(3)] == [
        DigitWindows(file[0], seed=1).fixed_start(i) for i in range(3)
    ]
    assert {windows.fixed_start(i) for i in range(100)} == set(range(5))
    assert {windows.random_start() for _ in range(100)} == set(range(5))


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'frames': 4}, ValueError, 'frames must be odd'),
        ({'frames': 11}, ValueError, 'have 9 frames, a window has 11'),
        ({'clips': 4}, ValueError, r'clips: 4 are asked for, .* has 3'),
        ({'blur_sigma': -1}, ValueError, 'blur_sigma'),
        ({'seed': '1'}, TypeError, 'seed'),
    ],
)
def test_wrong_options_of_the_windows_are_named(file, options, error, message):
    with pytest.raises(error, match=message):
        DigitWindows(file[0], **options)


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.npy'):
        DigitWindows(tmp_path / 'none.npy')
    (tmp_path / 'text.npy').write_text('no array')
    with pytest.raises(ValueError, match='text.npy is not a .npy file'):
        DigitWindows(tmp_path / 'text.npy')
    np.save(tmp_path / 'float.npy', np.zeros((2, 9, 64, 64)))
    with pytest.raises(ValueError, match=r'of uint8 with even sides, got float64'):
        DigitWindows(tmp_path / 'float.npy')
    np.save(tmp_path / 'pickled.npy', np.array([{}], dtype=object))
    with pytest.raises(ValueError, match='pickled.npy is not a .npy file of plain numbers'):
        DigitWindows(tmp_path / 'pickled.npy')
