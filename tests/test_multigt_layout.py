"""Sets of candidate ground truths: HGGT's labels and the generic layouts."""

import shutil

import pytest
from PIL import Image

from nriqa_plugin.multigt.candidate_set import describe
from nriqa_plugin.multigt.hggt import effective_label, read_hggt
from nriqa_plugin.multigt.layout import read_sets
from tests.multigt_data import write_hggt, write_sets

VOTES = {
    'one': ('PSNP', 'PSNS', 'NSPN'),  # positive, similar, negative, all differ
    'two': ('PSSN', 'SPSN', 'SSPN'),  # one Positive each: no majority for any
    'three': ('NNPP', 'NNPP', 'PPNP'),
}

# ---- HGGT


@pytest.mark.parametrize(
    ('labels', 'expected'),
    [
        ('PPP', 'Positive'), ('PPN', 'Positive'), ('PSP', 'Positive'), ('NPN', 'Negative'), ('SSP', 'Similar'),
        ('PSN', 'Similar'), ('NSP', 'Similar'),
    ],
)  # fmt: skip
def test_the_majority_decides_and_three_opinions_mean_similar(labels, expected):
    names = {'P': 'Positive', 'S': 'Similar', 'N': 'Negative'}
    assert effective_label([names[letter] for letter in labels]) == expected


def test_hggt_sets_have_the_original_first_and_the_majoritys_positives(tmp_path):
    sets = {one.name: one for one in read_hggt(write_hggt(tmp_path, VOTES))}
    assert sorted(sets) == ['0-20193/one', '0-20193/three', '0-20193/two']
    one = sets['0-20193/one']
    assert [path.rpartition('/images/0-20193/')[2] for path in one.paths] == [
        'original/one.png', '01/one_01.png', '02/one_02.png', '03/one_03.png', '04/one_04.png',
    ]  # fmt: skip
    assert one.positive == (False, True, False, False, False)
    assert sets['0-20193/two'].positive == (False,) * 5
    assert sets['0-20193/three'].positive == (False, False, False, True, True)


def test_hggt_sets_without_a_positive_are_left_out_and_counted(tmp_path):
    root = write_hggt(tmp_path, VOTES)
    sets, left_out = read_sets(root, 'hggt')
    assert [one.name for one in sets] == ['0-20193/one', '0-20193/three']
    assert left_out == 1
    assert describe(sets, left_out) == (
        '2 sets with up to 5 ground truths; images in gt, gt_01, ...: [2, 2, 2, 2, 2], called positive: [0, 1, 0, 1, 1]; '
        '1 sets without a positive one are left out'
    )
    assert len(read_sets(root, 'hggt', need_positive=False)[0]) == 3


def test_hggts_test_folders_have_no_part(tmp_path):
    assert [one.name for one in read_hggt(write_hggt(tmp_path, {'x': VOTES['one']}, part=''))] == ['x']


