"""Muon: momentum whose update of a matrix is orthogonalised, in single precision."""

from __future__ import annotations

import torch

STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # quintic Newton-Schulz coefficients of Jordan et al. (2024)


class Muon(torch.optim.Optimizer):
    """Optimise weight matrices; embeddings, biases and gains are for another optimiser.

    `torch.optim.Muon` orthogonalises in bfloat16, which a CPU without native support for it
    emulates, several times slower than the model's own step. This one keeps the matrices' type and
    treats those of one shape together.

    Parameters
    ----------
    parameters : iterable of torch.Tensor, each of two dimensions
        What to optimise.
    lr : float
        Learning rate; updates are scaled to about the size that Adam's would have.
    momentum, weight_decay : float, default 0.95 and 0.05
        Of Nesterov momentum; decoupled from the gradient.
    """

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.05):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                updates = torch.stack([self._nesterov(m, group["momentum"]) for m in matrices])
                scale = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, update in zip(matrices, orthogonalise(updates), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-scale)

    def _nesterov(self, matrix: torch.Tensor, momentum: float) -> torch.Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        state["momentum"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(state["momentum"], momentum)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Bring all singular values of each matrix near 1 by Newton-Schulz iteration.

    Parameters
    ----------
    matrices : torch.Tensor, shape (n, rows, columns)
        Any matrices.

    Returns
    -------
    torch.Tensor of the same shape
        With the same singular vectors.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x
