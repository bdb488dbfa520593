"""Goldens of the quantizer: the published formulas (Cui & Wang, NeurIPS 2024, appendix C) in NumPy, float64.

  bits <= 4:  S = (max|x| + 1e-6) / 2^(bits-1)        q = rint(clip(x / S, +-(2^(bits-1) - 0.01)) - 0.5)   x' = (q + 0.5) S
  bits  > 4:  S = (max|x| + 1e-6) / (2^(bits-1) - 1)  q = clip(rint(x / S), +-(2^(bits-1) - 1))            x' = q S

Cherries are taken out of a row before it is cut into groups; the last group may be short. One difference, ours: S is
rounded to float16 (and to 2^-24 where that gives 0) before it is used; the scale as published is written beside it.
"""

import numpy as np

from golden_file import packed, write_golden

SEED = 20240502
random = np.random.default_rng(SEED)


def scale_of(group, bits):
    half = 2 ** (bits - 1)
    return (np.abs(group).max() + 1e-6) / (half if bits <= 4 else half - 1)


def integers(group, scale, bits):
    half = 2 ** (bits - 1)
    if bits <= 4:
        return np.rint(np.clip(group / scale, -(half - 0.01), half - 0.01) - 0.5)
    return np.clip(np.rint(group / scale), -(half - 1), half - 1)


def quantize(weight, bits, group_size, cherries):
    """One matrix, row by row.  weight [rows, columns] float32, cherries [rows, n] ascending columns."""
    stored, scales, published, values = [], [], [], []
    for row, columns in zip(weight.astype(np.float64), cherries):
        normal = np.setdiff1d(np.arange(row.size), columns)
        result = np.empty(row.size, np.float32)
        result[columns] = row[columns].astype(np.float16)
        for start in range(0, normal.size, group_size):
            where = normal[start : start + group_size]
            published.append(scale_of(row[where], bits))
            scale = np.float16(published[-1]) or np.float16(2.0**-24)
            q = integers(row[where], np.float64(scale), bits)
            scales.append(scale)
            stored.append(q + 2 ** (bits - 1))
            result[where] = (q + (0.5 if bits <= 4 else 0)) * np.float64(scale)
        values.append(result)
    return {
        "qweight": packed(np.concatenate(stored), "<u1"),
        "scales": packed(np.array(scales, np.float16).view(np.uint16), "<u2"),
        "publishedScales": packed(published, "<f8"),
        "cherryWeight": packed(np.take_along_axis(weight, cherries, 1).astype(np.float16).view(np.uint16), "<u2"),
        "values": packed(values, "<f4"),
    }


def edges(bits):
    """Rows that meet ties, the clip, nothing at all, almost nothing and the largest values; the first scale is 1/16."""
    half = 2 ** (bits - 1)
    top = half if bits <= 4 else half - 1
    steps = (np.arange(24) % (2 * top + 1)) - top + (0 if bits <= 4 else 0.5)
    ties = np.clip(steps, -top, top) / 16
    ties[::8] = top / 16
    clip = np.where(np.arange(24) % 2 == 0, 1.0, -1.0) * np.where(np.arange(24) % 3 == 0, 0.75, 0.75 * (1 - 2.0**-20))
    rows = [ties, clip, np.zeros(24), random.standard_normal(24) * 1e-7, random.standard_normal(24) * 2e4]
    return np.array(rows, np.float32)


plain = (random.standard_normal((4, 128)) * 0.05).astype(np.float32)
# Rows of different size with heavy tails, and a width that no common group divides.
ragged = (random.standard_t(3, (3, 172)) * np.array([[0.02], [0.3], [5.0]])).astype(np.float32)
matrices, cases = {}, []


def add_matrix(name, weight):
    matrices[name] = {"rows": weight.shape[0], "columns": weight.shape[1], "weight": packed(weight, "<f4")}
    return name, weight


def add_case(matrix, bits, group_size, cherries_per_row):
    name, weight = matrix
    rows, columns = weight.shape
    drawn = [np.sort(random.choice(columns, cherries_per_row, replace=False)) for _ in range(rows)]
    cherries = np.array(drawn, np.int64).reshape(rows, cherries_per_row)
    cases.append({
        "matrix": name,
        "bits": bits,
        "groupSize": group_size,
        "perRow": cherries_per_row,
        "cherryColumns": packed(cherries, "<u4"),
        **quantize(weight, bits, columns if group_size == "row" else group_size, cherries),
    })


plain_matrix = add_matrix("plain", plain)
ragged_matrix = add_matrix("ragged", ragged)
for bits in (2, 3, 4, 8):
    edge_matrix = add_matrix(f"edges{bits}", edges(bits))
    add_case(plain_matrix, bits, 32, 0)
    add_case(plain_matrix, bits, "row", 1)
    add_case(plain_matrix, bits, 128, 8)
    add_case(ragged_matrix, bits, 64, 0)
    add_case(ragged_matrix, bits, 64, 3)
    add_case(edge_matrix, bits, 8, 0)
    add_case(edge_matrix, bits, "row", 2)

write_golden("quantizer", SEED, ["numpy"], {"matrices": matrices, "cases": cases})
