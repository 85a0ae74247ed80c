# Video super-resolution x4 as in arXiv 2405.20392: Vimeo-90K septuplets, bicubic, Adam at 4e-4, cosine restarts with a
# warm-up. Validation on a folder of clips (tools/make_clips.py), LR made on the fly, in windows of seven frames.
_base_ = 'mmagic::_base_/default_runtime.py'

save_dir = './work_dirs/'
data_preprocessor = dict(type='DataPreprocessor', mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0])

files = [f'im{number}.png' for number in range(1, 8)]
train_dataloader = dict(
    num_workers=6,
    batch_size=8,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BasicFramesDataset',
        metainfo=dict(dataset_type='vimeo90k_seq', task_name='vsr'),
        data_root='data/vimeo90k',
        data_prefix=dict(img='BIx4', gt='GT'),
        ann_file='meta_info_Vimeo90K_train_GT.txt',
        depth=2,
        num_input_frames=7,
        fixed_seq_len=7,
        load_frames_list=dict(img=files, gt=files),
        pipeline=[
            dict(type='LoadImageFromFile', key='img', channel_order='rgb'),
            dict(type='LoadImageFromFile', key='gt', channel_order='rgb'),
            dict(type='SetValues', dictionary=dict(scale=4)),
            dict(type='PairedRandomCrop', gt_patch_size=256),  # HyperIQA and MANIQA look at windows of 224 px
            dict(type='Flip', keys=['img', 'gt'], flip_ratio=0.5, direction='horizontal'),
            dict(type='Flip', keys=['img', 'gt'], flip_ratio=0.5, direction='vertical'),
            dict(type='RandomTransposeHW', keys=['img', 'gt'], transpose_ratio=0.5),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    num_workers=1,
    batch_size=1,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ClipFolderDataset',
        data_root='data/clips',
        data_prefix=dict(gt='GT'),
        num_input_frames=7,
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile', key='gt', channel_order='rgb'),
            dict(type='ClipCrop', scale=4, degradation='bicubic', seed=0),
            dict(type='PackInputs'),
        ],
    ),
)
val_evaluator = dict(
    type='Evaluator',
    metrics=[
        dict(type='PSNR', crop_border=4, convert_to='Y'),
        dict(type='IQAMetric', judges=['niqe'], crop_border=4),
        dict(type='SSIM', crop_border=4, convert_to='Y'),
    ],
)
val_cfg = dict(type='MultiValLoop')

# 50,000 iterations are the paper's for RBPN and VRT; the lengths of its restarts and of its warm-up are not published.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=50000, val_interval=5000)
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=1 / 1000, begin=0, end=1000),
    dict(
        type='CosineRestartLR',
        by_epoch=False,
        begin=1000,
        periods=[24000, 25000],
        restart_weights=[1, 0.5],
        eta_min=1e-7,
    ),
]

default_hooks = dict(
    perceptual=dict(type='PerceptualHook'),
    checkpoint=dict(interval=5000, save_best='niqe', rule='less'),
    logger=dict(log_metric_by_epoch=False),
)
custom_hooks = []  # no images are written

optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99)),
    clip_grad=dict(max_norm=10.0),
)
find_unused_parameters = True
