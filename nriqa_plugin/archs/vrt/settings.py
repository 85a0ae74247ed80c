"""What VRT's options may be, and a setting for computers without a GPU."""

from numbers import Real

from nriqa_plugin.checks import check_choice, check_flag, check_number

U_STAGES = 7

# 0.5 M parameters beside the flow network's 1.44 M; the structure of the paper, narrower and shallower.
SMALL = {
    'window_size': [8, 8, 8],
    'depths': [3] * 7 + [2] * 2,
    'indep_reconsts': [8],
    'embed_dims': [16] * 7 + [24] * 2,
    'num_heads': [2] * 9,
    'pa_frames': 4,
    'deformable_groups': 4,
    'drop_path_rate': 0.0,
    'num_feat': 16,
}


def check_settings(options):
    """Refuse what VRT cannot be built with.

    Raises:
        TypeError: an option of the wrong kind.
        ValueError: out of range, or options that do not fit together; the message names them.
    """
    _check_numbers(options)
    depths, dims, heads = options['depths'], options['embed_dims'], options['num_heads']
    stages = len(depths)
    if stages <= U_STAGES:
        raise ValueError(f'depths must have {U_STAGES} entries for the U and at least one for the stages behind it, '
                         f'got {stages}: {list(depths)}')  # fmt: skip
    for option in ('embed_dims', 'num_heads'):
        if len(options[option]) != stages:
            raise ValueError(f'{option} must have one entry for each of the {stages} depths, got '
                             f'{len(options[option])}')  # fmt: skip
    for stage, (dim, head) in enumerate(zip(dims, heads, strict=True)):
        if dim % head:
            raise ValueError(f'num_heads must divide embed_dims: {head} heads do not divide the {dim} channels of '
                             f'stage {stage}')  # fmt: skip
        if int(dim * options['mlp_ratio']) < 1:
            raise ValueError(f'mlp_ratio must leave the feed-forward part at least one channel: {options["mlp_ratio"]} '
                             f'times the {dim} channels of stage {stage} is less')  # fmt: skip
    _check_channels(dims)
    _check_alignment(options)
    for option in ('indep_reconsts', 'no_checkpoint_attn_blocks', 'no_checkpoint_ffn_blocks'):
        low = U_STAGES if option == 'indep_reconsts' else 0
        for stage in options[option]:
            check_number(f'{option}: a stage', stage, low=low, high=stages - 1, integer=True)


def _check_numbers(options):
    for option, allowed in (('upscale', (1, 2, 3, 4, 8)), ('pa_frames', (2, 4, 6))):
        check_choice(option, check_number(option, options[option], low=0, integer=True), allowed)
    if check_number('in_chans', options['in_chans'], low=1, integer=True) != 3:
        raise ValueError(f'in_chans must be 3: the flow network sees RGB frames, got {options["in_chans"]!r}')
    if check_number('out_chans', options['out_chans'], low=1, integer=True) != options['in_chans']:
        raise ValueError(f'out_chans must equal in_chans: {options["in_chans"]}, got {options["out_chans"]!r}: the '
                         'output is added to the enlarged input')  # fmt: skip
    for option in ('window_size', 'img_size'):
        _check_integers(option, options[option])
        if len(options[option]) != 3:
            raise ValueError(f'{option} must be [frames, rows, columns], got {options[option]!r}')
    for option in ('depths', 'embed_dims', 'num_heads'):
        _check_integers(option, options[option])
    for option in ('indep_reconsts', 'no_checkpoint_attn_blocks', 'no_checkpoint_ffn_blocks'):
        _check_integers(option, options[option], low=0)
    check_number('mul_attn_ratio', options['mul_attn_ratio'], low=0, high=1)
    check_number('mlp_ratio', options['mlp_ratio'], low=0)
    for option in ('num_feat', 'deformable_groups'):
        check_number(option, options[option], low=1, integer=True)
    check_number('drop_path_rate', options['drop_path_rate'], low=0, high=0.99)
    if options['qk_scale'] is not None:
        check_number('qk_scale', options['qk_scale'])
    for option in ('qkv_bias', 'recal_all_flows', 'nonblind_denoising', 'use_checkpoint_attn', 'use_checkpoint_ffn',
                   'use_sdpa'):  # fmt: skip
        check_flag(option, options[option])
    if options['recal_all_flows']:
        raise ValueError("recal_all_flows must be false: flows to further frames are put together from neighbours'")
    if options['nonblind_denoising'] and options['upscale'] != 1:
        raise ValueError(f'nonblind_denoising keeps the size: upscale must be 1, got {options["upscale"]}')


def _check_integers(option, values, low=1):
    if isinstance(values, (str, Real)) or not hasattr(values, '__len__'):
        raise TypeError(f'{option} must be a list of integers, got {values!r}')
    for value in values:
        check_number(option, value, low=low, integer=True)


def _check_channels(dims):
    """Sums and concatenations of the U fit, and positions have as many sines as cosines."""
    for stage in range(U_STAGES):
        mirror = min(stage, U_STAGES - 1 - stage)
        if dims[stage] != dims[mirror]:
            raise ValueError(f'embed_dims must be alike at the same scale of the U: stage {stage} has {dims[stage]}, '
                             f'stage {mirror} has {dims[mirror]}')  # fmt: skip
        if dims[stage] % 4:
            raise ValueError(f'embed_dims must be multiples of 4 in the U, got {dims[stage]} in stage {stage}')
    if len(set(dims[U_STAGES:])) > 1:
        raise ValueError(f'embed_dims must be alike behind the U, got {list(dims[U_STAGES:])}')


def _check_alignment(options):
    frames, groups = options['pa_frames'], options['deformable_groups']
    if groups % (frames // 2):
        raise ValueError(f'deformable_groups must be a multiple of pa_frames / 2 = {frames // 2}, for every neighbour '
                         f'has its own, got {groups}')  # fmt: skip
    for stage in range(U_STAGES):
        channels = options['embed_dims'][stage] * frames // 2
        if channels % groups:
            raise ValueError(f'deformable_groups must divide embed_dims * pa_frames / 2: {groups} does not divide '
                             f'{channels} in stage {stage}')  # fmt: skip
        if options['embed_dims'][stage] % (frames // 2):
            raise ValueError(f'embed_dims must be multiples of pa_frames / 2 = {frames // 2} in the U, got '
                             f'{options["embed_dims"][stage]} in stage {stage}')  # fmt: skip
