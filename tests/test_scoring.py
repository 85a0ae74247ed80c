"""Reading and pairing images, scores files, and scoring a folder that may be interrupted."""

import os
import shlex
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from nriqa_plugin.checks import file_hash
from nriqa_plugin.evaluation import images as image_files
from nriqa_plugin.evaluation.images import list_images, pair_images, read_image
from nriqa_plugin.evaluation.scores import COLUMNS, Score, read_scores, read_unfinished, write_scores
from nriqa_plugin.evaluation.scoring import score_files, score_folder
from tests.judges import Brightness, Clip, Darkness, Distance, FlatIsUndefined, TinyNet

ROOT = Path(__file__).resolve().parent.parent


def save(path, value, size=(4, 3), mode='RGB'):
    """A flat image of one 8-bit value; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == 'L' else (value,) * 3).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three flat images of brightness 51, 102 and 153 out of 255: 0.2, 0.4 and 0.6."""
    for name, value in {'c.png': 153, 'a.png': 51, 'b.png': 102}.items():
        save(tmp_path / 'images' / name, value)
    return tmp_path / 'images'


@pytest.fixture
def references(tmp_path):
    """References of the same names, all of brightness 0."""
    for name in ('a', 'b', 'c'):
        save(tmp_path / 'references' / f'{name}.png', 0)
    return tmp_path / 'references'


class Counting(Brightness):
    """Brightness that remembers how many images it saw."""

    name = 'counting'
    calls = 0

    def score(self, pred, ref=None):
        type(self).calls += 1
        return super().score(pred)


@pytest.fixture
def counting():
    Counting.calls = 0
    return Counting()


# --- images -------------------------------------------------------------------------------------------------------


def test_pixels_arrive_as_rgb_in_0_1(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'x.png')
    image = read_image(tmp_path / 'x.png')
    assert image.dtype == torch.float32
    assert image.shape == (3, 5, 7)
    for channel in range(3):
        np.testing.assert_array_equal(image[channel].numpy(), pixels[:, :, channel].astype(np.float32) / 255)


