# Fine-tune mmagic's BasicVSR++ x4 with CLIP-IQA and LPIPS at the weights of Table I of arXiv 2405.20392.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/basicvsrpp_x4_clipiqa_lpips.py
_base_ = 'mmagic::basicvsr_pp/basicvsr-pp_c64n7_8xb1-600k_reds4.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'basicvsrpp_x4_clipiqa_lpips'
work_dir = f'./work_dirs/{experiment_name}'
load_from = 'https://download.openmmlab.com/mmediting/restorers/basicvsr_plusplus/basicvsr_plusplus_c64n7_8x1_600k_reds4_20210217-db622b2f.pth'

model = dict(
    pixel_loss=dict(
        _delete_=True,
        type='LossSum',
        grad_norms=True,
        terms=[
            dict(type='CharbonnierLoss', weight=1.0),
            dict(type='NRIQALoss', metric='clipiqa', weight=0.005, warmup_iter=500),
            dict(type='FRIQALoss', metric='lpips', options=dict(net='alex'), weight=0.05),
        ],
    ),
    train_cfg=dict(fix_iter=0),  # the optical flow is trained from the first step
)

train_dataloader = dict(dataset=dict(num_input_frames=7))

val_evaluator = dict(
    metrics=[
        dict(type='PSNR'),
        dict(type='RelativeGain', judges=['clipiqa', 'niqe', 'lpips']),
    ]
)

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),
    gain=dict(type='RelativeGainHook'),
    checkpoint=dict(interval=500, save_best='gain/niqe', rule='greater'),
    logger=dict(log_metric_by_epoch=False),
)

train_cfg = dict(max_iters=20000, val_interval=5000)
optim_wrapper = dict(optimizer=dict(lr=2e-5))
param_scheduler = None
