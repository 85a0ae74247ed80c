"""Published weights: Table I as printed, our rule against it and against measured scores, and who gets none."""

import pytest
import torch

from nriqa_plugin.losses import LossSum
from nriqa_plugin.losses.table_weights import OURS, TABLE_I, TYPICAL, table_weight, weight_by_rule
from tests.judges import Brightness, Distance

# Table I of Kashkarov et al., arXiv 2405.20392, with its signs: they are the direction (minus: higher is better).
PRINTED = {
    'lpips': '+0.05',
    'pieapp': '+0.00005',
    'dbcnn': '-0.005',
    'nima': '-0.005',
    'paq2piq': '-0.00005',
    'hyperiqa': '-0.005',
    'mdtvsfa': '-0.005',
    'maniqa': '-0.005',
    'clipiqa': '-0.005',
}


class Nima(Brightness):
    name = 'nima'
    score_range = (0.0, 10.0)


class Lpips(Distance):
    name = 'lpips'


class Musiq(Brightness):
    name = 'musiq'
    score_range = (0.0, 100.0)


class Cnniqa(Brightness):
    name = 'cnniqa'
    higher_better = False
    score_range = (0.0, 100.0)


def images(seed=0):
    return 0.1 + 0.8 * torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def term(judge, weight='paper', **options):
    kind = 'FRIQALoss' if judge == 'Lpips' else 'NRIQALoss'
    return {'type': kind, 'metric': f'tests.test_table_weights:{judge}', 'weight': weight, **options}


@pytest.mark.parametrize('judge', PRINTED)
def test_the_table_is_the_printed_one_without_its_signs(judge):
    assert table_weight(judge) == (abs(float(PRINTED[judge])), 'Table I')


def test_the_signs_of_the_table_are_the_directions_that_pyiqa_knows():
    pyiqa_scorer = pytest.importorskip('nriqa_plugin.iqa.pyiqa_scorer')
    configs = pyiqa_scorer.metric_configs()
    if not configs:
        pytest.skip('pyiqa is not installed')
    for judge in PRINTED.keys() - {'mdtvsfa'}:
        assert configs[judge].get('lower_better', False) == (PRINTED[judge][0] == '+'), judge


@pytest.mark.parametrize(
    ('variant', 'judge'),
    [('lpips-vgg', 'lpips'), ('nima-vgg16-ava', 'nima'), ('maniqa-kadid', 'maniqa'), ('clipiqa+', 'clipiqa'), ('pyiqa:lpips', 'lpips'), ('pyiqa:dbcnn', 'dbcnn')],
)  # fmt: skip
def test_a_variant_on_the_same_scale_counts_as_the_papers_judge(variant, judge):
    assert table_weight(variant) == table_weight(judge)
    assert table_weight(variant)[1] == TABLE_I


@pytest.mark.parametrize('variant', ['nima-koniq', 'nima-spaq', 'pyiqa:cnniqa', 'musiq', 'topiq_nr', 'arniqa-kadid'])
def test_what_the_paper_did_not_use_is_marked_as_ours(variant):
    assert table_weight(variant)[1] == OURS == 'ours, by the rule of Table I'


def test_every_name_but_mdtvsfa_is_one_of_pyiqa_and_every_typical_score_lies_in_its_range():
    pyiqa_scorer = pytest.importorskip('nriqa_plugin.iqa.pyiqa_scorer')
    configs = pyiqa_scorer.metric_configs()
    if not configs:
        pytest.skip('pyiqa is not installed')
    for name, typical in TYPICAL.items():
        low, high = pyiqa_scorer.parse_range(configs[name.removeprefix('pyiqa:')]['score_range'])
        assert low < typical < high, name


# Scores of SwinIR and Real-ESRGAN in the tables of arXiv 2504.18524 (NIMA, MUSIQ, TOPIQ-NR, Q-Align, ST-LPIPS), and
# the ends of the usual scores of judges on 0..1, of PaQ-2-PiQ on 0..100 and of LPIPS in super-resolution.
@pytest.mark.parametrize(
    ('typical', 'weight'),
    [
        (0.55, 0.005), (0.6, 0.005), (0.7, 0.005),  # DBCNN, HyperIQA, MDTVSFA, MANIQA, CLIP-IQA
        (5.16, 0.005), (5.35, 0.005),  # NIMA
        (65.0, 0.00005), (75.0, 0.00005),  # PaQ-2-PiQ
        (0.1, 0.05), (0.3, 0.05),  # LPIPS
    ],
)  # fmt: skip
def test_our_rule_gives_back_the_table(typical, weight):
    assert weight_by_rule(typical) == weight


def test_pieapp_is_the_exception_to_our_rule():
    assert weight_by_rule(1.0) == 100 * float(PRINTED['pieapp'])


