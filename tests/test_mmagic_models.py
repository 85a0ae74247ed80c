"""Our losses in mmagic's own models: one real training step each, and the sum compared with its terms by hand."""

import pytest
import torch

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmagic.registry import MODELS
from mmagic.structures import DataSample
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import init_default_scope

import nriqa_plugin.mmagic  # noqa: F401
from nriqa_plugin.losses import NRIQALoss
from nriqa_plugin.losses.space import Space
from nriqa_plugin.mmagic.start_checks import check_losses
from tests.clip_files import SMALL_RBPN, SMALL_VRT
from tests.judges import TinyNet

TERMS = [{'type': 'L1Loss', 'weight': 1.0}, {'type': 'NRIQALoss', 'metric': 'tests.judges:TinyNet', 'weight': 0.1}]
UNIT = {'type': 'DataPreprocessor', 'mean': [0.0] * 3, 'std': [255.0] * 3}
CENTRED = {'type': 'DataPreprocessor', 'mean': [127.5] * 3, 'std': [255.0] * 3}
SR = {'type': 'MSRResNet', 'in_channels': 3, 'out_channels': 3, 'mid_channels': 4, 'num_blocks': 1, 'upscale_factor': 4}
RRDB = {**SR, 'type': 'RRDBNet', 'growth_channels': 4}
UNET = {'type': 'UNetDiscriminatorWithSpectralNorm', 'in_channels': 3, 'mid_channels': 4, 'skip_connection': True}
VGG = {'type': 'ModifiedVGG', 'in_channels': 3, 'mid_channels': 4}  # wants 128 x 128 px
VANILLA = {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1, 'real_label_val': 1.0, 'fake_label_val': 0}
PAIR = {'type': 'LossPair', 'terms': [{'type': 'FRIQALoss', 'metric': 'tests.judges:Distance', 'weight': 0.5}]}
FLOW = {'spynet_pretrained': None}


@pytest.fixture(autouse=True)
def _mmagic_scope():
    """What ``default_scope = 'mmagic'`` does in a config."""
    init_default_scope('mmagic')


def gan(kind, generator, discriminator, **more):
    return {'type': kind, 'generator': generator, 'discriminator': discriminator, 'gan_loss': VANILLA, **more}


def plain(generator, kind='BaseEditModel', **more):
    return {'type': kind, 'generator': generator, **more}


# model, side of the low-resolution input, frames (None: images), the ground truth is the middle frame only
MODELS_SEEN = {
    'EDSR': (plain({**SR, 'type': 'EDSRNet'}), 8, None),
    'MSRResNet': (plain(SR), 8, None),
    'RLFN': (plain({'type': 'RLFN', 'feature_channels': 8}), 16, None),
    'SRCNN': (plain({'type': 'SRCNNNet', 'channels': (3, 4, 4, 3), 'kernel_sizes': (9, 1, 5), 'upscale_factor': 4}), 8, None),
    'RDN': (plain({**SR, 'type': 'RDNNet', 'num_blocks': 2, 'num_layers': 2, 'channel_growth': 4}), 8, None),
    'SwinIR': (plain({'type': 'SwinIRNet', 'upscale': 4, 'in_chans': 3, 'img_size': 8, 'window_size': 4, 'depths': [2], 'embed_dim': 8, 'num_heads': [2], 'upsampler': 'pixelshuffledirect'}), 8, None),
    'BasicVSR': (plain({'type': 'BasicVSRNet', 'mid_channels': 4, 'num_blocks': 1, **FLOW}, 'BasicVSR'), 64, 2),
    'BasicVSR++': (plain({'type': 'BasicVSRPlusPlusNet', 'mid_channels': 16, 'num_blocks': 1, **FLOW}, 'BasicVSR'), 64, 2),
    'IconVSR': (plain({'type': 'IconVSRNet', 'mid_channels': 64, 'num_blocks': 1, **FLOW}, 'BasicVSR'), 64, 5),
    'EDVR': (plain({'type': 'EDVRNet', 'in_channels': 3, 'out_channels': 3, 'mid_channels': 8, 'num_frames': 3, 'deform_groups': 2, 'num_blocks_extraction': 1, 'num_blocks_reconstruction': 1, 'center_frame_idx': 1, 'with_tsa': False}, 'EDVR'), 16, 3),
    'TDAN': (plain({'type': 'TDANNet', 'mid_channels': 8, 'num_blocks_before_align': 1, 'num_blocks_after_align': 1}, 'TDAN', lq_pixel_loss={'type': 'MSELoss', 'loss_weight': 0.01}, data_preprocessor=CENTRED), 16, 5),
    'RBPN': (plain({'type': 'RBPN', **SMALL_RBPN}), 32, 3),
    'VRT': (plain({'type': 'VRT', **SMALL_VRT}, 'BasicVSR'), 40, 2),
    'SRGAN': (gan('SRGAN', SR, VGG), 32, None),
    'ESRGAN': (gan('ESRGAN', RRDB, VGG), 32, None),
    'RealESRGAN': (gan('RealESRGAN', RRDB, UNET), 16, None),
    'RealBasicVSR': (gan('RealBasicVSR', {'type': 'RealBasicVSRNet', 'mid_channels': 4, 'num_propagation_blocks': 1, 'num_cleaning_blocks': 1, **FLOW}, UNET, cleaning_loss={'type': 'L1Loss'}), 64, 2),
}  # fmt: skip
SLOW = ('BasicVSR++', 'IconVSR', 'RealBasicVSR')
MIDDLE_FRAME = ('EDVR', 'TDAN', 'RBPN')


