# FT_IG of arXiv 2504.18524: as realesrgan_x4_amo_ft.py, but with the GAN, whose discriminator starts anew (ours).
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/realesrgan_x4_amo_ft_ig.py
# All that stands at the head of realesrgan_x4_amo_ft.py holds here.
_base_ = './realesrgan_x4_amo_ft.py'

experiment_name = 'realesrgan_x4_amo_ft_ig'
work_dir = f'./work_dirs/{experiment_name}'

model = dict(
    discriminator=dict(
        _delete_=True, type='UNetDiscriminatorWithSpectralNorm', in_channels=3, mid_channels=64, skip_connection=True
    ),
    gan_loss=dict(
        _delete_=True, type='GANLoss', gan_type='vanilla', loss_weight=0.1, real_label_val=1.0, fake_label_val=0
    ),
)

optim_wrapper = dict(discriminator=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99))))
