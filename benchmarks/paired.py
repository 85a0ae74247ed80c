"""Two ways of doing the same thing, timed pairwise in one process, and the peak of their memory."""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

MEMORY_OF = '--memory-of'


def arguments(doc, runs, device=True):
    """A parser with the options of every benchmark: ``--threads``, ``--runs`` and ``--device``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--threads', type=int, default=1, help='of torch; with more than one, an idle machine is needed'
    )
    parser.add_argument('--runs', type=int, default=runs, help='pairs')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument(MEMORY_OF, metavar='SIDE', help='only print the peak of one side; used by the script itself')
    return parser


def circumstances(options):
    """Text for the head of a table: threads, device, torch."""
    load = os.getloadavg()[0]
    where = 'GPU ' + torch.cuda.get_device_name() if options.device.startswith('cuda') else f'{os.cpu_count()} cores'
    return (
        f'{options.runs} paired runs, {torch.get_num_threads()} torch thread(s), {where}, load {load:.1f}, '
        f'torch {torch.__version__}'
    )


def seconds(step, device='cpu'):
    """Time of one call, with a GPU's queue emptied before and after.

    With one thread on a CPU it is the processor's time, which other programs on the machine disturb less and which
    equals the wall clock's on an idle machine; else it is the wall clock's.
    """
    clock = time.process_time if device == 'cpu' and torch.get_num_threads() == 1 else time.perf_counter
    _wait(device)
    start = clock()
    step()
    _wait(device)
    return clock() - start


def paired_seconds(first, second, runs, device='cpu'):
    """Times of two functions ``[(first, second), ...]``, called in turn, each going first every second time."""
    for step in (first, second):
        step()  # warm-up
    rows = []
    for run in range(runs):
        if run % 2:
            late = seconds(second, device)
            rows.append((seconds(first, device), late))
        else:
            rows.append((seconds(first, device), seconds(second, device)))
    return rows


def ratio(rows):
    """Median of first / second over the pairs, and its quartiles: ``(median, low, high)``."""
    low, median, high = statistics.quantiles((first / second for first, second in rows), n=4)
    return median, low, high


def median_interval(rows):
    """Where the median of first / second lies with about 95 % confidence: ``(low, high)``, from order statistics."""
    ratios = sorted(first / second for first, second in rows)
    middle, width = len(ratios) / 2, 0.98 * len(ratios) ** 0.5
    return ratios[max(0, int(middle - width))], ratios[min(len(ratios) - 1, int(middle + width))]


def ratio_text(rows):
    median, low, high = ratio(rows)
    return f'{median:.2f} ({low:.2f} to {high:.2f})'


def milliseconds(rows):
    """Median time of both sides in ms."""
    return [1000 * statistics.median(column) for column in zip(*rows, strict=True)]


def relative_error(got, expected):
    """Euclidean norm of the difference divided by that of what is expected."""
    return ((got - expected).norm() / expected.norm()).item()


def memory_of_own_process(side):
    """Peak in MB that this script prints when started again with ``--memory-of side``: a fresh process on each side."""
    # Every block of memory goes back to the system when it is freed, so that the peak is not that of earlier holes.
    environment = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536'}
    command = [sys.executable, *sys.argv, MEMORY_OF, side]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


class Peak:
    """Measures the peak of memory from here on, in MB: allocated by torch on a GPU, resident in the process on a CPU.

    The resident size is the kernel's own count (``VmHWM`` of Linux, reset when the measurement starts): it holds
    everything, also what libraries take beside torch's allocator, but no other part of the process may run meanwhile.
    """

    def __init__(self, device='cpu'):
        self.cuda = device.startswith('cuda')
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / 2**20
        else:
            Path('/proc/self/clear_refs').write_text('5')
            self.before = _status('VmRSS')

    def megabytes(self):
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.cuda else _status('VmHWM')
        return peak - self.before


def _status(key):
    return int(re.search(rf'{key}:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024


def _wait(device):
    if device.startswith('cuda'):
        torch.cuda.synchronize()
