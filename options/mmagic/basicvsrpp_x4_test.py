"""Score a BasicVSR++ x4 checkpoint on REDS4 with mmagic's own test script and our judges, frame by frame.

mim test mmagic options/mmagic/basicvsrpp_x4_test.py --checkpoint CHECKPOINT
"""

_base_ = 'mmagic::basicvsr_pp/basicvsr-pp_c64n7_8xb1-600k_reds4.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'basicvsrpp_x4_test'
work_dir = f'./work_dirs/{experiment_name}'

test_dataloader = [_base_.val_dataloader]  # REDS4 only, the stock config tests on six data sets
test_evaluator = [
    dict(
        type='Evaluator',
        metrics=[
            dict(type='PSNR', prefix='REDS4'),
            dict(type='IQAMetric', judges=['niqe', 'ssim'], prefix='REDS4'),
        ],
    )
]
