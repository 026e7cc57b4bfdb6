"""What a study's router promises: every question of one chapter, from predictions that are kept."""

from __future__ import annotations

from prefill_router.evaluation.estimates import Estimate
from prefill_router.experiments.calibrated_predictions import (
    calibrated_predictions,
    evaluate_abstention,
    evaluate_calibration,
)
from prefill_router.experiments.certificates import (
    evaluate_guarantee,
    evaluate_labels_needed,
)
from prefill_router.experiments.spending import (
    costs_by_way,
    evaluate_budgets,
    evaluate_expected_costs,
)
from prefill_router.experiments.study import Study


def promises(study: Study, draws: int = 20) -> list[Estimate]:
    """Return all that chapter 13 says of a study's SharedTrunkNet.

    Parameters
    ----------
    study : Study
    draws : int, default 20
        As in `evaluate_labels_needed`.

    Returns
    -------
    list of Estimate
        Of calibration, the guarantee, the labels it takes, abstention, and, where costs are known,
        of predicted costs and budgets.
    """
    raw, p = calibrated_predictions(study)
    found = evaluate_calibration(study, raw, p)
    found += evaluate_guarantee(study, p)
    found += evaluate_labels_needed(study, p, repetitions=draws)
    found += evaluate_abstention(study, p)
    if study.has_costs:
        ways = costs_by_way(study)
        found += evaluate_expected_costs(study, p, ways) + evaluate_budgets(study, p, ways)
    return found
