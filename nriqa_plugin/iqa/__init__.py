"""Judges: networks and formulas that score images, with or without a reference."""

from nriqa_plugin.iqa.scorer import Scorer, create_scorer

__all__ = ['Scorer', 'create_scorer']
