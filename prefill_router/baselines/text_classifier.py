"""A small language model fine-tuned to say, from the text, which targets will answer correctly."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import logit
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from prefill_router.baselines import base_rate, estimator
from prefill_router.extraction.batches import plan_batches
from prefill_router.extraction.model_layout import model_inputs
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.pooling import pool_mean
from prefill_router.extraction.prompts import Prompts, Truncation, token_limit
from prefill_router.extraction.sources import ModelSource, resolve
from prefill_router.labels import label_matrix
from prefill_router.progress import track
from prefill_router.trunk.training import grouped_split, masked_loss

TOKEN_BUDGET = 8192  # of a batch that is only read


@estimator
class TextClassifier(BaseEstimator):
    """An encoder with one logit a target on its mean-pooled last states, all of it fine-tuned.

    Parameters
    ----------
    encoder : str or ModelSource
        As for `prefill_router.extract`.
    learning_rate : float, default 3e-4
        Of Adam, for encoder and head alike.
    max_epochs, patience : int, default 12 and 3
        Training stops after `patience` epochs without a lower loss on the inner validation rows;
        the model gets its best epoch's weights.
    batch_size : int, default 32
        Prompts a step.
    inner_share : float, default 0.15
        Share of the rows given to `fit` that validate.
    max_tokens : int, optional
        The most tokens of a prompt; by default what the encoder allows.
    truncation : {"error", "left", "right"}, default "error"
        What to do with longer prompts.
    random_state : int, default 0
        Decides the inner split, the order of the rows and dropout.
    device : torch.device or str, default "cpu"
        What trains, and predicts.

    Attributes
    ----------
    model_, tokenizer_, prompts_
        The fine-tuned encoder, its tokenizer, and how it reads questions.
    head_ : torch.nn.Linear
        D -> K. It starts at weights 0 and each target's base rate, which stays where no epoch
        improves on it.
    losses_ : list of float
        Inner validation loss before training and after each epoch.
    labelled_ : ndarray of bool, shape (K,)
        The other targets are given probability one half.
    """

    encoder: str | ModelSource
    learning_rate: float = 3e-4
    max_epochs: int = 12
    patience: int = 3
    batch_size: int = 32
    inner_share: float = 0.15
    max_tokens: int | None = None
    truncation: Truncation = "error"
    random_state: int = 0
    device: torch.device | str = "cpu"

    def fit(
        self, X: Sequence[str], Y: np.ndarray, groups: np.ndarray | None = None
    ) -> TextClassifier:
        """Fine-tune on questions and labels.

        Parameters
        ----------
        X : sequence of str, length N
        Y : ndarray of shape (N, K)
            1 right, 0 wrong, NaN never asked.
        groups : ndarray of shape (N,), optional
            Rows that share a value are on the same side of the inner split.

        Returns
        -------
        TextClassifier

        Raises
        ------
        InputError
            If the encoder cannot be loaded, a question cannot be read, or rows are too few.
        """
        X, Y = np.asarray(X, dtype=object), label_matrix(Y, X)
        rng = np.random.default_rng(self.random_state)
        groups = np.arange(len(X)) if groups is None else np.asarray(groups)
        train, held, _ = grouped_split(groups, self.inner_share, rng)
        self.labelled_ = ~np.isnan(Y).all(axis=0)
        source = resolve(self.encoder) if isinstance(self.encoder, str) else self.encoder
        self.model_, self.tokenizer_ = load_encoder(source, str(self.device))
        limit = self.max_tokens or token_limit(self.model_, self.tokenizer_)
        self.prompts_ = Prompts(self.tokenizer_, limit, self.truncation)
        self.prompts_.count(X)  # refuses what cannot be read
        labels = torch.tensor(Y, dtype=torch.float32, device=self.model_.device)
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            width = self._pooled(X[:1]).shape[1]
            self.head_ = nn.Linear(width, Y.shape[1], device=self.model_.device)
            nn.init.zeros_(self.head_.weight)
            with torch.no_grad():
                self.head_.bias.copy_(torch.from_numpy(logit(base_rate(Y[train]))))
            network = nn.ModuleList([self.model_, self.head_])
            optimiser = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
            best = copy.deepcopy(network.state_dict())
            self.losses_ = [self._loss(X[held], labels[held])]
            for epoch in track(range(1, self.max_epochs + 1), "Fine-tuning"):
                network.train()
                order = rng.permutation(train)
                for rows in np.split(order, range(self.batch_size, len(order), self.batch_size)):
                    logits = self.head_(self._pooled(X[rows]))
                    optimiser.zero_grad()
                    masked_loss(logits[None], labels[rows][None]).sum().backward()
                    optimiser.step()
                network.eval()
                self.losses_.append(self._loss(X[held], labels[held]))
                best_epoch = self.losses_.index(min(self.losses_))
                if best_epoch == epoch:
                    best = copy.deepcopy(network.state_dict())
                elif epoch - best_epoch == self.patience:
                    break
            network.load_state_dict(best)
        return self

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """Predict from questions `X`, (n, K)."""
        order, logits = self._logits(np.asarray(X, dtype=object))
        p = np.empty((len(order), len(self.labelled_)))
        p[order] = torch.sigmoid(logits).cpu().numpy()
        return np.where(self.labelled_, p, 0.5)

    def _pooled(self, X: np.ndarray) -> Tensor:
        """Mean of the last block's states over each prompt, (B, D)."""
        batch = self.prompts_.batch(X).to(self.model_.device)
        output = self.model_(**model_inputs(self.model_, batch.tokens, batch.lengths))
        return pool_mean(output.last_hidden_state, batch)

    def _loss(self, X: np.ndarray, labels: Tensor) -> float:
        order, logits = self._logits(X)
        return masked_loss(logits[None], labels[order][None]).item()

    @torch.inference_mode()
    def _logits(self, X: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Read prompts of similar length together; return the rows in that order, their logits."""
        lengths = np.minimum(self.prompts_.count(X), self.prompts_.max_tokens)
        batches = plan_batches(lengths, TOKEN_BUDGET)
        logits = [self.head_(self._pooled(X[rows])) for rows in batches]
        return np.concatenate(batches), torch.cat(logits)
