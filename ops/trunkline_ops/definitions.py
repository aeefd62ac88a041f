"""RabbitMQ's definitions of a store: its vhost and exchanges, and users with the least rights. Pure.

A user without a hash cannot log in with a password, until one is set with `rabbitmqctl change_password`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from secrets import token_bytes
from typing import Any, Final, Literal, NamedTuple, get_args

from trunkline_store import names

User = Literal["relay", "consumer", "monitoring"]
USERS: Final[tuple[User, ...]] = get_args(User)
_NOTHING: Final = ""
_ONE_HASH: Final = "^[^#]*#?[^#]*$"
"""The pattern of keys that a consumer may bind: one `#` at most, which words of our keys escape. A key of 30 words `#`
costs RabbitMQ before 4.3 a third of a second per published message, growing with the fourth power of the words."""


class Login(NamedTuple):
    """A user of the broker. subscription: the only one that it serves; None: all."""

    store: str
    user: User
    subscription: str | None = None

    @property
    def name(self) -> str:
        """The user's name, which is different for each store of a broker, and for each subscription with a login."""
        of_store = f"{self.store}-{self.user}"
        if self.subscription is None:
            return of_store
        return f"{of_store}-{names.queue(self.store, self.subscription).removeprefix(f'{self.store}.')}"


def logins(store: str, subscriptions: Sequence[str] = ()) -> list[Login]:
    """Return the logins of a store. subscriptions: each gets its own consumer's login, and no login serves all."""
    consumers = [Login(store, "consumer", each) for each in dict.fromkeys(subscriptions)] or [Login(store, "consumer")]
    return [Login(store, "relay"), *consumers, Login(store, "monitoring")]


def definitions(store: str, vhost: str, hashes: Mapping[str, str], subscriptions: Sequence[str] = ()) -> dict[str, Any]:
    """Return the definitions that RabbitMQ imports. hashes: the password hashes by login name; an empty one means no
    password."""
    exchanges = [names.exchange(store), names.links_exchange(store)]
    users = logins(store, subscriptions)
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
                "name": login.name,
                "password_hash": hashes.get(login.name, ""),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["monitoring"] if login.user == "monitoring" else [],
                "limits": {},
            }
            for login in users
        ],
        "permissions": [
            {
                "user": login.name,
                "vhost": vhost,
                **dict(zip(("configure", "write", "read"), rights(store, login.user, login.subscription), strict=True)),
            }
            for login in users
        ],
        "topic_permissions": [
            {"user": login.name, "vhost": vhost, "exchange": exchange, "write": _NOTHING, "read": _ONE_HASH}
            for login in users
            if login.user == "consumer"
            for exchange in exchanges
        ],
    }


def hashed(password: str, salt: bytes | None = None) -> str:
    """As RabbitMQ keeps it: https://www.rabbitmq.com/docs/passwords#computing-password-hash. salt: of four bytes; by
    default a random one."""
    salt = token_bytes(4) if salt is None else salt
    return b64encode(salt + sha256(salt + password.encode()).digest()).decode()


def rights(store: str, user: User, subscription: str | None = None) -> tuple[str, str, str]:
    """Return the patterns of names that a user may configure, write and read
    (https://www.rabbitmq.com/docs/access-control#authorisation).

    A relay declares its two exchanges and publishes to them. A consumer declares, binds (which writes the queue, and
    reads the exchange) and reads queues: its subscription's or all subscriptions', and those that the server names.

    A pattern cannot tell an exchange from a queue of the same name. So no exchange of the store has a name that a queue
    can have. A consumer that declares an exchange under a queue's name can bind only the queues of its pattern to it.
    Nobody can declare an exchange called `amq.…`.
    """
    base = re.escape(store)
    exchanges = f"{base}(-links)?$"
    if user == "relay":
        return f"^{exchanges}", f"^{exchanges}", _NOTHING
    if user == "consumer":
        own = rf"{base}\." if subscription is None else f"{re.escape(names.queue(store, subscription))}$"
        queues = rf"{own}|amq\.gen-"
        return f"^({queues})", f"^({queues})", f"^({exchanges}|{queues})"
    return _NOTHING, _NOTHING, _NOTHING
