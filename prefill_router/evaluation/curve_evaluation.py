"""Earlier names, until all callers have moved to `prefill_router.evaluation.comparison`."""

from prefill_router.evaluation.comparison import Evaluation


def compare_curves(
    p, correct, cost, expected_cost=None, groups=None, *, weak_strong=None, best_single=None,
    pairs=(), split="test", n_resamples=200, seed=0,
):  # fmt: skip
    """Use `Evaluation.curves`."""
    return Evaluation(
        correct, cost, groups, best_single, (), None, split, n_resamples, seed
    ).curves(p, expected_cost, pairs, weak_strong)


def curve_band(
    p, correct, cost, expected_cost=None, groups=None, *, n_points=40, n_resamples=500, seed=0
):
    """Use `Evaluation.band`."""
    return Evaluation(correct, cost, groups, n_resamples=n_resamples, seed=seed).band(
        p, expected_cost, n_points
    )
