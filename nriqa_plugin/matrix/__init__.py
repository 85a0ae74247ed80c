"""A family of fine-tunings (losses x networks x data sets) through the stock scripts, and its relative gains."""

from nriqa_plugin.matrix.experiments import Experiments, read_experiments
from nriqa_plugin.matrix.own_runs import runs_by_pattern, with_folders
from nriqa_plugin.matrix.results import write_experiments, write_matrix
from nriqa_plugin.matrix.running import run_experiments

__all__ = [
    'Experiments',
    'read_experiments',
    'run_experiments',
    'runs_by_pattern',
    'with_folders',
    'write_experiments',
    'write_matrix',
]
