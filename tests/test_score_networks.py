"""Scoring what a network makes of a folder: our own networks, any checkpoint, and those of both hosts."""

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from nriqa_plugin.archs import RLFN
from nriqa_plugin.cli import app
from nriqa_plugin.cli.networks import network_of
from nriqa_plugin.evaluation.images import read_image
from nriqa_plugin.evaluation.network_outputs import Network, output_units
from nriqa_plugin.evaluation.scores import read_scores
from nriqa_plugin.evaluation.scoring import score_folder, score_units
from nriqa_plugin.iqa import create_scorer
from tests.judges import Brightness, Distance

CPU = torch.device('cpu')


def write_images(folder, names, size=(20, 24), seed=0):
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / name)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / 'LR', ['ax4.png', 'bx4.png'])


@pytest.fixture
def rlfn(tmp_path):
    """A small RLFN x2 with random weights, and its file."""
    torch.manual_seed(0)
    network = RLFN(feature_channels=16, upscale=2).eval()
    torch.save(network.state_dict(), tmp_path / 'rlfn.pth')
    return network, tmp_path / 'rlfn.pth'


def brighter(amount=0.25):
    """A network without weights: twice the size, brighter; counts its calls."""
    calls = []

    def run(image):
        calls.append(1)
        return nn.functional.interpolate(image, scale_factor=2) + amount

    return Network(run, f'brighter {amount}'), calls


def test_outputs_are_scored_as_they_would_be_saved(folder, tmp_path):
    network, _ = brighter()
    units = output_units(folder, network, suffix='x4', save=tmp_path / 'saved')
    scores = score_units(units, [Brightness()], tmp_path / 's.csv', 'cpu')
    assert [row.image for row in scores.rows] == ['a.png', 'b.png']
    saved = score_folder(tmp_path / 'saved', Brightness(), tmp_path / 'saved.csv', device='cpu')
    assert [row.score for row in scores.rows] == [row.score for row in saved.rows]
    image = read_image(tmp_path / 'saved' / 'a.png')
    expected = (read_image(folder / 'ax4.png') + 0.25).clamp(max=1).repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(image, expected, atol=0.5 / 255 + 1e-6, rtol=0)


def test_nothing_is_written_unless_asked_for(folder, tmp_path):
    before = sorted(tmp_path.rglob('*.png'))
    score_units(output_units(folder, brighter()[0]), [Brightness()], tmp_path / 's.csv', 'cpu')
    assert sorted(tmp_path.rglob('*.png')) == before


def test_references_are_those_of_the_outputs(folder, tmp_path):
    truth = write_images(tmp_path / 'HR', ['a.png', 'b.png'], (40, 48), seed=1)
    network, _ = brighter(0.0)
    units = output_units(folder, network, truth, 'x4')
    scores = score_units(units, [Distance()], tmp_path / 's.csv', 'cpu', with_references=True)
    made = network(read_image(folder / 'ax4.png')[None])
    assert scores.rows[0].score == Distance()(made, read_image(truth / 'a.png')[None]).item()
    assert scores.rows[0].reference_hash


def test_a_second_run_asks_the_network_for_nothing_but_missing_files(folder, tmp_path):
    network, calls = brighter()
    out = tmp_path / 's.csv'
    score_units(output_units(folder, network), [Brightness()], out, 'cpu')
    first = out.read_bytes()
    score_units(output_units(folder, network), [Brightness()], out, 'cpu')
    assert len(calls) == 2
    assert out.read_bytes() == first
    score_units(output_units(folder, network, save=tmp_path / 'made'), [Brightness()], out, 'cpu')
    (tmp_path / 'made' / 'ax4.png').unlink()
    score_units(output_units(folder, network, save=tmp_path / 'made'), [Brightness()], out, 'cpu')
    assert len(calls) == 5
    assert out.read_bytes() == first


def test_another_checkpoint_is_another_run(folder, tmp_path):
    score_units(output_units(folder, brighter(0.1)[0]), [Brightness()], tmp_path / 's.csv', 'cpu')
    with pytest.raises(ValueError, match='scores of other images under the same names'):
        score_units(output_units(folder, brighter(0.2)[0]), [Brightness()], tmp_path / 's.csv', 'cpu')


def test_outputs_that_are_no_images_are_named_with_their_input(folder, tmp_path):
    for function, message in [
        (lambda image: image * float('nan'), 'output holds NaN'),
        (lambda image: image[:, :1], r'it made \(1, 1, 20, 24\) of \(1, 3, 20, 24\)'),
    ]:
        with pytest.raises(ValueError, match=rf'the network failed on .*ax4\.png: .*{message}'):
            score_units(output_units(folder, Network(function, 'x')), [Brightness()], tmp_path / 's.csv', 'cpu')


def test_inputs_are_not_overwritten(folder):
    with pytest.raises(ValueError, match='--save .* would write the outputs over'):
        output_units(folder, brighter()[0], save=folder)


# --- networks by name ---------------------------------------------------------------------------------------------


