"""What has been made in a folder of clips, and how: nothing is made twice or mixed with something else."""

import contextlib
import csv
import glob
import json
import shutil
from pathlib import Path

from nriqa_plugin.checks import atomic_path

COLUMNS = (
    'clip', 'source', 'kind', 'first_frame', 'frames', 'height', 'width', 'region', 'first_corner', 'last_corner',
)  # fmt: skip
LAYOUTS = {'plain': ('_', '{:08d}.png', 0), 'vimeo': ('/', 'im{}.png', 1)}  # clip's separator, frame's name, first
COMMON = ('scale', 'layout', 'frames', 'regions')  # settings that all clips of a folder share


class Record:
    """``OUT/making.json``: per source its hash, the settings, and once it is finished the rows of its clips.

    A source of which there is no clip (any more) is forgotten.

    Args:
        out (Path): the folder.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, out):
        self.out, self.path = Path(out), Path(out) / 'making.json'
        try:
            self.sources = json.loads(self.path.read_text(encoding='utf-8')) if self.path.is_file() else {}
        except ValueError as error:
            raise ValueError(f'{self.path} is damaged: {error}; remove the folder and begin anew') from error
        self.sources = {name: known for name, known in self.sources.items() if self._has_clips(name, known['clips'])}

    def begin(self, name, digest, settings):
        """Whether a source still has to be made.

        Raises:
            ValueError: it, or clips that must be alike, were made from another file or with other settings.
        """
        for other, known in self.sources.items():
            for key in COMMON:
                if known['settings'][key] != settings[key]:
                    raise ValueError(f'{self.out} holds clips ({other}) made with {key}: {known["settings"][key]!r}, '
                                     f'not {settings[key]!r}; take another folder')  # fmt: skip
        known = self.sources.setdefault(name, {'hash': digest, 'settings': settings, 'clips': None})
        if known['hash'] != digest or known['settings'] != settings:
            what = 'another file' if known['hash'] != digest else 'other settings'
            raise ValueError(f'{self.out} holds clips of {name!r} made from {what}; take another folder')
        if known['clips'] is not None and all(self._are_there(known['clips'])):
            return False
        known['clips'] = None
        self._save()
        return True

    def finish(self, name, rows):
        """Note the clips of a source: ``(split, row)`` each."""
        self.sources[name]['clips'] = rows
        self._save()

    @contextlib.contextmanager
    def undone_if_refused(self, name):
        """Should the source turn out to be none, its clips of this run go, and what is empty then."""
        known, there = dict(self.sources[name]), self._folders(name)
        try:
            yield
        except (ValueError, TypeError, ImportError):
            for folder in self._folders(name) - there:
                shutil.rmtree(folder)
            self.sources[name] = known
            if not there:
                del self.sources[name]
            self._save()
            for kind in self._kinds(known['settings']):
                _remove_empty(kind / name)
                _remove_empty(kind)
                _remove_empty(kind.parent)
            if not self.sources:
                self.path.unlink()
                _remove_empty(self.out)
            raise

    def rows(self, split):
        """The rows of a split's finished clips, in the order of their names."""
        found = [row for known in self.sources.values() for at, row in known['clips'] or () if at == split]
        return sorted(found, key=lambda row: row['clip'])

    def write_lists(self, splits):
        """``meta_info.txt``, which both hosts read, and ``clips.csv`` of every split."""
        for split in splits:
            with atomic_path(self.out / split / 'meta_info.txt') as temporary:
                lines = [f'{r["clip"]} {r["frames"]} ({r["height"]},{r["width"]},3)\n' for r in self.rows(split)]
                temporary.write_text(''.join(lines), encoding='utf-8')
            with atomic_path(self.out / split / 'clips.csv') as temporary, open(temporary, 'w', newline='') as file:
                writer = csv.DictWriter(file, COLUMNS, restval='')
                writer.writeheader()
                writer.writerows(self.rows(split))

    def _has_clips(self, name, rows):
        return any(self._are_there(rows or ())) or bool(self._folders(name))

    def _are_there(self, rows):
        return ((self.out / at / 'GT' / row['clip']).is_dir() for at, row in rows)

    def _kinds(self, settings):
        """The folders GT and LQ of every split."""
        return [self.out / split / kind for split in settings['regions'] or ('',)
                for kind in ('GT', f'BIx{settings["scale"]}')]  # fmt: skip

    def _folders(self, name):
        """Every folder of a source that holds a clip."""
        settings = self.sources[name]['settings']
        start = name + LAYOUTS[settings['layout']][0]
        return {
            folder
            for kind in self._kinds(settings)
            for folder in kind.glob(f'{glob.escape(start)}*')
            if folder.relative_to(kind).as_posix().removeprefix(start).isdigit()
        }

    def _save(self):
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.sources, indent=1), encoding='utf-8')


def _remove_empty(folder):
    with contextlib.suppress(OSError):  # not empty, or not there
        folder.rmdir()
