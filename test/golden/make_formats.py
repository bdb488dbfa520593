"""Goldens of formats and numeric: safetensors files, 16-bit floats and token ids, by the reference implementations.

Run by `npm run golden` with numpy, ml_dtypes and safetensors installed; writes beside this file:
  formats.safetensors    a file that the Python library wrote, with metadata and one tensor of each width and an empty one
  formats.json           its tensors' values, versions, and roundings of float32 to float16 and bfloat16
"""

import json
import platform
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

SEED = 20240501
here = Path(__file__).parent
random = np.random.default_rng(SEED)


def exact(values):
    """Finite values as numbers, the others by name, since JSON has none."""
    return [value if np.isfinite(value) else str(value) for value in np.asarray(values, np.float64).ravel().tolist()]


values = random.standard_normal((3, 5)).astype(np.float32)
tensors = {
    "model.embed_tokens.weight": values,
    "model.layers.0.half": values.astype(np.float16),
    "model.layers.0.brain": values.astype(ml_dtypes.bfloat16),
    "1": random.integers(-128, 128, 7).astype(np.int8),
    "name with \"quotes\", ünïcode and \\": np.arange(3, dtype=np.int64),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.array(2.5, np.float32),
}
save_file(tensors, here / "formats.safetensors", metadata={"format": "np", "note": "golden"})

edges = np.array(
    [0.0, -0.0, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 2.0**-14, 65504, 65519.996, 65520, -65520, 1e30, np.inf, -np.inf, 1 / 3],
    np.float32,
)
# Bit patterns drawn evenly reach every exponent; NaN is left to the tests, whose payload rules are ours.
drawn = random.integers(0, 2**32, 1000, dtype=np.uint64).astype(np.uint32).view(np.float32)
# Near half precision's range, where rounding to even is decided.
near = (random.standard_normal(500) * 2.0 ** random.integers(-26, 17, 500)).astype(np.float32)
# Exact ties of both formats.
ties = (random.integers(1024, 2048, 300) * 2 + 1).astype(np.float32) * np.float32(2.0**-12)
singles = np.concatenate([edges, drawn, near, ties])
singles = singles[~np.isnan(singles)]
doubles = np.concatenate([near.astype(np.float64) * (1 + 1e-12), ties.astype(np.float64) * (1 + 1e-14)])

with np.errstate(over="ignore"):
    golden = {
        "script": "test/golden/make_formats.py",
        "seed": SEED,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "ml_dtypes": ml_dtypes.__version__,
            "safetensors": safetensors.__version__,
        },
        "tensors": {
            name: {"shape": list(array.shape), "values": exact(array)} for name, array in tensors.items()
        },
        "float32Bits": singles.view(np.uint32).tolist(),
        "float16Bits": singles.astype(np.float16).view(np.uint16).tolist(),
        "bfloat16Bits": singles.astype(ml_dtypes.bfloat16).view(np.uint16).tolist(),
        "doubles": doubles.tolist(),
        "doublesAsFloat16": exact(doubles.astype(np.float16)),
    }
(here / "formats.json").write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")
