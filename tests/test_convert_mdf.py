"""The authors' pickles become safe files; a pickle that wants anything else is refused and runs nothing."""

import collections
import io
import os
import pickle
import struct
import zipfile

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from nriqa_plugin.cli import app
from nriqa_plugin.mdf import Discriminator, load_mdf
from nriqa_plugin.mdf.legacy import convert, read_discriminators
from nriqa_plugin.mdf.legacy_pickle import MAGIC, STAND_INS, VERSION, is_legacy, read_legacy
from tests.test_cli import words

LITTLE_ENDIAN = {'protocol_version': VERSION, 'little_endian': True, 'type_sizes': {'short': 2, 'int': 4, 'long': 4}}
AUTHORS = {'Ds_SISR.pth': [32] * 4 + [64] * 4 + [128], 'Ds_JPEG.pth': [32] * 4 + [64] * 4}


@pytest.fixture(params=AUTHORS)
def authors(request, test_data):
    file = test_data / 'weights' / request.param
    if not file.is_file():
        pytest.skip(f'no {file.name} in {file.parent}')
    return file


@pytest.fixture
def networks():
    built = [Discriminator(width).eval() for width in (4, 6)]
    for network in built:
        nn.init.uniform_(network.head.norm.running_mean)
    return built


def assert_same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        states = one.state_dict(), other.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def legacy_bytes(pickled, keys=(), data=b''):
    """A file in torch's old format around the pickle of an object."""
    parts = [pickle.dumps(part, protocol=2) for part in (MAGIC, VERSION, LITTLE_ENDIAN)]
    return b''.join([*parts, pickled, pickle.dumps(list(keys), protocol=2), data])


def legacy_file(folder, pickled, **more):
    (folder / 'legacy.pth').write_bytes(legacy_bytes(pickled, **more))
    return folder / 'legacy.pth'


def as_whole_modules(networks):
    """A list of whole modules as torch stored it before its zip format, named as in the authors' code."""
    stream = io.BytesIO()
    torch.save([_of_old(network) for network in networks], stream, _use_new_zipfile_serialization=False)
    ours, theirs = b'cnriqa_plugin.mdf.discriminator\nDiscriminator\n', b'cSinGAN.models\nWDiscriminator\n'
    assert ours in stream.getvalue()
    return stream.getvalue().replace(ours, theirs)


def _of_old(module):
    """The module without the sets that torch's modules did not have then."""
    old = type(module).__new__(type(module))
    old.__dict__ = {key: value for key, value in vars(module).items() if not isinstance(value, set)}
    old.__dict__['_modules'] = collections.OrderedDict((key, _of_old(part)) for key, part in module.named_children())
    return old


def test_the_authors_files_become_safe_files_with_every_number(authors, tmp_path):
    """A reader of its own would be as long as ours: every tensor's bytes stand in the file, in the order stored."""
    header, widths = convert(authors, tmp_path / 'safe.pth', 'test')
    built, read = load_mdf('weights', tmp_path / 'safe.pth')
    assert widths == [network.width for network in built] == AUTHORS[authors.name]
    assert read['range'] == [0, 1] == header['range']
    assert read['task'] == 'test'
    content = authors.read_bytes()
    for network in built:
        for key, value in network.state_dict().items():
            count = struct.pack('<q', value.numel())
            assert count + value.numpy().tobytes() in content, key
        assert (network.head.norm.running_var > 0).all()
        assert int(network.head.norm.num_batches_tracked) > 1000


def test_whole_modules_and_their_pickle_are_the_same(networks, tmp_path):
    (tmp_path / 'whole.pth').write_bytes(as_whole_modules(networks))
    assert is_legacy(tmp_path / 'whole.pth')
    assert_same(read_discriminators('x', tmp_path / 'whole.pth'), networks)


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize(
    'content',
    [
        lambda states: states,
        lambda states: dict(enumerate(states)),
        lambda states: {'1': states[1], '0': states[0]},
        lambda states: {f'{n}.{key}': value for n, state in enumerate(states) for key, value in state.items()},
        lambda states: {f'Ds.{n}.{key}': value for n, state in enumerate(states) for key, value in state.items()},
    ],
    ids=['list', 'by number', 'by text', 'module list', 'attribute'],
)
def test_state_dicts_are_read_however_they_are_numbered(content, zipped, networks, tmp_path):
    states = [network.state_dict() for network in networks]
    torch.save(content(states), tmp_path / 'states.pth', _use_new_zipfile_serialization=zipped)
    assert is_legacy(tmp_path / 'states.pth') is not zipped
    assert_same(read_discriminators('x', tmp_path / 'states.pth'), networks)


