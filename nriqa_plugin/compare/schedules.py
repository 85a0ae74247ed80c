"""Learning-rate schedules for a shorter training: the same curve, squeezed."""

LENGTHS = ('milestones', 'periods', 'T_max', 'begin', 'end', 'step_size', 'total_iters', 'T_0')


def shorter(scheduler, ratio):
    """A scheduler's options with every length in iterations times ``ratio`` (at least 1, but 0 stays 0).

    ``gamma`` of ExponentialLR, which acts at every iteration, becomes ``gamma ** (1 / ratio)``, so that the rate ends
    where it would have ended. Lists of schedulers (mmengine) are done one by one.
    """
    if isinstance(scheduler, (list, tuple)):
        return [shorter(one, ratio) for one in scheduler]
    if not isinstance(scheduler, dict):
        return scheduler
    made = {key: _scaled(value, ratio) if key in LENGTHS else value for key, value in scheduler.items()}
    if made.get('type') == 'ExponentialLR' and 'gamma' in made:
        made['gamma'] = float(made['gamma']) ** (1 / ratio)
    return made


def _scaled(value, ratio):
    if isinstance(value, (list, tuple)):
        return [_scaled(one, ratio) for one in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value == 0:
        return value
    return max(1, round(value * ratio))
