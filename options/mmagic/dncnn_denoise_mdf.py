# Train DnCNN on Gaussian noise of an unknown strength, sigma 0 to 55, with the MDF loss alone, as published (Mustafa
# et al., WACV 2022): SGD with Nesterov momentum, the learning rate falls from 0.1 to 1e-4, 50 epochs.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/dncnn_denoise_mdf.py
# The paper's other seven losses: LOSS=l1 (l2, ssim, ms_ssim, ms_ssim_l1, vgg_l2, lpips_l2) before the command, or
#   nriqa compare options/compare/dncnn_denoise.yml --base options/mmagic/dncnn_denoise_mdf.py
# To make first: checkpoints/mdf_denoise.pth (nriqa train-mdf --task denoise).
_base_ = ['./_base_/dncnn_div2k.py', './_base_/eight_losses.py']

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = f'dncnn_denoise_{_base_.loss}'
work_dir = f'./work_dirs/{experiment_name}'

terms = _base_.terms
if 'mdf' in terms:
    terms.mdf.weights = 'checkpoints/mdf_denoise.pth'
model = dict(pixel_loss=dict(type='LossSum', grad_norms=True, terms=terms))

noise = dict(type='gaussian_noise', sigma=[0, 55])  # drawn for every image; a number is a fixed strength
train_pipeline, val_pipeline = _base_.train_pipeline, _base_.val_pipeline
for step in train_pipeline + val_pipeline:
    if step['type'] == 'Degrade':
        step['degradation'] = noise
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

loader = dict(
    num_workers=4, persistent_workers=False, drop_last=False, sampler=dict(type='DefaultSampler', shuffle=False)
)
val_dataloader = dict(**loader, dataset=dict(**_base_.val_images, pipeline=val_pipeline))
val_evaluator = dict(type='Evaluator', metrics=[dict(type='LossMetric'), dict(type='PSNR')])
test_dataloader, test_evaluator = val_dataloader, val_evaluator

default_hooks = dict(checkpoint=dict(save_best='objective', rule='less'))  # the lowest validation loss, as published

# 80 000 iterations in the base: 50 epochs of 1600 batches, as many as in DnCNN's own recipe
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),  # ours: a guard at this learning rate, not published
)
param_scheduler = dict(type='ExponentialToLR', by_epoch=False, eta_min=1e-4)  # reached at the last iteration