def test_one_state_dict_is_one_discriminator(networks, tmp_path):
    torch.save(networks[0].state_dict(), tmp_path / 'one.pth')
    assert_same(read_discriminators('x', tmp_path / 'one.pth'), networks[:1])


class Touches:
    """Creates a file when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def stack(*operations):
    """A pickle (protocol 2) of these opcodes."""
    return b'\x80\x02' + b''.join(operations) + b'.'


def text(value):
    return pickle.BINUNICODE + struct.pack('<I', len(value)) + value.encode()


def name(module, attribute):
    return f'c{module}\n{attribute}\n'.encode()


def malicious(path):
    """Pickles that would create ``path``, or change what later reading does, in any reader that lets them."""
    shell = f'touch {path}'
    conv = name('torch.nn.modules.conv', 'Conv2d')
    ordered = name('collections', 'OrderedDict')
    call = [text(shell), b'\x85', b'R']
    attribute = [text('system'), b'\x86', b'R']
    set_on = [b'N', b'}', text('kind'), text('x'), b's', b'\x86', b'b']
    protocol4 = b'\x80\x04' + b'\x8c\x08builtins' + b'\x8c\x04exec' + b'\x93' + text('x = 1') + b'\x85R.'
    dotted = b'\x80\x04' + b'\x8c\x05torch' + b'\x8c\x14FloatStorage.__new__' + b'\x93.'
    return {
        'os.system': pickle.dumps(Touches(os.system, shell), protocol=2),
        'posix.system': stack(name('posix', 'system'), *call),
        'nested in a list': pickle.dumps([1, {'a': Touches(os.system, shell)}], protocol=2),
        'eval': pickle.dumps(Touches(eval, f'open({str(path)!r}, "w")'), protocol=2),
        'getattr of getattr': pickle.dumps(Touches(getattr, Touches(__import__, 'os'), 'system'), protocol=2),
        'getattr by opcodes': stack(name('builtins', 'getattr'), name('builtins', '__import__'), text('os'), b'\x85R',
                                    *attribute, *call),
        'torch.load': stack(name('torch', 'load'), text(str(path)), b'\x85R'),
        'a submodule of a known one': stack(name('torch._utils', 'os.system'), *call),
        'a dotted name': dotted,
        'protocol 4': protocol4,
        'INST': b'(' + text(shell) + b'ios\nsystem\n.',
        'OBJ': b'(' + name('os', 'system') + text(shell) + b'o.',
        'NEWOBJ_EX': b'\x80\x04' + name('os', 'system') + text(shell) + b'\x85}\x92.',
        'a module called with arguments': stack(conv, text(shell), b'\x85R'),
        'BUILD of a class': stack(conv, *set_on),
        'BUILD of the mapping': stack(ordered, *set_on),
        'BUILD of a rebuilding': stack(name('torch._utils', '_rebuild_tensor_v2'), *set_on),
        'BUILD of a module with a list': stack(conv, b')', b'\x81', b']', b'b'),
        'SETITEM on a class': stack(conv, text('a'), text('b'), b's'),
        'APPEND to a class': stack(conv, text('a'), b'a'),
        'a tensor of no storage': stack(name('torch._utils', '_rebuild_tensor_v2'), b'(', text('x'), b'K\x00', b')', b')',
                                        b't', b'R'),
        'an extension code': stack(b'\x82\x01'),
        'tuples within tuples as a key': stack(b'}', b')', b'\x85' * 300_000, b'Ns'),
        'the same for OrderedDict': stack(ordered, b']](', b')', b'\x85' * 300_000, b'Nea', b'\x85R'),
        'the largest number in the memo': stack(b'Nr\xff\xff\xff\x7f'),
        'a huge byte array': b'\x80\x05\x96' + struct.pack('<Q', 2**40) + b'.',
        'a persistent text': stack(text('os'), b'Q'),
        'a persistent call': stack(b'(', text('storage'), name('os', 'system'), text('0'), text('cpu'), b'K\x01', b'N',
                                   b't', b'Q'),
    }  # fmt: skip


@pytest.mark.parametrize('attack', malicious('x'))
def test_a_malicious_pickle_is_refused_and_runs_nothing(attack, tmp_path):
    before = {key: dict(vars(kind)) for key, kind in STAND_INS.items()}
    file = legacy_file(tmp_path, malicious(tmp_path / 'proof')[attack])
    with pytest.raises(ValueError, match=r'legacy\.pth'):
        convert(file, tmp_path / 'out.pth')
    assert not (tmp_path / 'proof').exists()
    assert not (tmp_path / 'out.pth').exists()
    assert {key: dict(vars(kind)) for key, kind in STAND_INS.items()} == before


def test_the_attacks_would_work_elsewhere(tmp_path):
    """So that the test above can fail."""
    for attack in ('os.system', 'posix.system', 'getattr by opcodes', 'INST', 'OBJ'):
        pickle.loads(malicious(tmp_path / 'proof')[attack])
        (tmp_path / 'proof').unlink()


def test_a_refusal_names_what_the_file_wanted(tmp_path):
    file = legacy_file(tmp_path, pickle.dumps(Touches(os.system, 'true'), protocol=2))
    with pytest.raises(ValueError, match=r'wants to use \w+\.system, which is no part of a discriminator'):
        convert(file, tmp_path / 'out.pth')


@pytest.mark.parametrize('where', ['headers', 'a head', 'every pickle', 'the sizes', 'the data'])
def test_every_second_file_cut_short_is_refused(where, networks, tmp_path):
    whole = as_whole_modules(networks)
    steps = {'headers': range(0, 130, 13), 'a head': range(150, 900, 150), 'every pickle': range(1000, len(whole), 701),
             'the sizes': range(len(whole) - 60, len(whole), 11), 'the data': [len(whole) - 1]}  # fmt: skip
    for end in steps[where]:
        (tmp_path / 'cut.pth').write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r'cut\.pth'):
            convert(tmp_path / 'cut.pth', tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()


def test_damaged_bytes_are_refused_or_harmless(networks, tmp_path):
    """Whatever byte is wrong, it ends in our error or in discriminators, never in another exception."""
    whole = as_whole_modules(networks)
    generator = torch.Generator().manual_seed(0)
    outcomes = collections.Counter()
    for _ in range(150):
        place, value = (int(torch.randint(limit, (), generator=generator)) for limit in (6000, 256))
        (tmp_path / 'hurt.pth').write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        try:
            read_discriminators('x', tmp_path / 'hurt.pth')
            outcomes['read'] += 1
        except ValueError:
            outcomes['refused'] += 1
    assert outcomes['refused'] > 10


def test_more_data_than_the_file_holds_is_not_reserved(tmp_path):
    storage = [b'(', text('storage'), name('torch', 'FloatStorage'), text('0'), text('cpu')]
    huge = b'\x8a\x06' + (2**40).to_bytes(6, 'little')
    with pytest.raises(ValueError, match='more than it holds'):
        read_legacy(legacy_file(tmp_path, stack(*storage, huge, b'N', b't', b'Q')))
    rebuild = [name('torch._utils', '_rebuild_tensor_v2'), b'(', *storage, b'K\x01', b'N', b't', b'Q', b'K\x00']
    data = {'keys': ['0'], 'data': struct.pack('<q', 1) + struct.pack('<f', 1)}
    repeated = stack(*rebuild, huge, b'\x85', b'K\x00\x85', b't', b'R')
    with pytest.raises(ValueError, match='a tensor larger than its data'):
        read_legacy(legacy_file(tmp_path, repeated, **data))
    beyond = stack(*rebuild, b'K\x02\x85', b'K\x01\x85', b't', b'R')
    with pytest.raises(ValueError, match='a tensor larger than its data'):
        read_legacy(legacy_file(tmp_path, beyond, **data))
    good = stack(*rebuild, b'K\x01\x85', b'K\x01\x85', b't', b'R')
    assert read_legacy(legacy_file(tmp_path, good, **data)).tolist() == [1]


def test_a_list_within_itself_is_refused(tmp_path):
    endless = stack(b']', b'q\x00', b'h\x00', b'a')
    with pytest.raises(ValueError, match='without end'):
        read_legacy(legacy_file(tmp_path, endless))


def nested(depth):
    """Modules within modules; read naively, nine in each of eight levels shared would take days."""
    return nn.Sequential(nested(depth - 1)) if depth else nn.Sequential()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: setattr(d.head.conv, 'padding', (1, 1)), r'Conv2d with padding \(1, 1\) instead of \(0, 0\)'),
        (lambda d: setattr(d.body.block1.norm, 'eps', 0.1), 'BatchNorm2d with eps 0.1'),
        (lambda d: setattr(d.head.LeakyRelu, 'negative_slope', 0.1), 'LeakyReLU with negative_slope 0.1'),
        (lambda d: setattr(d, 'tail', nn.Conv2d(4, 2, 3)), r'tail\.weight: expected \(1, 4, 3, 3\)'),
        (lambda d: d.head.conv.weight.data.fill_(float('nan')), 'NaN or infinite'),
        (lambda d: delattr(d, 'body'), 'belongs to another network'),
        (lambda d: setattr(d.head.conv, 'groups', torch.ones(2)), 'Conv2d with groups'),
        (lambda d: setattr(d, 'body', nn.Sequential(*[nn.Sequential() for _ in range(9)])), 'more modules within'),
        (lambda d: setattr(d.body, 'block1', nested(4)), 'more modules within'),
    ],
    ids=['padding', 'eps', 'slope', 'tail', 'nan', 'no body', 'a tensor for a number', 'wide', 'deep'],
)
def test_another_network_is_refused_even_where_its_weights_would_fit(change, message, tmp_path):
    network = Discriminator(4)
    change(network)
    (tmp_path / 'other.pth').write_bytes(as_whole_modules([network]))
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / 'other.pth', tmp_path / 'out.pth')


def test_foreign_files_are_named(tmp_path):
    (tmp_path / 'text.pth').write_text('hello')
    with pytest.raises(ValueError, match='is no file that torch has written'):
        convert(tmp_path / 'text.pth', tmp_path / 'out.pth')
    with zipfile.ZipFile(tmp_path / 'zip.pth', 'w') as archive:
        archive.writestr('a', 'b')
    with pytest.raises(ValueError, match=r'zip\.pth'):
        convert(tmp_path / 'zip.pth', tmp_path / 'out.pth')
    for content, message in (
        ([], 'holds a list of 0, not a list of 1 to 32 discriminators'),
        (torch.zeros(3), 'holds a Tensor, not a list of 1 to 32 discriminators'),
        ({'conv.weight': torch.zeros(3)}, 'holds no state dict of an MDF discriminator'),
        ([3], 'holds no state dict of an MDF discriminator'),
    ):
        torch.save(content, tmp_path / 'other.pth')
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / 'other.pth', tmp_path / 'out.pth')
    torch.save(Discriminator(4), tmp_path / 'module.pth')  # a whole module in the zip format
    with pytest.raises(ValueError, match='might run code'):
        convert(tmp_path / 'module.pth', tmp_path / 'out.pth')
    with pytest.raises(FileNotFoundError, match='no such file'):
        convert(tmp_path / 'none.pth', tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()


def run(*arguments):
    return CliRunner().invoke(app, ['convert-mdf', *map(str, arguments)], env={'COLUMNS': '200'})


def test_the_file_to_convert_is_never_replaced_and_a_safe_one_is_called_so(networks, tmp_path):
    torch.save([network.state_dict() for network in networks], tmp_path / 'states.pth')
    before = (tmp_path / 'states.pth').read_bytes()
    with pytest.raises(ValueError, match='is the file to convert'):
        convert(tmp_path / 'states.pth', tmp_path / '.' / 'states.pth')
    assert (tmp_path / 'states.pth').read_bytes() == before
    convert(tmp_path / 'states.pth', tmp_path / 'safe.pth')
    with pytest.raises(ValueError, match='is a safe file of discriminators already'):
        convert(tmp_path / 'safe.pth', tmp_path / 'again.pth')
    assert not (tmp_path / 'again.pth').exists()


def test_the_command_writes_the_file_and_says_what_is_in_it(networks, tmp_path):
    torch.save([network.state_dict() for network in networks], tmp_path / 'states.pth')
    out = tmp_path / 'safe.pth'
    result = run(tmp_path / 'states.pth', '-o', out, '--task', 'sisr', '--range', '-1', '1')
    assert result.exit_code == 0, result.stderr
    assert words(result.stdout)[1][:6] == ['2', '4', '6', '-1', 'to', '1']
    built, header = load_mdf('weights', out)
    assert_same(built, networks)
    assert header['range'] == [-1, 1]
    assert header['task'] == 'sisr'
    wrong = run(tmp_path / 'states.pth', '-o', tmp_path / 'no.pth', '--range', '1', '0')
    assert wrong.exit_code == 2
    assert 'range must rise' in wrong.stderr
    assert not (tmp_path / 'no.pth').exists()