def build(config, pixel_loss=None, **more):
    """A model with ``LossSum`` in the pixel slot, and its optimizer wrapper."""
    loss = pixel_loss or {'type': 'LossSum', 'terms': TERMS, 'grad_norms': True}
    model = MODELS.build({'data_preprocessor': UNIT, **config, 'pixel_loss': loss, **more})
    model.train()
    if 'discriminator' not in config:
        return model, OptimWrapper(torch.optim.Adam(model.parameters(), 1e-3))
    parts = {name: getattr(model, name) for name in ('generator', 'discriminator') if config[name] is not None}
    return model, OptimWrapperDict(
        **{k: OptimWrapper(torch.optim.Adam(p.parameters(), 1e-3)) for k, p in parts.items()}
    )


def batch(side, frames=None, middle=False, size=2, seed=0):
    """A collated batch of mmagic: 8-bit values, RGB."""
    generator = torch.Generator().manual_seed(seed)
    size = size if frames is None else 1

    def images(length, time):
        shape = (3, length, length) if time is None else (time, 3, length, length)
        return torch.randint(0, 256, shape, generator=generator).float()

    samples = []
    for _ in range(size):
        gt = images(4 * side, None if middle else frames)
        meta = {'gt_channel_order': 'rgb', 'img_channel_order': 'rgb'}
        samples.append(DataSample(gt_img=gt, gt_unsharp=gt.clone(), metainfo=meta))
    return {'inputs': [images(side, frames) for _ in range(size)], 'data_samples': samples}


def seen(loss):
    """What a slot was called with, recorded from now on."""
    calls = []
    loss.register_forward_pre_hook(lambda module, args: calls.append([x.detach().clone() for x in args]))
    return calls


CASES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in MODELS_SEEN]


@pytest.mark.parametrize('name', CASES)
def test_loss_sum_trains_in_the_pixel_slot_of_mmagics_models(name):
    config, side, frames = MODELS_SEEN[name]
    space = {'range': [-0.5, 0.5]} if name == 'TDAN' else None
    pixel_loss = {'type': 'LossSum', 'terms': TERMS, 'space': space, 'grad_norms': True}
    pair = {'perceptual_loss': PAIR} if 'discriminator' in config else {}
    model, optim_wrapper = build(config, pixel_loss, **pair)
    check_losses(model)
    before = {key: value.clone() for key, value in model.generator.state_dict().items()}
    pixel_calls = seen(model.pixel_loss)
    pair_calls = seen(model.perceptual_loss) if pair else []
    log = model.train_step(batch(side, frames, name in MIDDLE_FRAME), optim_wrapper)
    assert all(torch.isfinite(torch.as_tensor(value)) for value in log.values())
    assert any(not torch.equal(before[key], value) for key, value in model.generator.state_dict().items())

    (pred, target), *_ = pixel_calls
    assert pred.dim() == (5 if frames and name not in (*MIDDLE_FRAME, 'RealBasicVSR') else 4)
    unit = Space(space).to_unit_rgb
    expected = (pred - target).abs().mean() + 0.1 * NRIQALoss(TinyNet())(unit(pred))
    logged = log.get('loss_pix', log.get('loss'))
    assert float(logged) == pytest.approx(expected.item(), rel=1e-4)
    assert model.pixel_loss.values['l1'].item() == pytest.approx((pred - target).abs().mean().item(), rel=1e-5)
    assert model.pixel_loss.grad_norms['tinynet'] > 0
    for pred, target in pair_calls:
        assert float(log['loss_perceptual']) == pytest.approx(
            0.5 * (pred.clamp(0, 1) - target).abs().mean().item(), rel=1e-4
        )


