"""Presets: rows of the paper in one file, chosen by one option, by every command that reads losses."""

import copy
import functools

import pytest
import torch
from torchvision import models

pytest.importorskip('yaml', reason='the extra basicsr is not installed')

import yaml

from nriqa_plugin.compare.basicsr_runs import BasicSRRuns
from nriqa_plugin.compare.family import read_family
from nriqa_plugin.compare.sweep_base import terms_of
from nriqa_plugin.compare.yaml_files import read_yaml, yaml_text
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.iqa.cnniqa import PatchNet
from nriqa_plugin.iqa.mdtvsfa import Head
from nriqa_plugin.losses import LossPair, LossSum, iqa_loss
from nriqa_plugin.losses.presets import read_presets, with_preset
from nriqa_plugin.losses.table_weights import TABLE, table_weight
from tests.compare_families import PLUGIN, base_options
from tests.conftest import ROOT

SHIPPED = ROOT / 'options' / 'basicsr' / 'presets' / 'perceptual_vsr.yml'
FULL_REFERENCE = ('lpips', 'pieapp')
NO_REFERENCE = ('dbcnn', 'nima', 'paq2piq', 'hyperiqa', 'mdtvsfa', 'maniqa', 'clipiqa')
OURS = ('cnniqa', 'niqe', 'squeeze', 'squeeze_cnniqa', 'squeeze_niqe', 'squeeze_cnniqa_niqe', 'squeeze_gradnorm')
ROWS = {
    'charbonnier': (),
    **{judge: (judge,) for judge in (*FULL_REFERENCE, *NO_REFERENCE)},
    **{f'lpips_{judge}': ('lpips', judge) for judge in NO_REFERENCE},
    'lpips_nima_clipiqa': ('lpips', 'nima', 'clipiqa'),
    'lpips_gradnorm': ('lpips',),
}

FILE = {
    'terms': {
        'pixel': {'type': 'L1Loss', 'weight': 1.0},
        'bright': {'type': 'NRIQALoss', 'metric': 'tests.judges:Brightness', 'weight': 0.5},
        'far': {'type': 'FRIQALoss', 'metric': 'tests.judges:Distance', 'weight': 0.25},
    },
    'presets': {
        'plain': {'terms': ['pixel']},
        'bright': {'terms': ['pixel', 'bright'], 'grad_norms': True},
        'both': {'terms': ['pixel', 'bright', 'far'], 'balance': {'method': 'gradnorm', 'alpha': 0.5, 'wrt': 'output'}},
        'own': {'terms': {'dark': {'type': 'NRIQALoss', 'metric': 'tests.judges:Darkness', 'weight': 2.0}}},
    },
}


@pytest.fixture
def presets(tmp_path):
    """A small file of presets in the current folder, named as an option file would."""
    (tmp_path / 'presets.yml').write_text(yaml.safe_dump(FILE, sort_keys=False))
    return str(tmp_path / 'presets.yml')


def images(*shape, seed=0):
    return 0.1 + 0.8 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def value_and_gradient(loss, pred, target):
    pred = pred.clone().requires_grad_()
    value = loss(pred, target)
    return value.detach(), torch.autograd.grad(value, pred)[0]


# --- the shipped file


def test_the_rows_are_those_of_the_paper_and_ours():
    known = read_presets(SHIPPED)
    assert list(known) == [*ROWS, *OURS]
    for name, judges in ROWS.items():
        pixel, *terms = known[name]['terms'].values()
        assert pixel == {'type': 'CharbonnierLoss', 'weight': 1.0}
        assert [term['metric'] for term in terms] == list(judges) == [*known[name]['terms']][1:]
        assert [term['type'] == 'FRIQALoss' for term in terms] == [judge in FULL_REFERENCE for judge in judges]
        assert known[name].get('balance') == ({'method': 'gradnorm', 'alpha': 1.5} if 'grad' in name else None)
    assert {judge for judges in ROWS.values() for judge in judges} == set(TABLE)
    for sums in known.values():
        assert {term['weight'] for term in sums['terms'].values()} <= {1.0, 'paper'}


