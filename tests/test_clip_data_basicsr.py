"""Clips in BasicSR: our data sets against the host's own, what they refuse, and a training with the stock script."""

import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nriqa_plugin.clips.degradation import ClipDegradation
from tests.clip_files import read_frames, write_clip, write_pair
from tests.conftest import ROOT
from tests.documented import block

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
import yaml  # comes with BasicSR
from basicsr.data import build_dataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

import nriqa_plugin.basicsr  # noqa: F401

DISK = {'io_backend': {'type': 'disk'}}


def train_set(root, lq=False, **more):
    opt = {'name': 'x', 'type': 'ClipFolderDataset', 'phase': 'train', 'scale': 4, 'gt_size': 16, **DISK}
    roots = {'dataroot_gt': str(root / 'GT'), **({'dataroot_lq': str(root / 'LQ')} if lq else {})}
    return build_dataset({**opt, **roots, **more})


def val_set(root, lq=False, **more):
    opt = {'name': 'x', 'type': 'ClipFolderTestDataset', 'phase': 'val', 'scale': 4, **DISK}
    roots = {'dataroot_gt': str(root / 'GT'), **({'dataroot_lq': str(root / 'LQ')} if lq else {})}
    return build_dataset({**opt, **roots, **more})


def write_map(folder, frames, size, step):
    """Frames that say where a px is: red its column, green its row, blue the frame; in steps of GT px."""
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[0 : size[0] : step, 0 : size[1] : step].astype(np.uint8)
    for number in range(frames):
        image = np.stack([columns, rows, np.full_like(rows, 10 * number)], axis=-1)
        Image.fromarray(image).save(folder / f'{number:08d}.png')


@pytest.fixture
def maps(tmp_path):
    """A clip of 12 frames, 64 x 48 px, whose colours are places."""
    write_map(tmp_path / 'GT' / 'a', 12, (48, 64), 1)
    write_map(tmp_path / 'LQ' / 'a', 12, (48, 64), 4)
    return tmp_path


def places(clip):
    """``(T, 3, H, W)`` in [0, 1] as whole numbers: columns, rows and frames."""
    levels = (clip * 255).round().long()
    return levels[..., 0, :, :], levels[..., 1, :, :], levels[..., 2, :, :] // 10


def as_tensor(frames):
    """``(T, H, W, 3)`` uint8 as ``(T, 3, H, W)`` in [0, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


# ---------------------------------------------------------------------------------------------- training items


def test_window_and_crop_are_the_same_in_gt_and_lq_and_change(maps):
    data, seen = train_set(maps, lq=True, num_frame=5), set()
    for _ in range(40):
        item = data[0]
        assert item['key'] == 'a'
        assert (item['gt'].shape, item['lq'].shape) == ((5, 3, 16, 16), (5, 3, 4, 4))
        assert item['gt'].dtype == item['lq'].dtype == torch.float32
        gt, lq = places(item['gt']), places(item['lq'])
        for large, small in zip(gt[:2], lq[:2], strict=True):
            assert torch.equal(large[:, ::4, ::4], small)  # at multiples of the scale
        assert torch.equal(gt[2][:, 0, 0], lq[2][:, 0, 0])
        start = gt[2][0, 0, 0].item()
        assert gt[2][:, 0, 0].tolist() == list(range(start, start + 5))
        seen.add((start, gt[0][0, 0, 0].item(), gt[1][0, 0, 0].item()))
    assert {start for start, _, _ in seen} == set(range(8))
    assert {x for _, x, _ in seen} == set(range(0, 49, 4))
    assert {y for _, _, y in seen} == set(range(0, 33, 4))


def test_flips_and_rotations_are_the_same_for_all_frames(maps):
    data, seen = train_set(maps, lq=True, num_frame=3, use_hflip=True, use_rot=True), set()
    for _ in range(60):
        item = data[0]
        gt, lq = places(item['gt']), places(item['lq'])
        for which in (0, 1):
            assert (gt[which] == gt[which][:1]).all()
            blocks = gt[which].unflatten(2, (4, 4)).unflatten(1, (4, 4)).amin((2, 4))  # a block's least place
            assert torch.equal(blocks, lq[which])
        right, down = gt[0][0, 0, 1] - gt[0][0, 0, 0], gt[0][0, 1, 0] - gt[0][0, 0, 0]
        lower = gt[1][0, 1, 0] - gt[1][0, 0, 0], gt[1][0, 0, 1] - gt[1][0, 0, 0]
        seen.add((right.item(), down.item(), *(one.item() for one in lower)))
    assert len(seen) == 8  # the whole group of the square


def test_a_window_and_its_mirror_image_in_time(maps):
    """As the host's Vimeo90KRecurrentDataset has it."""
    item = train_set(maps, lq=True, num_frame=3, flip_sequence=True, use_hflip=True, use_rot=True)[0]
    assert (item['gt'].shape, item['lq'].shape) == ((6, 3, 16, 16), (6, 3, 4, 4))
    for part in (item['gt'], item['lq']):
        assert torch.equal(part, part.flip(0))
        first = places(part)[2][0, 0, 0].item()
        assert places(part)[2][:, 0, 0].tolist() == [first + step for step in (0, 1, 2, 2, 1, 0)]
    assert train_set(maps, lq=True, num_frame=3, flip_sequence=False)[0]['gt'].shape[0] == 3


