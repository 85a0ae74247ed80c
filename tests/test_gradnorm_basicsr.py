"""GradNorm in BasicSR's training: named layers, logs, and a resumed run that goes on exactly."""

import pytest
import torch

pytest.importorskip('basicsr', reason='the extra basicsr is not installed')

from basicsr.models import build_model

from tests.test_basicsr_adapter import JUDGE, SMALL_SR, options, pair

TERMS = [{'type': 'L1Loss', 'weight': 1.0}, {'type': 'NRIQALoss', 'metric': JUDGE, 'weight': 0.1}]
BALANCE = {'method': 'gradnorm', 'lr': 0.2, 'wrt': 'conv_last', 'initial': 2}


def balanced(tmp_path, balance=BALANCE, **more):
    train = {'pixel_opt': {'type': 'LossSum', 'terms': TERMS, 'balance': balance}}
    return build_model(options(tmp_path, train=train, **more))


def steps(model, iterations, **shape):
    logs = []
    for iteration in iterations:
        model.feed_data(pair(seed=iteration, **shape))
        model.optimize_parameters(iteration)
        logs.append(dict(model.get_current_log()))
    return logs


def test_a_resumed_run_goes_on_with_the_same_weights_to_the_last_digit(tmp_path):
    model = balanced(tmp_path)
    steps(model, (1, 2, 3))
    model.save(0, 3)
    logs = steps(model, (4, 5, 6))
    path = {**model.opt['path'], 'pretrain_network_g': str(tmp_path / 'run' / 'models' / 'net_g_3.pth')}
    resumed = balanced(tmp_path, path=path)
    resumed.resume_training(torch.load(tmp_path / 'run' / 'training_states' / '3.state', weights_only=True))
    assert steps(resumed, (4, 5, 6)) == logs
    assert resumed.cri_pix.loss_state() == model.cri_pix.loss_state()
    weights = [(log['w_l1'], log['w_tinynet']) for log in logs]
    assert len(set(weights)) == 3
    assert all(sum(pair) == pytest.approx(1.1) for pair in weights)


def test_a_layer_that_the_network_lacks_is_named_when_the_model_is_built(tmp_path):
    with pytest.raises(ValueError, match="MSRResNet has no layer or parameter 'conv_lst'; did you mean 'conv_last'"):
        balanced(tmp_path, {**BALANCE, 'wrt': 'conv_lst'})


@pytest.mark.parametrize('wrt', ['last_layer', 'body', 'base.body'])
def test_the_changes_of_lora_are_found_in_the_network(tmp_path, wrt):
    lora = {'type': 'LoRANet', 'base': dict(SMALL_SR), 'rank': 2}  # leaves conv_last as it is
    model = balanced(tmp_path, {**BALANCE, 'wrt': wrt}, network_g=lora)
    assert steps(model, (1, 2))[1]['w_l1'] != 1.0


def test_clips_are_balanced_at_the_last_layer_of_a_recurrent_network(tmp_path):
    network = {'type': 'BasicVSR', 'num_feat': 4, 'num_block': 1}
    pixel = {'type': 'LossSum', 'terms': TERMS, 'balance': {'method': 'gradnorm', 'lr': 0.2}}
    train = {'pixel_opt': pixel, 'fix_flow': 100, 'flow_lr_mul': 0.5}
    model = build_model(options(tmp_path, base_model='VideoRecurrentModel', network_g=network, train=train))
    logs = steps(model, (1, 2), batch=1, side=64, frames=2)
    assert logs[1]['w_tinynet'] != pytest.approx(0.1)
