# Fine-tune mmagic's SwinIR x4 with MUSIQ and LPIPS (pyiqa and torchvision download them).
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/swinir_x4_musiq_lpips.py
_base_ = 'mmagic::swinir/swinir_x4s48w8d6e180_8xb4-lr2e-4-500k_div2k.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'swinir_x4_musiq_lpips'
work_dir = f'./work_dirs/{experiment_name}'
load_from = 'https://download.openmmlab.com/mmediting/swinir/swinir_x4s48w8d6e180_8xb4-lr2e-4-500k_div2k-88e4903d.pth'

model = dict(
    pixel_loss=dict(
        _delete_=True,
        type='LossSum',
        grad_norms=True,
        terms=[
            dict(type='L1Loss', weight=1.0),
            dict(type='NRIQALoss', metric='musiq', weight=5e-5, warmup_iter=500, augment=True),
            dict(type='FRIQALoss', metric='lpips', options=dict(net='alex'), weight=0.05),
        ],
    )
)

val_evaluator = dict(
    _delete_=True,
    type='Evaluator',
    metrics=[
        dict(type='PSNR', crop_border=4),
        dict(type='RelativeGain', judges=['musiq', 'niqe', 'lpips', 'pattern'], crop_border=4),
    ],
)
val_cfg = dict(type='MultiValLoop')  # the stock config's ValLoop does not go with mmagic 1.2's own metrics

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),
    gain=dict(type='RelativeGainHook'),
    alarm=dict(type='ArtifactAlarmHook', judge='musiq'),  # did the training please MUSIQ with artifacts?
    checkpoint=dict(interval=500, save_best='gain/niqe', rule='greater'),  # NIQE only watches
    logger=dict(log_metric_by_epoch=False),
)

train_cfg = dict(max_iters=5000, val_interval=500)
optim_wrapper = dict(optimizer=dict(lr=2e-5))
param_scheduler = None