def test_intervals_and_backward_windows(maps):
    data = train_set(maps, num_frame=3, interval_list=[1, 4], random_reverse=True)
    seen = {tuple(places(data[0]['gt'])[2][:, 0, 0].diff().tolist()) for _ in range(60)}
    assert seen == {(1, 1), (4, 4), (-1, -1), (-4, -4)}


@pytest.mark.parametrize('lq', [False, True])
def test_the_middle_frame_alone(maps, lq):
    data = train_set(maps, lq=lq, num_frame=5, middle_only=True, random_reverse=True)
    for _ in range(5):
        item = data[0]
        assert (item['gt'].shape, item['lq'].shape) == ((3, 16, 16), (5, 3, 4, 4))
        frames = (item['lq'][:, 2, 2, 2] * 25.5).round()  # blue does not change over a frame
        assert places(item['gt'])[2][0, 0].item() == frames[2].item()


def test_made_lq_is_the_crop_of_the_bicubic_clip(tmp_path):
    frames = as_tensor(write_clip(tmp_path / 'GT' / 'a', 7, (48, 64)))
    small = ClipDegradation('bicubic', 4)(frames, torch.Generator())
    data = train_set(tmp_path)
    for _ in range(10):
        item = data[0]
        found = [(y, x) for y in range(9) for x in range(13)
                 if torch.equal(frames[:, :, 4 * y : 4 * y + 16, 4 * x : 4 * x + 16], item['gt'])]  # fmt: skip
        ((y, x),) = found
        torch.testing.assert_close(item['lq'], small[:, :, y : y + 4, x : x + 4], rtol=0, atol=1e-6)


def test_draws_follow_pythons_generator(tmp_path):
    write_clip(tmp_path / 'GT' / 'a', 9, (48, 64))
    noise = ['bicubic', {'type': 'gaussian_noise', 'sigma': [0, 30]}]
    data, items = train_set(tmp_path, use_hflip=True, use_rot=True, degradation=noise), []
    for seed in (1, 1, 2):
        random.seed(seed)
        items.append(data[0])
    assert all(torch.equal(items[0][key], items[1][key]) for key in ('lq', 'gt'))
    assert not torch.equal(items[0]['lq'], items[2]['lq'])


def test_an_lmdb_gives_what_the_folders_give(tmp_path):
    for index in range(2):
        write_pair(tmp_path, f'{index:05d}/0001', names='im{}.png', first=1, seed=index)
    lmdb = to_lmdb(tmp_path, ['GT', 'LQ'])
    disk, packed = train_set(tmp_path, lq=True), train_set(tmp_path, **lmdb)
    assert len(disk) == len(packed) == 2
    for index in range(2):
        items = []
        for data in (disk, packed):
            random.seed(index)
            items.append(data[index])
        assert items[0]['key'] == items[1]['key']
        assert torch.equal(items[0]['gt'], items[1]['gt'])
        assert torch.equal(items[0]['lq'], items[1]['lq'])
    (tmp_path / 'list.txt').write_text('00001/0001 7 (32,40,3)\n')
    assert len(train_set(tmp_path, **lmdb, meta_info_file=str(tmp_path / 'list.txt'))) == 1
    (tmp_path / 'list.txt').write_text('00009/0001\n')
    with pytest.raises(ValueError, match="no clip '00009/0001'"):
        train_set(tmp_path, **lmdb, meta_info_file=str(tmp_path / 'list.txt'))


