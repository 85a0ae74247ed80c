"""tools/make_clips.py: what it writes, that both hosts' lists fit, resuming, and what it refuses."""

import csv
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nriqa_plugin.clips import making
from nriqa_plugin.clips.bicubic import bicubic_down, to_8_bits
from nriqa_plugin.clips.folders import check_first_frames, find_clips, listed_clips, pair_clips
from nriqa_plugin.clips.picking import pick
from tests.clip_files import read_frames, write_clip

TOOL = Path(__file__).resolve().parent.parent / 'tools' / 'make_clips.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('make_clips', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tool, tmp_path):
    """Run ``cut`` into ``tmp_path/out`` and return that folder."""

    def call(*arguments, out=tmp_path / 'out'):
        tool.main(['cut', *map(str, arguments), '--out', str(out)])
        return out

    return call


@pytest.fixture
def refused(run, capsys):
    """Run ``cut`` and return the error that it ends with."""

    def call(*arguments, **more):
        with pytest.raises(SystemExit) as ended:
            run(*arguments, **more)
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith('error: ')
        return message

    return call


def snapshot(folder):
    """Every file below a folder with its time and bytes."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob('*') if path.is_file()}


def rows_of(file):
    with open(file, newline='') as opened:
        return list(csv.DictReader(opened))


def lq_of(frames):
    """What MATLAB's bicubic makes of frames ``(T, H, W, 3)`` uint8."""
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2).double() / 255
    return (to_8_bits(bicubic_down(clip, 4)) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def write_video(path, frames=9, size=(32, 48), seed=0):
    """A lossless video of smooth random frames; returns nothing."""
    av = pytest.importorskip('av', reason='the extra video is not installed')
    rng = np.random.default_rng(seed)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10, options={'crf': '10', 'g': '1'})
        stream.height, stream.width, stream.pix_fmt = *size, 'yuv420p'
        for _ in range(frames):
            coarse = Image.fromarray(rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8))
            image = np.array(coarse.resize(size[::-1], Image.BICUBIC))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        container.mux(stream.encode())


# ---------------------------------------------------------------------------------------------- what is written


def test_frames_become_clips_of_seven_with_bicubic_lq(run, tmp_path, caplog):
    frames = write_clip(tmp_path / 'walk', 16, (32, 40), names='{}.png', first=1)  # 2.png comes before 10.png
    with caplog.at_level('INFO'):
        out = run(tmp_path / 'walk')
    assert 'the last 2 of 16 frames make no whole clip' in caplog.text
    for number, start in enumerate((0, 7)):
        clip = frames[start : start + 7]
        assert np.array_equal(read_frames(out / 'GT' / f'walk_{number:04d}'), clip)
        assert np.array_equal(read_frames(out / 'BIx4' / f'walk_{number:04d}'), lq_of(clip))
    assert sorted(path.name for path in (out / 'GT').iterdir()) == ['walk_0000', 'walk_0001']
    assert (out / 'meta_info.txt').read_text() == 'walk_0000 7 (32,40,3)\nwalk_0001 7 (32,40,3)\n'
    assert [row['first_frame'] for row in rows_of(out / 'clips.csv')] == ['0', '7']


def test_the_clips_and_the_list_are_what_the_data_sets_want(run, tmp_path):
    write_clip(tmp_path / 'walk', 14)
    out = run(tmp_path / 'walk')
    found = [find_clips(kind, out / kind, out / 'meta_info.txt') for kind in ('GT', 'BIx4')]
    clips = pair_clips(*found)
    check_first_frames(clips, 4, 32)
    assert [clip.name for clip in clips] == ['walk_0000', 'walk_0001']


def test_clips_overlap_where_the_step_is_smaller(run, tmp_path):
    frames = write_clip(tmp_path / 'walk', 10)
    out = run(tmp_path / 'walk', '--frames', 5, '--step', 2)
    assert len(listed_clips(out / 'meta_info.txt')) == 3
    for number, start in enumerate((0, 2, 4)):
        assert np.array_equal(read_frames(out / 'GT' / f'walk_{number:04d}'), frames[start : start + 5])


def test_vimeos_names(run, tmp_path):
    frames = write_clip(tmp_path / 'walk', 7)
    out = run(tmp_path / 'walk', '--names', 'vimeo')
    assert (out / 'meta_info.txt').read_text() == 'walk/0000 7 (32,40,3)\n'
    assert np.array_equal(np.array(Image.open(out / 'GT' / 'walk' / '0000' / 'im7.png')), frames[6])