def test_grey_is_repeated(tmp_path):
    Image.fromarray(np.array([[0, 51], [102, 255]], np.uint8)).save(tmp_path / 'x.png')
    image = read_image(tmp_path / 'x.png')
    assert torch.equal(image[0], torch.tensor([[0, 0.2], [0.4, 1]]))
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_palette_and_bilevel_images_keep_their_colours(tmp_path):
    colours = Image.new('RGB', (2, 1))
    colours.putpixel((0, 0), (255, 0, 51))
    colours.quantize(2).save(tmp_path / 'palette.png')
    assert Image.open(tmp_path / 'palette.png').mode == 'P'
    assert torch.equal(read_image(tmp_path / 'palette.png')[:, 0, 0], torch.tensor([1, 0, 0.2]))
    Image.fromarray(np.array([[True, False]])).save(tmp_path / 'bilevel.png')
    assert torch.equal(read_image(tmp_path / 'bilevel.png')[0], torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize('ending', ['png', 'tif'])
def test_16_bit_grey_keeps_its_lower_byte(tmp_path, ending):
    values = np.array([[0, 1, 257, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f'x.{ending}')
    image = read_image(tmp_path / f'x.{ending}')
    np.testing.assert_array_equal(image[0].numpy(), values.astype(np.float32) / 65535)


def test_16_bit_colour_is_refused_since_pillow_would_halve_it(tmp_path):
    cv2 = pytest.importorskip('cv2')
    for ending in ('png', 'tif'):
        cv2.imwrite(str(tmp_path / f'x.{ending}'), np.full((4, 4, 3), 257, np.uint16))
        with pytest.raises(ValueError, match=rf'x\.{ending} has 16 bits per channel'):
            read_image(tmp_path / f'x.{ending}')


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_alpha_is_refused_by_file_name(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / 'see_through.png')
    with pytest.raises(ValueError, match=r'see_through\.png has transparency'):
        read_image(tmp_path / 'see_through.png')


def test_transparent_palette_colour_is_refused(tmp_path):
    Image.new('P', (4, 4)).save(tmp_path / 'x.png', transparency=0)
    with pytest.raises(ValueError, match='transparency'):
        read_image(tmp_path / 'x.png')


def test_other_colour_spaces_and_animations_are_refused(tmp_path):
    Image.new('CMYK', (4, 4)).save(tmp_path / 'print.jpg')
    with pytest.raises(ValueError, match=r'print.jpg is CMYK'):
        read_image(tmp_path / 'print.jpg')
    frames = [Image.new('RGB', (4, 4), colour) for colour in ('red', 'blue')]
    frames[0].save(tmp_path / 'two.tif', save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match='2 frames'):
        read_image(tmp_path / 'two.tif')


@pytest.mark.parametrize('ending', ['png', 'jpg', 'bmp', 'tif', 'webp'])
@pytest.mark.parametrize('kept', [0.0, 0.02, 0.5, 0.9])
def test_truncated_image_is_named(tmp_path, ending, kept, monkeypatch):
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)  # as after an import of pyiqa
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f'half.{ending}'
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=rf'half\.{ending}'):
        read_image(path)


def test_text_that_calls_itself_png_is_named(tmp_path):
    (tmp_path / 'x.png').write_text('hello')
    with pytest.raises(ValueError, match=r'x\.png is not a readable image'):
        read_image(tmp_path / 'x.png')


def test_missing_image_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nothing.png'):
        read_image(tmp_path / 'nothing.png')


def test_camera_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # Orientation: rotate by 90 degrees to see it upright
    Image.new('RGB', (8, 4)).save(tmp_path / 'x.jpg', exif=exif)
    assert read_image(tmp_path / 'x.jpg').shape == (3, 8, 4)


def test_folder_lists_images_only_sorted(tmp_path):
    for name in ('b.png', 'a.JPG', 'c.webp'):
        save(tmp_path / name, 0)
    for name in ('notes.txt', '._a.png'):
        (tmp_path / name).write_text('')
    (tmp_path / 'd.png').mkdir()
    assert [path.name for path in list_images(tmp_path)] == ['a.JPG', 'b.png', 'c.webp']


def test_empty_and_missing_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere'):
        list_images(tmp_path / 'nowhere')
    (tmp_path / 'empty' / 'inner').mkdir(parents=True)
    with pytest.raises(ValueError, match=r'no image in .*empty.*subfolders are not searched'):
        list_images(tmp_path / 'empty')


@pytest.mark.parametrize(
    ('images', 'references', 'suffix'),
    [
        (['baby.png', 'bird.png'], ['baby.bmp', 'bird.bmp'], ''),
        (['babyx4.png', 'birdx4.png'], ['baby.png', 'bird.png'], 'x4'),
        (['baby_run.png', 'bird_run.png'], ['baby.png', 'bird.png'], '_run'),
        (['baby.png', 'bird.png'], ['babyx4.png', 'birdx4.png'], 'x4'),
    ],
)
def test_images_find_their_references(tmp_path, images, references, suffix):
    for folder, names in (('i', images), ('r', references)):
        for name in names:
            save(tmp_path / folder / name, 0)
    pairs = pair_images(tmp_path / 'i', tmp_path / 'r', suffix)
    assert [(a.name, b.name) for a, b in pairs] == list(zip(images, references, strict=True))


def test_exact_names_pair_before_suffixed_ones(tmp_path):
    for name in ('i/x4.png', 'i/x4x4.png', 'r/x4.png', 'r/x4x4.png'):
        save(tmp_path / name, 0)
    pairs = pair_images(tmp_path / 'i', tmp_path / 'r', 'x4')
    assert all(a.name == b.name for a, b in pairs)


def test_leftovers_of_both_sides_are_named(tmp_path):
    for name in ('i/a.png', 'i/only_image.png', 'r/a.png', 'r/only_reference.png'):
        save(tmp_path / name, 0)
    with pytest.raises(ValueError, match=r'1 \(only_image.png\) without a reference, 1 \(only_reference.png\)'):
        pair_images(tmp_path / 'i', tmp_path / 'r')


def test_a_suffix_must_be_asked_for(tmp_path):
    save(tmp_path / 'i' / 'babyx4.png', 0)
    save(tmp_path / 'r' / 'baby.png', 0)
    with pytest.raises(ValueError, match='do not pair'):
        pair_images(tmp_path / 'i', tmp_path / 'r')


@pytest.mark.parametrize(
    ('images', 'references', 'hint'),
    [
        (['a_rlfn_x4_test', 'b_rlfn_x4_test'], ['a', 'b'], '; they would pair with --suffix _rlfn_x4_test'),
        (['a_run', 'b_run'], ['a', 'b', 'c'], '; they would pair with --suffix _run'),
        (['a', 'b_run'], ['a', 'b'], '; they would pair with --suffix _run'),
        (['x_1_run', 'x_run'], ['x', 'x_1'], '; they would pair with --suffix _run'),
        (['a b', 'c b'], ['a', 'c'], "; they would pair with --suffix ' b'"),
        (['a', 'b'], ['a_HR', 'b_HR'], '; they would pair with --suffix _HR'),
        (['a_run', 'b_other'], ['a', 'b'], ''),
        (['a_run', 'c_run'], ['a', 'b'], ''),
        (['a'], ['a', 'b'], ''),
    ],
)
def test_the_suffix_that_would_pair_all_is_suggested_and_does_pair(tmp_path, images, references, hint):
    for folder, names in (('i', images), ('r', references)):
        for name in names:
            save(tmp_path / folder / f'{name}.png', 0)
    with pytest.raises(ValueError, match='do not pair by name') as error:
        pair_images(tmp_path / 'i', tmp_path / 'r')
    assert str(error.value).partition(' without an image')[2] == hint
    if hint and len(images) == len(references):
        (suffix,) = shlex.split(hint.partition('--suffix ')[2])
        assert len(pair_images(tmp_path / 'i', tmp_path / 'r', suffix)) == len(images)


def test_ambiguous_pairs_are_refused(tmp_path):
    for name in ('i/baby.png', 'i/babyx4.png', 'r/baby.png'):
        save(tmp_path / name, 0)
    with pytest.raises(ValueError, match=r'reference of both baby.png and babyx4.png'):
        pair_images(tmp_path / 'i', tmp_path / 'r', 'x4')
    save(tmp_path / 'r' / 'baby.bmp', 0)
    with pytest.raises(ValueError, match='same name but for the ending'):
        pair_images(tmp_path / 'i', tmp_path / 'r', 'x4')


# --- scores files -------------------------------------------------------------------------------------------------


def rows_of(**scores):
    return [Score(f'{name}.png', 'm', value, True, 'aaa') for name, value in scores.items()]


def test_scores_survive_the_file_bit_by_bit(tmp_path):
    values = {'a': 0.1, 'b': 1 / 3, 'c': 1e-300, 'd': -5.0, 'e': float('inf'), 'f': float(torch.tensor(0.3))}
    rows = [*rows_of(**values), Score('a, "quoted" é.png', 'm', 2.0, True, 'aaa', 'i', 'r', '9')]
    write_scores(tmp_path / 's.csv', rows)
    read = read_scores(tmp_path / 's.csv')
    assert sorted(read.rows, key=lambda r: r.image) == sorted(rows, key=lambda r: r.image)
    assert (tmp_path / 's.csv').read_text().splitlines()[0] == (
        'image,metric,score,higher_better,judge_hash,image_hash,reference_hash,version'
    )


def test_lookup_by_metric_and_closest_name(tmp_path):
    rows = [*rows_of(b=3, a=1), Score('a.png', 'niqe', 4.0, False, 'bbb')]
    write_scores(tmp_path / 's.csv', rows)
    scores = read_scores(tmp_path / 's.csv')
    assert scores.metrics == ['m', 'niqe']
    assert [(row.image, row.score) for row in scores.of('m')] == [('a.png', 1.0), ('b.png', 3.0)]
    assert scores.mean('m') == 2.0
    with pytest.raises(ValueError, match="Did you mean 'niqe'"):
        scores.of('nique')


GOOD = 'a.png,m,1.5,True,aaa,,,1\n'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (GOOD + 'b.png,m,nan,True,aaa,,,1\n', r'line 3: the score of b.png is NaN'),
        (GOOD + 'b.png,m,good,True,aaa,,,1\n', r"line 3: the score of b.png is no number: 'good'"),
        (GOOD + 'b.png,m,,True,aaa,,,1\n', r'line 3: the score of b.png is no number'),
        (GOOD + GOOD, r'line 3: m of a.png stands in line 2 too'),
        (GOOD + 'b.png,m,1\n', r'line 3: 3 values for 8 columns'),
        (GOOD + 'b.png,m,1,maybe,aaa,,,1\n', r'line 3: higher_better must be True or False'),
        (GOOD + 'b.png,m,1,True,bbb,,,1\n', r'line 3: m by another judge'),
        (GOOD + 'b.png,m,1,False,aaa,,,1\n', r'line 3: m by another judge or direction'),
        (GOOD + ',m,1,True,aaa,,,1\n', r'line 3: no image'),
        ('', 'holds no scores'),
    ],
)
def test_damaged_scores_are_refused_by_file_and_line(tmp_path, text, message):
    path = tmp_path / 'damaged.csv'
    path.write_text(','.join(COLUMNS) + '\n' + text)
    with pytest.raises(ValueError, match=message) as error:
        read_scores(path)
    assert 'damaged.csv' in str(error.value)