# ---------------------------------------------------------------------------------------------- validation items


def hosts(kind, root, **more):
    """The host's own data set of the same clips."""
    opt = {
        'name': 'REDS4', 'type': kind, 'phase': 'val', 'scale': 4, 'cache_data': True, 'num_frame': 5,
        'padding': 'reflection_circle', 'dataroot_gt': str(root / 'GT'), 'dataroot_lq': str(root / 'LQ'), **DISK,
    }  # fmt: skip
    return build_dataset({**opt, **more})


@pytest.fixture
def pairs(tmp_path):
    for index, name in enumerate(('000', '011')):
        write_pair(tmp_path, name, 7 + index, seed=index)
    return tmp_path


@pytest.mark.parametrize('cache', [False, True])
def test_whole_clips_are_the_hosts(pairs, cache):
    ours, theirs = val_set(pairs, lq=True, cache_data=cache), hosts('VideoRecurrentTestDataset', pairs)
    assert ours.folders == theirs.folders
    for key in ('lq_path', 'gt_path', 'folder', 'idx'):
        assert ours.data_info[key] == theirs.data_info[key]
    assert len(ours) == len(theirs) == 2
    for index in (0, 1, 0):
        one, other = ours[index], theirs[index]
        assert one.keys() == other.keys()
        assert one['folder'] == other['folder']
        for key in ('lq', 'gt'):
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-7)
            one[key].zero_()  # the model changes what it gets


@pytest.mark.parametrize('padding', ['replicate', 'reflection', 'reflection_circle', 'circle'])
def test_frame_by_frame_is_the_hosts(pairs, padding):
    ours = val_set(pairs, lq=True, middle_only=True, num_frame=5, padding=padding)
    theirs = hosts('VideoTestDataset', pairs, padding=padding)
    assert ours.data_info == theirs.data_info
    assert len(ours) == len(theirs) == 15
    for index in range(15):
        one, other = ours[index], theirs[index]
        assert one.keys() == other.keys()
        for key in other:
            if isinstance(other[key], torch.Tensor):
                torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-7)
            else:
                assert one[key] == other[key]


def test_windows_of_a_longer_clip_are_clips_of_their_own(tmp_path, plugin_log):
    frames = as_tensor(write_clip(tmp_path / 'GT' / 'a', 16))
    data = val_set(tmp_path, num_frame=7)
    assert data.folders == ['a@00000000', 'a@00000007']
    assert data.data_info['folder'] == ['a@00000000'] * 7 + ['a@00000007'] * 7
    assert torch.equal(data[1]['gt'], frames[7:14])
    assert '2 frames at the ends of clips fill no window of num_frame: 7 and are not scored' in plugin_log.text


def test_every_validation_sees_the_same_degradation(tmp_path):
    for name in 'ab':
        write_clip(tmp_path / 'GT' / name, seed=0)
    noise = ['bicubic', {'type': 'gaussian_noise', 'sigma': 20}]
    first, again, other = (val_set(tmp_path, degradation=noise, seed=seed) for seed in (3, 3, 4))
    random.seed(9)
    assert torch.equal(first[1]['lq'], again[1]['lq'])
    assert not torch.equal(first[1]['lq'], other[1]['lq'])
    assert not torch.equal(first[0]['lq'], first[1]['lq'])  # the same pictures, not the same noise


# ---------------------------------------------------------------------------------------------- the host's own sets


