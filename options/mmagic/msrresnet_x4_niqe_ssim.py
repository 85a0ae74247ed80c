# Fine-tune mmagic's MSRResNet x4 with NIQE and SSIM: nothing to download but mmagic's own checkpoint.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/msrresnet_x4_niqe_ssim.py
_base_ = 'mmagic::srgan_resnet/msrresnet_x4c64b16_1xb16-1000k_div2k.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'msrresnet_x4_niqe_ssim'
work_dir = f'./work_dirs/{experiment_name}'
load_from = 'https://download.openmmlab.com/mmediting/restorers/srresnet_srgan/msrresnet_x4c64b16_1x16_300k_div2k_20200521-61556be5.pth'

model = dict(
    pixel_loss=dict(
        _delete_=True,
        type='LossSum',
        grad_norms=True,
        terms=[
            dict(type='L1Loss', weight=1.0),
            dict(type='NRIQALoss', metric='niqe', weight=0.001, warmup_iter=500, stop_at='target'),
            dict(type='FRIQALoss', metric='ssim', weight=0.1),
        ],
    )
)

# NIQE needs 2 x 2 blocks of 96 px, the stock crops have 128 px.
train_pipeline = _base_.train_pipeline
next(step for step in train_pipeline if step['type'] == 'PairedRandomCrop')['gt_patch_size'] = 192
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))

val_evaluator = dict(
    type='Evaluator',
    metrics=[
        dict(type='PSNR', crop_border=4),
        dict(type='RelativeGain', judges=['niqe', 'vsi'], crop_border=4),
    ],
)

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),
    gain=dict(type='RelativeGainHook'),
    checkpoint=dict(interval=500, save_best='vsi', rule='greater'),
    logger=dict(log_metric_by_epoch=False),
)

train_cfg = dict(max_iters=5000, val_interval=500)
optim_wrapper = dict(optimizer=dict(lr=2e-5))
param_scheduler = None
