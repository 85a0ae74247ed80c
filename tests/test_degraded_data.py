"""Degradation on the fly: BasicSR's data set and mmagic's transform."""

import random

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

SIGMA = {'type': 'gaussian_noise', 'sigma': 25}


@pytest.fixture
def images(tmp_path):
    """Three smooth colour images of 48 x 40 px: ``a.png``, ``b.png``, ``c.png``."""
    rng = np.random.default_rng(0)
    for name in 'abc':
        small = Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8))
        small.resize((48, 40), Image.BICUBIC).save(tmp_path / f'{name}.png')
    return tmp_path


def options(folder, phase='val', **more):
    opt = {
        'name': 'x', 'type': 'DegradedImageDataset', 'phase': phase, 'scale': 1, 'dataroot_gt': str(folder),
        'degradation': SIGMA, 'io_backend': {'type': 'disk'},
    }  # fmt: skip
    return {**opt, **({'gt_size': 24, 'use_hflip': True, 'use_rot': True} if phase == 'train' else {}), **more}


def data_set(folder, phase='val', **more):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from basicsr.data import build_dataset

    import nriqa_plugin.basicsr  # noqa: F401

    return build_dataset(options(folder, phase, **more))


def read(path):
    """RGB ``(3, H, W)`` in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1).float() / 255


def spoil(images, generator):
    """A distortion of one's own: darker by a random amount."""
    return images - torch.rand(1, generator=generator)


def shrinking(images, generator):
    return images[..., 1:]


class Halved:
    def __call__(self, images, generator):
        return images / 2


# ------------------------------------------------------------------------------------------------- BasicSR


def test_validation_gives_whole_images_and_the_hosts_keys_in_the_order_of_names(images):
    found = [data_set(images)[i] for i in range(3)]
    for name, item in zip('abc', found, strict=True):
        assert item.keys() == {'lq', 'gt', 'lq_path', 'gt_path'}
        assert item['gt_path'] == item['lq_path'] == str(images / f'{name}.png')
        torch.testing.assert_close(item['gt'], read(images / f'{name}.png'), rtol=0, atol=1e-6)
        assert item['lq'].shape == item['gt'].shape == (3, 40, 48)
        assert item['lq'].dtype == torch.float32


def test_the_noise_has_the_strength_that_was_asked_for_and_is_not_clipped(images):
    noise = torch.stack([item['lq'] - item['gt'] for item in (data_set(images)[i] for i in range(3))])
    assert noise.std().item() * 255 == pytest.approx(25, rel=0.03)  # 17280 values: 0.5 % standard error
    assert abs(noise.mean().item()) * 255 < 4 * 25 / 17280**0.5
    white = Image.new('RGB', (48, 40), 'white')
    white.save(images / 'a.png')
    assert data_set(images)[0]['lq'].max() > 1


def test_jpeg_is_what_pillow_makes_of_the_image(images):
    whole = data_set(images, degradation={'type': 'jpeg', 'quality': 10})[1]
    Image.open(images / 'b.png').save(images.parent / f'{images.name}.jpg', quality=10)
    torch.testing.assert_close(whole['lq'], read(images.parent / f'{images.name}.jpg'), rtol=0, atol=1e-6)


def test_every_validation_sees_the_same_images_whatever_happens_between(images):
    first, second = data_set(images), data_set(images)
    before = [first[i]['lq'] for i in range(3)]
    random.seed(99)
    torch.manual_seed(99)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for i in (2, 0, 1):  # in another order, by another data set
        assert torch.equal(second[i]['lq'], before[i])
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert np.array_equal(np.random.get_state()[1], state[2])


def test_validation_depends_on_the_seed_and_on_the_place(images):
    noise = [data_set(images, seed=seed)[i] for seed in (0, 1) for i in (0, 1)]
    noise = [item['lq'] - item['gt'] for item in noise]
    for i in range(4):
        for j in range(i):
            correlation = torch.corrcoef(torch.stack([noise[i].flatten(), noise[j].flatten()]))[0, 1]
            assert abs(correlation) < 5 / noise[i].numel() ** 0.5