@pytest.fixture
def vimeo(tmp_path, monkeypatch):
    """Two septuplets and lists at the places that the documentation names; the folder."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'datasets' / 'vimeo90k'
    for number in (1, 2):
        write_pair(root, f'00001/{number:04d}', size=(32, 48), names='im{}.png', first=1, seed=number)
    (root / 'LQ').rename(root / 'BIx4')
    (root / 'meta_info_Vimeo90K_train_GT.txt').write_text('00001/0001 7 (32,48,3)\n00001/0002 7 (32,48,3)\n')
    (root / 'vimeo90k_test100.txt').write_text('00001/0002 7 (32,48,3)\n')
    return root


def section(name, part, **more):
    """A part of what docs/video_data.md shows, as the host completes it, at a size for tests."""
    opt = yaml.safe_load(block('video_data.md', name, 'yaml'))[part]
    return {**opt, 'phase': part, 'scale': 4, **({'gt_size': 16} if part == 'train' else {}), **more}


def to_lmdb(root, kinds):
    """``KIND.lmdb`` beside every folder, as the host's tools make it; options that name them."""
    for kind in kinds:
        names = [path.relative_to(root / kind).as_posix() for path in sorted((root / kind).rglob('*.png'))]
        keys = [name.removesuffix('.png') for name in names]
        make_lmdb_from_imgs(str(root / kind), str(root / f'{kind}.lmdb'), names, keys)
    roots = [str(root / f'{kind}.lmdb') for kind in kinds]
    return {'io_backend': {'type': 'lmdb'}, 'dataroot_gt': roots[0], 'dataroot_lq': roots[1]}


@pytest.mark.parametrize('lmdb', [False, True])
def test_the_documented_vimeo_section_loads_with_the_hosts_set(vimeo, lmdb):
    data = build_dataset(section('vimeo', 'train', **(to_lmdb(vimeo, ['GT', 'BIx4']) if lmdb else {})))
    assert type(data).__module__.startswith('basicsr.')
    assert len(data) == 2
    item = data[1]
    assert (item['lq'].shape, item['gt'].shape) == ((7, 3, 4, 4), (7, 3, 16, 16))
    assert item['key'] == '00001/0002'


def test_vimeos_validation_takes_the_listed_clips(vimeo):
    (item,) = build_dataset(section('vimeo', 'val'))
    assert item['folder'] == '00001/0002'
    assert torch.equal(item['gt'], as_tensor(read_frames(vimeo / 'GT' / '00001' / '0002')))
    opt = section('vimeo', 'val', type='VideoTestVimeo90KDataset', num_frame=7, cache_data=False)
    torch.testing.assert_close(build_dataset(opt)[0]['gt'], item['gt'][3], rtol=0, atol=1e-7)  # the host's own


def test_the_documented_reds_section_loads_with_the_hosts_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'datasets' / 'REDS'
    for name in ('000', '240'):
        write_pair(root, name, 100, (16, 20))
    (root / 'train_sharp_bicubic').mkdir()
    (root / 'LQ').rename(root / 'train_sharp_bicubic' / 'X4')
    (root / 'GT').rename(root / 'train_sharp')
    (root / 'meta_info_REDS_GT.txt').write_text('000 100 (16,20,3)\n240 100 (16,20,3)\n')
    (root / 'meta_info_REDSval_official_test_GT.txt').write_text('240 100 (16,20,3)\n')
    data = build_dataset(section('reds', 'train'))
    assert type(data).__module__.startswith('basicsr.')
    assert len(data) == 100  # 240 is for the test
    item = data[99]
    assert (item['lq'].shape, item['gt'].shape) == ((7, 3, 4, 4), (7, 3, 16, 16))
    data = build_dataset(section('reds', 'val'))
    assert data.folders == [f'240@{start:08d}' for start in range(0, 98, 7)]


def test_the_documented_sections_of_clips_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ('train', 'test'):
        write_pair(tmp_path / 'datasets' / 'own' / split, 'walk_0000')
    (tmp_path / 'datasets' / 'own' / 'test' / 'LQ').rename(tmp_path / 'datasets' / 'own' / 'test' / 'BIx4')
    assert build_dataset(section('clips', 'train'))[0]['lq'].shape == (7, 3, 4, 4)
    assert build_dataset(section('clips', 'val'))[0]['gt'].shape == (7, 3, 32, 40)


