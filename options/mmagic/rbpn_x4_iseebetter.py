# iSeeBetter (arXiv 2006.11161): RBPN x4 with its four-fold loss, MSE + VGG-16 + adversarial + total variation.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/rbpn_x4_iseebetter.py
# To fetch first: what rbpn_x4_charbonnier.py needs and torchvision's vgg16-397923af.pth; to train first: that config.
_base_ = './rbpn_x4_charbonnier.py'

experiment_name = 'rbpn_x4_iseebetter'
work_dir = f'./work_dirs/{experiment_name}'
load_from = 'work_dirs/rbpn_x4_charbonnier/iter_50000.pth'

model = dict(
    type='SRGAN',
    discriminator=dict(type='SRGANDiscriminator', num_in_ch=3, num_feat=64),
    pixel_loss=dict(
        terms=dict(
            pixel=dict(_delete_=True, type='MSELoss', weight=1.0),
            # VGG-16 pool5, squared, without ImageNet's statistics
            vgg=dict(type='VGGLoss', layers='isee_better', weights='checkpoints/vgg16-397923af.pth', weight=6e-3),
            tv=dict(type='TVLoss', squared=True, weight=4e-8),  # 2e-8 times the 2 inside the published loss
        ),
    ),
    # -log D(fake), as the paper says; for the 1 - D(fake) of the released code: gan_type='l1' and sigmoid=True above
    gan_loss=dict(type='GANLoss', gan_type='vanilla', loss_weight=1e-3, real_label_val=1.0, fake_label_val=0.0),
)

train_cfg = dict(max_iters=25000)
optim_wrapper = dict(
    _delete_=True,
    constructor='MultiOptimWrapperConstructor',
    generator=dict(
        type='OptimWrapper',
        optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.999)),
        clip_grad=dict(max_norm=10.0),  # ours, as in the baseline
    ),
    discriminator=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.999))),
)
# a tenth after half of the time
param_scheduler = dict(_delete_=True, type='MultiStepLR', by_epoch=False, milestones=[12500], gamma=0.1)
