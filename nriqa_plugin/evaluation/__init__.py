"""Did it help: scores of folders, the relative gain over a baseline, and a report to look at."""

from nriqa_plugin.evaluation.relative_gain import Baseline, gains, read_baseline, relative_gain
from nriqa_plugin.evaluation.scores import Scores, read_scores, write_scores
from nriqa_plugin.evaluation.scoring import score_folder

__all__ = [
    'Baseline',
    'Scores',
    'gains',
    'read_baseline',
    'read_scores',
    'relative_gain',
    'score_folder',
    'write_scores',
]