def test_the_documented_degradation_builds():
    stages = yaml.safe_load(block('video_data.md', 'degradation', 'yaml'))['degradation']
    pytest.importorskip('av', reason='the extra video is not installed')
    clip = torch.rand(2, 3, 32, 32)
    assert ClipDegradation(stages, 4)(clip, torch.Generator().manual_seed(0)).shape == (2, 3, 8, 8)


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ('more', 'error', 'message'),
    [
        ({'gt_sise': 16}, ValueError, 'unknown option of ClipFolderDataset: .gt_sise'),
        ({'gt_size': None}, TypeError, 'gt_size must be an integer'),
        ({'gt_size': 18}, ValueError, 'gt_size must be a multiple of scale: 4, got 18'),
        ({'gt_size': 64}, ValueError, "the clip 'a' is 40 x 32 px, smaller than gt_size: 64"),
        ({'num_frame': 8}, ValueError, "the clip 'a' has 7 frames, a window 8"),
        ({'interval_list': [1, 2]}, ValueError, "the clip 'a' has 7 frames, a window 13"),
        ({'interval_list': []}, TypeError, 'interval_list must be a list'),
        ({'num_frame': 4, 'middle_only': True}, ValueError, 'middle_only needs an odd num_frame, got 4'),
        ({'flip_sequence': 'yes'}, TypeError, 'flip_sequence must be true or false'),
        ({'flip_sequence': True, 'middle_only': True}, ValueError, 'flip_sequence .*, not with middle_only'),
        ({'middle_only': 'yes'}, TypeError, 'middle_only must be true or false'),
        ({'dataroot_gt': None}, ValueError, "the option 'dataroot_gt' is missing"),
        ({'dataroot_gt': 'nowhere'}, FileNotFoundError, 'dataroot_gt: no such folder: nowhere'),
        ({'dataroot_lq': 'nowhere'}, FileNotFoundError, 'dataroot_lq: no such folder: nowhere'),
        ({'dataroot_lq': 'LQ', 'degradation': 'bicubic'}, ValueError, 'dataroot_lq and degradation exclude each other'),
        ({'meta_info_file': 'nowhere.txt'}, FileNotFoundError, 'meta_info_file: no such file'),
        ({'io_backend': {'type': 'memcached'}}, ValueError, 'io_backend.type: .memcached'),
        ({'degradation': 'bicubik'}, ValueError, "exactly one stage 'bicubic', got 'bicubik'. Did you mean 'bicubic'"),
        ({'scale': 3}, ValueError, "the clip 'a' is 40 x 32 px, no multiple of scale: 3"),
    ],
)
def test_wrong_options_are_refused(tmp_path, more, error, message):
    write_clip(tmp_path / 'GT' / 'a')
    with pytest.raises(error, match=message):
        train_set(tmp_path, **({'gt_size': 15} if more.get('scale') == 3 else {}), **more)


def test_clips_that_do_not_pair_are_refused_at_construction(tmp_path):
    write_pair(tmp_path, 'a')
    write_clip(tmp_path / 'LQ' / 'b', 7, (8, 12))
    for make in (train_set, val_set):
        with pytest.raises(ValueError, match=r'do not pair by name: none without LQ, 1 \(b\) without GT'):
            make(tmp_path, lq=True)
    write_clip(tmp_path / 'GT' / 'b', 6, (32, 48))
    for make in (train_set, val_set):
        with pytest.raises(ValueError, match="the clip 'b' has 6 GT frames, but 7 LQ frames"):
            make(tmp_path, lq=True)


def test_lq_of_another_size_is_refused_at_construction(tmp_path):
    write_clip(tmp_path / 'GT' / 'a')
    write_clip(tmp_path / 'LQ' / 'a', 7, (12, 12))
    for make in (train_set, val_set):
        with pytest.raises(ValueError, match="the clip 'a' is 40 x 32 px, its LQ 12 x 12 px: not 4 times"):
            make(tmp_path, lq=True)


@pytest.mark.parametrize('make', [train_set, val_set])
def test_the_folder_above_both_kinds_is_refused(tmp_path, make):
    """Its LQ clips would be ground truth too."""
    own = tmp_path / 'own'
    write_pair(own, '0/a', size=(64, 64))
    (own / 'LQ').rename(own / 'BIx4')
    for root in (own, tmp_path):
        with pytest.raises(ValueError, match=f'dataroot_gt: .* holds GT beside BIx4.*give {re.escape(str(own))}/GT'):
            make(tmp_path, dataroot_gt=str(root))


def test_swapped_folders_are_named_as_such(tmp_path):
    write_pair(tmp_path, 'a', size=(64, 64))
    (tmp_path / 'GT').rename(tmp_path / 'x')
    (tmp_path / 'LQ').rename(tmp_path / 'GT')
    (tmp_path / 'x').rename(tmp_path / 'LQ')
    with pytest.raises(
        ValueError, match='is 16 x 16 px, its LQ 64 x 64 px: larger than GT; are the two folders swapped'
    ):
        train_set(tmp_path, lq=True, gt_size=32)


