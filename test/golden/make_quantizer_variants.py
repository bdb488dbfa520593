"""Goldens of the quantizer's variants, from docs/format.md's formulas in NumPy: three kinds of levels, groups that keep their
columns, cherries that are whole columns, scaled columns. Weights, column scales and results are float32, the arithmetic
between is float64, as the formulas are used.
"""

import numpy as np

from golden_file import packed, write_golden

SEED = 20240503
random = np.random.default_rng(SEED)
LEAST = 2.0**-24


def float16(value):
    return float(np.float16(value)) or LEAST


def group_of(x, free, bits, levels):
    """Scale, zero point, stored integers and values read back of one group; `free` marks what counts for the scale."""
    top = 2**bits - 1
    counted = x[free] if free.any() else np.zeros(1)
    if levels == "asymmetric":
        low, high = min(counted.min(), 0.0), max(counted.max(), 0.0)
        scale = float16((high - low) / top)
        zero = np.clip(np.rint(-low / scale), 0, top)
        q = np.clip(np.rint(x / scale) + zero, 0, top)
        return scale, zero, q, (q - zero) * scale
    half = 2 ** (bits - 1)
    largest = np.abs(counted).max()
    if levels == "midRise":
        scale = float16((largest + 1e-6) / half)
        q = np.rint(np.clip(x / scale, 0.01 - half, half - 0.01) - 0.5)
        return scale, 0, q + half, (q + 0.5) * scale
    scale = float16((largest + 1e-6) / (half - 1))
    q = np.clip(np.rint(x / scale), 1 - half, half - 1)
    return scale, 0, q + half, q * scale


def quantize(weight, bits, levels, aligned, group_size, cherries, column_scales):
    stored, scales, zeros, values = [], [], [], []
    for row, own in zip(weight, cherries):
        is_cherry = np.isin(np.arange(row.size), own)
        places = np.arange(row.size) if aligned else np.flatnonzero(~is_cherry)
        scaled = row if column_scales is None else row * column_scales  # float32, as both are
        result = np.empty(row.size, np.float32)
        for start in range(0, places.size, group_size):
            where = places[start : start + group_size]
            scale, zero, q, x = group_of(scaled[where].astype(np.float64), ~is_cherry[where], bits, levels)
            scales.append(scale)
            zeros.append(zero)
            stored.append(q)
            result[where] = x
        if column_scales is not None:
            result = result / column_scales
        result[own] = row[own].astype(np.float16)
        values.append(result)
    return {
        "qweight": packed(np.concatenate(stored), "<u1"),
        "scales": packed(np.array(scales, np.float16).view(np.uint16), "<u2"),
        "zeros": packed(zeros if levels == "asymmetric" else [], "<u1"),
        "values": packed(values, "<f4"),
    }


weight = (random.standard_t(4, (3, 43)) * np.array([[0.02], [0.4], [3.0]]) + 0.01).astype(np.float32)
weight[0, :7] = np.abs(weight[0, :7])  # a group that lies on one side of zero
weight[1, 7:14] = 0
column_scales = np.exp(random.standard_normal(43)).astype(np.float16).astype(np.float32)
rows, columns = weight.shape
cases = []
for bits in (2, 3, 4, 8):
    for levels in ("midRise", "symmetric", "asymmetric"):
        for aligned, shared, per_row, scaled in [
            (False, False, 0, False),
            (False, False, 3, True),
            (False, True, 2, False),
            (True, False, 3, False),
            (True, True, 2, True),
            (True, False, 8, False),
        ]:
            drawn = [np.sort(random.choice(columns, per_row, replace=False)) for _ in range(rows)]
            if per_row == 8:
                drawn[0] = np.arange(7, 15)  # a whole group of cherries
            cherries = np.array([drawn[0]] * rows if shared else drawn, np.int64).reshape(rows, per_row)
            result = quantize(weight, bits, levels, aligned, 7, cherries, column_scales if scaled else None)
            case = {"bits": bits, "levels": levels, "aligned": aligned, "shared": shared, "scaled": scaled}
            cases.append({**case, "perRow": per_row, "cherryColumns": packed(cherries, "<u4"), **result})

contents = {
    "columns": columns,
    "groupSize": 7,
    "weight": packed(weight, "<f4"),
    "columnScales": packed(column_scales, "<f4"),
    "cases": cases,
}
write_golden("quantizer_variants", SEED, ["numpy"], contents)
