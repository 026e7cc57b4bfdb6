"""One study: its parameters and all that follows from them, loaded if present, computed if not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file

from prefill_router import zoo
from prefill_router.config import PLACES, Parameters, from_namespace, project_root
from prefill_router.errors import InputError
from prefill_router.evaluation.results import write_metrics
from prefill_router.extraction import extract
from prefill_router.extraction.activations import Activations
from prefill_router.extraction.models import training_device
from prefill_router.extraction.sources import ModelSource, local_path, resolve
from prefill_router.features import fit_components
from prefill_router.features.selection import (
    Choice,
    choose,
    cross_validated_auc,
)
from prefill_router.labels import Labels, load_labels
from prefill_router.labels.costs import Prices, has_costs, load_prices, query_costs
from prefill_router.labels.splits import Split, make_splits
from prefill_router.probes import probe_layers
from prefill_router.recipe import Recipe
from prefill_router.recipe.cost_prediction import fit_costs
from prefill_router.storage import Store, fingerprint, read_json, write_json

SPLIT_BY = {"labels", "fresh_labels", "targets", "n_queries", "outer_folds", "seed"}
"""Parameters that labels and splits follow from."""
ARTIFACTS = "PREFILL_ROUTER_ARTIFACTS"
"""Environment variable that names a store for all studies to share, instead of one in each run."""


class Study:
    """What the notebooks ask for, one stage after the other.

    Parameters
    ----------
    parameters : Parameters
        What the study is made from. Relative paths in it start at the project's root.

    Attributes
    ----------
    run_dir : pathlib.Path
        Where metrics and, unless `ARTIFACTS` names a store, artifacts go.
    store : Store
        The artifacts.

    Raises
    ------
    InputError
        If the run directory belongs to other parameters.
    """

    def __init__(self, parameters: Parameters):
        self.parameters, self.root = parameters, project_root()
        self.run_dir = self.root / (parameters.run_dir or f"runs/{parameters.fingerprint}")
        self.store = Store(os.environ.get(ARTIFACTS) or self.run_dir / "artifacts")
        self._held: dict[str, Any] = {}  # labels and states, by all that they depend on
        mine, path = self._identity(), self.run_dir / "parameters.json"
        theirs = read_json(path) if any(self.run_dir.glob("metrics/*.json")) else mine
        differing = sorted(name for name in mine | theirs if mine.get(name) != theirs.get(name))
        if differing:
            raise InputError(
                f"{self.run_dir} holds a run with other parameters ({', '.join(differing)}); "
                "give another run_dir, or delete that directory."
            )

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any]) -> Study:
        """Return the study of a notebook, from its ``globals()`` after the `parameters` cell."""
        if any(isinstance(value, cls) for value in namespace.values()):
            # Run again in one kernel: later cells have left names that are no parameters.
            namespace = {n: v for n, v in namespace.items() if n in Parameters.model_fields}
        return cls(from_namespace(namespace))

    def like(self, splits: Sequence[Split] | None = None, **parameters: Any) -> Study:
        """Return a study of the same store and run directory, for a question on the side.

        Parameters
        ----------
        splits : sequence of Split, optional
            In place of those that the parameters make, of the same labels.
        **parameters
            Those that differ; with `splits`, none that the labels depend on.

        Returns
        -------
        Study
            It records no results: the run directory is this study's.
        """
        other = Study.__new__(Study)
        for name in ("root", "run_dir", "store", "_held"):
            setattr(other, name, getattr(self, name))
        other.parameters = self.parameters.model_copy(update=parameters)
        if splits is None and not parameters.keys() & SPLIT_BY:
            splits = vars(self).get("splits")  # perhaps not those that its parameters make
        if splits is not None:
            other.splits = list(splits)
        return other

    def _identity(self) -> dict[str, Any]:
        return self.parameters.model_dump(mode="json", exclude=PLACES)

    def claim(self) -> None:
        """Make the run directory this study's own, once there is something to keep in it."""
        write_json(self.run_dir / "parameters.json", self._identity())

    # -- labels ------------------------------------------------------------------------------

    @property
    def is_zoo(self) -> bool:
        """Whether the labels are those of the embedded zoo."""
        return self.parameters.labels == "zoo"

    def _path(self, name: str) -> str:
        """Return a path that is relative to the project's root as one that can be opened.

        A name that only the working directory has is refused: notebooks run in another one.
        """
        if any(local_path(str(self.root / part)) for part in (name, name.partition(":")[0])):
            return str(self.root / name)
        here = None if name.startswith("zoo/") else local_path(name)
        if here and not here.is_absolute():
            raise InputError(
                f"{name} is not in the project's directory, {self.root}, where relative paths "
                f"start; give {here.resolve()}."
            )
        return name

    @cached_property
    def labels(self) -> Labels:
        """The label matrix Y (N, K) with its queries."""
        p = self.parameters

        def load() -> Labels:
            return load_labels(self.label_table, p.targets, p.n_queries, p.seed)

        return self._once(load, p.labels, p.fresh_labels, p.targets, p.n_queries, p.seed)

    @property
    def label_table(self) -> str | Path:
        """Where the label table lies."""
        p = self.parameters
        if p.fresh_labels and not self.is_zoo:
            raise InputError("fresh_labels: only the zoo's own labels (labels: zoo) can be redone.")
        if p.fresh_labels:
            from prefill_router.zoo.labelling import fresh_labels

            return fresh_labels(self.store, p.device)
        return zoo.LABELS if self.is_zoo else self._path(p.labels)

    def _once(self, make: Callable[[], Any], *of: Any) -> Any:
        """Return what `make` returns, made once for all studies of this store."""
        key = fingerprint(*of)
        if key not in self._held:
            self._held[key] = make()
        return self._held[key]

    @cached_property
    def splits(self) -> list[Split]:
        """One split, or the outer folds."""
        p = self.parameters
        return make_splits(self.labels, outer_folds=p.outer_folds, seed=p.seed)

    @cached_property
    def test_rows(self) -> np.ndarray:
        """Every row that some split tests, (n,), sorted."""
        return np.sort(np.concatenate([split.test for split in self.splits]))

    @cached_property
    def test_folds(self) -> np.ndarray:
        """Which split tests each of `test_rows`, (n,)."""
        tested = [split.test for split in self.splits]
        folds = np.repeat(range(len(tested)), [len(rows) for rows in tested])
        return folds[np.argsort(np.concatenate(tested))]

    @cached_property
    def best_single(self) -> list[int]:
        """The most accurate target on the training rows of each split."""
        return [int(np.nanargmax(self.labels.take(s.train).accuracy)) for s in self.splits]

    # -- states ------------------------------------------------------------------------------

    def source(self, encoder: str) -> ModelSource:
        """Find an encoder."""
        return resolve(self._path(encoder))

    def activations(self, encoder: str | None = None) -> Activations:
        """Return the pooled states of all queries; by default of the study's main encoder."""
        p = self.parameters
        encoder = encoder or p.encoder
        settings = {
            "layers": p.layers if encoder == p.encoder or p.layers in ("all", "upper") else "all",
            "poolings": p.poolings,
            "max_tokens": p.max_tokens or None,
            "truncation": p.truncation,
            "dtype": p.dtype,
        }
        extracted = partial(
            extract,
            self.source(encoder),
            self.labels.question.tolist(),
            **settings,
            device=p.device,
            engine=p.engine,
            address=p.address or None,
            cache_dir=self.store.root,
        )
        return self._once(extracted, encoder, settings, self.labels.fingerprint)

    def states(self, encoders: Iterable[str]) -> dict[str, Activations]:
        """Return the pooled states of several encoders, by name."""
        return {encoder: self.activations(encoder) for encoder in encoders}

    @cached_property
    def encoders(self) -> list[str]:
        """All encoders compared, the main one and the untrained control among them."""
        p = self.parameters
        return list(dict.fromkeys(filter(None, [*p.encoders, p.encoder, p.untrained])))

    @property
    def trained_encoders(self) -> list[str]:
        """All encoders but the untrained control."""
        return [name for name in self.encoders if name != self.parameters.untrained]

    @property
    def training_device(self) -> torch.device:
        """What trains heads on this machine, whatever reads the prompts."""
        p = self.parameters
        return training_device("auto" if p.engine == "ray" else p.device)

    # -- probes and the choice of layers -----------------------------------------------------

    def probes(self, encoder: str) -> pd.DataFrame:
        """Return J, d_eff and anisotropy by layer and target, of each split's training rows.

        Returns
        -------
        pandas.DataFrame
            That of `probe_layers`, with columns ``encoder`` and ``fold``.
        """
        correct = self.labels.correct
        return self._table("layer-probes", encoder, lambda h, rows: probe_layers(h, correct, rows))

    def layer_auc(self, encoder: str) -> pd.DataFrame:
        """Return cross-validated AUC by layer, pooling, dimension and target, likewise."""
        p, labels = self.parameters, self.labels

        def validate(states: Activations, rows: np.ndarray) -> pd.DataFrame:
            return cross_validated_auc(
                states, labels.correct, rows, labels.group, states.layers, states.poolings,
                p.dimensions, p.inner_folds, p.seed,
            )  # fmt: skip

        return self._table("layer-auc", encoder, validate, p.dimensions, p.inner_folds)

    def _table(
        self,
        kind: str,
        encoder: str,
        measure: Callable[[Activations, np.ndarray], pd.DataFrame],
        *settings: Any,
    ) -> pd.DataFrame:
        """Measure an encoder's layers on the training rows of every split, once for `settings`."""

        def write(directory: Path) -> None:
            tables = [
                measure(self.activations(encoder), split.train).assign(fold=fold)
                for fold, split in enumerate(self.splits)
            ]
            pd.concat(tables, ignore_index=True).to_parquet(directory / "table.parquet")

        key = self.key(*settings, encoders=[encoder])
        path = self.store.get(kind, key, write, stage="features") / "table.parquet"
        return pd.read_parquet(path).assign(encoder=encoder)

    def key(self, *settings: Any, encoders: Iterable[str] = ()) -> dict[str, Any]:
        """Return what fitted artifacts depend on: labels, splits, seed, states and `settings`."""
        splits = [[s.train.tolist(), s.validation.tolist(), s.test.tolist()] for s in self.splits]
        return {
            "labels": self.labels.fingerprint,
            "splits": fingerprint(splits),
            "seed": self.parameters.seed,
            "states": {encoder: self.activations(encoder).key for encoder in encoders},
            "settings": list(settings),
        }

    def kept(
        self,
        kind: str,
        fit: Callable[[int], Mapping[str, np.ndarray]],
        numbers: Iterable[int],
        *settings: Any,
        encoders: Iterable[str] = (),
        stage: str = "experiments",
    ) -> list[dict[str, np.ndarray]]:
        """Return what `fit` returns for each number, such as a fold's, fitted once; see `key`."""

        def write(directory: Path, number: int) -> None:
            found = {name: np.ascontiguousarray(values) for name, values in fit(number).items()}
            save_file(found, directory / "arrays.safetensors")

        key, found = self.key(*settings, encoders=encoders), []
        for number in numbers:
            build = partial(write, number=number)
            path = self.store.get(kind, key | {"number": number}, build, stage=stage)
            found.append(load_file(path / "arrays.safetensors"))
        return found

    def choices(self, encoders: Sequence[str], fold: int) -> list[Choice]:
        """Choose each target's encoder, layer, pooling and dimension on a split's training rows.

        As `prefill_router.recipe.choose_places` does.
        """

        def of_fold(measured: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
            table = pd.concat([measured(encoder) for encoder in encoders])
            return table[table["fold"] == fold]

        by_J = self.parameters.criterion == "J"
        return choose(of_fold(self.layer_auc), of_fold(self.probes) if by_J else None)

    def recipe(self, head: str = "trunk") -> Recipe:
        """Return the study's recipe for a router with this head."""
        p = self.parameters
        return Recipe(
            head, p.criterion, p.dimensions, p.inner_folds, p.n_seeds, p.keep, p.seed,
            self.training_device,
        )  # fmt: skip

    # -- costs -------------------------------------------------------------------------------

    @property
    def has_costs(self) -> bool:
        """Whether anything says what an answer costs."""
        return has_costs(self.labels, self.prices)

    @cached_property
    def prices(self) -> Prices | None:
        """The price table, if there is one."""
        name = self.parameters.prices
        if name == "zoo" and not self.is_zoo:
            raise InputError(
                "prices: zoo is the price table of the zoo's own targets; give your targets' "
                "(prices=FILE.csv), or none (prices=) to leave costs out."
            )
        return load_prices(zoo.PRICES if name == "zoo" else self._path(name)) if name else None

    @cached_property
    def costs(self) -> np.ndarray:
        """What each answer cost, (N, K) in USD; input tokens are the main encoder's."""
        return query_costs(self.labels, self.prices, self.activations().full_tokens)

    def expected_costs(self, fold: int) -> np.ndarray:
        """Return what a policy may know of costs before asking, (N, K) in USD.

        Answer lengths are predicted by the recipe from the main encoder's states, on training rows:
        the same for every router compared, so that routers differ in P(correct) alone.
        """
        p, states = self.parameters, self.activations()

        def fit(fold: int) -> dict[str, np.ndarray]:
            choices, train = self.choices([p.encoder], fold), self.splits[fold].train
            components = fit_components(choices, {p.encoder: states}, train)
            features = components.features(components.read({p.encoder: states}))
            n_tokens = states.full_tokens
            costs = fit_costs(self.labels, self.prices, features, train, n_tokens, seed=p.seed)
            inputs = costs.input_tokens(self.labels.question.tolist(), n_tokens)
            return {"usd": costs.expected(features, inputs)}

        prices = self.prices and [self.prices.input, self.prices.output]
        settings = [p.dimensions, p.criterion, p.inner_folds, prices]
        about = {"encoders": [p.encoder], "stage": "recipe"}
        return self.kept("predicted-costs", fit, [fold], *settings, **about)[0]["usd"]

    # -- results -----------------------------------------------------------------------------

    def record(self, notebook: str, found: pd.DataFrame) -> None:
        """Keep a notebook's results in the run directory, for the run's ``metrics.json``."""
        self.claim()
        write_metrics(self.run_dir / "metrics" / f"{notebook}.json", found)
