"""Golden of the shipped model's perplexity: a Llama forward pass in NumPy, float64, on the start of demo/test.txt.

The protocol is that of the product: one BOS, the text's tokens, the first 4096 of them cut into segments as long as the
model's context; each predicts its tokens but the first. The tokens come from the tokenizers library.

And a damaged copy, its blocks' matrices rounded to multiples of 1/ROUNDED_TO: its perplexity, and the divergence of its
distributions from the model's, KL(model || copy), on the same tokens.
"""

import hashlib
import json
import math

import numpy as np
from tokenizers import Tokenizer

from golden_file import FOLDER, write_golden

TOKENS = 4096
LONGEST_SEGMENT = 2048
ROUNDED_TO = 16
demo = FOLDER.parent.parent / "demo"
model = demo / "model"
text_file = demo / "test.txt"


def read_safetensors(path):
    data = path.read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, info in json.loads(data[8 : 8 + header_bytes]).items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        dtype = {"F16": "<f2", "F32": "<f4"}[info["dtype"]]
        values = np.frombuffer(data[8 + header_bytes + begin : 8 + header_bytes + end], dtype)
        tensors[name] = values.astype(np.float64).reshape(info["shape"])
    return tensors


config = json.loads((model / "config.json").read_text())
weights = read_safetensors(model / "model.safetensors")
heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
width = config.get("head_dim", config["hidden_size"] // heads)
embedding = weights["model.embed_tokens.weight"]
head = embedding if config["tie_word_embeddings"] else weights["lm_head.weight"]
rounded = {
    name: np.floor(values * ROUNDED_TO + 0.5) / ROUNDED_TO if name.endswith("_proj.weight") else values
    for name, values in weights.items()
}


def norm(x, weight):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + config["rms_norm_eps"]) * weight


def rotate(x):
    """x [length, heads, width]: pairs (i, i + width / 2) turned by position * theta^(-2 i / width)."""
    half = width // 2
    angle = np.arange(len(x))[:, None] * config["rope_theta"] ** (-np.arange(half) / half)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def softmax(x):
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def log_probabilities(weights, inputs):
    """[length, vocabulary] of the token after each of the inputs."""
    hidden = embedding[inputs]
    future = np.triu(np.full((len(inputs), len(inputs)), -np.inf), 1)
    for block in range(config["num_hidden_layers"]):
        def w(name):
            return weights[f"model.layers.{block}.{name}.weight"]

        x = norm(hidden, w("input_layernorm"))
        q = rotate((x @ w("self_attn.q_proj").T).reshape(len(x), heads, width))
        k = rotate((x @ w("self_attn.k_proj").T).reshape(len(x), key_heads, width))
        v = (x @ w("self_attn.v_proj").T).reshape(len(x), key_heads, width)
        mixed = []
        for each in range(heads):
            shared = each * key_heads // heads
            scores = q[:, each] @ k[:, shared].T / math.sqrt(width) + future
            mixed.append(softmax(scores) @ v[:, shared])
        hidden = hidden + np.concatenate(mixed, -1) @ w("self_attn.o_proj").T
        x = norm(hidden, w("post_attention_layernorm"))
        gate = x @ w("mlp.gate_proj").T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * (x @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
    logits = norm(hidden, weights["model.norm.weight"]) @ head.T
    return np.log(softmax(logits))


text = text_file.read_text(encoding="utf-8")
assert "<|endoftext|>" not in text, "the protocol parts documents here; this script does not"
tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
bos = json.loads((model / "tokenizer_config.json").read_text())["bos_token"]
ids = [tokenizer.token_to_id(bos), *tokenizer.encode(text, add_special_tokens=False).ids][:TOKENS]
length = min(LONGEST_SEGMENT, config["max_position_embeddings"], len(ids))
segments = np.array(ids[: len(ids) // length * length]).reshape(-1, length)
predicted = segments.size - len(segments)
losses, rounded_losses, divergences = [], [], []
for segment in segments:
    inputs, targets = segment[:-1], segment[1:]
    expected, actual = log_probabilities(weights, inputs), log_probabilities(rounded, inputs)
    losses.append(-expected[np.arange(len(targets)), targets])
    rounded_losses.append(-actual[np.arange(len(targets)), targets])
    divergences.append((np.exp(expected) * (expected - actual)).sum(-1))

write_golden("perplexity", None, ["numpy", "tokenizers"], {
    "modelSha256": hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest(),
    "textSha256": hashlib.sha256(text_file.read_bytes()).hexdigest(),
    "maxTokens": TOKENS,
    "predictedTokens": int(predicted),
    "firstIds": ids[:64],
    "perplexity": math.exp(np.sum(losses) / predicted),
    # As published: each segment's mean counts for all of its tokens, the first too.
    "publishedPerplexity": math.exp(np.sum(np.mean(losses, 1) * length) / segments.size),
    "roundedTo": ROUNDED_TO,
    "roundedPerplexity": math.exp(np.sum(rounded_losses) / predicted),
    "divergence": {"mean": np.mean(divergences), "percentile99": np.percentile(divergences, 99)},
})
