# Fine-tune an MSRResNet x4 on low-resolution photographs alone: no ground truth in training.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/msrresnet_x4_gt_free.py
# A judge optimised without a ground truth is easily gamed: the output is tied to that of the start network (AnchorHook)
# and to the input (LRConsistencyLoss). With LoRA:
# generator=dict(_delete_=True, type='LoRANet', rank=8, base=dict(type='MSRResNet', ...)) in model.
_base_ = 'mmagic::srgan_resnet/msrresnet_x4c64b16_1xb16-1000k_div2k.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'msrresnet_x4_gt_free'
work_dir = f'./work_dirs/{experiment_name}'
load_from = 'https://download.openmmlab.com/mmediting/restorers/srresnet_srgan/msrresnet_x4c64b16_1x16_300k_div2k_20200521-61556be5.pth'

model = dict(
    pixel_loss=dict(
        _delete_=True,
        type='LossSum',
        grad_norms=True,
        terms=dict(
            anchor=dict(type='L1Loss', weight=1.0),
            input=dict(type='LRConsistencyLoss', weight=1.0),  # downscaling='area' where the images are photographs
            niqe=dict(type='NRIQALoss', metric='niqe', weight=0.005, warmup_iter=200),
        ),
    ),
)

train_dataloader = dict(
    num_workers=4,
    batch_size=8,
    dataset=dict(
        _delete_=True,
        type='BasicImageDataset',
        ann_file='',
        metainfo=dict(dataset_type='photographs', task_name='sisr'),
        data_root='data/photographs',
        data_prefix=dict(img=''),
        pipeline=[
            dict(type='LoadImageFromFile', key='img', color_type='color', channel_order='rgb'),
            dict(type='Crop', keys=['img'], crop_size=(48, 48), random_crop=True),
            dict(type='Flip', keys=['img'], flip_ratio=0.5, direction='horizontal'),
            dict(type='Flip', keys=['img'], flip_ratio=0.5, direction='vertical'),
            dict(type='PackInputs'),
        ],
    ),
)

val_evaluator = dict(
    metrics=[
        dict(type='PSNR', crop_border=4),
        dict(type='RelativeGain', judges=['niqe', 'ssim', 'gmsd'], crop_border=4),
    ]
)

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),
    anchor=dict(type='AnchorHook'),
    gain=dict(type='RelativeGainHook'),
    checkpoint=dict(interval=500, save_best='gain/gmsd', rule='greater'),  # by a judge that is in no loss
    logger=dict(interval=50, log_metric_by_epoch=False),
)

train_cfg = dict(max_iters=2000, val_interval=500)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', by_epoch=False, T_max=2000, eta_min=1e-6)
