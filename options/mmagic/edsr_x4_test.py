# Score an EDSR x4 checkpoint on Set5, Set14 and DIV2K with our judges. For the gain over an earlier run write
# dict(type='RelativeGain', baseline='work_dirs/.../baseline.csv', ...) instead of IQAMetric.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/test.py options/mmagic/edsr_x4_test.py CHECKPOINT
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
