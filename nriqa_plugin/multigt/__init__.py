"""Which of several ground truths to train on: selection by a judge, layouts of data sets, and cached scores.

Candidate 0 is the original ground truth, wherever there is one; the others are enhanced versions of it. The method is
that of "Augmenting Perceptual Super-Resolution via Image Quality Predictors", CVPR 2025, arXiv 2504.18524.
"""

from nriqa_plugin.multigt.sampler import AMOSampler, Choice

__all__ = ['AMOSampler', 'Choice']