@pytest.mark.parametrize('data', [b'', b'image,score\na,1\n', b'\xff\xfe\x00binary', b'"open quote\n'])
def test_what_is_no_scores_file_is_refused_by_name(tmp_path, data):
    (tmp_path / 'x.csv').write_bytes(data)
    with pytest.raises(ValueError, match=r'x\.csv'):
        read_scores(tmp_path / 'x.csv')


def test_every_cut_of_a_file_loses_only_the_torn_line(tmp_path):
    rows = rows_of(a=0.5, b=0.25, c=0.125)
    path = tmp_path / 's.csv'
    write_scores(path, rows)
    data = path.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        complete = max(data[:length].count(b'\n') - 1, 0)
        assert read_unfinished(path) == rows[:complete]


# --- scoring ------------------------------------------------------------------------------------------------------


def test_scores_of_flat_images_are_their_brightness(folder, references, tmp_path):
    judges = [Brightness(), Distance()]
    scores = score_folder(folder, judges, tmp_path / 's.csv', references, device='cpu')
    read = read_scores(tmp_path / 's.csv')
    assert scores == read
    for metric in ('brightness', 'distance'):
        assert [row.score for row in read.of(metric)] == pytest.approx([0.2, 0.4, 0.6], abs=1e-7)
    row = read.of('distance')[0]
    assert row.image_hash == file_hash(folder / 'a.png')
    assert row.reference_hash == file_hash(references / 'a.png')
    assert row.judge_hash == Distance().weights_hash()
    assert not row.higher_better
    assert read.of('brightness')[0].reference_hash == ''
    lines = (tmp_path / 's.csv').read_text().splitlines()[1:]
    keys = [tuple(line.split(',')[1::-1]) for line in lines]
    assert keys == sorted(keys), 'sorted by metric and image'


