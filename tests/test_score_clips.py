"""Scoring clips: folders of frames, videos, their references, video judges, and everything that can be broken."""

import numpy as np
import pytest
import torch
from PIL import Image

from nriqa_plugin.checks import file_hash
from nriqa_plugin.evaluation.relative_gain import gains
from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.evaluation.scoring import score_folder
from nriqa_plugin.evaluation.video import VideoFile, in_order
from nriqa_plugin.iqa import Scorer
from tests.judges import Brightness, Clip, Distance

av = pytest.importorskip('av', reason='the extra video is not installed')

SIZE = (32, 48)


def pictures(count, seed=0):
    """Smooth random 8-bit frames, which survive compression: ``(count, H, W, 3)``."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize(SIZE[::-1], Image.BICUBIC)) for one in coarse])


def write_video(path, frames, codec='ffv1', pixels='bgr0', container=None, **options):
    """A video at 25 frames a second; ffv1 in bgr0 is lossless RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w', options=container or {}) as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = pixels, options
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format='rgb24')):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    return path


def write_h264(path, frames, **container):
    return write_video(path, frames, 'libx264', 'yuv444p', container, qp='0')


def write_frames(folder, frames, name='{:02d}.png'):
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(folder / name.format(i))
    return folder


def tensors(frames):
    return torch.from_numpy(frames.astype(np.float32) / 255).permute(0, 3, 1, 2)


# --- decoding -----------------------------------------------------------------------------------------------------


def test_frames_of_a_lossless_video_are_those_that_were_written(tmp_path):
    frames = pictures(5)
    video = VideoFile(write_video(tmp_path / 'a.mkv', frames))
    assert torch.equal(torch.stack(list(video.frames())), tensors(frames))
    assert [f is None for f in video.frames(lambda i: i == 3)] == [True, True, True, False, True]