def test_liif_is_refused_because_its_points_are_no_image():
    encoder = {'type': 'EDSRNet', 'in_channels': 3, 'out_channels': 3, 'mid_channels': 4, 'num_blocks': 1}
    mlp = {'type': 'MLPRefiner', 'in_dim': 4, 'out_dim': 3, 'hidden_list': [8]}
    generator = {
        'type': 'LIIFEDSRNet',
        'encoder': encoder,
        'imnet': mlp,
        'local_ensemble': False,
        'feat_unfold': False,
        'cell_decode': False,
    }
    model, _ = build(plain(generator, 'LIIF'))
    points = torch.rand(1, 50, 3)
    with pytest.raises(ValueError, match=r'LossSum wants images .* got \(1, 50, 3\): point samples as in LIIF'):
        model.pixel_loss(points, points)


def test_dic_is_refused_because_its_channels_are_normalised_differently():
    config = get_config('mmagic::dic/dic_x8c48b6_4xb2-150k_celeba-hq.py').model.to_dict()
    config['generator'] |= {
        'mid_channels': 4,
        'num_blocks': 1,
        'hg_mid_channels': 8,
        'num_steps': 2,
        'num_fusion_blocks': 1,
    }
    config['pixel_loss'] = {'type': 'LossSum', 'terms': TERMS}
    model = MODELS.build(config)
    with pytest.raises(ValueError, match=r'pixel_loss: .*DIC changes every colour channel differently'):
        check_losses(model)


@pytest.mark.parametrize(
    ('preprocessor', 'space', 'message'),
    [
        (CENTRED, None, r'BaseEditModel gives the range \[-0.5, 0.5\], but the space is range \[0.0, 1.0\]'),
        ({'type': 'DataPreprocessor'}, None, r'write space=dict\(range=\[-1.0, 1.0\]\)'),
        ({'type': 'DataPreprocessor', 'mean': None, 'std': None}, None, r'write space=dict\(range=\[0.0, 255.0\]\)'),
        (UNIT, {'range': [-1, 1]}, r'gives the range \[0.0, 1.0\], but the space is range \[-1, 1\]'),
    ],
)
def test_another_range_than_the_data_preprocessor_gives_is_refused(preprocessor, space, message):
    config = plain(SR, data_preprocessor=preprocessor)
    model, _ = build(config, {'type': 'LossSum', 'terms': TERMS, 'space': space})
    with pytest.raises(ValueError, match=message):
        check_losses(model)
    plain_terms, _ = build(config, {'type': 'LossSum', 'terms': TERMS[:1], 'space': space})
    check_losses(plain_terms)  # mmagic's own losses get the tensors as they come, whatever the range


def test_a_first_target_in_another_range_is_refused_without_any_hook():
    model, optim_wrapper = build(plain(SR, data_preprocessor={**UNIT, 'std': [1.0] * 3}))
    with pytest.raises(ValueError, match=r'the first target .*must lie in \[0, 1\], got values in \[0, 255\]'):
        model.train_step(batch(8), optim_wrapper)


def test_a_model_without_pixel_loss_is_refused_by_mmagic_itself():
    with pytest.raises(TypeError, match='cfg should be a dict.*NoneType'):
        MODELS.build(plain(SR, pixel_loss=None))


def test_a_sum_in_the_slot_of_a_pair_and_a_pair_in_the_slot_of_a_sum_are_refused():
    model, _ = build(gan('SRGAN', SR, VGG), perceptual_loss={'type': 'LossSum', 'terms': TERMS})
    with pytest.raises(ValueError, match=r'the perceptual slot wants the pair.*LossPair'):
        check_losses(model)
    model, _ = build(plain(SR), {'type': 'LossPair', 'terms': TERMS})
    with pytest.raises(ValueError, match='the pixel slot wants one number'):
        check_losses(model)