@pytest.mark.parametrize('make', [train_set, val_set])
def test_a_frame_of_another_size_or_a_broken_one_is_named_when_it_is_read(tmp_path, make):
    write_clip(tmp_path / 'GT' / 'a')
    frame = tmp_path / 'GT' / 'a' / '00000003.png'
    Image.new('RGB', (44, 32)).save(frame)
    data = make(tmp_path)
    with pytest.raises(
        ValueError, match=f"the clip 'a' has frames of unequal size: the GT frame {re.escape(str(frame))}"
    ):
        data[0]
    frame.write_bytes(b'broken')
    with pytest.raises(ValueError, match=rf'cannot read the frame {re.escape(str(frame))} \(truncated or damaged\?\)$'):
        data[0]
    frame.unlink()
    with pytest.raises(ValueError, match=f'cannot read the frame {re.escape(str(frame))}: .*No such file'):
        data[0]


def test_wrong_options_of_a_validation_are_refused(tmp_path):
    write_clip(tmp_path / 'GT' / 'a')
    for more, message in (
        ({'padding': 'zeros'}, 'unknown value for padding'),
        ({'gt_size': 16}, 'unknown option of ClipFolderTestDataset'),
        ({'num_frame': 9}, "the clip 'a' has 7 frames, a window 9"),
        ({'num_frame': 4, 'middle_only': True}, 'middle_only needs an odd num_frame'),
        ({'num_frame': 4, 'seed': -1}, 'seed must be'),
    ):
        with pytest.raises(ValueError, match=message):
            val_set(tmp_path, **more)


# ---------------------------------------------------------------------------------------------- in training


def training(folder, size, base, network, **data):
    """Options of a training of two steps with a validation."""
    write_clip(folder / 'GT' / 'a', 7, size)
    write_clip(folder / 'GT' / 'b', 8, size, seed=1)
    common = {'name': 'clips', 'dataroot_gt': str(folder / 'GT'), 'num_frame': 7, **DISK, **data}
    sampling = {
        'gt_size': size[0],
        'use_hflip': True,
        'use_rot': True,
        'batch_size_per_gpu': 1,
        'num_worker_per_gpu': 0,
    }
    return {
        'name': 'run', 'model_type': 'PerceptualModel', 'base_model': base, 'scale': 4, 'num_gpu': 0, 'manual_seed': 3,
        'datasets': {
            'train': {'type': 'ClipFolderDataset', **common, **sampling, 'dataset_enlarge_ratio': 10},
            'val': {'type': 'ClipFolderTestDataset', **common},
        },
        'network_g': network,
        'path': {'experiments_root': 'experiments', 'resume_state': None, 'pretrain_network_g': None},
        'train': {
            'ema_decay': 0, 'total_iter': 2, 'warmup_iter': -1, 'optim_g': {'type': 'Adam', 'lr': 0.001},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5},
            'pixel_opt': {'type': 'LossSum', 'terms': [{'type': 'CharbonnierLoss', 'weight': 1.0}]},
        },
        'val': {'val_freq': 2, 'save_img': False, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': False, 'wandb': None},
    }  # fmt: skip


def train_with_stock_script(folder, opt):
    line = 'plugin: !!python/name:nriqa_plugin.basicsr.VERSION\n'
    (folder / 'run.yml').write_text(line + yaml.safe_dump(opt))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    run = subprocess.run([sys.executable, '-m', 'basicsr.train', '-opt', 'run.yml'], cwd=folder, env=environment,
                         capture_output=True, text=True, timeout=600)  # fmt: skip
    text = run.stdout + run.stderr
    assert run.returncode == 0, text[-3000:]
    return text