def test_training_draws_anew_and_follows_the_hosts_seed(images):
    train = data_set(images, 'train')

    def draw():
        random.seed(7)
        return [train[0] for _ in range(3)]

    one, other = draw(), draw()
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a['lq'], b['lq'])
        assert torch.equal(a['gt'], b['gt'])
    noise = [item['lq'] - item['gt'] for item in one]
    assert not torch.equal(noise[0], noise[1])
    torch.manual_seed(5)  # not torch's and not numpy's generator
    np.random.seed(5)
    assert torch.equal(draw()[2]['lq'], one[2]['lq'])


def test_blind_noise_draws_its_strength_for_every_image(images):
    train = data_set(images, 'train', degradation={'type': 'gaussian_noise', 'sigma': [0, 55]})
    items = [train[i % 3] for i in range(200)]
    strengths = np.array([(item['lq'] - item['gt']).std().item() * 255 for item in items])
    assert strengths.min() < 5
    assert strengths.max() > 50
    assert strengths.mean() == pytest.approx(27.5, abs=5 * 55 / 12**0.5 / 200**0.5)


def test_training_crops_come_from_the_image_and_are_degraded_after_the_flips(images):
    """JPEG of the crop itself: the same whatever the crop was flipped like, and every flip occurs."""
    train = data_set(images, 'train', degradation={'type': 'jpeg', 'quality': 10})
    whole = read(images / 'a.png')
    patches = whole.unfold(1, 24, 1).unfold(2, 24, 1).flatten(1, 2).transpose(0, 1)  # every 24 px window
    kinds = set()
    for _ in range(60):
        item = train[0]
        assert item['gt'].shape == (3, 24, 24)
        seen = []
        for kind in range(8):
            turned = item['gt'].transpose(1, 2) if kind & 4 else item['gt']
            turned = turned.flip([d for d, bit in ((1, 1), (2, 2)) if kind & bit])
            seen += [kind] if (patches - turned).abs().flatten(1).max(1).values.min() < 1e-6 else []
        assert len(seen) == 1
        kinds.update(seen)
        levels = (item['gt'] * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(images / 'crop.jpg', quality=10)
        torch.testing.assert_close(item['lq'], read(images / 'crop.jpg'), rtol=0, atol=1e-6)
    assert kinds == set(range(8))


@pytest.mark.parametrize('color', ['y', 'grey'])
def test_grey_images_have_one_channel(images, color):
    gt = data_set(images, color=color)[0]['gt']
    bgr = cv2.imread(str(images / 'a.png'))
    if color == 'y':
        from basicsr.utils import bgr2ycbcr

        expected = bgr2ycbcr(bgr.astype(np.float32) / 255, y_only=True)
    else:
        expected = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY) / 255
    assert gt.shape == (1, 40, 48)
    torch.testing.assert_close(gt[0].double(), torch.from_numpy(expected).double(), rtol=0, atol=0.6 / 255)
    item = data_set(images, 'train', color=color, degradation={'type': 'jpeg', 'quality': 10})[0]
    assert item['lq'].shape == item['gt'].shape == (1, 24, 24)


def test_published_weights_reach_their_figure_through_the_data_set(test_data):
    file = test_data / 'weights' / 'dncnn_25.pth'
    if not file.is_file():
        pytest.skip(f'no {file.name} in {file.parent}')
    from nriqa_plugin.archs import DnCNN
    from tests.test_dncnn import middle

    net = DnCNN(act_mode='R').eval()
    net.load_state_dict(torch.load(file, weights_only=True))
    found = data_set(test_data / 'images' / 'set5' / 'HR', color='grey')
    psnr = []
    for i in range(5):
        item = found[i]
        lq, gt = (middle(item[key], 128) for key in ('lq', 'gt'))
        with torch.no_grad():
            error = net(lq[None])[0].clamp(0, 1) - gt
        psnr.append(-10 * torch.log10(error.square().mean()).item())
    assert np.mean(psnr) == pytest.approx(32.43, abs=0.1)  # as in test_dncnn.py, which uses no data set


def test_mean_and_std_are_taken_from_both_images(images):
    plain, normed = data_set(images)[0], data_set(images, mean=[0.5] * 3, std=[0.25] * 3)[0]
    for key in ('lq', 'gt'):
        torch.testing.assert_close(normed[key], (plain[key] - 0.5) / 0.25)


