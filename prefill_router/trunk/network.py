"""One network that predicts every target's P(correct)."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn


class SharedTrunkNet(nn.Module):
    """Linear, ReLU, Dropout for each hidden width, then one logit a target [P][T].

    Parameters
    ----------
    n_inputs, n_targets : int
    hidden : tuple of int, default (256, 128)
    dropout : tuple of float, default (0.3, 0.2)
        One rate for each hidden layer.
    rng : numpy.random.Generator, optional
        Draws the initial weights, uniform within 1 / sqrt(inputs) as `torch.nn.Linear` does.
    """

    def __init__(
        self,
        n_inputs: int,
        n_targets: int,
        hidden: tuple[int, ...] = (256, 128),
        dropout: tuple[float, ...] = (0.3, 0.2),
        rng: np.random.Generator | None = None,
    ):
        super().__init__()
        rng = np.random.default_rng(0) if rng is None else rng
        widths = (n_inputs, *hidden, n_targets)
        self.dropout = tuple(dropout)
        self.linears = nn.ModuleList()
        for inputs, outputs in itertools.pairwise(widths):
            linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
            bound = 1 / np.sqrt(inputs)
            with torch.no_grad():
                for parameter in (linear.weight, linear.bias):
                    values = rng.uniform(-bound, bound, size=tuple(parameter.shape))
                    parameter.copy_(torch.from_numpy(values))
            self.linears.append(linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (..., K) of features `x` (..., D)."""
        for linear, rate in zip(self.linears, self.dropout, strict=False):
            x = nn.functional.dropout(torch.relu(linear(x)), rate, self.training)
        return self.linears[-1](x)
