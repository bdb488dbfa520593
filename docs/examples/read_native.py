"""Reads a CherryQ native folder into float32 arrays; docs/format.md explains every step.

    python read_native.py FOLDER weights.safetensors  writes them into one file

Needs numpy and safetensors (made with 2.4.6 and 0.8.0).
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

PARTS = ("scales", "zeros", "column_scales", "cherry_weight", "cherry_indices")


def read_native(folder):
    """Returns {name: float32 array}, under the names that the original model had."""
    config = json.loads((Path(folder) / "config.json").read_text())
    quantization = config["quantization_config"]
    if quantization["quant_method"] != "cherryq" or quantization["format_version"] != 1:
        raise ValueError(f"config.json: not version 1 of the cherryq format: {quantization}")
    stored = load_file(Path(folder) / "model.safetensors")
    weights = {}
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        if part == "qweight":
            parts = {kind: stored.get(f"{module}.{kind}") for kind in PARTS}
            weights[f"{module}.weight"] = dequantize(tensor, input_width(module, config), quantization, **parts)
        elif part not in PARTS:
            weights[name] = tensor.astype(np.float32)
    return weights


def input_width(module, config):
    """Columns of a linear layer's weight: the file holds them only up to the padding of a row's last byte."""
    if module.endswith("down_proj"):
        return config["intermediate_size"]
    if module.endswith("o_proj"):
        heads = config["num_attention_heads"]
        return heads * (config.get("head_dim") or config["hidden_size"] // heads)
    return config["hidden_size"]


def unpack(packed, count, bits):
    """Bytes [out, n] to unsigned integers [out, count]."""
    stream = np.unpackbits(packed, axis=1, bitorder="little")[:, : count * bits]
    return stream.reshape(len(packed), count, bits) @ (1 << np.arange(bits))


def dequantize(qweight, columns, quantization, scales, zeros, column_scales, cherry_weight, cherry_indices):
    """The parts of a layer to its weight [out, columns]."""
    bits, levels, size = (quantization[field] for field in ("bits", "levels", "group_size"))
    rows = len(qweight)
    is_normal = np.ones((rows, columns), bool)
    if cherry_indices is not None:
        at = np.broadcast_to(cherry_indices.astype(np.int32) + 32768, (rows, cherry_indices.shape[1]))
        np.put_along_axis(is_normal, at, False, axis=1)
    is_stored = np.ones_like(is_normal) if quantization["aligned_groups"] else is_normal
    count = int(is_stored[0].sum())
    group = np.arange(count) // (count if size == -1 else size)
    q = unpack(qweight, count, bits).astype(np.float32)
    if levels == "asymmetric":
        q -= unpack(zeros, scales.shape[1], bits)[:, group].astype(np.float32)
    else:
        q -= 2 ** (bits - 1) - (0.5 if levels == "midRise" else 0)
    weight = np.empty((rows, columns), np.float32)
    weight[is_stored] = (q * scales.astype(np.float32)[:, group]).reshape(-1)
    if column_scales is not None:
        weight /= column_scales.astype(np.float32)
    if cherry_indices is not None:
        np.put_along_axis(weight, at, cherry_weight.astype(np.float32), axis=1)
    return weight


if __name__ == "__main__":
    save_file(read_native(sys.argv[1]), sys.argv[2])
