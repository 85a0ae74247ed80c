# Train SRResNet x4 (MSRResNet, without batch norm) from scratch with the MDF loss alone, as published (Mustafa et al.,
# WACV 2022): 96 px patches, flips and rotations, learning rate 1e-3, 500 epochs of DIV2K. Not published, so chosen:
# Adam, a batch of 16.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/srresnet_x4_mdf.py
# The paper's other seven losses: LOSS=l1 (l2, ssim, ms_ssim, ms_ssim_l1, vgg_l2, lpips_l2) before the command, or
#   nriqa compare options/compare/srresnet_x4.yml --base options/mmagic/srresnet_x4_mdf.py
# To make first: checkpoints/mdf_sisr.pth (nriqa train-mdf, or nriqa convert-mdf from the authors' Ds_SISR.pth).
_base_ = ['mmagic::srgan_resnet/msrresnet_x4c64b16_1xb16-1000k_div2k.py', './_base_/eight_losses.py']

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = f'srresnet_x4_{_base_.loss}'
work_dir = f'./work_dirs/{experiment_name}'

terms = _base_.terms
if 'mdf' in terms:
    terms.mdf.weights = 'checkpoints/mdf_sisr.pth'
model = dict(pixel_loss=dict(_delete_=True, type='LossSum', grad_norms=True, terms=terms))

train_pipeline = _base_.train_pipeline
next(step for step in train_pipeline if step['type'] == 'PairedRandomCrop')['gt_patch_size'] = 96
train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        ann_file='',  # every image of the folder
        data_root='data/DIV2K',
        data_prefix=dict(img='DIV2K_train_LR_bicubic/X4', gt='DIV2K_train_HR'),
        filename_tmpl=dict(img='{}x4', gt='{}'),
        # BSD500: data_root='data/BSD500', data_prefix=dict(img='train_LRbicx4', gt='train_HR')
        # DPED: data_root='data/DPED', data_prefix=dict(img='train_LRbicx4', gt='train_HR')
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        metainfo=dict(dataset_type='div2k'),
        data_root='data/DIV2K',
        data_prefix=dict(img='DIV2K_valid_LR_bicubic/X4', gt='DIV2K_valid_HR'),
        filename_tmpl=dict(img='{}x4', gt='{}'),
    )
)

val_evaluator = dict(
    type='Evaluator',
    metrics=[dict(type='LossMetric'), dict(type='PSNR', crop_border=4)],
)

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),
    checkpoint=dict(interval=500, save_best='objective', rule='less'),  # the lowest validation loss, as published
    logger=dict(log_metric_by_epoch=False),
)
custom_hooks = []  # no images are written

train_cfg = dict(max_iters=25_000, val_interval=500)  # 500 epochs of the 800 images of DIV2K, 16 a batch
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = None  # no decay is published
