"""Clips without a host: downscaling, degradation, folders and lists, windows, what is refused."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from nriqa_plugin.clips.bicubic import bicubic_down, cubic, to_8_bits
from nriqa_plugin.clips.degradation import ClipDegradation
from nriqa_plugin.clips.folders import (
    Clip,
    check_first_frames,
    check_length,
    check_sizes,
    clips_of,
    find_clips,
    listed_clips,
    pair_clips,
)
from nriqa_plugin.clips.moving_window import MovingWindow, cut_path, draw_path
from nriqa_plugin.clips.picking import pick
from nriqa_plugin.clips.regions import Region, check_apart, gap_between, read_region
from nriqa_plugin.clips.windows import split_windows
from tests.clip_files import write_clip, write_pair


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spoil(images, generator):
    """A stage of one's own: the frames' number is lost."""
    return images.mean(0, keepdim=True).expand_as(images)


# ---------------------------------------------------------------------------------------------- downscaling


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_downscaling_is_matlabs_as_basicsr_has_it(scale):
    imresize = pytest.importorskip(
        'basicsr.utils.matlab_functions', reason='the extra basicsr is not installed'
    ).imresize
    image = torch.rand(3, 24 * scale, 17 * scale, generator=generator())
    torch.testing.assert_close(bicubic_down(image, scale), imresize(image, 1 / scale), rtol=0, atol=1e-6)


def test_downscaling_is_matlabs_as_mmagic_has_it():
    transforms = pytest.importorskip('mmagic.datasets.transforms', reason='the extra mmagic is not installed')
    image = torch.rand(3, 48, 60, generator=generator())
    resize = transforms.MATLABLikeResize(keys=['img'], scale=1 / 4)
    there = resize.transform({'img': image.permute(1, 2, 0).numpy()})['img']
    torch.testing.assert_close(
        bicubic_down(image, 4).permute(1, 2, 0).double(), torch.from_numpy(there), rtol=0, atol=1e-5
    )


def test_downscaling_keeps_a_constant_and_a_slope_away_from_the_sides():
    flat = torch.full((2, 16, 20), 0.3, dtype=torch.float64)
    torch.testing.assert_close(bicubic_down(flat, 4), flat[:, ::4, ::4])
    slope = torch.arange(80, dtype=torch.float64).expand(16, 80)
    torch.testing.assert_close(bicubic_down(slope, 4)[:, 2:-2], slope[:4, 1:-1:4][:, 2:-2] + 0.5)


def test_the_gradient_of_downscaling_is_right():
    image = torch.rand(1, 8, 8, dtype=torch.float64, generator=generator(), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: bicubic_down(x, 4), image)


def test_an_image_smaller_than_the_kernel_is_mirrored_again_and_again():
    small = torch.rand(4, 4, dtype=torch.float64, generator=generator())
    tiled = torch.cat([small, small.flip(0)] * 5, 0)
    tiled = torch.cat([tiled, tiled.flip(1)] * 5, 1)  # what mirroring without end looks like
    torch.testing.assert_close(bicubic_down(small, 4)[0, 0], bicubic_down(tiled, 4)[4, 4])


def test_a_size_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match='30 x 32 px is no multiple of scale: 4'):
        bicubic_down(torch.zeros(3, 32, 30), 4)


# ---------------------------------------------------------------------------------------------- degradation


@pytest.mark.parametrize('option', ['bicubic', [{'type': 'gaussian_blur', 'sigma': 1.6}, 'bicubic']])
@pytest.mark.parametrize('box', [(0, 0, 16, 24), (16, 32, 32, 16), (40, 44, 24, 36), (0, 0, 64, 80)])
def test_a_degraded_crop_is_the_crop_of_the_degraded_clip(option, box):
    clip = torch.rand(3, 3, 64, 80, generator=generator())
    degradation = ClipDegradation(option, 4)
    top, left, height, width = (side // 4 for side in box)
    whole = degradation(clip, generator())[..., top : top + height, left : left + width]
    torch.testing.assert_close(degradation.crop(clip, box, generator()), whole, rtol=0, atol=1e-6)


def test_bicubic_alone_is_what_a_stored_lq_clip_would_be():
    clip = torch.rand(2, 3, 16, 20, generator=generator())
    made = ClipDegradation('bicubic', 4)(clip, generator())
    assert torch.equal(made, to_8_bits(bicubic_down(clip, 4)))
    assert torch.equal((made * 255).round() / 255, made)


def test_blur_is_the_gaussian_of_its_sigma():
    """Against the continuous Gaussian: second moment of what becomes of a point."""
    clip = torch.zeros(2, 3, 61, 61)
    clip[..., 30, 30] = 1
    (blur,) = ClipDegradation([{'type': 'gaussian_blur', 'sigma': 2.0}, 'bicubic'], 1).before
    spread = blur(clip, generator())[1, 2]
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    places = torch.arange(61) - 30.0
    assert (spread.sum(0) * places**2).sum().item() == pytest.approx(4.0, rel=0.01)
    torch.testing.assert_close(spread, spread.T)


def test_a_range_of_blur_is_drawn_once_for_a_clip():
    frame = torch.rand(1, 3, 32, 32, generator=generator())
    degradation = ClipDegradation([{'type': 'gaussian_blur', 'sigma': [0.5, 4]}, 'bicubic'], 4)
    made = [degradation(frame.expand(5, -1, -1, -1), generator(seed)) for seed in (0, 1)]
    assert torch.equal(made[0], made[0][:1].expand_as(made[0]))
    assert not torch.equal(made[0], made[1])


def test_stages_come_in_their_order_at_gts_and_at_lqs_size():
    seen = []

    def note(images, generator):
        seen.append(tuple(images.shape))
        return images

    degradation = ClipDegradation([note, 'bicubic', note, {'type': 'jpeg', 'quality': 90}], 4)
    made = degradation(torch.rand(2, 3, 32, 48, generator=generator()), generator())
    assert seen == [(2, 3, 32, 48), (2, 3, 8, 12)]
    assert made.shape == (2, 3, 8, 12)


def test_a_dotted_stage_sees_the_whole_clip():
    clip = torch.rand(3, 3, 16, 16, generator=generator())
    made = ClipDegradation(['bicubic', {'type': f'{__name__}:spoil'}], 4)(clip, generator())
    assert torch.equal(made[0], made[2])


def test_the_same_generator_gives_the_same_clip():
    clip = torch.rand(3, 3, 32, 32, generator=generator())
    option = ['bicubic', {'type': 'gaussian_noise', 'sigma': [0, 50]}, {'type': 'jpeg', 'quality': [30, 90]}]
    made = [ClipDegradation(option, 4)(clip, generator(seed)) for seed in (3, 3, 4)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_h264_codes_the_clip_and_spoils_it_more_at_a_higher_rate_factor():
    pytest.importorskip('av', reason='the extra video is not installed')
    clip = torch.rand(3, 3, 10, 11, generator=generator())
    clip = torch.nn.functional.interpolate(clip, size=(41, 45), mode='bicubic').clamp(0, 1)  # odd sides
    errors = []
    for crf in (5, 25, 45):
        (coder,) = ClipDegradation(['bicubic', {'type': 'h264', 'crf': crf}], 1).after
        coded = coder(clip, generator())
        assert coded.shape == clip.shape
        assert torch.equal(coded, coder(clip, generator()))
        errors.append((coded - clip).square().mean().item())
    assert 0 < errors[0] < errors[1] < errors[2]
    assert errors[0] < 0.01


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('bicubics', "exactly one stage 'bicubic'"),
        ([], "exactly one stage 'bicubic'"),
        (['bicubic', 'bicubic'], "exactly one stage 'bicubic'"),
        ([{'type': 'bicubic', 'scale': 4}], 'unknown option of bicubic: .scale'),
        (['bicubic', 'gaussian_nose'], 'degradation: unknown distortion .gaussian_nose.. Did you mean'),
        ([{'type': 'gaussian_blur', 'sigma': [3, 1]}, 'bicubic'], 'sigma must rise'),
        ([{'type': 'gaussian_blur', 'sigm': 1}, 'bicubic'], 'unknown option of gaussian_blur'),
        (['bicubic', {'type': 'h264', 'crf': 60}], r'crf must be finite and in \[0, 51\]'),
    ],
)
def test_a_wrong_degradation_is_refused(option, message):
    with pytest.raises(ValueError, match=message):
        ClipDegradation(option, 4)


# ---------------------------------------------------------------------------------------------- folders and lists


def test_clips_are_found_at_any_depth_and_frames_in_the_order_of_numbers(tmp_path):
    write_clip(tmp_path / '00002' / '0001', 11, names='im{}.png', first=1)
    write_clip(tmp_path / '00001', 2)
    (tmp_path / '00001' / 'notes.txt').write_text('no frame')
    (tmp_path / '.hidden').mkdir()
    found = find_clips('gt', tmp_path)
    assert list(found) == ['00001', '00002/0001']
    assert [path.rpartition('/')[2] for path in found['00002/0001']] == [f'im{i}.png' for i in range(1, 12)]


def test_a_list_takes_its_clips_in_its_order(tmp_path):
    for name in 'abc':
        write_clip(tmp_path / name, 2)
    (tmp_path / 'list.txt').write_text('c 2 (32,40,3)\n\na (32, 40, 3)\n')
    assert list(find_clips('gt', tmp_path, tmp_path / 'list.txt')) == ['c', 'a']


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('00001/0001 7 (256,448,3)\n', {'00001/0001': 7}),  # BasicSR's list of Vimeo-90K
        ('00001/0266 (256, 448, 3)\n', {'00001/0266': None}),  # mmagic's
        ('000/00000000.png (720, 1280, 3)\n000/00000001.png (720, 1280, 3)\n', {'000': None}),  # mmagic's of REDS
        ('000 100 (720,1280,3)\n', {'000': 100}),
        ('a\nb\n', {'a': None, 'b': None}),
    ],
)
def test_lists_of_both_hosts_are_read(tmp_path, text, expected):
    (tmp_path / 'list.txt').write_text(text)
    assert listed_clips(tmp_path / 'list.txt') == expected


def _nothing(root):
    (root / 'GT').mkdir()


def _empty_clip(root):
    (root / 'GT' / 'a').mkdir(parents=True)
    write_clip(root / 'GT' / 'b')


def _frames_at_the_top(root):
    write_clip(root / 'GT')


def _frames_beside_folders(root):
    write_clip(root / 'GT' / 'a')
    write_clip(root / 'GT' / 'a' / 'b')


def _listed(text):
    def make(root):
        write_clip(root / 'GT' / 'a')
        (root / 'GT' / 'e').mkdir()
        (root / 'list.txt').write_text(text)

    return make


@pytest.mark.parametrize(
    ('make', 'error', 'message'),
    [
        (lambda root: None, FileNotFoundError, 'gt: no such folder'),
        (_nothing, ValueError, 'gt: no clips in'),
        (_empty_clip, ValueError, "the clip 'a' in .* has no frames"),
        (_frames_at_the_top, ValueError, 'holds frames itself'),
        (_frames_beside_folders, ValueError, "the clip 'a' in .* holds frames and folders"),
        (_listed('a\nz\n'), FileNotFoundError, "no clip 'z', which .*list.txt lists"),
        (_listed('a 9 (32,40,3)\n'), ValueError, "the clip 'a' in .* has 7 frames, .*list.txt says 9"),
        (_listed('e\n'), ValueError, "the clip 'e' in .* has no frames"),
        (_listed('\n'), ValueError, 'list.txt lists no clips'),
        (_listed('../a\n'), ValueError, "names the clip '../a'"),
    ],
)
def test_folders_without_what_is_wanted_are_refused(tmp_path, make, error, message):
    make(tmp_path)
    listed = tmp_path / 'list.txt'
    with pytest.raises(error, match=message):
        find_clips('gt', tmp_path / 'GT', listed if listed.exists() else None)


def test_a_clip_without_partner_is_named(tmp_path):
    write_pair(tmp_path, 'a')
    write_clip(tmp_path / 'GT' / 'b')
    write_clip(tmp_path / 'LQ' / 'c')
    gt, lq = (find_clips(kind, tmp_path / kind) for kind in ('GT', 'LQ'))
    with pytest.raises(ValueError, match=r'1 \(b\) without LQ, 1 \(c\) without GT'):
        pair_clips(gt, lq)


def test_another_number_of_frames_or_another_name_is_refused(tmp_path):
    write_pair(tmp_path, 'a')
    frame = tmp_path / 'LQ' / 'a' / '00000003.png'
    shutil.move(frame, frame.with_name('00000009.png'))
    gt, lq = (find_clips(kind, tmp_path / kind) for kind in ('GT', 'LQ'))
    with pytest.raises(ValueError, match="the clip 'a': the GT frame 00000003.png and the LQ frame 00000004.png"):
        pair_clips(gt, lq)
    lq['a'] = lq['a'][:-1]
    with pytest.raises(ValueError, match="the clip 'a' has 7 GT frames, but 6 LQ frames"):
        pair_clips(gt, lq)


def test_a_clip_shorter_than_the_window_is_named():
    clips = [Clip('long', ('f',) * 9), Clip('short', ('f',) * 6), Clip('shorter', ('f',) * 5)]
    check_length(clips, 5)
    with pytest.raises(ValueError, match="the clip 'short' has 6 frames, a window 7; 1 more are too short"):
        check_length(clips, 7)


@pytest.mark.parametrize(
    ('gt', 'lq', 'gt_size', 'message'),
    [
        ([(32, 40), (32, 36)], [], 16, 'unequal size: the GT frame g1 is 36 x 32 px, the first 40 x 32 px'),
        ([(32, 40)] * 2, [(8, 10), (8, 9)], 16, 'the LQ frame l1 is 9 x 8 px'),
        ([(32, 40)] * 2, [(8, 9)] * 2, 16, "the clip 'c' is 40 x 32 px, its LQ 9 x 8 px: not 4 times"),
        ([(32, 42)] * 2, [], 16, 'is 42 x 32 px, no multiple of scale: 4'),
        ([(32, 40)] * 2, [], 36, 'is 40 x 32 px, smaller than gt_size: 36'),
    ],
)
def test_sizes_that_do_not_fit_are_refused(gt, lq, gt_size, message):
    with pytest.raises(ValueError, match=message):
        check_sizes(Clip('c', ('g0', 'g1'), ('l0', 'l1')), gt, lq, 4, gt_size)


def test_the_first_frame_of_every_clip_is_checked_by_its_header(tmp_path):
    write_pair(tmp_path, 'a')
    clips = pair_clips(*(find_clips(kind, tmp_path / kind) for kind in ('GT', 'LQ')))
    check_first_frames(clips, 4, 32)
    with pytest.raises(ValueError, match="the clip 'a' is 40 x 32 px, its LQ 10 x 8 px: not 2 times"):
        check_first_frames(clips, 2)
    (tmp_path / 'GT' / 'a' / '00000000.png').write_bytes(b'broken')
    with pytest.raises(ValueError, match=r'00000000.png is not a readable image'):
        check_first_frames(clips, 4)


def test_keys_of_an_lmdb_are_grouped_into_clips():
    found = clips_of(['b/im10', 'b/im2', 'a/x/im1'])
    assert found == {'a/x': ('a/x/im1',), 'b': ('b/im2', 'b/im10')}
    with pytest.raises(ValueError, match="the frame 'im1' belongs to no clip"):
        clips_of(['im1'])


def test_windows_cover_a_clip_one_after_the_other():
    clips = [Clip('a', ('f',) * 7), Clip('b', ('f',) * 17)]
    windows, left = split_windows(clips, 7)
    assert [(w.name, w.start, w.stop) for w in windows] == [('a', 0, 7), ('b@00000000', 0, 7), ('b@00000007', 7, 14)]
    assert left == 3
    assert [(w.name, w.stop) for w in split_windows(clips)[0]] == [('a', 7), ('b', 17)]
    assert [w.name for w in split_windows(clips, 12)[0]] == ['b@00000000']  # not the whole of it


# ---------------------------------------------------------------------------------------------- test lists


def test_the_choice_depends_on_the_names_alone_and_grows():
    names = [f'{i:05d}/{j:04d}' for i in range(1, 30) for j in range(1, 30)]
    chosen = pick(names, 100)
    assert len(set(chosen)) == 100
    assert set(pick(names[::-1], 100)) == set(chosen)
    assert set(pick(names, 40)) < set(chosen)
    assert chosen == sorted(chosen)  # the list's own order
    assert set(pick(names, 100, seed=1)) != set(chosen)


def test_the_choice_never_changes():
    """What SHA-256 says, computed apart: ``printf 0:NAME | sha256sum``."""
    assert pick(['000', '011', '015', '020'], 2) == ['011', '020']


def test_more_than_there_are_and_doubles_are_refused():
    with pytest.raises(ValueError, match='count: 3 clips cannot be picked out of 2'):
        pick(['a', 'b'], 3)
    with pytest.raises(ValueError, match="names 'a' twice"):
        pick(['a', 'b', 'a'], 1)


# ---------------------------------------------------------------------------------------------- regions and windows


@pytest.mark.parametrize(
    ('one', 'other', 'gap'),
    [
        ((0, 0, 10, 10), (14, 3, 5, 5), 4),
        ((14, 3, 5, 5), (0, 0, 10, 10), 4),
        ((0, 0, 10, 10), (12, 30, 5, 5), 20),
        ((0, 0, 10, 10), (10, 0, 5, 5), 0),
        ((0, 0, 10, 10), (7, 8, 5, 5), -2),
    ],
)
def test_the_gap_of_two_regions(one, other, gap):
    assert gap_between(Region(*one), Region(*other)) == gap


def test_regions_nearer_than_the_gap_are_refused():
    near = {'train': Region(0, 0, 100, 100), 'test': Region(163, 0, 100, 100)}
    check_apart(near, 63)
    with pytest.raises(
        ValueError, match='the train region 0,0,100,100 and the test region 163,0,100,100 lie 63 px apart'
    ):
        check_apart(near)
    with pytest.raises(ValueError, match='overlap'):
        check_apart({'train': Region(0, 0, 100, 100), 'test': Region(50, 50, 100, 100)}, 0)


@pytest.mark.parametrize('text', ['1,2,3', '0,0,8,-8', 'a,b,c,d', '0,0,10,8'])
def test_a_region_is_four_numbers_and_whole_multiples(text):
    with pytest.raises(ValueError, match='--train-region'):
        read_region('--train-region', text, 4)


@pytest.mark.parametrize('subpixel', [False, True])
@pytest.mark.parametrize('seed', range(5))
def test_the_window_moves_smoothly_and_stays_inside(subpixel, seed):
    window = MovingWindow(40, 24, speed=3.0, subpixel=subpixel)
    path = draw_path(window, (64, 96), 7, generator(seed))
    assert path.shape == (7, 2)
    assert (path >= 0).all()
    assert (path + torch.tensor([24, 40]) <= torch.tensor([64, 96])).all()
    steps = path.diff(dim=0)
    speeds = steps.norm(dim=1)
    rounding = 0 if subpixel else 2**0.5
    assert (speeds <= 3 + rounding + 1e-9).all()
    assert (speeds >= 0.75 - rounding - 1e-9).all()
    if subpixel:
        torch.testing.assert_close(speeds, speeds[:1].expand(6))  # constant
        turns = torch.atan2(steps[:, 0], steps[:, 1]).diff().sin()
        torch.testing.assert_close(turns, turns[:1].expand(5))  # even
        assert turns.abs().max() <= np.sin(np.radians(15)) + 1e-9
    else:
        assert torch.equal(path, path.round())


def test_whole_positions_cut_the_images_own_pixels():
    image = torch.rand(3, 20, 30, generator=generator())
    clip = cut_path(image, torch.tensor([[0.0, 0.0], [3.0, 5.0]]), (8, 12))
    assert torch.equal(clip[0], image[:, :8, :12])
    assert torch.equal(clip[1], image[:, 3:11, 5:17])


def test_positions_between_pixels_interpolate_as_torch_does():
    """PyTorch's bicubic has a = -3/4, so that a parabola shows the kernel's order: a = -1/2 keeps it."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing='ij')
    parabola = ((x - 11) ** 2 + x * y + y**2) / 2000
    image = parabola.expand(3, -1, -1)
    (clip,) = cut_path(image, torch.tensor([[4.25, 6.5]], dtype=torch.float64), (8, 12))
    y, x = torch.meshgrid(4.25 + torch.arange(8.0), 6.5 + torch.arange(12.0), indexing='ij')
    expected = to_8_bits(((x - 11) ** 2 + x * y + y**2) / 2000)
    assert (clip[0] - expected).abs().max() < 0.6 / 255 * 2  # one 8-bit level where rounding tips
    assert (clip[0] != expected).float().mean() < 0.05
    assert torch.equal(cubic(torch.tensor([0.0, 1.0, -1.0, 2.0, 3.0])), torch.tensor([1.0, 0, 0, 0, 0]))


def test_an_image_without_room_is_refused():
    with pytest.raises(ValueError, match='40 x 32 px have no room for a window of 40 x 32 px'):
        draw_path(MovingWindow(40, 32, speed=4), (32, 40), 7, generator())
    with pytest.raises(ValueError, match='no room'):
        draw_path(MovingWindow(48, 8, speed=0), (32, 40), 7, generator())


def test_nothing_moves_at_speed_zero():
    path = draw_path(MovingWindow(40, 32, speed=0), (32, 40), 7, generator())
    assert torch.equal(path, torch.zeros(7, 2, dtype=torch.float64))


def test_the_images_that_tests_write_are_what_they_say(tmp_path):
    made = write_clip(tmp_path / 'a', 2, (16, 20))
    assert made.shape == (2, 16, 20, 3)
    assert np.array_equal(np.array(Image.open(tmp_path / 'a' / '00000001.png')), made[1])
