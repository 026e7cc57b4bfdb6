"""Predict which language model will answer a query correctly from another model's prefill states."""

__version__ = "0.1.0"
