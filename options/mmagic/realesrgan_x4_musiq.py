# Fine-tune mmagic's Real-ESRGAN x4 with MUSIQ beside its L1, perceptual and adversarial losses.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/realesrgan_x4_musiq.py
_base_ = 'mmagic::real_esrgan/realesrgan_c64b23g32_4xb12-lr1e-4-400k_df2k-ost.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'realesrgan_x4_musiq'
work_dir = f'./work_dirs/{experiment_name}'
load_from = 'https://download.openmmlab.com/mmediting/restorers/real_esrgan/realesrgan_c64b23g32_12x4_lr1e-4_400k_df2k_ost_20211010-34798885.pth'

model = dict(
    pixel_loss=dict(
        _delete_=True,
        type='LossSum',
        grad_norms=True,
        terms=[
            dict(type='L1Loss', weight=1.0),
            dict(type='NRIQALoss', metric='musiq', weight=5e-5, warmup_iter=500, augment=True),
        ],
    ),
    # This slot wants a pair, and our VGGLoss is the stock loss (and Real-ESRGAN's) as one of our terms.
    perceptual_loss=dict(
        _delete_=True, type='LossPair', terms=[dict(type='VGGLoss', layers='hggt', imagenet_norm=False, weight=1.0)]
    ),
    is_use_sharpened_gt_in_pixel=False,  # a judge should not learn from a sharpened ground truth
)

val_evaluator = dict(
    metrics=[
        dict(type='PSNR', crop_border=4),
        dict(type='RelativeGain', judges=['musiq', 'niqe'], crop_border=4),
    ]
)

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),
    gain=dict(type='RelativeGainHook'),
    checkpoint=dict(interval=500, save_best='gain/niqe', rule='greater'),
    logger=dict(log_metric_by_epoch=False),
)

train_cfg = dict(max_iters=5000, val_interval=500)
optim_wrapper = dict(generator=dict(optimizer=dict(lr=2e-5)), discriminator=dict(optimizer=dict(lr=2e-5)))
