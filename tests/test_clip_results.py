"""Test results of video networks, made flat for judges, matrix and report."""

import shutil

import numpy as np
import pytest
from PIL import Image

from nriqa_plugin.clips.folders import Clip
from nriqa_plugin.clips.windows import split_windows
from nriqa_plugin.compare.clip_results import flat_clips, is_folder_of_clips


def write(folder, names, value=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((8, 8, 3), value + number, dtype=np.uint8)).save(folder / f'{name}.png')


def pixels(folder):
    return {path.name: int(np.asarray(Image.open(path))[0, 0, 0]) for path in sorted(folder.iterdir())}


def test_frames_are_paired_in_order_and_named_after_clip_and_ground_truth(tmp_path):
    write(tmp_path / 'out' / 'a', ['00000000_run', '00000001_run'], 10)
    write(tmp_path / 'out' / 'b', ['00000000_run', '00000001_run'], 20)
    write(tmp_path / 'gt' / 'a', ['im1', 'im2'], 30)
    write(tmp_path / 'gt' / 'b', ['im1', 'im2'], 40)
    write(tmp_path / 'gt' / 'not_tested', ['im1'])
    for _ in range(2):  # the second time over the first
        results, references = flat_clips(tmp_path / 'out', tmp_path / 'gt', '_run', tmp_path / 'flat')
    assert pixels(results) == {'a_im1_run.png': 10, 'a_im2_run.png': 11, 'b_im1_run.png': 20, 'b_im2_run.png': 21}
    assert pixels(references) == {'a_im1.png': 30, 'a_im2.png': 31, 'b_im1.png': 40, 'b_im2.png': 41}


def test_a_single_frame_belongs_to_the_middle(tmp_path):
    write(tmp_path / 'out' / 'a', ['a_run'], 10)
    write(tmp_path / 'gt' / 'a', ['im1', 'im2', 'im3'], 30)
    results, references = flat_clips(tmp_path / 'out', tmp_path / 'gt', '_run', tmp_path / 'flat')
    assert pixels(results) == {'a_im2_run.png': 10}
    assert pixels(references) == {'a_im2.png': 31}


def test_clips_lie_at_any_depth_and_numbers_in_names_count_as_such(tmp_path):
    write(tmp_path / 'out' / '00001' / '0002', [f'{i:08d}_run' for i in range(11)], 10)
    write(tmp_path / 'gt' / '00001' / '0002', [f'im{i}' for i in range(1, 12)], 10)
    results, references = flat_clips(tmp_path / 'out', tmp_path / 'gt', '_run', tmp_path / 'flat')
    assert pixels(results) == {f'00001_0002_im{i}_run.png': 9 + i for i in range(1, 12)}
    assert pixels(references) == {f'00001_0002_im{i}.png': 9 + i for i in range(1, 12)}


def test_windows_are_paired_with_their_part_of_the_clip(tmp_path):
    clips = [Clip('a', ('f',) * 8)]
    windows, _ = split_windows(clips, 3)
    for window in windows:
        write(tmp_path / 'out' / window.name, [f'{i:08d}_run' for i in range(3)], 10 + window.start)
    write(tmp_path / 'gt' / 'a', [f'{i}' for i in range(8)], 10)
    results, references = flat_clips(tmp_path / 'out', tmp_path / 'gt', '_run', tmp_path / 'flat')
    assert pixels(results) == {f'a_{i}_run.png': 10 + i for i in range(6)}
    assert pixels(references) == {f'a_{i}.png': 10 + i for i in range(6)}
    write(tmp_path / 'out' / 'a@00000006', ['0_run', '1_run', '2_run'])
    with pytest.raises(ValueError, match='a@00000006 has 3 frames, but its ground truth .* has 2'):
        flat_clips(tmp_path / 'out', tmp_path / 'gt', '_run', tmp_path / 'flat')
    shutil.rmtree(tmp_path / 'out')
    write(tmp_path / 'out' / 'a@00000003', ['a_run'])
    with pytest.raises(ValueError, match='a@00000003 has one frame: which one of its window'):
        flat_clips(tmp_path / 'out', tmp_path / 'gt', '_run', tmp_path / 'flat')


def test_clips_that_do_not_match_their_ground_truth_are_refused(tmp_path):
    write(tmp_path / 'out' / 'a', ['0', '1', '2'])
    with pytest.raises(ValueError, match='the clip a in .*out has no ground truth in .*gt'):
        flat_clips(tmp_path / 'out', tmp_path / 'gt', '', tmp_path / 'flat')
    write(tmp_path / 'gt' / 'a', ['0', '1'])
    with pytest.raises(ValueError, match='a has 3 frames, but its ground truth .* has 2'):
        flat_clips(tmp_path / 'out', tmp_path / 'gt', '', tmp_path / 'flat')


def test_a_folder_of_images_is_no_folder_of_clips(tmp_path):
    write(tmp_path / 'flat', ['a'])
    write(tmp_path / 'clips' / 'a', ['0'])
    assert is_folder_of_clips(tmp_path / 'clips')
    assert not is_folder_of_clips(tmp_path / 'flat')
    assert not is_folder_of_clips(tmp_path / 'missing')
