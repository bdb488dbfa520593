"""Goldens of CherryQ as published, written in PyTorch from the paper and the description of its code, on two small Llamas.

Everything that the method defines, from the paper (Cui & Wang, NeurIPS 2024) and its public code: impact, the choice of
cherries, heterogeneity scores, integers and scales, and ten steps of training. Nothing here knows the program under test.

Where it departs from the published code, in the ways that DECISIONS.md tells:
- Rows too narrow for the published count of cherries (a multiple of 8) have the fraction rounded up.
- Scales are rounded to float16 before they are used, in training too; one that vanishes becomes 2^-24.
- The first step of the warm-up has a rate above zero; `publishedSchedule` holds the rates of the published trainer.
- Impact is accumulated in float64, not in bfloat16.
Where the paper says too little:
- A weight's activation is the mean magnitude of its input over the tokens that predict one (none for a window's last).
- Columns are compared by the mean of the score over the rows.
- The asymmetric levels of the 2-bit variant have zero among them, as GPTQ's; its zero point is a whole number.

All arithmetic is in float64; master weights and the optimizer's moments are kept in float32 between steps, as in any
training.
To keep the file small, weights and windows come from a generator that a test repeats, and large results are digests: their
norm, some values, and a few sums with signs from the same generator, in which a change anywhere shows.
"""

import math

import numpy as np
import torch
from torch.nn import functional

from golden_file import packed, write_golden

torch.set_default_dtype(torch.float64)
torch.use_deterministic_algorithms(True)

SEED = 20240510
SAMPLES, PROJECTIONS = 32, 4


class MinimalStandard:
    """Park & Miller's generator with multiplier 48271: exact in doubles, so any language draws the same numbers."""

    def __init__(self, seed):
        self.state = seed

    def uniform(self):
        self.state = self.state * 48271 % 2147483647
        return self.state / 2147483647

    def bell(self):
        """The sum of three uniform numbers about zero; in [-1.5, 1.5), standard deviation 1/2."""
        return self.uniform() + self.uniform() + self.uniform() - 1.5

    def below(self, count):
        return math.floor(self.uniform() * count)


# The model -----------------------------------------------------------------------------------------------------------

