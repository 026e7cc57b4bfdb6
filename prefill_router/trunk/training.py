"""Train several networks of one shape at once, each exactly as if it were trained alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from prefill_router.errors import InputError
from prefill_router.progress import track
from prefill_router.trunk.network import SharedTrunkNet


@dataclass(frozen=True)
class TrainingSettings:
    """How the networks are trained; the defaults are the toolkit's [T]."""

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 512
    max_epochs: int = 150
    patience: int = 15
    min_delta: float = 1e-4


@dataclass
class History:
    """Losses of one network by epoch, and the least validation loss, whose weights it keeps."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: float = float("inf")
    waited: int = 0


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
    settings: TrainingSettings,
) -> list[History]:
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
    settings : TrainingSettings

    Returns
    -------
    list of S History
    """
    histories = [History() for _ in networks]
    active = np.arange(len(networks))
    parameters = [
        torch.nn.Parameter(torch.stack([pair[i].detach() for pair in pairs]).to(X.device))
        for pairs in (
            [(network.linears[j].weight.T, network.linears[j].bias[None]) for network in networks]
            for j in range(len(networks[0].linears))
        )
        for i in (0, 1)
    ]
    optimiser = torch.optim.Adam(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    held, held_labels = _pad([validation for _, validation in splits], Y)

    dropout = networks[0].dropout
    widths = [network.out_features for network in networks[0].linears[:-1]]

    def draw(s: int, n_rows: int) -> list[np.ndarray]:
        layers = zip(widths, dropout, strict=True)
        return [draw_kept((n_rows, width), rate, generators[s]) for width, rate in layers]

    def forward(inputs: torch.Tensor, kept: Sequence[torch.Tensor] | None) -> torch.Tensor:
        for i, rate in enumerate(dropout):
            inputs = torch.relu(torch.baddbmm(parameters[2 * i + 1], inputs, parameters[2 * i]))
            if kept is not None:
                inputs = inputs * (kept[i].to(inputs.dtype) / (1 - rate))
        return torch.baddbmm(parameters[-1], inputs, parameters[-2])

    with ThreadPoolExecutor() as threads:
        for _ in track(range(settings.max_epochs), "Training networks"):
            orders = np.stack(
                [generators[s].permutation(splits[s][0])[:rows_per_epoch] for s in active]
            )
            losses = []
            for rows in torch.from_numpy(orders).to(X.device).split(settings.batch_size, dim=1):
                drawn = threads.map(draw, active, [rows.shape[1]] * len(active))
                kept = [
                    torch.from_numpy(np.stack(layer)).to(X.device)
                    for layer in zip(*drawn, strict=True)
                ]
                loss = masked_loss(forward(X[rows], kept), Y[rows])
                optimiser.zero_grad()
                loss.sum().backward()
                optimiser.step()
                losses.append(loss.detach())
            train_losses = torch.stack(losses).mean(0).tolist()
            with torch.no_grad():
                validation = masked_loss(forward(X[held[active]], None), held_labels[active])
            going = []
            for place, (s, loss) in enumerate(zip(active, validation.tolist(), strict=True)):
                history = histories[s]
                history.train.append(train_losses[place])
                history.validation.append(loss)
                if loss < history.best - settings.min_delta:
                    history.best, history.waited = loss, 0
                    _unstack(networks[s], parameters, place)
                else:
                    history.waited += 1
                if history.waited < settings.patience:
                    going.append(place)
            if not going:
                break
            if len(going) < len(active):
                active = active[going]
                _keep(optimiser, parameters, going)
    return histories


def _pad(rows: Sequence[np.ndarray], Y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal number as a matrix, with their labels; padding has no labels."""
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    filling = np.ones(padded.shape, dtype=bool)
    for s, own in enumerate(rows):
        padded[s, : len(own)] = own
        filling[s, : len(own)] = False
    index, empty = (torch.from_numpy(part).to(Y.device) for part in (padded, filling))
    return index, Y[index].masked_fill(empty[..., None], float("nan"))


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
