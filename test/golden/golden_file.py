"""How the golden scripts write: one JSON beside the script, with what made it, and arrays as base64 of their bytes."""

import base64
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def packed(array, dtype):
    """Row-major, little-endian, in base64; a test reads it back as the typed array of that dtype."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()


def write_golden(name, seed, packages, content, script=None):
    """Writes `<name>.json`, with the script (default: of that name), the seed (None: nothing is drawn) and the versions."""
    made_by = {
        "script": f"test/golden/make_{script or name}.py",
        "seed": seed,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
    }
    text = json.dumps({**made_by, **content}, separators=(",", ":")) + "\n"
    if len(text) > 200_000:
        raise SystemExit(f"{name}.json has {len(text)} bytes; keep it below 200,000")
    (FOLDER / f"{name}.json").write_text(text)
