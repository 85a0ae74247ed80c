"""Candidate ground truths for one's own images, in the layout that training reads: ``gt/``, ``gt_01/``, ..."""

import contextlib
import csv
import json
import logging
from pathlib import Path

import torch
from PIL import Image

from nriqa_plugin import __version__
from nriqa_plugin.checks import atomic_path, check_number, file_hash
from nriqa_plugin.evaluation.images import few, list_images, read_image, write_image
from nriqa_plugin.multigt.enhancer import create_enhancer
from nriqa_plugin.multigt.layout import column_name

ORIGINAL, MOST = column_name(0), 99
SETTINGS, MADE = 'candidates.json', 'candidates.csv'
COLUMNS = ('image', 'folder', 'source_hash', 'file_hash')

logger = logging.getLogger('nriqa_plugin')


def make_gts(images, out, enhancers, device='cpu', tile=512, progress=lambda done, total: None):
    """Write the originals and one candidate of each by every enhancer, all as 8-bit PNG of one size and name.

    ``out/gt/NAME.png`` is the original, ``out/gt_01/NAME.png`` the first enhancer's, and so on. ``candidates.json``
    says which folder is whose, ``candidates.csv`` which file was made from which (the hash of the original, with
    ``folder`` also that of the output). An interrupted run goes on where it
    stopped: files that are there, unchanged and made from unchanged files are kept; further enhancers can be
    appended later.

    Args:
        images (str | Path): folder of originals.
        out (str | Path): folder to write to.
        enhancers (Sequence[tuple[str, dict]]): names and options, see
            :func:`~nriqa_plugin.multigt.enhancer.create_enhancer`.
        device (str | torch.device): where networks run.
        tile (int): larger images are enhanced in tiles of this side, in px.
        progress (Callable[[int, int], None]): told after every image.

    Returns:
        dict[str, int]: files ``made`` and ``kept``.

    Raises:
        FileNotFoundError, ValueError: see ``create_enhancer`` and ``read_image``; two originals with one name but for
            its ending; ``out`` that was made of other images or by other enhancers; a candidate that is not finite or
            of another size.
    """
    out = Path(out)
    check_number('tile', tile, low=16, integer=True)
    if not 1 <= len(enhancers) <= MOST:
        raise ValueError(f'1 to {MOST} enhancers are needed to make candidates, got {len(enhancers)}')
    sources = _by_stem(images)
    built = {column_name(i): create_enhancer(name, **options) for i, (name, options) in enumerate(enhancers, 1)}
    texts = [{'enhancer': name, 'options': {k: str(v) for k, v in options.items()}} for name, options in enhancers]
    wanted = [{'folder': folder, **text, 'identity': enhancer.identity()}
              for (folder, enhancer), text in zip(built.items(), texts, strict=True)]  # fmt: skip
    _remove_torn(out)
    _write_settings(out, {'version': __version__, 'tile': tile, 'candidates': wanted})
    rows = _known(out, sources)
    counts = {'made': 0, 'kept': 0}
    for enhancer in built.values():
        enhancer.to(device)
    _write_rows(out, rows.values())
    with open(out / MADE, 'a', encoding='utf-8', newline='') as file:
        for done, (stem, source) in enumerate(sources.items(), 1):
            original_hash, image = file_hash(source), None
            for folder, enhancer in {ORIGINAL: None, **built}.items():
                path = out / folder / f'{stem}.png'
                row = rows.get((path.name, folder))
                source_hash = original_hash if enhancer is None else enhancer.source_hash(original_hash, stem)
                if row and row[2] == source_hash and path.is_file() and file_hash(path) == row[3]:
                    counts['kept'] += 1
                    continue
                if row and row[2] != source_hash and folder == ORIGINAL:
                    logger.warning('%s has changed since its candidates were made; they are made again', source)
                image = _read_8_bit(source)[None] if image is None else image
                write_image(path, (image if enhancer is None else _candidate(enhancer, image, source, tile, device))[0])
                rows[path.name, folder] = (path.name, folder, source_hash, file_hash(path))
                csv.writer(file, lineterminator='\n').writerow(rows[path.name, folder])
                file.flush()
                counts['made'] += 1
            progress(done, len(sources))
    _write_rows(out, rows.values())
    return counts


