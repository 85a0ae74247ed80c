"""A training step with LoRA against one of full fine-tuning, of the same SwinIR.

    python benchmarks/bench_lora.py [--threads 1] [--runs 9] [--device cpu] [--side 32] [--batch 1] [--rank 8]

Both sides do forward, L1 loss, backward and an Adam step on the published x4 SwinIR (six groups of six blocks, 180
channels). LoRANet changes the linear layers and convolutions that it changes by default. Steps alternate in one
process, the peak of memory is that of a fresh process a side, above what Python and torch take before the network.
"""

import torch
from basicsr.archs.swinir_arch import SwinIR
from paired import Peak, arguments, circumstances, memory_of_own_process, milliseconds, paired_seconds, ratio_text

from nriqa_plugin.lora import LoRANet

SWINIR = {
    'upscale': 4, 'img_size': 64, 'window_size': 8, 'img_range': 1.0, 'depths': [6] * 6, 'embed_dim': 180,
    'num_heads': [6] * 6, 'mlp_ratio': 2, 'upsampler': 'pixelshuffle', 'resi_connection': '1conv',
}  # fmt: skip
SIDES = ('lora', 'full')


def main():
    parser = arguments(__doc__, runs=9)
    parser.add_argument('--side', type=int, default=32, help='of the low-resolution input')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rank', type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        peak = Peak(options.device)
        step, _ = training(options.memory_of, options)
        for _ in range(2):
            step()
        print(peak.megabytes())
        return
    peaks = {side: memory_of_own_process(side) for side in SIDES}
    (lora, lora_optimizer), (full, full_optimizer) = (training(side, options) for side in SIDES)
    rows = paired_seconds(lora, full, options.runs, options.device)
    print(f'{circumstances(options)}, batch {options.batch} of {options.side} px, rank {options.rank}')
    states = [state_bytes(optimizer) for optimizer in (lora_optimizer, full_optimizer)]
    print(f'{"":18s}{"LoRA":>10s}{"full":>10s}   LoRA / full')
    print(f'{"step, ms":18s}{milliseconds(rows)[0]:10.0f}{milliseconds(rows)[1]:10.0f}   {ratio_text(rows)}')
    print(f'{"peak memory, MB":18s}{peaks["lora"]:10.0f}{peaks["full"]:10.0f}   {peaks["lora"] / peaks["full"]:.2f}')
    print(f'{"Adam state, MB":18s}{states[0] / 2**20:10.1f}{states[1] / 2**20:10.1f}   {states[0] / states[1]:.1%}')


def training(side, options):
    """A function that does one training step, and its optimizer."""
    torch.manual_seed(0)
    net = SwinIR(**SWINIR)
    net = (LoRANet(net, rank=options.rank) if side == 'lora' else net).to(options.device).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    lq = torch.rand(options.batch, 3, options.side, options.side, device=options.device)
    gt = torch.rand(options.batch, 3, 4 * options.side, 4 * options.side, device=options.device)

    def step():
        optimizer.zero_grad()
        (net(lq) - gt).abs().mean().backward()
        optimizer.step()

    return step, optimizer


def state_bytes(optimizer):
    tensors = [value for state in optimizer.state.values() for value in state.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == '__main__':
    main()