SHARED = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
CONFIGS = {
    "tied": {
        **SHARED,
        "vocab_size": 48,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    "untied": {
        **SHARED,
        "vocab_size": 37,
        "hidden_size": 40,
        "intermediate_size": 44,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 14,
        "rope_theta": 500.0,
        "tie_word_embeddings": False,
    },
}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def is_linear(name):
    return name.split(".")[-2] in LINEARS


def shapes_of(config):
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    width = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    shapes = {"model.embed_tokens.weight": [vocab, hidden]}
    for block in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{block}."
        shapes |= {
            prefix + "input_layernorm.weight": [hidden],
            prefix + "self_attn.q_proj.weight": [queries, hidden],
            prefix + "self_attn.k_proj.weight": [keys, hidden],
            prefix + "self_attn.v_proj.weight": [keys, hidden],
            prefix + "self_attn.o_proj.weight": [hidden, queries],
            prefix + "post_attention_layernorm.weight": [hidden],
            prefix + "mlp.gate_proj.weight": [inner, hidden],
            prefix + "mlp.up_proj.weight": [inner, hidden],
            prefix + "mlp.down_proj.weight": [hidden, inner],
        }
    shapes["model.norm.weight"] = [hidden]
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [vocab, hidden]
    return shapes


def draw_weights(shapes, seed):
    """Float32 values, drawn tensor by tensor: 0.5 x bell, norms 1 + 0.3 x bell."""
    random = MinimalStandard(seed)
    weights = {}
    for name, shape in shapes.items():
        drawn = [random.bell() for _ in range(math.prod(shape))]
        values = [1 + 0.3 * value if len(shape) == 1 else 0.5 * value for value in drawn]
        weights[name] = torch.tensor(values).float().reshape(shape)
    return weights


def draw_windows(count, length, vocab, seed):
    """Tokens of which half repeat one of three before, so that there is something to learn."""
    random = MinimalStandard(seed)
    windows = []
    for _ in range(count):
        window = []
        for at in range(length):
            repeats = at >= 3 and random.uniform() < 0.5
            window.append(window[at - 1 - random.below(3)] if repeats else random.below(vocab))
        windows.append(window)
    return torch.tensor(windows)


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, theta):
    """Rotary embedding, the halves of a head as the pairs.  x [windows, length, heads, width]"""
    length, width = x.shape[1], x.shape[3]
    angles = torch.arange(length)[:, None] / theta ** (torch.arange(0, width, 2) / width)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def logits_of(config, weights, tokens, observe=lambda name, inputs: None):
    """tokens [windows, length] -> [windows, length, vocab];  observe is given each linear layer's inputs."""
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    eps, theta = config["rms_norm_eps"], config["rope_theta"]
    windows, length = tokens.shape
    future = torch.full((length, length), -math.inf).triu(1)

    def linear(name, x):
        observe(name + ".weight", x)
        return x @ weights[name + ".weight"].T

    hidden = weights["model.embed_tokens.weight"][tokens]
    for block in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{block}."
        x = rms_norm(hidden, weights[prefix + "input_layernorm.weight"], eps)
        q, k, v = (linear(f"{prefix}self_attn.{part}_proj", x).unflatten(-1, (count, -1))
                   for part, count in (("q", heads), ("k", key_heads), ("v", key_heads)))
        q, k = rotate(q, theta), rotate(k, theta)
        k, v = (part.repeat_interleave(heads // key_heads, 2) for part in (k, v))
        scores = torch.einsum("wqhd,wkhd->whqk", q, k) / math.sqrt(q.shape[-1]) + future
        mixed = torch.einsum("whqk,wkhd->wqhd", scores.softmax(-1), v)
        hidden = hidden + linear(prefix + "self_attn.o_proj", mixed.flatten(2))
        x = rms_norm(hidden, weights[prefix + "post_attention_layernorm.weight"], eps)
        inner = functional.silu(linear(prefix + "mlp.gate_proj", x)) * linear(prefix + "mlp.up_proj", x)
        hidden = hidden + linear(prefix + "mlp.down_proj", inner)
    head = weights["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    return rms_norm(hidden, weights["model.norm.weight"], eps) @ head.T


def mean_loss(config, weights, windows, teacher=None):
    """Mean cross-entropy over the predicted tokens: with the text's next tokens, or with what a teacher gives them."""
    predicted = logits_of(config, weights, windows[:, :-1]).flatten(0, 1)
    if teacher is None:
        return functional.cross_entropy(predicted, windows[:, 1:].flatten())
    wanted = logits_of(config, teacher, windows[:, :-1]).flatten(0, 1).softmax(-1)
    return functional.cross_entropy(predicted, wanted)


# Impact, criteria and the choice of cherries -------------------------------------------------------------------------


def impact_of(config, weights, windows):
    """Running mean over single windows of the squared gradient of (mean loss x length of the window)."""
    leaves = {name: weight.double().requires_grad_() for name, weight in weights.items()}
    mean = {name: torch.zeros_like(leaf) for name, leaf in leaves.items() if is_linear(name)}
    for n, window in enumerate(windows):
        loss = mean_loss(config, leaves, window[None]) * len(window)
        gradients = torch.autograd.grad(loss, [leaves[name] for name in mean])
        for name, gradient in zip(mean, gradients):
            mean[name] = mean[name] * (n / (n + 1)) + gradient**2 / (n + 1)
    return mean


def activations_of(config, weights, windows):
    """Mean magnitude of each input of each linear layer, over the tokens that predict one."""
    sums = {}

    def observe(name, inputs):
        sums[name] = sums.get(name, 0) + inputs.abs().sum((0, 1))

    wide = {name: weight.double() for name, weight in weights.items()}
    logits_of(config, wide, windows[:, :-1], observe)
    return {name: total / (windows.numel() - len(windows)) for name, total in sums.items()}


def published_count(columns, fraction):
    return math.ceil(columns * fraction) // 8 * 8


def cherry_count(columns, fraction):
    return published_count(columns, fraction) or math.ceil(columns * fraction)


def choose(score, fraction, mode):
    """Columns of the cherries of each row, ascending.  score [rows, columns]"""
    count = cherry_count(score.shape[1], fraction)
    if mode == "column":
        score = score.mean(0, keepdim=True).expand_as(score)
    return score.argsort(dim=1, descending=True, stable=True)[:, :count].sort(1).values


def scores_of(weights, impact, activations):
    """Scores [rows, columns] by criterion, then by name."""
    return {
        "impact": impact,
        "weight": {name: weights[name].double().abs() for name in impact},
        "activation": {name: activations[name].expand_as(impact[name]) for name in impact},
    }


def heterogeneity(score):
    """Equation 4: mean of the top hundredth over the largest of the rest."""
    ordered = score.flatten().sort(descending=True).values
    top = max(1, round(ordered.numel() / 100))
    return (ordered[:top].mean() / ordered[top]).item()


# The quantizer -------------------------------------------------------------------------------------------------------


def float16_scale(scale):
    rounded = torch.from_numpy(scale.numpy().astype(np.float16).astype(np.float64))
    return torch.where(rounded == 0, 2.0**-24, rounded)


def quantize(weight, bits, group_size, cherries, levels, column_scales=None):
    """weight [rows, columns] float64, cherries [rows, count] -> stored integers, scales, zero points and values."""
    rows, columns = weight.shape
    normal = torch.ones(rows, columns, dtype=torch.bool).scatter_(1, cherries, False)
    scaled = weight if column_scales is None else weight * column_scales
    x = scaled[normal].view(rows, -1)
    width = x.shape[1]
    size = min(group_size, width)
    # Zeros after the end change no maximum of magnitudes, and no range that must hold zero.
    x = functional.pad(x, (0, -width % size)).view(rows, -1, size)
    half, zero = 2 ** (bits - 1), torch.zeros(1)
    if levels == "midRise":
        scale = float16_scale((x.abs().amax(-1, keepdim=True) + 1e-6) / half)
        q = (torch.clip(x / scale, -(half - 0.01), half - 0.01) - 0.5).round()
        stored, values = q + half, (q + 0.5) * scale
    elif levels == "symmetric":
        scale = float16_scale((x.abs().amax(-1, keepdim=True) + 1e-6) / (half - 1))
        q = torch.clip((x / scale).round(), -(half - 1), half - 1)
        stored, values = q + half, q * scale
    else:
        low, high = (edge(x, dim=-1, keepdim=True).clamp(*limits)
                     for edge, limits in ((torch.amin, (None, 0)), (torch.amax, (0, None))))
        scale = float16_scale((high - low) / (2**bits - 1))
        zero = torch.clip((-low / scale).round(), 0, 2**bits - 1)
        stored = torch.clip((x / scale).round() + zero, 0, 2**bits - 1)
        values = (stored - zero) * scale
    unpadded = values.flatten(1)[:, :width]
    result = weight.clone()
    result[normal] = unpadded.flatten()
    if column_scales is not None:
        result = torch.where(normal, result / column_scales, weight)
    return stored.flatten(1)[:, :width], scale[..., 0], zero[..., 0], result


def published_levels(bits):
    return "midRise" if bits <= 4 else "symmetric"


def pack_rows(stored, bits):
    """Each row as a stream of bits, least significant first, from a byte of its own."""
    streams = (stored.numpy().astype(np.uint8)[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(streams.reshape(len(stored), -1), axis=1, bitorder="little")


def quantized_golden(weight, bits, group_size, cherries):
    stored, scales, _, _ = quantize(weight.double(), bits, group_size, cherries, published_levels(bits))
    kept = weight.gather(1, cherries).numpy().astype(np.float16)
    return {
        "packed": packed(pack_rows(stored, bits), "<u1"),
        "scales": packed(scales.numpy().astype(np.float16).view(np.uint16), "<u2"),
        "cherryWeight": packed(kept.view(np.uint16), "<u2"),
    }


# Training ------------------------------------------------------------------------------------------------------------


def cosine_rate(step, peak, total, warmup, floor):
    r = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return peak * (1 - (1 - r) * (1 - floor))


def published_rate(step, peak, total, warmup_fraction, floor):
    """`get_cosine_schedule_with_warmup` of transformers with the floor of the published trainer."""
    warmup = math.ceil(total * warmup_fraction)
    return peak * step / max(1, warmup) if step < warmup else cosine_rate(step, peak, total, warmup, floor)


def rate_above_zero(step, peak, total, warmup_fraction, floor):
    warmup = math.ceil(total * warmup_fraction)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return cosine_rate(step, peak, total, warmup, floor)


def train(config, start, windows, run, cherries):
    """Algorithm 1: every parameter by AdamW, linear layers seen through the quantizer, which passes gradients unchanged."""
    masters = {name: torch.nn.Parameter(weight.double()) for name, weight in start.items()}
    teacher = {name: weight.double() for name, weight in start.items()} if run["distillation"] else None
    optimizer = torch.optim.AdamW(masters.values(), lr=1.0, betas=(0.9, 0.95), eps=run["epsilon"], weight_decay=0.0)
    records, first = [], None
    for step in range(run["steps"]):
        used = dict(masters)
        for name, chosen in cherries.items():
            own_scales = run["columnScales"].get(name)
            latent = used[name]
            values = quantize(latent.detach(), run["bits"], run["groupSize"], chosen, run["levels"], own_scales)[3]
            used[name] = latent + (values - latent).detach()
        indices = [(step * run["batchSize"] + i) % len(windows) for i in range(run["batchSize"])]
        loss = mean_loss(config, used, windows[indices], teacher)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(masters.values(), 1.0)
        rate = rate_above_zero(step, run["peak"], run["steps"], 0.05, run["floor"])
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        for master in masters.values():
            moments = optimizer.state[master]
            for kept in (master.data, moments["exp_avg"], moments["exp_avg_sq"]):
                kept.copy_(kept.float())
        records.append({"loss": loss.item(), "gradientNorm": norm.item(), "learningRate": rate})
        if step == 0:
            first = {name: master.detach().clone() for name, master in masters.items()}
    return records, first, {name: master.detach() for name, master in masters.items()}


# What is written -----------------------------------------------------------------------------------------------------


def digest(tensor, seed):
    values = tensor.detach().double().flatten().tolist()
    random = MinimalStandard(seed)
    places = [random.below(len(values)) for _ in range(SAMPLES)]
    sums = [math.fsum(value if random.uniform() < 0.5 else -value for value in values) for _ in range(PROJECTIONS)]
    return {
        "largest": max(map(abs, values)),
        "norm": math.sqrt(math.fsum(value * value for value in values)),
        "samples": packed([values[place] for place in places], "<f4"),
        "projections": sums,
    }


def digests(tensors):
    return {name: digest(tensor, 1000 + index) for index, (name, tensor) in enumerate(tensors.items())}


SELECTIONS = [
    (criterion, mode, fraction)
    for mode in ("row", "column")
    for criterion in ("impact", "weight", "activation")
    for fraction in ((1 / 256, 1 / 4) if criterion == "impact" else (1 / 16,))
]
RUNS = [
    {"model": "tied", "bits": 3, "groupSize": 16, "fraction": 1 / 256, "mode": "row", "floor": 0.25},
    {"model": "tied", "bits": 3, "groupSize": 16, "fraction": 0, "floor": 0.25},
    {"model": "tied", "bits": 4, "groupSize": 32, "fraction": 1 / 16, "mode": "row", "floor": 0.1, "distillation": True},
    {"model": "untied", "bits": 4, "groupSize": 8, "fraction": 1 / 4, "mode": "column", "floor": 0.1},
    {"model": "untied", "bits": 8, "groupSize": 16, "fraction": 1 / 16, "mode": "row", "floor": 0.1},
    {"model": "untied", "bits": 2, "groupSize": 16, "fraction": 1 / 16, "mode": "row", "floor": 0.25, "scaled": True},
]


def column_scales(shapes, seed):
    """Given, since the search is the program's own: 2^bell, in float16, for each linear layer."""
    random = MinimalStandard(seed)
    drawn = {name: [2 ** random.bell() for _ in range(shape[1])] for name, shape in shapes.items() if is_linear(name)}
    return {name: torch.tensor(values).half().double() for name, values in drawn.items()}


models, quantized, runs = {}, [], []
for index, (label, config) in enumerate(CONFIGS.items()):
    shapes = shapes_of(config)
    weights = draw_weights(shapes, SEED + index)
    calibration = draw_windows(6, 12, config["vocab_size"], SEED + 10 + index)
    training = draw_windows(12, 14, config["vocab_size"], SEED + 20 + index)
    impact = impact_of(config, weights, calibration)
    activations = activations_of(config, weights, calibration)
    scores = scores_of(weights, impact, activations)

    selections = []
    for criterion, mode, fraction in SELECTIONS:
        chosen = {name: choose(score, fraction, mode) for name, score in scores[criterion].items()}
        columns = {name: packed(own, "<u1") for name, own in chosen.items()}
        selections.append({"criterion": criterion, "mode": mode, "fraction": fraction, "columns": columns})

    models[label] = {
        "config": config,
        "shapes": shapes,
        "seeds": {"weights": SEED + index, "calibration": SEED + 10 + index, "training": SEED + 20 + index},
        "firstTokens": {"calibration": calibration[0].tolist(), "training": training[0].tolist()},
        "impact": digests(impact),
        "activations": {name: packed(values, "<f4") for name, values in activations.items()},
        "heterogeneity": {
            name: {criterion: heterogeneity(scores[criterion][name]) for criterion in scores} for name in impact
        },
        "selections": selections,
    }

    for bits, group_size, fraction in ((2, 16, 1 / 256), (3, 16, 1 / 4), (4, 1000, 1 / 4), (8, 32, 1 / 256)):
        matrices = {
            name: quantized_golden(weights[name], bits, group_size, choose(impact[name], fraction, "row"))
            for name in impact
            if f".{index}." in name
        }
        quantized.append(
            {"model": label, "bits": bits, "groupSize": group_size, "fraction": fraction, "matrices": matrices}
        )

    for run in RUNS:
        if run["model"] != label:
            continue
        scales = column_scales(shapes, SEED + 30) if run.get("scaled") else {}
        settings = {
            # By the published 1e-8, AdamW makes whole steps of gradients that float32 cannot tell from zero; two runs have some.
            "epsilon": 1e-6 if scales or run.get("distillation") else 1e-8,
            "steps": 10,
            "batchSize": 3,
            "peak": 1e-3,
            "levels": "asymmetric" if scales else published_levels(run["bits"]),
            "distillation": run.get("distillation", False),
        }
        if run["fraction"]:
            cherries = {name: choose(own, run["fraction"], run["mode"]) for name, own in impact.items()}
        else:
            cherries = {name: torch.zeros(len(own), 0, dtype=torch.int64) for name, own in impact.items()}
        records, first, last = train(
            config, weights, training, {**run, **settings, "columnScales": scales}, cherries
        )
        runs.append({
            **run,
            **settings,
            "columnScales": {name: packed(own, "<f4") for name, own in scales.items()},
            "records": records,
            "changeOfFirst": digests({name: first[name].double() - weights[name].double() for name in weights}),
            "change": digests({name: last[name].double() - weights[name].double() for name in weights}),
            "largestWeight": {name: last[name].abs().max().item() for name in weights},
        })

# Rows of Llama-2's widths, where the published count of cherries and the short last group show.
wide = []
for columns, rows in ((4096, 2), (11008, 1)):
    weight = draw_weights({"wide": [rows, columns]}, SEED + columns)["wide"]
    chosen = choose(weight.double().abs(), 1 / 256, "row")
    wide.append({
        "rows": rows,
        "columns": columns,
        "seed": SEED + columns,
        "bits": 3,
        "groupSize": 128,
        "cherryColumns": packed(chosen, "<u2"),
        **quantized_golden(weight, 3, 128, chosen),
    })

WIDTHS = (2048, 4096, 5120, 11008, 13824)
schedule = {"peak": 2e-5, "steps": 391, "warmupFraction": 0.05}
content = {
    "samples": SAMPLES,
    "projections": PROJECTIONS,
    "models": models,
    "quantized": quantized,
    "wide": wide,
    "publishedCounts": {str(columns): published_count(columns, 1 / 256) for columns in WIDTHS},
    "publishedSchedule": {
        **schedule,
        "rates": {
            str(floor): [published_rate(step, 2e-5, 391, 0.05, floor) for step in range(0, 391, 10)]
            for floor in (0.25, 0.1)
        },
    },
}
write_golden("section1", SEED, ["torch", "numpy"], content)
write_golden("section1_training", SEED, ["torch", "numpy"], {"runs": runs}, script="section1")
