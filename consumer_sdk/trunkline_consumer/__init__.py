"""The consumer SDK: named, durable subscriptions that never lose their place."""

try:
    from trunkline_consumer.batch import Batch
    from trunkline_consumer.consumer import Consumer
    from trunkline_consumer.follow import Counts
    from trunkline_consumer.handle import by_correlation, by_stream
    from trunkline_consumer.options import Options
    from trunkline_consumer.subscription import State, Subscription
    from trunkline_store import CURRENT, ORIGIN, Start
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
    "by_correlation",
    "by_stream",
]
