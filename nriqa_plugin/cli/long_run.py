"""What a command that runs for hours shows, and how it is stopped."""

import logging
import signal
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 60  # seconds, where there is no terminal


class ScaleProgress:
    """Shows a training of MDF discriminators on stderr: a bar with the scale and the time left; in a log, lines.

    A context manager that is called with the :class:`nriqa_plugin.mdf.scale_training.ScaleTraining` after each
    iteration. The work of a scale is taken as its pixels times the square of its width.
    """

    def __init__(self):
        self.console = Console(stderr=True)
        self.bar = self.task = self.began = None
        self.said = -LINE_EVERY

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, training):
        works = _works(training)
        done = sum(works[: training.index]) + works[training.index] * training.iteration / training.settings.iterations
        text = f'scale {training.index + 1} of {len(works)}, iteration {training.iteration}'
        losses = ''
        if training.iteration:
            real, fake, *_, error = training.curve[training.iteration - 1].tolist()
            losses = f'D {real:.3g} on real, {fake:.3g} on fake, error {error:.3g}'
        if self.console.is_terminal:
            self._draw(done, sum(works), text, losses)
        else:
            self._say(done, sum(works), text, losses)

    def _draw(self, done, total, text, losses):
        if self.bar is None:
            columns = (TextColumn('{task.description}'), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            losses_column = TextColumn('[dim]{task.fields[losses]}')
            self.bar = Progress(*columns, losses_column, console=self.console, speed_estimate_period=300)
            self.task = self.bar.add_task(text, total=total, completed=done, losses=losses)
            self.bar.start()
        self.bar.update(self.task, completed=done, description=text, losses=losses)

    def _say(self, done, total, text, losses):
        now = time.monotonic()
        if self.began is None:
            self.began = now, done
        if now - self.said < LINE_EVERY:
            return
        self.said = now
        gained, left = done - self.began[1], ''
        if gained > 0:
            left = f', about {(now - self.began[0]) * (total - done) / gained / 60:.0f} min left'
        self.console.print(f'{text}{losses and "; "}{losses}{left}', markup=False, highlight=False, soft_wrap=True)


def _works(training):
    """Relative cost of each scale."""
    crop, works = training.settings.crop or float('inf'), []
    for width, (height, length) in zip(training.settings.widths, training.sizes, strict=True):
        works.append((min(height, crop) * min(length, crop) + 200) * (width**2 + width))
    return works


class Interruptible:
    """Turns the first Ctrl-C (or SIGTERM) into a true answer of this object; the second one ends at once."""

    def __init__(self):
        self.asked = False
        self.before = {}

    def __call__(self):
        return self.asked

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        Console(stderr=True).print('Stopping after this iteration ...', highlight=False)


class WarningsAsNotes(logging.Handler):
    """While it is entered, warnings of the package are shown by ``show`` instead of the bare logger."""

    def __init__(self, show):
        super().__init__(logging.WARNING)
        self.show, self.logger = show, logging.getLogger('nriqa_plugin')

    def emit(self, record):
        self.show([record.getMessage()])

    def __enter__(self):
        self.logger.addHandler(self)
        return self

    def __exit__(self, *_):
        self.logger.removeHandler(self)
