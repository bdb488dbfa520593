"""Goldens of the decoder: a tiny Llama with grouped-query attention in PyTorch, float64, gradients by autograd.

Written from the architecture's definition (RMS norm, rotate-half rotary embedding, SwiGLU, no biases), with the heads of
keys and values repeated rather than grouped. For each configuration: negative log-likelihoods, the gradients of
`gradientScale` times their sum, the logits after the first window, and the impact of the linear layers, which is the mean
over the windows of the squared gradient of (mean loss x window length).
"""

import torch
from torch.nn import functional

from golden_file import packed, write_golden

SEED = 20240503
torch.set_default_dtype(torch.float64)
random = torch.Generator().manual_seed(SEED)

SHARED = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 19,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
}
CONFIGS = {
    "tied": {
        **SHARED,
        "intermediate_size": 22,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    # A width of head that the hidden size does not give, three query heads to a key head, another base.
    "untied": {
        **SHARED,
        "intermediate_size": 12,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 6,
        "rope_theta": 500.0,
        "tie_word_embeddings": False,
    },
}


def head_dim(config):
    return config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])


def draw_weights(config):
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries = config["num_attention_heads"] * head_dim(config)
    keys = config["num_key_value_heads"] * head_dim(config)
    shapes = {"model.embed_tokens.weight": (vocab, hidden)}
    for block in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{block}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        shapes[prefix + "self_attn.q_proj.weight"] = (queries, hidden)
        shapes[prefix + "self_attn.k_proj.weight"] = (keys, hidden)
        shapes[prefix + "self_attn.v_proj.weight"] = (keys, hidden)
        shapes[prefix + "self_attn.o_proj.weight"] = (hidden, queries)
        shapes[prefix + "mlp.gate_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.down_proj.weight"] = (hidden, inner)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    weights = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=random)
        # Large enough for attention to be far from even; float32, as the model under test has them.
        weights[name] = (1 + 0.2 * drawn if len(shape) == 1 else 0.35 * drawn).float().double().requires_grad_()
    return weights


def rms_norm(x, weight, eps):
    return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def rotary(x, theta):
    """x [windows, heads, length, head_dim]"""
    length, width = x.shape[-2:]
    frequencies = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    rotation = torch.polar(torch.ones_like(angles), angles)
    turned = torch.complex(x[..., : width // 2], x[..., width // 2 :]) * rotation
    return torch.cat([turned.real, turned.imag], -1)


def logits(config, weights, tokens):
    """tokens [windows, length] -> [windows, length, vocab]"""
    heads, key_heads, width = config["num_attention_heads"], config["num_key_value_heads"], head_dim(config)
    eps, theta = config["rms_norm_eps"], config["rope_theta"]
    windows, length = tokens.shape
    hidden = weights["model.embed_tokens.weight"][tokens]
    for block in range(config["num_hidden_layers"]):
        w = {name.split(".", 3)[3]: value for name, value in weights.items() if name.startswith(f"model.layers.{block}.")}
        x = rms_norm(hidden, w["input_layernorm.weight"], eps)
        q, k, v = (
            (x @ w[f"self_attn.{part}_proj.weight"].T).view(windows, length, count, width).transpose(1, 2)
            for part, count in (("q", heads), ("k", key_heads), ("v", key_heads))
        )
        q, k = rotary(q, theta), rotary(k, theta)
        k, v = (x.repeat_interleave(heads // key_heads, 1) for x in (k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden = hidden + mixed.transpose(1, 2).reshape(windows, length, -1) @ w["self_attn.o_proj.weight"].T
        x = rms_norm(hidden, w["post_attention_layernorm.weight"], eps)
        inner = functional.silu(x @ w["mlp.gate_proj.weight"].T) * (x @ w["mlp.up_proj.weight"].T)
        hidden = hidden + inner @ w["mlp.down_proj.weight"].T
    head = weights["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    return rms_norm(hidden, weights["model.norm.weight"], eps) @ head.T


def losses(config, weights, windows):
    predicted = logits(config, weights, windows[:, :-1])
    return functional.cross_entropy(predicted.flatten(0, 1), windows[:, 1:].flatten(), reduction="none")


def distilled(config, weights, windows):
    halved = {name: weight.detach() / 2 for name, weight in weights.items()}
    wanted = logits(config, halved, windows[:, :-1]).softmax(-1)
    return -(wanted * logits(config, weights, windows[:, :-1]).log_softmax(-1)).sum()


def impact(config, weights, windows):
    names = [name for name in weights if "_proj." in name]
    sums = {name: torch.zeros_like(weights[name]) for name in names}
    for window in windows:
        loss = losses(config, weights, window[None]).mean() * len(window)
        for name, gradient in zip(names, torch.autograd.grad(loss, [weights[name] for name in names])):
            sums[name] += gradient**2
    return {name: value / len(windows) for name, value in sums.items()}


def pack_all(tensors):
    return {name: packed(value.detach().numpy(), "<f4") for name, value in tensors.items()}


content = {}
for label, config in CONFIGS.items():
    weights = draw_weights(config)
    windows = torch.randint(config["vocab_size"], (3, 10), generator=random)
    nll = losses(config, weights, windows)
    scale = 1 / nll.numel()
    gradients = torch.autograd.grad(scale * nll.sum(), list(weights.values()))
    distance = distilled(config, weights, windows)
    distilled_gradients = torch.autograd.grad(scale * distance, list(weights.values()))
    content[label] = {
        "config": config,
        "windows": windows.tolist(),
        "gradientScale": scale,
        "weights": pack_all(weights),
        "losses": nll.tolist(),
        "gradients": pack_all(dict(zip(weights, gradients))),
        "lastLogits": logits(config, weights, windows[:1])[0, -1].tolist(),
        "distilledLoss": distance.item(),
        "distilledGradients": pack_all(dict(zip(weights, distilled_gradients))),
        "impact": pack_all(impact(config, weights, windows)),
    }
write_golden("decoder", SEED, ["torch", "numpy"], {"models": content})