@pytest.mark.parametrize(
    ('damage', 'error', 'message'),
    [
        ('labels/0-20193/B/one.json', FileNotFoundError, 'label: no such file: .*B/one.json'),
        ('labels/0-20193/A/one.json', FileNotFoundError, 'label: no such file: .*A/one.json'),
        ('images/0-20193/03/one_03.png', FileNotFoundError, 'belongs to .*03/one_03.png, which is missing'),
        ('labels/0-20193/C', FileNotFoundError, 'no such folder: .*labels/0-20193/C'),
        ('labels', FileNotFoundError, 'no such folder: .*labels'),
        ('images/0-20193/original', FileNotFoundError, 'a folder called original'),
    ],
)
def test_what_is_missing_in_hggt_is_named(tmp_path, damage, error, message):
    path = write_hggt(tmp_path, VOTES) / damage
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(error, match=message):
        read_hggt(tmp_path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"Picture_1": ', 'one.json is not a JSON file'),
        ('[]', r'Label of Picture_2 must be one of .* got None'),
        ('{"Picture_2": {"Label": "Great"}}', r"Label of Picture_2 must be .* got 'Great'"),
    ],
)
def test_broken_labels_of_an_annotator_are_named(tmp_path, text, message):
    (write_hggt(tmp_path, VOTES) / 'labels/0-20193/A/one.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_hggt(tmp_path)


def test_images_that_nobody_labelled_are_counted_in_a_warning(tmp_path, plugin_log):
    root = write_hggt(tmp_path, VOTES)
    assert len(read_hggt(root)) == 3
    assert not plugin_log.records
    for annotator in 'ABC':
        (root / 'labels/0-20193' / annotator / 'two.json').unlink()
    assert [one.name for one in read_hggt(root)] == ['0-20193/one', '0-20193/three']
    assert '1 images of' in plugin_log.text
    assert 'have no label file and are left out: two.png' in plugin_log.text


# ---- generic layouts


def test_folders_pair_by_name_whatever_the_ending_and_may_lack_candidates(tmp_path):
    root = write_sets(tmp_path)
    image = Image.open(root / 'gt_01' / 'a.png')
    image.save(root / 'gt_01' / 'a.bmp')
    (root / 'gt_01' / 'a.png').unlink()
    (root / 'gt_02' / 'b.png').unlink()
    (root / 'gt_01' / 'notes.txt').write_text('no image')
    sets, left_out = read_sets(root)
    names = [[path and path.rpartition('/')[2] for path in one.paths] for one in sets]
    assert names == [['a.png', 'a.bmp', 'a.png'], ['b.png', 'b.png', None]]
    assert [one.valid for one in sets] == [(True,) * 3, (True, True, False)]
    assert left_out == 0


def test_a_set_without_an_original_needs_an_lr_image(tmp_path):
    root = write_sets(tmp_path)
    (root / 'gt' / 'a.png').unlink()
    with pytest.raises(ValueError, match=r'1 sets have no original ground truth \(a\)'):
        read_sets(root)
    assert read_sets(root, training=False)[0][0].original is None
    sets, _ = read_sets(root, lq=str(root / 'lq'))
    assert sets[0].original is None
    assert sets[0].lq.endswith('lq/a.png')


@pytest.mark.parametrize('folder', ['gt_1', 'gt_00', 'gt_001', 'gt01', 'gt-01'])
def test_a_folder_that_is_nearly_called_like_a_candidate_is_not_left_out_in_silence(tmp_path, folder):
    root = write_sets(tmp_path)
    (root / folder).mkdir()
    with pytest.raises(ValueError, match=f'has the folder {folder}; candidates are called gt_01 to gt_99'):
        read_sets(root)


def test_other_folders_beside_the_candidates_are_no_candidates(tmp_path):
    root = write_sets(tmp_path)
    for folder in ('gt_01.lmdb', 'gt_old', 'gt_sharpened'):
        (root / folder).mkdir()
    assert len(read_sets(root)[0][0].paths) == 3


def test_one_lr_image_for_two_sets_is_refused(tmp_path):
    root = write_sets(tmp_path)
    for part in ('one', 'two'):
        shutil.copytree(root / 'gt', root / part)
    (root / 'index.csv').write_text('gt\none/a.png\none/b.png\n')
    assert read_sets(root, 'index', str(root / 'index.csv'), str(root / 'lq'))[0][1].lq.endswith('lq/b.png')
    (root / 'index.csv').write_text('gt\none/a.png\ntwo/a.png\n')
    with pytest.raises(ValueError, match="lq/a.png would belong to the sets 'one/a' and 'two/a'"):
        read_sets(root, 'index', str(root / 'index.csv'), str(root / 'lq'))


@pytest.mark.parametrize('kind', ['csv', 'jsonl'])
def test_an_index_lists_candidates_positives_and_lr_images(tmp_path, kind):
    root = write_sets(tmp_path)
    index = root / f'index.{kind}'
    index.write_text(
        'gt,gt_02,positive,lq\ngt/a.png,gt_02/a.png,2,lq/a.png\ngt/b.png,,,lq/b.png\n'
        if kind == 'csv'
        else '{"gt": "gt/a.png", "gt_02": "gt_02/a.png", "positive": [2], "lq": "lq/a.png"}\n\n'
        '{"gt": "gt/b.png", "lq": "lq/b.png"}\n'
    )
    sets, _ = read_sets(root, 'index', str(index))
    assert [one.name for one in sets] == ['gt/a', 'gt/b']
    assert sets[0].valid == (True, False, True)
    assert sets[0].positive == (False, False, True)
    assert sets[1].paths[1:] == (None, None)
    assert sets[1].lq == str(root / 'lq/b.png')
    kept, left_out = read_sets(root, 'index', str(index), need_positive=True)
    assert [one.name for one in kept] == ['gt/a']
    assert left_out == 1


@pytest.mark.parametrize(
    ('text', 'error', 'message'),
    [
        ('gt,extra\ngt/a.png,1\n', ValueError, "line 2: unknown column 'extra'"),
        ('gt,gt_01\ngt/a.png\n', ValueError, 'line 2: another number of cells'),
        ('gt,gt_01\n,\n', ValueError, 'line 2: no ground truth'),
        ('gt\ngt/a.png\ngt/a.png\n', ValueError, "line 3: the set 'gt/a' stands in .*line 2 too"),
        ('gt\ngt/none.png\n', FileNotFoundError, 'line 2: no such file: .*gt/none.png'),
        ('gt,positive\ngt/a.png,1\n', ValueError, 'positive names candidate 1'),
        ('gt,positive\ngt/a.png,yes\n', ValueError, 'positive must hold numbers'),
        ('', ValueError, 'holds no ground truths'),
    ],
)
def test_a_wrong_index_is_refused_with_its_line(tmp_path, text, error, message):
    root = write_sets(tmp_path)
    (root / 'index.csv').write_text(text)
    with pytest.raises(error, match=message):
        read_sets(root, 'index', str(root / 'index.csv'))


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'layout': 'folder'}, ValueError, "layout: 'folder'. Did you mean 'folders'"),
        ({'index': 'x.csv'}, ValueError, 'do not go together'),
        ({'layout': 'index'}, ValueError, 'do not go together'),
        ({'layout': 'hggt'}, FileNotFoundError, 'images'),
        ({'lq': 'nowhere'}, FileNotFoundError, 'dataroot_lq: no such folder'),
        ({'need_positive': True}, ValueError, 'none of the 2 sets has a positive'),
    ],
)
def test_wrong_layout_options_are_refused(tmp_path, options, error, message):
    root = write_sets(tmp_path)
    with pytest.raises(error, match=message):
        read_sets(root, **options)
    with pytest.raises(FileNotFoundError, match='dataroot_gt: no such folder'):
        read_sets(root / 'nowhere')
