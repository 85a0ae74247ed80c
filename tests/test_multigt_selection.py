"""Choosing one of several ground truths: the rules as theorems, the sampler around them, and cached scores."""

import json
import math

import pytest
import torch
from PIL import Image

from nriqa_plugin.checks import file_hash
from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.multigt import AMOSampler, selection
from nriqa_plugin.multigt.score_table import ScoreTable
from nriqa_plugin.multigt.scores import ScoresHeader, ScoreWriter, merge_scores
from tests.judges import Brightness, Darkness, FlatIsUndefined

ALL = torch.ones(1, 3, dtype=torch.bool)
MANY = 20000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(scores, count=MANY):
    return torch.tensor([scores]).expand(count, -1)


def shares(index, count):
    return torch.bincount(index, minlength=count) / len(index)


# ---- the rules


def test_amo_takes_the_best_and_the_first_of_equals():
    scores = torch.tensor([[1.0, 3.0, 2.0], [2.0, 2.0, 1.0], [-5.0, -7.0, -5.0]])
    assert selection.amo(scores, ALL.expand(3, -1)).tolist() == [1, 0, 0]


@pytest.mark.parametrize('tau', [0, 1e-3, 1e-300])
def test_as_tau_goes_to_zero_sampling_becomes_argmax(tau):
    scores = torch.randn(500, 5, generator=generator())
    valid = torch.rand(500, 5, generator=generator(1)) < 0.7
    valid[:, 2] = True
    got = selection.sma(scores, valid, tau, generator(2))
    if tau:  # two scores nearer than tau may be mixed up
        best = torch.where(valid, scores, -math.inf).sort(1, descending=True).values
        clear = best[:, 0] - best[:, 1] > 50 * tau
        assert clear.sum() > 450
        got, scores, valid = got[clear], scores[clear], valid[clear]
    assert torch.equal(got, selection.amo(scores, valid))


@pytest.mark.parametrize('tau', [math.inf, 1e12])
def test_as_tau_goes_to_infinity_sampling_becomes_uniform(tau):
    index = selection.sma(rows([1.0, 50.0, 99.0]), ALL.expand(MANY, -1), tau, generator())
    assert torch.allclose(shares(index, 3), torch.full((3,), 1 / 3), atol=0.015)  # 4.5 standard deviations


def test_sma_draws_with_the_probabilities_of_the_softmax():
    scores, tau = [60.0, 61.0, 63.0, 58.0], 1.7
    index = selection.sma(rows(scores), torch.ones(MANY, 4, dtype=torch.bool), tau, generator())
    expected = (torch.tensor(scores) / tau).softmax(0)
    assert torch.allclose(shares(index, 4), expected, atol=0.015)


def test_only_differences_of_scores_count():
    scores, valid = torch.randn(200, 4, generator=generator()).double(), torch.ones(200, 4, dtype=torch.bool)
    one = selection.sma(scores, valid, 0.5, generator(3))
    assert torch.equal(one, selection.sma(scores + 1000, valid, 0.5, generator(3)))
    assert torch.equal(one, selection.sma(scores * 8, valid, 4.0, generator(3)))  # the units of tau are those of scores


@pytest.mark.parametrize('method', ['random', 'upos', 'sma', 'smp', 'amo'])
def test_an_invalid_candidate_is_never_chosen(method):
    valid = torch.rand(2000, 5, generator=generator()) < 0.4
    positive = torch.rand(2000, 5, generator=generator(1)) < 0.6
    valid[:, 3] = positive[:, 3] = True
    scores = torch.where(valid, torch.randn(2000, 5, generator=generator(2)), 100.0)  # tempting
    call = {
        'random': lambda: selection.random(valid, generator()),
        'upos': lambda: selection.upos(valid, positive, generator()),
        'sma': lambda: selection.sma(scores, valid, 2.0, generator()),
        'smp': lambda: selection.smp(scores, valid, positive, 2.0, generator()),
        'amo': lambda: selection.amo(scores, valid),
    }
    index = call[method]()
    allowed = valid & positive if method in ('upos', 'smp') else valid
    assert allowed[torch.arange(2000), index].all()
    if method not in ('amo',):
        assert len(set(index.tolist())) == 5


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_makes_its_candidate_invalid(bad):
    scores = rows([1.0, bad, 0.5], 1000)
    assert (selection.amo(scores, ALL.expand(1000, -1)) == 0).all()
    assert set(selection.sma(scores, ALL.expand(1000, -1), 1.0, generator()).tolist()) == {0, 2}


