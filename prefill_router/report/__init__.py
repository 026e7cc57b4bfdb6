"""Tables, figures and pages of results; sentences about them are written one stage earlier."""

from prefill_router.evaluation.sentences import QUERIES, format_interval, headline, verdict

__all__ = ["QUERIES", "format_interval", "headline", "verdict"]
