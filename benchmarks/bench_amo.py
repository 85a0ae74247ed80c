"""What choosing the best of K ground truths costs: online against a plain call of the judge, and cached against a step.

    python benchmarks/bench_amo.py [--threads 1] [--runs 20] [--device cuda] [--judges musiq cnniqa niqe]

"online" is ``AMOSampler`` on N x K crops; "plain" scores the same crops by the same judge in the same chunks.
"cached" is ``AMOSampler`` with a file of scores; its share is that of a training step of a small SwinIR with L1 on the
same batch, which is an upper bound for the published sizes. Weights are random: speed does not depend on them.
"""

import statistics
import tempfile
from pathlib import Path

import torch
from basicsr.archs.swinir_arch import SwinIR
from bench_judges import random_weights
from paired import arguments, circumstances, median_interval, milliseconds, paired_seconds, ratio_text, seconds

from nriqa_plugin.iqa import create_scorer
from nriqa_plugin.losses.iqa_loss import pink_noise
from nriqa_plugin.multigt import AMOSampler
from nriqa_plugin.multigt.scores import ScoresHeader, ScoreWriter

SCALE = 4
FROM_FILE = ('musiq', 'pyiqa:cnniqa', 'topiq_nr')
STRIDE = 64
IMAGE = 1024  # px a side of the ground truths whose scores are cached


def main():
    parser = arguments(__doc__, runs=20)
    parser.add_argument('--judges', nargs='+', default=['musiq', 'pyiqa:cnniqa', 'niqe'])
    parser.add_argument('--batch', type=int, default=2, help='N')
    parser.add_argument('--candidates', type=int, default=5, help='K')
    parser.add_argument('--side', type=int, default=256, help='px of a crop')
    parser.add_argument('--chunk', type=int, default=8, help='crops that the judge scores at once')
    parser.add_argument('--sets', type=int, default=2000, help='in the file of scores')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = (options.batch, options.candidates, 3, options.side, options.side)
    candidates = pink_noise((shape[0] * shape[1], *shape[2:]), torch.Generator().manual_seed(0)).clamp(0, 1)
    candidates = candidates.reshape(shape).to(options.device)
    print(f'N {options.batch}, K {options.candidates}, {options.side} px, chunks of {options.chunk}; '
          f'{circumstances(options)}')  # fmt: skip
    print(f'{"judge":16s}{"online ms":>11s}{"plain ms":>10s}   online / plain (quartiles)   95 % of the median')
    with tempfile.TemporaryDirectory() as folder:
        for judge in options.judges:
            weights = str(random_weights(judge, folder)) if judge in FROM_FILE else None
            rows = online(create_scorer(judge, weights).to(options.device), candidates, options)
            first, second = milliseconds(rows)
            low, high = median_interval(rows)
            print(f'{judge:16s}{first:11.1f}{second:10.1f}   {ratio_text(rows):28s} {low:.3f} to {high:.3f}')
        cached(Path(folder), candidates, options)


def online(scorer, candidates, options):
    sampler = AMOSampler('amo', scorer, chunk=options.chunk).to(options.device)

    @torch.no_grad()
    def plain():
        parts = candidates.flatten(0, 1).split(options.chunk)
        return torch.cat([scorer.raw_scores(part) for part in parts]).cpu()

    return paired_seconds(lambda: sampler(candidates), plain, options.runs, options.device)


def cached(folder, candidates, options):
    path = folder / 'scores.jsonl'
    header = ScoresHeader('any', 'hash', True, options.side, STRIDE)
    generator = torch.Generator().manual_seed(0)
    lines = path.with_name('few.jsonl')
    with ScoreWriter(lines, header) as writer:
        writer.add('0', 0, 'hash', (IMAGE, IMAGE), torch.rand(header.shape(IMAGE, IMAGE), generator=generator))
    head, row = lines.read_text().splitlines()
    with open(path, 'w') as file:  # without the writer's waiting for the disk at every line
        file.write(head + '\n')
        for n in range(options.sets):
            for k in range(options.candidates):
                file.write(row.replace('"set":"0","candidate":0', f'"set":"{n}","candidate":{k}') + '\n')
    loaded = seconds(lambda: AMOSampler('amo', scores=str(path)))
    sampler = AMOSampler('amo', scores=str(path))
    names = [str(n) for n in range(options.batch)]
    crops = torch.zeros(options.batch, 2, dtype=torch.long)
    hashes = [['hash'] * options.candidates] * options.batch
    network = SwinIR(
        upscale=SCALE, img_size=options.side // SCALE, window_size=8, img_range=1.0, depths=[2, 2], embed_dim=60,
        num_heads=[6, 6], mlp_ratio=2, upsampler='pixelshuffledirect',
    ).to(options.device)  # fmt: skip
    gt = candidates[:, 0]
    lq = torch.nn.functional.avg_pool2d(gt, SCALE)

    def step():
        network.zero_grad(set_to_none=True)
        (network(lq) - gt).abs().mean().backward()

    def choose():
        sampler(candidates, names=names, crops=crops, hashes=hashes)

    rows = paired_seconds(choose, step, max(5, options.runs // 4), options.device)
    share = statistics.median(first / (first + second) for first, second in rows)
    first, second = milliseconds(rows)
    print(
        f'cached: {first:.2f} ms beside a step of {second:.0f} ms, {100 * share:.2f} % of both; reading the scores of '
        f'{options.sets * options.candidates} candidates took {loaded:.1f} s, {path.stat().st_size / 2**20:.0f} MB'
    )


if __name__ == '__main__':
    main()
