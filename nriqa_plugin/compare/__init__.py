"""A family of trainings that differ in their loss only, run through the stock scripts, and the figures of it all."""

from nriqa_plugin.compare.family import Family, read_family
from nriqa_plugin.compare.judging import write_comparison
from nriqa_plugin.compare.runs import Outcome, run_family

__all__ = ['Family', 'Outcome', 'read_family', 'run_family', 'write_comparison']
