"""The peer of the suites step, impact and eval: the same Llama in plain PyTorch, eager, on the CPU or a GPU.

Usage: step_torch.py <step|impact|eval> <folder> <threads> [cuda]
Reads shape.json, weights.f32 and tokens.i32 of the folder, prints "ready", and for each line of standard input does the
work once and prints {"seconds", "tokens", "loss"}.
"""
import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

mode, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
device = sys.argv[4] if len(sys.argv) > 4 else 'cpu'
torch.set_num_threads(threads)
torch.backends.cuda.matmul.allow_tf32 = True

BITS, GROUP = 3, 128
shape = json.load(open(f'{folder}/shape.json'))
config = shape['config']
LENGTH, BATCH = shape['length'], shape['batchSize']


def load():
    flat = np.fromfile(f'{folder}/weights.f32', dtype=np.float32)
    weights, at = {}, 0
    for tensor in shape['tensors']:
        size = int(np.prod(tensor['shape']))
        values = torch.from_numpy(flat[at:at + size].reshape(tensor['shape'])).clone().to(device)
        wants = mode == 'step' or (mode == 'impact' and 'proj' in tensor['name'])
        weights[tensor['name']] = values.requires_grad_(wants)
        at += size
    return weights


def fake_quant(weight):
    """Full-range mid-rise rounding in groups, straight through in the backward pass."""
    half = 2 ** (BITS - 1)
    rows, columns = weight.shape
    whole = columns // GROUP * GROUP
    parts = []
    for part, width in ((weight[:, :whole], GROUP), (weight[:, whole:], columns - whole)):
        if part.shape[1] == 0:
            continue
        groups = part.reshape(rows, -1, width)
        scale = ((groups.abs().amax(-1, keepdim=True) + 1e-6) / half).half().float()
        rounded = (torch.clamp(groups / scale, -half + 0.01, half - 0.01) - 0.5).round()
        parts.append(((rounded + 0.5) * scale).reshape(rows, -1))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class FakeQuant(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight):
        return fake_quant(weight)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def rms_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, config['rmsNormEps'])


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def forward(weights, tokens, cos, sin):
    heads, kv, width = config['numAttentionHeads'], config['numKeyValueHeads'], config['headDim']
    linear = (lambda x, w: F.linear(x, FakeQuant.apply(w))) if mode == 'step' else F.linear
    batch, length = tokens.shape
    x = F.embedding(tokens, weights['model.embed_tokens.weight'])
    for block in range(config['numHiddenLayers']):
        w = lambda name: weights[f'model.layers.{block}.{name}.weight']
        y = rms_norm(x, w('input_layernorm'))
        split = lambda z, count: z.view(batch, length, count, width).transpose(1, 2)
        q = rotate(split(linear(y, w('self_attn.q_proj')), heads), cos, sin)
        k = rotate(split(linear(y, w('self_attn.k_proj')), kv), cos, sin)
        v = split(linear(y, w('self_attn.v_proj')), kv)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv)
        x = x + linear(attended.transpose(1, 2).reshape(batch, length, heads * width), w('self_attn.o_proj'))
        y = rms_norm(x, w('post_attention_layernorm'))
        gated = F.silu(linear(y, w('mlp.gate_proj'))) * linear(y, w('mlp.up_proj'))
        x = x + linear(gated, w('mlp.down_proj'))
    head = weights['model.embed_tokens.weight' if config['tieWordEmbeddings'] else 'lm_head.weight']
    return F.linear(rms_norm(x, weights['model.norm.weight']), head)


def loss_of(weights, windows, cos, sin):
    logits = forward(weights, windows[:, :-1], cos, sin)
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def main():
    weights = load()
    all_tokens = torch.from_numpy(np.fromfile(f'{folder}/tokens.i32', dtype=np.int32).astype(np.int64)).view(-1, LENGTH).to(device)
    half = config['headDim'] // 2
    frequencies = config['ropeTheta'] ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(LENGTH - 1, dtype=torch.float64), frequencies)
    cos = torch.cat((angles.cos(), angles.cos()), -1).float().to(device)
    sin = torch.cat((angles.sin(), angles.sin()), -1).float().to(device)
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-4, weight_decay=0.0) if mode == 'step' else None
    linears = [name for name in weights if 'proj' in name]
    impact = {name: torch.zeros_like(weights[name]) for name in linears} if mode == 'impact' else {}
    print('ready', flush=True)
    done = 0
    for _ in sys.stdin:
        indices = [(done * BATCH + i) % len(all_tokens) for i in range(BATCH)]
        windows = all_tokens[indices]
        done += 1
        start = time.perf_counter()
        if mode == 'step':
            optimizer.zero_grad()
            loss = loss_of(weights, windows, cos, sin)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
            value = loss.item()
        elif mode == 'impact':
            value = 0.0
            for window in windows:
                for name in weights:
                    weights[name].grad = None
                loss = loss_of(weights, window[None], cos, sin)
                (loss * LENGTH).backward()
                for name in linears:
                    impact[name].add_(weights[name].grad.square())
                value += loss.item() / len(windows)
        else:
            with torch.no_grad():
                value = loss_of(weights, windows, cos, sin).item()
        if device == 'cuda':
            torch.cuda.synchronize()
        print(json.dumps({'seconds': time.perf_counter() - start, 'tokens': windows.numel(), 'loss': value}), flush=True)


main()
