"""Features of each target: principal components of the layer and pooling chosen for it."""

from prefill_router.features.components import TargetFeatures

__all__ = ["TargetFeatures"]