@pytest.mark.parametrize(
    ('judge', 'published', 'weight'),
    [('musiq', (65.93, 71.67), 0.00005), ('topiq_nr', (0.62, 0.71), 0.005), ('qalign', (3.47, 3.75), 0.005), ('stlpips', (0.121, 0.192), 0.05)],
)  # fmt: skip
def test_our_weights_hold_at_both_ends_of_published_scores(judge, published, weight):
    """Lowest and highest mean in the main table of arXiv 2504.18524."""
    assert table_weight(judge) == (weight, OURS)
    assert [weight_by_rule(score) for score in published] == [weight, weight]


@pytest.mark.parametrize('judge', TYPICAL)
def test_the_term_lies_within_the_terms_of_table_i(judge):
    """From 0.005 * 0.55 (judges on 0..1) to 0.005 * 5.4 (NIMA)."""
    assert 0.0027 < table_weight(judge)[0] * TYPICAL[judge] < 0.0275


@pytest.mark.parametrize(('judge', 'on_kodak', 'weight'), [('cnniqa', 13.6, 0.00005), ('niqe', 3.05, 0.001)])
def test_what_training_has_shown_overrules_the_rule_and_is_marked(judge, on_kodak, weight):
    assert table_weight(judge) == (weight, 'ours, measured')
    assert weight_by_rule(on_kodak) > weight  # the rule looks at values, not at gradients


# ------------------------------------------------------------------------------------------- weight: paper


@pytest.mark.parametrize(
    ('judge', 'weight'), [('Nima', 0.005), ('Lpips', 0.05), ('Musiq', 0.00005), ('Cnniqa', 0.00005)]
)
def test_paper_is_the_weight_written_as_a_number_with_its_gradient(judge, weight):
    pred, target = images().requires_grad_(), images(1)
    values = [LossSum([term(judge, w)])(pred, target) for w in ('paper', weight)]
    grads = [torch.autograd.grad(value, pred)[0] for value in values]
    assert values[0].item() == values[1].item()
    assert torch.equal(*grads)
    assert grads[0].any()


def test_the_sign_of_the_papers_loss_is_that_of_its_table():
    """NIMA enters with -0.005 times its score, LPIPS with +0.05 times its own."""
    pred, target = images(), images(1)
    value = LossSum([term('Nima'), term('Lpips')])(pred, target)
    expected = float(PRINTED['nima']) * pred.mean() + float(PRINTED['lpips']) * (pred - target).abs().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_schedules_scale_the_papers_weight():
    loss = LossSum([term('Nima', warmup_iter=10)])
    assert [loss.terms[0].weight_at(i) for i in (5, 10, 20)] == pytest.approx([0.0025, 0.005, 0.005])


def test_the_log_says_which_weight_was_used_and_whose_it_is(plugin_log):
    plugin_log.set_level('INFO', logger='nriqa_plugin')
    LossSum([term('Nima'), term('Musiq'), {'type': 'MSELoss', 'weight': 1.0}])
    lines = [record.getMessage() for record in plugin_log.records if record.levelname == 'INFO']
    assert lines == [
        "weight 'paper' of nima: 0.005 (Table I of arXiv 2405.20392)",
        "weight 'paper' of musiq: 5e-05 (ours, by the rule of Table I)",
    ]


def test_a_judge_without_such_a_weight_is_refused_with_those_that_have_one():
    with pytest.raises(
        ValueError, match=r"terms\[0\] \(NRIQALoss\)\.weight: judge 'brightness'.* lpips, .*clipiqa.* musiq"
    ):
        LossSum([{'type': 'NRIQALoss', 'metric': 'tests.judges:Brightness', 'weight': 'paper'}])
    with pytest.raises(ValueError, match=r"'clipiqa\+\+'.* Did you mean 'clipiqa\+'"):
        table_weight('clipiqa++')
    with pytest.raises(ValueError, match='judge None'):
        table_weight(None)


def test_content_weighted_lpips_and_ensembles_have_no_such_weight():
    for name in ('lpips+', 'lpips-vgg+', 'ensemble', 'pyiqa:ensemble', 'psnr'):
        with pytest.raises(ValueError, match='write a number'):
            table_weight(name)


@pytest.mark.parametrize(
    ('terms', 'kind', 'message'),
    [
        (term('Nima', scale='unit'), ValueError, r'weight: .*native scale.*scale: unit'),
        ({'type': 'MSELoss', 'weight': 'paper'}, ValueError, r'\(MSELoss\)\.weight: .*for judges.*MSELoss'),
        (term('Nima', 'papr'), ValueError, r"weight: 'papr'. Did you mean 'paper'"),
        (term('Nima', 'Paper'), ValueError, "Did you mean 'paper'"),
        (term('Nima', ''), ValueError, "weight: ''. Allowed: a number, paper"),
        (term('Nima', '5e-5'), TypeError, r'weight must be a number, got the text'),
        (term('Nima', None), TypeError, 'weight must be a number, got None'),
        (term('Nima', -0.005), ValueError, 'must not be negative'),
    ],
)  # fmt: skip
def test_wrong_presets_are_refused_by_term_and_option(terms, kind, message):
    with pytest.raises(kind, match=r'terms\[0\].*' + message):
        LossSum([terms])