def test_clips_are_no_input_and_it_is_said_what_to_do(tmp_path):
    for clip in ('one', 'two'):
        write_images(tmp_path / 'clips' / clip, ['0.png', '1.png'])
    network, calls = brighter()
    with pytest.raises(ValueError, match=r'clips holds clips .* networks are run on images only: .* test script') as e:
        output_units(tmp_path / 'clips', network)
    assert 'score their folder without --network' in str(e.value)
    with pytest.raises(ValueError, match='networks are run on images only'):
        output_units(tmp_path / 'clips', network, tmp_path / 'clips')
    assert calls == []
    assert list(output_units(tmp_path / 'clips' / 'one', network)) == ['0.png', '1.png']
    (tmp_path / 'empty' / 'inner').mkdir(parents=True)
    with pytest.raises(ValueError, match=r'no image in .*its subfolders are not searched'):
        output_units(tmp_path / 'empty', network)
    write_images(tmp_path / 'clips', ['image.png'])
    assert list(output_units(tmp_path / 'clips', network)) == ['image.png'], 'an image beside clips is scored as ever'


def test_our_own_networks_by_name(rlfn, folder):
    network, file = rlfn
    made = network_of('RLFN:feature_channels=16,upscale=2', file, CPU)
    image = read_image(folder / 'ax4.png')[None]
    with torch.no_grad():
        expected = network(image).clamp(0, 1).mul(255).round() / 255
    torch.testing.assert_close(made(image), expected)


def test_a_grey_network_works_on_each_colour(tmp_path, folder):
    from nriqa_plugin.archs import DnCNN

    network = DnCNN(nc=4, nb=3).eval()
    torch.save(network.state_dict(), tmp_path / 'dncnn.pth')
    image = read_image(folder / 'ax4.png')[None]
    made = network_of('DnCNN:nc=4,nb=3', tmp_path / 'dncnn.pth', CPU)(image)
    with torch.no_grad():
        expected = torch.cat([network(image[:, c : c + 1]) for c in range(3)], 1).clamp(0, 1)
    torch.testing.assert_close(made, expected.mul(255).round() / 255)


@pytest.mark.parametrize(
    ('text', 'checkpoint', 'message'),
    [
        ('RLFM', None, "no such file either.*'RLFM'. Did you mean 'RLFN'"),
        ('RLFN', None, '--network RLFN needs --checkpoint'),
        ('RLFN:width=16', 'rlfn.pth', 'width'),
        ('RLFN', 'rlfn.pth', 'belongs to another network than RLFN'),
        ('RLFN', 'text.pth', 'is not a checkpoint'),
        ('rlfn.pth', 'rlfn.pth', 'is a checkpoint itself'),
        ('nowhere:net', 'rlfn.pth', "no module 'nowhere'"),
        ('missing.pth', None, 'no such file'),
        ('options.yml', None, '--network .*options.yml needs --checkpoint'),
    ],
)
def test_what_names_no_network_is_refused(text, checkpoint, message, rlfn, tmp_path):
    (tmp_path / 'text.pth').write_text('hello')
    text = str(tmp_path / text) if text.endswith(('.pth', '.yml')) else text
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        network_of(text, checkpoint and tmp_path / checkpoint, CPU)


def test_a_checkpoint_that_spandrel_reads_needs_no_more(tmp_path, folder):
    pytest.importorskip('spandrel', reason='the extra gts is not installed')
    from spandrel.architectures.Compact import Compact

    network = Compact(num_feat=8, num_conv=2, upscale=2).eval()
    torch.save({'params': network.state_dict()}, tmp_path / 'compact.pth')
    image = read_image(folder / 'ax4.png')[None]
    with torch.no_grad():
        expected = network(image).clamp(0, 1).mul(255).round() / 255
    torch.testing.assert_close(network_of(str(tmp_path / 'compact.pth'), None, CPU)(image), expected)


BASICSR = """
plugin: !!python/name:nriqa_plugin.basicsr.VERSION
name: x
model_type: SRModel
scale: 2
num_gpu: auto
network_g: {type: RLFN, feature_channels: 16, upscale: 2}
train:
  ema_decay: 0.999
  pixel_opt: {type: FRIQALoss, metric: lpips, weights: nowhere.pth}
"""


@pytest.mark.parametrize('keys', [('params',), ('params', 'params_ema')])
def test_a_checkpoint_of_basicsr_by_its_option_file(keys, rlfn, folder, tmp_path):
    pytest.importorskip('basicsr', reason='basicsr is not installed')
    network, _ = rlfn
    (tmp_path / 'x.yml').write_text(BASICSR)
    other = RLFN(feature_channels=16, upscale=2).state_dict()
    torch.save({key: network.state_dict() if key == keys[-1] else other for key in keys}, tmp_path / 'net_g.pth')
    image = read_image(folder / 'ax4.png')[None]
    with torch.no_grad():
        expected = network(image).clamp(0, 1).mul(255).round() / 255
    torch.testing.assert_close(network_of(str(tmp_path / 'x.yml'), tmp_path / 'net_g.pth', CPU)(image), expected)


