"""BasicSR's ``MultiGTDataset``: what an item holds, where the LR image comes from, what is refused."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')

from basicsr.data import build_dataset
from basicsr.utils.matlab_functions import imresize

import nriqa_plugin.basicsr  # noqa: F401
from nriqa_plugin.checks import file_hash
from nriqa_plugin.multigt.scores import ScoresHeader, ScoreWriter
from tests.multigt_data import write_hggt, write_lmdb, write_sets

KERNELS = {
    'kernel_list': ['iso', 'aniso'], 'kernel_prob': [0.7, 0.3], 'blur_sigma': [0.1, 1.0], 'betag_range': [0.5, 4],
    'betap_range': [1, 2], 'sinc_prob': 0.1, 'kernel_list2': ['iso'], 'kernel_prob2': [1.0], 'blur_sigma2': [0.2, 1.5],
    'betag_range2': [0.5, 4], 'betap_range2': [1, 2], 'sinc_prob2': 0.1, 'final_sinc_prob': 0.8,
}  # fmt: skip


def build(root, **more):
    return build_dataset(
        {
            'type': 'MultiGTDataset', 'name': 'sets', 'phase': 'train', 'scale': 4, 'dataroot_gt': str(root),
            'io_backend': {'type': 'disk'}, 'gt_size': 32, 'use_hflip': True, 'use_rot': True, **more,
        }
    )  # fmt: skip


def pixels(path):
    return torch.from_numpy(np.asarray(Image.open(path)).transpose(2, 0, 1).copy()).float() / 255


def orientations(image):
    for flipped in (image, image.flip(2)):
        for turned in (flipped, flipped.flip(1)):
            yield from (turned, turned.transpose(1, 2))


@pytest.mark.parametrize('degradation', ['given', 'bicubic'])
def test_all_candidates_and_the_lr_image_share_position_flip_and_rotation(tmp_path, degradation):
    root = write_sets(tmp_path)
    more = {'dataroot_lq': str(root / 'lq')} if degradation == 'given' else {}
    data = build(root, **more)
    whole = [pixels(root / column / 'a.png') for column in ('gt', 'gt_01', 'gt_02')]
    small = pixels(root / 'lq' / 'a.png')
    if degradation == 'bicubic':
        small = (imresize(whole[0], 0.25).clamp(0, 1) * 255).round() / 255
    seen = set()
    for seed in range(30):
        random.seed(seed)
        item = data[0]
        top, left = item['gt_crop'].tolist()
        expected = [list(orientations(image[:, top : top + 32, left : left + 32])) for image in whole]
        changes = {
            next(i for i, one in enumerate(found) if torch.equal(one, candidate))
            for found, candidate in zip(expected, item['gt_candidates'], strict=True)
        }
        (change,) = changes
        lq = list(orientations(small[:, top // 4 : top // 4 + 8, left // 4 : left // 4 + 8]))[change]
        assert torch.allclose(item['lq'], lq, atol=1.01 / 255 if degradation == 'bicubic' else 0)
        assert torch.equal(item['gt'], item['gt_candidates'][0])
        seen.add((change, top, left))
    assert len({change for change, *_ in seen}) == 8
    assert len(seen) > 20


def test_the_lr_crop_is_that_of_the_whole_downscaled_original(tmp_path):
    from nriqa_plugin.basicsr.degradation import bicubic_crop

    image = np.random.default_rng(0).random((99, 121, 3), dtype=np.float32)
    whole = imresize(image[:96, :120], 0.25).clip(0, 1)
    for top, left in ((0, 0), (64, 88), (20, 40), (4, 84), (64, 0)):
        got = bicubic_crop(image, top, left, 32, 4)
        expected = whole[top // 4 : top // 4 + 8, left // 4 : left // 4 + 8]
        assert np.abs(got - expected).max() <= 0.501 / 255  # rounded to 8 bits, as a stored LR image is


def test_items_say_what_is_there_and_which_file_it_was(tmp_path):
    root = write_hggt(tmp_path, {'one': ('PSNP', 'PSNS', 'NSPN')})
    item = build(root, layout='hggt')[0]
    assert item['gt_candidates'].shape == (5, 3, 32, 32)
    assert item['gt_valid'].tolist() == [True] * 5
    assert item['gt_positive'].tolist() == [False, True, False, False, False]
    assert item['gt_name'] == '0-20193/one'
    assert item['gt_hashes'][2] == file_hash(root / 'images/0-20193/02/one_02.png')


def test_missing_candidates_are_zeros_that_count_as_invalid(tmp_path):
    root = write_sets(tmp_path)
    (root / 'gt' / 'a.png').unlink()
    (root / 'gt_02' / 'a.png').unlink()
    item = build(root, dataroot_lq=str(root / 'lq'))[0]
    assert item['gt_valid'].tolist() == [False, True, False]
    assert item['gt_hashes'][0] == ''
    assert not item['gt_candidates'][[0, 2]].any()
    assert 'gt' not in item


def test_crops_lie_on_the_grid_of_cached_scores(tmp_path):
    data = build(write_sets(tmp_path), crop_stride=16)
    places = {tuple(data[0]['gt_crop'].tolist()) for _ in range(100)}
    assert places == {(top, left) for top in (0, 16, 32) for left in (0, 16, 32, 48)}


def test_a_file_of_scores_gives_the_grid_and_is_checked_to_be_complete(tmp_path):
    root = write_sets(tmp_path)
    path = tmp_path / 'scores.jsonl'
    with ScoreWriter(path, ScoresHeader('any', 'hash', True, 32, 16)) as writer:
        for name, k in [('a', 0), ('a', 1), ('a', 2), ('b', 0), ('b', 1)]:
            writer.add(name, k, 'hash', (64, 80), np.zeros((3, 4)))
        with pytest.raises(ValueError, match=r"lacks 1 of 6 candidates \(the first: number 2 of 'b'\)"):
            build(root, scores=str(path))
        writer.add('b', 2, 'hash', (64, 80), np.zeros((3, 4)))
    assert build(root, scores=str(path)).stride == 16
    assert build(root, scores=str(path), crop_stride=32).stride == 32
    for more, message in (({'crop_stride': 8}, 'multiples of 8 px are not on it'), ({'gt_size': 48}, 'has 48')):
        with pytest.raises(ValueError, match=message):
            build(root, scores=str(path), **more)


def test_the_grid_of_a_file_of_scores_is_made_to_fit_the_scale(tmp_path):
    root, path = write_sets(tmp_path), tmp_path / 'scores.jsonl'
    with ScoreWriter(path, ScoresHeader('any', 'hash', True, 32, 6)) as writer:
        for name in 'ab':
            for k in range(3):
                writer.add(name, k, 'hash', (64, 80), np.zeros((6, 9)))
    assert build(root, scores=str(path)).stride == 12


def test_lmdb_gives_what_the_files_give(tmp_path):
    pytest.importorskip('lmdb')
    root = write_sets(tmp_path / 'files')
    (tmp_path / 'base').mkdir()
    for column in ('gt', 'gt_01', 'gt_02', 'lq'):
        write_lmdb(root / column, tmp_path / 'base' / f'{column}.lmdb')
    base = tmp_path / 'base'
    files = build(root, dataroot_lq=str(root / 'lq'))
    stored = build(base, dataroot_lq=str(base / 'lq.lmdb'), io_backend={'type': 'lmdb'})
    for i in range(2):
        items = []
        for data in (files, stored):
            random.seed(i)
            items.append(data[i])
        for key in ('lq', 'gt_candidates', 'gt_valid', 'gt_crop'):
            assert torch.equal(items[0][key], items[1][key])
        assert items[0]['gt_hashes'] == items[1]['gt_hashes']


def test_blind_degradation_draws_the_hosts_own_kernels(tmp_path):
    from basicsr.data.realesrgan_dataset import RealESRGANDataset

    root = write_sets(tmp_path, lq=None)
    data = build(root, degradation='blind', **KERNELS)
    (tmp_path / 'meta.txt').write_text('a.png\n')
    host = RealESRGANDataset(
        {'dataroot_gt': str(root / 'gt'), 'meta_info': str(tmp_path / 'meta.txt'), 'io_backend': {'type': 'disk'},
         'use_hflip': False, 'use_rot': False, 'blur_kernel_size': 21, 'blur_kernel_size2': 21, **KERNELS}
    )  # fmt: skip
    drawn = []
    for draw in (data.kernels.draw, lambda: host[0]):
        random.seed(3)
        np.random.seed(3)
        drawn.append(draw())
    assert 'lq' not in data[0]
    for key in ('kernel1', 'kernel2', 'sinc_kernel'):
        assert drawn[0][key].shape == data[0][key].shape == (21, 21)
        assert torch.equal(drawn[0][key], drawn[1][key])
    narrow = build(root, degradation='blind', kernel_sizes=[3, 5], **{**KERNELS, 'sinc_prob': 0})
    for _ in range(10):
        kernel = narrow[0]['kernel1']
        assert kernel[8:13, 8:13].sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'gt_sise': 3}, ValueError, "'gt_sise'. Did you mean 'gt_size'"),
        ({'gt_size': 30}, ValueError, 'gt_size: 30 is not a multiple of scale 4'),
        ({'crop_stride': 6}, ValueError, 'crop_stride: 6 is not a multiple of scale 4'),
        ({'degradation': 'blind'}, ValueError, 'missing: .*kernel_list'),
        (
            {'degradation': 'blind', 'kernel_sizes': [4, 8], **KERNELS},
            ValueError,
            'kernel_sizes must be two odd numbers',
        ),
        ({'degradation': 'given'}, ValueError, 'a has no LR image; give dataroot_lq'),
        ({'degradation': 'bicubic', 'dataroot_lq': 'x'}, ValueError, 'exclude each other'),
        ({'phase': 'val'}, ValueError, 'MultiGTDataset is for training'),
        ({'use_hflip': 'true'}, TypeError, 'use_hflip must be true or false'),
        ({'io_backend': {'type': 'memcached'}}, ValueError, 'io_backend.type'),
    ],
)
def test_wrong_options_of_the_data_set_are_refused(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        build(write_sets(tmp_path), **options)


def test_a_candidate_of_another_size_than_the_original_is_named(tmp_path):
    root = write_sets(tmp_path)
    Image.open(root / 'gt_01' / 'a.png').crop((0, 0, 76, 64)).save(root / 'gt_01' / 'a.png')
    data = build(root)
    with pytest.raises(ValueError, match=r'set a: .*gt_01/a.png has 64 x 76 px, but .*gt/a.png has 64 x 80 px'):
        data[0]
    data[1]


@pytest.mark.parametrize(
    ('column', 'spoil', 'message'),
    [
        ('gt_02', lambda path: path.write_bytes(path.read_bytes()[:20]), r'gt_02/a.png is not a readable image'),
        ('gt_02', lambda path: path.write_bytes(b''), r'gt_02/a.png is not a readable image'),
        ('lq', lambda path: Image.open(path).crop((0, 0, 10, 16)).save(path), r'lq/a.png has 16 x 10 px, .* not 1/4'),
    ],
)
def test_damaged_images_are_named(tmp_path, column, spoil, message):
    root = write_sets(tmp_path)
    spoil(root / column / 'a.png')
    with pytest.raises(ValueError, match=message):
        build(root, dataroot_lq=str(root / 'lq'))[0]


def test_images_smaller_than_the_crop_are_named(tmp_path):
    with pytest.raises(ValueError, match='gt/a.png has 64 x 80 px, less than gt_size: 96'):
        build(write_sets(tmp_path), gt_size=96)[0]
