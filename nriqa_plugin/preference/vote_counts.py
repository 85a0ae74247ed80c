"""From votes to tables of counts, by scene and by who voted, and the resamples of a bootstrap over people."""

import math

import numpy as np

from nriqa_plugin.checks import check_number, import_extra, unknown_name

POOLED = 'all'  # the scene of votes that are taken together
CHUNK = 2_000_000  # numbers


def check_votes(votes, conditions=None):
    """The votes as a list.

    Args:
        votes (Iterable[Vote]): of conditions ``left`` and ``right``.
        conditions (Sequence[str] | None): the conditions that there are.

    Raises:
        ValueError: no votes, one that is NaN or outside [0, 1], of a condition with itself or for an unknown one, or
            votes of which only some have an observer.
    """
    votes = list(votes)
    if not votes:
        raise ValueError('there are no votes')
    for vote in votes:
        where = f'vote of {vote.observer or "nobody"} on {vote.left} and {vote.right} ({vote.scene or "no scene"})'
        check_number(f'{where}: chosen', vote.chosen, low=0, high=1)
        if vote.left == vote.right:
            raise ValueError(f'{where}: a condition cannot be compared with itself')
        for side in (vote.left, vote.right):
            if conditions and side not in conditions:
                raise unknown_name(f'condition in the {where}:', side, conditions)
    named = sum(bool(vote.observer) for vote in votes)
    if 0 < named < len(votes):
        raise ValueError(f'{len(votes) - named} of {len(votes)} votes have no observer')
    return votes


def by_scene(votes, pooled):
    """``{scene: places of its votes}``; one scene ``all`` when ``pooled``.

    Raises:
        ValueError: votes without a scene.
    """
    if pooled:
        return {POOLED: list(range(len(votes)))}
    places = {}
    for place, vote in enumerate(votes):
        if not vote.scene:
            raise ValueError(f'a vote of {vote.observer or "nobody"} on {vote.left} and {vote.right} has no scene')
        places.setdefault(vote.scene, []).append(place)
    return dict(sorted(places.items()))


def voters(votes):
    """Who gave each vote, as numbers from 0, and their names; every vote is its own without observers."""
    if not votes[0].observer:
        return list(range(len(votes))), []
    names = list(dict.fromkeys(vote.observer for vote in votes))
    number = {name: i for i, name in enumerate(names)}
    return [number[vote.observer] for vote in votes], names


def conditions_of(votes):
    """The names of what was compared, sorted."""
    return sorted({side for vote in votes for side in (vote.left, vote.right)})


def counts_by_voter(votes, voter, number, names):
    """How often each voter preferred the condition of the row to that of the column.

    Args:
        votes (Sequence[Vote]), voter (Sequence[int]): whose each vote is, of ``number`` voters.
        names (Sequence[str]): the k conditions.

    Returns:
        scipy.sparse.csr_array: ``(number, k * k)``; a tie is half a vote for either side.
    """
    place, k = {name: i for i, name in enumerate(names)}, len(names)
    rows, columns, values = [], [], []
    for vote, who in zip(votes, voter, strict=True):
        left, right = place[vote.left], place[vote.right]
        rows += [who, who]
        columns += [left * k + right, right * k + left]
        values += [1 - vote.chosen, vote.chosen]
    sparse = import_extra('scipy.sparse', 'report', 'the JND scale')
    return sparse.csr_array((values, (rows, columns)), shape=(number, k * k))


def resampled(table, resamples, seed):
    """Counts of resamples in which whole voters are drawn with replacement.

    Args:
        table (scipy.sparse.csr_array): of :func:`counts_by_voter`; for tables of the same number of voters equal seeds
            draw the same voters.
        resamples (int), seed (int): how many, and of the generator.

    Yields:
        array: ``(some, k, k)``.
    """
    generator, (number, cells) = np.random.default_rng(seed), table.shape
    k, at_once = math.isqrt(cells), max(1, CHUNK // max(number, cells))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = generator.multinomial(number, np.full(number, 1 / number), size=size)
        yield (table.T @ drawn.T.astype(np.float64)).T.reshape(size, k, k)