def test_basicsrs_other_network_and_other_files_are_named(rlfn, tmp_path):
    pytest.importorskip('basicsr', reason='basicsr is not installed')
    (tmp_path / 'x.yml').write_text(BASICSR.replace('16', '8'))
    with pytest.raises(ValueError, match=r'--checkpoint .*rlfn\.pth: its weights belong to another network'):
        network_of(str(tmp_path / 'x.yml'), rlfn[1], CPU)
    (tmp_path / 'y.yml').write_text('a: 1')
    with pytest.raises(ValueError, match=r'y\.yml is not a BasicSR option file'):
        network_of(str(tmp_path / 'y.yml'), rlfn[1], CPU)


MMAGIC = """
custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)
default_scope = 'mmagic'
model = dict(
    type='BaseEditModel',
    generator=dict(type='RLFN', feature_channels=16, upscale=2),
    pixel_loss=dict(type='FRIQALoss', metric='lpips', weights='nowhere.pth'),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0, 10.0, 20.0], std=[255.0, 200.0, 255.0]))
test_pipeline = [dict(type='LoadImageFromFile', key='img', channel_order='ORDER')]
"""


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_a_checkpoint_of_mmagic_by_its_config(order, rlfn, folder, tmp_path):
    pytest.importorskip('mmagic', reason='mmagic is not installed')
    network, _ = rlfn
    (tmp_path / 'x.py').write_text(MMAGIC.replace('ORDER', order))
    state = {f'generator.{key}': value for key, value in network.state_dict().items()}
    torch.save({'state_dict': {**state, 'discriminator.x': torch.zeros(1)}, 'meta': {}}, tmp_path / 'iter_1.pth')
    image = read_image(folder / 'ax4.png')[None]
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.0, 10.0, 20.0], [255.0, 200.0, 255.0]))
    given = image if order == 'rgb' else image.flip(1)
    with torch.no_grad():
        expected = network((given * 255 - mean) / std) * std + mean
    expected = (expected if order == 'rgb' else expected.flip(1)).div(255).clamp(0, 1).mul(255).round() / 255
    made = network_of(str(tmp_path / 'x.py'), tmp_path / 'iter_1.pth', CPU)(image)
    other = {key: value + 1 for key, value in network.state_dict().items()}
    torch.save({'params': other, 'params_ema': network.state_dict()}, tmp_path / 'net_g.pth')  # as BasicSR writes them
    torch.testing.assert_close(network_of(str(tmp_path / 'x.py'), tmp_path / 'net_g.pth', CPU)(image), made)
    torch.testing.assert_close(made, expected, atol=1.01 / 255, rtol=0)
    assert (made - expected).abs().mean() < 1e-5
    torch.save({'state_dict': {'generator.x': torch.zeros(1)}}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth belongs to another network'):
        network_of(str(tmp_path / 'x.py'), tmp_path / 'other.pth', CPU)


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_scores_a_network(rlfn, folder, tmp_path):
    out = tmp_path / 's.csv'
    network = ['--network', 'RLFN:feature_channels=16,upscale=2', '--checkpoint', str(rlfn[1]), '--device', 'cpu']
    judge = ['-m', 'tests.judges:Brightness', '-o', str(out)]
    result = CliRunner().invoke(app, ['score', str(folder), *judge, *network])
    assert result.exit_code == 0, result.output
    assert len(read_scores(out).rows) == 2
    for arguments, message in [
        (['--checkpoint', str(rlfn[1])], '--checkpoint and --save need --network'),
        ([*network, '--clip'], 'do not go with it'),
    ]:
        result = CliRunner().invoke(app, ['score', str(folder), *judge, *arguments])
        assert result.exit_code == 2
        assert message in result.output + (result.stderr or '')


def test_rlfn_reaches_its_published_psnr_on_set5(test_data, tmp_path):
    """32.24 dB on the luma without a border of 4 px (RLFN-S, bytedance/RLFN)."""
    network = network_of('RLFN', test_data / 'weights' / 'rlfn_s_x4.pth', CPU)
    images = test_data / 'images' / 'set5'
    units = output_units(images / 'LR_x4', network, images / 'HR', 'x4')
    judge = create_scorer('psnr', crop_border=4, y_channel=True)
    scores = score_units(units, [judge], tmp_path / 's.csv', 'cpu', with_references=True)
    assert scores.mean('psnr') == pytest.approx(32.24, abs=0.005)


class Depthwise(nn.Conv2d):
    """Its first weight has one channel for each of three groups."""

    def __init__(self):
        super().__init__(3, 3, 3, padding=1, groups=3)


def test_a_network_that_begins_with_a_depthwise_convolution_is_not_taken_for_a_grey_one(tmp_path):
    torch.save(Depthwise().state_dict(), tmp_path / 'd.pth')
    network = network_of('tests.test_score_networks:Depthwise', tmp_path / 'd.pth', CPU)
    assert network(torch.rand(1, 3, 8, 8)).shape == (1, 3, 8, 8)
