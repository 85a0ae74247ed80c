"""``nriqa screen``: from a table and images to tables and figures, in one and in two stages."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.cli.judges import judges_of, split_metrics
from nriqa_plugin.evaluation.scores import Score, write_scores
from nriqa_plugin.preference import two_stage
from nriqa_plugin.preference.screening_page import markdown
from nriqa_plugin.preference.screening_run import Request, read_with_scores, screen_two_stages, screen_votes
from nriqa_plugin.preference.screening_scores import image_files, score_one_by_one
from nriqa_plugin.preference.two_stage import build_each, no_reference_judges

pytest.importorskip('scipy.stats', reason='the extra report is not installed')
pytest.importorskip('matplotlib', reason='the extra report is not installed')

BRIGHT, DARK = 'tests.judges:Brightness', 'tests.judges:Darkness'


def nriqa(*arguments):
    return CliRunner(env={'COLUMNS': '200'}).invoke(app, list(map(str, arguments)))


def error(*arguments):
    result = nriqa(*arguments)
    assert result.exit_code == 2, result.output
    return ' '.join(result.stderr.split())


@pytest.fixture
def data(tmp_path):
    """Twelve scenes of three images; people choose the brighter image, in 2 of 12 scenes the darker one.

    Returns:
        Path: folder with ``images`` and ``votes.csv``.
    """
    rng = np.random.default_rng(0)
    lines = ['left,right,chosen,observer']
    for scene in range(12):
        levels = {method: int(level) for method, level in zip('ABC', rng.choice(200, 3, replace=False), strict=True)}
        for method, level in levels.items():
            path = tmp_path / 'images' / method / f'{scene}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (16, 16), (level,) * 3).save(path)
        for one, other in (('A', 'B'), ('C', 'B'), ('A', 'C')):
            better = 'left' if (levels[one] > levels[other]) ^ (scene < 2) else 'right'
            lines += [f'{one}/{scene}.png,{other}/{scene}.png,{better},p{person}' for person in range(3)]
    (tmp_path / 'votes.csv').write_text('\n'.join(lines) + '\n')
    return tmp_path


def rows_of(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def test_a_screening_prints_and_writes_what_it_found(data):
    out = data / 'out'
    result = nriqa('screen', data / 'votes.csv', '--images', data / 'images', '--metrics', f'{DARK},{BRIGHT}',
                   '--core', DARK, '-o', out, '--resamples', 200)  # fmt: skip
    assert result.exit_code == 0, result.output
    bright, dark = rows_of(out / 'screening.csv')
    assert (bright['judge'], bright['higher_better'], dark['judge']) == (BRIGHT, 'True', DARK)
    assert float(bright['pair_accuracy']) == pytest.approx(30 / 36)
    assert float(dark['vote_accuracy']) == pytest.approx(6 / 36)
    assert (bright['core_wrong'], float(bright['rescue'])) == ('30', 1.0)
    assert 0.5 < float(bright['pair_low']) < 30 / 36 < float(bright['pair_high']) <= 1
    content = json.loads((out / 'screening.json').read_text())
    assert content['ranks'][0] == pytest.approx([1, -1])  # one wants what is bright, the other what is dark
    for name in ('accuracy.png', 'accuracy.pdf', 'ranks.png', 'ranks.pdf', 'scores.csv'):
        assert (out / name).stat().st_size > 500
    text = (out / 'screening.md').read_text()
    assert '| `tests.judges:Brightness` | higher | 83.3 [' in text
    assert 'Cross-validated' in text
    assert '83.3' in result.stdout
    assert '108 answers on 36 pairs of 36 images, 12 scenes' in ' '.join(result.stderr.split())


def test_images_are_scored_once(data, monkeypatch):
    arguments = ['screen', data / 'votes.csv', '--images', data / 'images', '-m', BRIGHT, '-o', data / 'out']
    assert nriqa(*arguments).exit_code == 0
    before = (data / 'out' / 'screening.csv').read_text()
    monkeypatch.setattr('tests.judges.Brightness.score', lambda *_: pytest.fail('scored again'))
    assert nriqa(*arguments).exit_code == 0
    assert (data / 'out' / 'screening.csv').read_text() == before


def test_scores_files_need_no_images(data):
    scores = [
        Score(f'{method}/{scene}.png', 'niqe', scene + ord(method), False, 'h')
        for method in 'ABC'
        for scene in range(12)
    ]
    write_scores(data / 'scores.csv', scores)
    result = nriqa('screen', data / 'votes.csv', '--scores', data / 'scores.csv', '-o', data / 'out')
    assert result.exit_code == 0, result.output
    assert rows_of(data / 'out' / 'screening.csv')[0]['judge'] == 'niqe'
    write_scores(data / 'scores.csv', scores[1:])
    assert 'niqe has no score for 1 (A/0.png)' in error(
        'screen', data / 'votes.csv', '--scores', data / 'scores.csv', '-o', data / 'out'
    )


def test_a_table_may_hold_the_scores_itself(tmp_path):
    (tmp_path / 'table.csv').write_text('x/0.png,0.1,0.4,0.2\nx/1.png,0.5,0.4,0.6\n')
    columns = 'left={0}:p0,right={0}:p1,score_left={1},score_right={2},chosen={3},judge=st,better=lower'
    result = nriqa('screen', tmp_path / 'table.csv', '--columns', columns, '-o', tmp_path / 'out')
    assert result.exit_code == 0, result.output
    (row,) = rows_of(tmp_path / 'out' / 'screening.csv')
    assert (row['judge'], float(row['vote_accuracy']), row['pair_accuracy']) == ('st', pytest.approx(0.7), '1.0')
    message = error('screen', tmp_path / 'table.csv', '--columns', columns.replace(',better=lower', ''), '-o', tmp_path)
    assert 'need better=higher or better=lower' in message
    (tmp_path / 'table.csv').write_text('x/0.png,0.1,0.4,0.2\nx/0.png,0.3,0.4,0.2\n')
    message = error('screen', tmp_path / 'table.csv', '--columns', columns, '-o', tmp_path)
    assert 'line 2: st of x/0.png:p0 is 0.3, but 0.1 in a line above' in message


def test_opinions_give_correlations(data):
    lines = ['image,mos,reference']
    for scene in range(12):
        for method in 'ABC':
            level = Image.open(data / 'images' / method / f'{scene}.png').getpixel((0, 0))[0]
            lines.append(f'{method}/{scene}.png,{level**0.5},A/{scene}.png')
    (data / 'mos.csv').write_text('\n'.join(lines))
    out = data / 'out'
    arguments = ('screen', data / 'mos.csv', '--mos', '--images', data / 'images', '-o', out, '--resamples', 50)
    result = nriqa(*arguments, '--metrics', f'{BRIGHT},tests.judges:Distance')
    assert result.exit_code == 0, result.output
    found = {row['judge']: row for row in rows_of(out / 'screening.csv')}
    assert float(found[BRIGHT]['srocc']) == pytest.approx(1)
    assert float(found[BRIGHT]['plcc']) > 0.99
    assert 'the 12 scenes or references with all their images' in (out / 'screening.md').read_text()
    assert json.loads((out / 'screening.json').read_text())['rows'][0]['judge'] == BRIGHT
    assert '--core cannot be given with opinions' in error(*arguments, '-m', BRIGHT, '--core', BRIGHT)


def test_references_that_no_judge_looks_at_need_not_be_there(data):
    lines = ['image,mos,reference', *(f'{m}/{s}.png,{s + ord(m)},gone/{s}.png' for m in 'ABC' for s in range(4))]
    (data / 'mos.csv').write_text('\n'.join(lines))
    arguments = (
        'screen',
        data / 'mos.csv',
        '--mos',
        '--images',
        data / 'images',
        '-o',
        data / 'out',
        '--resamples',
        20,
    )
    result = nriqa(*arguments, '-m', BRIGHT)
    assert result.exit_code == 0, result.output
    message = error(*arguments, '-m', BRIGHT, '-m', 'tests.judges:Distance')
    assert f'names images that are not in {data / "images"}: 4 (gone/0.png' in message


def test_a_table_of_opinions_in_another_form_is_met_with_what_to_write(data):
    (data / 'mos.csv').write_text('dis_img_path,score\na.png,3\n')
    arguments = ('screen', data / 'mos.csv', '--mos', '--images', data / 'images', '-o', data / 'out', '-m', BRIGHT)
    message = error(*arguments)
    assert 'has the columns image and mos; this one has no image and no mos, but dis_img_path, score.' in message
    assert '--columns image=COLUMN,mos=COLUMN' in message
    assert '--format pipal' in message
    assert 'columns: mos must be given, too. Say where' in error(*arguments, '--columns', 'image=dis_img_path')


class Broken:
    """Builders of judges: one works, one has no weights, one cannot score these images."""

    names = ('good', 'unfetched', 'large', 'bad')

    @staticmethod
    def build(name):
        from tests.judges import Brightness, Darkness

        if name == 'unfetched':
            raise RuntimeError('the judge unfetched needs a file\nthat could not be fetched')
        judge = Darkness() if name == 'bad' else Brightness()
        judge.name = name
        judge.min_side = 512 if name == 'large' else 1
        return judge


def test_two_stages_keep_the_best_and_test_them_on_other_pairs(data, monkeypatch):
    monkeypatch.setattr('nriqa_plugin.preference.screening_run.no_reference_judges', lambda: list(Broken.names))
    monkeypatch.setattr('nriqa_plugin.preference.screening_run.build_each',
                        lambda names, given: build_each(names, given, Broken.build))  # fmt: skip
    request = Request(data / 'images', {}, True, (), data / 'out', resamples=50, seed=3)
    first, second = screen_two_stages(request, read_with_scores, data / 'votes.csv', None, 12, 1)
    assert [row.judge for row in first.screening.rows] == ['good', 'bad']
    assert first.screening.rows[0].pairs == 12
    assert [row.judge for row in second.screening.rows] == ['good']
    assert second.screening.rows[0].pairs == 24
    assert list(first.failed) == ['unfetched', 'large']
    assert 'could not be fetched' in first.failed['unfetched']
    assert 'large needs at least 512 px' in first.failed['large'] or '512' in first.failed['large']
    page = (data / 'out' / 'stage1_screening.md').read_text()
    assert '## Not asked: 2' in page
    everything = 36 * (30 / 36)  # of all pairs brightness is right about
    right = sum(row.screening.rows[0].pair_accuracy * row.screening.rows[0].pairs for row in (first, second))
    assert right == pytest.approx(everything)


def test_stages_and_a_plain_screening_share_their_scores(data):
    plain = [
        'screen',
        data / 'votes.csv',
        '--images',
        data / 'images',
        '-m',
        BRIGHT,
        '-o',
        data / 'out',
        '--resamples',
        20,
    ]
    assert nriqa(*plain).exit_code == 0
    before = (data / 'out' / 'scores.csv').read_bytes()
    result = nriqa(*plain, '--stage1', 30, '--seed', 1)  # too few pairs are left to show every image
    assert result.exit_code == 0, result.output
    assert rows_of(data / 'out' / 'screening.csv')[0]['pairs'] == '6'
    assert (data / 'out' / 'scores.csv').read_bytes() == before


def test_the_second_stage_may_be_on_a_table_of_its_own_and_keeps_the_core(data):
    lines = (data / 'votes.csv').read_text().splitlines()
    (data / 'test.csv').write_text('\n'.join([lines[0], *lines[-27:]]))
    out = data / 'out'
    result = nriqa('screen', data / 'votes.csv', '--images', data / 'images', '-m', BRIGHT, '-m', DARK, '-o', out,
                   '--stage1', 20, '--keep', 1, '--test', data / 'test.csv', '--core', DARK, '--resamples', 50)  # fmt: skip
    assert result.exit_code == 0, result.output
    bright, dark = rows_of(out / 'screening.csv')
    assert (bright['pairs'], bright['pair_accuracy'], dark['judge']) == ('9', '1.0', DARK)
    assert len(rows_of(out / 'stage1_screening.csv')) == 2
    assert 'Stage 1: 20 pairs' in result.stdout


def test_musiqs_published_accuracy_stands_beside_it_for_sbs180k_only(data):
    levels = {f'{m}/{s}.png': float(s) + ord(m) for m in 'ABC' for s in range(12)}
    write_scores(data / 'scores.csv', [Score(image, 'musiq', value, True, 'h') for image, value in levels.items()])
    request = Request(None, {}, False, (data / 'scores.csv',), data / 'out', resamples=20)
    result = screen_votes(request, read_with_scores, data / 'votes.csv', 'sbs180k')
    assert '82.73 (arXiv 2504.18524)' in (data / 'out' / 'screening.md').read_text()
    assert '82.73' not in markdown(result.screening, 'x', 0, 20)
    shown = nriqa(
        'screen', data / 'votes.csv', '--format', 'sbs180k', '--scores', data / 'scores.csv', '-o', data / 'out'
    )
    assert '82.73 (arXiv 2504.18524)' in shown.stdout


def test_every_no_reference_judge_is_a_candidate():
    names = no_reference_judges()
    assert names[:3] == ['niqe', 'cnniqa', 'pattern']
    assert len(names) == len(set(names))
    if len(names) > 3:  # pyiqa is there
        assert {'musiq', 'nima', 'liqe', 'arniqa', 'qalign', 'topiq_nr', 'paq2piq'} <= set(names)
        assert not {'lpips', 'fid', 'clipscore', 'psnr'} & set(names)


def test_a_judge_that_fails_in_an_unusual_way_is_told_and_left_out(data):
    from tests.judges import Brightness

    class Odd(Brightness):
        name = 'odd'

        def score(self, pred):
            raise IndexError('no such layer')

    files = image_files(data / 'images', ['A/0.png', 'B/0.png'])
    judges = [('odd', Odd(), ''), ('bright', Brightness(), '')]
    done, failed = score_one_by_one(lambda needed: files, judges, data / 'out.csv', 'cpu')
    assert [len(one.scores) for one in done] == [2]
    assert failed == {'odd': 'no such layer'}


def test_all_judges_leave_out_those_whose_scores_are_given(data, monkeypatch):
    monkeypatch.setattr('nriqa_plugin.preference.screening_run.no_reference_judges', lambda: ['good', 'niqe'])
    monkeypatch.setattr('nriqa_plugin.preference.screening_run.build_each',
                        lambda names, given: build_each(names, given, Broken.build))  # fmt: skip
    scores = [Score(f'{m}/{s}.png', 'niqe', float(s) + ord(m), False, 'h') for m in 'ABC' for s in range(12)]
    write_scores(data / 'scores.csv', scores)
    request = Request(data / 'images', {}, True, (data / 'scores.csv',), data / 'out', resamples=20)
    found = screen_votes(request, read_with_scores, data / 'votes.csv')
    assert {row.judge for row in found.screening.rows} == {'good', 'niqe'}


def test_judges_that_cannot_be_built_are_told_one_by_one(monkeypatch):
    monkeypatch.setattr(two_stage, 'create_scorer', Broken.build)
    built = list(build_each(['good', 'unfetched'], {}, Broken.build))
    assert built[0][1].name == 'good'
    assert built[1] == ('unfetched', None, 'the judge unfetched needs a file that could not be fetched')


def test_metrics_in_one_text_are_split_beside_their_options():
    assert split_metrics('niqe, cnniqa:weights=a.pth,stride=16,all,musiq') == (
        True,
        ['niqe', 'cnniqa:weights=a.pth,stride=16', 'musiq'],
    )
    assert split_metrics(None) == (False, [])
    with pytest.raises(ValueError, match='a name is empty'):
        split_metrics('niqe,,musiq')


def test_judges_of_one_name_are_told_apart_by_their_options():
    found = judges_of([DARK, f'{DARK}:gain=2.0'])
    assert list(found) == [DARK, f'{DARK}:gain=2.0']
    assert found[f'{DARK}:gain=2.0']().name == f'{DARK}:gain=2.0'
    with pytest.raises(ValueError, match='is named twice'):
        judges_of(['niqe', 'niqe'])


def test_requests_that_make_no_sense_are_refused(data):
    votes, images, out = data / 'votes.csv', ('--images', data / 'images'), ('-o', data / 'out')
    assert 'no judge to screen' in error('screen', votes, *images, *out)
    assert '--images is missing' in error('screen', votes, '-m', BRIGHT, *out)
    assert "unknown value for --format: 'bups'. Did you mean 'bapps'" in error(
        'screen', votes, '--format', 'bups', '-m', 'niqe', *out
    )
    assert '--test cannot be given with a screening without --stage1' in error(
        'screen', votes, *images, '-m', BRIGHT, '--test', votes, *out
    )
    assert "unknown core judge 'musiq'" in error('screen', votes, *images, '-m', BRIGHT, '--core', 'musiq', *out)
    assert not (data / 'out' / 'scores.csv').exists()  # said before anything is scored
    assert '--format cannot be given with opinions' in error(
        'screen', votes, *images, '--mos', '--format', 'bapps', '-m', BRIGHT, *out
    )
    assert 'stage1: 99 pairs asked for, but there are 36' in error(
        'screen', votes, *images, '-m', BRIGHT, '--stage1', 99, *out
    )
    assert 'no pair with a majority is left' in error('screen', votes, *images, '-m', BRIGHT, '--stage1', 36, *out)
    assert 'is a full-reference judge' in error('screen', votes, *images, '-m', 'tests.judges:Distance', *out)
    (data / 'images' / 'A' / '0.png').unlink()
    assert f'names images that are not in {data / "images"}: 1 (A/0.png)' in error(
        'screen', votes, *images, '-m', BRIGHT, *out
    )


def test_the_hint_for_missing_images_fits_the_form_of_the_table(data):
    arguments = ('--images', data / 'nothing', '-m', BRIGHT, '-o', data / 'out')
    (data / 'nothing').mkdir()
    assert "--columns 'left={left}/{image},...'" in error('screen', data / 'votes.csv', *arguments)
    (data / 'mos.csv').write_text('image,mos\nA/0.png,1\nB/0.png,2\nC/0.png,3\n')
    message = error('screen', data / 'mos.csv', '--mos', *arguments)
    assert 'names images that are not in' in message
    assert "--columns 'image={kind}/{image},...'" in message
    assert 'left=' not in message
    (data / 'mos.csv').write_text('image,mos,reference\nA/0.png,1,r.png\nB/0.png,2,r.png\nC/0.png,3,r.png\n')
    message = error('screen', data / 'mos.csv', '--mos', '--images', data / 'images', '-m', 'psnr', '-o', data / 'out')
    assert (
        "1 (r.png); say how its columns make a path, such as --columns 'reference=originals/{reference},...'" in message
    )


def test_the_help_of_columns_names_the_fields_of_opinions():
    text = ' '.join(nriqa('screen', '--help').output.replace('│', ' ').split())
    assert 'Opinions: image=COLUMN,mos=COLUMN; more: kind, reference, scene, mos_better=lower.' in text


def test_opinions_take_a_scene_and_a_degenerate_fit_is_a_note(data):
    lines = ['image,mos,what', *(f'{m}/{s}.png,{10 + 40 * (m == "C") + s / 10},{s}' for m in 'AC' for s in range(6))]
    (data / 'mos.csv').write_text('\n'.join(lines))
    levels = {f'{m}/{s}.png': 100.0 * (m == 'C') - s / 10 for m in 'AC' for s in range(6)}
    write_scores(data / 'scores.csv', [Score(image, 'j', value, True, 'h') for image, value in levels.items()])
    result = nriqa('screen', data / 'mos.csv', '--mos', '--scores', data / 'scores.csv', '-o', data / 'out',
                   '--columns', 'image=image,mos=mos,scene=what', '--resamples', 50)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert 'OptimizeWarning' not in result.output
    assert "Note: PLCC's logistic fit is degenerate for j (a step: " in ' '.join(result.stderr.split())
    text = (data / 'out' / 'screening.md').read_text()
    assert "- PLCC's logistic fit is degenerate for j (a step: " in text
    assert 'the 6 scenes or references with all their images' in text
    assert rows_of(data / 'out' / 'screening.csv')[0]['note'].startswith("PLCC's logistic fit is degenerate")


def test_what_a_judge_says_of_its_weights_is_in_the_notes(data, monkeypatch):
    text = 'the judge x: a broken or foreign file?'
    monkeypatch.setattr('tests.judges.Brightness.notes', (text,), raising=False)
    arguments = (
        'screen',
        data / 'votes.csv',
        '--images',
        data / 'images',
        '-m',
        BRIGHT,
        '-m',
        DARK,
        '-o',
        data / 'out',
    )
    for more in ((), ('--stage1', 20)):
        result = nriqa(*arguments, *more, '--resamples', 20)
        assert result.exit_code == 0, result.output
        assert f'Note: {text}' in result.stderr
        assert f'- {text}' in (data / 'out' / 'screening.md').read_text()
        assert text in json.loads((data / 'out' / 'screening.json').read_text())['notes']
    (data / 'mos.csv').write_text('image,mos\n' + '\n'.join(f'{m}/{s}.png,{s}' for m in 'AB' for s in range(5)))
    result = nriqa('screen', data / 'mos.csv', '--mos', '--images', data / 'images', '-m', BRIGHT, '-o', data / 'mos')
    assert f'Note: {text}' in result.stderr
    assert f'- {text}' in (data / 'mos' / 'screening.md').read_text()


def test_an_image_for_which_a_judge_is_undefined_stops_the_screening(data):
    message = error(
        'screen',
        data / 'votes.csv',
        '--images',
        data / 'images',
        '-m',
        'tests.judges:FlatIsUndefined',
        '-o',
        data / 'out',
    )
    assert 'is undefined for image' in message
    assert '.png' in message
