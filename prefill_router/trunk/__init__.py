"""SharedTrunkNets trained together, the best of them kept and averaged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import BaseEstimator

from prefill_router.errors import InputError
from prefill_router.labels import label_matrix
from prefill_router.trunk.training import SharedTrunkNet, grouped_split, train_together


@dataclass(eq=False, repr=False)
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
    device : torch.device or str, default "cpu"
        Where networks are trained; they end on the CPU. One seed draws the same on every device.

    Attributes
    ----------
    networks_ : list of SharedTrunkNet
        Those kept, best first.
    kept_ : list of int
        Their places among the networks trained.
    histories_ : list of dict
        ``train`` and ``validation`` losses per epoch of every network trained.
    validation_losses_ : list of float
        The least validation loss of every network trained.
    held_out_ : list of ndarray
        Rows that validated every network trained.
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

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 8))
    >>> Y = X[:, :2] + rng.normal(size=(400, 2)) > 0
    >>> ensemble = SharedTrunkEnsemble(n_seeds=2, keep=1, max_epochs=5).fit(X, Y)
    >>> ensemble.predict_proba(X[:3]).shape
    (3, 2)
    """

    n_seeds: int = 10
    keep: int = 5
    hidden: tuple[int, ...] = (256, 128)
    dropout: tuple[float, ...] = (0.3, 0.2)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 512
    max_epochs: int = 150
    patience: int = 15
    min_delta: float = 1e-4
    split: str = "inner"
    inner_share: float = 0.15
    random_state: int = 0
    device: torch.device | str = "cpu"

    def fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None = None
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

        Returns
        -------
        SharedTrunkEnsemble

        Raises
        ------
        InputError
            If a shape, value or setting cannot be used.
        """
        X = np.asarray(X, dtype=np.float32)
        Y = label_matrix(Y, X).astype(np.float32)
        groups = np.arange(len(X)) if groups is None else np.asarray(groups)
        self._check(X, Y, groups)
        seeds = range(self.n_seeds + 1)
        shared, *generators = (np.random.default_rng([self.random_state, s]) for s in seeds)
        shape = X.shape[1], Y.shape[1], self.hidden, self.dropout
        networks = [SharedTrunkNet(*shape, rng) for rng in generators]
        if self.split == "published":
            cuts = [grouped_split(groups, self.inner_share, rng) for rng in generators]
        else:
            cuts = [grouped_split(groups, self.inner_share, shared)] * self.n_seeds
        splits = [(train, validation) for train, validation, _ in cuts]
        if any(np.isnan(Y[rows]).all() for split in splits for rows in split):
            raise InputError("The inner split leaves a side without labels; give more rows.")
        x, y = (torch.from_numpy(array).to(self.device) for array in (X, Y))
        # as many rows per epoch as any order of the groups leaves, where splits differ in size
        rows_per_epoch = cuts[0][2] if self.split == "published" else len(splits[0][0])
        self.histories_, self.validation_losses_ = train_together(
            networks, x, y, splits, rows_per_epoch, generators, self
        )
        self.held_out_ = [validation for _, validation in splits]
        self.kept_ = np.argsort(self.validation_losses_, kind="stable")[: self.keep].tolist()
        self.networks_ = [networks[s].eval() for s in self.kept_]
        self.labelled_ = ~np.isnan(Y).all(axis=0)
        self.n_features_in_ = X.shape[1]
        return self

    def _check(self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray) -> None:
        if X.ndim != 2 or len(groups) != len(X):
            raise InputError(f"X {X.shape} and {len(groups)} groups must have as many rows.")
        if not np.isin(Y[~np.isnan(Y)], (0, 1)).all():
            raise InputError("Y must hold only 0, 1 and NaN.")
        if not 1 <= self.keep <= self.n_seeds:
            raise InputError(f"keep is {self.keep}; give 1 to n_seeds ({self.n_seeds}).")
        if len(self.hidden) != len(self.dropout) or not all(0 <= r < 1 for r in self.dropout):
            wanted = f"as many rates in [0, 1) as hidden {self.hidden}"
            raise InputError(f"dropout is {self.dropout}; give {wanted}.")
        if min(self.batch_size, self.max_epochs, self.patience) < 1:
            raise InputError("batch_size, max_epochs and patience must be at least 1.")
        if self.split not in ("inner", "published"):
            raise InputError(f"split is {self.split!r}; it must be inner or published.")

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
