"""Our messages in the log file of the training, which mmengine names anew for every run."""

import logging

from mmengine.logging import MMLogger


class ToHostLog(logging.Handler):
    """Hands every record on to the logger of the run that is going on."""

    def emit(self, record):
        MMLogger.get_current_instance().handle(record)


def warn_in_host_log():
    """Attach :class:`ToHostLog` to our logger, once."""
    logger = logging.getLogger('nriqa_plugin')
    if not any(isinstance(handler, ToHostLog) for handler in logger.handlers):
        logger.addHandler(ToHostLog())
        logger.setLevel(logging.INFO)  # where the weight of ``weight: paper`` comes from, for one
