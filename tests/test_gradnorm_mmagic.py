"""GradNorm in mmagic's training: named layers, logs, and a resumed run that goes on exactly."""

import pytest
import torch

pytest.importorskip('mmagic', reason='the extra mmagic is not installed')

from mmengine.registry import init_default_scope

from tests.mmagic_runs import write_images
from tests.test_mmagic_adapter import runner, scalar
from tests.test_mmagic_models import SR, TERMS, UNIT, plain

BALANCE = {'method': 'gradnorm', 'lr': 0.2, 'wrt': 'conv_last', 'initial': 2}


@pytest.fixture(autouse=True)
def _mmagic_scope():
    init_default_scope('mmagic')


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'), side=48)


def balanced(work_dir, images, balance=BALANCE, **more):
    loss = {'type': 'LossSum', 'terms': TERMS, 'balance': balance}
    model = plain(SR, data_preprocessor=UNIT, pixel_loss=loss)
    return runner(work_dir, images, val_interval=100, model=model, **more)


def test_a_resumed_run_goes_on_with_the_same_weights_to_the_last_digit(tmp_path, images):
    whole = balanced(tmp_path / 'whole', images, steps=4)
    whole.train()
    balanced(tmp_path / 'parts', images, steps=2).train()
    resumed = balanced(tmp_path / 'parts', images, steps=4, resume=True)
    resumed.train()
    for name in ('weight_l1', 'weight_tinynet', 'loss_tinynet'):
        assert scalar(resumed, f'train/{name}')[-2:] == scalar(whole, f'train/{name}')[-2:]
    assert resumed.model.pixel_loss.loss_state() == whole.model.pixel_loss.loss_state()
    weights = list(zip(scalar(whole, 'train/weight_l1'), scalar(whole, 'train/weight_tinynet'), strict=True))
    assert len(set(weights)) == 4
    assert all(sum(pair) == pytest.approx(1.1) for pair in weights)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_layer_that_the_network_lacks_is_named_before_the_first_step(tmp_path, images):
    run = balanced(tmp_path, images, {**BALANCE, 'wrt': 'conv_lst'}, steps=1)
    with pytest.raises(ValueError, match="no layer or parameter 'conv_lst'; did you mean 'conv_last'"):
        run.train()
