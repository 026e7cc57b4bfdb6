"""The networks that SharedTrunkNet averages, one by one and the first few together."""

from __future__ import annotations

import numpy as np

from prefill_router.evaluation.estimates import Estimate
from prefill_router.experiments.comparison import compare_probabilities
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.routers import ensembles
from prefill_router.experiments.study import Study


def network_predictions(study: Study) -> np.ndarray:
    """Return P(correct) of the test queries by each SharedTrunkNet kept, best first, (keep, n, K).

    They differ in their seeds alone, for `significance.seed_deviation`. The kept ones are those of
    the lowest validation loss, so that all that were trained spread somewhat wider.
    """
    by_fold = []
    for fold, ensemble in enumerate(ensembles(study)):
        x = FoldFit(study, fold, [study.parameters.encoder]).features()
        by_fold.append(np.moveaxis(ensemble.predict_each(x), 0, 1))
    return np.moveaxis(study.over_folds(by_fold), 1, 0)


def ensemble_sizes(study: Study) -> list[Estimate]:
    """Return the AUC of averages of the 1, 2, ... best SharedTrunkNets kept, on test queries."""
    by_network = network_predictions(study)
    sizes = range(1, len(by_network) + 1)
    p = {str(size): by_network[:size].mean(axis=0) for size in sizes}
    found = compare_probabilities(study, p, primary=None)
    return [row for row in found if row.metric == "AUC" and not row.target]
