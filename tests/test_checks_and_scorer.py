"""The contract of judges and the messages for bad input, without any optional package."""

import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nriqa_plugin.checks import atomic_path, check_number, fill_weights, load_weights
from nriqa_plugin.iqa import Scorer, create_scorer
from tests.judges import Brightness, Clip, Darkness, Distance, FlatIsUndefined, TinyNet


def image(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_a_wrong_name_shows_the_closest_ones():
    with pytest.raises(ValueError, match=r"unknown judge 'niqee'\. Did you mean 'niqe'.*Allowed: .*lpips"):
        create_scorer('niqee')
    with pytest.raises(TypeError, match='named by a string, got 5'):
        create_scorer(5)


def test_options_beside_a_judge_that_is_already_built_are_refused():
    judge = Brightness()
    assert create_scorer(judge) is judge
    for given in ({'crop_border': 4}, {'weights': 'w.pth'}, {'gain': 2.0}):
        with pytest.raises(ValueError, match='the judge brightness is already built'):
            create_scorer(judge, **given)


def test_a_dotted_path_builds_a_custom_judge_with_options():
    judge = create_scorer('tests.judges:Darkness', gain=3.0)
    assert judge(torch.full((2, 3, 8, 8), 0.5)).tolist() == [1.5, 1.5]
    with pytest.raises(TypeError, match=r'returned a Identity, a judge must be a nriqa_plugin\.iqa\.Scorer'):
        create_scorer('tests.judges:not_a_judge')


@pytest.mark.parametrize(
    ('images', 'kind', 'message'),
    [
        (image(1, 3, 8, 8) * 255, ValueError, r'must lie in \[0, 1\], got values in .*divide 8-bit images by 255'),
        (image(1, 3, 8, 8) * 2 - 1, ValueError, r'must lie in \[0, 1\]'),
        ((image(1, 3, 8, 8) * 255).byte(), TypeError, r'torch\.uint8; divide 8-bit images by 255'),
        (image(1, 3, 8, 8) * torch.nan, ValueError, 'NaN or infinite'),
        (image(1, 3, 8, 8).half(), TypeError, 'float16 on a CPU'),
        (image(1, 1, 8, 8), ValueError, 'wants 3 channels, pred has 1'),
        (image(3, 8, 8), ValueError, r'shape \(N, C, H, W\), got \(3, 8, 8\)'),
        (image(1, 3, 7, 8), ValueError, 'tinynet needs at least 8 px a side'),
        ([1, 2], TypeError, r'must be a torch\.Tensor, got list'),
    ],
)
def test_images_that_a_judge_cannot_score_are_refused(images, kind, message):
    with pytest.raises(kind, match=message):
        TinyNet()(images)


def test_a_judge_that_needs_a_reference_says_so():
    with pytest.raises(ValueError, match='distance is a full-reference judge and needs a reference'):
        Distance()(image(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r'pred is \(1, 3, 8, 8\) but the reference is \(1, 3, 9, 8\)'):
        Distance()(image(1, 3, 8, 8), image(1, 3, 9, 8))
    with pytest.raises(ValueError, match='the reference given to distance must lie in'):
        Distance()(image(1, 3, 8, 8), image(1, 3, 8, 8) * 9)


def test_an_undefined_image_is_an_error_when_scoring():
    batch = image(2, 3, 8, 8)
    batch[1] = 0.5
    with pytest.raises(ValueError, match=r'flat_is_undefined is undefined for image \[1\] of the batch'):
        FlatIsUndefined()(batch)


def test_a_video_judge_takes_clips_only():
    assert Clip()(image(2, 3, 3, 8, 8)).shape == (2,)
    with pytest.raises(ValueError, match=r'\(N, T, C, H, W\)'):
        Clip()(image(2, 3, 8, 8))


def test_a_judge_keeps_no_trainable_parameter_and_a_wrong_score_shape_is_refused():
    class Trainable(Brightness):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

    class OneNumber(Brightness):
        def score(self, pred, ref=None):
            return pred.mean()

    with pytest.raises(TypeError, match='a judge has no trainable parameters'):
        Trainable()
    with pytest.raises(ValueError, match=r'must return \(2,\) scores, got \(\)'):
        OneNumber()(image(2, 3, 8, 8))
    with pytest.raises(TypeError, match='Scorer must define score'):
        Scorer()(image(1, 3, 8, 8))


def test_weights_hash_stands_for_weights_and_options():
    assert TinyNet(0).weights_hash() == TinyNet(0).weights_hash() != TinyNet(1).weights_hash()
    assert Darkness(1.0).weights_hash() == Darkness(1.0).weights_hash() != Darkness(2.0).weights_hash()
    assert Darkness(1.0).weights_hash() != Brightness().weights_hash()


# ---------------------------------------------------------------------------------------- weights files


def run_code():
    raise AssertionError('code in a weights file ran')


class Malicious:
    def __reduce__(self):
        return run_code, ()


def test_a_missing_truncated_or_foreign_weights_file_is_named(tmp_path):
    path = tmp_path / 'w.pth'
    with pytest.raises(FileNotFoundError, match=r'weights: no such file: .*w\.pth'):
        load_weights('weights', path)
    network = nn.Linear(3, 4)
    torch.save(network.state_dict(), path)
    assert fill_weights('weights', path, nn.Linear(3, 4), load_weights('weights', path))
    with pytest.raises(
        ValueError, match=r'w\.pth belongs to another network than Linear: weight: expected \(4, 5\), file has \(4, 3\)'
    ):
        fill_weights('weights', path, nn.Linear(5, 4), load_weights('weights', path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r'weights: .*w\.pth is not a readable checkpoint'):
        load_weights('weights', path)
    path.write_text('not a checkpoint at all')
    with pytest.raises(ValueError, match=r'w\.pth'):
        load_weights('weights', path)


def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(tmp_path):
    torch.save({'w': Malicious()}, tmp_path / 'evil.pth')
    (tmp_path / 'plain.pth').write_bytes(pickle.dumps(Malicious()))
    for name in ('evil.pth', 'plain.pth'):
        with pytest.raises(ValueError, match=rf'weights: .*{name} was refused'):
            load_weights('weights', tmp_path / name)


@pytest.mark.parametrize(
    'content',
    [
        b'scale,iteration,real,fake\n1,0,0.5,0.3\n',
        b'not a checkpoint at all',
        b'# Title\n',
        b'0.5\n',
        b'name: x\n',
        'image',
    ],
    ids=['csv', 'text', 'markdown', 'number', 'yaml', 'png'],
)
def test_another_kind_of_file_is_no_checkpoint(tmp_path, content):
    """Letters are opcodes of pickle: the csv pops from an empty stack (IndexError)."""
    path = tmp_path / 'w.csv'
    if content == 'image':
        Image.new('RGB', (8, 8), (30, 40, 50)).save(path, 'PNG')
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r'weights: .*w\.csv is not a checkpoint: torch has not written this file'):
        load_weights('weights', path)


@pytest.mark.parametrize('content', [b'', b'PK', b'\x80', b'\x80\x02d', b'\x80\x02a.'])
def test_an_empty_or_damaged_checkpoint_is_named(tmp_path, content):
    (tmp_path / 'w.pth').write_bytes(content)
    with pytest.raises(ValueError, match=r'weights: .*w\.pth (is not a readable checkpoint|was refused)'):
        load_weights('weights', tmp_path / 'w.pth')


@pytest.mark.parametrize(
    ('value', 'limits', 'message'),
    [
        (5, {'low': 11}, 'crop must be finite and at least 11, got 5'),
        (5, {'high': 3}, 'crop must be finite and at most 3, got 5'),
        (5, {'low': 1, 'high': 3}, 'crop must be finite and in [1, 3], got 5'),
        (math.inf, {}, 'crop must be finite, got inf'),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_limits_there_are(value, limits, message):
    with pytest.raises(ValueError) as error:
        check_number('crop', value, **limits)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (7.0, 'crop must be an integer without a decimal point, got 7.0; write 7'),
        (7.5, 'crop must be an integer, got 7.5'),
        (True, 'crop must be an integer, got True'),
        ('7', "crop must be a number, got the text '7'; write 7 without quotes"),
        ('1e4', "crop must be a number, got the text '1e4'; write 10000 without quotes"),
        ('7.5', "crop must be a number, got the text '7.5'; write an integer"),
    ],
)
def test_what_is_not_written_as_an_integer_is_refused_with_the_spelling(value, message):
    with pytest.raises(TypeError) as error:
        check_number('crop', value, integer=True)
    assert str(error.value) == message


def test_integers_of_other_kinds_are_integers():
    assert check_number('crop', np.int64(7), integer=True) == 7
    assert type(check_number('crop', np.int64(7), integer=True)) is int
    assert check_number('crop', 7.0) == 7.0


def test_atomic_path_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text('half')
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ['file.txt']
    assert path.read_text() == 'old'


@pytest.mark.parametrize(('text', 'shown'), [('5e-5', '5.0e-05'), ('1e6', '1.0e+06')])
def test_numeric_text_is_refused_with_a_spelling_that_yaml_reads_as_a_number(text, shown):
    yaml = pytest.importorskip('yaml')
    with pytest.raises(TypeError) as error:
        check_number('weight', text)
    assert shown in str(error.value)
    assert yaml.safe_load(shown) == float(text)


@pytest.mark.parametrize(
    ('text', 'shown'),
    [('5.0e-5', '!!float5.0e-5 or 0.00005'), ('2', '!!float2 or 2.0'), ('-0.5', '!!float-0.5')],
)
def test_a_number_that_basicsrs_command_line_left_as_text_is_refused_with_a_spelling_it_reads(text, shown):
    with pytest.raises(TypeError) as error:
        check_number('weight', text)
    assert str(error.value).endswith(f'(--force_yml) write {shown}')
    postprocess = pytest.importorskip('basicsr.utils.options')._postprocess_yml_value
    for spelling in shown.split(' or '):
        assert postprocess(spelling) == float(text)
    assert postprocess(text) == text or text == '2'
