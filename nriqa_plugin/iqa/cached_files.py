"""Weights that lie in a cache already: is a file what the hash in its name says it is?"""

import contextlib
import functools
import hashlib
import logging
import os
import re
import threading
from pathlib import Path

import torch

# torch.hub's convention: resnet50-19c8e357.pth begins with these digits of its SHA-256. Only a download is checked.
NAMED = re.compile(r'-([0-9a-f]{8,64})\.pth$')

logger = logging.getLogger('nriqa_plugin')
_told = set()
_one_at_a_time = threading.RLock()  # else threads would restore each other's torch.load


@contextlib.contextmanager
def watched_files(judge):
    """While this lasts, every file that ``torch.load`` reads is held against the hash in its name.

    Not every publisher keeps the convention, so a file that is another one is told, not refused: once to the log, and
    here for whoever shows it.

    Args:
        judge (str): whose files they are, for the text.

    Yields:
        list[str]: what was found so far, a sentence each file.
    """
    found = []
    with _one_at_a_time:
        load = torch.load

        def watching(f, *args, **options):
            path = f if isinstance(f, (str, os.PathLike)) else getattr(f, 'name', None)
            if (text := mismatch(judge, path)) and text not in found:
                found.append(text)
                if text not in _told:
                    _told.add(text)
                    logger.warning('%s', text)
            return load(f, *args, **options)

        torch.load = watching
        try:
            yield found
        finally:
            torch.load = load


def mismatch(judge, path):
    """What is wrong with a file whose name ends in other digits than its SHA-256 begins with; empty if nothing is."""
    if not isinstance(path, (str, os.PathLike)) or not (named := NAMED.search(os.fspath(path))):
        return ''
    try:
        state = os.stat(path)
        got = _sha256(os.path.realpath(path), state.st_size, state.st_mtime_ns)
    except OSError:  # whoever loads it says so
        return ''
    expected = named[1]
    if got.startswith(expected):
        return ''
    return (f'the judge {judge}: by its name the SHA-256 of {Path(path)} begins with {expected}, but it begins with '
            f'{got[: len(expected)]}: a broken or foreign file?')  # fmt: skip


@functools.lru_cache(maxsize=256)
def _sha256(path, size, changed):  # size and time: a file that was replaced is read again
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
