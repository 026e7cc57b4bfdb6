"""How long an answer will be, read from the same states: a cost for each query before it is asked.

The paper is said to price a target at the median length of its training answers [S]. Here the
logarithm of the length is regressed on the features, and transformed back without bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import GroupKFold
from tokenizers import Tokenizer

from prefill_router.baselines.classifiers import RidgePath
from prefill_router.features import blockwise
from prefill_router.labels import Labels
from prefill_router.labels.costs import Prices, cost_basis

if TYPE_CHECKING:
    from prefill_router.extraction.prompts import Query

PENALTIES = tuple(np.logspace(-3, 3, 7))  # of `RidgePath`
FOLDS = 5


@dataclass(frozen=True)
class LengthModel:
    """Log-linear models of K positive amounts, such as answer lengths in tokens.

    Attributes
    ----------
    slopes : ndarray of shape (D, K)
    intercepts : ndarray of shape (K,)
    smearing : ndarray of shape (K,)
        Mean of exp(residual): exp of a mean logarithm is less than the mean.
    bounds : ndarray of shape (2, K)
        Least and largest amount of the training rows; no prediction leaves them.
    """

    slopes: np.ndarray
    intercepts: np.ndarray
    smearing: np.ndarray
    bounds: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return expected amounts (N, K) of features (N, D)."""
        logs = blockwise(lambda X: X @ self.slopes + self.intercepts, features)
        return np.clip(np.exp(logs) * self.smearing, *self.bounds)


def fit_lengths(
    X: np.ndarray, amounts: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> LengthModel:
    """Fit a log-linear ridge regression with smearing for each target.

    Parameters
    ----------
    X : ndarray of shape (N, D)
        Features of the training queries.
    amounts : ndarray of shape (N, K)
        Lengths in tokens (or costs), at least 0; NaN unknown, but not of all queries. A zero counts
        as half of the least positive amount.
    groups : ndarray of shape (N,), optional
        Queries that share a value are on the same side of every fold.
    seed : int, default 0
        Deals the groups into five folds.

    Returns
    -------
    LengthModel
        Of each target with the penalty whose predictions of held-out folds have the least mean
        squared error, or the mean amount where that has less, or features are all alike.

    References
    ----------
    Duan, "Smearing estimate: a nonparametric retransformation method", JASA, 1983. The residuals
    are those of held-out folds: within a fold's fit they would be too small.
    """
    X = np.asarray(X, dtype=np.float64)
    groups = np.arange(len(X)) if groups is None else groups
    fitted = []
    for column in amounts.T:
        known = ~np.isnan(column)
        fitted.append(_fit_one(X[known], column[known], groups[known], seed))
    return LengthModel(*(np.stack(part, axis=-1) for part in zip(*fitted, strict=True)))


def _fit_one(
    X: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[np.ndarray, float, float, np.ndarray]:
    """Return slopes (D,), intercept, smearing factor and bounds (2,) of one target."""
    bounds = np.array([y.min(), y.max()])
    constant = np.zeros(X.shape[1]), np.log(max(y.mean(), 1e-300)), 1.0, bounds
    n_groups = len(np.unique(groups))
    if bounds[0] == bounds[1] or n_groups < FOLDS or not np.ptp(X, axis=0).any():
        return constant
    logs = np.log(np.maximum(y, y[y > 0].min() / 2))[:, None]
    held = np.empty((len(PENALTIES) + 1, len(y)))  # the last one is the mean logarithm
    for fit, rest in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(X, groups=groups):
        held[:-1, rest] = RidgePath(PENALTIES).fit(X[fit], logs[fit]).predict(X[rest])[..., 0]
        held[-1, rest] = logs[fit].mean()
    smearing = np.exp(logs[:, 0] - held).mean(axis=1)
    predicted = np.clip(np.exp(held) * smearing[:, None], *bounds)
    best = int(((predicted - y) ** 2).mean(axis=1).argmin())
    if best == len(PENALTIES):
        return constant
    path = RidgePath(PENALTIES[best : best + 1]).fit(X, logs)
    slopes = path.coef_[0, :, 0]
    return slopes, path.y_mean_[0] - path.x_mean_ @ slopes, smearing[best], bounds


@dataclass(frozen=True)
class CostModel:
    """What asking each of K targets is expected to cost.

    Attributes
    ----------
    lengths : LengthModel
        Of answers, in tokens; of a target known by its `cost_usd` alone, of that.
    input_price, output_price : ndarray of shape (K,)
        USD per token, or 0 and 1 where `lengths` are costs.
    tokenizers : dict of int to tokenizers.Tokenizer
        Targets whose own tokenizer counts the input; for the others the encoder's does.
    """

    lengths: LengthModel
    input_price: np.ndarray
    output_price: np.ndarray
    tokenizers: dict[int, Tokenizer]

    def input_tokens(self, queries: Sequence[Query], n_tokens: np.ndarray) -> np.ndarray:
        """Return input tokens (N, K); `n_tokens` (N,) are the encoder's counts.

        A target's own tokenizer counts the texts of the messages, without what a chat template
        would add.
        """
        counts = np.repeat(np.asarray(n_tokens)[:, None], len(self.input_price), axis=1)
        if self.tokenizers:
            from prefill_router.extraction.prompts import turns_of  # torch

            texts = ["\n".join(turn["content"] for turn in turns_of(query)) for query in queries]
        for k, tokenizer in self.tokenizers.items():
            counts[:, k] = [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]
        return counts

    def expected(self, features: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """Return the expected cost of each query at each target, (N, K) in USD.

        Parameters
        ----------
        features : ndarray of shape (N, D)
        inputs : ndarray of shape (N, K)
            From `input_tokens`.
        """
        return inputs * self.input_price + self.lengths.predict(features) * self.output_price


def fit_costs(
    labels: Labels,
    prices: Prices | None,
    features: np.ndarray,
    train: np.ndarray,
    n_tokens: np.ndarray,
    tokenizers: Mapping[int, Tokenizer] | None = None,
    seed: int = 0,
) -> CostModel:
    """Fit what answers of each target will cost.

    A target's input tokens are counted and its output tokens predicted; its `cost_usd` is, whatever
    a query's own input tokens, where `prefill_router.labels.costs.cost_basis` says so.

    Parameters
    ----------
    labels : Labels
    prices : Prices or None
        None will do where every training answer has its `cost_usd`.
    features : ndarray of shape (N, D)
    train : ndarray of int
        The rows that are looked at.
    n_tokens : ndarray of shape (N,)
        Prompt tokens as the encoder counts them.
    tokenizers : mapping of int to tokenizers.Tokenizer, optional
        Own tokenizers of some targets.
    seed : int, default 0

    Returns
    -------
    CostModel

    Raises
    ------
    InputError
        If a price is unknown, or a target has no training answer of known length.
    """
    asked = labels.take(train)
    amounts, rates = cost_basis(asked, prices)
    lengths = fit_lengths(features[train], amounts, asked.group, seed)
    return CostModel(lengths, *rates, dict(tokenizers or {}))
