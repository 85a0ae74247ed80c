# The rows of arXiv 2405.20392 and ours for mmagic: the file of BasicSR, not a copy. A config that inherits this puts
# `pixel_loss` into its model; `--cfg-options model.pixel_loss.preset=ROW` chooses a row.
pixel_loss = dict(
    type='LossSum',
    preset='lpips',
    presets='options/basicsr/presets/perceptual_vsr.yml',
    grad_norms=True,
    terms=dict(),  # what is different, for example local files: dict(lpips=dict(weights='alexnet.pth'))
)

# What a fine-tuning for perception is watched by; `terms` of the loss does not reach these judges.
evaluator = dict(
    type='Evaluator',
    metrics=[
        dict(type='PSNR', crop_border=4, convert_to='Y'),
        dict(type='RelativeGain', judges=['lpips', 'niqe', 'pattern'], crop_border=4),
        dict(type='SSIM', crop_border=4, convert_to='Y'),
    ],
)
hooks = dict(
    gain=dict(type='RelativeGainHook'),
    alarm=dict(type='ArtifactAlarmHook', judge='niqe'),  # warns when LPIPS falls or a pattern grows
    checkpoint=dict(save_best='gain/niqe', rule='greater'),  # NIQE is in no row of the paper
)
