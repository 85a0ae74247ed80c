"""Score an EDSR x4 checkpoint on Set5, Set14 and DIV2K with mmagic's own test script and our judges.

    mim test mmagic options/mmagic/edsr_x4_test.py --checkpoint CHECKPOINT

or ``python <site-packages>/mmagic/.mim/tools/test.py options/mmagic/edsr_x4_test.py CHECKPOINT``. For the relative gain
over an earlier run, say ``dict(type='RelativeGain', baseline='work_dirs/.../baseline.csv', ...)`` instead.
"""

_base_ = 'mmagic::edsr/edsr_x4c64b16_1xb16-300k_div2k.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'edsr_x4_test'
work_dir = f'./work_dirs/{experiment_name}'

test_evaluator = [
    dict(
        type='Evaluator',
        metrics=[
            dict(type='PSNR', crop_border=4, prefix=name),
            dict(type='IQAMetric', judges=['niqe', 'ssim', 'vsi'], crop_border=4, prefix=name),
        ],
    )
    for name in ('Set5', 'Set14', 'DIV2K')
]