def test_several_folders_below_one_are_several_sources(run, tmp_path):
    write_clip(tmp_path / 'in' / 'a', 7)
    write_clip(tmp_path / 'in' / 'b' / 'c', 7)
    assert list(listed_clips(run(tmp_path / 'in') / 'meta_info.txt')) == ['a_0000', 'b_c_0000']


def test_frames_are_cut_to_whole_lq_pixels(run, tmp_path):
    frames = write_clip(tmp_path / 'walk', 7, (34, 43))
    out = run(tmp_path / 'walk')
    height, width = frames.shape[1:3]
    cut = frames[:, : height // 4 * 4, : width // 4 * 4]
    assert np.array_equal(read_frames(out / 'GT' / 'walk_0000'), cut)
    assert np.array_equal(read_frames(out / 'BIx4' / 'walk_0000'), lq_of(cut))


def test_a_video_gives_its_decoded_frames(run, tmp_path):
    write_video(tmp_path / 'film.mp4', 9)
    av = pytest.importorskip('av')
    with av.open(str(tmp_path / 'film.mp4')) as container:
        decoded = np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])
    out = run(tmp_path / 'film.mp4', '--frames', 4)
    assert np.array_equal(read_frames(out / 'GT' / 'film_0001'), decoded[4:8])
    assert {row['kind'] for row in rows_of(out / 'clips.csv')} == {'video'}


def test_regions_split_the_same_frames(run, tmp_path):
    frames = write_clip(tmp_path / 'walk', 7, (32, 160))
    regions = ('--train-region', '0,0,40,32', '--test-region', '104,4,48,24')
    out = run(tmp_path / 'walk', *regions)
    assert np.array_equal(read_frames(out / 'train' / 'GT' / 'walk_0000'), frames[:, :, :40])
    test = frames[:, 4:28, 104:152]
    assert np.array_equal(read_frames(out / 'test' / 'GT' / 'walk_0000'), test)
    assert np.array_equal(read_frames(out / 'test' / 'BIx4' / 'walk_0000'), lq_of(test))  # nothing from beyond it
    assert (out / 'test' / 'meta_info.txt').read_text() == 'walk_0000 7 (24,48,3)\n'
    assert rows_of(out / 'test' / 'clips.csv')[0]['region'] == '104,4,48,24'


def test_windows_over_stills_are_labelled_synthetic(run, tmp_path):
    image = write_clip(tmp_path / 'photos', 1, (64, 80))[0]
    out = run(tmp_path / 'photos', '--moving-window', '40x32', '--windows', 2, '--speed', 2)
    assert list(listed_clips(out / 'meta_info.txt')) == ['synthetic_00000000_0000', 'synthetic_00000000_0001']
    for row in rows_of(out / 'clips.csv'):
        assert row['kind'] == 'synthetic'
        clip = read_frames(out / 'GT' / row['clip'])
        for frame, corner in ((clip[0], row['first_corner']), (clip[-1], row['last_corner'])):
            x, y = map(int, corner.split(','))
            assert np.array_equal(frame, image[y : y + 32, x : x + 40])
        assert not np.array_equal(clip[0], clip[-1])


def test_windows_stay_in_their_region(run, tmp_path):
    write_clip(tmp_path / 'photos', 3, (64, 208))
    regions = ('--train-region', '0,0,72,64', '--test-region', '136,0,72,64')
    out = run(tmp_path / 'photos', '--moving-window', '32x32', '--windows', 3, '--subpixel', *regions)
    for split, low, high in (('train', 0, 72 - 32), ('test', 136, 208 - 32)):
        rows = rows_of(out / split / 'clips.csv')
        corners = [float(row[key].split(',')[0]) for row in rows for key in ('first_corner', 'last_corner')]
        assert len(corners) == 18
        assert low <= min(corners) <= max(corners) <= high


def test_the_same_seed_gives_the_same_windows_whatever_else_is_there(run, tmp_path):
    write_clip(tmp_path / 'photos', 2, (64, 80))
    options = ('--moving-window', '40x32', '--subpixel')
    both = run(tmp_path / 'photos', *options)
    one = run(tmp_path / 'photos' / '00000001.png', *options, out=tmp_path / 'one')
    other = run(tmp_path / 'photos' / '00000001.png', *options, '--seed', 1, out=tmp_path / 'other')
    name = 'synthetic_00000001_0000'
    assert np.array_equal(read_frames(both / 'GT' / name), read_frames(one / 'GT' / name))
    assert not np.array_equal(read_frames(both / 'GT' / name), read_frames(other / 'GT' / name))


