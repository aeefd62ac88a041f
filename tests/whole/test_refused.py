"""RabbitMQ answers, and wants nothing of us: relay, replay and subscription say so in the same words."""

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from tests.relay.plain import append
from tests.whole.flow import relay_running
from trunkline_consumer import Consumer
from trunkline_relay import Replay
from trunkline_store import BrokerUnavailable, EventStore

REFUSALS: list[tuple[str, str, str]] = [
    ("vhost", "RabbitMQ refuses the URL's vhost", "it does not exist, or is closed to this user"),
    ("password", "RabbitMQ refuses us: ACCESS_REFUSED - Login was refused", ""),
]


@pytest.mark.parametrize(("wrong", "beginning", "end"), REFUSALS, ids=["vhost", "password"])
async def test_a_vhost_or_a_password_that_is_wrong_is_said(
    wrong: str, beginning: str, end: str, store: EventStore, database: str, vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By the relay's log, by the error of a replay, and by a subscription's log, which goes on from the store."""
    parts = urlsplit(vhost)
    host = f"{parts.hostname}:{parts.port}"
    right = f"{parts.username}:{parts.password}@{host}"
    url = f"amqp://{right}/no%2Fvhost" if wrong == "vhost" else f"amqp://{parts.username}:wrong@{host}{parts.path}"
    await append(store, "a-1", "E")

    def says(text: str) -> bool:
        return beginning in text and end in text and "object at" not in text

    with capture_logs() as logs:
        async with relay_running(database, url):
            await until(lambda: any(says(str(entry.get("error"))) for entry in logs))
    with pytest.raises(BrokerUnavailable) as refused:
        await Replay(store, url, "q").run()
    assert says(str(refused.value))
    assert ("'no/vhost'" in str(refused.value)) == (wrong == "vhost")
    async with Consumer(store, url) as consumer, consumer.subscribe_to_all_streams("s") as subscription:
        assert len(await anext(subscription)) == 1
        await until(lambda: any(says(message) for message in caplog.messages if message.startswith("subscription s: ")))


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not fact():
            await asyncio.sleep(0.05)  # between two looks
