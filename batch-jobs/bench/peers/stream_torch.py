"""Rounds a checkpoint to 3 bits in groups of 128 with PyTorch on the CPU, shard by shard, for the suite `stream`.

    python stream_torch.py MODEL OUT THREADS           prints the seconds
    python stream_torch.py MODEL OUT THREADS OURS      also compares every tensor with those of the file OURS, bit for bit

The same grid, packing and types as docs/format.md; each shard is loaded, rounded in place where it can be, packed and saved.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

BITS, GROUP = 3, 128
HALF = 2 ** (BITS - 1)
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def quantize(weight):
    """weight [out, in] to qweight uint8 [out, in * 3 / 8] and scales float16 [out, in / 128]."""
    rows, columns = weight.shape
    groups = weight.view(rows, columns // GROUP, GROUP)
    largest = groups.abs().amax(-1, keepdim=True)
    scales = ((largest.double() + 1e-6) / HALF).half().clamp_min(2.0**-24)
    levels = groups.float().div_(scales.float())
    levels.clamp_(-HALF + 0.01, HALF - 0.01).sub_(0.5).round_().add_(HALF)
    v = levels.to(torch.uint8).view(rows, columns // 8, 8)
    packed = torch.empty(rows, columns // 8, 3, dtype=torch.uint8)
    packed[..., 0] = v[..., 0] | (v[..., 1] << 3) | (v[..., 2] << 6)
    packed[..., 1] = (v[..., 2] >> 2) | (v[..., 3] << 1) | (v[..., 4] << 4) | (v[..., 5] << 7)
    packed[..., 2] = (v[..., 5] >> 1) | (v[..., 6] << 2) | (v[..., 7] << 5)
    return packed.view(rows, columns * BITS // 8), scales.squeeze(-1)


def round_shard(shard):
    tensors = {}
    for name, weight in load_file(shard).items():
        module = name.removesuffix(".weight")
        if module.endswith(LINEAR):
            tensors[f"{module}.qweight"], tensors[f"{module}.scales"] = quantize(weight)
        else:
            tensors[name] = weight.half()
    return tensors


def main():
    model, out, threads = sys.argv[1:4]
    torch.set_num_threads(int(threads))
    Path(out).mkdir(parents=True, exist_ok=True)
    shards = sorted(set(json.loads((Path(model) / "model.safetensors.index.json").read_text())["weight_map"].values()))
    start = time.perf_counter()
    for shard in shards:
        save_file(round_shard(Path(model) / shard), Path(out) / shard)
    print(time.perf_counter() - start, flush=True)
    if len(sys.argv) > 4:
        compare([Path(out) / shard for shard in shards], sys.argv[4])


def compare(shards, ours_file):
    with safe_open(ours_file, "pt") as ours:
        left = set(ours.keys())
        for shard in shards:
            with safe_open(shard, "pt") as theirs:
                for name in theirs.keys():
                    if name not in left or not torch.equal(ours.get_tensor(name), theirs.get_tensor(name)):
                        sys.exit(f"{name} differs")
                    left.remove(name)
        if left:
            sys.exit(f"PyTorch's files lack {sorted(left)[0]}")


main()