def test_seeds_reproduce_and_other_seeds_differ():
    scores, valid = torch.randn(100, 4, generator=generator()), torch.ones(100, 4, dtype=torch.bool)
    one, same, other = (selection.sma(scores, valid, 1.0, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_choice_of_a_row_does_not_depend_on_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    selection.sma(torch.randn(9, 3, generator=generator()), ALL.expand(9, -1), 1.0, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_upos_and_smp_draw_from_the_positive_ones_alone():
    positive = torch.tensor([[False, True, True]]).expand(MANY, -1)
    valid = ALL.expand(MANY, -1)
    assert torch.allclose(
        shares(selection.upos(valid, positive, generator()), 3), torch.tensor([0, 0.5, 0.5]), atol=0.02
    )
    index = selection.smp(rows([9.0, 1.0, 2.0]), valid, positive, 1.0, generator())
    expected = torch.tensor([0.0, *torch.tensor([1.0, 2.0]).softmax(0)])
    assert torch.allclose(shares(index, 3), expected, atol=0.015)


def test_one_candidate_is_always_the_chosen_one():
    valid = torch.tensor([[False, True, False]]).expand(50, -1)
    scores = torch.full((50, 3), -1e30)
    assert (selection.sma(scores, valid, 1e-9, generator()) == 1).all()
    assert (selection.random(valid, generator()) == 1).all()
    assert (selection.amo(scores, valid) == 1).all()


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: selection.amo(torch.zeros(2, 2), torch.tensor([[True, True], [False, False]])), 'row 1.*none of them'),
        (lambda: selection.sma(torch.full((1, 3), math.nan), ALL, 1.0, generator()), 'row 0.*NaN or infinite'),
        (lambda: selection.upos(ALL, ~ALL, generator()), 'no positive ground truth in row 0'),
        (lambda: selection.original(torch.tensor([[False, True]])), 'row 0'),
        (lambda: selection.sma(torch.zeros(1, 3), ALL, -1.0, generator()), r'tau must be 0 \(argmax\) or more'),
        (lambda: selection.sma(torch.zeros(1, 3), ALL, math.nan, generator()), 'tau must be'),
        (lambda: selection.amo(torch.zeros(1, 2), ALL), r'scores are \(1, 2\), valid is \(1, 3\)'),
        (lambda: selection.amo(torch.zeros(3), ALL), r'scores must be a tensor \(N, K\)'),
    ],
)
def test_rows_without_a_candidate_and_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    'call',
    [
        lambda: selection.amo(torch.zeros(1, 3), torch.ones(1, 3)),
        lambda: selection.amo(torch.zeros(1, 3, dtype=torch.long), ALL),
        lambda: selection.sma(torch.zeros(1, 3), ALL, '1', generator()),
    ],
)
def test_wrong_types_are_refused(call):
    with pytest.raises(TypeError):
        call()


def test_original_is_candidate_zero():
    assert selection.original(ALL.expand(4, -1)).tolist() == [0] * 4


# ---- the sampler


