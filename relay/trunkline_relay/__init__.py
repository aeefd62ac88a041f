"""The relay: follows `$all` and publishes it, batch by batch, to RabbitMQ."""

try:
    from trunkline_relay.replay import Replay
    from trunkline_relay.run import Relay
except ModuleNotFoundError as error:
    if error.name and error.name.split(".")[0] in ("trunkline_relay", "trunkline_store"):
        raise
    raise ModuleNotFoundError(f"{error.name} is missing: install trunkline[relay]", name=error.name) from error

__all__ = ["Relay", "Replay"]
