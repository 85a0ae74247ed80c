# A tiny MSRResNet x4 that trains on a CPU in a minute, to try things out: images in data/tiny/gt and data/tiny/lq.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/msrresnet_x4_ssim_cpu.py
_base_ = 'mmagic::srgan_resnet/msrresnet_x4c64b16_1xb16-1000k_div2k.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'msrresnet_x4_ssim_cpu'
work_dir = f'./work_dirs/{experiment_name}'

model = dict(
    generator=dict(mid_channels=16, num_blocks=2),
    pixel_loss=dict(
        _delete_=True,
        type='LossSum',
        grad_norms=True,
        terms=[
            dict(type='L1Loss', weight=1.0),
            dict(type='FRIQALoss', metric='ssim', weight=0.1, warmup_iter=50),
        ],
    ),
)

images = dict(data_root='data/tiny', data_prefix=dict(img='lq', gt='gt'))
train_dataloader = dict(num_workers=0, batch_size=4, dataset=dict(ann_file='', **images))
val_dataloader = dict(num_workers=0, dataset=images)

val_evaluator = dict(
    metrics=[
        dict(type='PSNR', crop_border=4),
        dict(type='RelativeGain', judges=['ssim', 'gmsd'], crop_border=4),
    ]
)

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),
    gain=dict(type='RelativeGainHook'),
    checkpoint=dict(interval=50, save_best='gain/gmsd', rule='greater'),
    logger=dict(interval=10, log_metric_by_epoch=False),
)
custom_hooks = []  # no images are written

train_cfg = dict(max_iters=200, val_interval=50)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = None
