"""SharedTrunkNet, and the training of several at once, each exactly as if it were alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence

from prefill_router.errors import InputError
from prefill_router.progress import track

if TYPE_CHECKING:
    from prefill_router.trunk import SharedTrunkEnsemble


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


def grouped_split(
    groups: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut whole groups off at random until they hold at least `share` of the rows.

    Parameters
    ----------
    groups : ndarray of shape (N,)
        Rows that share a value stay together.
    share : float
        Validation share of the rows, between 0 and 1.
    rng : numpy.random.Generator

    Returns
    -------
    train, validation : ndarrays of int
        Sorted rows.
    assured : int
        Training rows that any such split leaves, whatever the order of the groups.

    Raises
    ------
    InputError
        If no rows are assured for training.
    """
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    wanted = max(1, int(np.ceil(share * len(codes))))
    assured = len(codes) - wanted - (int(sizes.max(initial=1)) - 1)
    if assured < 1:
        raise InputError(
            f"{len(codes)} rows in {len(sizes)} groups are too few to cut off a validation share "
            f"of {share}; give more queries or smaller groups."
        )
    order = rng.permutation(len(sizes))
    held = order[: np.searchsorted(np.cumsum(sizes[order]), wanted) + 1]
    validation = np.isin(codes, held)
    return np.flatnonzero(~validation), np.flatnonzero(validation), assured


def masked_loss(logits: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy over the labelled entries of each network.

    Parameters
    ----------
    logits, Y : Tensors of shape (S, B, K)
        NaN labels contribute neither to the loss nor to its gradient.

    Returns
    -------
    Tensor of shape (S,)
    """
    known = ~torch.isnan(Y)
    losses = binary_cross_entropy_with_logits(logits, torch.nan_to_num(Y), reduction="none")
    return (losses * known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)


def draw_kept(shape: tuple[int, ...], rate: float, rng: np.random.Generator) -> np.ndarray:
    """Draw which units dropout keeps: False with probability `rate`, to within 2**-16."""
    draws = rng.integers(0, 1 << 16, size=shape, dtype=np.uint16)  # much faster than floats
    return draws >= round(rate * (1 << 16))


def train_together(
    networks: Sequence[SharedTrunkNet],
    X: torch.Tensor,
    Y: torch.Tensor,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    rows_per_epoch: int,
    generators: Sequence[np.random.Generator],
    settings: SharedTrunkEnsemble,
) -> tuple[list[dict[str, list[float]]], list[float]]:
    """Train networks side by side on stacked weights; each ends with its best epoch's weights.

    One batched product a layer serves all networks, which is much faster than one network after
    another. Nothing is shared but the data: each network has its own rows, order, dropout and
    early stopping, all drawn from its own generator. The draws are made on the host, so that a
    seed gives the same network on every device, to within rounding.

    Parameters
    ----------
    networks : sequence of S SharedTrunkNet
        Initialised, all of one shape and of the type of `X`; changed in place, where they are.
    X : Tensor of shape (N, D)
        Lies on the device that trains, as does `Y`.
    Y : Tensor of shape (N, K)
        1 right, 0 wrong, NaN never asked.
    splits : sequence of S pairs of int arrays
        Training and validation rows of each network.
    rows_per_epoch : int
        Training rows each network sees an epoch: all of them, or a random part where the splits
        differ in size.
    generators : sequence of S numpy.random.Generator
    settings : SharedTrunkEnsemble
        Its hyper-parameters of training are read; see there.

    Returns
    -------
    histories : list of S dict
        ``train`` and ``validation`` losses of each network by epoch.
    best : list of S float
        The validation loss of the epoch whose weights it keeps.
    """
    histories = [{"train": [], "validation": []} for _ in networks]
    best, waited = np.full(len(networks), np.inf), np.zeros(len(networks), int)
    active = np.arange(len(networks))
    layers = zip(*(network.linears for network in networks), strict=True)
    parameters = [
        nn.Parameter(torch.stack(stacked).detach().to(X.device))
        for layer in layers
        for stacked in zip(*((it.weight.T, it.bias[None]) for it in layer), strict=True)
    ]
    optimiser = torch.optim.Adam(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    held, held_labels = _pad([validation for _, validation in splits], Y)

    widths = [linear.out_features for linear in networks[0].linears[:-1]]
    dropout = list(zip(widths, networks[0].dropout, strict=True))

    def draw(s: int, n_rows: int) -> list[np.ndarray]:
        return [draw_kept((n_rows, width), rate, generators[s]) for width, rate in dropout]

    def forward(inputs: torch.Tensor, kept: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        for i, (_, rate) in enumerate(dropout):
            inputs = torch.relu(torch.baddbmm(parameters[2 * i + 1], inputs, parameters[2 * i]))
            if kept:
                inputs = inputs * (kept[i].to(inputs.dtype) / (1 - rate))
        return torch.baddbmm(parameters[-1], inputs, parameters[-2])

    def step(rows: torch.Tensor) -> torch.Tensor:
        """Take one step on a batch of each network, and return their losses."""
        drawn = zip(*threads.map(draw, active, [rows.shape[1]] * len(active)), strict=True)
        kept = [torch.from_numpy(np.stack(layer)).to(X.device) for layer in drawn]
        loss = masked_loss(forward(X[rows], kept), Y[rows])
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        return loss.detach()

    with ThreadPoolExecutor() as threads:
        for _ in track(range(settings.max_epochs), "Training networks"):
            orders = np.stack(
                [generators[s].permutation(splits[s][0])[:rows_per_epoch] for s in active]
            )
            batches = torch.from_numpy(orders).to(X.device).split(settings.batch_size, dim=1)
            train = torch.stack([step(rows) for rows in batches]).mean(0).tolist()
            with torch.no_grad():
                validation = masked_loss(forward(X[held[active]]), held_labels[active]).tolist()
            waited[active] += 1
            for place, s in enumerate(active):
                histories[s]["train"].append(train[place])
                histories[s]["validation"].append(validation[place])
                if validation[place] < best[s] - settings.min_delta:
                    best[s], waited[s] = validation[place], 0
                    _unstack(networks[s], parameters, place)
            going = np.flatnonzero(waited[active] < settings.patience).tolist()
            if not going:
                break
            if len(going) < len(active):
                active = active[going]
                _keep(optimiser, parameters, going)
    return histories, best.tolist()


def _pad(rows: Sequence[np.ndarray], Y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal number as a matrix, with their labels; padding has no labels."""
    lengths = torch.tensor([len(own) for own in rows], device=Y.device)
    padded = pad_sequence([torch.from_numpy(own) for own in rows], batch_first=True).to(Y.device)
    empty = torch.arange(padded.shape[1], device=Y.device) >= lengths[:, None]
    return padded, Y[padded].masked_fill(empty[..., None], float("nan"))


@torch.no_grad()
def _unstack(network: SharedTrunkNet, parameters: Sequence[torch.Tensor], place: int) -> None:
    """Copy the weights at one place of the stack into their network."""
    for j, linear in enumerate(network.linears):
        linear.weight.copy_(parameters[2 * j][place].T)
        linear.bias.copy_(parameters[2 * j + 1][place, 0])


def _keep(
    optimiser: torch.optim.Adam, parameters: Sequence[torch.Tensor], places: list[int]
) -> None:
    """Drop the networks that stopped from the stack and from Adam's moments."""
    for parameter in parameters:
        parameter.data = parameter.data[places]
        parameter.grad = None
        state = optimiser.state[parameter]
        for moment in ("exp_avg", "exp_avg_sq"):
            state[moment] = state[moment][places]
