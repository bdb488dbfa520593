"""Reads a CherryQ native folder into float32 arrays; docs/format.md explains every step.

    python read_native.py FOLDER             lists the weights
    python read_native.py FOLDER HF_FOLDER   also compares them, bit for bit, with the float16 copy

Needs numpy and safetensors (made with 2.4.6 and 0.8.0).
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


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
            parts = {kind: stored.get(f"{module}.{kind}") for kind in ("scales", "cherry_weight", "cherry_indices")}
            columns = input_width(module, config)
            weights[f"{module}.weight"] = dequantize(tensor, columns, quantization["bits"], quantization["group_size"], **parts)
        elif part not in ("scales", "cherry_weight", "cherry_indices"):
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


def dequantize(qweight, columns, bits, group_size, scales, cherry_weight, cherry_indices):
    """qweight [out, bytes] and scales [out, groups] to a weight [out, columns]."""
    rows = len(qweight)
    cherries = 0 if cherry_indices is None else cherry_indices.shape[1]
    normals = columns - cherries
    stream = np.unpackbits(qweight, axis=1, bitorder="little")[:, : normals * bits]
    unsigned = stream.reshape(rows, normals, bits) @ (1 << np.arange(bits))
    q = unsigned - 2 ** (bits - 1)
    level = q + 0.5 if bits <= 4 else q
    group = np.arange(normals) // (normals if group_size == -1 else group_size)
    values = level.astype(np.float32) * scales.astype(np.float32)[:, group]
    if cherries == 0:
        return values
    weight = np.empty((rows, columns), np.float32)
    is_normal = np.ones((rows, columns), bool)
    at = cherry_indices.astype(np.int32) + 32768
    np.put_along_axis(is_normal, at, False, axis=1)
    weight[is_normal] = values.reshape(-1)
    np.put_along_axis(weight, at, cherry_weight.astype(np.float32), axis=1)
    return weight


if __name__ == "__main__":
    weights = read_native(sys.argv[1])
    for name, weight in sorted(weights.items()):
        print(f"{name} {list(weight.shape)} rms {np.sqrt(np.mean(weight**2)):.6g}")
    if len(sys.argv) > 2:
        copy = load_file(Path(sys.argv[2]) / "model.safetensors")
        same = weights.keys() == copy.keys() and all((copy[n] == w.astype(np.float16)).all() for n, w in weights.items())
        print("the float16 copy is the same" if same else "the float16 copy DIFFERS")
        sys.exit(0 if same else 1)
