# Train SimpleVSR x2 with the perceptual loss and the squared error, which the authors name as future work. The weights
# are ours: both pull alike at the start with SqueezeNet's features (docs/simple_vsr.md).
#   python tools/moving_mnist.py --out data/moving_digits --mnist mnist_test_seq.npy   (without --mnist: a substitute)
#   MMAGIC=$(python -W ignore -c "import mmagic; print(mmagic.__path__[0])")/.mim
#   python $MMAGIC/tools/train.py options/mmagic/simple_vsr_x2_mixture.py
_base_ = './_base_/simple_vsr_digits.py'

custom_imports = dict(imports=['nriqa_plugin.mmagic'], allow_failed_imports=False)

experiment_name = 'simple_vsr_x2_mixture'
work_dir = f'./work_dirs/{experiment_name}'

model = dict(
    pixel_loss=dict(
        type='LossSum',
        grad_norms=True,
        terms=dict(mse=dict(type='MSELoss', weight=1.0), perceptual=dict(**_base_.perceptual, weight=0.001)),
    )
)
