# Fine-tune mmagic's EDSR x4 with NIQE and SSIM: nothing to download but mmagic's own checkpoint.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/edsr_x4_niqe_ssim.py
_base_ = 'mmagic::edsr/edsr_x4c64b16_1xb16-300k_div2k.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'edsr_x4_niqe_ssim'
work_dir = f'./work_dirs/{experiment_name}'
load_from = (
    'https://download.openmmlab.com/mmediting/restorers/edsr/edsr_x4c64b16_1x16_300k_div2k_20200608-3c2af8a3.pth'
)

model = dict(
    pixel_loss=dict(
        _delete_=True,  # replace the stock loss, do not merge with it
        type='LossSum',
        grad_norms=True,  # log how hard each term pulls
        terms=[
            dict(type='L1Loss', weight=1.0),  # mmagic's own losses are terms under their registered names
            dict(type='NRIQALoss', metric='niqe', weight=0.001, warmup_iter=500, stop_at='target'),
            dict(type='FRIQALoss', metric='ssim', weight=0.1),
        ],
    )
)

val_evaluator = dict(
    type='Evaluator',
    metrics=[
        dict(type='PSNR', crop_border=4),
        # scores, and the gain in percent over the weights that this training starts from
        dict(
            type='RelativeGain',
            judges=['niqe', 'vsi', dict(metric='ssim', options=dict(y_channel=True))],
            crop_border=4,
        ),
    ],
)

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),  # terms in the log, step guard, exact resume, checks
    gain=dict(type='RelativeGainHook'),  # measures the baseline before the first step
    checkpoint=dict(interval=500, save_best='vsi', rule='greater'),  # a judge that is in no loss
    logger=dict(log_metric_by_epoch=False),  # validations in TensorBoard and wandb by iteration
)

train_cfg = dict(max_iters=5000, val_interval=500)
optim_wrapper = dict(optimizer=dict(lr=2e-5))
param_scheduler = None
