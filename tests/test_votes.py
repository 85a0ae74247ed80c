"""Tables of votes and of opinions: what is read, in whose columns it may stand, and what is refused."""

import json
from collections import Counter

import numpy as np
import pytest

from nriqa_plugin.multigt.hggt import read_hggt
from nriqa_plugin.preference.hggt_votes import read_hggt_votes
from nriqa_plugin.preference.mos import Opinion, read_mos
from nriqa_plugin.preference.table_columns import parse_columns
from nriqa_plugin.preference.vote_formats import PIPAL, read_format
from nriqa_plugin.preference.votes import Vote, read_votes


@pytest.fixture
def table(tmp_path):
    """Writes a table and gives its path."""

    def write(text, name='votes.csv'):
        (tmp_path / name).write_text(text, encoding='utf-8')
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ('chosen', 'expected'),
    [('left', 0), ('RIGHT', 1), ('tie', 0.5), ('a.png', 0), ('b.png', 1), ('0.25', 0.25), ('1', 1), ('0', 0)],
)
def test_chosen_is_a_side_a_name_or_the_fraction_for_right(table, chosen, expected):
    (vote,) = read_votes(table(f'left,right,chosen\na.png,b.png,{chosen}\n'))
    assert vote == Vote('', '', 'a.png', 'b.png', expected)


def test_optional_columns_are_read_where_they_are(table):
    text = 'reference,scene,observer,left,right,chosen,colour\nr,s,o,a,b,left,red\n'
    assert read_votes(table(text)) == [Vote('o', 's', 'a', 'b', 0.0, 'r')]


def test_a_template_joins_columns_and_its_cells_are_labels(table):
    path = table('who,image,l,r,best\n7,1.png,A,B,B\n7,2.png,B,A,B\n')
    votes = read_votes(path, 'left={l}/{image},right={r}/{image},chosen=best,observer={who}')
    assert votes == [Vote('7', '', 'A/1.png', 'B/1.png', 1.0), Vote('7', '', 'B/2.png', 'A/2.png', 0.0)]


def test_a_mapping_of_some_fields_leaves_the_others_at_their_columns(table):
    path = table('left,right,chosen,session\na,b,left,4\n')
    assert read_votes(path, 'observer=session') == [Vote('4', '', 'a', 'b', 0.0)]
    with pytest.raises(ValueError, match='columns: right, chosen must be given, too'):
        read_votes(path, 'left=left,observer=session')


def test_fractions_may_be_of_those_who_chose_left(table):
    path = table('left,right,chosen\na,b,0.8\n')
    assert read_votes(path, 'fraction=left')[0].chosen == pytest.approx(0.2)
    assert read_votes(path, {'fraction': 'right'})[0].chosen == 0.8


def test_codes_are_read_as_they_are_named(table):
    path = table('left,right,chosen\na,b,1\na,c,2\nb,c,-\n')
    votes = read_votes(path, 'left_is=1,right_is=2,tie_is=-')
    assert [vote.chosen for vote in votes] == [0, 1, 0.5]
    with pytest.raises(ValueError, match=r"line 4: chosen is '-', the codes are 1, 2"):
        read_votes(path, 'left_is=1,right_is=2')


def test_columns_by_number_say_that_there_is_no_header(table):
    path = table('x/0.png,0.25\nx/1.png,1.0\n')
    votes = read_votes(path, 'left={0}:p0,right={0}:p1,chosen={1}')
    assert [(vote.left, vote.right, vote.chosen) for vote in votes] == [
        ('x/0.png:p0', 'x/0.png:p1', 0.25),
        ('x/1.png:p0', 'x/1.png:p1', 1.0),
    ]


def test_tabs_and_a_byte_order_mark_are_understood(table):
    path = table('\ufeffleft\tright\tchosen\na, b\tc\tright\n', 'votes.tsv')
    assert read_votes(path) == [Vote('', '', 'a, b', 'c', 1.0)]


