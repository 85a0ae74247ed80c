"""RBPN and iSeeBetter in mmagic: the configs on clips of the host's own data set, in process and by the stock script."""

import pytest
import torch
from PIL import Image

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmagic.registry import DATASETS, METRICS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torchvision import models

import nriqa_plugin.mmagic  # noqa: F401
from tests.conftest import ROOT
from tests.mmagic_runs import SEED, forget_after, logged, run, write_config, write_images
from tests.test_mmagic_models import build

GENERATOR = {'base_filter': 6, 'feat': 4, 'n_resblock': 1, 'nFrames': 3, 'spynet_path': None}
FRAMES = {'img': ['im3.png', 'im4.png', 'im5.png'], 'gt': ['im4.png']}
NAMES = ['rbpn_x4_charbonnier', 'rbpn_x4_iseebetter']


@pytest.fixture(autouse=True)
def _mmagic_scope():
    init_default_scope('mmagic')


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    """Septuplets below ``GT`` and ``BIx4``, the lists of the configs, a backbone."""
    root = tmp_path_factory.mktemp('vimeo')
    write_images(root, side=256, count=2, frames=7)
    for kind, folder in (('gt', 'GT'), ('lq', 'BIx4')):
        for clip in ('000', '001'):
            for t in range(7):
                path = root / folder / '00001' / clip / f'im{t + 1}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                (root / kind / clip / f'{t:08d}.png').rename(path)
    for name in ('meta_info_Vimeo90K_train_GT.txt', 'vimeo90k_test100.txt'):
        (root / name).write_text('00001/000 7 (256,256,3)\n00001/001 7 (256,256,3)\n')
    torch.save(models.squeezenet1_1(weights=None).state_dict(), root / 'squeeze.pth')
    return root


def small(name, clips):
    """Changes to a config for a test."""
    vgg = {'layers': {'fire2': 1.0}, 'backbone': 'squeezenet1_1', 'weights': str(clips / 'squeeze.pth')}
    terms = {'vgg': {'_delete_': True, 'type': 'VGGLoss', 'weight': 6e-3, **vgg}}
    data = {'data_root': str(clips), 'load_frames_list': {'_delete_': True, **FRAMES}}
    return {
        'model': {
            'generator': GENERATOR,
            **({'discriminator': {'num_feat': 4}, 'pixel_loss': {'terms': terms}} if 'isee' in name else {}),
        },
        'train_dataloader': {'num_workers': 0, 'batch_size': 1, 'dataset': data},
        'val_dataloader': {'num_workers': 0, 'dataset': data},
    }


@pytest.mark.parametrize('name', NAMES)
def test_configs_train_and_validate_on_septuplets_of_the_hosts_data_set(name, clips):
    config = Config.fromfile(ROOT / 'options' / 'mmagic' / f'{name}.py')
    config.merge_from_dict(small(name, clips))
    train, val = (DATASETS.build(config[f'{phase}_dataloader'].dataset.to_dict()) for phase in ('train', 'val'))
    options = config.model.to_dict()
    model, optim_wrapper = build(options, options.pop('pixel_loss'))
    item = train[0]
    assert item['inputs'].shape == (3, 3, 64, 64)
    log = model.train_step(pseudo_collate([item]), optim_wrapper)
    assert all(torch.isfinite(torch.as_tensor(value)) for value in log.values())
    assert sorted(model.pixel_loss.values) == (['pixel', 'tv', 'vgg'] if 'isee' in name else ['pixel'])
    if 'isee' in name:
        assert {'loss_gan', 'loss_d_real', 'loss_d_fake', 'loss_pix'} <= log.keys()
    model.eval()
    with torch.no_grad():
        outputs = model.val_step(pseudo_collate([val[1]]))
    gt = torch.from_numpy(_pixels(clips / 'GT/00001/001/im4.png')).permute(2, 0, 1)
    # the middle frame; the host answers BGR and truncates
    assert (outputs[0].gt_img.flip(0).int() - gt.int()).abs().max() <= 1
    assert outputs[0].output.pred_img.shape[-3:] == (3, 256, 256)
    for metric in (METRICS.build(metric) for metric in config.val_evaluator.metrics):
        metric.process(None, [sample.to_dict() for sample in outputs])
        assert all(value == value for value in metric.compute_metrics(metric.results).values())


