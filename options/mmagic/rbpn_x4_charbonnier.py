# RBPN x4 (the generator of iSeeBetter) on Vimeo-90K septuplets, the baseline of arXiv 2405.20392: Charbonnier alone.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/rbpn_x4_charbonnier.py
# To fetch first: Vimeo-90K septuplets with bicubic LR, BasicSR's list of them, and mmagic's (or BasicSR's) SpyNet; to make:
# the list for the test, vimeo90k_test100.txt, out of BasicSR's (tools/make_clips.py pick, docs/video_data.md).
_base_ = './_base_/vimeo90k_x4.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'rbpn_x4_charbonnier'
work_dir = f'./work_dirs/{experiment_name}'

model = dict(
    type='BaseEditModel',  # 7 frames in, the middle one out
    generator=dict(
        type='RBPN',
        num_channels=3,
        base_filter=256,
        feat=64,
        num_stages=3,
        n_resblock=5,
        nFrames=7,
        scale_factor=4,
        spynet_path='checkpoints/spynet_20210409-c6c1bd09.pth',
    ),
    # terms by name, so that --cfg-options can change one from outside
    pixel_loss=dict(type='LossSum', terms=dict(pixel=dict(type='CharbonnierLoss', weight=1.0))),
    train_cfg=dict(),
    test_cfg=dict(),
    data_preprocessor=_base_.data_preprocessor,
)

train_dataloader = dict(dataset=dict(load_frames_list=dict(gt=['im4.png'])))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='BasicFramesDataset',
        metainfo=dict(dataset_type='vimeo90k_seq', task_name='vsr'),
        data_root='data/vimeo90k',
        data_prefix=dict(img='BIx4', gt='GT'),
        ann_file='vimeo90k_test100.txt',  # tools/make_clips.py pick ... --count 100
        depth=2,
        num_input_frames=7,
        fixed_seq_len=7,
        load_frames_list=dict(img=_base_.files, gt=['im4.png']),
        pipeline=[
            dict(type='LoadImageFromFile', key='img', channel_order='rgb'),
            dict(type='LoadImageFromFile', key='gt', channel_order='rgb'),
            dict(type='PackInputs'),
        ],
    )
)