@pytest.mark.parametrize(
    ('text', 'mapping', 'message'),
    [
        ('left,right,chosen\na,b,c\n', None, r"line 2: chosen is 'c': neither a nor b, nor left, right or tie"),
        ('left,right,chosen\na,b,1.5\n', None, r"line 2: chosen is '1.5': neither"),
        ('left,right,chosen\na,b,nan\n', None, r"line 2: chosen is 'nan': neither"),
        ('left,right,chosen\na,b,\n', None, r"line 2: chosen is ''"),
        ('left,right,chosen\n1,0,1\n', None, r"line 2: chosen is '1', which can mean either side"),
        ('left,right,chosen\na,a,left\n', None, r'line 2: left and right are the same: a'),
        ('left,right,chosen\n,a,left\n', None, r'line 2: left is empty'),
        ('left,right,chosen\na,b\n', None, r'line 2: 2 values for 3 columns'),
        ('left,right,chosen\n', None, r'holds no rows'),
        ('', None, r'holds no rows'),
        ('left,right,vote\na,b,left\n', None, r"unknown column of .*'chosen'.*Allowed: left, right, vote"),
        ('left,right,chosen,left\na,b,left,a\n', None, r"two columns called 'left'"),
        ('left,right,chosen\na,b,left\n', 'lift=left', r"unknown field of --columns: 'lift'. Did you mean 'left'"),
        ('left,right,chosen\na,b,left\n', 'observer=', r"field 'observer' has no value"),
        ('left,right,chosen\na,b,left\n', 'fraction=both', r"unknown value for fraction: 'both'"),
        ('left,right,chosen\na,b,left\n', 'fraction=left,fraction=left', r"'fraction' is given twice"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(table, text, mapping, message):
    with pytest.raises(ValueError, match=message):
        read_votes(table(text), mapping)


def test_a_missing_file_and_a_file_that_is_no_table_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'votes: no such file'):
        read_votes(tmp_path / 'none.csv')
    (tmp_path / 'image.csv').write_bytes(b'\x89PNG\xff\xfe')
    with pytest.raises(ValueError, match='is not a CSV file'):
        read_votes(tmp_path / 'image.csv')


def test_an_observer_answers_a_pair_once_unless_repeats_are_allowed(table):
    path = table('observer,left,right,chosen\n1,a,b,left\n2,a,b,left\n1,b,a,left\n')
    with pytest.raises(ValueError, match=r'line 4: the observer 1 answered this pair before, see .*line 2'):
        read_votes(path)
    assert [vote.chosen for vote in read_votes(path, repeats=True)] == [0, 0, 0]


@pytest.mark.parametrize(
    ('mapping', 'said'),
    [
        ('left_is=1,right_is=1', "left_is and right_is are both '1'"),
        ('left_is=1,right_is=2,tie_is=1', "left_is and tie_is are both '1'"),
        ('left_is=1,right_is=0,fraction=left', 'fraction cannot be given with left_is, right_is'),
    ],
)
def test_codes_that_mean_two_things_are_refused(table, mapping, said):
    with pytest.raises(ValueError, match=said):
        read_votes(table('left,right,chosen\na,b,1\n'), mapping)


def test_votes_of_nobody_in_particular_may_repeat(table):
    assert len(read_votes(table('left,right,chosen\na,b,left\na,b,left\n'))) == 2


def test_the_same_pair_in_another_scene_is_no_repetition(table):
    path = table('observer,scene,left,right,chosen\n1,x,A,B,left\n1,y,A,B,left\n')
    assert len(read_votes(path)) == 2


def test_a_comma_in_a_template_stays():
    assert parse_columns('a={x},{y},b=z', ('a', 'b')) == {'a': '{x},{y}', 'b': 'z'}


def test_bapps_folders_and_tables_are_read(tmp_path, table):
    (tmp_path / 'judge').mkdir()
    for name, value in (('000001', 0.75), ('000000', 0.0)):
        np.save(tmp_path / 'judge' / f'{name}.npy', np.array([value], dtype=np.float32))
    first, second = read_format('bapps', tmp_path)
    assert first == Vote('', '000000', 'p0/000000.png', 'p1/000000.png', 0.0, 'ref/000000.png')
    assert second.chosen == 0.75
    (vote,) = read_format('bapps', table('p0,p1,judge\na.png,b.png,0.75\n'))
    assert (vote.left, vote.right, vote.chosen) == ('a.png', 'b.png', 0.75)


@pytest.mark.parametrize('side', ['p0', 'p1', 'ref'])
def test_bapps_images_without_an_answer_are_refused(tmp_path, side):
    for folder in ('judge', side):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / 'judge' / '01.npy', np.array([0.4]))
    for name in ('01.png', '06.png', '07.png'):
        (tmp_path / side / name).write_bytes(b'')
    message = r'without an answer \(a \.npy file\) in \S+judge: 2 \(06\.png, 07\.png\)'
    with pytest.raises(FileNotFoundError, match=rf'images in \S+{side} {message}'):
        read_format('bapps', tmp_path)


@pytest.mark.parametrize('value', [np.array([1.5]), np.array([0.5, 0.5]), np.array([np.nan])])
def test_a_bapps_answer_that_is_no_fraction_is_refused(tmp_path, value):
    (tmp_path / 'judge').mkdir()
    np.save(tmp_path / 'judge' / '0.npy', value)
    with pytest.raises(ValueError, match=r'0\.npy must hold one fraction'):
        read_format('bapps', tmp_path)
    (tmp_path / 'judge' / '0.npy').write_bytes(b'no array')
    with pytest.raises(ValueError, match='not a readable array'):
        read_format('bapps', tmp_path)


def test_hggt_annotations_are_votes_against_the_original(tmp_path):
    answers = {
        'A': ('Positive', 'Negative', 'Similar', 'Positive'),
        'B': ('Positive', 'Negative', 'Similar', 'Similar'),
    }
    answers['C'] = answers['B']
    for folder in ('original', '01', '02', '03', '04'):
        (tmp_path / 'images' / folder).mkdir(parents=True)
        (tmp_path / 'images' / folder / (f'x_{folder}.png' if folder != 'original' else 'x.png')).touch()
    for annotator, labels in answers.items():
        (tmp_path / 'labels' / annotator).mkdir(parents=True)
        content = {f'Picture_{i}': {'Label': label} for i, label in enumerate(labels, 2)}
        (tmp_path / 'labels' / annotator / 'x.json').write_text(json.dumps(content))
    votes = read_hggt_votes(tmp_path)
    assert len(votes) == 12
    assert votes[0] == Vote('A', 'x', 'images/original/x.png', 'images/01/x_01.png', 1.0)
    chosen = {name: [vote.chosen for vote in votes if vote.observer == name] for name in 'AB'}
    assert chosen == {'A': [1, 0, 0.5, 1], 'B': [1, 0, 0.5, 0.5]}
    assert read_hggt(tmp_path)[0].positive == (False, True, False, False, False)


def test_opinions_are_read_and_a_dmos_changes_its_sign(table):
    path = table('image,mos,reference,kind\na.png,3.5,r.png,blur\nb.png,-1,r.png,noise\n')
    assert read_mos(path)[0] == Opinion('a.png', 3.5, 'r.png', 'blur', 'r.png')
    assert [one.mos for one in read_mos(path, 'mos_better=lower')] == [-3.5, 1]
    assert read_mos(path, 'image={reference}/{image},mos=mos')[1] == Opinion('r.png/b.png', -1.0)


def test_the_scene_of_an_opinion_is_its_reference_unless_the_table_says_it(table):
    path = table('image,mos,reference,scene\na.png,3,r1.png,s\nb.png,2,r2.png,\n')
    assert [one.scene for one in read_mos(path)] == ['s', 'r2.png']
    assert [one.scene for one in read_mos(path, 'image=image,mos=mos,scene=scene')] == ['s', '']
    assert [one.scene for one in read_mos(path, 'image=image,mos=mos,reference=reference')] == ['r1.png', 'r2.png']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('image,mos\na,x\n', "line 2: mos is no number: 'x'"),
        ('image,mos\na,nan\n', 'line 2: mos is NaN'),
        ('image,mos\na,inf\n', 'line 2: no image, or an opinion that is not finite'),
        ('image,mos\na,1\na,1\n', r'line 3: a has an opinion already, see .*line 2'),
        ('image,score\na,1\n', 'this one has no mos, but image, score'),
    ],
)
def test_opinions_that_cannot_be_read_are_refused(table, text, message):
    with pytest.raises(ValueError, match=message):
        read_mos(table(text))
    with pytest.raises(ValueError, match='columns: mos must be given, too'):
        read_mos(table(text), 'image=image')


def test_the_real_votes_go_in_with_one_line(test_data):
    path = test_data / 'preference' / 'votes.csv'
    if not path.is_file():
        pytest.skip(f'no {path}')
    mapping = 'left={left}/{image},right={right}/{image},chosen={chosen},observer={session}'
    votes = read_votes(path, mapping)
    assert len(votes) == 900
    assert {vote.chosen for vote in votes} == {0.0, 1.0}
    assert Counter(vote.left if vote.chosen == 0 else vote.right for vote in votes).total() == 900
    winners = Counter((vote.left, vote.right)[int(vote.chosen)].split('/')[0] for vote in votes)
    assert winners == {'ResShift': 309, 'RealESRGAN': 228, 'SwinIR': 220, 'BSRGAN': 143}  # counted in the file


def test_the_real_tables_of_opinions_go_in_with_the_pipal_mapping(test_data):
    for name, count, references in (('TID2013', 3000, 25), ('PIPAL', 23200, 200)):
        path = test_data / 'scores' / f'{name}.csv'
        if not path.is_file():
            pytest.skip(f'no {path}')
        opinions = read_mos(path, PIPAL)
        assert (len(opinions), len({one.reference for one in opinions})) == (count, references)
