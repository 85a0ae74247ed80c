"""The recipe of docs/video_data.md: the shipped option files on clips that tools/make_clips.py has made."""

import re
import sys

import pytest

from nriqa_plugin.clips.making import Making, make_clips
from nriqa_plugin.clips.sources import find_sources
from tests.clip_files import write_clip
from tests.conftest import ROOT
from tests.documented import block


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Clips where the recipe makes them; the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, split in enumerate(('train', 'test')):
        write_clip(tmp_path / 'films' / split, 7, (256, 260), seed=seed)
        make_clips(
            find_sources([tmp_path / 'films' / split]), tmp_path / 'datasets/own' / split, Making(layout='vimeo')
        )


def overrides(name):
    """The words of OWN and of SHORT."""
    found = dict(re.findall(r'^(OWN|SHORT)="(.*?)"$', block('video_data.md', name, 'bash'), re.DOTALL | re.MULTILINE))
    return found['OWN'].split() + found['SHORT'].split()


@pytest.mark.parametrize('longer', [False, True])
@pytest.mark.parametrize('kind', ['charbonnier', 'perceptual'])
@pytest.mark.parametrize('network', ['basicvsrpp', 'vrt', 'rbpn'])
def test_basicsrs_files_read_clips_of_ones_own(own, monkeypatch, network, kind, longer):
    pytest.importorskip('basicsr', reason='the extra basicsr is not installed')
    from basicsr.data import build_dataset
    from basicsr.utils.options import parse_options

    import nriqa_plugin.basicsr  # noqa: F401

    middle = ['datasets:val:middle_only=true'] if network == 'rbpn' else []
    ours = ['datasets:train:type=ClipFolderDataset', *(['datasets:train:middle_only=true'] if middle else [])]
    file = ROOT / f'options/basicsr/{network}_x4_{kind}.yml'
    changes = [*overrides('own'), *middle, *(ours if longer else [])]
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(file), '--force_yml', *changes])
    opt, _ = parse_options('.')
    train, val = (build_dataset(opt['datasets'][phase]) for phase in ('train', 'val'))
    item, whole = train[0], val[0]
    assert item['lq'].shape == (7, 3, 64, 64)
    assert item['gt'].shape == ((3, 256, 256) if middle else (7, 3, 256, 256))
    assert whole['lq'].shape == (7, 3, 64, 65)
    assert whole['gt'].shape == ((3, 256, 260) if middle else (7, 3, 256, 260))
    assert opt['train']['total_iter'] == sum(opt['train']['scheduler']['periods']) == 600


@pytest.mark.parametrize('kind', ['charbonnier', 'perceptual'])
@pytest.mark.parametrize('network', ['basicvsrpp', 'vrt', 'rbpn'])
def test_mmagics_configs_read_clips_of_ones_own(own, network, kind):
    pytest.importorskip('mmagic', reason='the extra mmagic is not installed')
    import argparse

    from mmagic.registry import DATASETS
    from mmagic.utils import register_all_modules
    from mmengine.config import Config, DictAction

    import nriqa_plugin.mmagic  # noqa: F401

    register_all_modules()
    listed = ['val_dataloader.dataset.ann_file=meta_info.txt'] if (network, kind) == ('rbpn', 'charbonnier') else []
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    changes = parser.parse_args(['--cfg-options', *overrides('own_mmagic'), *listed]).cfg_options
    config = Config.fromfile(ROOT / f'options/mmagic/{network}_x4_{kind}.py')
    config.merge_from_dict(changes)
    assert config.param_scheduler is None
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (600, 200)
    train, val = (DATASETS.build(config[f'{phase}_dataloader'].dataset)[0] for phase in ('train', 'val'))
    frames = 1 if network == 'rbpn' else 7
    assert train['inputs'].shape == (7, 3, 64, 64)
    assert train['data_samples'].gt_img.shape[-3:] == (3, 256, 256)
    assert train['data_samples'].gt_img.numel() == frames * 3 * 256 * 256
    assert val['inputs'].shape == (7, 3, 64, 65)
    assert val['data_samples'].gt_img.shape[-2:] == (256, 260)
    assert val['data_samples'].gt_img.numel() == frames * 3 * 256 * 260
