"""SharedTrunkNets trained together, the best of them kept and averaged."""

from __future__ import annotations

import json
import os

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.base import BaseEstimator

from prefill_router.errors import InputError
from prefill_router.storage import atomic_write
from prefill_router.trunk.network import SharedTrunkNet
from prefill_router.trunk.training import TrainingSettings, grouped_split, train_together


class SharedTrunkEnsemble(BaseEstimator):
    """Train several SharedTrunkNets, keep the best on validation rows, average their sigmoids [T].

    Parameters
    ----------
    n_seeds : int, default 10
        Networks trained.
    keep : int, default 5
        Networks kept, those with the lowest validation loss.
    hidden, dropout : tuples, default (256, 128) and (0.3, 0.2)
        Widths of the hidden layers and their dropout rates.
    learning_rate, weight_decay : float, default 1e-3 and 1e-4
        Of Adam.
    batch_size, max_epochs : int, default 512 and 150
    patience, min_delta : default 15 and 1e-4
        Training stops after `patience` epochs in which the validation loss did not fall by
        `min_delta`; the network gets its best epoch's weights.
    split : {"inner", "published"}, default "inner"
        One validation part for all networks, so that their losses compare; or another for each,
        as the toolkit has it [T].
    inner_share : float, default 0.15
        Share of the rows given to `fit` that validate.
    random_state : int, default 0
        Two fits with the same numbers, on the same machine, give the same bytes.

    Attributes
    ----------
    networks_ : list of SharedTrunkNet
        Those kept, best first.
    kept_ : list of int
        Their places among the networks trained.
    histories_ : list of dict
        ``train`` and ``validation`` losses by epoch of every network trained.
    validation_losses_ : ndarray of shape (n_seeds,)
        The least validation loss of every network trained.
    held_out_ : list of ndarray
        Rows that validated every network trained; known after `fit`, not saved.
    n_features_in_ : int
    labelled_ : ndarray of shape (K,)
        Which targets had any label; the others are given probability one half.

    Notes
    -----
    Time grows with n_seeds, N and, for D well above the width, D; memory holds the features and,
    beside the networks, n_seeds times those of the inner validation rows. Measured with the
    defaults, an epoch of ten networks on one processor core:

    ======= == ==== ======= ============
    N       K  D    seconds added memory
    ======= == ==== ======= ============
    5,000   50 1600 2.1     0.4 GB
    100,000 9  450  13      0.8 GB
    ======= == ==== ======= ============

    On the embedded zoo they stopped after 20 to 24 epochs.
    """

    def __init__(
        self,
        n_seeds: int = 10,
        keep: int = 5,
        hidden: tuple[int, ...] = (256, 128),
        dropout: tuple[float, ...] = (0.3, 0.2),
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        batch_size: int = 512,
        max_epochs: int = 150,
        patience: int = 15,
        min_delta: float = 1e-4,
        split: str = "inner",
        inner_share: float = 0.15,
        random_state: int = 0,
    ):
        self.n_seeds = n_seeds
        self.keep = keep
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.min_delta = min_delta
        self.split = split
        self.inner_share = inner_share
        self.random_state = random_state

    def fit(
        self,
        X: np.ndarray,
        Y: np.ndarray,
        groups: np.ndarray | None = None,
        device: torch.device | str = "cpu",
    ) -> SharedTrunkEnsemble:
        """Train on features and labels.

        Parameters
        ----------
        X : ndarray of shape (N, D)
            Features of the training rows, x = [f_1 | ... | f_K]; used in float32.
        Y : ndarray of shape (N, K)
            1 right, 0 wrong, NaN never asked.
        groups : ndarray of shape (N,), optional
            Rows that share a value are on the same side of the inner split.
        device : torch.device or str, default "cpu"
            What trains; the networks end on the CPU. One seed draws the same on every device.

        Returns
        -------
        SharedTrunkEnsemble

        Raises
        ------
        InputError
            If a shape, value or setting cannot be used.
        """
        X, Y = np.asarray(X, dtype=np.float32), np.asarray(Y, dtype=np.float32)
        groups = np.arange(len(X)) if groups is None else np.asarray(groups)
        self._check(X, Y, groups)
        generators = [
            np.random.default_rng([self.random_state, s + 1]) for s in range(self.n_seeds)
        ]
        networks = [
            SharedTrunkNet(X.shape[1], Y.shape[1], self.hidden, self.dropout, rng)
            for rng in generators
        ]
        if self.split == "published":
            cuts = [grouped_split(groups, self.inner_share, rng) for rng in generators]
            rows_per_epoch = cuts[0][2]  # the same for every order of the groups
        else:
            rng = np.random.default_rng([self.random_state, 0])
            cuts = [grouped_split(groups, self.inner_share, rng)] * self.n_seeds
            rows_per_epoch = len(cuts[0][0])
        for train, validation, _ in cuts:
            if np.isnan(Y[train]).all() or np.isnan(Y[validation]).all():
                raise InputError("The inner split leaves a side without labels; give more rows.")
        self.held_out_ = [validation for _, validation, _ in cuts]
        histories = train_together(
            networks,
            torch.from_numpy(X).to(device),
            torch.from_numpy(Y).to(device),
            [(train, validation) for train, validation, _ in cuts],
            rows_per_epoch,
            generators,
            TrainingSettings(
                self.learning_rate,
                self.weight_decay,
                self.batch_size,
                self.max_epochs,
                self.patience,
                self.min_delta,
            ),
        )
        self.histories_ = [{"train": h.train, "validation": h.validation} for h in histories]
        self.validation_losses_ = np.array([history.best for history in histories])
        order = np.argsort(self.validation_losses_, kind="stable")
        self.kept_ = order[: self.keep].tolist()
        self.networks_ = [networks[s].eval() for s in self.kept_]
        self.labelled_ = ~np.isnan(Y).all(axis=0)
        self.n_features_in_ = X.shape[1]
        return self

    def _check(self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray) -> None:
        if X.ndim != 2 or Y.ndim != 2 or not len(X) == len(Y) == len(groups):
            raise InputError(
                f"X {X.shape} and Y {Y.shape} must be matrices with as many rows, "
                f"and as many as the {len(groups)} groups."
            )
        if not np.isfinite(X).all():
            raise InputError("X holds values that are not finite numbers.")
        if not np.isin(Y[~np.isnan(Y)], (0, 1)).all():
            raise InputError("Y must hold only 0, 1 and NaN.")
        if not 1 <= self.keep <= self.n_seeds:
            raise InputError(f"keep is {self.keep}; it must be from 1 to n_seeds, {self.n_seeds}.")
        if len(self.hidden) != len(self.dropout):
            raise InputError(f"hidden {self.hidden} needs as many dropout rates: {self.dropout}.")
        if not all(0 <= rate < 1 for rate in self.dropout):
            raise InputError(f"dropout is {self.dropout}; each rate must be in [0, 1).")
        if min(self.batch_size, self.max_epochs, self.patience) < 1:
            raise InputError("batch_size, max_epochs and patience must be at least 1.")
        if not 0 < self.inner_share < 1:
            raise InputError(f"inner_share is {self.inner_share}; it must be between 0 and 1.")
        if self.split not in ("inner", "published"):
            raise InputError(f"split is {self.split!r}; it must be 'inner' or 'published'.")

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return P(correct), (n, K): the mean of the kept networks' sigmoids.

        Parameters
        ----------
        X : ndarray of shape (n, D)
        """
        return self.predict_each(X).mean(axis=0)

    def predict_each(self, X: np.ndarray) -> np.ndarray:
        """Return P(correct) by each of the networks kept, best first, (keep, n, K).

        Parameters
        ----------
        X : ndarray of shape (n, D)
        """
        X = np.asarray(X, dtype=np.float32)
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            raise InputError(f"X has shape {X.shape}; expected (n, {self.n_features_in_}).")
        with torch.inference_mode():
            x = torch.from_numpy(X)
            p = torch.stack([torch.sigmoid(network(x)) for network in self.networks_])
        return np.where(self.labelled_, p.numpy().astype(np.float64), 0.5)

    def save(self, path: str | os.PathLike) -> None:
        """Write the kept networks and the record of their training to one safetensors file."""
        tensors = {
            f"{place}.{name}": tensor
            for place, network in enumerate(self.networks_)
            for name, tensor in network.state_dict().items()
        }
        record = {
            "parameters": self.get_params(),
            "histories": self.histories_,
            "validation_losses": self.validation_losses_.tolist(),
            "kept": self.kept_,
            "labelled": self.labelled_.tolist(),
            "n_features": self.n_features_in_,
        }
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, {"ensemble": json.dumps(record, sort_keys=True)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> SharedTrunkEnsemble:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the file is missing, damaged or something else.
        """
        try:
            with safe_open(path, "pt") as stored:
                record = json.loads(stored.metadata()["ensemble"])
                tensors = {name: stored.get_tensor(name) for name in stored.offset_keys()}
        except (OSError, SafetensorError, TypeError, KeyError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path} is not a saved ensemble ({error}); train it again."
            ) from error
        hyper = {k: tuple(v) if isinstance(v, list) else v for k, v in record["parameters"].items()}
        ensemble = cls(**hyper)
        ensemble.networks_ = []
        for place in range(len(record["kept"])):
            network = SharedTrunkNet(
                record["n_features"], len(record["labelled"]), ensemble.hidden, ensemble.dropout
            )
            prefix = f"{place}."
            network.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
            ensemble.networks_.append(network.eval())
        ensemble.kept_ = record["kept"]
        ensemble.histories_ = record["histories"]
        ensemble.validation_losses_ = np.array(record["validation_losses"])
        ensemble.labelled_ = np.array(record["labelled"])
        ensemble.n_features_in_ = record["n_features"]
        return ensemble