def test_scores_equal_the_judge_called_directly(tmp_path):
    generator = torch.Generator().manual_seed(1)
    for name, size in {'x': (9, 14), 'y': (20, 8)}.items():
        pixels = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f'{name}.png')
    scores = score_folder(tmp_path, TinyNet(), tmp_path / 's.csv', device='cpu')
    for row in scores.of('tinynet'):
        assert row.score == TinyNet()(read_image(tmp_path / row.image)[None]).item()


def test_second_run_scores_nothing_and_changes_nothing(folder, tmp_path, counting):
    out = tmp_path / 's.csv'
    score_folder(folder, counting, out, device='cpu')
    first = out.read_bytes()
    score_folder(folder, counting, out, device='cpu')
    assert Counting.calls == 3
    assert out.read_bytes() == first


def test_only_changed_and_new_images_are_scored_again(folder, tmp_path, counting, plugin_log):
    out = tmp_path / 's.csv'
    score_folder(folder, counting, out, device='cpu')
    save(folder / 'b.png', 255)
    save(folder / 'd.png', 0)
    scores = score_folder(folder, counting, out, device='cpu')
    assert Counting.calls == 5
    assert [row.score for row in scores.of('counting')] == pytest.approx([0.2, 1.0, 0.6, 0.0], abs=1e-7)
    assert plugin_log.messages == [f'1 image had changed since {out} was written and was scored again']


