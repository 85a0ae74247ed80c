"""Choosing among several ground truths in mmagic: pipeline, data preprocessor, models, the stock script."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmagic.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

import nriqa_plugin.mmagic  # noqa: F401
from nriqa_plugin.checks import file_hash
from nriqa_plugin.mmagic.multigt import MultiGTPreprocessor
from nriqa_plugin.mmagic.start_checks import check_channel_order, check_losses, own_losses
from nriqa_plugin.multigt import AMOSampler
from nriqa_plugin.multigt.scores import ScoresHeader, ScoreWriter
from tests.mmagic_runs import forget_after, logged, paired, pipeline, run, short_run, write_config
from tests.multigt_data import write_hggt, write_sets
from tests.test_mmagic_models import PAIR, RRDB, SR, TERMS, UNET, VANILLA, build, seen

AMO = {'type': 'AMOSampler', 'method': 'amo', 'metric': 'tests.judges:Brightness'}
FLIPS = [
    {'type': 'Flip', 'keys': ['img', 'gt'], 'flip_ratio': 0.5, 'direction': 'horizontal'},
    {'type': 'Flip', 'keys': ['img', 'gt'], 'flip_ratio': 0.5, 'direction': 'vertical'},
    {'type': 'RandomTransposeHW', 'keys': ['img', 'gt'], 'transpose_ratio': 0.5},
]


@pytest.fixture(autouse=True)
def _mmagic_scope():
    init_default_scope('mmagic')


def transforms(order='rgb', side=32, stride=None, lq=True, steps=FLIPS):
    load = [{'type': 'LoadGroundTruths', 'channel_order': order}]
    if lq:
        load.append({'type': 'LoadImageFromFile', 'key': 'img', 'channel_order': order})
    load.append({'type': 'SetValues', 'dictionary': {'scale': 4}})
    return [
        *load,
        {'type': 'MultiGTCrop', 'gt_patch_size': side, 'stride': stride},
        *steps,
        {'type': 'PackGroundTruths'},
    ]


def data_set(folder, lq=True, steps=FLIPS, **more):
    root = write_sets(folder / 'data')
    option = {'type': 'MultiGTDataset', 'data_root': str(root), 'pipeline': transforms(lq=lq, steps=steps, **more)}
    return DATASETS.build({**option, 'data_prefix': {'img': str(root / 'lq')}} if lq else option)


def preprocessor(selection=AMO, **more):
    return MODELS.build(
        {'type': 'MultiGTPreprocessor', 'mean': [0.0] * 3, 'std': [255.0] * 3, 'selection': selection, **more}
    )


def batch_of(data):
    return pseudo_collate([data[0], data[1]])


def candidates_of(batch):
    return torch.stack([sample.gt_img for sample in batch['data_samples']]).float()


def test_the_sampler_is_built_by_its_registered_name():
    sampler = MODELS.build({**AMO, 'method': 'sma', 'tau': 0.5})
    assert isinstance(sampler, AMOSampler)
    assert (sampler.method, sampler.tau) == ('sma', 0.5)


def test_all_candidates_and_the_lr_image_share_position_flip_and_rotation(tmp_path):
    data = data_set(tmp_path)
    root = tmp_path / 'data'
    whole = [np.asarray(Image.open(root / column / 'a.png')) for column in ('gt', 'gt_01', 'gt_02')]
    small = np.asarray(Image.open(root / 'lq' / 'a.png'))
    seen_changes = set()
    for seed in range(40):
        np.random.seed(seed)
        item = data[0]
        top, left = item['data_samples'].metainfo['gt_crop']
        got = item['data_samples'].gt_img.permute(0, 2, 3, 1).numpy()
        change = {_change(image[top : top + 32, left : left + 32], one) for image, one in zip(whole, got, strict=True)}
        lq = item['inputs'].permute(1, 2, 0).numpy()
        change.add(_change(small[top // 4 : top // 4 + 8, left // 4 : left // 4 + 8], lq))
        assert len(change) == 1
        seen_changes |= change
    assert seen_changes == set(range(8))


def _change(image, changed):
    """Which of the eight flips and rotations turns one image into the other."""
    turned = [v for h in (image, image[:, ::-1]) for w in (h, h[::-1]) for v in (w, w.transpose(1, 0, 2))]
    return next(i for i, one in enumerate(turned) if np.array_equal(one, changed))


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_the_model_gets_the_chosen_candidate_in_its_own_channel_order(tmp_path, order):
    red = {**AMO, 'metric': 'tests.test_multigt_mmagic:redness'}
    data = data_set(tmp_path, order=order)
    batch = batch_of(data)
    candidates = candidates_of(batch)
    channel = 0 if order == 'rgb' else 2
    expected = candidates[:, :, channel].flatten(2).mean(2).argmax(1)
    out = preprocessor(red)(batch, training=True)
    target = torch.stack([candidates[n, k] for n, k in enumerate(expected)]) / 255
    assert torch.allclose(out['data_samples'].gt_img, target, atol=1e-6)
    assert out['inputs'].shape == (2, 3, 8, 8)
    assert float(out['inputs'].max()) <= 1


def redness():
    from tests.judges import Brightness

    class Redness(Brightness):
        name = 'redness'

        def score(self, pred, ref=None):
            return pred[:, 0].flatten(1).mean(1)

    return Redness()


def test_ragged_sets_and_single_candidates_pass(tmp_path):
    data = data_set(tmp_path)
    (tmp_path / 'data' / 'gt_02' / 'a.png').unlink()
    (tmp_path / 'data' / 'gt_01' / 'b.png').unlink()
    (tmp_path / 'data' / 'gt' / 'b.png').unlink()
    data = DATASETS.build({'type': 'MultiGTDataset', 'data_root': str(tmp_path / 'data'), 'pipeline': transforms(),
                           'data_prefix': {'img': str(tmp_path / 'data' / 'lq')}})  # fmt: skip
    batch = batch_of(data)
    shapes = [tuple(sample.gt_img.shape) for sample in batch['data_samples']]
    assert shapes == [(2, 3, 32, 32), (3, 32, 32)]  # mmagic packs a list of one without its dimension
    first, second = (sample.gt_img.clone().float() for sample in batch['data_samples'])
    model = preprocessor()
    out = model(batch, training=True)
    assert torch.equal(out['data_samples'].gt_img, torch.stack([first[1], second]) / 255)
    log = model.sampler.log_values()
    assert {key: log[key] for key in ('gt_0', 'gt_1', 'gt_2')} == {'gt_0': 0.0, 'gt_1': 0.5, 'gt_2': 0.5}


def test_positives_of_hggt_reach_the_choice(tmp_path):
    root = write_hggt(tmp_path, {'x': ('PSNP', 'PSNS', 'NSPN'), 'y': ('SSSP', 'SSSP', 'SSSP')})
    steps = [{'type': 'OriginalToLQ'}, {'type': 'RandomResize', 'params': RESIZE, 'keys': ['img']}]
    data = DATASETS.build({'type': 'MultiGTDataset', 'data_root': str(root), 'layout': 'hggt',
                           'pipeline': transforms(lq=False, steps=steps)})  # fmt: skip
    batch = batch_of(data)
    candidates = candidates_of(batch)
    out = preprocessor({'type': 'AMOSampler', 'method': 'upos'})(batch, training=True)
    assert torch.equal(out['data_samples'].gt_img, torch.stack([candidates[0, 1], candidates[1, 4]]) / 255)
    meta = out['data_samples'].metainfo
    assert meta['gt_hashes'][0][0] == file_hash(root / 'images/0-20193/original/x.png')


RESIZE = {'target_size': (8, 8), 'resize_opt': ['area'], 'resize_prob': [1.0]}


def test_the_lr_image_is_made_of_the_original(tmp_path):
    steps = [{'type': 'OriginalToLQ'}, {'type': 'RandomResize', 'params': RESIZE, 'keys': ['img']}]
    item = data_set(tmp_path, lq=False, steps=steps)[0]
    original = item['data_samples'].gt_img[0].float()
    assert torch.allclose(item['inputs'], torch.nn.functional.avg_pool2d(original, 4), atol=1e-3)


@pytest.mark.parametrize('kind', ['SRGAN', 'RealESRGAN'])
def test_the_choice_is_the_same_for_every_loss_and_for_the_discriminator(tmp_path, kind):
    sharpen = {'type': 'UnsharpMasking', 'keys': ['gt'], 'kernel_size': 51, 'sigma': 0, 'weight': 0.5, 'threshold': 10}
    data = data_set(tmp_path, side=64, steps=[sharpen] if kind == 'RealESRGAN' else [])
    batch = batch_of(data)
    chosen = candidates_of(batch)[:, 2] / 255
    config = {
        'type': kind, 'generator': RRDB, 'discriminator': UNET, 'gan_loss': VANILLA, 'perceptual_loss': PAIR,
        'data_preprocessor': {'type': 'MultiGTPreprocessor', 'mean': [0.0] * 3, 'std': [255.0] * 3, 'selection': AMO},
    }  # fmt: skip
    sharpened = None
    if kind == 'RealESRGAN':
        config |= {'is_use_sharpened_gt_in_percep': True}
        sharpened = torch.stack([sample.gt_unsharp for sample in batch['data_samples']])[:, 2] / 255
    model, optim_wrapper = build(config, {'type': 'LossSum', 'terms': TERMS})
    check_losses(model)
    check_channel_order(model, batch)
    pixel, pair, discriminator = (seen(part) for part in (model.pixel_loss, model.perceptual_loss, model.discriminator))
    model.train_step(batch, optim_wrapper)
    assert torch.allclose(pixel[0][1], chosen, atol=1e-6)
    assert torch.allclose(pair[0][1], (chosen if sharpened is None else sharpened).clamp(0, 1), atol=1e-6)
    assert any(torch.allclose(call[0], chosen, atol=1e-6) for call in discriminator)


def test_plain_ground_truths_stand_in_for_sharpened_ones_when_asked(tmp_path):
    out = preprocessor(gt_unsharp='plain')(batch_of(data_set(tmp_path)), training=True)
    assert torch.equal(out['data_samples'].gt_unsharp / 255, out['data_samples'].gt_img)


def test_validation_samples_pass_as_in_the_stock_preprocessor(tmp_path):
    write_sets(tmp_path)
    option = {'type': 'BasicImageDataset', **paired(tmp_path), 'pipeline': pipeline()}
    batch = pseudo_collate([DATASETS.build(option)[0]])
    out = preprocessor()(batch, training=False)
    assert out['data_samples'].gt_img.shape == (1, 3, 64, 80)


def test_the_choice_has_a_state_like_a_loss_and_stays_out_of_the_checkpoint(tmp_path):
    config = {'type': 'BaseEditModel', 'generator': SR, 'data_preprocessor': {
        'type': 'MultiGTPreprocessor', 'mean': [0.0] * 3, 'std': [255.0] * 3,
        'selection': {**AMO, 'metric': 'tests.judges:TinyNet'}}}  # fmt: skip
    model, optim_wrapper = build(config, {'type': 'LossSum', 'terms': TERMS[:1]})
    assert isinstance(own_losses(model)['data_preprocessor'], MultiGTPreprocessor)
    model.train_step(batch_of(data_set(tmp_path)), optim_wrapper)
    assert not [key for key in model.state_dict() if 'sampler' in key or 'scorer' in key]
    state = model.data_preprocessor.loss_state()
    other, _ = build(config, {'type': 'LossSum', 'terms': TERMS[:1]})
    other.data_preprocessor.load_loss_state(state)
    assert other.data_preprocessor.sampler.log_values() == model.data_preprocessor.sampler.log_values() != {}


def test_crops_on_the_grid_find_their_cached_scores(tmp_path):
    data = data_set(tmp_path, stride=16)
    path = tmp_path / 'scores.jsonl'
    root = tmp_path / 'data'
    rng = np.random.default_rng(0)
    tables = {(name, k): rng.random((3, 4)) for name in 'ab' for k in range(3)}
    with ScoreWriter(path, ScoresHeader('any', 'hash', True, 32, 16)) as writer:
        for (name, k), table in tables.items():
            column = 'gt' if k == 0 else f'gt_{k:02d}'
            writer.add(name, k, file_hash(root / column / f'{name}.png'), (64, 80), table)
    model = preprocessor({'type': 'AMOSampler', 'scores': str(path)})
    for _ in range(5):
        batch = batch_of(data)
        candidates = candidates_of(batch)
        index = []
        for name, sample in zip('ab', batch['data_samples'], strict=True):
            top, left = sample.metainfo['gt_crop']
            index.append(int(np.argmax([tables[name, k][top // 16, left // 16] for k in range(3)])))
        expected = torch.stack([candidates[n, k] for n, k in enumerate(index)]) / 255
        assert torch.equal(model(batch, training=True)['data_samples'].gt_img, expected)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: preprocessor({'type': 'AMO'}), "type 'AMO'"),
        (lambda: preprocessor('amo'), "type 'amo'"),
        (lambda: preprocessor(gt_unsharp='sharp'), 'gt_unsharp'),
        (lambda: preprocessor({**AMO, 'metod': 'sma'}), "'metod'. Did you mean 'method'"),
        (lambda: TRANSFORMS.build({'type': 'MultiGTCrop', 'gt_patch_size': 0}), 'gt_patch_size'),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_samples_without_candidates_and_sizes_that_differ_are_refused(tmp_path):
    root = write_sets(tmp_path / 'data')
    plain = DATASETS.build({'type': 'BasicImageDataset', **paired(root), 'pipeline': pipeline()})
    with pytest.raises(ValueError, match='must be a MultiGTDataset whose pipeline ends with PackGroundTruths'):
        preprocessor()(pseudo_collate([plain[0]]), training=True)
    Image.open(root / 'gt_01' / 'a.png').crop((0, 0, 76, 64)).save(root / 'gt_01' / 'a.png')
    data = DATASETS.build({'type': 'MultiGTDataset', 'data_root': str(root), 'pipeline': transforms(),
                           'data_prefix': {'img': str(root / 'lq')}})  # fmt: skip
    with pytest.raises(ValueError, match=r'gt_01/a.png has 64 x 76 px, but .*gt/a.png has 64 x 80 px'):
        data[0]
    (root / 'gt_02' / 'b.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match='gt_02/b.png is not a readable image'):
        data[1]
    with pytest.raises(ValueError, match='data_prefix knows img only'):
        DATASETS.build({'type': 'MultiGTDataset', 'data_root': str(root), 'pipeline': [], 'data_prefix': {'gt': 'x'}})


def test_originals_are_needed_where_lr_images_are_made_of_them(tmp_path):
    root = write_sets(tmp_path)
    (root / 'gt' / 'a.png').unlink()
    with pytest.raises(ValueError, match='have no original ground truth'):
        DATASETS.build({'type': 'MultiGTDataset', 'data_root': str(root), 'pipeline': []})


@pytest.mark.slow
@pytest.mark.parametrize('network', ['swinir', 'realesrgan'])
def test_the_option_files_train_through_the_stock_script_and_resume_to_the_same_losses(
    tmp_path, network, musiq_weights
):
    """Four steps with MUSIQ's own architecture, on HGGT's folders."""
    root = write_hggt(tmp_path / 'Train', {'x': ('PSNP', 'PSNS', 'NSPN')}, height=256, width=256)
    test = write_sets(tmp_path / 'test', height=256, width=256, count=1)
    tiny = {
        'swinir': {'embed_dim': 6, 'depths': [1], 'num_heads': [2]},
        'realesrgan': {'mid_channels': 4, 'num_blocks': 1, 'growth_channels': 4},
    }
    options = {
        'model': {
            'generator': tiny[network], 'discriminator': {'mid_channels': 4},
            'perceptual_loss': {'terms': [{'type': 'L1Loss', 'weight': 0.1}]},
            'data_preprocessor': {'selection': {'method': 'sma', 'weights': str(musiq_weights), 'tau': 0.01,
                                                'panel_every': 2}},
        },
        'train_dataloader': {'num_workers': 0, 'batch_size': 1, 'dataset': {'data_root': str(root)}},
        'val_dataloader': {'num_workers': 0, 'dataset': {
            'data_root': str(test), 'data_prefix': {'gt': 'gt', 'img': 'lq'}}},
        'val_evaluator': {'metrics': [
            {'type': 'PSNR', 'crop_border': 4}, {'type': 'RelativeGain', 'judges': ['ssim']}]},  # a black output has one
    }  # fmt: skip
    short = short_run(tmp_path, rule='greater', save_best='gain/ssim')
    config = write_config(tmp_path, 'tiny', f'{network}_x4_multigt.py', **options, **short)
    first = run('train', tmp_path, config)
    assert first.returncode == 0, first.text
    steps, _ = logged(tmp_path, 'tiny')
    assert sorted(steps) == [1, 2, 3, 4]
    assert {'gt_0', 'gt_4', 'gt_score', 'gt_score_original', 'loss_l1'} <= steps[4].keys()
    folder = tmp_path / 'tiny' / 'gt_selection'
    assert sorted(path.name for path in folder.iterdir()) == ['candidates_0000002.png', 'candidates_0000004.png']
    forget_after(tmp_path, 'tiny', 2)
    second = run('train', tmp_path, config, '--resume')
    assert second.returncode == 0, second.text
    resumed, _ = logged(tmp_path, 'tiny')
    assert resumed == {i: steps[i] for i in (3, 4)}
