"""The few things of RabbitMQ's management API that the demo, tests and tools need."""

import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, quote, urlsplit

import httpx

_PAGE: Final = 500
"""The most that RabbitMQ gives at once."""


class Management:
    """A client of the management API of one RabbitMQ.

    Its answers about queues and connections are a few seconds old by default (`collect_statistics_interval`).
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        """`url` is that of the UI, such as `http://localhost:15672`, or `https://rabbitmq:15671?cafile=/etc/ssl/our.pem`,
        where the file holds the authorities to trust instead of the system's."""
        parts = urlsplit(url)
        self._http = httpx.AsyncClient(
            base_url=parts._replace(path=f"{parts.path.rstrip('/')}/api/", query="").geturl(),
            auth=(user, password),
            timeout=30,
            trust_env=False,  # an HTTP proxy of the environment is no way to a broker
            verify=_trust(parts.query) if parts.scheme == "https" else False,  # to read certificates takes its time
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def create_vhost(self, vhost: str) -> None:
        """Makes a vhost in which this user may do everything."""
        await self._do("PUT", "vhosts", vhost)

    async def delete_vhost(self, vhost: str) -> None:
        """Deletes a vhost with all that is in it, and closes its connections."""
        await self._do("DELETE", "vhosts", vhost)

    async def queues(self, vhost: str) -> list[dict[str, Any]]:
        """What the API knows of the vhost's queues: `name`, `messages`, `consumers`, `arguments`, ..."""
        return list(await self._do("GET", "queues", vhost))

    async def queue_columns(
        self, vhost: str, columns: Sequence[str], *, pattern: str = "", most: int | None = None
    ) -> list[dict[str, Any]]:
        """Some columns of the vhost's queues, in the order of their names, page by page: all that the API knows of
        thousands is megabytes. pattern: of the names; most: so many of the first."""
        query = {"columns": ",".join(columns), "name": pattern, "use_regex": "true", "page_size": str(_PAGE)}
        found: list[dict[str, Any]] = []
        page, pages = 1, 1
        while page <= pages and (most is None or len(found) < most):
            try:
                answer = await self._do("GET", "queues", vhost, query={**query, "page": str(page)})
            except httpx.HTTPStatusError as error:
                if page > 1 and error.response.status_code == httpx.codes.BAD_REQUEST:
                    break  # queues have gone meanwhile, and with them this page
                raise
            found += answer["items"]
            page, pages = page + 1, answer["page_count"]
        return found[:most]

    async def queue(self, vhost: str, queue: str) -> dict[str, Any]:
        """What the API knows of one queue."""
        return dict(await self._do("GET", "queues", vhost, queue))

    async def delete_queue(self, vhost: str, queue: str) -> None:
        """Deletes a queue with its messages; its consumers are cancelled."""
        await self._do("DELETE", "queues", vhost, queue)

    async def purge_queue(self, vhost: str, queue: str) -> None:
        """Removes the messages that are ready; what consumers hold unacknowledged stays."""
        await self._do("DELETE", "queues", vhost, queue, "contents")

    async def connections(self, vhost: str) -> list[dict[str, Any]]:
        """What the API knows of the vhost's connections: `name`, `user_provided_name`, `state`, ..."""
        return list(await self._do("GET", "vhosts", vhost, "connections"))

    async def close_connections(self, vhost: str) -> int:
        """Closes the vhost's connections, as an operator would (320 CONNECTION_FORCED); how many it knew of."""
        connections = await self.connections(vhost)
        for connection in connections:
            await self._do("DELETE", "connections", connection["name"])
        return len(connections)

    async def get(self, *path: str) -> Any:
        """What the API says of anything else: `get("vhosts", vhost, "permissions")`."""
        return await self._do("GET", *path)

    async def _do(self, method: str, *path: str, query: Mapping[str, str] | None = None) -> Any:
        response = await self._http.request(method, "/".join(quote(part, safe="") for part in path), params=query)
        response.raise_for_status()
        return response.json() if response.content else None


def _trust(query: str) -> ssl.SSLContext:
    """As an AMQP URL's parameters are understood."""
    return ssl.create_default_context(cafile=parse_qs(query).get("cafile", [None])[0])