def test_more_than_8_bits_are_kept(tmp_path):
    deep = np.random.default_rng(0).integers(0, 1024, (3, *SIZE), dtype=np.uint16)
    with av.open(str(tmp_path / 'a.mkv'), 'w') as file:
        stream = file.add_stream('ffv1', rate=25)
        (stream.height, stream.width), stream.pix_fmt = SIZE, 'gbrp10le'
        frame = av.VideoFrame(SIZE[1], SIZE[0], 'gbrp10le')
        for plane, values in zip(frame.planes, deep[[1, 2, 0]], strict=True):  # green, blue, red
            rows = np.zeros((SIZE[0], plane.line_size // 2), np.uint16)
            rows[:, : SIZE[1]] = values
            plane.update(rows.tobytes())
        for packet in (*stream.encode(frame), *stream.encode()):
            file.mux(packet)
    (image,) = VideoFile(tmp_path / 'a.mkv').frames()
    # ffmpeg widens 10 bits to 16 by shifting
    np.testing.assert_allclose(image.numpy(), deep / 1023, atol=1.1 / 1023)
    assert len(image.unique()) > 256


def test_the_colour_matrix_that_the_file_states_is_used(tmp_path):
    """A patch of known Y, Cb, Cr under BT.601 and BT.709: R = Y' + 1.402 Cr' or 1.5748 Cr' (ITU-R, studio range)."""
    for space, factor in ((5, 1.402), (1, 1.5748)):
        with av.open(str(tmp_path / 'a.mkv'), 'w') as file:
            stream = file.add_stream('ffv1', rate=25)
            (stream.height, stream.width), stream.pix_fmt = SIZE, 'yuv444p'
            stream.codec_context.colorspace = space
            frame = av.VideoFrame.from_ndarray(
                np.stack([np.full(SIZE, v, np.uint8) for v in (100, 128, 150)]), format='yuv444p'
            )
            frame.colorspace = space
            for packet in (*stream.encode(frame), *stream.encode()):
                file.mux(packet)
        (image,) = VideoFile(tmp_path / 'a.mkv').frames()
        red = (100 - 16) / 219 + factor * (150 - 128) / 224
        assert image[0, 5, 5].item() == pytest.approx(red, abs=1.5 / 255)


def test_a_video_filmed_upright_is_turned_as_players_do(tmp_path):
    """The matrix in its track header (ISO 14496-12, 8.3.2) sends x to y and y to -x: a quarter turn clockwise."""
    frame = np.zeros((1, *SIZE, 3), np.uint8)
    frame[:, :16, :24] = 255  # white top left
    path = write_h264(tmp_path / 'a.mp4', frame)
    data = bytearray(path.read_bytes())
    plain, turned = (b''.join(v.to_bytes(4, 'big', signed=True) for v in row) for row in (
        (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30),
    ))  # fmt: skip
    start = data.index(plain, data.index(b'tkhd'))
    data[start : start + 36] = turned
    path.write_bytes(data)
    (image,) = VideoFile(path).frames()
    assert image.shape == (3, SIZE[1], SIZE[0])
    bright = image.mean(0) > 0.5
    assert bright[:24, 16:].all()
    assert bright.sum() == 24 * 16


def test_numbers_in_names_of_frames_are_counted():
    assert in_order(['im10.png', 'im2.png', 'im1.png']) == ['im1.png', 'im2.png', 'im10.png']


@pytest.mark.parametrize('ending', ['mp4', 'mkv', 'avi'])
@pytest.mark.parametrize('kept', [0, 0.02, 0.4, 0.9])
def test_a_truncated_video_is_refused_by_name(tmp_path, ending, kept):
    frames = np.random.default_rng(0).integers(0, 256, (20, *SIZE, 3), dtype=np.uint8)
    if ending == 'mp4':
        path = write_h264(tmp_path / 'half.mp4', frames, movflags='faststart')  # the index comes first
    elif ending == 'avi':
        path = write_video(tmp_path / 'half.avi', frames, 'mjpeg', 'yuvj444p')
    else:
        path = write_video(tmp_path / 'half.mkv', frames)
    assert sum(1 for _ in VideoFile(path).frames(lambda i: False)) == 20
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(
        ValueError, match=rf'half\.{ending} (is no readable video|is damaged or cut off after|holds no)'
    ):
        score_folder(path, Brightness(), tmp_path / 's.csv', device='cpu')


def test_a_video_whose_edit_list_hides_frames_is_whole(tmp_path):
    write_video(tmp_path / 'long.mp4', pictures(30), 'libx264', 'yuv444p', g='30', bf='2')
    with av.open(str(tmp_path / 'long.mp4')) as source, av.open(str(tmp_path / 'cut.mp4'), 'w') as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        start = int(10 / 25 / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
                target.mux(packet)
    video = VideoFile(tmp_path / 'cut.mp4')
    assert sum(1 for _ in video.frames(lambda i: False)) == 20 < video.stated


def test_what_is_no_video_is_refused_by_name(tmp_path):
    (tmp_path / 'text.mp4').write_text('hello')
    with pytest.raises(ValueError, match=r'text\.mp4 is no readable video'):
        VideoFile(tmp_path / 'text.mp4')
    with av.open(str(tmp_path / 'sound.mp4'), 'w') as file:
        stream = file.add_stream('aac', rate=8000, layout='mono')
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format='fltp', layout='mono')
        sound.sample_rate = 8000
        for packet in (*stream.encode(sound), *stream.encode()):
            file.mux(packet)
    with pytest.raises(ValueError, match=r'sound\.mp4 has no video stream, only audio'):
        VideoFile(tmp_path / 'sound.mp4')
    with pytest.raises(FileNotFoundError, match=r'no such video: .*nothing\.mp4'):
        VideoFile(tmp_path / 'nothing.mp4')
    with pytest.raises(FileNotFoundError, match=r'nothing\.mp4'):
        score_folder(tmp_path / 'nothing.mp4', Brightness(), tmp_path / 's.csv')


def test_a_video_without_a_frame_is_refused(tmp_path):
    path = write_h264(tmp_path / 'a.mp4', pictures(3))
    with av.open(str(path)) as source, av.open(str(tmp_path / 'empty.mkv'), 'w') as target:
        target.add_stream_from_template(source.streams.video[0])
        target.start_encoding()
    with pytest.raises(ValueError, match=r'empty\.mkv (holds no frame|is no readable video)'):
        score_folder(tmp_path / 'empty.mkv', Brightness(), tmp_path / 's.csv', device='cpu')


def test_alpha_in_a_video_is_refused(tmp_path):
    with av.open(str(tmp_path / 'a.mkv'), 'w') as file:
        stream = file.add_stream('ffv1', rate=25)
        (stream.height, stream.width), stream.pix_fmt = SIZE, 'yuva444p'
        for packet in (*stream.encode(av.VideoFrame(SIZE[1], SIZE[0], 'yuva444p')), *stream.encode()):
            file.mux(packet)
    with pytest.raises(ValueError, match='has transparency'):
        list(VideoFile(tmp_path / 'a.mkv').frames())


# --- scoring ------------------------------------------------------------------------------------------------------


def test_a_video_scores_as_its_frames_in_a_folder(tmp_path):
    frames, truth = pictures(4), pictures(4, seed=1)
    write_frames(tmp_path / 'frames' / 'clip', frames)
    write_frames(tmp_path / 'truth' / 'clip', truth)
    write_video(tmp_path / 'videos' / 'clip.mkv', frames)
    write_video(tmp_path / 'truth_videos' / 'clip.avi', truth)
    values = []
    for i, (images, references) in enumerate(
        [('frames', 'truth'), ('videos', 'truth_videos'), ('videos', 'truth'), ('frames', 'truth_videos')]
    ):
        out = tmp_path / f'{i}.csv'
        judges = [Brightness(), Distance(), Clip()]
        scores = score_folder(tmp_path / images, judges, out, tmp_path / references, 'cpu')
        assert scores == read_scores(out)
        clip = 'clip' if images == 'frames' else 'clip.mkv'
        names = [clip, *(f'{clip}::{i}' for i in range(1, 4))]
        assert [row.image for row in scores.of('distance')] == names
        assert [row.image for row in scores.of('clip')] == [clip]
        values.append([row.score for metric in scores.metrics for row in scores.of(metric)])
        if images == 'videos':
            digest = file_hash(tmp_path / 'videos' / 'clip.mkv')
            assert {row.image_hash for row in scores.rows} == {digest}
    expected = (tensors(frames) - tensors(truth)).abs().flatten(1).mean(1).tolist()
    assert values[0][-4:] == pytest.approx(expected, abs=1e-6)
    assert values[0][4] == pytest.approx(tensors(frames).mean().item(), abs=1e-6)
    for other in values[1:]:
        assert other == values[0]


def test_the_mean_is_over_clips_first_and_gains_follow(tmp_path):
    for name, count, value in (('a', 1, 40), ('b', 3, 200)):
        write_frames(tmp_path / 'x' / name, np.full((count, 4, 4, 3), value, np.uint8))
        write_frames(tmp_path / 'y' / name, np.full((count, 4, 4, 3), value // 2, np.uint8))
    x = score_folder(tmp_path / 'x', Brightness(), tmp_path / 'x.csv', device='cpu')
    score_folder(tmp_path / 'y', Brightness(), tmp_path / 'y.csv', device='cpu')
    assert x.mean('brightness') == pytest.approx((40 + 200) / 2 / 255, abs=1e-7)
    (gain,) = gains(tmp_path / 'x.csv', tmp_path / 'y.csv')
    assert gain.gain == pytest.approx(-50)


@pytest.mark.parametrize('second', ['video', 'frames'])
def test_clips_of_unequal_length_do_not_pair(tmp_path, second):
    write_video(tmp_path / 'a.mkv', pictures(4))
    if second == 'video':
        other = write_video(tmp_path / 'b.mkv', pictures(6))
    else:
        other = write_frames(tmp_path / 'b', pictures(6))
    with pytest.raises(ValueError, match=r'a\.mkv has 4 frames, its reference .*b.* has 6'):
        score_folder(tmp_path / 'a.mkv', Distance(), tmp_path / 's.csv', other, 'cpu')
    with pytest.raises(ValueError, match=r'b.* has 6 frames, its reference .*a\.mkv has 4'):
        score_folder(other, Distance(), tmp_path / 't.csv', tmp_path / 'a.mkv', 'cpu')


def test_folders_of_frames_of_unequal_length_do_not_pair(tmp_path):
    write_frames(tmp_path / 'a' / 'clip', pictures(2))
    write_frames(tmp_path / 'b' / 'clip', pictures(3))
    with pytest.raises(ValueError, match=r'has 2 frames, its reference .* has 3'):
        score_folder(tmp_path / 'a', Distance(), tmp_path / 's.csv', tmp_path / 'b', 'cpu')
    assert not (tmp_path / 's.csv').exists()


def test_clips_without_a_partner_are_named(tmp_path):
    for name in ('a/one', 'a/two', 'b/one', 'b/three'):
        write_frames(tmp_path / name, pictures(1))
    with pytest.raises(ValueError, match=r'1 \(two\) without a reference, 1 \(three\) without a clip'):
        score_folder(tmp_path / 'a', Distance(), tmp_path / 's.csv', tmp_path / 'b', 'cpu')


def test_the_suffix_is_left_out_of_clips_and_frames(tmp_path):
    write_frames(tmp_path / 'a' / 'one', pictures(2), '{:02d}_run.png')
    write_frames(tmp_path / 'a' / 'two_run', pictures(1), '{:02d}_run.png')
    for name, count in (('one', 2), ('two', 1)):
        write_frames(tmp_path / 'b' / name, pictures(count))
    scores = score_folder(tmp_path / 'a', Distance(), tmp_path / 's.csv', tmp_path / 'b', 'cpu', suffix='_run')
    assert [(row.image, row.score) for row in scores.of('distance')] == [('one', 0), ('one::1', 0), ('two', 0)]


def test_a_subfolder_without_images_is_named(tmp_path):
    write_frames(tmp_path / 'a' / 'one', pictures(1))
    (tmp_path / 'a' / 'empty').mkdir()
    with pytest.raises(ValueError, match=r'no image in .*empty'):
        score_folder(tmp_path / 'a', Brightness(), tmp_path / 's.csv', device='cpu')


def test_videos_beside_images_are_told_of(tmp_path, plugin_log):
    write_frames(tmp_path / 'a', pictures(1))
    write_video(tmp_path / 'a' / 'x.mkv', pictures(1))
    scores = score_folder(tmp_path / 'a', Brightness(), tmp_path / 's.csv', device='cpu')
    assert len(scores.rows) == 1
    assert 'its 1 videos are not scored' in plugin_log.messages[0]


class Counted(Brightness):
    """Counts the images it sees."""

    name = 'counted'

    def __init__(self):
        super().__init__()
        self.seen = []

    def score(self, pred, ref=None):
        self.seen.append(1)
        return super().score(pred)


class FailsAt(Brightness):
    """Fails on the n-th image."""

    def __init__(self, number):
        super().__init__()
        self.left = [number]

    def score(self, pred, ref=None):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise RuntimeError('out of memory')
        return super().score(pred)

    def weights_hash(self):
        return 'same'


def test_an_interrupted_video_goes_on_where_it_stopped(tmp_path):
    video = write_video(tmp_path / 'a.mkv', pictures(6))
    out = tmp_path / 's.csv'
    with pytest.raises(RuntimeError, match=r'brightness failed on .*a\.mkv, frame 4: out of memory'):
        score_folder(video, [FailsAt(4)], out, device='cpu')
    judge = FailsAt(2)  # only two frames are left
    scores = score_folder(video, [judge], out, device='cpu')
    assert judge.left == [0]
    whole = score_folder(video, [FailsAt(6)], tmp_path / 'whole.csv', device='cpu')
    assert scores.rows == whole.rows
    assert out.read_bytes() == (tmp_path / 'whole.csv').read_bytes()


def test_another_video_of_the_same_name_is_refused(tmp_path):
    video = write_video(tmp_path / 'a.mkv', pictures(3))
    score_folder(video, Brightness(), tmp_path / 's.csv', device='cpu')
    write_video(video, pictures(3, seed=5))
    with pytest.raises(ValueError, match='scores of other images under the same names'):
        score_folder(video, Brightness(), tmp_path / 's.csv', device='cpu')


def test_a_second_run_scores_no_clip_again_and_changes_nothing(tmp_path):
    write_frames(tmp_path / 'a' / 'one', pictures(2))
    write_frames(tmp_path / 'a' / 'two', pictures(3))
    judge, out = Counted(), tmp_path / 's.csv'
    score_folder(tmp_path / 'a', [judge, Clip()], out, device='cpu')
    first = out.read_bytes()
    score_folder(tmp_path / 'a', [judge, Clip()], out, device='cpu')
    score_folder(tmp_path / 'a', [judge], out, device='cpu')
    assert len(judge.seen) == 5
    assert out.read_bytes() == first


def test_a_changed_frame_renews_it_and_its_clip(tmp_path, plugin_log):
    write_frames(tmp_path / 'a' / 'one', pictures(3))
    write_frames(tmp_path / 'a' / 'two', pictures(2))
    judge, out = Counted(), tmp_path / 's.csv'
    score_folder(tmp_path / 'a', [judge, Clip()], out, device='cpu')
    Image.new('RGB', SIZE[::-1]).save(tmp_path / 'a' / 'one' / '02.png')
    scores = score_folder(tmp_path / 'a', [judge, Clip()], out, device='cpu')
    assert len(judge.seen) == 6
    fresh = score_folder(tmp_path / 'a', [Counted(), Clip()], tmp_path / 'fresh.csv', device='cpu')
    assert scores.rows == fresh.rows
    assert '2 images had changed' in plugin_log.messages[0]


class ClipDistance(Scorer):
    """Mean absolute difference of two clips."""

    name = 'clip_distance'
    temporal = needs_reference = True
    higher_better = False

    def score(self, pred, ref=None):
        return (pred - ref).abs().flatten(1).mean(1)


def test_a_video_judge_gets_whole_clips_in_order_with_their_reference(tmp_path):
    for name, count in (('a', 3), ('b', 2)):
        write_frames(tmp_path / 'x' / name, pictures(count, 1), 'im{}.png')
        write_frames(tmp_path / 'y' / name, pictures(count, 2), 'im{}.png')
    judge = ClipDistance()
    scores = score_folder(tmp_path / 'x', judge, tmp_path / 's.csv', tmp_path / 'y', 'cpu').of('clip_distance')
    assert [row.image for row in scores] == ['a', 'b']
    for row, count in zip(scores, (3, 2), strict=True):
        expected = judge(tensors(pictures(count, 1))[None], tensors(pictures(count, 2))[None]).item()
        assert row.score == pytest.approx(expected, abs=1e-6)
        assert row.reference_hash


def test_a_clip_beyond_the_limit_is_refused_for_video_judges_only(tmp_path):
    video = write_video(tmp_path / 'a.mkv', pictures(4))
    two_frames = 2.5 * 4 * 3 * SIZE[0] * SIZE[1] / 2**30
    with pytest.raises(
        ValueError, match=r'the video judge clip needs all frames of a\.mkv at once, and 2 .*--clip-mem'
    ):
        score_folder(video, Clip(), tmp_path / 's.csv', device='cpu', clip_memory=two_frames)
    scores = score_folder(video, Brightness(), tmp_path / 't.csv', device='cpu', clip_memory=two_frames)
    assert len(scores.rows) == 4


def test_a_folder_of_images_is_a_clip_only_when_said_so(tmp_path):
    write_frames(tmp_path / 'scene', pictures(2))
    with pytest.raises(ValueError, match='video judge and cannot score single images'):
        score_folder(tmp_path / 'scene', Clip(), tmp_path / 's.csv', device='cpu')
    scores = score_folder(tmp_path / 'scene', Clip(), tmp_path / 's.csv', device='cpu', one_clip=True)
    assert [row.image for row in scores.rows] == ['scene']


def test_frames_of_another_size_have_no_place_in_a_clip(tmp_path):
    write_frames(tmp_path / 'x' / 'a', pictures(2))
    Image.new('RGB', (9, 9)).save(tmp_path / 'x' / 'a' / '03.png')
    with pytest.raises(ValueError, match=r'03\.png is 9 x 9 px, the first frame of its clip 48 x 32 px'):
        score_folder(tmp_path / 'x', Clip(), tmp_path / 's.csv', device='cpu')


def test_clips_that_are_links_are_called_as_the_links(tmp_path):
    for name in ('one', 'two'):
        write_frames(tmp_path / 'store' / name / 'frames', pictures(2))
        (tmp_path / 'clips').mkdir(exist_ok=True)
        (tmp_path / 'clips' / name).symlink_to(tmp_path / 'store' / name / 'frames')
    scores = score_folder(tmp_path / 'clips', Distance(), tmp_path / 's.csv', tmp_path / 'clips', device='cpu')
    assert sorted({row.image for row in scores.rows}) == ['one', 'one::1', 'two', 'two::1']


@pytest.mark.parametrize('kept', [0.3, 0.5, 0.97])
def test_a_torn_last_frame_of_raw_video_is_refused(tmp_path, kept):
    path = write_video(tmp_path / 'raw.y4m', pictures(10), 'wrapped_avframe', 'yuv420p')
    assert sum(1 for _ in VideoFile(path).frames()) == 10
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r'raw\.y4m is damaged or cut off after \d+ frames: its last frame is cut off'):
        list(VideoFile(path).frames())


def test_an_avi_that_lacks_its_last_frames_is_refused(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (20, *SIZE, 3), dtype=np.uint8)
    path = write_video(tmp_path / 'cut.avi', frames, 'mpeg4', 'yuv420p')
    assert sum(1 for _ in VideoFile(path).frames()) == 20
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.pos is not None]
    data = path.read_bytes()
    path.write_bytes(data[:4] + b'\xff' * 4 + data[8:])
    assert sum(1 for _ in VideoFile(path).frames()) == 20, 'written into a pipe'
    path.write_bytes(data[: ends[-3]])
    with pytest.raises(ValueError, match=r'cut\.avi is damaged or cut off after 18 frames: its header promises'):
        list(VideoFile(path).frames())


def test_a_codec_that_nobody_knows_is_named(tmp_path):
    path = write_h264(tmp_path / 'odd.mp4', pictures(3))
    path.write_bytes(path.read_bytes().replace(b'avc1', b'zz0z').replace(b'avcC', b'zz0C'))
    with pytest.raises(ValueError, match=r'odd\.mp4: FFmpeg knows no decoder'):
        VideoFile(path)
