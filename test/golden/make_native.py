"""Goldens of the reader in docs/format.md: what transformers computes from native folders that our writer has written.

The folders come from write-native.ts, through the reader, as docs/examples/native_in_transformers.py loads them. For each
model: the hash of its weights' file, and in float64 the logits after the last token of a text.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from golden_file import packed, write_golden

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "docs" / "examples"))
from native_in_transformers import load_native  # noqa: E402

TOKENS = [0, 41, 17, 99, 3, 76, 52, 105, 28, 64, 9, 88]

content = {}
with tempfile.TemporaryDirectory() as target:
    subprocess.run(["node", "--import", "tsx", "test/golden/write-native.ts", target], cwd=ROOT, check=True)
    for index, label in enumerate(json.loads((Path(target) / "labels.json").read_text())):
        folder = Path(target) / str(index)
        with torch.no_grad():
            logits = load_native(folder).double()(torch.tensor([TOKENS])).logits[0, -1]
        content[label] = {
            "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
            "logits": packed(logits.numpy(), "<f4"),
        }
write_golden("native", None, ["torch", "transformers", "numpy", "safetensors"], {"tokens": TOKENS, "models": content})