def test_meta_info_chooses_the_files_and_their_order(images):
    (images / 'meta.txt').write_text('c.png (40,48,3)\n\na.png (40,48,3)\n')
    found = data_set(images, meta_info_file=str(images / 'meta.txt'))
    assert [item['gt_path'] for item in (found[0], found[1])] == [str(images / 'c.png'), str(images / 'a.png')]
    assert len(found) == 2


def test_an_lmdb_gives_the_same_images_as_the_folder(images):
    pytest.importorskip('lmdb')
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    base = images.parent / f'{images.name}.lmdb'
    make_lmdb_from_imgs(str(images), str(base), [f'{n}.png' for n in 'abc'], list('abc'))
    found = data_set(base, io_backend={'type': 'lmdb'})
    folder = data_set(images)
    assert len(found) == 3
    for i in range(3):
        assert torch.equal(found[i]['lq'], folder[i]['lq'])
        assert found[i]['gt_path'] == 'abc'[i]


@pytest.mark.parametrize('name', ['tests.test_degraded_data:spoil', 'tests.test_degraded_data:Halved'])
def test_ones_own_distortion_is_named_by_its_path(images, name):
    item = data_set(images, degradation=name)[0]
    change = item['lq'] - item['gt']
    if name.endswith('spoil'):
        assert -1 <= change.mean() < 0
        torch.testing.assert_close(change, change.mean().expand_as(change), rtol=1e-4, atol=1e-5)
        assert not torch.equal(data_set(images, degradation=name)[1]['lq'] - item['gt'], change)
    else:
        assert torch.equal(item['lq'], item['gt'] / 2)


def test_files_that_are_no_images_are_left_out_and_counted(images, plugin_log):
    (images / 'Thumbs.db').write_bytes(b'x')
    assert len(data_set(images)) == 3
    assert '1 files in' in plugin_log.text


@pytest.mark.parametrize(
    ('more', 'error', 'message'),
    [
        ({'degredation': SIGMA}, ValueError, "'degredation'. Did you mean 'degradation'"),
        ({'dataroot_lq': 'x'}, ValueError, 'dataroot_lq'),
        ({'degradation': None}, ValueError, "the option 'degradation' is missing"),
        ({'degradation': {'type': 'jpg', 'quality': 10}}, ValueError, "distortion 'jpg'. Did you mean 'jpeg'"),
        ({'degradation': {'type': 'jpeg', 'quality': 0}}, ValueError, r'degradation: quality must be .* got 0'),
        ({'degradation': {'type': 'gaussian_noise', 'sigma': '25'}}, TypeError, 'sigma must be a number, got the text'),
        ({'scale': 4}, ValueError, 'scale must be 1, got 4'),
        ({'seed': -1}, ValueError, 'seed must be'),
        ({'color': 'gray'}, ValueError, "color: 'gray'. Did you mean 'grey'"),
        ({'dataroot_gt': 'nowhere'}, FileNotFoundError, 'dataroot_gt: no such folder: nowhere'),
        ({'meta_info_file': 'nowhere.txt'}, FileNotFoundError, r'meta_info_file: no such file: nowhere\.txt'),
        ({'phase': 'train', 'gt_size': None}, TypeError, 'gt_size must be'),
        ({'phase': 'train', 'gt_size': 24, 'use_rot': 'no'}, TypeError, 'use_rot must be true or false'),
        ({'io_backend': {'type': 'lmdb'}}, ValueError, 'lmdb'),
    ],
)
def test_wrong_options_are_named_at_construction(images, more, error, message):
    with pytest.raises(error, match=message):
        data_set(images, **more)


def test_bad_images_are_named(images):
    empty = images / 'empty'
    empty.mkdir()
    with pytest.raises(ValueError, match=r'no images in .*empty'):
        data_set(empty)
    with pytest.raises(ValueError, match=r'a\.png: the image is 48 x 40 px, smaller than gt_size: 41'):
        data_set(images, 'train', gt_size=41)[0]
    (images / 'b.png').write_bytes((images / 'b.png').read_bytes()[:60])
    with pytest.raises(ValueError, match=r'b\.png: cannot read the image'):
        data_set(images)[1]
    with pytest.raises(ValueError, match=r'a\.png: degradation: .*must keep the shape'):
        data_set(images, degradation='tests.test_degraded_data:shrinking')[0]