def _pixels(file):
    import numpy as np

    return np.array(Image.open(file).convert('RGB'))


def test_lora_changes_the_body_of_basicvsrpp_by_default():
    """Its options are those of the config; the forward pass needs mmcv's compiled operations."""
    config = Config.fromfile(ROOT / 'options' / 'mmagic' / 'basicvsrpp_x4_charbonnier.py')
    base = {**config.model.generator, 'mid_channels': 16, 'num_blocks': 1, 'spynet_pretrained': None}
    net = MODELS.build({'type': 'LoRANet', 'base': base, 'rank': 2})
    assert {name.split('.')[0] for name in net.adapted} == {'feat_extract', 'backbone', 'reconstruction'}
    MODELS.build(base).load_state_dict(net.merged_state_dict())


def test_l1_on_probabilities_has_the_gradients_of_the_published_adversarial_loss():
    """1 - D(fake) for the generator, 1 - D(real) + D(fake) for the discriminator."""
    options = {'type': 'GANLoss', 'gan_type': 'l1', 'loss_weight': 1.0, 'real_label_val': 1.0, 'fake_label_val': 0.0}
    gan = MODELS.build(options)
    net = MODELS.build({'type': 'SRGANDiscriminator', 'num_feat': 4, 'sigmoid': True}).double().eval()
    real, fake = torch.rand(2, 2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(gan(net(fake), True, is_disc=False), 1 - net(fake).mean())
    both = gan(net(real), True, is_disc=True) + gan(net(fake), False, is_disc=True)
    torch.testing.assert_close(both, 1 - net(real).mean() + net(fake).mean())


def test_the_generators_gradient_of_iseebetter_is_clipped_as_in_basicsr(clips):
    from nriqa_plugin.compare.yaml_files import read_yaml

    limit = read_yaml(ROOT / 'options' / 'basicsr' / 'rbpn_x4_iseebetter.yml')['train']['clip_grad_norm']
    config = Config.fromfile(ROOT / 'options' / 'mmagic' / 'rbpn_x4_iseebetter.py')
    config.merge_from_dict(small('rbpn_x4_iseebetter', clips))
    config.merge_from_dict({'model.pixel_loss.terms.pixel.weight': 1e6})
    model = MODELS.build(config.model)
    wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(
        {'type': config.optim_wrapper.pop('constructor'), 'optim_wrapper_cfg': config.optim_wrapper}
    )(model)
    norms = []

    def before_step(optimizer, *_):
        gradients = [p.grad.norm() for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        norms.append(torch.stack(gradients).norm().item())

    wrapper['generator'].optimizer.register_step_pre_hook(before_step)
    model.train_step(pseudo_collate([DATASETS.build(config.train_dataloader.dataset.to_dict())[0]]), wrapper)
    assert norms == [pytest.approx(limit, rel=1e-3)]  # a million times the pixel loss pulls harder
    assert wrapper['discriminator'].clip_grad_kwargs is None


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_the_stock_script_trains_and_resumes_to_the_same_losses(name, clips, tmp_path):
    config = write_config(
        tmp_path,
        name,
        f'{name}.py',
        **small(name, clips),
        train_cfg={'max_iters': 4, 'val_interval': 2},
        default_hooks={'logger': {'interval': 1}, 'checkpoint': {'interval': 2, 'out_dir': str(tmp_path)}},
        param_scheduler=None,
        **SEED,
    )
    result = run('train', tmp_path, config)
    assert result.returncode == 0, result.text[-4000:]
    losses, validations = logged(tmp_path, name)
    assert sorted(losses) == [1, 2, 3, 4]
    assert 'loss_pixel' in losses[1]
    assert all('niqe' in scalars and 'PSNR' in scalars for scalars in validations.values())
    forget_after(tmp_path, name, 2)
    result = run('train', tmp_path, config, '--resume')
    assert result.returncode == 0, result.text[-4000:]
    again, _ = logged(tmp_path, name)
    assert again == {i: losses[i] for i in (3, 4)}
