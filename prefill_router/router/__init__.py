"""The router as an artifact: fitted once, saved as data, asked query by query."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from prefill_router.extraction import Layers, extract
from prefill_router.extraction.devices import Device
from prefill_router.extraction.prompts import Truncation
from prefill_router.extraction.sources import resolve
from prefill_router.labels import Labels
from prefill_router.labels.costs import Prices, expected_costs, has_costs
from prefill_router.labels.splits import make_splits
from prefill_router.router import files as router_files
from prefill_router.router import hub as router_hub
from prefill_router.router.amendable import Amendable
from prefill_router.router.card import model_card
from prefill_router.router.description import (
    describe,
    find_encoder,
    read_own_tokenizers,
)
from prefill_router.router.guarantee import check_levels
from prefill_router.router.parts import from_tensors, to_tensors
from prefill_router.router.training import train
from prefill_router.storage import Store, fingerprint


class Router(Amendable):
    """Made from labels, saved, loaded and shared; it routes, is evaluated and can be amended."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal characters that identify the router by content."""
        return fingerprint(self.config.model_dump(mode="json"))

    @classmethod
    def fit(
        cls,
        labels: Labels,
        encoder: str = "zoo/reader-l",
        *,
        prices: Prices | None = None,
        layers: Layers = "all",
        poolings: Sequence[str] = ("last", "mean"),
        dimensions: Sequence[int] = (16, 32, 64, 128),
        n_seeds: int = 10,
        keep: int = 5,
        max_tokens: int | None = None,
        truncation: Truncation = "error",
        max_loss: float = 0.02,
        confidence: float = 0.95,
        tokenizers: Mapping[str, str | os.PathLike] | None = None,
        encoder_price: float | None = None,
        device: Device = "cpu",
        dtype: str = "float32",
        seed: int = 0,
        n_resamples: int = 2000,
        store: Store | None = None,
    ) -> Router:
        """Make a router from labels.

        Layers, features, networks and answer lengths are fitted on training queries, calibration
        and policies on validation queries; the tolerance is certified and everything evaluated on
        test queries. No group of queries is on two sides.

        Parameters
        ----------
        labels : Labels
            Which target answered which query correctly. Their own split is kept if they have one.
        encoder : str, default "zoo/reader-l"
            As for `prefill_router.extraction.sources.resolve`.
        prices : Prices, optional
            Without them, and without `cost_usd` in the labels, policies know no costs.
        layers, poolings, max_tokens, truncation
            As for `prefill_router.extraction.encode`: what is tried and how prompts are read.
        dimensions : sequence of int, default (16, 32, 64, 128)
            Numbers of principal components tried.
        n_seeds, keep : int, default 10 and 5
            Networks trained, and kept.
        max_loss, confidence : float, default 0.02 and 0.95
            What the certified tolerance promises: see `prefill_router.router.guarantee.certify`.
        tokenizers : mapping of str to path, optional
            Of targets whose input tokens are counted by their own ``tokenizer.json`` (or the
            directory that holds it). The encoder's tokenizer counts for the others.
        encoder_price : float, optional
            What the encoder's prefill costs, in USD per million tokens. Default: the price table's
            input price of that name; where it has none, no saving includes it.
        device, dtype
            As for `prefill_router.extraction.models.load_encoder`; the networks train there too.
        seed : int, default 0
        n_resamples : int, default 2000
            Of the bootstrap.
        store : Store, optional
            Where extracted states are kept and found again. Default: they are thrown away.

        Returns
        -------
        Router

        Raises
        ------
        InputError
            If labels, prices, encoder or a parameter cannot be used.
        """
        split = make_splits(labels, seed=seed)[0]
        check_levels(max_loss, confidence)
        if has_costs(labels, prices):
            # before any prompt is read: its length does not matter to what is unknown
            expected_costs(labels, prices, np.zeros(labels.n_queries), split.train)
        source = resolve(encoder)
        counters = read_own_tokenizers(tokenizers or {}, labels.targets)
        if encoder_price is None and prices is not None:
            encoder_price = prices.input.get(encoder)
        activations = extract(
            source,
            labels.question.tolist(),
            layers=layers,
            poolings=poolings,
            max_tokens=max_tokens,
            truncation=truncation,
            device=device,
            dtype=dtype,
            cache_dir=None if store is None else store.root,
        )
        trained = train(
            activations,
            labels,
            split,
            prices,
            counters,
            device=device,
            dimensions=dimensions,
            n_seeds=n_seeds,
            keep=keep,
            max_loss=max_loss,
            confidence=confidence,
            encoder_price=encoder_price,
            n_resamples=n_resamples,
            seed=seed,
        )
        reading = {"dtype": dtype, "max_tokens": max_tokens, "truncation": truncation}
        config = describe(trained, labels, split, source, prices, reading, seed)
        return cls(config, trained.parts, source, device)

    def save_pretrained(self, directory: str | os.PathLike) -> Path:
        """Write the router, with a model card, into a directory, which is made if need be.

        Returns
        -------
        pathlib.Path
            The directory.
        """
        costs = self._fitted.costs
        router_files.write(
            Path(directory),
            self.config,
            to_tensors(self._fitted),
            costs.tokenizers if costs else {},
            model_card(self.config, self.metrics, self.guarantee),
        )
        return Path(directory)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        revision: str | None = None,
        device: Device = "cpu",
        encoder: str | None = None,
    ) -> Router:
        """Load a router and its encoder. Nothing in either is executed.

        Parameters
        ----------
        name : str or path-like
            A directory, or ``owner/name`` on the Hugging Face hub.
        revision : str, optional
            A commit, branch or tag on the hub.
        device : device, default "cpu"
            Where the encoder reads.
        encoder : str, optional
            Where the encoder lies, if not under the name it had; its hash must be the same.

        Returns
        -------
        Router

        Raises
        ------
        InputError
            If there is no router, a file is not what it says it is, or the encoder is missing or
            another one.
        """
        directory = router_hub.find(os.fspath(name), revision)
        config = router_files.read_config(directory)
        tensors = router_files.read_tensors(directory, config)
        parts = from_tensors(config, tensors, router_files.read_tokenizers(directory, config))
        return cls(config, parts, find_encoder(config, encoder), device)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a router",
        create_pr: bool = False,
    ) -> str:
        """Upload the router to the Hugging Face hub, into a repository that is made if need be.

        Parameters
        ----------
        repo_id : str
            ``owner/name``.
        token : str, optional
            Default: the one that ``hf auth login`` keeps.
        private : bool, optional
            Of a new repository. Default: as the owner's settings say.
        revision : str, optional
            The branch. Default: the main one.
        commit_message : str
        create_pr : bool, default False
            Whether to open a pull request instead.

        Returns
        -------
        str
            The address of the commit.
        """
        with tempfile.TemporaryDirectory() as directory:
            return router_hub.upload(
                self.save_pretrained(directory),
                repo_id,
                token=token,
                private=private,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
            )
