"""Which judges of a table a loss optimises: in its rows they are no independent evidence."""

from nriqa_plugin.checks import unknown_name


def optimised(terms, judges, more=()):
    """Names of the judges that a loss optimises.

    Args:
        terms (dict[str, dict]): of the loss; a judge counts in pyiqa's build or ours, alone or in an ensemble, as a
            term of any weight but 0.
        judges (Sequence[tuple[dict, Scorer]]): the judges of the table, options and built.
        more (Sequence[str]): further names.

    Returns:
        tuple[str, ...]: in the order of the table.
    """
    acting = [term for term in terms.values() if term.get('weight') != 0]
    acting = set().union(*map(_judges_in, acting), map(_plain, more))
    return tuple(judge.name for option, judge in judges if acting & ({_plain(judge.name)} | _judges_in(option)))


def check_optimises(optimises, judges):
    """Refuse judges that a loss is said to optimise and that are in no column of the table.

    Args:
        optimises (dict[str, Sequence[str]]): by loss.
        judges (Sequence[tuple[dict, Scorer]]): as in :func:`optimised`.

    Raises:
        ValueError: naming the loss and the closest judges.
    """
    known = set().union(*({_plain(judge.name)} | _judges_in(option) for option, judge in judges))
    for loss, names in optimises.items():
        for name in names:
            if _plain(name) not in known:
                raise unknown_name(f'judge in optimises.{loss}, which is no column of the table:', name, known)


def _judges_in(option):
    """Names of the judges in a term or in an option of the table, those of an ensemble one by one."""
    ensemble = option.get('ensemble') or (option.get('options') or {}).get('judges')
    if ensemble:
        return {_plain(one.get('metric') or next(iter(one))) for one in ensemble}
    if str(option.get('type', '')).rpartition(':')[2] == 'MDFLoss':
        return {'mdf'}
    return {_plain(option['metric'])} if option.get('metric') else set()


def _plain(name):
    return str(name).removeprefix('pyiqa:')
