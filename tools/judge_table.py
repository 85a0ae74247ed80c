"""Build and probe every metric of pyiqa and our judges of clips, and write what was found to ``docs/judges.md``::

    python tools/judge_table.py

No weights and no internet are needed: ``tools/judge_files.py`` writes random weights to where each metric looks for its
files. Every metric is measured in a process of its own with a time limit, the cheap ones first; what is known stays in
a JSON lines file, so that a run that was killed goes on where it stopped. The page is written anew after every metric.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nriqa_plugin.checks import atomic_path
from nriqa_plugin.iqa.pyiqa_tables import FACES, NO_JUDGE, metric_configs

SIDES = (8, 16, 24, 32, 33, 40, 48, 56, 64, 80, 96, 112, 128, 160, 161, 176, 192, 200, 224, 256)
SEEDS = (0, 1, 2)
# These average many crops of one size; their number changes the time, minutes for TReS, and nothing else.
FEW_CROPS = {
    'AHIQ': {'num_crop': 2},
    'HyperNet': {'num_crop': 1},
    'MANIQA': {'test_sample': 1},
    'TReS': {'test_sample': 1},
}
STEPS = (0.1, 0.02, 0.5)  # along the gradient, in grey levels (RMS)
AGREES = 0.2  # the gradient counts as exact when such a step changes the score as it promises, up to so much
FRAMES = 2  # of a clip
FOLLOWED = 10  # steps that follow the gradient, one grey level each


def measure(name, folder):
    """Everything that is told about one metric; never raises, what went wrong stands in the result.

    Args:
        name (str): pyiqa's name, or that of one of the plugin's judges of clips.
        folder (Path): empty folder, which holds the caches of torch, Hugging Face and CLIP.

    Returns:
        dict: ``verdict`` and ``reason``, and what was measured.
    """
    from judge_files import clip_without_checksum, without_cuda

    config = all_configs()[name]
    kind = config['metric_opts']['type']
    if kind in NO_JUDGE:
        return {'verdict': 'no judge', 'reason': NO_JUDGE[kind]}
    found = {}
    with clip_without_checksum(), without_cuda(name):
        for seed in SEEDS:
            try:
                found = {'seed': seed, **_measure(name, config, Path(folder), seed)}
            except BuildError as error:
                return {'verdict': 'cannot be built', 'reason': _first_line(error.__cause__)}
            except Exception as error:
                return {'verdict': 'no score', 'reason': _first_line(error)}
            if found['gradient'] != 'zero':  # a dead network is bad luck with random weights
                break
    return found


def all_configs():
    """``{name: config}`` of pyiqa's metrics and the plugin's judges of clips."""
    from judge_page import VIDEO

    return {**metric_configs(), **VIDEO}


class BuildError(Exception):
    """The judge could not be built; the cause says why."""


def _measure(name, config, folder, seed):
    import numpy as np
    import torch
    from judge_files import clip_judge_files, fill_caches, weights_file
    from judge_page import VIDEO

    from nriqa_plugin.iqa import create_scorer

    torch.manual_seed(seed)
    np.random.seed(seed)
    kind = config['metric_opts']['type']
    faces = 'gfiqa' in str(config['metric_opts'].get('model_name'))
    try:
        # As a user does it: what is there is read by pyiqa itself or through the option; nothing is replaced any more.
        if name in VIDEO:
            options = clip_judge_files(folder)
            judge, files = create_scorer(name, **options), {option: file.name for option, file in options.items()}
        else:
            file = weights_file(name, config, folder)
            files = ['weights'] if file else fill_caches(name, config)
            options = {'align_crop_face': False} if faces else FEW_CROPS.get(kind, {})  # noise holds no face
            judge = create_scorer(f'pyiqa:{name}', weights=file, **options)
    except Exception as error:
        raise BuildError from error
    found = {'files': files, 'min_side': judge.min_side, **_size_of(judge)}
    images, refs = _images(judge, max(judge.min_side, 64))
    found.update(_scores(judge, images, refs))
    found['stated_gradient'] = judge.differentiable
    judge.differentiable = True  # measured, not believed
    start = time.perf_counter()
    found.update(_gradient(judge))
    found['seconds'] = time.perf_counter() - start
    if found['gradient'] == 'usable':
        found['agreement'] = _agreement(judge, images[:1], refs[:1])
        if not abs(found['agreement'] - 1) <= AGREES:  # NaN does not agree
            steps = FOLLOWED if found['seconds'] < 5 else 3
            found['improves'] = _improves(judge, images[:1], refs[:1], steps)
    judge.differentiable = found['stated_gradient']
    found['any_shape'] = _works(judge, judge.min_side + 5, judge.min_side + 18)
    found['works_from'] = _smallest_side(judge)
    if kind in FEW_CROPS:
        found['few_crops'] = ', '.join(f'{key}: {value}' for key, value in options.items())
    found['verdict'], found['reason'] = _verdict(found, judge)
    if faces:
        found.update(verdict='score only', reason=FACES, stated_gradient=False,
                     note=f'all else with align_crop_face: false, which makes it a {found["verdict"]}')  # fmt: skip
    return found


def _verdict(found, judge):
    if found['gradient'] != 'usable':
        return 'score only', judge.no_gradient
    if found['agreement'] <= 0 or (not abs(found['agreement'] - 1) <= AGREES and not found['improves']):
        return 'score only', judge.no_gradient or 'its gradient points the wrong way'
    if judge.no_gradient:
        return 'score only', f'{judge.no_gradient}: the gradient that comes back is that of a part of the score'
    return 'loss', ''


def _images(judge, height, width=None):
    """Two noise images (or clips) with the spectrum of photographs, and references that differ a little."""
    import torch

    from nriqa_plugin.losses.iqa_loss import pink_noise

    generator = torch.Generator().manual_seed(0)
    side = max(height, width or height)
    shape = (2, FRAMES, 3, side, side) if judge.temporal else (2, 3, side, side)
    images = pink_noise(shape, generator).clamp(0.01, 0.99)[..., :height, : width or height]
    refs = (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    return images.contiguous(), refs


def _raw(judge, images, refs):
    import torch

    with torch.no_grad():
        return judge.raw_scores(images, refs if judge.needs_reference else None)


def _scores(judge, images, refs):
    import torch

    together = judge(images, refs if judge.needs_reference else None).detach()  # refuses scores that are not finite
    singles = torch.cat([_raw(judge, images[i : i + 1], refs[i : i + 1]) for i in range(2)])
    again = _raw(judge, images, refs)
    scale = together.abs().max().item() + 1e-6
    return {
        'scores': [round(score, 6) for score in together.tolist()],
        'batch': (together - singles).abs().max().item() / scale < 1e-3,
        'repeatable': (together - again).abs().max().item() / scale < 1e-5,
    }


def _gradient(judge):
    from nriqa_plugin.losses.iqa_loss import probe_gradient

    try:
        probe_gradient(judge)
    except ValueError as error:
        kinds = {'no gradient': 'none', 'NaN or infinite': 'not finite', 'zero everywhere': 'zero'}
        return {'gradient': next(value for text, value in kinds.items() if text in str(error))}
    except RuntimeError as error:
        return {'gradient': 'none', 'note': _first_line(error)}
    return {'gradient': 'usable'}


def _agreement(judge, image, ref):
    """Change of the score over a small step along the gradient, divided by what the gradient promises; 1 is right."""
    import torch

    image = image.clone().requires_grad_()
    score = judge.raw_scores(image, ref if judge.needs_reference else None)
    (gradient,) = torch.autograd.grad(score.sum(), image)
    direction = gradient / gradient.norm()
    ratios = []
    for levels in STEPS:
        step = levels / 255 * math.sqrt(image.numel()) * direction
        up, down = (_raw(judge, (image + sign * step).detach(), ref).item() for sign in (1, -1))
        ratios.append((up - down) / (2 * step.norm() * gradient.norm()).item())
        if abs(ratios[-1] - 1) <= AGREES:
            break
    return min(ratios, key=lambda ratio: abs(ratio - 1) if math.isfinite(ratio) else math.inf)


def _improves(judge, image, ref, steps):
    """Whether following the gradient's sign leads to a better score: a loss that fails here pulls the wrong way."""
    import torch

    start, sign = _raw(judge, image, ref).item(), 1 if judge.higher_better else -1
    for _ in range(steps):
        image = image.detach().requires_grad_()
        score = judge.raw_scores(image, ref if judge.needs_reference else None)
        (gradient,) = torch.autograd.grad(score.sum(), image)
        image = (image + sign / 255 * gradient.sign()).clamp(0, 1)
    return (_raw(judge, image.detach(), ref).item() - start) * sign > 0


