"""`definitions`: a vhost, exchanges and users for RabbitMQ to import."""

import json
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from trunkline_ops.definitions import definitions as made
from trunkline_ops.definitions import hashed, logins
from trunkline_ops.failure import Misuse
from trunkline_ops.options import AsJson, Schema
from trunkline_ops.settings import Settings
from trunkline_store import InvalidArgument
from trunkline_store.names import check_subscription


def definitions(
    vhost: Annotated[str, typer.Option("--vhost", metavar="NAME", help="The virtual host.")] = "trunkline",
    passwords: Annotated[
        Path | None,
        typer.Option(
            "--passwords",
            metavar="FOLDER",
            help="Where files of the users' names, such as eventstore-relay, hold their passwords; what is missing is "
            "made. Without it, nobody can log in until he is given a password.",
        ),
    ] = None,
    subscriptions: Annotated[
        list[str] | None,
        typer.Option(
            "--subscription",
            metavar="NAME",
            help="Make a login for this subscription, without access to other subscriptions' queues; may be repeated. "
            "Without it, one login serves all subscriptions.",
        ),
    ] = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> None:
    """Print what RabbitMQ imports: the vhost, a store's exchanges, and users with the least rights for relays,
    consumers and monitoring. With --json on one line. Asks no server.

    RabbitMQ takes it when it starts, or by `rabbitmqctl import_definitions`. Each import sets the passwords anew: with
    `definitions.skip_if_unchanged = true` in rabbitmq.conf, a start imports only what has changed.
    """
    store = Settings.of(store=schema).store
    if not vhost.strip() or not vhost.isprintable() or len(vhost.encode()) > 255:
        raise Misuse(f"--vhost {vhost!r}: use 1 to 255 bytes of printable text")
    try:
        chosen = [check_subscription(each) for each in subscriptions or ()]
    except InvalidArgument as error:
        raise Misuse(f"--subscription: {error}") from None
    users = [login.name for login in logins(store, chosen)]
    if passwords is not None and (bad := next((user for user in users if "/" in user), None)):
        raise Misuse(f"--passwords: {bad!r} cannot be a file name: set this login's password with rabbitmqctl")
    hashes = {} if passwords is None else {user: hashed(_password(passwords / user)) for user in users}
    print(json.dumps(made(store, vhost, hashes, chosen), indent=None if as_json else 2))


def _password(file: Path) -> str:
    """What a user's file holds, without the line's end; it is made where there is none, for its owner alone."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write(secrets.token_urlsafe(24) + "\n")
        password = file.read_text().rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        raise Misuse(f"--passwords: {file}: {error}") from None
    if not password:
        raise Misuse(f"--passwords: {file} is empty")
    return password
