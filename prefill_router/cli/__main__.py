"""``python -m prefill_router.cli``."""

from prefill_router.cli import app

app()
