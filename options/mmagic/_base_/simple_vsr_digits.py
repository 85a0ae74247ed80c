# SimpleVSR x2 on moving digits as published ("Comparing Perceptual Quality vs. Pixel Loss on a Simple VSR Model",
# Weatherly et al.): Adam, 1e-4, 1e-5 after 5 epochs, 1e-6 after 15, 50 epochs of 8000 clips.
_base_ = 'mmagic::_base_/default_runtime.py'

save_dir = './work_dirs/'

model = dict(
    type='BaseEditModel',
    generator=dict(type='SimpleVSR', form='released'),  # paper: as the text describes it
    train_cfg=dict(),
    test_cfg=dict(),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0], std=[255.0]),  # grey
)

digits = dict(
    type='MovingDigitsDataset',
    num_input_frames=5,
    blur_sigma=1.0,  # px of the small frames; not published, ours
    pipeline=[dict(type='PackInputs')],
)
train_dataloader = dict(
    num_workers=2,
    batch_size=16,  # not published, ours
    drop_last=True,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**digits, file='data/moving_digits/train.npy'),
)
val_dataloader = dict(
    num_workers=1,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**digits, file='data/moving_digits/test.npy', clips=200, test_mode=True),
)
val_evaluator = dict(type='Evaluator', metrics=[dict(type='LossMetric'), dict(type='PSNR'), dict(type='SSIM')])
test_dataloader, test_evaluator = val_dataloader, val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=25_000, val_interval=500)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.999)))
param_scheduler = dict(type='MultiStepLR', by_epoch=False, milestones=[2500, 7500], gamma=0.1)  # 500 batches an epoch

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),
    checkpoint=dict(interval=2500, save_best='objective', rule='less'),
    logger=dict(log_metric_by_epoch=False),
)
custom_hooks = []  # no images are written

# Of the perceptual trainings: the released code's five ReLUs of VGG-19. To get first: torchvision's vgg19-dcbb9e9d.pth.
perceptual = dict(
    type='VGGLoss',
    layers='simple_vsr',  # Eq. 5 of the paper means every ReLU: all_relu
    weights='checkpoints/vgg19-dcbb9e9d.pth',
    grey=True,
)
