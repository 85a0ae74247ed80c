# Train DnCNN on JPEG artifacts of quality 10 with the MDF loss alone, as published (Mustafa et al., WACV 2022):
# Adam with a learning rate of 1e-4; tested at quality 10 and 7.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/dncnn_jpeg_mdf.py
# The paper's other seven losses: LOSS=l1 (l2, ssim, ms_ssim, ms_ssim_l1, vgg_l2, lpips_l2) before the command, or
#   nriqa compare options/compare/dncnn_jpeg.yml --base options/mmagic/dncnn_jpeg_mdf.py
# To make first: checkpoints/mdf_jpeg.pth (nriqa train-mdf, or nriqa convert-mdf from the authors' Ds_JPEG.pth).
_base_ = ['./_base_/dncnn_div2k.py', './_base_/eight_losses.py']

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = f'dncnn_jpeg_{_base_.loss}'
work_dir = f'./work_dirs/{experiment_name}'

terms = _base_.terms
if 'mdf' in terms:
    terms.mdf.weights = 'checkpoints/mdf_jpeg.pth'
model = dict(pixel_loss=dict(type='LossSum', grad_norms=True, terms=terms))

qualities = (10, 7)  # the first is trained on; [7, 10] instead of a number draws one for every image
train_pipeline = _base_.train_pipeline
next(step for step in train_pipeline if step['type'] == 'Degrade')['degradation'] = dict(
    type='jpeg', quality=qualities[0]
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

loader = dict(
    num_workers=4, persistent_workers=False, drop_last=False, sampler=dict(type='DefaultSampler', shuffle=False)
)
val_dataloader, val_evaluator = [], []
for quality in qualities:
    degrade = dict(type='Degrade', degradation=dict(type='jpeg', quality=quality), seed=0)
    pipeline = [_base_.load, degrade, dict(type='PackInputs')]
    metrics = [dict(type='LossMetric', prefix=f'q{quality}'), dict(type='PSNR', prefix=f'q{quality}')]
    val_dataloader.append(dict(**loader, dataset=dict(**_base_.val_images, pipeline=pipeline)))
    val_evaluator.append(dict(type='Evaluator', metrics=metrics))
test_dataloader, test_evaluator = val_dataloader, val_evaluator

default_hooks = dict(
    checkpoint=dict(save_best='q10/objective', rule='less')
)  # the lowest validation loss, as published

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-4))
