"""The nriqa command, as a user calls it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from rich.text import Text
from typer.testing import CliRunner

from nriqa_plugin import __version__
from nriqa_plugin.cli import app, parse_judge
from nriqa_plugin.evaluation.scores import Score, read_scores, write_scores

ROOT = Path(__file__).resolve().parent.parent


def nriqa(*arguments, **variables):
    """Run the command in a process of its own."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'COLUMNS': '200', 'NRIQA_DEBUG': '0', **variables}
    command = [sys.executable, '-c', 'from nriqa_plugin.cli import main; main()', *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def words(text):
    """The table on a terminal, as lists of words."""
    return [line.split() for line in text.splitlines() if line.strip()]


@pytest.fixture
def folder(tmp_path):
    for name, value in {'a': 51, 'b': 153}.items():
        (tmp_path / 'images').mkdir(exist_ok=True)
        Image.new('RGB', (16, 16), (value,) * 3).save(tmp_path / 'images' / f'{name}.png')
    return tmp_path / 'images'


def store(path, values, metric='niqe', higher_better=False):
    write_scores(path, [Score(f'{i}.png', metric, value, higher_better, 'aaa') for i, value in enumerate(values)])
    return path


def test_score_writes_the_file_and_prints_the_means(folder, tmp_path):
    out = tmp_path / 's.csv'
    result = nriqa(
        'score', folder, '-m', 'tests.judges:Brightness', '-m', 'tests.judges:Darkness:gain=10', '-o', out,
        '--device', 'cpu',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ''
    assert read_scores(out).mean('brightness') == pytest.approx(0.4)
    assert words(result.stdout) == [
        ['metric', 'images', 'mean', 'min', 'max'],
        ['brightness', '↑', '2', '0.4000', '0.2000', '0.6000'],
        ['darkness', '↓', '2', '4.0000', '2.0000', '6.0000'],
    ]


def test_images_that_changed_are_told_on_stderr(folder, tmp_path):
    command = ('score', folder, '-m', 'tests.judges:Brightness', '-o', tmp_path / 's.csv', '--device', 'cpu')
    nriqa(*command)
    Image.new('RGB', (16, 16)).save(folder / 'a.png')
    result = nriqa(*command)
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line == f'1 image had changed since {tmp_path / "s.csv"} was written and was scored again'
    assert nriqa(*command).stderr == ''


def test_psnr_of_a_constant_shift_is_known(folder, tmp_path):
    """All pixels off by 51 / 255 = 0.2: PSNR = -20 log10(0.2) = 13.979 dB."""
    pytest.importorskip('piq')
    for name, value in {'a': 102, 'b': 204}.items():
        (tmp_path / 'hr').mkdir(exist_ok=True)
        Image.new('RGB', (16, 16), (value,) * 3).save(tmp_path / 'hr' / f'{name}.png')
    result = nriqa('score', folder, '-m', 'psnr', '-r', tmp_path / 'hr', '-o', tmp_path / 's.csv', '--device', 'cpu')
    assert result.returncode == 0, result.stderr
    assert read_scores(tmp_path / 's.csv').mean('psnr') == pytest.approx(13.9794, abs=1e-3)


def test_gain_prints_and_writes_the_table(tmp_path):
    base, test = store(tmp_path / 'b.csv', [8.0, 4.0]), store(tmp_path / 't.csv', [3.0, 6.0])
    result = nriqa('gain', base, test, '--out', tmp_path / 'g.csv')
    assert result.returncode == 0, result.stderr
    line = words(result.stdout)[1]
    assert line[:7] == ['niqe', '↓', '2', '6.0000', '4.5000', '+25.00', '%']
    assert line[7] == 'aaa'
    with open(tmp_path / 'g.csv', newline='') as file:
        (row,) = csv.DictReader(file)
    assert (row['metric'], float(row['gain']), row['baseline_hash']) == ('niqe', 25.0, line[8])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['score', 'nowhere', '-m', 'tests.judges:Brightness', '-o', 'x.csv'], 'no such folder: nowhere'),
        (['score', 'nowhere', '-m', 'psnrr', '-o', 'x.csv'], "unknown judge 'psnrr'. Did you mean 'psnr'?"),
        (['score', 'x', '-m', 'tests.judges:not_a_judge', '-o', 'x.csv'], 'a judge must be'),
        (['score', 'x', '-m', 'tests.judges:Darkness:gian=2', '-o', 'x.csv'], 'gian'),
        (['score', 'x', '-m', 'cnniqa:weights=', '-o', 'x.csv'], "the option 'weights' has no value"),
        (['score', 'x', '-m', 'niqe:weigts=a.pth', '-o', 'x.csv'], "unknown option of the judge niqe: 'weigts'. "),
        (['score', 'x', '-m', 'cnniqa:strde=8', '-o', 'x.csv'], "unknown option of the judge cnniqa: 'strde'. Did you"),
        (['score', 'x', '-m', 'psnr:y_chanel=true', '-o', 'x.csv'], "Did you mean 'y_channel'? Allowed: "),
        (['gain', 'b.csv', 't.csv'], 'no such file: b.csv'),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments, message):
    result = nriqa(*arguments)
    assert result.returncode == 2
    assert result.stdout == ''
    (line,) = result.stderr.splitlines()
    assert line.startswith('Error: ')
    assert message in line