# --- what a preset means


@pytest.mark.parametrize('name', FILE['presets'])
@pytest.mark.parametrize('kind', [LossSum, LossPair])
def test_a_preset_is_its_terms_written_out_with_the_gradient(name, kind, presets):
    given = FILE['presets'][name]
    terms = (
        {term: FILE['terms'][term] for term in given['terms']} if isinstance(given['terms'], list) else given['terms']
    )
    by_name, by_hand = kind(preset=name, presets=presets), kind(**{**given, 'terms': terms})
    assert by_name.grad_norms_wanted is by_hand.grad_norms_wanted is (name == 'bright')
    assert (by_name.balance is None) is (by_hand.balance is None) is (name != 'both')
    pred, target = images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)
    for _ in range(2):  # with balance the second call has other weights
        results = []
        for loss in (by_name, by_hand):
            single = loss if kind is LossSum else lambda *args, loss=loss: loss(*args)[0]
            results.append(value_and_gradient(single, pred, target))
        assert results[0][0].item() == results[1][0].item()
        assert torch.equal(results[0][1], results[1][1])
        assert results[0][1].any()


def test_terms_beside_a_preset_merge_replace_add_and_leave_out(presets):
    option = {
        'type': 'LossSum', 'space': {'order': 'bgr'}, 'preset': 'both', 'presets': presets,
        'terms': {
            'pixel': None,
            'bright': {'weight': 7.0, 'every': 2},
            'far': {'type': 'MSELoss', 'weight': 3.0},
            'new': {'type': 'L1Loss', 'weight': 4.0},
        },
        'balance': {'alpha': 1.0},
        'grad_norms': True,
    }  # fmt: skip
    before = copy.deepcopy(option)
    assert with_preset(option) == {
        'type': 'LossSum', 'space': {'order': 'bgr'},
        'terms': {
            'bright': {**FILE['terms']['bright'], 'weight': 7.0, 'every': 2},
            'far': {'type': 'MSELoss', 'weight': 3.0},
            'new': {'type': 'L1Loss', 'weight': 4.0},
        },
        'balance': {'method': 'gradnorm', 'alpha': 1.0, 'wrt': 'output'},
        'grad_norms': True,
    }  # fmt: skip
    assert option == before
    del option['type']
    loss = LossSum(**option)
    assert [(term.name, term.weight) for term in loss.terms] == [('bright', 7.0), ('far', 3.0), ('new', 4.0)]


def test_options_of_terms_that_the_chosen_row_lacks_wait_for_the_rows_that_have_them(presets):
    terms = {'far': {'weight': 9.0}, 'dark': {'weight': 8.0}}
    for name, expected in (('bright', [1.0, 0.5]), ('both', [1.0, 0.5, 9.0]), ('own', [8.0])):
        assert [term.weight for term in LossSum(preset=name, presets=presets, terms=terms).terms] == expected


def test_a_sum_without_a_preset_is_left_as_it_is():
    option = {'type': 'LossSum', 'terms': [{'type': 'L1Loss', 'weight': 1.0}]}
    assert with_preset(option) is option