def _works(judge, height, width):
    import torch

    try:
        scores = judge.score(*_given(judge, *_images(judge, height, width)))
        return scores.shape == (2,) and bool(torch.isfinite(scores).all())
    except Exception:
        return False


def _given(judge, images, refs):
    return (images, refs) if judge.needs_reference else (images,)


def _smallest_side(judge):
    """Shortest side that works, with all larger ones up to the judge's stated one; else the first larger one.

    From large to small: some networks of pyiqa keep rubbish from a call that failed.
    """
    import torch

    with torch.no_grad():
        smallest = None
        for side in reversed([s for s in SIDES if s < judge.min_side] + [judge.min_side]):
            if not _works(judge, side, side):
                break
            smallest = side
        if smallest is not None:
            return smallest
        return next((side for side in SIDES if side > judge.min_side and _works(judge, side, side)), None)


def _size_of(judge):
    tensors = [tensor for _, tensor in judge._tensors()]
    return {
        'parameters': sum(tensor.numel() for tensor in tensors),
        'megabytes': sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20,
    }


def _first_line(error):
    """The innermost cause: our own message about a failed download does not tell what asked for it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines() or ['']
    return f'{type(error).__name__}: {lines[0][:200]}'


# --- one process per metric ---


def measure_apart(name, seconds):
    """:func:`measure` in a process of its own, ended after so many seconds."""
    with tempfile.TemporaryDirectory(prefix='judge_') as folder:
        home = {'TORCH_HOME': folder, 'HF_HOME': f'{folder}/hf', 'HOME': folder, 'HF_HUB_OFFLINE': '1'}
        out = Path(folder) / 'found.json'
        command = [sys.executable, __file__, '--measure', name, '--folder', folder]
        start = time.perf_counter()
        try:
            done = subprocess.run(command, env={**os.environ, **home}, timeout=seconds, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return {'verdict': 'not finished', 'reason': f'time limit of {seconds} s'}
        if not out.exists():
            last = (done.stderr.strip().splitlines() or ['without a message'])[-1]
            return {'verdict': 'not finished', 'reason': f'the process ended with {done.returncode}: {last[:200]}'}
        return {**json.loads(out.read_text()), 'total_seconds': time.perf_counter() - start}


def _measure_here(name, folder):
    import torch

    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        found = measure(name, folder)
    Path(folder, 'found.json').write_text(json.dumps(found))


def read_results(file):
    """Results by name; the last line about a metric counts, a half-written one does not."""
    results = {}
    if file.exists():
        for line in file.read_text(encoding='utf-8').splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                results[row['name']] = row
    return results


def versions():
    """The packages that the results depend on."""
    from importlib.metadata import version

    names = ('pyiqa', 'torch', 'torchvision', 'timm', 'transformers', 'numpy')
    return {'python': platform.python_version(), **{name: version(name) for name in names}}


def main():
    """Measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--page', type=Path, default=Path('docs/judges.md'), help='the page (default: %(default)s)')
    parser.add_argument('--results', type=Path, default=Path('runs/judges.jsonl'), help='what was measured so far')
    parser.add_argument('--seconds', type=int, default=900, help='time limit of one metric (default: %(default)s)')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='measure these anew')
    parser.add_argument('--render', action='store_true', help='only write the page')
    parser.add_argument('--measure', metavar='NAME', help=argparse.SUPPRESS)
    parser.add_argument('--folder', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return _measure_here(args.measure, args.folder)

    configs = all_configs()
    if not metric_configs():
        parser.error("pyiqa is not installed: pip install 'nriqa-plugin[iqa]'")
    results = read_results(args.results)
    order = sorted(configs, key=lambda name: configs[name]['metric_opts']['type'] in FEW_CROPS)
    todo = [name for name in args.only or order if args.only or name not in results]
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([] if args.render else todo, 1):
        row = {'name': name, 'versions': versions(), **measure_apart(name, args.seconds)}
        results[name] = row
        with open(args.results, 'a', encoding='utf-8') as file:
            file.write(json.dumps(row) + '\n')
        print(f'{number}/{len(todo)} {name}: {row["verdict"]} {row["reason"]}', flush=True)
        write_page(args.page, results, args.seconds)
    write_page(args.page, results, args.seconds)


def write_page(path, results, seconds):
    """The page; metrics without a result are listed as not measured."""
    from judge_page import page

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Path(temporary).write_text(page(results, seconds, AGREES), encoding='utf-8')


if __name__ == '__main__':
    main()