def test_a_file_of_another_run_is_refused_untouched(folder, references, tmp_path, counting):
    out = tmp_path / 's.csv'
    score_folder(folder, counting, out, device='cpu')
    before = out.read_bytes()
    for name in 'abc':
        save(folder / f'{name}.png', 7)
    for judges in ([counting], [Darkness()]):
        with pytest.raises(
            ValueError, match=r's\.csv holds scores of other images under the same names; choose another'
        ):
            score_folder(folder, judges, out, device='cpu')
    assert out.read_bytes() == before
    out.unlink()
    score_folder(folder, Distance(), out, references, device='cpu')
    for name in 'abc':
        save(references / f'{name}.png', 9)
    with pytest.raises(ValueError, match='of other images or references under the same names'):
        score_folder(folder, Distance(), out, references, device='cpu')


def test_changed_reference_renews_only_full_reference_scores(folder, references, tmp_path, counting, plugin_log):
    out = tmp_path / 's.csv'
    score_folder(folder, [counting, Distance()], out, references, device='cpu')
    save(references / 'a.png', 51)
    scores = score_folder(folder, [counting, Distance()], out, references, device='cpu')
    assert Counting.calls == 3
    assert [row.score for row in scores.of('distance')] == pytest.approx([0, 0.4, 0.6], abs=1e-7)
    assert plugin_log.messages[0].startswith('1 image or its reference had changed since')


def test_other_metrics_of_the_file_stay(folder, tmp_path, counting):
    out = tmp_path / 's.csv'
    score_folder(folder, counting, out, device='cpu')
    assert score_folder(folder, Darkness(), out, device='cpu').metrics == ['counting', 'darkness']
    save(folder / 'b.png', 0)
    with pytest.raises(ValueError, match=r'b\.png has changed since counting scored it'):
        score_folder(folder, Darkness(), out, device='cpu')


def test_torn_last_line_is_scored_again(folder, tmp_path, counting):
    out = tmp_path / 's.csv'
    score_folder(folder, counting, out, device='cpu')
    whole = out.read_bytes()
    out.write_bytes(whole[:-7])
    score_folder(folder, counting, out, device='cpu')
    assert Counting.calls == 4
    assert out.read_bytes() == whole


def test_other_weights_of_a_judge_are_refused(folder, tmp_path):
    for image in folder.iterdir():
        save(image, 9, (16, 16))
    out = tmp_path / 's.csv'
    score_folder(folder, TinyNet(seed=0), out, device='cpu')
    before = out.read_bytes()
    with pytest.raises(ValueError, match='holds tinynet by another judge'):
        score_folder(folder, TinyNet(seed=1), out, device='cpu')
    assert out.read_bytes() == before


