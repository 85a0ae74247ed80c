# mmagic's ESRGAN x4 with MDF in place of its L1 and VGG losses, beside the adversarial one (Mustafa et al., WACV 2022).
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/esrgan_x4_mdf_gan.py
# To make first: checkpoints/mdf_sisr.pth (nriqa train-mdf, or nriqa convert-mdf from the authors' Ds_SISR.pth).
_base_ = 'mmagic::esrgan/esrgan_x4c64b23g32_1xb16-400k_div2k.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'esrgan_x4_mdf_gan'
work_dir = f'./work_dirs/{experiment_name}'

model = dict(
    pixel_loss=dict(
        _delete_=True,  # replace the stock loss, do not merge with it
        type='LossSum',
        terms=dict(mdf=dict(type='MDFLoss', weights='checkpoints/mdf_sisr.pth', weight=1.0)),
    ),
    perceptual_loss=None,
)

val_evaluator = dict(
    type='Evaluator',
    metrics=[
        dict(type='PSNR', crop_border=4),
        dict(type='RelativeGain', judges=['niqe', 'vsi'], crop_border=4),
    ],
)

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),  # terms in the log, step guard, exact resume, checks
    gain=dict(type='RelativeGainHook'),  # measures the baseline before the first step
    checkpoint=dict(interval=5000, save_best='vsi', rule='greater'),
    logger=dict(log_metric_by_epoch=False),
)
