"""Who may see the status page: whoever knows the token; without one, who sits at this machine. Pure."""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode
from collections.abc import Mapping
from http import HTTPStatus
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit


class Refusal(NamedTuple):
    """Why a request is not answered, for people, and what the answer's headers say of it."""

    status: HTTPStatus
    says: str
    headers: Mapping[str, str] = {}


_CHALLENGE = {"WWW-Authenticate": 'Basic realm="trunkline", charset="UTF-8"'}


class Guard:
    """Of a server that listens on `host`. token: what opens it; public: it is open to everybody.

    The token comes as `Authorization: Bearer TOKEN`, or as the password that a browser asks for, with any user name.
    Without a token, only a loopback address is open, and only to requests that call it so: a page of another site,
    whose name its owner lets point to 127.0.0.1, cannot read it (https://en.wikipedia.org/wiki/DNS_rebinding).
    """

    def __init__(self, host: str, token: str | None = None, *, public: bool = False) -> None:
        self._token = None if token is None else token.encode()
        self._public = public
        self._loopback = _is_loopback(host)

    @property
    def closed(self) -> bool:
        """Whether nobody at all is let in."""
        return self._token is None and not self._public and not self._loopback

    def misdirected(self, headers: Mapping[str, str]) -> Refusal | None:
        """Refuse a request that calls a loopback address by another name, without the token. Return None for others.

        It hides metrics and readiness, which take no token, from other sites. Header names are in lower case.
        """
        called = headers.get("host")
        if self._public or not self._loopback or called is None or _is_loopback(_name(called)) or self._opened(headers):
            return None
        return Refusal(HTTPStatus.MISDIRECTED_REQUEST, "unknown Host: use 127.0.0.1 or localhost, or set a token")

    def refusal(self, headers: Mapping[str, str]) -> Refusal | None:
        """None for who may see it. Names of headers are in lower case."""
        if self._token is not None:
            if self._opened(headers):
                return None
            return Refusal(HTTPStatus.UNAUTHORIZED, "the token is missing, or another one", _CHALLENGE)
        if self._public:
            return None
        if not self._loopback:
            return Refusal(HTTPStatus.FORBIDDEN, "start the relay with a token (TRUNKLINE_TOKEN) to see its page here")
        return self.misdirected(headers)

    def _opened(self, headers: Mapping[str, str]) -> bool:
        given = _given(headers.get("authorization", ""))
        return given is not None and self._token is not None and hmac.compare_digest(given, self._token)


def _given(authorization: str) -> bytes | None:
    scheme, _, credentials = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip().encode("latin-1")
        case "basic":
            try:
                return b64decode(credentials, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return None
    return None


def _name(host: str) -> str:
    """Without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
