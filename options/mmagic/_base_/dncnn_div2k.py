# DnCNN for colour images on DIV2K (or BSD500, DPED): 96 px crops with flips and rotations, degraded on the fly.
_base_ = 'mmagic::_base_/default_runtime.py'

save_dir = './work_dirs/'

model = dict(
    type='BaseEditModel',
    # 20 layers, as DnCNN has them for an unknown strength, with batch norm for training from scratch
    generator=dict(type='DnCNN', in_nc=3, out_nc=3, nc=64, nb=20, act_mode='BR'),
    train_cfg=dict(),
    test_cfg=dict(),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0]),
)

data_root, folders = 'data/DIV2K', dict(train='DIV2K_train_HR', val='DIV2K_valid_HR')
# data_root, folders = 'data/BSD500', dict(train='images/train', val='images/val')
# data_root, folders = 'data/DPED', dict(train='iphone/training_data/canon', val='iphone/test_data/patches/canon')

load = dict(type='LoadImageFromFile', key='gt', color_type='color', channel_order='rgb', imdecode_backend='cv2')
train_pipeline = [
    load,
    dict(type='FixedCrop', keys=['gt'], crop_size=(96, 96)),  # at a random place
    dict(type='Flip', keys=['gt'], flip_ratio=0.5, direction='horizontal'),
    dict(type='Flip', keys=['gt'], flip_ratio=0.5, direction='vertical'),
    dict(type='RandomTransposeHW', keys=['gt'], transpose_ratio=0.5),
    dict(type='Degrade', degradation=None),  # the config that inherits this file says which
    dict(type='PackInputs'),
]
# With a seed every validation sees the same images.
val_pipeline = [load, dict(type='Degrade', degradation=None, seed=0), dict(type='PackInputs')]

train_dataloader = dict(
    num_workers=8,
    batch_size=16,
    drop_last=True,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BasicImageDataset', data_root=data_root, data_prefix=dict(gt=folders['train']), pipeline=train_pipeline
    ),
)
val_images = dict(type='BasicImageDataset', data_root=data_root, data_prefix=dict(gt=folders['val']))

train_cfg = dict(type='IterBasedTrainLoop', max_iters=80_000, val_interval=1600)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),
    checkpoint=dict(interval=1600),
    logger=dict(log_metric_by_epoch=False),
)
custom_hooks = []  # no images are written
