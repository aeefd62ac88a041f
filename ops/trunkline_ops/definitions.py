"""RabbitMQ's definitions of a store: its vhost and exchanges, and three users with the least rights. Pure.

A user without a hash cannot log in with a password, until one is set with `rabbitmqctl change_password`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from secrets import token_bytes
from typing import Any, Final, Literal, get_args

from trunkline_store import names

User = Literal["relay", "consumer", "monitoring"]
USERS: Final[tuple[User, ...]] = get_args(User)
_NOTHING: Final = ""


def definitions(store: str, vhost: str, hashes: Mapping[User, str]) -> dict[str, Any]:
    """What RabbitMQ imports, when it starts or later. hashes: of the users' passwords; empty without one."""
    exchanges = [names.exchange(store), names.links_exchange(store)]
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {
                "name": name,
                "vhost": vhost,
                "type": "topic",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name in exchanges
        ],
        "users": [
            {
                "name": user_name(store, user),
                "password_hash": hashes.get(user, ""),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["monitoring"] if user == "monitoring" else [],
                "limits": {},
            }
            for user in USERS
        ],
        "permissions": [
            {
                "user": user_name(store, user),
                "vhost": vhost,
                **dict(zip(("configure", "write", "read"), rights(store, user), strict=True)),
            }
            for user in USERS
        ],
    }


def user_name(store: str, user: User) -> str:
    """Several stores of one broker have users of their own."""
    return f"{store}-{user}"


def hashed(password: str, salt: bytes | None = None) -> str:
    """As RabbitMQ keeps it: https://www.rabbitmq.com/docs/passwords#computing-password-hash. salt: of four bytes; by
    default a random one."""
    salt = token_bytes(4) if salt is None else salt
    return b64encode(salt + sha256(salt + password.encode()).digest()).decode()


def rights(store: str, user: User) -> tuple[str, str, str]:
    """Patterns of what it may configure, write and read (https://www.rabbitmq.com/docs/access-control#authorisation).

    A relay declares its two exchanges and publishes to them. A consumer declares, binds (which writes the queue, and
    reads the exchange) and reads the store's queues, and those that the server names for it.
    """
    base = re.escape(store)
    if user == "relay":
        exchanges = rf"^{base}(\.links)?$"
        return exchanges, exchanges, _NOTHING
    if user == "consumer":
        queues = rf"^({base}\.(?!links$)|amq\.gen-)"
        return queues, queues, rf"^({base}$|{base}\.|amq\.gen-)"
    return _NOTHING, _NOTHING, _NOTHING