class FrameByFrame(torch.nn.Module):
    """The smallest network on clips: every frame upscaled by one convolution, or the middle one alone."""

    def __init__(self, middle_only=False):
        super().__init__()
        self.middle_only = middle_only
        self.conv = torch.nn.Conv2d(3, 48, 3, padding=1)

    def forward(self, clips):
        if self.middle_only:
            clips = clips[:, clips.shape[1] // 2 :][:, :1]
        large = torch.nn.functional.pixel_shuffle(self.conv(clips.flatten(0, 1)), 4).unflatten(0, clips.shape[:2])
        return large[:, 0] if self.middle_only else large


@pytest.mark.parametrize('base', ['VideoRecurrentModel', 'VideoBaseModel'])
def test_both_video_models_train_and_validate(tmp_path, monkeypatch, base):
    """The host's whole training loop, in this process."""
    from basicsr.train import train_pipeline
    from basicsr.utils.registry import ARCH_REGISTRY

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'FrameByFrame', FrameByFrame)
    middle_only = base == 'VideoBaseModel'
    opt = training(
        tmp_path, (32, 32), base, {'type': 'FrameByFrame', 'middle_only': middle_only}, middle_only=middle_only
    )
    opt['val']['save_best'] = 'psnr'
    (tmp_path / 'run.yml').write_text(yaml.safe_dump(opt))
    monkeypatch.setattr(sys, 'argv', ['train', '-opt', str(tmp_path / 'run.yml')])
    monkeypatch.chdir(tmp_path)
    train_pipeline(str(tmp_path))
    with open(tmp_path / 'experiments' / 'run' / 'validation.csv') as file:
        (line,) = file.read().splitlines()[1:]
    assert line.startswith('2,clips,psnr,')

    trained = torch.load(tmp_path / 'experiments' / 'run' / 'models' / 'net_g_2.pth', weights_only=True)['params']
    network = FrameByFrame(middle_only)
    network.load_state_dict(trained)
    assert float(line.rpartition(',')[2]) == pytest.approx(_psnr(network, tmp_path, middle_only), abs=1e-3)


def _psnr(network, root, middle_only):
    """What the host's validation must have found: the mean over frames, then over clips."""
    data, means, every = val_set(root, num_frame=7), [], FrameByFrame()
    every.load_state_dict(network.state_dict())
    if middle_only:  # every frame of the longer clip has its turn
        data = val_set(root)
    for item in (data[0], data[1]):
        with torch.no_grad():
            made = every(item['lq'][None])[0]
        levels = [(clip.clamp(0, 1) * 255).round().double() for clip in (made, item['gt'])]
        errors = (levels[0] - levels[1]).square().mean((1, 2, 3))
        means.append((20 * torch.log10(255 / errors.sqrt())).mean().item())
    return sum(means) / len(means)


@pytest.mark.slow
def test_the_stock_script_trains_and_validates_on_whole_clips(tmp_path):
    network = {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}
    text = train_with_stock_script(tmp_path, training(tmp_path, (256, 256), 'VideoRecurrentModel', network))
    assert len(re.findall(r'l_pix: \d', text)) == 2
    assert re.search(r'# psnr: \d+\.\d+\s+# a: \d+\.\d+\s+# b@00000000: \d+\.\d+', text)
    assert '1 frames at the ends of clips fill no window' in text


@pytest.mark.slow
def test_the_stock_script_trains_and_validates_on_middle_frames(tmp_path):
    network = {'type': 'DUF', 'scale': 4, 'num_layer': 16}
    opt = training(tmp_path, (32, 32), 'VideoBaseModel', network, middle_only=True)
    text = train_with_stock_script(tmp_path, opt)
    assert len(re.findall(r'l_pix: \d', text)) == 2
    assert re.search(r'# psnr: \d+\.\d+\s+# a: \d+\.\d+\s+# b: \d+\.\d+', text)


def test_real_clips(test_data, tmp_path):
    """Twenty real frames, whole as one clip."""
    (tmp_path / 'GT').mkdir()
    (tmp_path / 'GT' / 'walk').symlink_to(test_data / 'video' / 'toflow_320x180')
    data = train_set(tmp_path, gt_size=128, use_hflip=True, use_rot=True)
    item = data[0]
    assert (item['lq'].shape, item['gt'].shape) == ((7, 3, 32, 32), (7, 3, 128, 128))
    upscaled = torch.nn.functional.interpolate(item['lq'], scale_factor=4, mode='bicubic')
    psnr = -10 * (upscaled - item['gt']).square().mean().log10()
    assert psnr > 20  # what bicubic gives of natural frames; a crop elsewhere would give 10 to 15
