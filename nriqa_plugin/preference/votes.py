"""Votes of people who saw two things side by side, read from a table."""

from dataclasses import dataclass

from nriqa_plugin.checks import check_choice, check_keys
from nriqa_plugin.preference.table_columns import number_in, parse_columns, read_entries, read_header

COLUMNS = ('left', 'right', 'chosen')
OPTIONAL = ('observer', 'scene', 'reference')
CODES = ('left_is', 'right_is', 'tie_is')
SETTINGS = ('fraction', *CODES)
WORDS = {'left': 0.0, 'right': 1.0, 'tie': 0.5}


@dataclass(frozen=True)
class Vote:
    """One answer, or the answers of several people as a fraction.

    Attributes:
        observer (str): who; empty when the table does not say.
        scene (str): what both sides show; empty when the table does not say.
        left, right (str): the two images, or two conditions (methods).
        chosen (float): the fraction that chose **right**, in [0, 1]: 0 left, 1 right, 0.5 a tie. That is how BAPPS
            counts.
        reference (str): the image that both sides should look like, if there is one.
    """

    observer: str
    scene: str
    left: str
    right: str
    chosen: float
    reference: str = ''


def read_votes(path, mapping=None, repeats=False):
    """Read a table of votes.

    Args:
        path (str | Path): CSV file, see :func:`~nriqa_plugin.preference.table_columns.read_entries`.
        mapping (str | dict[str, str] | None): where the fields stand, such as
            ``left={left}/{image},right={right}/{image},chosen={chosen},observer={session}``. The fields are ``left``,
            ``right``, ``chosen`` and, if there are such, ``observer``, ``scene`` and ``reference``. By default each is
            the column of its name, the last three only where the table has them; where ``left``, ``right`` and
            ``chosen`` are given, the last three are read only if they are given, too. ``chosen`` is ``left``, ``right``
            or ``tie``; the name of a side, or what only that side's columns say; or a number, the fraction that chose
            right, with ``fraction=left`` the one that chose left. Codes of other kinds are named: ``left_is=1``,
            ``right_is=2``, ``tie_is=0``.
        repeats (bool): let an observer answer the same pair more than once; every answer counts.

    Returns:
        list[Vote]: in the order of the table.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column that is not there, one code for two answers, an empty name, a pair of one thing with
            itself, an answer that means neither side or both, or an observer who answered a pair twice; the message
            names file and line.
    """
    return votes_of(vote_entries(path, mapping), _settings(mapping), repeats)


def vote_entries(path, mapping=None, more=()):
    """The rows of a table of votes as :class:`~nriqa_plugin.preference.table_columns.Entry`.

    Args:
        more (Sequence[str]): further fields that ``mapping`` may hold.
    """
    fields = vote_mapping(mapping, more)
    templates = {field: text for field, text in fields.items() if field not in SETTINGS}
    if mapping and any(field in templates for field in COLUMNS):
        missing = [field for field in COLUMNS if field not in templates]
        if missing:
            raise ValueError(f'columns: {", ".join(missing)} must be given, too')
    else:
        templates = {**{field: field for field in COLUMNS}, **_optional_columns(path), **templates}
    return read_entries('votes', path, templates)


def vote_mapping(mapping, more=()):
    """A mapping as a dict; unknown fields are refused."""
    allowed = (*COLUMNS, *OPTIONAL, *SETTINGS, *more)
    if mapping is None:
        return {}
    if isinstance(mapping, str):
        return parse_columns(mapping, allowed)
    check_keys('the columns', mapping, allowed)
    return dict(mapping)


def votes_of(entries, settings=None, repeats=False):
    """The votes in the rows of a table; ``settings`` holds ``fraction`` and the codes of a mapping."""
    settings = settings or {}
    _check_settings(settings)
    votes, seen = [], {}
    for entry in entries:
        fields = entry.fields
        for side in ('left', 'right'):
            if not fields[side]:
                raise ValueError(f'{entry.where}: {side} is empty')
        if fields['left'] == fields['right']:
            raise ValueError(f'{entry.where}: left and right are the same: {fields["left"]}')
        vote = Vote(fields.get('observer', ''), fields.get('scene', ''), fields['left'], fields['right'],
                    _chosen(entry, settings), fields.get('reference', ''))  # fmt: skip
        key = (vote.observer, vote.scene, *sorted((vote.left, vote.right)))
        if vote.observer and not repeats and key in seen:
            raise ValueError(f'{entry.where}: the observer {vote.observer} answered this pair before, see {seen[key]}; '
                             'if people were asked more than once, allow repeats')  # fmt: skip
        seen.setdefault(key, entry.where)
        votes.append(vote)
    return votes


def _settings(mapping):
    return {field: text for field, text in vote_mapping(mapping).items() if field in SETTINGS}


def _check_settings(settings):
    """Codes that mean two things, or that leave ``fraction`` without a meaning, are refused."""
    check_choice('fraction', settings.get('fraction', 'right'), ('left', 'right'))
    meaning = {}
    for code in (code for code in CODES if code in settings):
        if settings[code] in meaning:
            raise ValueError(f'columns: {meaning[settings[code]]} and {code} are both {settings[code]!r}')
        meaning[settings[code]] = code
    if meaning and 'fraction' in settings:
        raise ValueError(f'columns: fraction cannot be given with {", ".join(meaning.values())}')


def _optional_columns(path):
    """Of the columns that need not be there those that are."""
    header = read_header('votes', path)
    return {field: field for field in OPTIONAL if field in header}


def _chosen(entry, settings):
    """The fraction that chose right; what can be read in two ways is refused."""
    text = entry.fields['chosen']
    codes = {settings[code]: WORDS[code.removesuffix('_is')] for code in CODES if code in settings}
    if codes:
        if text not in codes:
            raise ValueError(f'{entry.where}: chosen is {text!r}, the codes are {", ".join(codes)}')
        return codes[text]
    names = {side: {entry.fields[side], *entry.cells[side]} for side in ('left', 'right')}
    readings = {WORDS[side] for side in names if text in names[side] - names['left' if side == 'right' else 'right']}
    if text.lower() in WORDS:
        readings.add(WORDS[text.lower()])
    try:
        value = number_in(entry, 'chosen')
    except ValueError:
        value = None
    if value is not None and 0 <= value <= 1:
        readings.add(1 - value if settings.get('fraction') == 'left' else value)
    if len(readings) == 1:
        return readings.pop()
    sides = f'{entry.fields["left"]} nor {entry.fields["right"]}'
    if not readings:
        raise ValueError(f'{entry.where}: chosen is {text!r}: neither {sides}, nor left, right or tie, nor a fraction '
                         'in [0, 1]')  # fmt: skip
    raise ValueError(f'{entry.where}: chosen is {text!r}, which can mean either side; say it with left_is and right_is')
