# BasicVSR++ x4 on Vimeo-90K septuplets, the baseline of arXiv 2405.20392: Charbonnier alone.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/basicvsrpp_x4_charbonnier.py
# To fetch first: Vimeo-90K septuplets with bicubic LR and mmagic's SpyNet; to make: clips to validate on.
#   https://download.openmmlab.com/mmediting/restorers/basicvsr/spynet_20210409-c6c1bd09.pth
_base_ = './_base_/vimeo90k_x4.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'basicvsrpp_x4_charbonnier'
work_dir = f'./work_dirs/{experiment_name}'

model = dict(
    type='BasicVSR',
    generator=dict(
        type='BasicVSRPlusPlusNet',  # LR of at least 64 px a side; needs mmcv with its compiled ops
        mid_channels=64,
        num_blocks=7,
        is_low_res_input=True,
        spynet_pretrained='checkpoints/spynet_20210409-c6c1bd09.pth',
    ),
    train_cfg=dict(fix_iter=0),  # the optical flow is trained from the first step
    pixel_loss=dict(type='LossSum', terms=dict(pixel=dict(type='CharbonnierLoss', weight=1.0))),
    data_preprocessor=_base_.data_preprocessor,
)

# 5,000 iterations are the paper's; the lengths of its restarts and of its warm-up are not published.
train_cfg = dict(max_iters=5000, val_interval=1000)
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1 / 500, end=500),
    dict(_base_.param_scheduler[1], begin=500, periods=[2000, 2500]),
]
default_hooks = dict(checkpoint=dict(interval=1000))
