"""Goldens of the optimizer: torch.optim.AdamW with torch.nn.utils.clip_grad_norm_, float64, on two tensors.

Gradients and rates are drawn; the gradients grow, so that clipping begins half-way. Each run has its own weight decay.
"""

import torch

from golden_file import write_golden

SEED = 20240504
STEPS = 8
MAX_NORM = 1.0
torch.set_default_dtype(torch.float64)
random = torch.Generator().manual_seed(SEED)


def float32(tensor):
    """Values that a float32 array holds exactly."""
    return tensor.float().double()


shapes = [(7,), (3, 4)]
start = [float32(torch.randn(shape, generator=random)) for shape in shapes]
gradients = [
    [float32(torch.randn(shape, generator=random) * 0.05 * 1.7**step) for shape in shapes] for step in range(STEPS)
]
rates = (torch.rand(STEPS, generator=random) * 0.01 + 0.001).tolist()

runs = []
for betas, eps, weight_decay in [((0.9, 0.95), 1e-8, 0.0), ((0.9, 0.999), 1e-6, 0.1), ((0.0, 0.5), 1e-3, 0.5)]:
    parameters = [torch.nn.Parameter(value.clone()) for value in start]
    optimizer = torch.optim.AdamW(parameters, lr=rates[0], betas=betas, eps=eps, weight_decay=weight_decay)
    norms, weights = [], []
    for rate, step_gradients in zip(rates, gradients):
        optimizer.param_groups[0]["lr"] = rate
        for parameter, gradient in zip(parameters, step_gradients):
            parameter.grad = gradient.clone()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM).item())
        optimizer.step()
        weights.append([parameter.detach().flatten().tolist() for parameter in parameters])
    settings = {"beta1": betas[0], "beta2": betas[1], "epsilon": eps, "weightDecay": weight_decay}
    runs.append({"settings": settings, "norms": norms, "weights": weights})

write_golden("adamw", SEED, ["torch", "numpy"], {
    "maxNorm": MAX_NORM,
    "rates": rates,
    "start": [value.flatten().tolist() for value in start],
    "gradients": [[value.flatten().tolist() for value in step] for step in gradients],
    "runs": runs,
})
