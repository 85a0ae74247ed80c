"""Phase 1 of MDF: discriminators trained coarse to fine on one image, or a few (Mustafa et al., WACV 2022)."""

import dataclasses
import tempfile
from pathlib import Path

import torch

from nriqa_plugin import __version__
from nriqa_plugin.checks import check_device, check_number
from nriqa_plugin.mdf.checkpoint import load_partial, remove_partial, save_partial
from nriqa_plugin.mdf.generator import generate
from nriqa_plugin.mdf.mdf_file import save_mdf
from nriqa_plugin.mdf.pyramid import pyramid
from nriqa_plugin.mdf.scale_training import ScaleTraining
from nriqa_plugin.mdf.settings import Settings


@dataclasses.dataclass
class Trained:
    """What :func:`train_mdf` gives back.

    Attributes:
        discriminators (list[Discriminator]): coarsest scale first, in eval mode.
        header (dict): of the file.
        curves (list[Tensor]): for each scale ``(iterations, 5)``, columns as in
            :data:`nriqa_plugin.mdf.scale_training.COLUMNS`.
        samples (list[dict[str, Tensor]]): for each scale, from the first image: ``real``, ``input``, ``fake`` in
            [-1, 1], ``(3, h, w)``, and the maps of activations ``on_real``, ``on_fake``, ``(h - 10, w - 10)``.
    """

    discriminators: list
    header: dict
    curves: list
    samples: list


class Stopped(Exception):
    """The training was asked to stop and left a checkpoint from which the same call goes on."""


def train_mdf(
    out,
    images,
    task,
    device='cpu',
    checkpoint_every=100,
    restart=False,
    progress=lambda training: None,
    stop=lambda: False,
    finish=lambda trained: None,
    **options,
):
    """Train the discriminators of a task and write them.

    At every scale a generator learns to undo the distortion while a discriminator learns to tell its results from
    the image; the discriminators are kept. A killed training goes on at its last checkpoint, on a CPU with exactly
    the result of one that was never stopped (same number of threads, same versions).

    Args:
        out (str | Path): the file of discriminators; the checkpoint lies beside it as ``OUT.partial`` meanwhile.
        images (dict[str, Tensor]): training images by name, RGB in [0, 1], ``(3, H, W)``.
        task (str | dict | callable): see :class:`nriqa_plugin.mdf.task.Task`.
        device (str | torch.device): where to train; ``auto`` is a GPU if there is one.
        checkpoint_every (int): iterations between checkpoints; one is written after each scale too.
        restart (bool): train anew even if there is a checkpoint, or a finished file.
        progress (callable): called with the :class:`ScaleTraining` after each iteration and at the start of a scale.
        stop (callable): asked after each iteration; true writes a checkpoint and raises :class:`Stopped`.
        finish (callable): called with the result once its file is written, before the checkpoint is deleted: what is
            interrupted in there is called again by the same call.
        **options: scales, rho, iterations, alpha, widths, adversarial, generator, crop, seed; see
            :class:`nriqa_plugin.mdf.settings.Settings`.

    Returns:
        Trained

    Raises:
        OSError: the folder of ``out`` cannot be written to.
        ValueError, TypeError: a wrong option, a checkpoint of other options, or a finished file and no ``restart``.
        FloatingPointError: a loss is not finite.
        Stopped: see ``stop``.
    """
    settings = Settings(images, task, **options)
    check_number('checkpoint_every', checkpoint_every, low=1, integer=True)
    header, device = settings.header(), check_device(device)
    if restart:
        remove_partial(out)
    state = load_partial(out, header)
    if state is None and Path(out).exists() and not restart:
        raise ValueError(f'{out} exists already; choose another file, or --restart (restart=True) trains anew and '
                         'replaces it')  # fmt: skip
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=Path(out).parent).close()  # an OSError now, not after hours
    with torch.random.fork_rng([device] if device.type == 'cuda' else []):
        run = _Training(settings, device)
        if state is not None:
            run.load_state_dict(state)
        while run.scale is not None:
            progress(run.scale)
            while run.scale.iteration < settings.iterations:
                run.scale.step()
                progress(run.scale)
                stopped = stop()
                if stopped or run.scale.iteration % checkpoint_every == 0:
                    save_partial(out, header, run.state_dict())
                if stopped:
                    raise Stopped(f'stopped at scale {run.scale.index + 1} of {settings.scales}, iteration '
                                  f'{run.scale.iteration} of {settings.iterations}')  # fmt: skip
            run.finish_scale()
            save_partial(out, header, run.state_dict())
        samples = run.samples()
    header['versions'] = {'nriqa_plugin': __version__, 'torch': str(torch.__version__)}
    discriminators = [discriminator.cpu() for _, discriminator, _ in run.finished]
    save_mdf(out, discriminators, header)
    trained = Trained(discriminators, header, [curve for *_, curve in run.finished], samples)
    finish(trained)
    remove_partial(out)
    return trained


class _Training:
    """The scales that are finished, and the one that is being trained: ``scale``, ``None`` at the end."""

    def __init__(self, settings, device):
        self.settings, self.device = settings, device
        torch.manual_seed(settings.seed)
        self.rng = torch.Generator().manual_seed(settings.seed)
        self.pyramids = [
            [level.to(device) for level in pyramid(image[None].float() * 2 - 1, settings.scales, settings.rho)]
            for image in settings.images.values()
        ]
        self.finished = []  # generator, discriminator, curve
        self.scale = self._new_scale()

    def _new_scale(self):
        index, widths, start = len(self.finished), self.settings.widths, None
        if index == self.settings.scales:
            return None
        if index and widths[index] == widths[index - 1]:
            start = tuple(network.state_dict() for network in self.finished[-1][:2])
        reals = [levels[: index + 1] for levels in self.pyramids]
        below = [generator for generator, *_ in self.finished]
        return ScaleTraining(self.settings, index, reals, below, start, self.rng, self.device)

    def finish_scale(self):
        self.scale.freeze()
        self.finished.append((self.scale.generator, self.scale.discriminator, self.scale.curve))
        self.scale = self._new_scale()

    @torch.no_grad()
    def samples(self):
        """See :class:`Trained`; the distortions of the picture are drawn from a copy of the random numbers."""
        rng = torch.Generator().set_state(self.rng.get_state())
        generators, reals, samples = [g for g, *_ in self.finished], self.pyramids[0], []
        for index, (generator, discriminator, _) in enumerate(self.finished):
            given = self.settings.built_task.scale_input(reals[: index + 1], generators[:index], rng)
            fake = generate(generator, given)
            sample = {'real': reals[index], 'input': given, 'fake': fake}
            sample |= {'on_real': discriminator(reals[index])[:, 0], 'on_fake': discriminator(fake)[:, 0]}
            samples.append({name: value[0].cpu() for name, value in sample.items()})
        return samples

    def state_dict(self):
        finished = [
            {'generator': generator.state_dict(), 'discriminator': discriminator.state_dict(), 'curve': curve}
            for generator, discriminator, curve in self.finished
        ]
        return {
            'finished': finished,
            'scale': None if self.scale is None else self.scale.state_dict(),
            'drawn': self.rng.get_state(),
            'global': torch.get_rng_state(),
        }

    def load_state_dict(self, state):
        for stored in state['finished']:
            self.scale.generator.load_state_dict(stored['generator'])
            self.scale.discriminator.load_state_dict(stored['discriminator'])
            self.scale.curve = stored['curve']
            self.finish_scale()
        if self.scale is not None:
            self.scale.load_state_dict(state['scale'])
        self.rng.set_state(state['drawn'])
        torch.set_rng_state(state['global'])
