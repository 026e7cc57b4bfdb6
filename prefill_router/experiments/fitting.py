"""Moved to `prefill_router.experiments.fold`."""

from prefill_router.experiments.fold import FoldFit as Fitting

__all__ = ["Fitting"]