class Counting(Brightness):
    """Counts what it scores."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def score(self, pred, ref=None):
        self.batches.append(len(pred))
        assert not torch.is_grad_enabled()
        return super().score(pred)


def levels(*values, side=8):
    """Flat candidates of given levels, ``(N, K, 3, side, side)``."""
    return torch.tensor(values)[:, :, None, None, None].expand(-1, -1, 3, side, side).clone()


def test_the_sampler_hands_over_the_chosen_crops():
    candidates = torch.rand(4, 3, 3, 8, 8, generator=generator())
    choice = AMOSampler('amo', Brightness())(candidates)
    expected = candidates.flatten(2).mean(2)
    assert torch.allclose(choice.scores, expected, atol=1e-6)
    assert torch.equal(choice.index, expected.argmax(1))
    assert torch.equal(choice.gt, torch.stack([candidates[n, k] for n, k in enumerate(choice.index)]))


def test_a_judge_for_which_lower_is_better_is_turned_around():
    candidates = levels([0.2, 0.9, 0.5])
    sampler = AMOSampler('amo', Darkness())
    choice = sampler(candidates)
    assert choice.index.tolist() == [0]
    assert choice.scores.tolist() == [pytest.approx([-0.2, -0.9, -0.5])]
    assert sampler.log_values()['gt_score'] == pytest.approx(0.2)  # logged as the judge says it


@pytest.mark.parametrize('chunk', [1, 2, 5, 100])
def test_chunks_bound_what_is_scored_at_once_and_change_nothing(chunk):
    judge = Counting()
    candidates = torch.rand(3, 4, 3, 8, 8, generator=generator())
    valid = torch.rand(3, 4, generator=generator(4)) < 0.8
    valid[:, 0] = True
    choice = AMOSampler('amo', judge, chunk=chunk)(candidates, valid)
    assert max(judge.batches) <= chunk
    assert sum(judge.batches) == int(valid.sum())
    assert torch.equal(choice.index, torch.where(valid, candidates.flatten(2).mean(2), -1).argmax(1))


def test_a_candidate_that_stands_alone_is_not_scored():
    judge = Counting()
    sampler = AMOSampler('amo', judge)
    assert sampler(levels([0.5], [0.1])).index.tolist() == [0, 0]
    valid = torch.tensor([[False, True], [True, True]])
    assert sampler(levels([0.9, 0.2], [0.3, 0.4]), valid).index.tolist() == [1, 1]
    assert judge.batches == [2]


def test_smp_scores_the_positive_ones_only():
    judge = Counting()
    positive = torch.tensor([[False, True, True], [False, False, True]])
    choice = AMOSampler('smp', judge, tau=0)(levels([0.9, 0.2, 0.4], [0.9, 0.8, 0.1]), positive=positive)
    assert choice.index.tolist() == [2, 2]
    assert judge.batches == [2]


@pytest.mark.parametrize('method', ['original', 'random', 'upos'])
def test_methods_without_scores_need_no_judge(method):
    positive = torch.tensor([[False, True, True]])
    choice = AMOSampler(method)(levels([0.1, 0.2, 0.3]), positive=positive)
    assert choice.scores is None
    assert choice.index[0] in {'original': [0], 'random': [0, 1, 2], 'upos': [1, 2]}[method]


def test_an_undefined_score_makes_a_candidate_invalid_and_none_left_is_an_error_that_names_the_set():
    sampler = AMOSampler('amo', FlatIsUndefined())
    candidates = levels([0.9, 0.1, 0.2])
    candidates[0, 1, :, ::2] += 0.05
    assert sampler(candidates).index.tolist() == [1]
    with pytest.raises(ValueError, match=r"sets \['dark'\].*row 0.*NaN"):
        sampler(levels([0.9, 0.1]), names=['dark'])


def test_draws_depend_on_seed_and_iteration_only():
    candidates = torch.rand(64, 4, 3, 8, 8, generator=generator())

    def draws(seed, iteration):
        sampler = AMOSampler('sma', Brightness(), tau=0.05, seed=seed)
        sampler.set_iteration(iteration)
        torch.rand(3)  # whatever else draws
        return sampler(candidates).index

    assert torch.equal(draws(0, 7), draws(0, 7))
    assert not torch.equal(draws(0, 7), draws(0, 8))
    assert not torch.equal(draws(0, 7), draws(1, 7))


def test_the_log_holds_the_histogram_and_both_mean_scores_and_survives_a_resume():
    sampler = AMOSampler('amo', Brightness())
    sampler(levels([0.1, 0.2, 0.3], [0.5, 0.4, 0.1]))
    sampler(levels([0.1, 0.6, 0.3], [0.1, 0.2, 0.8]))
    log = sampler.log_values()
    expected = {'gt_0': 0.25, 'gt_1': 0.25, 'gt_2': 0.5, 'gt_score': 0.55, 'gt_score_original': 0.2}
    assert log == pytest.approx(expected)
    resumed = AMOSampler('amo', Brightness())
    resumed.load_loss_state(json.loads(json.dumps(sampler.loss_state())))
    assert resumed.log_values() == log


def test_the_picture_of_candidates_is_written_at_its_iterations_with_the_chosen_one_framed(tmp_path):
    sampler = AMOSampler('amo', Brightness(), panel_every=2)
    sampler.panel_folder = tmp_path
    for iteration in (1, 2, 3):
        sampler.set_iteration(iteration)
        sampler(levels([0.2, 0.8, 0.5], side=16), torch.tensor([[True, True, False]]))
    (file,) = tmp_path.iterdir()
    assert file.name == 'candidates_0000002.png'
    image = Image.open(file)
    cell = image.width // 3
    middle = image.height - 4 - 8
    pixels = [image.getpixel((k * cell + cell // 2, middle)) for k in range(3)]
    assert pixels == [(51,) * 3, (204,) * 3, (128,) * 3]  # the missing one is grey
    assert [image.getpixel((k * cell + 1, middle)) for k in (0, 1)] == [(255, 255, 255), (0, 160, 0)]


def test_the_judge_stays_out_of_checkpoints_and_of_the_optimizer():
    sampler = AMOSampler('amo', 'tests.judges:TinyNet')
    assert not sampler.state_dict()
    assert not list(sampler.parameters())
    sampler.train()
    assert not sampler.scorer.net.training


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'method': 'best'}, ValueError, "method: 'best'"),
        ({'methods': 'amo'}, ValueError, "option of AMOSampler: 'methods'"),
        ({'tau': -1}, ValueError, 'tau'),
        ({'tau': '1e-2'}, TypeError, 'tau must be a number, got the text'),
        ({'chunk': 0}, ValueError, 'chunk'),
        ({'metric': 'tests.judges:Distance'}, ValueError, 'distance is a full-reference judge'),
        ({'metric': 'tests.judges:Clip'}, ValueError, 'clip is a video judge'),
        ({'metric': None}, ValueError, 'metric'),
        ({'scores': 'nothing.jsonl'}, FileNotFoundError, 'scores: no such file'),
    ],
)
def test_wrong_options_are_refused_at_construction(options, error, message):
    with pytest.raises(error, match=message):
        AMOSampler(**{'metric': 'tests.judges:Brightness', **options})


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((torch.rand(2, 3, 8, 8),), r'candidates must be \(N, K, 3, H, W\)'),
        ((torch.rand(2, 3, 3, 8, 8), torch.ones(2, 2, dtype=torch.bool)), 'valid is'),
        ((255 * torch.rand(1, 2, 3, 8, 8),), r'must lie in \[0, 1\]'),
    ],
)
def test_wrong_batches_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AMOSampler('amo', Brightness())(*arguments)


def test_the_temperature_of_a_method_of_positives_needs_labels():
    with pytest.raises(ValueError, match='upos needs to know which candidates people called positive'):
        AMOSampler('upos')(levels([0.1, 0.2]))


# ---- cached scores

WHOLE = ScoresHeader('brightness', 'abc', True)


def written(path, header, table):
    with ScoreWriter(path, header) as writer:
        for (name, k), scores in table.items():
            writer.add(name, k, f'hash{k}', (64, 80), scores)
    return path


def test_cached_scores_choose_as_the_judge_does_without_it(tmp_path):
    judge, candidates = Brightness(), torch.rand(2, 3, 3, 64, 64, generator=generator())
    header = ScoresHeader.of(judge, patch=64, stride=8)
    table = {(name, k): [[0.0, float(candidates[n, k].mean()), 9.0]] for n, name in enumerate('ab') for k in range(3)}
    path = written(tmp_path / 's.jsonl', header, table)
    online = AMOSampler('amo', judge)(candidates)
    cached = AMOSampler('amo', judge, scores=str(path))
    assert cached.scorer is None
    got = cached(candidates, names=['a', 'b'], crops=torch.tensor([[0, 8], [0, 8]]))
    assert torch.equal(got.index, online.index)
    assert torch.allclose(got.scores, online.scores, atol=1e-6)


def test_whole_image_scores_give_the_published_sampling_rule(tmp_path):
    path = written(tmp_path / 's.jsonl', WHOLE, {('a', 0): 60.0, ('a', 1): 62.0, ('a', 2): None or math.nan})
    sampler = AMOSampler('sma', 'brightness', scores=str(path), tau=2.0)
    index = torch.cat([_at(sampler, i, torch.zeros(1, 3, 3, 8, 8), ['a']) for i in range(4000)])
    assert torch.allclose(shares(index, 3), torch.tensor([*torch.tensor([30.0, 31.0]).softmax(0), 0.0]), atol=0.03)


def _at(sampler, iteration, candidates, names):
    sampler.set_iteration(iteration)
    return sampler(candidates, names=names).index


def test_scores_of_a_lower_is_better_judge_are_turned_around_when_read(tmp_path):
    path = written(tmp_path / 's.jsonl', ScoresHeader('darkness', 'd', False), {('a', 0): 3.0, ('a', 1): 1.0})
    assert ScoreTable(path).look_up('a', 1) == -1.0
    assert _at(AMOSampler('sma', scores=str(path), tau=0), 1, torch.zeros(1, 2, 3, 8, 8), ['a']).tolist() == [1]


def test_amo_refuses_scores_of_whole_images(tmp_path):
    with pytest.raises(ValueError, match='holds scores of whole images, amo chooses patches'):
        AMOSampler('amo', scores=str(written(tmp_path / 's.jsonl', WHOLE, {('a', 0): 1.0})))


def test_another_judge_other_weights_and_other_data_are_refused(tmp_path):
    judge = Brightness()
    path = str(written(tmp_path / 's.jsonl', ScoresHeader.of(judge), {('a', 0): 1.0, ('a', 1): 2.0}))
    with pytest.raises(ValueError, match='holds scores by brightness, the judge is musiq'):
        AMOSampler('sma', 'musiq', scores=path)
    with pytest.raises(ValueError, match='scored by other weights or options of brightness'):
        ScoreTable(path, 'brightness', 'fff')
    AMOSampler('sma', judge, scores=path)
    sampler = AMOSampler('sma', scores=path)
    batch = torch.zeros(1, 2, 3, 8, 8)
    sampler(batch, names=['a'], hashes=[['hash0', 'hash1']])
    with pytest.raises(ValueError, match="other data: candidate 1 of 'a' has the hash other, when it was scored hash1"):
        sampler(batch, names=['a'], hashes=[['hash0', 'other']])
    with pytest.raises(ValueError, match="no candidate 0 of 'b'"):
        sampler(batch, names=['b'])


def test_scores_of_an_ensemble_or_of_a_judge_with_options_are_compared_by_hash(tmp_path):
    two = [{'tests.judges:Brightness': 1.0}, {'tests.judges:TinyNet': 1.0}]
    ensemble = create_scorer('ensemble', judges=two)
    rows = {('a', 0): 1.0, ('a', 1): 2.0}
    path = str(written(tmp_path / 's.jsonl', ScoresHeader.of(ensemble), rows))
    assert AMOSampler('sma', ensemble=two, scores=path).scorer is None
    with pytest.raises(ValueError, match='scored by other weights or options of ensemble'):
        AMOSampler('sma', ensemble=[two[0], {'tests.judges:TinyNet': 2.0}], scores=path)
    with pytest.raises(ValueError, match='give one judge as metric or several as ensemble'):
        AMOSampler('sma', 'brightness', ensemble=two, scores=path)
    loud = create_scorer('tests.judges:Darkness', gain=2.0)
    path = str(written(tmp_path / 'loud.jsonl', ScoresHeader.of(loud), rows))
    AMOSampler('sma', 'tests.judges:Darkness', options={'gain': 2.0}, scores=path)
    for options in (None, {'gain': 3.0}):
        with pytest.raises(ValueError, match='scored by other weights or options of darkness'):
            AMOSampler('sma', 'tests.judges:Darkness', options=options, scores=path)


def test_a_crop_off_the_grid_is_refused_with_the_stride(tmp_path):
    path = written(tmp_path / 's.jsonl', ScoresHeader('x', 'y', True, 56, 8), {('a', 0): [[1.0, 2.0, 3.0, 4.0]] * 2})
    table = ScoreTable(path)
    assert table.look_up('a', 0, (8, 16, 56)) == 3.0
    for crop in ((4, 16, 56), (16, 0, 56), (0, 32, 56)):
        with pytest.raises(ValueError, match='not on the grid of 8 px; set crop_stride: 8'):
            table.look_up('a', 0, crop)
    with pytest.raises(ValueError, match='made for crops of 56 px, this one has 64'):
        table.look_up('a', 0, (0, 0, 64))


def test_a_writer_goes_on_after_a_torn_line_and_refuses_another_header(tmp_path):
    path = written(tmp_path / 's.jsonl', WHOLE, {('a', 0): 1.0, ('a', 1): 2.5})
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match='line 3 is damaged; it is not finished'):
        ScoreTable(path)
    with ScoreWriter(path, WHOLE) as writer:
        assert writer.done == {('a', 0): 'hash0'}
        writer.add('a', 1, 'hash1', (64, 80), 2.5)
        with pytest.raises(ValueError, match='candidate 1 of a is in the file already'):
            writer.add('a', 1, 'hash1', (64, 80), 2.5)
    assert path.read_bytes() == whole
    with pytest.raises(ValueError, match='holds other scores'):
        ScoreWriter(path, ScoresHeader('brightness', 'other', True))
    assert path.read_bytes() == whole


def test_a_file_that_is_damaged_in_its_middle_is_not_written_to(tmp_path):
    path = written(tmp_path / 's.jsonl', WHOLE, {('a', 0): 1.0, ('a', 1): 2.5})
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + lines[1][:-9] + b'\n' + lines[2]
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='line 2 is damaged'):
        ScoreWriter(path, WHOLE)
    assert path.read_bytes() == damaged


def test_parts_of_several_processes_merge_to_what_one_would_have_written(tmp_path):
    table = {('a', 0): 1.0, ('a', 1): 2.5, ('b', 0): math.nan}
    one = written(tmp_path / 'one.jsonl', WHOLE, table)
    parts = [
        written(tmp_path / f'{i}.jsonl', WHOLE, {key: table[key] for key in keys})
        for i, keys in enumerate(([('b', 0), ('a', 1)], [('a', 0), ('a', 1)]))
    ]
    merge_scores(tmp_path / 'merged.jsonl', parts)
    assert (tmp_path / 'merged.jsonl').read_bytes() == one.read_bytes()
    written(tmp_path / 'other.jsonl', WHOLE, {('a', 1): 2.6})
    with pytest.raises(ValueError, match='candidate 1 of a has another content'):
        merge_scores(tmp_path / 'merged.jsonl', [*parts, tmp_path / 'other.jsonl'])


def test_a_table_of_another_shape_than_the_grid_is_refused(tmp_path):
    header = ScoresHeader('x', 'y', True, 32, 16)
    assert [list(r) for r in header.grid(64, 80)] == [[0, 16, 32], [0, 16, 32, 48]]
    with ScoreWriter(tmp_path / 's.jsonl', header) as writer, pytest.raises(ValueError, match=r'the grid has \(3, 4\)'):
        writer.add('a', 0, 'h', (64, 80), torch.zeros(4, 3))
    with pytest.raises(ValueError, match='patch and stride go together'):
        ScoresHeader('x', 'y', True, 32)


@pytest.mark.parametrize('text', ['', 'no json\n', '{"format": "other"}\n', '[1]\n'])
def test_a_file_that_never_held_scores_is_refused(tmp_path, text):
    path = tmp_path / 's.jsonl'
    path.write_text(text)
    with pytest.raises(ValueError, match='scores: '):
        ScoreTable(path)


def test_sets_whose_scores_are_missing_are_counted(tmp_path):
    from nriqa_plugin.multigt.candidate_set import CandidateSet

    path = written(tmp_path / 's.jsonl', WHOLE, {('a', 0): 1.0})
    sets = [CandidateSet('a', ('x', 'y', None), (False,) * 3)]
    with pytest.raises(ValueError, match=r"lacks 1 of 2 candidates \(the first: number 1 of 'a'\)"):
        ScoreTable(path).check_sets(sets)
    assert len(file_hash(path)) == 12  # what goes with every candidate
