"""Moved to `prefill_router.experiments.routers`."""

from prefill_router.experiments.routers import network_predictions

__all__ = ["network_predictions"]
