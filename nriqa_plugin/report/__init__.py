"""The report over many runs: one HTML file with tables, figures and a viewer, and the same figures for papers."""

from nriqa_plugin.report.build import build_report

__all__ = ['build_report']
