"""The committed table of pyiqa's judges: complete, and in agreement with what the scorer says."""

import importlib.util
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.iqa.mdtvsfa import MDTVSFA
from nriqa_plugin.iqa.pyiqa_tables import (
    DEFAULT_MIN_SIDE,
    FACES,
    FROM_FILE,
    MIN_SIDE,
    NO_GRADIENT,
    NO_JUDGE,
    metric_configs,
    parse_range,
)

PAGE = Path(__file__).resolve().parent.parent / 'docs' / 'judges.md'
VERDICTS = {'loss', 'score only', 'no judge', 'needs a download even to build', 'does not import here'}
FORMULAS = (
    'cw_ssim',
    'entropy',
    'fsim',
    'gmsd',
    'mad',
    'ms_ssim',
    'nlpd',
    'piqe',
    'psnr',
    'psnry',
    'ssim',
    'ssimc',
    'vif',
    'vsi',
)

if not metric_configs():
    pytest.skip('pyiqa is not installed', allow_module_level=True)


def tables():
    """``{heading: {name: cells by column}}``"""
    found = {}
    for section in PAGE.read_text(encoding='utf-8').split('\n## ')[1:]:
        rows = [
            [cell.strip() for cell in line.strip('|').split('|')] for line in re.findall(r'^\|.*\|$', section, re.M)
        ]
        head, _, *body = rows
        found[section.splitlines()[0]] = {row[0].strip('`'): dict(zip(head, row, strict=True)) for row in body}
    return found


@pytest.mark.parametrize(('heading', 'mode'), [('No-reference', 'NR'), ('Full-reference', 'FR')])
def test_the_table_names_every_metric_that_pyiqa_lists(heading, mode):
    names = {name for name, config in metric_configs().items() if config['metric_mode'] == mode}
    assert set(tables()[heading]) == names
    assert {row['verdict'] for row in tables()[heading].values()} <= VERDICTS


def rows():
    found = tables()
    return [
        (name, metric_configs()[name], row)
        for heading in ('No-reference', 'Full-reference')
        for name, row in found[heading].items()
    ]


def test_directions_and_ranges_are_pyiqas():
    for name, config, row in rows():
        assert row['better'] == ('lower' if config.get('lower_better') else 'higher'), name
        bounds = [bound for bound in parse_range(config['score_range']) if abs(bound) != float('inf')]
        assert [float(text) for text in re.findall(r'-?[\d.]+', row['range'])] == bounds, name


def test_verdicts_agree_with_the_tables_of_the_scorer():
    for name, config, row in rows():
        kind = config['metric_opts']['type']
        faces = 'gfiqa' in str(config['metric_opts'].get('model_name'))
        assert (row['verdict'] == 'no judge') == (kind in NO_JUDGE), name
        assert (row['weights'] == 'option') == (kind in FROM_FILE), name
        if row['verdict'] in ('loss', 'score only'):
            assert (row['verdict'] == 'score only') == (faces or kind in NO_GRADIENT), name
            assert (FACES if faces else NO_GRADIENT.get(kind, '')) in row['remarks'], name
            stated, works = map(int, re.fullmatch(r'(\d+) \((\d+)\)', row['min side']).groups())
            assert works <= stated == MIN_SIDE.get(kind, DEFAULT_MIN_SIDE), name


def test_the_judge_of_clips_is_told_as_its_class_says():
    ((name, row),) = tables()['Video'].items()
    assert name == MDTVSFA.name
    assert row['better'] == ('higher' if MDTVSFA.higher_better else 'lower')
    assert row['range'] == '{:g} to {:g}'.format(*MDTVSFA.score_range)
    assert (row['verdict'], row['weights'], row['gradient']) == ('loss', 'option', 'exact')
    assert row['min side'].split()[0] == str(MDTVSFA.min_side)


@pytest.mark.parametrize('name', FORMULAS)
def test_verdicts_agree_with_the_judges_that_are_built_at_once(name):
    judge, row = create_scorer(f'pyiqa:{name}'), {**tables()['No-reference'], **tables()['Full-reference']}[name]
    assert row['verdict'] == ('loss' if judge.differentiable else 'score only')
    assert row['weights'] == 'none'
    assert row['min side'].split()[0] == str(judge.min_side)


@pytest.mark.parametrize(
    ('agreement', 'improves', 'verdict'),
    [(1.1, None, 'loss'), (0.5, True, 'loss'), (0.5, False, 'score only'), (math.nan, False, 'score only')],
)
def test_a_gradient_that_neither_agrees_nor_improves_is_no_loss(agreement, improves, verdict):
    spec = importlib.util.spec_from_file_location('judge_table', PAGE.parent.parent / 'tools' / 'judge_table.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    found = {'gradient': 'usable', 'agreement': agreement, 'improves': improves}
    assert tool._verdict(found, SimpleNamespace(no_gradient=''))[0] == verdict