def test_the_file_is_looked_for_in_the_current_folder(presets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(LossSum(preset='both', presets='presets.yml').terms) == 3
    (tmp_path / 'below').mkdir()
    monkeypatch.chdir(tmp_path / 'below')
    with pytest.raises(FileNotFoundError, match=r'presets \(a path from the current folder\): no such file: presets'):
        LossSum(preset='both', presets='presets.yml')


@pytest.mark.parametrize(
    ('option', 'kind', 'message'),
    [
        ({'preset': 'brigth'}, ValueError, "unknown preset of .*presets.yml: 'brigth'. Did you mean 'bright'"),
        ({'preset': 'both', 'presets': None}, ValueError, "preset 'both' needs presets: the file"),
        ({}, ValueError, r'presets: choose a preset of .*: plain, bright, both, own'),
        ({'preset': 'both', 'terms': [{'type': 'L1Loss', 'weight': 1.0}]}, TypeError, 'must be a mapping of names'),
        ({'preset': 'both', 'terms': {'fra': {'weight': 1.0}}}, ValueError, "'fra'. Did you mean 'far'"),
        ({'preset': 'both', 'terms': {'fra': None}}, ValueError, "'fra'. Did you mean 'far'"),
        ({'preset': 'both', 'terms': {'far': 'none'}}, TypeError, 'terms.far must be a mapping.*write null'),
        ({'preset': 'plain', 'terms': {'far': 'none'}}, TypeError, 'terms.far must be a mapping.*write null'),
        ({'preset': 'plain', 'terms': {'pixel': None}}, ValueError, "every term of the preset 'plain' is left out"),
        ({'preset': 'both', 'terms': {'far': {'wieght': 1.0}}}, ValueError, "'wieght'. Did you mean 'weight'"),
        ({'preset': 'both', 'balance': {'alhpa': 1.0}}, ValueError, "option of balance: 'alhpa'"),
        ({'preset': 'both', 'balance': 'gradnorm'}, ValueError, 'balance must be a mapping'),
        ({'prest': 'both'}, ValueError, "option of LossSum: 'prest'. Did you mean 'preset'"),
    ],
)  # fmt: skip
def test_a_wrong_choice_is_refused_with_the_closest_names(option, kind, message, presets):
    with pytest.raises(kind, match=message):
        LossSum(**{'presets': presets, **option})


@pytest.mark.parametrize(
    ('content', 'kind', 'message'),
    [
        ('[1, 2]', TypeError, r'the file must be a mapping, got \[1, 2\]'),
        ('a: [', ValueError, 'not readable as YAML'),
        ('x: !!python/name:os.system', ValueError, 'not readable as YAML'),
        ('{term: {}, presets: {}}', ValueError, "option of a file of presets: 'term'. Did you mean 'terms'"),
        ('terms: {}', TypeError, 'presets must be a mapping, got None'),
        ('presets: {}', ValueError, 'presets: there is none'),
        ('presets: {a: [b]}', TypeError, 'presets.a must be a mapping'),
        ('presets: {a: {}}', ValueError, 'presets.a.terms must be a list'),
        ('presets: {a: {terms: []}}', ValueError, 'presets.a.terms must be a list'),
        ('presets: {a: {terms: {x: {type: L1Loss}}}}', ValueError, "presets.a.terms.x must be a mapping with 'type'"),
        ('{terms: {x: 1}, presets: {a: {terms: [x]}}}', ValueError, "terms.x must be a mapping with 'type'"),
        ('{terms: {x: {type: L1Loss, weight: 1}}, presets: {a: {terms: [y]}}}', ValueError,
         "name in presets.a.terms: 'y'"),
        ('{terms: {x: {type: L1Loss, weight: 1}}, presets: {a: {terms: [x, x]}}}', ValueError, "'x' stands there twice"),
        ('{terms: {x: {type: L1Loss, weight: 1}}, presets: {a: {terms: [x], weight: 1}}}', ValueError,
         "option of presets.a: 'weight'"),
        ('{terms: {x: {type: L1Loss, weight: 1}}, presets: {a: {terms: [x], balance: gradnorm}}}', TypeError,
         'presets.a.balance must be a mapping'),
        ('{terms: {x: {type: L1Loss, weight: 1}}, presets: {a: {terms: [x], grad_norms: 1}}}', TypeError,
         'presets.a.grad_norms must be true or false'),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_file_and_key(content, kind, message, tmp_path):
    file = tmp_path / 'p.yml'
    file.write_text(content)
    with pytest.raises(kind, match=message) as caught:
        read_presets(file)
    assert str(file) in str(caught.value)


# --- every row with the judges' own networks


def random_weights(judge, folder):
    """A file of random weights in the layout that the judge's option ``weights`` takes, or other options of it."""
    file = folder / f'{judge}.pth'
    if judge == 'cnniqa':
        torch.save(PatchNet().state_dict(), file)
    elif judge in ('lpips', 'lpips_squeeze'):
        network = (models.alexnet if judge == 'lpips' else models.squeezenet1_1)(weights=None)
        state = network.state_dict()
        torch.save({key: value for key, value in state.items() if not key.startswith('classifier.')}, file)
    elif judge == 'mdtvsfa':
        torch.save(Head(['K']).state_dict(), file)
        network = models.resnet50(weights=None)
        for name, module in network.named_modules():
            if name.endswith('bn3'):  # else random residual branches would add up and saturate the sigmoids
                module.weight.data.fill_(0.2)
        torch.save(network.state_dict(), folder / 'resnet50.pth')
        return {'weights': str(file), 'options': {'backbone': str(folder / 'resnet50.pth')}}
    else:
        from nriqa_plugin.iqa.pyiqa_build import loading_nothing, network_class_of
        from nriqa_plugin.iqa.pyiqa_tables import metric_configs

        config = dict(metric_configs()[judge]['metric_opts'])
        kind = network_class_of(judge, config.pop('type'))
        with loading_nothing(kind), torch.no_grad():
            torch.save(kind(**config).state_dict(), file)
        windows = {'maniqa': 'test_sample', 'hyperiqa': 'num_crop'}
        if judge in windows:  # one window of 224 px instead of 20 and 25, which would take gigabytes
            return {'weights': str(file), 'options': {windows[judge]: 1}}
    return {'weights': str(file)}


def random_clip(backbone, device):
    """What pyiqa's CLIP-IQA downloads, untrained and a quarter as wide."""
    from pyiqa.archs.clip_model import CLIP

    assert backbone == 'RN50'
    return CLIP(256, 224, (1, 1, 1, 1), 16, None, 77, 49408, 128, 2, 2).float().eval()


@pytest.fixture(scope='module')
def real_judges(tmp_path_factory):
    """``options(names)``: options beside the presets that give these terms random weights; judges are built once."""
    folder, made = tmp_path_factory.mktemp('weights'), {}

    def options(names):
        for name in names:
            if name not in made and name not in ('pixel', 'niqe', 'clipiqa'):
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    made[name] = random_weights(name, folder)
        return {name: made[name] for name in names if name in made}

    @functools.lru_cache(maxsize=4)
    def built(metric, weights, text):
        return create_scorer(metric, weights, **yaml.safe_load(text))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iqa_loss, 'create_scorer', lambda metric, weights=None, **o: built(metric, weights, yaml_text(o)))
        yield options, patch


@pytest.fixture(scope='module')
def niqe_only(tmp_path_factory):
    """NIQE needs the parameters of an installed host."""
    try:
        create_scorer('niqe')
    except (RuntimeError, ImportError, FileNotFoundError) as error:
        pytest.skip(f'niqe: {error}')


QUICK = ('charbonnier', *OURS, 'lpips', 'lpips_gradnorm')


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in (*ROWS, *OURS)]
)
def test_every_preset_builds_its_networks_and_back_propagates_on_clips_and_images(name, real_judges, niqe_only):
    known = read_presets(SHIPPED)[name]['terms']
    if any(term.get('metric') in TABLE for term in known.values()):
        pytest.importorskip('pyiqa' if name not in QUICK else 'lpips', reason='the extra iqa is not installed')
    pytest.importorskip('lpips', reason='the extra iqa is not installed')
    options, patch = real_judges
    if 'clipiqa' in known:
        from pyiqa.archs import clipiqa_arch

        patch.setattr(clipiqa_arch, 'load', random_clip)
    loss = LossSum(preset=name, presets=str(SHIPPED), terms=options(known), grad_norms=True)
    assert [term.name for term in loss.terms] == list(known)
    weights = {term.name: term.weight for term in loss.terms}
    assert weights == {term: 1.0 if term == 'pixel' else table_weight(known[term]['metric'])[0] for term in known}
    side = 224 if {'hyperiqa', 'maniqa', 'niqe'} & known.keys() else 64
    clip = torch.nn.functional.interpolate(images(2, 3, side // 8, side // 8), (side, side), mode='bicubic')[None]
    target = (clip + 0.05 * images(*clip.shape, seed=1)).clamp(0, 1)
    colours = torch.nn.Parameter(torch.eye(3))  # the last layer of a network, which gradnorm looks for
    for shown, truth in ((clip, target), (clip[:, 0], target[:, 0])):
        pred = torch.einsum('oc,...chw->...ohw', colours, shown)
        pred.retain_grad()
        if 'mdtvsfa' in known and pred.dim() == 4:
            with pytest.raises(ValueError, match=r"term 'mdtvsfa'.*\(N, T, C, H, W\)"):
                loss(pred, truth)
            continue
        loss(pred, truth).backward()
        assert torch.isfinite(pred.grad).all()
        assert loss.values.keys() == loss.grad_norms.keys() == known.keys()
        assert all(norm > 0 for norm in loss.grad_norms.values()), loss.grad_norms
    assert not loss.dropped()


# --- commands that read losses


def base_with_preset(folder, presets, preset='bright', **more):
    options = base_options(folder)
    options['train']['pixel_opt'] = {'type': 'LossSum', 'preset': preset, 'presets': presets, **more}
    file = folder / 'base.yml'
    file.write_text(PLUGIN + yaml_text(options))
    return file


def family_file(folder, **content):
    file = folder / 'family.yml'
    file.write_text(yaml_text({'base': 'base.yml', 'judges': ['psnr'], **content}))
    return file


def test_a_file_of_presets_is_a_file_of_losses_and_rows_chooses(presets, tmp_path):
    base_with_preset(tmp_path, presets)
    file = family_file(tmp_path, losses='presets.yml', rows=['both', 'plain'], terms={'far': {'weight': 6.0}})
    family = read_family(file)
    assert list(family.losses) == ['both', 'plain']
    assert family.losses['both'] == {**FILE['terms'], 'far': {**FILE['terms']['far'], 'weight': 6.0}}
    assert family.more == {'both': {'balance': FILE['presets']['both']['balance']}}
    with pytest.raises(ValueError, match="name in rows: 'bto'"):
        read_family(family_file(tmp_path, losses='presets.yml', rows=['bto']))
    with pytest.raises(ValueError, match="rows must be a list of losses, got 'both'"):
        read_family(family_file(tmp_path, losses='presets.yml', rows='both'))


def test_a_training_of_a_row_has_its_balance_and_nothing_of_the_base_files_preset(presets, tmp_path):
    from nriqa_plugin.compare.runs import Training

    base_with_preset(tmp_path, presets, terms={'bright': {'weight': 9.0}}, space={'order': 'bgr'})
    family = read_family(family_file(tmp_path, losses='presets.yml'))
    host = BasicSRRuns(family, 0)
    for name, terms in family.losses.items():
        training = Training(host, tmp_path / name, name, terms, more=family.more.get(name))
        (tmp_path / 'made.yml').write_text(training.option_text())
        pixel = read_yaml(tmp_path / 'made.yml')['train']['pixel_opt']
        kept = {key: value for key, value in FILE['presets'][name].items() if key != 'terms'}
        assert pixel == {'type': 'LossSum', 'space': {'order': 'bgr'}, 'terms': terms, **kept}


def test_a_sweep_reads_the_terms_of_a_preset(presets, tmp_path):
    base = base_with_preset(tmp_path, presets, terms={'bright': {'every': 2}})
    assert terms_of(base) == {'pixel': FILE['terms']['pixel'], 'bright': {**FILE['terms']['bright'], 'every': 2}}
    shipped = base_with_preset(tmp_path, str(SHIPPED), 'lpips_nima')
    assert {name: term['weight'] for name, term in terms_of(shipped).items()} == {
        'pixel': 1.0, 'lpips': 0.05, 'nima': 0.005
    }  # fmt: skip
    with pytest.raises(ValueError, match=r'base.yml: train.pixel_opt learns its weights'):
        terms_of(base_with_preset(tmp_path, presets, 'both'))
    with pytest.raises(ValueError, match=r"base.yml: train.pixel_opt: unknown preset .*'brigt'"):
        terms_of(base_with_preset(tmp_path, presets, 'brigt'))
