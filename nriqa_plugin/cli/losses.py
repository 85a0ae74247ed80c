"""Losses as they are written on the command line, ``NAME:key=value,...``, and from a file of losses."""

from nriqa_plugin.cli.judges import parse_judge

# name -> its terms, as in the files of `nriqa compare`; every other name is a judge as a loss.
NAMED = {
    'l1': {'l1': {'type': 'L1Loss', 'weight': 1.0}},
    'l2': {'l2': {'type': 'MSELoss', 'weight': 1.0}},
    'charbonnier': {'charbonnier': {'type': 'CharbonnierLoss', 'weight': 1.0}},
    'ms_ssim_l1': {  # Zhao et al., arXiv 1511.08861
        'ms_ssim': {'type': 'FRIQALoss', 'metric': 'ms_ssim', 'scale': 'unit', 'weight': 0.84},
        'l1': {'type': 'L1Loss', 'weight': 0.16},
    },
    'vgg': {'vgg': {'type': 'VGGLoss', 'layers': 'hggt', 'weight': 1.0}},
    'mdf': {'mdf': {'type': 'MDFLoss', 'weight': 1.0}},
}
NEED_NOTHING = ('l1', 'l2', 'charbonnier', 'ssim', 'ms_ssim', 'ms_ssim_l1')


def loss_of(text):
    """The judge of the loss that ``text`` names: one of ``NAMED``, or a judge; its options follow a colon.

    Raises:
        ValueError, TypeError, FileNotFoundError: naming the text.
    """
    from nriqa_plugin.checks import in_place
    from nriqa_plugin.iqa import create_scorer

    name, options = parse_judge(text, '--loss')
    with in_place(f'--loss {text}'):
        if name in NAMED:
            terms = {term: dict(content) for term, content in NAMED[name].items()}
            if options and len(terms) > 1:
                raise ValueError(f'{name} is a sum and takes no options')
            for content in terms.values():
                content.update(options)
        else:
            judge = create_scorer(name, **options)
            kind = 'FRIQALoss' if judge.needs_reference else 'NRIQALoss'
            terms = {judge.name: {'type': kind, 'metric': judge, 'weight': 1.0, 'probe': False}}
            name = judge.name
        return judge_of_terms(name, terms)


def losses_of_file(path, weights):
    """The judges of the losses in a file with ``losses: {loss: {term: {type, weight, ...}}}``, as `nriqa compare` has.

    Args:
        weights (dict[str, str]): files of weights by term.

    Returns:
        list[LossJudge]
    """
    from nriqa_plugin.checks import check_file, in_place, unknown_name
    from nriqa_plugin.compare.yaml_files import read_yaml

    check_file('--losses', path)
    with in_place(path):
        content = read_yaml(path)
        losses = content.get('losses') if isinstance(content, dict) else None
        if not isinstance(losses, dict) or not all(isinstance(terms, dict) for terms in losses.values()):
            raise ValueError('must hold losses: {loss: {term: {type, weight, ...}}}')
        known = {term for terms in losses.values() for term in terms}
        for term in weights:
            if term not in known:
                raise unknown_name('term in --weights:', term, known)
        found = []
        for name, terms in losses.items():
            for term, content in terms.items():
                if content is not None and not isinstance(content, dict):
                    raise ValueError(f'losses.{name}.{term} must be {{type, weight, ...}}, got {content!r}')
            given = {term: {**content, **({'weights': weights[term]} if term in weights else {})}
                     for term, content in terms.items() if content is not None}  # fmt: skip
            with in_place(f'losses.{name}'):
                found.append(judge_of_terms(name, given))
        return found


def judge_of_terms(name, terms):
    """A :class:`~nriqa_plugin.preference.loss_judge.LossJudge` of the terms of a ``LossSum``."""
    from nriqa_plugin.losses import LossSum
    from nriqa_plugin.preference.loss_judge import LossJudge

    loss = LossSum(terms)
    no_reference = all(term['type'] == 'NRIQALoss' and term.get('stop_at') != 'target' for term in terms.values())
    return LossJudge(name, loss, _identity(terms), not no_reference)


def _identity(content):
    """Options as text: files and judges by their hashes."""
    from nriqa_plugin.checks import check_file, file_hash
    from nriqa_plugin.iqa import Scorer

    if isinstance(content, dict):
        pairs = ((key, file_hash(check_file(key, value)) if key == 'weights' and isinstance(value, str) else
                  _identity(value)) for key, value in content.items())  # fmt: skip
        return repr(sorted(pairs))
    return content.weights_hash() if isinstance(content, Scorer) else repr(content)