# ---------------------------------------------------------------------------------------------- again and later


def test_a_second_run_makes_nothing_again(run, tmp_path):
    write_clip(tmp_path / 'walk', 14)
    out = run(tmp_path / 'walk')
    before = {path: stamp for path, stamp in snapshot(out).items() if path.suffix == '.png'}
    run(tmp_path / 'walk')
    assert {path: stamp for path, stamp in snapshot(out).items() if path.suffix == '.png'} == before
    assert len(before) == 28


@pytest.mark.parametrize('writes', range(0, 28, 5))
def test_a_run_that_was_stopped_anywhere_is_taken_up(run, tmp_path, monkeypatch, writes):
    """After every stop what is there is whole, and the next run ends in what an undisturbed one writes."""
    write_clip(tmp_path / 'walk', 14)
    whole = {path.relative_to(tmp_path / 'undisturbed'): stamp[1]
             for path, stamp in snapshot(run(tmp_path / 'walk', out=tmp_path / 'undisturbed')).items()}  # fmt: skip
    real, done = making.write_image, []

    def stopped(path, image):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        real(path, image)

    monkeypatch.setattr(making, 'write_image', stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / 'walk')
    out = tmp_path / 'out'
    assert all(len(list(clip.iterdir())) == 7 for kind in ('GT', 'BIx4') for clip in (out / kind).glob('*'))
    assert all((out / 'BIx4' / clip.name).is_dir() for clip in (out / 'GT').glob('*'))
    monkeypatch.setattr(making, 'write_image', real)
    run(tmp_path / 'walk')
    assert {path.relative_to(out): stamp[1] for path, stamp in snapshot(out).items()} == whole


def test_what_a_kill_left_is_removed(run, tmp_path):
    write_clip(tmp_path / 'walk', 7)
    left = tmp_path / 'out' / 'GT' / '.unfinished-abc'
    write_clip(left, 3)
    out = run(tmp_path / 'walk')
    assert not left.exists()
    assert len(list((out / 'GT').iterdir())) == 1


def test_a_clip_that_was_deleted_is_made_again(run, tmp_path):
    frames = write_clip(tmp_path / 'walk', 14)
    out = run(tmp_path / 'walk')
    shutil.rmtree(out / 'GT' / 'walk_0001')
    run(tmp_path / 'walk')
    assert np.array_equal(read_frames(out / 'GT' / 'walk_0001'), frames[7:])


def test_more_sources_come_into_the_same_folder_and_list(run, tmp_path):
    write_clip(tmp_path / 'walk', 7)
    write_clip(tmp_path / 'photos', 1, (64, 80))
    run(tmp_path / 'walk')
    out = run(tmp_path / 'photos', '--moving-window', '40x32')
    assert list(listed_clips(out / 'meta_info.txt')) == ['synthetic_00000000_0000', 'walk_0000']


# ---------------------------------------------------------------------------------------------- what is refused


def test_other_settings_or_another_source_do_not_mix(run, refused, tmp_path):
    write_clip(tmp_path / 'walk', 14)
    run(tmp_path / 'walk')
    assert 'holds clips (walk) made with frames: 7, not 5' in refused(tmp_path / 'walk', '--frames', 5)
    assert "holds clips of 'walk' made from other settings" in refused(tmp_path / 'walk', '--step', 3)
    shutil.copy(tmp_path / 'walk' / '00000000.png', tmp_path / 'walk' / '00000001.png')
    assert "holds clips of 'walk' made from another file" in refused(tmp_path / 'walk')


def test_frames_of_unequal_size_are_refused_and_nothing_is_listed(refused, tmp_path):
    write_clip(tmp_path / 'walk', 9)
    Image.new('RGB', (40, 36)).save(tmp_path / 'walk' / '00000008.png')
    message = refused(tmp_path / 'walk')
    assert (
        f'{tmp_path / "walk"} has frames of unequal size: 00000008.png is 40 x 36 px, the first 40 x 32 px' in message
    )
    assert not (tmp_path / 'out' / 'meta_info.txt').exists()


def test_too_few_frames_are_refused(refused, tmp_path):
    write_clip(tmp_path / 'walk', 6)
    assert f'{tmp_path / "walk"} has 6 frames, too few for a clip of 7' in refused(tmp_path / 'walk')


