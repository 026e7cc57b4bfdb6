"""Feature sets against each other on test rows: does choosing a layer, or an encoder, matter?

They are fitted on training rows, and read by one logistic regression per target, whose penalty
validation rows choose.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from prefill_router.baselines.classifiers import TargetLogistic
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.fold import Features, FoldFit
from prefill_router.experiments.routers import RouterSpec, predictions
from prefill_router.experiments.study import Study
from prefill_router.features.selection import choose
from prefill_router.progress import track
from prefill_router.recipe import all_places
from prefill_router.recipe.heads import STRENGTHS

ONE = "one layer per target"
BY_J = "one layer per target by J"
LAST = "last layer only"
ALL = "all layers"
SEVERAL = "all layers of several encoders"
WIDTH = 200
"""Leading components of many layers, as many as the authors' later recipe reads."""


def compare_features(study: Study) -> pd.DataFrame:
    """Compare what heads may read of each encoder with one layer per target, on test rows.

    Returns
    -------
    pandas.DataFrame
        Results: "AUC" and "gap closed" by asking the likeliest target, means over targets, of each
        feature set (the `router`) of an `encoder`, and its difference `versus` `ONE`. `SEVERAL`
        reads all trained encoders and stands beside the main one.
    """
    at, found = held_out(study), []
    for encoder in track(study.encoders, "Comparing feature sets"):
        sets = {name: [encoder] for name in (ONE, BY_J, LAST, ALL)}
        if encoder == study.parameters.encoder and len(study.trained_encoders) > 1:
            sets[SEVERAL] = study.trained_encoders
        p = {
            name: at.join(predictions(study, feature_set(name), encoders))
            for name, encoders in sets.items()
        }
        compared = at.likeliest(p, [(name, ONE) for name in sets if name != ONE])
        found.append(compared.assign(encoder=encoder))
    return pd.concat(found, ignore_index=True)


def feature_set(name: str) -> RouterSpec:
    """Return the router that reads `features` by logistic regressions."""
    heads = [TargetLogistic(C) for C in STRENGTHS]
    return RouterSpec(f"logistic, {name}", lambda it: it.tuned_by_target(features(it, name), heads))


def features(it: FoldFit, name: str) -> Features:
    """Return a feature set of all rows, fitted on a fold's training rows.

    Parameters
    ----------
    it : FoldFit
        And the encoders whose states are read.
    name : str
        `ONE`: the layer, pooling and dimension that cross-validation on training rows prefers for
        each target, as published. `BY_J`: layer and pooling by J instead. `LAST`: pooling and
        dimension of the last layer. `ALL` and `SEVERAL`: the `WIDTH` leading components of every
        layer and pooling of every encoder side by side, for all targets.
    """
    study = it.study.like(criterion="J" if name == BY_J else "auc")  # whatever its own is
    if name in (ALL, SEVERAL):
        X = np.hstack(it.reduced(all_places(it.states)))
        axes = np.linalg.eigh(X[it.split.train].T @ X[it.split.train])[1]
        return [X @ axes[:, -WIDTH:]]
    if name == LAST:
        table = study.layer_auc(it.encoders[0]).query("fold == @it.fold and layer == layer.max()")
        return it.reduced(choose(table))
    return it.reduced(study.choices(it.encoders, it.fold))
