# Train Real-ESRGAN x4 on the best of several ground truths (AMO), judged patch by patch by MUSIQ, with mmagic.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/realesrgan_x4_multigt.py
# The other recipes of arXiv 2504.18524: --cfg-options model.data_preprocessor.selection.method=upos (or sma, smp; or
# original, random). Settings are those of the data set's authors (HGGT, CVPR 2023) for Real-ESRGAN; what is marked "ours"
# was not published. To fetch first: HGGT's Train and Test-100 folders, and an RRDBNet to start from (load_from).
_base_ = 'mmagic::real_esrgan/realesrgan_c64b23g32_4xb12-lr1e-4-400k_df2k-ost.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'realesrgan_x4_multigt'
work_dir = f'./work_dirs/{experiment_name}'
scale = 4
gt_size = 256

model = dict(
    pixel_loss=dict(_delete_=True, type='LossSum', grad_norms=True, terms=[dict(type='L1Loss', weight=1.0)]),
    # HGGT's VGG-19 distance; torchvision downloads the backbone.
    perceptual_loss=dict(_delete_=True, type='LossPair', terms=[dict(type='VGGLoss', layers='hggt', weight=1.0)]),
    is_use_sharpened_gt_in_pixel=False,
    is_use_sharpened_gt_in_percep=False,
    is_use_sharpened_gt_in_gan=False,
    train_cfg=dict(start_iter=-1),  # the moving average starts at once
    data_preprocessor=dict(
        type='MultiGTPreprocessor',
        gt_unsharp='plain',  # nothing is sharpened
        selection=dict(
            type='AMOSampler',
            method='amo',  # original, random, upos, sma, smp, amo
            metric='musiq',
            tau=1.0,  # ours, for sma and smp, in the judge's units; see docs/multigt.md for the measurement
            scores=None,  # a file of `nriqa score-gts`; with it no judge is loaded
            chunk=8,
            panel_every=5000,
        ),
    ),
)

sizes = dict(resize_opt=['bilinear', 'area', 'bicubic'], resize_prob=[1 / 3, 1 / 3, 1 / 3])
train_pipeline = [
    dict(type='LoadGroundTruths', channel_order='rgb'),
    dict(type='SetValues', dictionary=dict(scale=scale)),
    dict(type='MultiGTCrop', gt_patch_size=gt_size),
    dict(type='OriginalToLQ'),
    dict(
        type='RandomBlur',
        params=dict(
            kernel_size=[3, 5, 7],
            kernel_list=['iso', 'aniso', 'sinc'],
            kernel_prob=[0.693, 0.297, 0.01],
            sigma_x=[0.1, 0.6],
            sigma_y=[0.1, 0.6],
            rotate_angle=[-3.1416, 3.1416],
        ),
        keys=['img'],
    ),
    dict(
        type='RandomResize',
        params=dict(resize_mode_prob=[0.1, 0.85, 0.05], resize_scale=[0.9, 1.1], **sizes),  # up, down, keep
        keys=['img'],
    ),
    dict(
        type='RandomNoise',
        params=dict(
            noise_type=['gaussian', 'poisson'],
            noise_prob=[0.5, 0.5],
            gaussian_sigma=[1, 8],
            gaussian_gray_noise_prob=0.2,
            poisson_scale=[0.05, 0.5],
            poisson_gray_noise_prob=0.2,
        ),
        keys=['img'],
    ),
    dict(type='RandomJPEGCompression', params=dict(quality=[85, 95]), keys=['img']),
    dict(
        type='RandomBlur',
        params=dict(
            prob=0.8,
            kernel_size=[3, 5],
            kernel_list=['iso', 'aniso', 'sinc'],
            kernel_prob=[0.693, 0.297, 0.01],
            sigma_x=[0.1, 0.4],
            sigma_y=[0.1, 0.4],
            rotate_angle=[-3.1416, 3.1416],
        ),
        keys=['img'],
    ),
    dict(
        type='RandomResize',
        params=dict(resize_mode_prob=[0.1, 0.85, 0.05], resize_scale=[0.9, 1.1], **sizes),
        keys=['img'],
    ),
    dict(
        type='RandomNoise',
        params=dict(
            noise_type=['gaussian', 'poisson'],
            noise_prob=[0.5, 0.5],
            gaussian_sigma=[0, 4],
            gaussian_gray_noise_prob=0.2,
            poisson_scale=[0, 0.3],
            poisson_gray_noise_prob=0.2,
        ),
        keys=['img'],
    ),
    dict(
        type='DegradationsWithShuffle',
        degradations=[
            dict(type='RandomJPEGCompression', params=dict(quality=[87, 95])),
            [
                dict(type='RandomResize', params=dict(target_size=(gt_size // scale, gt_size // scale), **sizes)),
                dict(
                    type='RandomBlur',
                    params=dict(
                        prob=0.1, kernel_size=[3, 5, 7], kernel_list=['sinc'], kernel_prob=[1], omega=[1.0472, 3.1416]
                    ),
                ),
            ],
        ],
        keys=['img'],
    ),
    dict(type='Clip', keys=['img']),
    dict(type='Flip', keys=['img', 'gt'], flip_ratio=0.5, direction='horizontal'),
    dict(type='PackGroundTruths'),
]

train_dataloader = dict(
    num_workers=12,
    batch_size=12,  # on 4 GPUs
    dataset=dict(
        _delete_=True,
        type='MultiGTDataset',
        data_root='data/HGGT/Train',
        layout='hggt',  # sets without a positive ground truth are left out, as published
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        metainfo=dict(dataset_type='test100'),
        data_root='data/HGGT/Test-100',
        data_prefix=dict(gt='images/original', img='LQ'),
    )
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
    checkpoint=dict(interval=5000, save_best='gain/niqe', rule='greater'),  # NIQE chooses no target
    logger=dict(log_metric_by_epoch=False),
)

train_cfg = dict(max_iters=300000, val_interval=5000)
param_scheduler = dict(_delete_=True, type='MultiStepLR', by_epoch=False, milestones=[300000], gamma=0.5)