@pytest.mark.parametrize('names', ['plain', 'vimeo'])
@pytest.mark.parametrize('regions', [(), ('--train-region', '0,0,16,16', '--test-region', '80,0,16,16')])
def test_a_refused_source_leaves_nothing_behind(run, refused, tmp_path, names, regions):
    """Not even where its first clips were made: another command may use the folder then."""
    write_clip(tmp_path / 'walk', 9, (32, 160))
    Image.new('RGB', (40, 36)).save(tmp_path / 'walk' / '00000008.png')
    settings = ('--names', names, *regions)
    for frames in (25, 7):  # refused before the first clip, and after it
        refused(tmp_path / 'walk', *settings, '--frames', frames)
        assert not (tmp_path / 'out').exists()
    (tmp_path / 'walk' / '00000008.png').unlink()
    assert len(listed_clips(next(run(tmp_path / 'walk', *settings, '--frames', 4).rglob('meta_info.txt')))) == 2


def test_a_refused_source_leaves_what_earlier_runs_made(run, refused, tmp_path):
    write_clip(tmp_path / 'walk', 7)
    write_clip(tmp_path / 'broken', 14)
    file = tmp_path / 'broken' / '00000010.png'
    file.write_bytes(file.read_bytes()[:200])
    before = snapshot(run(tmp_path / 'walk'))
    refused(tmp_path / 'broken')
    after = snapshot(tmp_path / 'out')
    assert {path: data for path, (_, data) in after.items()} == {path: data for path, (_, data) in before.items()}
    assert [clip.name for clip in (tmp_path / 'out' / 'GT').iterdir()] == ['walk_0000']


def test_no_list_when_one_of_several_sources_is_refused_and_no_good_clip_is_lost(run, refused, tmp_path):
    for name in ('a', 'b', 'c'):
        write_clip(tmp_path / 'in' / name, 7 if name != 'b' else 3)
    refused(tmp_path / 'in')
    assert not (tmp_path / 'out').exists()  # too few frames: known before the first clip
    write_clip(tmp_path / 'in' / 'bb', 7)
    shutil.rmtree(tmp_path / 'in' / 'b')
    file = tmp_path / 'in' / 'bb' / '00000004.png'
    good = file.read_bytes()
    file.write_bytes(good[:200])
    refused(tmp_path / 'in')
    out = tmp_path / 'out'
    assert not (out / 'meta_info.txt').exists()
    assert not (out / 'clips.csv').exists()
    made = snapshot(out / 'GT')
    assert len(made) == 7
    file.write_bytes(good)
    assert list(listed_clips(run(tmp_path / 'in') / 'meta_info.txt')) == ['a_0000', 'bb_0000', 'c_0000']
    assert made.items() <= snapshot(out / 'GT').items()


def test_a_record_without_clips_is_no_hindrance(run, refused, tmp_path):
    """A folder from which all clips were deleted, and one that a kill left before the first clip was made."""
    write_clip(tmp_path / 'walk', 7)
    out = run(tmp_path / 'walk')
    for kind in ('GT', 'BIx4'):
        shutil.rmtree(out / kind)
    assert list(listed_clips(run(tmp_path / 'walk', '--frames', 3) / 'meta_info.txt')) == ['walk_0000', 'walk_0001']
    shutil.rmtree(out / 'GT')  # the LQ clips are there: still the same settings are wanted
    assert 'made with frames: 3, not 5' in refused(tmp_path / 'walk', '--frames', 5)


@pytest.mark.parametrize('keep', [0.5, 0.9])
def test_a_video_that_is_cut_off_is_refused(refused, tmp_path, keep):
    write_video(tmp_path / 'film.mkv', 30)
    data = (tmp_path / 'film.mkv').read_bytes()
    (tmp_path / 'film.mkv').write_bytes(data[: int(len(data) * keep)])
    assert 'film.mkv is damaged or cut off after' in refused(tmp_path / 'film.mkv')
    assert not (tmp_path / 'out' / 'meta_info.txt').exists()


def test_a_file_that_is_no_video_is_refused(refused, tmp_path):
    pytest.importorskip('av', reason='the extra video is not installed')
    (tmp_path / 'film.mp4').write_bytes(b'no video at all' * 100)
    assert 'film.mp4 is no readable video' in refused(tmp_path / 'film.mp4')


