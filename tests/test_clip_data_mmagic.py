"""Clips in mmagic: our data set against the stock one, what is refused, and a training with the stock script."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from nriqa_plugin.clips.degradation import ClipDegradation
from tests.clip_files import read_frames, write_clip, write_pair
from tests.documented import block

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmagic.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import nriqa_plugin.mmagic  # noqa: F401
from tests.mmagic_runs import TERMS, logged, run, short_run, write_config

LOAD = [{'type': 'LoadImageFromFile', 'key': key, 'channel_order': 'rgb'} for key in ('gt', 'img')]


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmagic')


def data_set(root, pipeline=(), lq=True, **more):
    prefix = {'gt': 'GT', **({'img': 'LQ'} if lq else {})}
    opt = {'type': 'ClipFolderDataset', 'data_root': str(root), 'data_prefix': prefix, 'pipeline': list(pipeline)}
    opt['serialize_data'] = False  # the host collects garbage for it, which takes long among so many modules
    return DATASETS.build({**opt, **more})


def stock_set(root, pipeline, **more):
    opt = {
        'type': 'BasicFramesDataset', 'data_root': str(root), 'data_prefix': {'img': 'LQ', 'gt': 'GT'}, 'depth': 1,
        'metainfo': {'dataset_type': 'own', 'task_name': 'vsr'}, 'pipeline': list(pipeline), 'serialize_data': False,
    }  # fmt: skip
    return DATASETS.build({**opt, **more})


def as_tensor(frames):
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255


def transformed(transform, **results):
    return TRANSFORMS.build(transform).transform({'key': 'a', **results})


@pytest.fixture
def pairs(tmp_path):
    for index, name in enumerate(('000', '011')):
        write_pair(tmp_path, name, 7 + index, (48, 64), seed=index)
    return tmp_path


# ---------------------------------------------------------------------------------------------- whole clips


def test_whole_clips_are_the_stock_sets(pairs):
    pack = [{'type': 'PackInputs'}]
    ours = data_set(pairs, [*LOAD, {'type': 'ClipCrop', 'scale': 4}, *pack], test_mode=True)
    theirs = stock_set(pairs, [{'type': 'GenerateSegmentIndices', 'interval_list': [1]}, *LOAD, *pack])
    assert len(ours) == len(theirs) == 2
    for index in range(2):
        one, other = ours[index], theirs[index]
        assert torch.equal(one['inputs'], other['inputs'])
        assert torch.equal(one['data_samples'].gt_img, other['data_samples'].gt_img)
        for key in ('gt_path', 'img_path', 'ori_gt_shape', 'gt_channel_order'):
            assert one['data_samples'].get(key) == other['data_samples'].get(key) is not None


def test_windows_of_a_longer_clip_are_samples_of_their_own(tmp_path, plugin_log):
    write_pair(tmp_path, 'a', 16)
    data = data_set(tmp_path, num_input_frames=7, test_mode=True)
    assert [data[i]['key'] for i in range(len(data))] == ['a@00000000', 'a@00000007']
    assert [path[-12:] for path in data[1]['gt_path']] == [f'{i:08d}.png' for i in range(7, 14)]
    assert '2 frames at the ends of clips fill no window of num_input_frames: 7 and are not scored' in plugin_log.text


def test_windows_of_one_clip_are_scored_under_names_of_their_own(tmp_path):
    """The relative gain finds the baseline of a frame by them."""
    from nriqa_plugin.mmagic.metrics import image_name

    write_pair(tmp_path, '000', 15)
    write_pair(tmp_path, '001', 7)
    pipeline = [*LOAD, {'type': 'ClipCrop'}, {'type': 'PackInputs'}]
    data = data_set(tmp_path, pipeline, num_input_frames=7, test_mode=True)
    names = [image_name(data[i]['data_samples'].to_dict(), folders=1) for i in range(3)]
    assert names == ['GT/000@00000000', 'GT/000@00000007', 'GT/001@00000000']


def test_clips_lie_at_any_depth_and_a_list_takes_some(tmp_path):
    for name in ('00001/0001', '00001/0002', '00002/0001'):
        write_clip(tmp_path / 'GT' / name, names='im{}.png', first=1)
    (tmp_path / 'list.txt').write_text('00002/0001 (32, 40, 3)\n00001/0002 (32, 40, 3)\n')
    assert [sample['key'] for sample in data_set(tmp_path, lq=False)] == ['00001/0001', '00001/0002', '00002/0001']
    data = data_set(tmp_path, lq=False, ann_file='list.txt')
    assert [sample['key'] for sample in data] == ['00002/0001', '00001/0002']


# ---------------------------------------------------------------------------------------------- window and crop


def test_the_window_is_consecutive_and_the_same_in_gt_and_lq():
    paths = {key: [f'{key}/{i}' for i in range(12)] for key in ('gt_path', 'img_path')}
    seen = set()
    for _ in range(60):
        found = transformed({'type': 'ClipWindow', 'num_frames': 5}, **paths)
        numbers = [int(path.partition('/')[2]) for path in found['gt_path']]
        assert [path.partition('/')[2] for path in found['img_path']] == list(map(str, numbers))
        assert numbers == list(range(numbers[0], numbers[0] + 5))
        seen.add(numbers[0])
    assert seen == set(range(8))


def test_intervals_and_backward_windows():
    transform, seen = {'type': 'ClipWindow', 'num_frames': 3, 'interval_list': [1, 4], 'reverse': True}, set()
    for _ in range(60):
        found = transformed(transform, gt_path=[str(i) for i in range(12)])
        seen.add(tuple(np.diff([int(path) for path in found['gt_path']])))
    assert seen == {(1, 1), (4, 4), (-1, -1), (-4, -4)}


def test_the_crop_is_the_same_in_gt_and_lq_and_reaches_everywhere():
    rows, columns = np.mgrid[0:48, 0:64].astype(np.uint8)
    place = np.stack([columns, rows, rows], axis=-1)
    seen = set(), set()
    for _ in range(150):
        found = transformed({'type': 'ClipCrop', 'gt_size': 16}, gt=[place] * 2, img=[place[::4, ::4]] * 2,
                            gt_path=['g', 'h'], img_path=['l', 'm'])  # fmt: skip
        for gt, img in zip(found['gt'], found['img'], strict=True):
            assert gt.shape == (16, 16, 3)
            assert np.array_equal(gt[::4, ::4], img)
        assert np.array_equal(found['gt'][0], found['gt'][1])
        for places, place_of in zip(seen, found['gt'][0][0, 0, :2], strict=True):
            places.add(int(place_of))
    assert seen == (set(range(0, 49, 4)), set(range(0, 33, 4)))


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_made_lq_is_the_crop_of_the_bicubic_clip(tmp_path, order):
    frames = write_clip(tmp_path / 'GT' / 'a', 7, (48, 64))
    small = ClipDegradation('bicubic', 4)(as_tensor(frames), torch.Generator())
    pipeline = [{'type': 'LoadImageFromFile', 'key': 'gt', 'channel_order': order},
                {'type': 'ClipCrop', 'gt_size': 16, 'degradation': 'bicubic'}]  # fmt: skip
    found = data_set(tmp_path, pipeline, lq=False)[0]
    gt, img = (np.stack(found[key])[..., :: 1 if order == 'rgb' else -1] for key in ('gt', 'img'))
    ((y, x),) = [(y, x) for y in range(9) for x in range(13)
                 if np.array_equal(frames[:, 4 * y : 4 * y + 16, 4 * x : 4 * x + 16], gt)]  # fmt: skip
    assert img.dtype == np.uint8
    expected = (small[:, :, y : y + 4, x : x + 4] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(img, expected)
    assert found['img_channel_order'] == order


def test_colours_are_degraded_alike_in_both_orders(tmp_path):
    """JPEG weighs red, green and blue differently."""
    write_clip(tmp_path / 'GT' / 'a', 2, (48, 64))
    found = {}
    for order in ('rgb', 'bgr'):
        pipeline = [{'type': 'LoadImageFromFile', 'key': 'gt', 'channel_order': order},
                    {'type': 'ClipCrop', 'degradation': ['bicubic', {'type': 'jpeg', 'quality': 30}]}]  # fmt: skip
        found[order] = np.stack(data_set(tmp_path, pipeline, lq=False)[0]['img'])
    assert np.array_equal(found['rgb'], found['bgr'][..., ::-1])


def test_validation_degrades_a_clip_alike_every_time_and_training_does_not(tmp_path):
    write_clip(tmp_path / 'GT' / 'a')
    noise = ['bicubic', {'type': 'gaussian_noise', 'sigma': 20}]

    def img(seed):
        pipeline = [LOAD[0], {'type': 'ClipCrop', 'degradation': noise, 'seed': seed}]
        return np.stack(data_set(tmp_path, pipeline, lq=False)[0]['img'])

    assert np.array_equal(img(3), img(3))
    assert not np.array_equal(img(3), img(4))
    assert not np.array_equal(img(None), img(None))
    np.random.seed(7)
    one = img(None)
    np.random.seed(7)
    assert np.array_equal(img(None), one)


@pytest.mark.parametrize('lq', [False, True])
def test_the_middle_frame_alone(tmp_path, lq):
    gt, img = write_pair(tmp_path, 'a', 5)
    crop = {'type': 'ClipCrop', 'scale': 4, 'middle_only': True, **({} if lq else {'degradation': 'bicubic'})}
    found = data_set(tmp_path, [*(LOAD if lq else LOAD[:1]), crop, {'type': 'PackInputs'}], lq=lq)[0]
    assert found['inputs'].shape == (5, 3, 8, 10)
    if lq:
        assert torch.equal(found['inputs'], torch.from_numpy(img).permute(0, 3, 1, 2))
    packed = found['data_samples'].gt_img
    assert torch.equal(packed.reshape(3, 32, 40), torch.from_numpy(gt[2]).permute(2, 0, 1))


def test_a_window_with_stored_lq_loads_the_middle_frame_alone():
    paths = {key: [f'{key}/{i}' for i in range(5)] for key in ('gt_path', 'img_path')}
    found = transformed({'type': 'ClipWindow', 'num_frames': 5, 'middle_only': True}, **paths)
    assert found['gt_path'] == ['gt_path/2']
    assert len(found['img_path']) == 5


# ---------------------------------------------------------------------------------------------- documented blocks


def documented(name):
    found = {}
    exec(block('video_data.md', name, 'python'), found)
    return found


def batch_of(loader, crop):
    """One batch of a documented loader, at a size for tests, as the model gets it."""
    for transform in loader['dataset']['pipeline']:
        for key in ('gt_patch_size', 'gt_size'):
            if key in transform:
                transform[key] = crop
    loader = Runner.build_dataloader({**loader, 'num_workers': 0}, seed=0)
    preprocessor = MODELS.build({'type': 'DataPreprocessor', 'mean': [0.0] * 3, 'std': [255.0] * 3})
    batch = preprocessor(next(iter(loader)), training=True)
    return batch['inputs'], batch['data_samples'].gt_img


@pytest.fixture
def own(tmp_path, monkeypatch):
    """What make_clips.py writes, at the places that the documentation names."""
    monkeypatch.chdir(tmp_path)
    for split in ('train', 'test'):
        root = tmp_path / 'datasets' / 'own' / split
        for number in range(2):
            frames = write_clip(root / 'GT' / f'walk_{number:04d}', 7, (48, 64), seed=number)
            small = ClipDegradation('bicubic', 4)(as_tensor(frames), torch.Generator())
            (root / 'BIx4' / f'walk_{number:04d}').mkdir(parents=True)
            for frame, image in enumerate((small * 255).round().byte().permute(0, 2, 3, 1).numpy()):
                Image.fromarray(image).save(root / 'BIx4' / f'walk_{number:04d}' / f'{frame:08d}.png')
        (root / 'meta_info.txt').write_text('walk_0000 7 (48,64,3)\nwalk_0001 7 (48,64,3)\n')
    return tmp_path


@pytest.mark.parametrize('name', ['clips', 'stock'])
def test_both_documented_blocks_give_batches_of_clips(own, name):
    inputs, gt = batch_of(documented(name)['train_dataloader'], 16)
    assert (inputs.shape, gt.shape) == ((2, 7, 3, 4, 4), (2, 7, 3, 16, 16))
    assert 0 <= gt.min() < gt.max() <= 1
    pooled = torch.nn.functional.avg_pool2d(gt.flatten(0, 1), 4).reshape(inputs.shape)
    assert (pooled - inputs).abs().mean() < 0.05  # the same place, and turned alike
    assert (pooled.flip(0) - inputs).abs().mean() > 0.1


def test_the_documented_validation_gives_whole_windows(own):
    inputs, gt = batch_of(documented('clips')['val_dataloader'], None)
    assert (inputs.shape, gt.shape) == ((1, 7, 3, 12, 16), (1, 7, 3, 48, 64))


def test_the_documented_vimeo_block_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'datasets' / 'vimeo90k'
    for number in (1, 2):
        write_pair(root, f'00001/{number:04d}', size=(32, 48), names='im{}.png', first=1, seed=number)
    (root / 'LQ').rename(root / 'BIx4')
    (root / 'meta_info_Vimeo90K_train_GT.txt').write_text('00001/0001 7 (32,48,3)\n00001/0002 7 (32,48,3)\n')
    inputs, gt = batch_of({**documented('vimeo')['train_dataloader'], 'batch_size': 2}, 16)
    assert (inputs.shape, gt.shape) == ((2, 7, 3, 4, 4), (2, 7, 3, 16, 16))


def test_the_documented_reds_block_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'datasets' / 'REDS'
    write_pair(root, '000', 100, (16, 20))
    (root / 'train_sharp_bicubic').mkdir()
    (root / 'LQ').rename(root / 'train_sharp_bicubic' / 'X4')
    (root / 'GT').rename(root / 'train_sharp')
    (root / 'meta_info_official_train.txt').write_text('000 100 (16,20,3)\n')
    inputs, gt = batch_of({**documented('reds')['train_dataloader'], 'batch_size': 1}, 16)
    assert (inputs.shape, gt.shape) == ((1, 7, 3, 4, 4), (1, 7, 3, 16, 16))


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ('more', 'error', 'message'),
    [
        ({'num_input_frames': 8}, ValueError, "the clip 'a' has 7 frames, a window 8"),
        ({'num_input_frames': 0}, ValueError, 'num_input_frames must be'),
        (
            {'data_prefix': {'gt': 'GT', 'lq': 'LQ'}},
            ValueError,
            "unknown option of ClipFolderDataset: data_prefix: 'lq'",
        ),
        ({'data_prefix': {'img': 'LQ'}}, ValueError, "data_prefix needs 'gt'"),
        ({'data_prefix': {'gt': 'nowhere'}}, FileNotFoundError, 'data_prefix.gt: no such folder'),
        ({'ann_file': 'nowhere.txt'}, FileNotFoundError, 'meta_info_file: no such file'),
        ({'scale': 3}, ValueError, "the clip 'a' is 40 x 32 px, no multiple of scale: 3"),
        ({'scale': 2}, ValueError, "the clip 'a' is 40 x 32 px, its LQ 10 x 8 px: not 2 times"),
    ],
)
def test_wrong_options_of_the_data_set_are_refused(tmp_path, more, error, message):
    write_pair(tmp_path, 'a')
    with pytest.raises(error, match=message):
        data_set(tmp_path, **more)


def test_clips_that_do_not_pair_are_refused(tmp_path):
    write_pair(tmp_path, 'a')
    write_clip(tmp_path / 'LQ' / 'b', 7, (8, 12))
    with pytest.raises(
        ValueError, match=r'data_prefix.gt and data_prefix.img do not pair by name: .*1 \(b\) without GT'
    ):
        data_set(tmp_path)
    write_clip(tmp_path / 'GT' / 'b', 6, (32, 48))
    with pytest.raises(ValueError, match="the clip 'b' has 6 GT frames, but 7 LQ frames"):
        data_set(tmp_path)


def test_the_folder_above_both_kinds_is_refused(tmp_path):
    write_pair(tmp_path, 'a')
    with pytest.raises(ValueError, match='data_prefix.gt: .* holds GT beside LQ'):
        data_set(tmp_path, data_prefix={'gt': ''})


@pytest.mark.parametrize(
    ('transform', 'error', 'message'),
    [
        ({'type': 'ClipWindow', 'num_frames': 0}, ValueError, 'ClipWindow: num_frames'),
        ({'type': 'ClipWindow', 'interval_list': []}, TypeError, 'interval_list must be a list'),
        ({'type': 'ClipWindow', 'num_frames': 4, 'middle_only': True}, ValueError, 'needs an odd num_frames, got 4'),
        ({'type': 'ClipCrop', 'gt_size': 18}, ValueError, 'gt_size must be a multiple of scale: 4, got 18'),
        ({'type': 'ClipCrop', 'degradation': 'bicubik'}, ValueError, "exactly one stage 'bicubic'"),
        ({'type': 'ClipCrop', 'seed': -1}, ValueError, 'ClipCrop: seed'),
        ({'type': 'ClipCrop', 'gt_size': '16'}, TypeError, 'got the text'),
    ],
)
def test_wrong_options_of_a_transform_are_refused(transform, error, message):
    with pytest.raises(error, match=message):
        TRANSFORMS.build(transform)


def frames_of(*sizes):
    return [np.zeros((*size, 3), np.uint8) for size in sizes]


@pytest.mark.parametrize(
    ('transform', 'gt', 'img', 'message'),
    [
        ({}, frames_of((32, 40)), None, "the clip 'a' has no img; load it, or give a degradation"),
        ({'degradation': 'bicubic'}, frames_of((32, 40)), frames_of((8, 10)), "the clip 'a' has img already"),
        (
            {},
            frames_of((32, 40), (32, 44)),
            frames_of((8, 10), (8, 10)),
            "the clip 'a' has frames of unequal size: .* g1",
        ),
        ({}, frames_of((32, 40)), frames_of((8, 11)), "the clip 'a' is 40 x 32 px, its LQ 11 x 8 px"),
        ({'gt_size': 36}, frames_of((32, 40)), frames_of((8, 10)), 'smaller than gt_size: 36'),
        ({'degradation': 'bicubic'}, frames_of((32, 42)), None, 'no multiple of scale: 4'),
    ],
)
def test_frames_that_do_not_fit_are_refused(transform, gt, img, message):
    results = {'gt': gt, 'gt_path': ['g0', 'g1']} | ({'img': img, 'img_path': ['l0', 'l1']} if img else {})
    with pytest.raises(ValueError, match=message):
        transformed({'type': 'ClipCrop', **transform}, **results)


def test_a_clip_too_short_for_the_window_is_named():
    with pytest.raises(ValueError, match="the clip 'a' has 6 frames, a window 7"):
        transformed({'type': 'ClipWindow'}, gt_path=['f'] * 6)


# ---------------------------------------------------------------------------------------------- in training


@pytest.mark.slow
def test_the_stock_script_trains_and_validates_on_clips_with_made_lq(tmp_path):
    for number, frames in enumerate((7, 15)):
        write_clip(tmp_path / 'GT' / f'{number:03d}', frames, (256, 256), seed=number)
    clips = {'_delete_': True, 'type': 'ClipFolderDataset', 'data_root': str(tmp_path), 'data_prefix': {'gt': 'GT'}}
    crop = {'type': 'ClipCrop', 'degradation': 'bicubic'}
    config = write_config(
        tmp_path,
        'clips',
        'basicvsrpp_x4_clipiqa_lpips.py',
        model={
            'generator': {'mid_channels': 8, 'num_blocks': 1, 'spynet_pretrained': None},
            'pixel_loss': {'terms': TERMS},
        },
        train_dataloader={'num_workers': 0, 'batch_size': 1, 'dataset': {**clips, 'num_input_frames': 3, 'pipeline': [
            {'type': 'ClipWindow', 'num_frames': 3}, LOAD[0], {**crop, 'gt_size': 256}, {'type': 'PackInputs'}]}},
        val_dataloader={'num_workers': 0, 'dataset': {**clips, 'num_input_frames': 7, 'test_mode': True, 'pipeline': [
            LOAD[0], {**crop, 'seed': 0}, {'type': 'PackInputs'}]}},
        val_evaluator={'metrics': [{'type': 'PSNR'}, {'type': 'RelativeGain', 'judges': ['tests.judges:Darkness']}]},
        **short_run(tmp_path, steps=2),
    )  # fmt: skip
    result = run('train', tmp_path, config)
    assert result.returncode == 0, result.text[-4000:]
    steps, validations = logged(tmp_path, 'clips')
    assert sorted(steps) == [1, 2]
    assert np.isfinite(validations[2]['PSNR'])
    assert np.isfinite(validations[2]['gain/darkness'])
    scored = (tmp_path / 'clips' / 'baseline.csv').read_text()
    assert len(re.findall(r'^GT/', scored, re.MULTILINE)) == 21  # every frame of the three windows once


def test_the_hosts_lmdb_reader_asks_for_a_frame_without_its_clip(tmp_path):
    """So an lmdb cannot hold several clips whose frames have the same names (docs/video_data.md)."""
    lmdb = pytest.importorskip('lmdb', reason='lmdb comes with the extra basicsr')
    for seed, clip in enumerate(('000', '011')):
        write_pair(tmp_path, clip, 1, seed=seed)
    pixels = {clip: (tmp_path / 'GT' / clip / '00000000.png').read_bytes() for clip in ('000', '011')}
    for name, keys in (('whole', ('000/00000000', '011/00000000')), ('bare', ('00000000',))):
        with lmdb.open(str(tmp_path / name)) as packed, packed.begin(write=True) as transaction:
            for key in keys:
                transaction.put(key.encode(), pixels[key[:3] if '/' in key else '000'])

    def frames(name):
        backend = {'backend': 'lmdb', 'db_path': str(tmp_path / name)}
        data = data_set(tmp_path, [{**LOAD[0], 'backend_args': backend}], lq=False)
        return [data[index]['gt'][0] for index in range(2)]

    bare = frames('bare')
    assert np.array_equal(bare[0], bare[1])  # one key for both clips
    with pytest.raises(TypeError, match='NoneType'):
        frames('whole')


def test_real_clips(test_data, tmp_path):
    (tmp_path / 'GT').mkdir()
    (tmp_path / 'GT' / 'walk').symlink_to(test_data / 'video' / 'toflow_320x180')
    pipeline = [{'type': 'ClipWindow'}, LOAD[0], {'type': 'ClipCrop', 'gt_size': 128, 'degradation': 'bicubic'}]
    found = data_set(tmp_path, pipeline, lq=False)[0]
    start = int(found['gt_path'][0][-6:-4]) - 1
    frames = read_frames(test_data / 'video' / 'toflow_320x180')[start : start + 7]
    places = [(y, x) for y in range(0, 53, 4) for x in range(0, 193, 4)
              if np.array_equal(frames[:, y : y + 128, x : x + 128], np.stack(found['gt']))]  # fmt: skip
    assert len(places) == 1
    assert np.stack(found['img']).shape == (7, 32, 32, 3)
