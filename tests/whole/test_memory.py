"""P8: nothing grows with the backlog."""

import asyncio
import re
import sys
from pathlib import Path

from tests.whole.flow import relay_process
from trunkline_store import ANY_VERSION, EventData, EventStore

EVENTS = 200_000
LIMIT = 150 * 1024  # KiB

_SUBSCRIBER = """
import asyncio, sys
from trunkline_consumer import Consumer, Options
from trunkline_store import EventStore
async def main():
    dsn, url, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
    async with EventStore(dsn) as store, Consumer(store, url) as consumer:
        options = Options(checkpoint_threshold=5000, checkpoint_after=0.5)
        async with consumer.subscribe_to_all_streams("slow", options=options) as subscription:
            handled = 0
            async for batch in subscription:
                if not handled:
                    print("stopped at the first batch", flush=True)
                    await asyncio.to_thread(sys.stdin.readline)
                handled += len(batch)
                await batch.ack()
                if handled == events:
                    break
    print(handled, flush=True)
    sys.stdin.readline()  # is looked at meanwhile
asyncio.run(main())
"""


def peak(pid: int) -> int:
    """The most memory that the process has had resident, in KiB (proc(5): VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


async def test_relay_and_subscriber_stay_small_while_events_wait(database: str, vhost: str) -> None:
    """200,000 events wait in the store, then in the queue, while a handler stands still, and are handled at last:
    relay and subscriber stay below 150 MB."""
    async with EventStore(database) as store:
        data = {"text": "x" * 150}
        for number in range(EVENTS // 1000):
            events = [EventData("E", data, correlation_id=f"c-{n // 10}") for n in range(1000)]
            await store.append_to_stream(f"s-{number % 20}", ANY_VERSION, events)
        last = (await store.read_all_streams_forward(start=await store.safe_position() - 2048, count=5000))[-1]

        subscriber = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _SUBSCRIBER, database, vhost, str(EVENTS)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        relay = await relay_process(database, vhost)
        assert subscriber.stdout is not None
        assert subscriber.stdin is not None
        try:
            assert await subscriber.stdout.readline() == b"stopped at the first batch\n"
            async with asyncio.timeout(60):
                while True:
                    row = await store.fetchrow(store.sql["see_relay"], "relay")
                    if row is not None and row["position"] == last.position:
                        break
                    await asyncio.sleep(0.05)  # between two looks
            peaks = {"relay": peak(relay.pid), "subscriber, standing": peak(subscriber.pid)}
            subscriber.stdin.write(b"\n")
            async with asyncio.timeout(60):
                handled = await subscriber.stdout.readline()
            peaks["subscriber, done"] = peak(subscriber.pid)
            assert handled == b"%d\n" % EVENTS
        finally:
            for process in (relay, subscriber):
                if process.returncode is None:
                    process.kill()
                await process.wait()
    print(peaks)
    assert max(peaks.values()) < LIMIT, peaks
