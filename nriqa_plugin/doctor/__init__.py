"""What works here and what a training will cost or should weigh: environment, option file, calibration."""

from nriqa_plugin.doctor.calibrate import calibrate_option_file
from nriqa_plugin.doctor.environment import check_environment
from nriqa_plugin.doctor.option_file import check_option_file

__all__ = ['calibrate_option_file', 'check_environment', 'check_option_file']
