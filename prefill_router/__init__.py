"""Predict which language model will answer right, from another model's prefill states."""

__version__ = "0.1.0"
