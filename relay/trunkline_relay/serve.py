"""Probes, metrics and the status page: a few GETs, answered by a small HTTP/1.1 server, one request a connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from trunkline_relay import page
from trunkline_relay.guard import Guard
from trunkline_relay.subscription_metrics import SubscriptionMetrics
from trunkline_relay.view import View
from trunkline_store.presence import process_name, version
from trunkline_store.words import age

REQUEST_BYTES: Final = 8192
REQUEST_SECONDS: Final = 2.0
"""For a request to come."""
ANSWER_SECONDS: Final = 5.0
"""For its answer to be taken."""
CONNECTIONS: Final = 64
"""At a time; a further one takes the place of the oldest whose request has not come, else of the oldest: a probe is
answered, whoever holds connections open."""
_INSIDE: Final = ("holder", "cause")
"""What of a report is for who may see the page: names of transactions, logins and hosts."""

log = structlog.get_logger("trunkline.http")


class Registered(Protocol):
    """What has metrics to show."""

    registry: CollectorRegistry


class Reporting(Protocol):
    """What can say whether it is `ready`, and more."""

    def report(self) -> dict[str, Any]: ...


class Request(NamedTuple):
    """Of a request, what matters here. Names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


class BadRequest(Exception):
    """What came is not a request that can be answered."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


def parsed(head: bytes) -> Request:
    """The request, from its line and headers. Raises `BadRequest`."""
    line, *rest = head.decode("latin-1").split("\r\n")
    match line.split(" "):
        case [method, target, "HTTP/1.1" | "HTTP/1.0"] if method.isalpha() and target.startswith("/"):
            pass
        case [_, _, version] if version.startswith("HTTP/"):
            known = version in ("HTTP/1.1", "HTTP/1.0")
            raise BadRequest(HTTPStatus.BAD_REQUEST if known else HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        case _:
            raise BadRequest(HTTPStatus.BAD_REQUEST)
    headers: dict[str, str] = {}
    for header in filter(None, rest):
        name, colon, value = header.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(HTTPStatus.BAD_REQUEST)
        headers[name.lower()] = value.strip()
    return Request(method, target.partition("?")[0], headers)


class Server:
    """Answers for what one process runs, from entering to leaving. The port is open when it has been entered.

    port: 0 for any that is free. named: what the parts are called in the answer of /readyz. views: of the stores that
    the status page shows; without any there is none.
    guard: who may see it, and who holds a store's readers back; by default, who sits at this machine. Raises `OSError`
    where it cannot listen.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: Registered,
        parts: Sequence[Reporting],
        *,
        named: str = "stores",
        views: Sequence[View] = (),
        guard: Guard | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._registry = registry
        self._parts = parts
        self._named = named
        self._views = views
        self._guard = guard or Guard(host)
        self._began = datetime.now(UTC)
        if views:
            registry.registry.register(SubscriptionMetrics(views))
        self._listener: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}  # the oldest first
        self._silent: dict[asyncio.Task[None], None] = {}  # those of them whose request has not come

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, self.host, self.port, limit=REQUEST_BYTES)
        self.port = self._listener.sockets[0].getsockname()[1]
        log.info("listening", host=self.host, port=self.port)
        if self._views and self._guard.closed:
            log.warning("the status page is closed", hint="this address is not a loopback one: set TRUNKLINE_TOKEN")
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        tasks = list(self._connections)
        for task in tasks:
            self._end(task)
        await asyncio.gather(*tasks, return_exceptions=True)
        for view in self._views:
            await view.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS:
            self._end(next(iter(self._silent or self._connections)))
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="http")
        self._connections[task], self._silent[task] = writer, None
        task.add_done_callback(self._forget)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._connections[task].transport.abort()  # a task that has not begun would not do it
        task.cancel()
        self._forget(task)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)
        self._silent.pop(task, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reads a request, answers, closes; whoever is too slow for that is cut off."""
        try:
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                if (task := asyncio.current_task()) is not None:
                    self._silent.pop(task, None)
                answer = await self._answer(parsed(head))
            except BadRequest as error:
                answer = _plain(error.status)
            except asyncio.LimitOverrunError:
                answer = _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            except TimeoutError:
                answer = _plain(HTTPStatus.REQUEST_TIMEOUT)
            writer.write(answer)
            async with asyncio.timeout(ANSWER_SECONDS):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError):
            pass  # the client has gone, or does not take its answer
        except Exception:
            log.exception("request failed")
        finally:
            if not writer.transport.is_closing() or writer.transport.get_write_buffer_size():
                writer.transport.abort()

    async def _answer(self, request: Request) -> bytes:
        if request.method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        refusal = self._guard.refusal(request.headers)
        if request.path in ("/metrics", "/readyz") and (misdirected := self._guard.misdirected(request.headers)):
            return _plain(misdirected.status)
        status = HTTPStatus.OK
        headers: Mapping[str, str] = page.JSON_HEADERS
        match request.path:
            case "/healthz":
                kind, body = "application/json", _json({"alive": True})
            case "/readyz":
                parts = [part.report() for part in self._parts]
                ready = all(part["ready"] for part in parts)
                status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
                if refusal is not None:
                    parts = [{key: value for key, value in part.items() if key not in _INSIDE} for part in parts]
                kind, body = "application/json", _json({"ready": ready, self._named: parts})
            case "/metrics":
                await self._refresh(each for each in self._views if each.status.leading)
                encode, kind = choose_encoder(request.headers.get("accept", ""))
                body = encode(self._registry.registry)
            case "/" | "/status.json" if self._views:
                if refusal is not None:
                    return _response(
                        refusal.status, "text/plain", f"{refusal.says}\n".encode(), headers=refusal.headers
                    )
                if request.path == "/":
                    kind, body, headers = page.KIND, page.page(), page.headers()
                else:
                    await self._refresh(self._views)
                    kind, body = "application/json", _json(self._status())
            case _:
                return _plain(HTTPStatus.NOT_FOUND)
        return _response(status, kind, body, with_body=request.method == "GET", headers=headers)

    async def _refresh(self, views: Iterable[View]) -> None:
        await asyncio.gather(*(view.refresh() for view in views))

    def _status(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        return {
            "at": now.isoformat(timespec="milliseconds"),
            "process": process_name(),
            "version": version(),
            "since": self._began.isoformat(timespec="seconds"),
            "up": age(max(0.0, (now - self._began).total_seconds())),
            "stores": [view.report() for view in self._views],
        }


def _json(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _plain(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> bytes:
    return _response(status, "text/plain", f"{status.phrase}\n".encode(), headers=headers)


def _response(
    status: HTTPStatus, kind: str, body: bytes, *, with_body: bool = True, headers: Mapping[str, str] | None = None
) -> bytes:
    fields = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n".encode("latin-1") + (body if with_body else b"")