def test_debug_shows_the_traceback():
    assert 'Traceback' in nriqa('--debug', 'gain', 'b.csv', 't.csv').stderr
    assert 'Traceback' in nriqa('gain', 'b.csv', 't.csv', NRIQA_DEBUG='1').stderr
    assert 'Traceback' not in nriqa('gain', 'b.csv', 't.csv').stderr


@pytest.mark.parametrize('command', ['score', 'gain', 'doctor', 'calibrate', 'demo'])
def test_help_shows_examples(command):
    result = nriqa(command, '--help')
    assert result.returncode == 0
    assert 'Examples:' in result.stdout
    assert f'nriqa {command} ' in result.stdout


def test_no_help_text_holds_an_emoji():
    """Rich turns ``a:b:c`` and ``datasets:train:name`` into pictures."""
    group, texts = typer.main.get_command(app), []
    for command in (group, *group.commands.values()):
        texts += [command.help, command.epilog, *(parameter.help for parameter in command.params)]
    assert len(texts) > 50
    for text in filter(None, texts):
        assert Text.from_markup(text).plain == Text.from_markup(text, emoji=False).plain


def test_an_error_shows_keys_with_colons_as_they_are(tmp_path):
    result = CliRunner().invoke(app, ['compare', str(tmp_path / 'datasets:train:name.yml'), '-o', 'out'])
    assert result.exit_code == 2
    assert 'datasets:train:name.yml' in result.output


def test_help_does_not_wait_for_torch():
    code = 'import sys, nriqa_plugin.cli; print("torch" in sys.modules or "numpy" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT).stdout == 'False\n'


def test_help_answers_at_once():
    """In less than a second of processor time, whatever else the machine does."""

    def seconds():
        before = os.times()
        assert nriqa('--help').returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 1


def test_version_is_the_packages():
    assert nriqa('--version').stdout.strip() == __version__


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('niqe', ('niqe', {})),
        ('lpips:net=squeeze,weights=a.pth', ('lpips', {'net': 'squeeze', 'weights': 'a.pth'})),
        ('my.module:factory', ('my.module:factory', {})),
        ('my.module:factory:gain=2,flag=true', ('my.module:factory', {'gain': 2, 'flag': True})),
        ('m:a=1.5,b=1e-3,c=x=y', ('m', {'a': 1.5, 'b': 0.001, 'c': 'x=y'})),
        ('cnniqa:weights=/tmp/a,b:c.pth', ('cnniqa', {'weights': '/tmp/a,b:c.pth'})),
        ('cnniqa:weights=1', ('cnniqa', {'weights': '1'})),
    ],
)
def test_judges_are_written_as_name_and_options(text, expected):
    assert parse_judge(text) == expected


def test_options_given_twice_are_refused():
    with pytest.raises(ValueError, match="'a' is given twice"):
        parse_judge('m:a=1,a=2')
