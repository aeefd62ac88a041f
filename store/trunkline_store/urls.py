"""Checks of server URLs, run before a client library reads them: its errors would show parts of the password."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from trunkline_store.errors import InvalidArgument

DSN_EXAMPLE: Final = "postgresql://user@host/database"
AMQP_EXAMPLE: Final = "amqp://user:password@host/vhost"

_HOST: Final = re.compile(r"(?:\[[^]@]*\]|[^]:@\[]*)(?::(\d+))?")

_LEFT_OUT: Final = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "client_encoding": ("auto", "utf8", "UTF8", "utf-8", "UTF-8"),
}
"""Parameters of libpq that are dropped at these values: asyncpg does neither, and always uses UTF-8."""

_INSTEAD: Final = {
    "channel_binding": "asyncpg cannot bind channels: leave it out, and use sslmode=verify-full",
    "gssencmode": "asyncpg does not encrypt by GSSAPI: leave it out, and use sslmode",
    "client_encoding": "asyncpg always uses UTF8: leave it out",
    "hostaddr": "write host",
    "keepalives": "leave it out; with tcp_keepalives_idle=60 the server probes",
    "keepalives_idle": "write tcp_keepalives_idle, by which the server probes",
    "keepalives_interval": "write tcp_keepalives_interval, by which the server probes",
    "keepalives_count": "write tcp_keepalives_count, by which the server probes",
    "load_balance_hosts": "leave it out: hosts are tried in their order",
    "replication": "leave it out: a store needs ordinary connections",
    "require_auth": "leave it out: the server's pg_hba.conf decides",
    "requirepeer": "leave it out, or use sslmode=verify-full",
    "requiressl": "write sslmode=require",
    "sslcertmode": "leave it out: a certificate is sent where sslcert names one",
    "sslcompression": "leave it out: asyncpg does not compress",
    "sslcrldir": "write sslcrl",
    "sslsni": "leave it out: the host's name is always sent",
}
"""What to write instead of a libpq parameter that asyncpg would pass on to the server, which does not know it
(https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS)."""


class Dsn(NamedTuple):
    """The arguments for asyncpg: a URL without libpq's own parameters, and the timeout of connecting in seconds (None:
    not given)."""

    url: str
    timeout: float | None


def read_dsn(dsn: object) -> Dsn:
    """Read a PostgreSQL URL, with libpq's parameters. Raises `InvalidArgument`, which shows nothing of the URL but the
    names of parameters that PostgreSQL has."""
    _checked("dsn", dsn, DSN_EXAMPLE, ("postgresql", "postgres"), several=True)
    assert isinstance(dsn, str)
    url = urlsplit(dsn)
    timeout: float | None = None
    kept = []
    for name, value in parse_qsl(url.query, keep_blank_values=True):
        if name == "connect_timeout":
            if not re.fullmatch(r"-?[0-9]{1,6}", value):
                raise InvalidArgument("dsn: connect_timeout is not a whole number: give it in seconds")
            timeout = float(value) if int(value) > 0 else None  # in libpq, 0 means no timeout
        elif name == "fallback_application_name" or value in _LEFT_OUT.get(name, ()):
            continue
        elif name in _INSTEAD:
            raise InvalidArgument(f"dsn: parameter {name!r} is not supported: {_INSTEAD[name]}")
        else:
            kept.append((name, value))
    if len(kept) == len(parse_qsl(url.query, keep_blank_values=True)):
        return Dsn(dsn, timeout)
    return Dsn(url._replace(query=urlencode(kept)).geturl(), timeout)


def check_amqp_url(url: object) -> str:
    """Return `url` if it names one RabbitMQ, else raise `InvalidArgument`, which shows nothing of it."""
    return _checked("amqp_url", url, AMQP_EXAMPLE, ("amqp", "amqps"), several=False)


def is_url(text: object, schemes: tuple[str, ...], *, several: bool) -> bool:
    """Return True if `text` is a URL of one of these schemes, with valid hosts and ports, and a percent-encoded user
    and password. several: allow several hosts."""
    if not isinstance(text, str) or not re.match(rf"(?:{'|'.join(schemes)})://\S*\Z", text):
        return False
    try:
        url: SplitResult = urlsplit(text)
    except ValueError:
        return False
    before, _, hosts = url.netloc.rpartition("@")
    each = hosts.split(",")
    ports = [_HOST.fullmatch(host) for host in each]
    return (
        "@" not in before
        and "@" not in url.path  # a / in the password
        and not url.fragment  # a #
        and all("=" in part for part in url.query.split("&") if part)  # a ?
        and (several or len(each) == 1)
        and all(port and 0 < int(port[1] or 1) < 65536 for port in ports)
    )


def _checked(name: str, text: object, example: str, schemes: tuple[str, ...], *, several: bool) -> str:
    if not is_url(text, schemes, several=several):
        one = "" if several else ", of one host,"
        raise InvalidArgument(
            f"{name}: not a valid URL: write {example}{one} with @ : / ? # % in the password percent-encoded"
        )
    assert isinstance(text, str)
    return text
