"""Shared fixtures: where the real test data lies, and the same random numbers for every test."""

import logging
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

if 'PYTEST_XDIST_WORKER' in os.environ:
    torch.set_num_threads(1)  # the workers already fill the cores


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Every test starts from the same global generators, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def plugin_log(caplog):
    """What our logger says; it does not reach the root logger once BasicSR's logger stands above it."""
    logger = logging.getLogger('nriqa_plugin')
    logger.addHandler(caplog.handler)
    logger.propagate = False  # or it would be heard twice
    yield caplog
    logger.propagate = True
    logger.removeHandler(caplog.handler)


def data_folder():
    """``NRIQA_TEST_DATA``, else ``../shared/data`` beside the repository, whether it is there or not."""
    return Path(os.environ.get('NRIQA_TEST_DATA') or ROOT.parent / 'shared' / 'data')


@pytest.fixture(scope='session')
def test_data():
    """The folder of real images and weights, see :func:`data_folder`."""
    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f'no test data at {folder}: set NRIQA_TEST_DATA to the folder that holds images/ and weights/')
    return folder


def _weights(name):
    @pytest.fixture(scope='session')
    def path(test_data):
        file = test_data / 'weights' / name
        if not file.is_file():
            pytest.skip(f'no {file.name} in {file.parent}')
        return file

    return path


cnniqa_weights = _weights('CNNIQA-LIVE.pth')
squeezenet_weights = _weights('squeezenet1_1-torchvision-fp16.pth')  # stored as fp16: .float() before loading


@pytest.fixture(scope='session')
def musiq_weights(tmp_path_factory):
    """A file with random weights for MUSIQ; scores lie around 50 on its scale of 0 to 100."""
    pytest.importorskip('pyiqa', reason='the extra iqa is not installed')
    from pyiqa.archs.musiq_arch import MUSIQ

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MUSIQ(pretrained=False)
    network.head.bias.data.fill_(50)
    file = tmp_path_factory.mktemp('weights') / 'musiq.pth'
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope='session')
def paq2piq_weights(tmp_path_factory):
    """A file with random weights for PaQ-2-PiQ."""
    pytest.importorskip('pyiqa', reason='the extra iqa is not installed')
    from pyiqa.archs.paq2piq_arch import PAQ2PIQ

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PAQ2PIQ(pretrained=False)
    file = tmp_path_factory.mktemp('weights') / 'paq2piq.pth'
    torch.save(network.state_dict(), file)
    return file
