"""The command line: studies, the loop from labels to a router in use, the zoo, the toolkit."""

from prefill_router.cli import labels, loop, tools
from prefill_router.cli.common import app, toolkit_app, zoo_app

__all__ = ["app", "labels", "loop", "toolkit_app", "tools", "zoo_app"]
