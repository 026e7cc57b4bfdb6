"""Label tables that a random encoder can half predict, and studies of them, for tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import tiny_models
from sklearn.metrics import roc_auc_score

from prefill_router.config import validate
from prefill_router.experiments.study import Study

TARGETS = ["early", "late", "noisy", "perfect"]
PRICES = {"early": (1.0, 4.0), "late": (0.5, 2.0), "noisy": (0.2, 0.4), "perfect": (40.0, 90.0)}


def label_table(n=240, targets=TARGETS[:3], seed=0):
    """Return a long table: `early` and `late` know half of the words each, `noisy` guesses."""
    rng = np.random.default_rng(seed)
    words = [rng.integers(0, 20, size=rng.integers(2, 10)) for _ in range(n)]
    share = np.array([np.mean(word < 10) for word in words])
    right = {
        "early": share + rng.normal(0, 0.1, n) > 0.45,
        "late": share + rng.normal(0, 0.1, n) < 0.5,
        "noisy": rng.random(n) < 0.45,
        "perfect": np.ones(n, dtype=bool),
    }
    tables = [
        pd.DataFrame(
            {
                "query_id": [f"q{i}" for i in range(n)],
                "question": [" ".join(f"w{w}" for w in word) for word in words],
                "benchmark": np.where(rng.random(n) < 0.5, "red", "blue"),
                "model": target,
                "is_correct": right[target].astype(int),
                "output_tokens": rng.integers(1, 60, n),
                "group": [f"g{i // 2}" for i in range(n)],
            }
        )
        for target in targets
    ]
    for table in tables[1:]:
        table["benchmark"] = tables[0]["benchmark"]
    return pd.concat(tables, ignore_index=True)


def world(directory: Path, table=None) -> dict:
    """Write labels, prices and encoders, and return the parameters of a quick study of them."""
    directory.mkdir(parents=True, exist_ok=True)
    (label_table() if table is None else table).to_csv(directory / "labels.csv", index=False)
    prices = [(name, *price) for name, price in PRICES.items()]
    columns = ["model", "usd_per_m_input", "usd_per_m_output"]
    pd.DataFrame(prices, columns=columns).to_csv(directory / "prices.csv", index=False)
    for seed, name in enumerate(("main", "other", "control")):
        if not (directory / name).exists():
            # with a template every prompt ends alike, so that layer 0 is constant at its last token
            tiny_models.save(directory / name, seed=seed, template=tiny_models.TEMPLATE)
    return {
        "labels": str(directory / "labels.csv"),
        "prices": str(directory / "prices.csv"),
        "encoder": str(directory / "main"),
        "encoders": [str(directory / "other")],
        "untrained": str(directory / "control"),
        "dimensions": [2, 6],
        "n_seeds": 2,
        "keep": 2,
        "n_resamples": 100,
        "run_dir": str(directory / "run"),
    }


def study(directory: Path, table=None, **values) -> Study:
    return Study(validate({**world(directory, table), **values}))


def relabelled(study: Study, **values) -> Study:
    """Return a study of the same splits with other labels, from which all else follows."""
    other = study.like(study.splits)
    other.labels = replace(study.labels, **values)
    return other


def flipped(study: Study, rows, targets=slice(None), **values) -> Study:
    """Return a study of the same splits with the opposite labels in some rows, and `values`."""
    correct = study.labels.correct.copy()
    correct[rows, targets] = 1 - correct[rows, targets]
    return relabelled(study, correct=correct, **values)


def weighted_auc(y, p, parts):
    """Average scikit-learn's AUC of parts, weighted by their pairs of a right and a wrong row."""
    areas = [roc_auc_score(y[part], p[part]) for part in parts]
    return np.average(areas, weights=[y[part].sum() * (1 - y[part]).sum() for part in parts])


def auc_within_folds(study, p, k):
    """Return the AUC of predictions (n, K) of target k's test labels, within folds."""
    parts = [study.test_folds == fold for fold in range(len(study.splits))]
    return weighted_auc(study.labels.correct[study.test_rows, k], p[:, k], parts)
