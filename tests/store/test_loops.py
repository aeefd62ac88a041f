"""One store of a program, used in several event loops."""

import asyncio
import gc
import threading

import asyncpg
import pytest

from trunkline_store import ANY_VERSION, EventData, EventStore, InvalidArgument


async def append(store: EventStore) -> None:
    """Append enough events at once to make them share transactions."""
    await asyncio.gather(
        *(store.append_to_stream(f"s-{n}", ANY_VERSION, [EventData("E", n)]) for n in range(20)),
    )


def run(work: object) -> None:
    """Run a coroutine in another event loop, since the test's own loop is running."""
    failures: list[BaseException] = []

    def thread() -> None:
        try:
            asyncio.run(work)  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001 - it is the test's
            failures.append(error)

    running = threading.Thread(target=thread)
    running.start()
    running.join()
    if failures:
        raise failures[0]


async def test_a_closed_store_can_be_opened_in_another_event_loop(database: str) -> None:
    """Nothing that belongs to the first loop is used in the second one."""
    store = EventStore(database)

    async def work() -> None:
        async with store:
            await append(store)
            assert len(await store.read_all_streams_forward()) % 20 == 0

    for _ in range(3):
        await asyncio.to_thread(run, work())


async def test_a_store_that_is_open_in_another_event_loop_says_so(store: EventStore) -> None:
    """Every method raises a typed error, and the store keeps working in its own loop."""

    async def work() -> None:
        for do in (store.open, store.close, store.read_all_streams_forward, lambda: append(store)):
            with pytest.raises(InvalidArgument, match="another event loop"):
                await do()

    await asyncio.to_thread(run, work())
    await append(store)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
async def test_a_store_whose_event_loop_ended_can_be_opened_again(database: str) -> None:
    """The store was left open when its loop ended; its remaining connections are forgotten."""
    store = EventStore(database)

    async def left_open() -> None:
        await store.open()
        assert await store.read_all_streams_forward() == []

    for _ in range(2):
        await asyncio.to_thread(run, left_open())

    async def closed() -> None:
        await store.open()
        await append(store)
        await store.close()

    await asyncio.to_thread(run, closed())
    gc.collect()  # what was left open warns here, and in no other test


async def test_a_pool_of_another_event_loop_is_refused(database: str) -> None:
    """Opening the store raises an error that says what to do."""
    pools: list[asyncpg.Pool] = []

    async def make() -> None:
        pools.append(await asyncpg.create_pool(database, min_size=0))

    await asyncio.to_thread(run, make())
    with pytest.raises(InvalidArgument, match="another event loop"):
        await EventStore(pools[0]).open()