@torch.no_grad()
def _remove_torn(out):
    """Temporary files that a killed run has left; their names are those of ``atomic_path``."""
    for path in out.glob('gt*/.*.png.*.png'):
        path.unlink()


def _candidate(enhancer, image, source, tile, device):
    try:
        made = enhancer.candidate(image.to(device), source.stem, tile)
    except RuntimeError as error:
        raise RuntimeError(f'{type(enhancer).__name__} failed on {source}: {error}') from error
    if made.shape != image.shape:
        raise ValueError(f'{type(enhancer).__name__} made {tuple(made.shape)} of {source}, {tuple(image.shape)}: a '
                         'candidate must have the size of the original')  # fmt: skip
    if not torch.isfinite(made).all():
        raise ValueError(f'{type(enhancer).__name__} made NaN or infinite values of {source}')
    return made


def _read_8_bit(path):
    with contextlib.suppress(OSError), Image.open(path) as image:
        if image.mode.startswith('I'):
            raise ValueError(f'{path} has 16 bits; candidates are 8-bit images, convert it first')
    return read_image(path)


def _by_stem(folder):
    sources = {}
    for path in list_images(folder):
        if path.stem in sources:
            raise ValueError(f'{path} and {sources[path.stem].name} would both be called {path.stem}.png')
        sources[path.stem] = path
    return sources


def _write_settings(out, settings):
    """Write the settings; those that are there may only be continued."""
    file = out / SETTINGS
    if file.is_file():
        before = _read_settings(file)
        there, wanted = before['candidates'], settings['candidates']
        for old, new in zip(there, wanted, strict=False):
            if old != new:
                raise ValueError(f'{file}: {old["folder"]} was made by {_text(old)}, now it would be by {_text(new)}; '
                                 'choose another folder')  # fmt: skip
        if len(there) > len(wanted):
            raise ValueError(f'{file} has {len(there)} candidates, of which {len(wanted)} are asked for now; name all '
                             'of them, or choose another folder')  # fmt: skip
        if before['tile'] != settings['tile']:
            raise ValueError(f'{file}: made with a tile of {before["tile"]} px, now {settings["tile"]}; keep it')
    elif any((out / folder).exists() for folder in (ORIGINAL, column_name(1))):
        raise ValueError(f'{out} has a folder {ORIGINAL} or {column_name(1)} but no {SETTINGS}: it was not made by '
                         'this command; choose another folder')  # fmt: skip
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + '\n', encoding='utf-8')


def _read_settings(file):
    try:
        settings = json.loads(file.read_text(encoding='utf-8'))
        return {'tile': settings['tile'], 'candidates': [dict(one) for one in settings['candidates']]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{file} is damaged ({error!r}); choose another folder') from error


def _text(candidate):
    options = ','.join(f'{key}={value}' for key, value in candidate['options'].items())
    return f'{candidate["enhancer"]}{":" * bool(options)}{options} ({candidate["identity"]})'


def _known(out, sources):
    """``{(image, folder): row}`` of what an earlier run has made; a torn last line is left out."""
    file = out / MADE
    if not file.is_file():
        return {}
    text = file.read_text(encoding='utf-8')
    lines = list(csv.reader(text[: text.rfind('\n') + 1].splitlines()))
    if not lines or tuple(lines[0]) != COLUMNS or any(len(line) != len(COLUMNS) for line in lines):
        raise ValueError(f'{file} is damaged; delete it to make all candidates again')
    rows = {(line[0], line[1]): tuple(line) for line in lines[1:]}
    strange = sorted({image for image, _ in rows} - {f'{stem}.png' for stem in sources})
    if strange:
        raise ValueError(f'{out} holds candidates of other images: {few(strange)}; choose another folder')
    return rows


def _write_rows(out, rows):
    with atomic_path(out / MADE) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(COLUMNS)
        writer.writerows(sorted(rows))
