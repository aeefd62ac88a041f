"""`roles`: who may do what with a store."""

import asyncio
from typing import Annotated

import typer

from trunkline_ops.commands.schema import database_name
from trunkline_ops.connect import connected
from trunkline_ops.failure import Misuse
from trunkline_ops.options import AsJson, Dsn, Schema
from trunkline_ops.output import Output
from trunkline_ops.settings import Settings
from trunkline_store.connections import OUR_PATH
from trunkline_store.rights import Role, create_sql, grant_sql, login_sql
from trunkline_store.roles import make_login, make_roles


def roles(
    login: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Make a role that logs in, if it is missing, and give it the role of --as."),
    ] = None,
    role: Annotated[Role | None, typer.Option("--as", help="What --login is for.")] = None,
    subscriptions: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The only ones a consumer may own: a name, or a prefix like billing-*."),
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Print the SQL, and run nothing.")] = False,
    dsn: Dsn = None,
    schema: Schema = None,
    as_json: AsJson = False,
) -> None:
    """Make the roles of a store, or give them anew the rights that they have, and no others.

    They are reader, writer, relay, consumer and eraser, named `database.schema.role`; nobody logs in as one of them.
    Run it as the store's owner, with CREATEROLE if a role is missing. A login gets no password: psql's `\\password`
    sets one.
    """
    settings = Settings.of(dsn=dsn, store=schema)
    if (login is None) is not (role is None):
        raise Misuse("--login and --as go together")
    if subscriptions is not None and role != "consumer":
        raise Misuse("--subscriptions is for consumers only: add --as consumer")
    if show:
        database = database_name(settings.database())
        parts = [create_sql(database, settings.store)]
        if login is not None and role is not None:
            parts.append(login_sql(database, settings.store, login, role, subscriptions))
        parts.append(grant_sql(database, settings.store))
        print("\n\n".join(["BEGIN;", f"SET LOCAL search_path = {OUR_PATH};", *parts, "COMMIT;"]))
    else:
        asyncio.run(_roles(settings, login, role, subscriptions, Output(as_json=as_json)))


async def _roles(
    settings: Settings, login: str | None, role: Role | None, subscriptions: str | None, output: Output
) -> None:
    async with connected(settings, "roles") as connection:
        names = await make_roles(connection, settings.store)
        if login is not None and role is not None:
            await make_login(connection, login, role, settings.store, subscriptions=subscriptions)
    sentence = f"the store {settings.store!r} has the roles {', '.join(names.values())}"
    if login is not None and role is not None:
        group = names[role] if subscriptions is None else f"{names[role]}.{subscriptions}"
        sentence = f"{login!r} may log in and is a member of {group}"
    output.result(sentence, schema=settings.store, roles=names, login=login)