def test_a_broken_frame_is_refused(refused, tmp_path):
    write_clip(tmp_path / 'walk', 7)
    file = tmp_path / 'walk' / '00000004.png'
    file.write_bytes(file.read_bytes()[:200])
    assert f'{file} is not a readable image' in refused(tmp_path / 'walk')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--train-region', '0,0,16,16'), 'belong together'),
        (('--train-region', '0,0,16,16', '--test-region', '72,0,16,16'), 'lie 56 px apart; at least 64 px are wanted'),
        (
            ('--train-region', '0,0,16,16', '--test-region', '160,0,16,16'),
            'the test region 160,0,16,16 reaches beyond it',
        ),
        (('--train-region', '0,0,18,16', '--test-region', '160,0,16,16'), 'whole multiples of scale: 4'),
        (('--moving-window', '40'), '--moving-window must be WIDTHxHEIGHT'),
        (('--moving-window', '42x32'), 'the window must be whole multiples of scale: 4'),
        (('--moving-window', '400x320'), 'have no room for a window of 400 x 320 px'),
        (('--speed', '2'), '--speed is of --moving-window'),
        (('--subpixel',), '--subpixel is of --moving-window'),
        (('--windows', '2'), '--windows is of --moving-window'),
        (('--seed', '1'), '--seed is of --moving-window'),
        (('--moving-window', '40x32', '--step', '2'), '--step is of videos and frames'),
        (('--gap', '16'), '--gap is of --train-region and --test-region'),
        (('--frames', '0'), 'frames must be'),
        (('--step', '0'), 'step must be'),
    ],
)
def test_wrong_options_are_refused(refused, tmp_path, options, message):
    write_clip(tmp_path / 'walk', 7, (32, 160))
    assert message in refused(tmp_path / 'walk', *options)
    assert not list((tmp_path / 'out').rglob('*.png'))


@pytest.mark.parametrize('kind', ['nothing', 'empty', 'text', 'twice'])
def test_sources_that_are_none_are_refused(refused, tmp_path, kind):
    source, message = tmp_path / 'in', {'nothing': 'no such file or folder', 'empty': 'no image in',
                                        'text': 'is no video', 'twice': 'would both give clips named'}[kind]  # fmt: skip
    sources = [source]
    if kind == 'empty':
        source.mkdir()
    elif kind == 'text':
        source.write_text('x')
    elif kind == 'twice':
        sources = [tmp_path / 'a' / 'in', tmp_path / 'b' / 'in']
        for one in sources:
            write_clip(one)
    assert message in refused(*sources)


def test_a_broken_record_is_named(run, refused, tmp_path):
    write_clip(tmp_path / 'walk')
    out = run(tmp_path / 'walk')
    (out / 'making.json').write_text('{')
    assert 'making.json is damaged' in refused(tmp_path / 'walk')


# ---------------------------------------------------------------------------------------------- test lists


def test_a_list_is_split_into_picked_lines_and_the_rest(tool, tmp_path, capsys):
    lines = [f'{i:05d}/{j:04d} 7 (256,448,3)' for i in range(10) for j in range(9)]
    (tmp_path / 'all.txt').write_text('\n'.join(lines) + '\n')
    tool.main(['pick', str(tmp_path / 'all.txt'), '--count', '20', '--out', str(tmp_path / 'test.txt'),
               '--rest', str(tmp_path / 'train.txt')])  # fmt: skip
    test, train = ((tmp_path / f'{name}.txt').read_text().splitlines() for name in ('test', 'train'))
    assert [line.split()[0] for line in test] == pick([line.split()[0] for line in lines], 20)
    assert sorted(test + train) == lines
    assert '20 of 90 in' in capsys.readouterr().out


def test_picking_more_than_there_are_is_refused(tool, tmp_path, capsys):
    (tmp_path / 'all.txt').write_text('a\nb\n')
    with pytest.raises(SystemExit):
        tool.main(['pick', str(tmp_path / 'all.txt'), '--count', '3', '--out', str(tmp_path / 'test.txt')])
    assert 'count: 3 clips cannot be picked out of 2' in capsys.readouterr().err
    assert not (tmp_path / 'test.txt').exists()


# ---------------------------------------------------------------------------------------------- real input


def test_real_frames(test_data, run):
    out = run(test_data / 'video' / 'toflow_320x180')
    assert (out / 'meta_info.txt').read_text() == ''.join(f'toflow_320x180_{i:04d} 7 (180,320,3)\n' for i in (0, 1))
    with Image.open(out / 'BIx4' / 'toflow_320x180_0001' / '00000006.png') as image:
        assert image.size == (80, 45)