def test_file_of_another_folder_is_refused_untouched(folder, references, tmp_path):
    out = tmp_path / 's.csv'
    write_scores(out, rows_of(elsewhere=1))
    before = out.read_bytes()
    with pytest.raises(ValueError, match=r'of another folder: it has 1 \(elsewhere.png\)'):
        score_folder(folder, Brightness(), out, device='cpu')
    assert out.read_bytes() == before
    out.write_text('my diary')
    with pytest.raises(ValueError, match='not a scores file'):
        score_folder(folder, Brightness(), out, device='cpu')
    assert out.read_text() == 'my diary'


def test_image_that_a_judge_cannot_score_is_named_with_the_judge(folder, references, tmp_path):
    save(folder / 'a.png', 0)
    with pytest.raises(ValueError, match=r'flat_is_undefined cannot score .*a\.png'):
        score_folder(folder, FlatIsUndefined(), tmp_path / 's.csv', device='cpu')
    with pytest.raises(ValueError, match=r'tinynet cannot score .*a\.png: .*at least 8 px'):
        score_folder(folder, TinyNet(), tmp_path / 't.csv', device='cpu')
    save(references / 'b.png', 0, (5, 5))
    with pytest.raises(ValueError, match=r'distance cannot score .*b\.png'):
        score_folder(folder, Distance(), tmp_path / 'd.csv', references, device='cpu')
    assert [row.image for row in read_unfinished(tmp_path / 'd.csv')] == ['a.png'], 'what was scored is kept'


def test_impossible_requests_are_refused_before_anything_is_written(folder, tmp_path):
    out = tmp_path / 's.csv'
    for judges, device, message in [
        ([Distance()], 'cpu', 'needs references: in'),
        ([Brightness(), Brightness()], 'cpu', "two judges are called 'brightness'"),
        ([Clip()], 'cpu', 'video judge'),
        ([], 'cpu', 'no judge'),
        ([Brightness()], 'gpu', "device 'gpu' cannot be used"),
    ]:
        with pytest.raises(ValueError, match=message):
            score_folder(folder, judges, out, device=device)
    assert not out.exists()


def test_suffix_is_left_out_of_stored_names(tmp_path, references):
    for name, value in {'a': 51, 'b': 102, 'c': 153}.items():
        save(tmp_path / 'results' / f'{name}_run.png', value)
    scores = score_folder(tmp_path / 'results', Distance(), tmp_path / 's.csv', references, 'cpu', suffix='_run')
    assert [row.image for row in scores.of('distance')] == ['a.png', 'b.png', 'c.png']
    save(tmp_path / 'results' / 'a.png', 0)
    with pytest.raises(ValueError, match=r'both called a\.png'):
        score_folder(tmp_path / 'results', Brightness(), tmp_path / 't.csv', suffix='_run', device='cpu')


def test_scoring_leaves_judges_usable_as_a_loss(folder, tmp_path):
    class Caching(Brightness):
        name = 'caching'

        def score(self, pred, ref=None):
            if not hasattr(self, 'window'):
                self.register_buffer('window', torch.full((1,), 2.0) * 1)
            return (pred * self.window).flatten(1).mean(1)

    judge = Caching()
    score_folder(folder, judge, tmp_path / 's.csv', device='cpu')
    image = torch.rand(1, 3, 4, 4, requires_grad=True)
    judge(image).sum().backward()
    torch.testing.assert_close(image.grad, torch.full_like(image, 2 / 48))


def test_line_breaks_in_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match='line break'):
        write_scores(tmp_path / 's.csv', [replace(rows_of(a=1)[0], image='a\nb.png')])


SLOW = """
import os, time
from nriqa_plugin.iqa import Scorer

class Slow(Scorer):
    name = 'slow'
    score_range = (0.0, 1.0)

    def score(self, pred, ref=None):
        with open(os.environ['CALLS'], 'a') as file:
            file.write('.')
        time.sleep(float(os.environ['PAUSE']))
        return pred.flatten(1).mean(1)
"""


