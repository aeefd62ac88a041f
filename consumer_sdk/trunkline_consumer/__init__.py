"""The consumer SDK: named, durable subscriptions that never lose their place."""

try:
    from trunkline_consumer.batch import Batch
    from trunkline_consumer.consumer import Consumer
    from trunkline_consumer.subscription import (
        CURRENT,
        ORIGIN,
        Counts,
        Options,
        Start,
        State,
        Subscription,
    )
except ModuleNotFoundError as error:
    if error.name and error.name.split(".")[0] in ("trunkline_consumer", "trunkline_store"):
        raise
    raise ModuleNotFoundError(f"{error.name} is missing: install trunkline[consumer]", name=error.name) from error

__all__ = [
    "CURRENT",
    "ORIGIN",
    "Batch",
    "Consumer",
    "Counts",
    "Options",
    "Start",
    "State",
    "Subscription",
]
