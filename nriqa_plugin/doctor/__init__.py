"""What works here and what a training will cost: ``check_environment()`` and ``check_option_file(path)``."""

from nriqa_plugin.doctor.environment import check_environment
from nriqa_plugin.doctor.option_file import check_option_file

__all__ = ['check_environment', 'check_option_file']
