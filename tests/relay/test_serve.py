"""The endpoints, against clients that do as they should and such that do not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from trunkline_relay import serve
from trunkline_relay.metrics import Metrics, Registry
from trunkline_relay.serve import BadRequest, Server, parsed
from trunkline_relay.status import Status


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    registry = Registry()
    Metrics("one", registry).published.inc(3)
    Metrics("two", registry)
    async with Server("127.0.0.1", 0, registry, [Status("one"), Status("two")]) as server:
        yield server


async def asked(server: Server, request: bytes) -> bytes:
    """All that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_the_three_paths() -> None:
    """`/healthz` is 200 as long as the process runs, `/readyz` speaks of each store, `/metrics` is what Prometheus
    reads, with a label for the store; HEAD has no body, and nothing else is there."""
    async with serving() as server:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
            health = await client.get("/healthz?x=1")
            assert (health.status_code, health.json()) == (200, {"alive": True})
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert [(s["store"], s["problem"]) for s in ready.json()["stores"]] == [
                (name, "the database does not answer") for name in ("one", "two")
            ]
            metrics = await client.get("/metrics")
            published = {
                sample.labels["store"]: sample.value
                for family in text_string_to_metric_families(metrics.text)
                for sample in family.samples
                if sample.name == "trunkline_relay_published_total"
            }
            assert published == {"one": 3, "two": 0}
            assert metrics.headers["content-type"].startswith("text/plain; version=")
            newer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
            assert newer.text.endswith("# EOF\n")
            head = await client.head("/healthz")
            assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "16")
            assert (await client.get("/")).status_code == 404
            refused = await client.post("/metrics")
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\xff\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET http://a/healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /%2e%2e/etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
async def test_bad_requests_get_an_error_and_hurt_nobody(request_: bytes, status: int) -> None:
    """P9: each is refused with its status, and the next good one is answered."""
    async with serving() as server:
        answer = await asked(server, request_)
        assert not answer or answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert answer or status == 431, "only what was not read to its end may be cut off"
        assert b"200 OK" in await asked(server, b"GET /healthz HTTP/1.0\r\n\r\n")


@given(st.binary(max_size=200) | st.from_regex(rb"[A-Z]{1,5} /[ -~]{0,20} HTTP/1\.[01]\r\n([ -~]{0,20}\r\n)*"))
def test_whatever_comes_is_a_request_or_refused(head: bytes) -> None:
    """P9: no bytes raise anything else."""
    with suppress(BadRequest):
        assert parsed(head).path.startswith("/")


async def test_slow_clients_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: who sends nothing, or half a request, has so long."""
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 0.5)
    async with serving() as server:
        answers = await asyncio.gather(asked(server, b""), asked(server, b"GET /healthz HT"))
        assert {answer.split()[1] for answer in answers} == {b"408"}


async def test_connections_that_say_nothing_keep_no_probe_from_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: however many are held open, no more than so many are kept; a probe takes the place of the oldest, and is
    answered at once."""
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 60.0)
    async with serving() as server:
        silent = [asyncio.create_task(asked(server, b"GET")) for _ in range(100)]
        async with asyncio.timeout(10):
            while sum(task.done() for task in silent) < 100 - serve.CONNECTIONS:
                await asyncio.sleep(0.01)  # between two looks
        for path in (b"/healthz", b"/readyz"):
            async with asyncio.timeout(1):
                assert b"HTTP/1.1 " in await asked(server, b"GET " + path + b" HTTP/1.1\r\n\r\n")
        assert 0 < len(server._silent) <= len(server._connections) <= serve.CONNECTIONS
        for task in silent:
            task.cancel()
        await asyncio.gather(*silent, return_exceptions=True)


async def test_requests_that_wait_keep_no_probe_from_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: where all places are taken by requests whose answers take long, as those for metrics, the oldest gives way;
    one that says nothing does so before them."""
    monkeypatch.setattr(serve, "CONNECTIONS", 5)
    released = asyncio.Event()

    async def waits(_: Server, __: object) -> None:
        await released.wait()

    monkeypatch.setattr(Server, "_refresh", waits)
    metrics = b"GET /metrics HTTP/1.1\r\n\r\n"
    async with serving() as server:

        async def until(connections: int, silent: int) -> None:
            async with asyncio.timeout(10):
                while (len(server._connections), len(server._silent)) != (connections, silent):
                    await asyncio.sleep(0.01)  # between two looks

        slow = [asyncio.create_task(asked(server, metrics)) for _ in range(4)]
        await until(4, 0)
        silent = asyncio.create_task(asked(server, b"GET"))
        await until(5, 1)
        slow.append(asyncio.create_task(asked(server, metrics)))
        await until(5, 0)
        assert await silent == b""
        async with asyncio.timeout(1):
            assert b"200 OK" in await asked(server, b"GET /healthz HTTP/1.1\r\n\r\n")
        released.set()
        answers = await asyncio.gather(*slow)
        assert sorted(b"200 OK" in answer for answer in answers) == [False, True, True, True, True]


async def test_a_client_that_takes_no_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: an answer that nobody reads does not stay in memory."""
    monkeypatch.setattr(serve, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(serve, "choose_encoder", lambda _: (lambda _: b"x" * 50_000_000, "text/plain"))
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        await reader.readexactly(10)  # it was answered
        async with asyncio.timeout(20):
            while server._connections:
                await asyncio.sleep(0.01)  # between two looks
        writer.transport.abort()


async def test_leaving_closes_the_port_and_the_connections() -> None:
    """A stop does not wait for clients."""
    async with serving() as server:
        waiting = asyncio.create_task(asked(server, b""))
        async with asyncio.timeout(10):
            while not server._connections:
                await asyncio.sleep(0.01)  # between two looks
    assert await waiting == b""
    with pytest.raises(ConnectionError):
        await asked(server, b"")


async def test_a_port_that_is_taken_is_an_error() -> None:
    """Whoever starts it learns of it at once."""
    async with serving() as server:
        with pytest.raises(OSError, match="in use"):
            await Server("127.0.0.1", server.port, Registry(), []).__aenter__()
