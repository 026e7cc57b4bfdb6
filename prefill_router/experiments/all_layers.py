"""Recipes of others that read every layer: all concatenated [W], or mixed (ProbeDirichlet)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from torch.distributions import Dirichlet
from torch.nn.functional import binary_cross_entropy_with_logits

from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import RouterSpec
from prefill_router.recipe.heads import labelled, train_networks

RATES = (1e-4, 1e-3, 1e-2)
"""Learning rates of ProbeDirichlet: its source's, and higher ones, of which validation chooses."""


@dataclass(eq=False, repr=False)
class LayerMixture(BaseEstimator):
    """ProbeDirichlet: a linear probe on a learned mixture of all layers.

    For each query and target, training draws the weights of L layers from a Dirichlet distribution
    whose concentrations exp(g) softmax(a) are learned; prediction takes their expectation. The
    source has one probe, of a weak model's correctness, for the choice between a weak and a strong
    one. Here each of K targets has a mixture and a probe of its own, trained side by side: all with
    one learning rate, and stopped at one epoch.

    Parameters
    ----------
    learning_rate : float, default 1e-4
        Of Adam, as in the source.
    random_state : int, default 0
        Of the initial probe, the order of the queries and the weights drawn.
    device : torch.device or str, default "cpu"
    max_epochs, batch_size : int, default 50 and 32
        As in the source.

    Attributes
    ----------
    weights_ : ndarray of shape (K, L)
        Expected weight of each layer.
    coef_, intercept_ : ndarrays of shape (K, D) and (K,)
    validation_loss_ : float
        The least there was, in nats per label.

    References
    ----------
    RouterXBench, arXiv 2602.11877, and its code (zhuchichi56/RouterXBench).
    """

    learning_rate: float = 1e-4
    random_state: int = 0
    device: torch.device | str = "cpu"
    max_epochs: int = 50
    batch_size: int = 32

    def fit(
        self, X: np.ndarray, Y: np.ndarray, train: np.ndarray, validation: np.ndarray
    ) -> LayerMixture:
        """Train on some rows, and keep the epoch with the least loss on others.

        Parameters
        ----------
        X : ndarray of shape (N, L, D)
            States by layer, pooled.
        Y : ndarray of shape (N, K)
            1 right, 0 wrong, NaN never asked.
        train, validation : ndarrays of int
        """
        h, y = (torch.from_numpy(np.asarray(a, np.float32)).to(self.device) for a in (X, Y))
        (_, n_layers, width), n_targets = h.shape, y.shape[1]
        rng, least = np.random.default_rng(self.random_state), np.inf
        bound = 1 / np.sqrt(width)
        start = rng.uniform(-bound, bound, (n_targets, width)).astype(np.float32)
        coef, a = torch.from_numpy(start).to(self.device), torch.ones(n_targets, n_layers)
        a, g, bias = (
            part.to(self.device) for part in (a, torch.ones(n_targets, 1), torch.zeros(n_targets))
        )
        parameters = [part.requires_grad_() for part in (coef, bias, a, g)]
        best = [part.detach().clone() for part in parameters]
        adam = torch.optim.Adam(parameters, self.learning_rate)

        def loss(rows: np.ndarray, draw: bool) -> torch.Tensor:
            weights = a.softmax(dim=1)
            if draw:
                weights = Dirichlet(weights * g.exp()).rsample((len(rows),))
            known = ~torch.isnan(y[rows])
            logits = (h[rows] @ coef.T * weights.mT).sum(dim=1) + bias
            return binary_cross_entropy_with_logits(logits[known], y[rows][known])

        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            for _ in range(self.max_epochs):
                order = rng.permutation(train)
                for first in range(0, len(order), self.batch_size):
                    adam.zero_grad()
                    loss(order[first : first + self.batch_size], draw=True).backward()
                    adam.step()
                with torch.no_grad():
                    held = float(loss(validation, draw=False))
                if held < least:
                    least, best = held, [part.detach().clone() for part in parameters]
        coef, bias, a, _ = best
        found = (part.cpu().numpy() for part in (coef, bias, a.softmax(dim=1)))
        (self.coef_, self.intercept_, self.weights_), self.validation_loss_ = found, least
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return P(correct), (N, K), of states (N, L, D)."""
        parts = np.stack([layer @ self.coef_.T for layer in np.moveaxis(X, 1, 0)])  # (L, N, K)
        logits = np.einsum("lnk,kl->nk", parts, self.weights_) + self.intercept_
        return expit(logits.astype(np.float64))


def _mean_pooled(it: FoldFit) -> np.ndarray:
    """Return the mean-pooled states of every layer of the main encoder, (N, L, D)."""
    states = it.study.like(it.study.splits, layers="all", poolings=["mean"]).activations()
    return np.stack([states.states(layer, "mean") for layer in states.layers], axis=1)


def _concatenated(it: FoldFit) -> np.ndarray:
    """Every layer mean-pooled, concatenated, one scaler, PCA to 200 and five networks [W]."""
    x = _mean_pooled(it).reshape(it.labels.n_queries, -1)
    x -= x[it.split.train].mean(axis=0)
    x /= np.maximum(x[it.split.train].std(axis=0), 1e-6)
    train = x[it.split.train]
    pca = PCA(min(200, *train.shape), svd_solver="randomized", random_state=it.seed)
    x = pca.fit(train).transform(x)
    recipe = replace(it.study.recipe(), n_seeds=5, keep=5)
    known = it.labels.correct, it.labels.group, it.split.train
    return train_networks(recipe, x, *known).predict_proba(x)


def _mixed(it: FoldFit) -> np.ndarray:
    x, Y, about = _mean_pooled(it), it.labels.correct, (it.seed, it.study.training_device)
    rows = [labelled(part, Y) for part in (it.split.train, it.split.validation)]
    models = [LayerMixture(rate, *about).fit(x, Y, *rows) for rate in RATES]
    return min(models, key=lambda model: model.validation_loss_).predict_proba(x)


CONCATENATED = RouterSpec("all layers concatenated, PCA 200, five networks", _concatenated)
MIXED = RouterSpec("ProbeDirichlet, all layers mixed", _mixed)
