"""What has been made in a folder of clips, and how: nothing is made twice or mixed with something else."""

import csv
import json
from pathlib import Path

from nriqa_plugin.checks import atomic_path

COLUMNS = (
    'clip', 'source', 'kind', 'first_frame', 'frames', 'height', 'width', 'region', 'first_corner', 'last_corner',
)  # fmt: skip
COMMON = ('scale', 'layout', 'frames', 'regions')  # settings that all clips of a folder share


class Record:
    """``OUT/making.json``: per source its hash, the settings, and once it is finished the rows of its clips.

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
        if known['clips'] is not None and all(
            (self.out / at / 'GT' / row['clip']).is_dir() for at, row in known['clips']
        ):
            return False
        known['clips'] = None
        self._save()
        return True

    def finish(self, name, rows):
        """Note the clips of a source: ``(split, row)`` each."""
        self.sources[name]['clips'] = rows
        self._save()

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

    def _save(self):
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.sources, indent=1), encoding='utf-8')
