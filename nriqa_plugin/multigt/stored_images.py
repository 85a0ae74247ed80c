"""Candidates as they are stored: image files, or BasicSR's lmdb data bases."""

import hashlib
import tempfile
from pathlib import Path

from nriqa_plugin.checks import file_hash, import_extra
from nriqa_plugin.evaluation.images import read_image
from nriqa_plugin.multigt.layout import column_name


class ImageFiles:
    """Candidates whose paths are those of image files."""

    def where(self, path, candidate):
        """How messages call the image."""
        return str(path)

    def hash(self, path, candidate):
        """12 hex digits of the stored bytes, as the training data sets give them."""
        return file_hash(path)

    def image(self, path, candidate):
        """RGB in [0, 1], ``(3, H, W)``; errors as of :func:`nriqa_plugin.evaluation.images.read_image`."""
        return read_image(path)


class LmdbImages:
    """Candidates whose paths are keys in ``gt.lmdb``, ``gt_01.lmdb``, ... of a folder.

    Args:
        root (str | Path): the folder.

    Raises:
        ImportError: the package lmdb is missing.
        ValueError: later, for a key that is not there or is no readable image.
    """

    def __init__(self, root):
        self.root, self.opened = Path(root), {}
        self.lmdb = import_extra('lmdb', 'basicsr', 'an lmdb data base')

    def where(self, path, candidate):
        return f'{path!r} in {self._folder(candidate)}'

    def hash(self, path, candidate):
        return hashlib.sha256(self._data(path, candidate)).hexdigest()[:12]

    def image(self, path, candidate):
        with tempfile.NamedTemporaryFile(suffix='.image') as file:
            file.write(self._data(path, candidate))
            file.flush()
            try:
                return read_image(file.name)
            except ValueError as error:
                raise ValueError(str(error).replace(file.name, self.where(path, candidate))) from error

    def _folder(self, candidate):
        return self.root / f'{column_name(candidate)}.lmdb'

    def _data(self, path, candidate):
        if candidate not in self.opened:
            options = {'readonly': True, 'lock': False, 'readahead': False, 'meminit': False}
            self.opened[candidate] = self.lmdb.open(str(self._folder(candidate)), **options)
        with self.opened[candidate].begin() as transaction:
            data = transaction.get(path.encode('ascii'))
        if data is None:
            raise ValueError(f'there is no key {self.where(path, candidate)}')
        return data
