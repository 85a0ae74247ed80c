# VRT x4: fine-tune its Charbonnier baseline with one row of arXiv 2405.20392, here `lpips`.
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/vrt_x4_perceptual.py
# Every other row is one option, and a folder of its own:
#   python $MMAGIC/tools/train.py options/mmagic/vrt_x4_perceptual.py --work-dir work_dirs/vrt_ROW \
#     --cfg-options model.pixel_loss.preset=ROW
# with these for ROW (options/basicsr/presets/perceptual_vsr.yml, read from the folder that the command runs in):
#   one judge      charbonnier (none) lpips pieapp dbcnn nima paq2piq hyperiqa mdtvsfa maniqa clipiqa
#   with LPIPS     lpips_dbcnn lpips_nima lpips_paq2piq lpips_hyperiqa lpips_mdtvsfa lpips_maniqa lpips_clipiqa
#                  lpips_nima_clipiqa, and under GradNorm lpips_gradnorm
#   ours           cnniqa niqe squeeze (LPIPS) squeeze_cnniqa squeeze_niqe squeeze_cnniqa_niqe squeeze_gradnorm
# Only charbonnier and niqe need no file of weights; the validation of every row needs LPIPS's alexnet. Which files,
# which are downloaded, and how to name local ones: docs/video_rows.md.
# To make first: vrt_x4_charbonnier, whose config says what to fetch.
_base_ = ['./vrt_x4_charbonnier.py', './presets/perceptual_vsr.py']

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'vrt_x4_perceptual'
work_dir = f'./work_dirs/{experiment_name}'
load_from = 'work_dirs/vrt_x4_charbonnier/iter_50000.pth'

model = dict(generator=dict(spynet_path=None), pixel_loss=dict(_delete_=True, **_base_.pixel_loss))

val_evaluator = dict(_delete_=True, **_base_.evaluator)
default_hooks = _base_.hooks

# 25,000 iterations are the paper's; the lengths of its restarts and of its warm-up are not published.
train_cfg = dict(max_iters=25000)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], periods=[11500, 12500])]
