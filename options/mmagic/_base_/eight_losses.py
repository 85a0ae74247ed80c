# The eight losses of Mustafa et al., "Training a Task-Specific Image Reconstruction Loss" (WACV 2022), one of them
# chosen by the environment variable LOSS: l1, l2, ssim, ms_ssim, ms_ssim_l1, vgg_l2, lpips_l2 or mdf (without it).
#   LOSS=ssim python $MMAGIC/tools/train.py options/mmagic/edsr_x4_mdf.py
# The table itself is the one of `nriqa compare`. torchvision downloads the networks of vgg_l2 and lpips_l2, unless
# weights='FILE' is put into `terms`.
_base_ = '../../compare/eight_losses.yml'

loss = '{{$LOSS:mdf}}'
if loss not in _base_.losses:
    raise ValueError(f'LOSS={loss}: there is no such loss; choose one of {", ".join(_base_.losses)}')
terms = _base_.losses[loss]

# What the table has beside the chosen loss is no option of a training.
losses, search, against = dict(_delete_=True), dict(_delete_=True), None