def test_killed_run_resumes_to_the_same_file(tmp_path):
    """SIGKILL in the middle: no row is lost or made twice, the result is that of an undisturbed run."""
    total = 8
    for i in range(total):
        save(tmp_path / 'images' / f'{i}.png', 20 * i)
    (tmp_path / 'slow_judge.py').write_text(SLOW)
    out, calls = tmp_path / 's.csv', tmp_path / 'calls'
    code = (
        'import sys; from nriqa_plugin.evaluation import score_folder; '
        "score_folder(sys.argv[1], ['slow_judge:Slow'], sys.argv[2], device='cpu')"
    )

    def start(path, pause):
        environment = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{tmp_path}', 'CALLS': str(calls), 'PAUSE': pause}
        return subprocess.Popen([sys.executable, '-c', code, str(tmp_path / 'images'), str(path)], env=environment)

    process = start(out, '0.3')
    deadline = time.monotonic() + 120
    while not out.exists() or len(read_unfinished(out)) < 2:
        assert process.poll() is None, 'ended before it was killed'
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = len(read_unfinished(out))
    assert 2 <= kept < total
    with open(out, 'ab') as file:
        file.write(b'5.png,slow,0.9')  # as if the kill had come in the middle of a write

    calls.write_text('')
    assert start(out, '0').wait() == 0
    assert len(calls.read_text()) == total - kept
    undisturbed = tmp_path / 'undisturbed.csv'
    assert start(undisturbed, '0').wait() == 0
    assert out.read_bytes() == undisturbed.read_bytes()
    assert len(read_scores(out).rows) == total


def test_nothing_is_shown_when_nobody_looks_on(folder, tmp_path, capfd):
    score_folder(folder, Brightness(), tmp_path / 's.csv', device='cpu')
    assert capfd.readouterr() == ('', '')


def test_ten_thousand_names_pair_at_once(monkeypatch):
    monkeypatch.setattr(image_files, 'list_images', lambda folder: [folder / f'{i}.png' for i in range(10_000)])
    start = time.process_time()
    assert len(pair_images(Path('a'), Path('b'))) == 10_000
    assert time.process_time() - start < 5, 'comparing every name with every other took a minute'


def test_a_damaged_header_of_a_tiff_is_named(tmp_path):
    path = tmp_path / 'a.tif'
    Image.new('RGB', (8, 8)).save(path)
    width = struct.pack('<H', 256)
    data = path.read_bytes()
    start = next(
        i for i in range(8, len(data)) if data[i : i + 2] == width and data[i + 2 : i + 4] in (b'\3\0', b'\4\0')
    )
    path.write_bytes(data[:start] + struct.pack('<H', 0x7FFF) + data[start + 2 :])
    with pytest.raises(ValueError, match=r'a\.tif is not a readable image'):
        read_image(path)


def test_a_judge_that_fails_on_the_first_image_leaves_no_file(folder, tmp_path):
    class Picky(Brightness):
        name = 'picky'

        def score(self, pred, ref=None):
            raise ValueError('not this one')

    out = tmp_path / 's.csv'
    with pytest.raises(ValueError, match='picky cannot score .*a.png: not this one'):
        score_folder(folder, Picky(), out, device='cpu')
    assert not out.exists()
    assert not (tmp_path / 's.csv.provenance.json').exists()
    score_folder(folder, Brightness(), out, device='cpu')
    before = out.read_bytes()
    with pytest.raises(ValueError, match='not this one'):
        score_folder(folder, Picky(), out, device='cpu')
    assert out.read_bytes() == before, 'what is there stays as it is'


def test_images_without_a_reference_are_named_where_a_judge_needs_one(folder, tmp_path):
    files = {p.name: (p, [p] if p.name != 'b.png' else []) for p in list_images(folder)}
    with pytest.raises(ValueError, match=r'distance compares with references, and 1 \(b.png\) of 3 images have none'):
        score_files(files, [Brightness(), Distance()], tmp_path / 's.csv', 'cpu')
    assert len(score_files(files, [Brightness()], tmp_path / 's.csv', 'cpu').rows) == 3
