"""The file from which an interrupted training of MDF discriminators goes on."""

from pathlib import Path

import torch

from nriqa_plugin.checks import atomic_path, load_weights

FORMAT = 'nriqa-mdf-partial-1'


def partial_path(out):
    """Where the checkpoint of the training that will write ``out`` lies: beside it, with ``.partial`` added."""
    out = Path(out)
    return out.with_name(out.name + '.partial')


def save_partial(out, header, state):
    """Write the state of a training, at once or not at all.

    Args:
        out (str | Path): the file that the finished training will write.
        header (dict): its options, as plain values.
        state (dict): tensors and plain values.
    """
    with atomic_path(partial_path(out)) as temporary:
        torch.save({'format': FORMAT, 'header': header, 'state': state}, temporary)


def load_partial(out, header):
    """Read what :func:`save_partial` wrote for ``out``.

    Returns:
        dict | None: the state; ``None`` when there is no checkpoint.

    Raises:
        ValueError: the checkpoint is damaged, another kind of file, or of a training with other options, which are
            named.
    """
    path = partial_path(out)
    if not path.exists():
        return None
    try:
        content = load_weights('checkpoint', path)
    except ValueError as error:
        raise ValueError(f'{error}; --restart (restart=True) trains anew') from error
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise ValueError(f'{path} is no checkpoint of a training of MDF discriminators; move it away, or --restart '
                         '(restart=True) trains anew and replaces it')  # fmt: skip
    stored = content['header']
    differing = [key for key in {**stored, **header} if stored.get(key) != header.get(key)]
    if differing:
        changes = '; '.join(f'{key}: {stored.get(key)} there, {header.get(key)} now' for key in differing)
        raise ValueError(f'{path} is a checkpoint of a training with other options ({changes}); go on with those, '
                         'choose another --out, or --restart (restart=True) trains anew and replaces it')  # fmt: skip
    return content['state']


def remove_partial(out):
    """Delete the checkpoint if there is one."""
    partial_path(out).unlink(missing_ok=True)
