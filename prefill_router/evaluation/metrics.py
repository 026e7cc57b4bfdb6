from prefill_router.metrics import *  # noqa: F403
