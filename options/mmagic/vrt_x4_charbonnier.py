# VRT x4 on Vimeo-90K septuplets, the baseline of arXiv 2405.20392: Charbonnier alone.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/vrt_x4_charbonnier.py
# To fetch first: Vimeo-90K septuplets with bicubic LR, mmagic's SpyNet file; to make: clips to validate on.
_base_ = './_base_/vimeo90k_x4.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'vrt_x4_charbonnier'
work_dir = f'./work_dirs/{experiment_name}'

model = dict(
    type='BasicVSR',  # clips in, clips out
    generator=dict(
        type='VRT',  # the setting for Vimeo-90K, 32.58 M parameters; small ones: docs/video_networks.md
        upscale=4,
        img_size=[8, 64, 64],
        window_size=[8, 8, 8],
        depths=[8] * 7 + [4] * 6,
        indep_reconsts=[11, 12],
        embed_dims=[120] * 7 + [180] * 6,
        num_heads=[6] * 13,
        pa_frames=4,
        deformable_groups=16,
        use_checkpoint_attn=True,  # less memory for more time
        use_checkpoint_ffn=True,
        spynet_path='checkpoints/spynet_20210409-c6c1bd09.pth',
    ),
    train_cfg=dict(fix_iter=0),  # the optical flow is trained from the first step
    pixel_loss=dict(type='LossSum', terms=dict(pixel=dict(type='CharbonnierLoss', weight=1.0))),
    data_preprocessor=_base_.data_preprocessor,
)

train_dataloader = dict(batch_size=1)