def test_workers_of_the_hosts_loader_draw_different_noise(images):
    """The host seeds python's generator in every worker; lmdb and file clients are opened there."""
    from functools import partial

    from torch.utils.data import DataLoader

    train = data_set(images, 'train', degradation=SIGMA, gt_size=40, use_hflip=False, use_rot=False)
    from basicsr.data import worker_init_fn

    def noise():
        seeded = partial(worker_init_fn, num_workers=2, rank=0, seed=3)
        loader = DataLoader(train, batch_size=1, sampler=[0, 0, 0, 0], num_workers=2, worker_init_fn=seeded)
        return [batch['lq'] - batch['gt'] for batch in loader]

    one, other = noise(), noise()
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(torch.equal(one[i], one[j]) for i in range(4) for j in range(i))


# -------------------------------------------------------------------------------------------------- mmagic


def degrade(gt, path='x/a.png', order='rgb', **options):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    from mmagic.registry import TRANSFORMS

    import nriqa_plugin.mmagic  # noqa: F401

    transform = TRANSFORMS.build({'type': 'Degrade', 'degradation': SIGMA, **options})
    return transform({'gt': gt, 'gt_path': path, 'gt_channel_order': order, 'gt_color_type': 'color'})


@pytest.fixture
def gt():
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8))
    return np.array(small.resize((48, 40), Image.BICUBIC))


def test_degrade_makes_img_beside_an_untouched_gt(gt):
    before = gt.copy()
    results = degrade(gt)
    assert results['gt'] is gt
    assert np.array_equal(gt, before)
    assert results['img'].dtype == np.float32
    assert (results['img'] - gt).std() == pytest.approx(25, rel=0.05)
    assert results['img_path'] == 'x/a.png'
    assert (results['img_channel_order'], results['img_color_type']) == ('rgb', 'color')


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_degrade_codes_jpeg_in_rgb_whatever_the_order_of_channels(gt, order, tmp_path):
    results = degrade(
        gt[..., ::-1].copy() if order == 'bgr' else gt, order=order, degradation={'type': 'jpeg', 'quality': 10}
    )
    Image.fromarray(gt).save(tmp_path / 'x.jpg', quality=10)
    expected = np.array(Image.open(tmp_path / 'x.jpg')).astype(np.float32)
    img = results['img'][..., ::-1] if order == 'bgr' else results['img']
    np.testing.assert_allclose(img, expected, atol=1e-3)


def test_degrade_with_a_seed_depends_on_seed_and_file_name_only(gt):
    one = degrade(gt, seed=0)['img']
    np.random.seed(123)
    assert np.array_equal(degrade(gt, 'elsewhere/a.png', seed=0)['img'], one)
    assert not np.array_equal(degrade(gt, 'x/b.png', seed=0)['img'], one)
    assert not np.array_equal(degrade(gt, seed=1)['img'], one)
    state = np.random.get_state()[1].copy()
    degrade(gt, seed=0)
    assert np.array_equal(np.random.get_state()[1], state)


def test_degrade_without_a_seed_follows_numpys_generator(gt):
    def draw():
        np.random.seed(3)
        return [degrade(gt)['img'] for _ in range(2)]

    one, other = draw(), draw()
    assert np.array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_degrade_takes_grey_images(gt):
    results = degrade(gt[..., :1], degradation={'type': 'jpeg', 'quality': 10})
    assert results['img'].shape == (40, 48, 1)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'degradation': {'type': 'nois'}}, ValueError, 'Degrade: degradation: unknown distortion'),
        ({'degradation': None}, TypeError, 'Degrade: degradation: a distortion is'),
        ({'seed': 0.5}, TypeError, 'Degrade: seed'),
        ({'degradation': 'tests.test_degraded_data:shrinking'}, ValueError, r'Degrade, x/a\.png: .*keep the shape'),
    ],
)
def test_degrade_names_what_is_wrong(gt, options, error, message):
    with pytest.raises(error, match=message):
        degrade(gt, **options)


@pytest.mark.parametrize(('wrong', 'message'), [(None, 'there is none'), ([np.zeros((4, 4, 3))], 'got list')])
def test_degrade_wants_one_image(wrong, message):
    with pytest.raises(ValueError, match=message):
        degrade(wrong)
