# Score a BasicVSR++ x4 checkpoint on REDS4 with our judges, frame by frame.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/test.py options/mmagic/basicvsrpp_x4_test.py CHECKPOINT
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
