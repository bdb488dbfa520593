"""Goldens of the model families: Hugging Face's own models, tiny, with every feature of the family in use.

Each model is built from a config.json as checkpoints have it; `savedConfig` is what transformers writes for the same model.
The weights are drawn by the generator of batch-jobs/src/numeric/random.ts, so they are not stored: a stream for each tensor,
in the order of the tensors' names. For each text: the logits after each of its prefixes, each run on its own; of the first
text's windows the mean loss and the gradient of every tensor, in float64 where the models themselves do not say float32.
"""

import json
import math

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from golden_file import packed, write_golden

SEED = 20250118
WORD = 0xFFFFFFFF

SHARED = {
    "vocab_size": 19,
    "hidden_size": 12,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA = {**SHARED, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "head_dim": 6}
PHI3 = {
    **SHARED,
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
CONFIGS = {
    "llama2": {**LLAMA, "tie_word_embeddings": False, "rope_theta": 10000.0, "rope_scaling": None},
    "llamaBiases": {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    # Of the three pairs one keeps its frequency, one is mixed, one is divided.
    "llama3": {
        **LLAMA,
        "tie_word_embeddings": True,
        "rope_theta": 100.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_type": "llama3",
        },
    },
    "llamaLinear": {
        **LLAMA,
        "tie_word_embeddings": False,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "mistral": {
        **SHARED,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "head_dim": 8,
        "hidden_act": "silu",
        "sliding_window": 5,
        "rope_theta": 1000.0,
        "tie_word_embeddings": False,
    },
    "qwen2": {
        **SHARED,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        **SHARED,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 6,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "tie_word_embeddings": False,
    },
    "gemma": {
        **SHARED,
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "num_key_value_heads": 1,
        "head_dim": 6,
        "hidden_act": "gelu",
        "hidden_activation": None,
        "rope_theta": 10000.0,
    },
    "phi3": {**PHI3, "sliding_window": 6, "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": False},
    # Some prefixes are longer than the original length, and some are not.
    "phi3Long": {
        **PHI3,
        "sliding_window": 11,
        "original_max_position_embeddings": 16,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.4, 2.0, 3.5]},
        "tie_word_embeddings": False,
    },
}


def splitmix32(seed):
    counter = seed & WORD
    while True:
        counter = (counter + 0x9E3779B9) & WORD
        word = ((counter ^ (counter >> 16)) * 0x85EBCA6B) & WORD
        word = ((word ^ (word >> 13)) * 0xC2B2AE35) & WORD
        yield word ^ (word >> 16)


def rotate_left(word, count):
    return ((word << count) | (word >> (32 - count))) & WORD


def create_random(seed, stream):
    """createRandom of batch-jobs/src/numeric/random.ts: xoshiro128**."""
    words = splitmix32(next(splitmix32(seed)) ^ next(splitmix32(~stream)))
    a, b, c, d = (next(words) for _ in range(4))
    while True:
        scrambled = (rotate_left((b * 5) & WORD, 7) * 9) & WORD
        shifted = (b << 9) & WORD
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= shifted
        d = rotate_left(d, 11)
        yield scrambled / 2**32


def drawn_weights(shapes, norm_offset):
    """Matrices and biases around zero, norms around one; large enough for attention to be far from even."""
    weights = {}
    for stream, name in enumerate(sorted(shapes)):
        uniform = create_random(SEED, stream)
        centre = 1 - norm_offset if name.endswith("norm.weight") else 0
        size = math.prod(shapes[name])
        drawn = [centre + 0.7 * (next(uniform) + next(uniform) + next(uniform) - 1.5) for _ in range(size)]
        weights[name] = torch.tensor(drawn, dtype=torch.float64).reshape(shapes[name]).float()
    return weights


def build(config_json):
    config = AutoConfig.for_model(**config_json)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    for name, drawn in drawn_weights(shapes, 1 if config.model_type == "gemma" else 0).items():
        parameters[name].data.copy_(drawn)
    saved = json.loads(config.to_json_string())
    saved["architectures"] = config_json["architectures"]
    return model.double(), saved


content = {}
for label, config_json in CONFIGS.items():
    model, saved = build(config_json)
    uniform = create_random(SEED, 1000)
    windows = torch.tensor([[int(next(uniform) * SHARED["vocab_size"]) for _ in range(23)] for _ in range(3)])
    with torch.no_grad():
        logits = [model(windows[:1, : length + 1]).logits[0, -1] for length in range(windows.shape[1])]
    predicted = model(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(predicted.flatten(0, 1), windows[:, 1:].flatten())
    loss.backward()
    content[label] = {
        "config": config_json,
        "savedConfig": saved,
        "windows": windows.tolist(),
        "prefixLogits": packed(torch.stack(logits).numpy(), "<f4"),
        "meanLoss": loss.item(),
        "gradients": {name: packed(value.grad.numpy(), "<f4") for name, value in model.named_parameters()},
    }
    print(label, loss.item())
write_golden("families", SEED, ["torch", "transformers", "numpy"], {"models": content})
