"""What the environment tells the program, in `TRUNKLINE_…` variables, unless an option says otherwise.

It is read when a command begins, never at import. The URLs may hold passwords, so they are secrets, and whatever is
printed goes through `masked`. A URL can stand in a file, as orchestrators mount secrets: `TRUNKLINE_DSN_FILE` names it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from trunkline_store.names import check_store
from trunkline_store.urls import AMQP_EXAMPLE, DSN_EXAMPLE, is_url

_NAMES: Final = {
    "dsn": "--dsn or TRUNKLINE_DSN",
    "store": "--schema or TRUNKLINE_SCHEMA",
    "TRUNKLINE_SCHEMA": "TRUNKLINE_SCHEMA",
    "stores": "--schema or TRUNKLINE_SCHEMAS",
    "TRUNKLINE_SCHEMAS": "TRUNKLINE_SCHEMAS",
    "listen": "--listen or TRUNKLINE_LISTEN",
    "amqp_url": "--amqp-url or TRUNKLINE_AMQP_URL",
    "management_url": "--management-url or TRUNKLINE_MANAGEMENT_URL",
    "token": "TRUNKLINE_TOKEN",
    "token_file": "--token-file or TRUNKLINE_TOKEN_FILE",
    "public_page": "--public-page or TRUNKLINE_PUBLIC_PAGE",
    "statement_cache_size": "TRUNKLINE_STATEMENT_CACHE_SIZE",
}
_MANAGEMENT_URL: Final = "http://host:15672"
_GUEST: Final = "guest"
"""RabbitMQ's own default, of user and password, and its clients'."""
_IN_FILES: Final = ("dsn", "amqp_url", "management_url")
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile", "cafile", "certfile", "keyfile")
"""Parameters of URLs that name files; whoever opens them would not say which one is missing."""


class InvalidSettings(Exception):
    """A setting is missing or cannot be meant so; the message says how it is given."""


def _url(example: str, *schemes: str) -> Callable[[SecretStr], SecretStr]:
    def check(secret: SecretStr) -> SecretStr:
        """The message never holds the URL: what is wrong with it may be the password."""
        text = secret.get_secret_value()
        if not is_url(text, schemes, several="postgresql" in schemes):
            raise ValueError(f"not a valid URL: write {example} with @ : / ? # % in the password percent-encoded")
        for name, file in parse_qsl(urlsplit(text).query):
            if name in _FILES and not os.access(file, os.R_OK):
                raise ValueError(f"{name} names {file}, which is not there, or cannot be read")
        return secret

    return check


class Address(NamedTuple):
    """Where a program listens."""

    host: str
    port: int


def _address(text: object) -> object:
    """`HOST:PORT`, or a port alone, which is one of the loopback interface; an IPv6 host is in brackets."""
    found = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[^][:\s]+):)?([0-9]{1,5})", str(text))
    if found is None or not int(found[2]) < 65536:
        raise ValueError("an address like 127.0.0.1:9464 is needed")
    return Address((found[1] or "127.0.0.1").strip("[]"), int(found[2]))


def _each(names: object) -> object:
    """Names with commas between them, each once; a list is taken as it is."""
    parts = names.split(",") if isinstance(names, str) else names
    return tuple(dict.fromkeys(check_store(str(part).strip()) for part in parts)) if isinstance(parts, list) else parts


def _token(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]{16,}", secret.get_secret_value()):
        raise ValueError("a token of 16 characters or more is needed, without spaces: openssl rand -hex 16")
    return secret


class ManagementApi(NamedTuple):
    """Where RabbitMQ's management API is, and who asks."""

    url: str
    user: str
    password: str


class Settings(BaseSettings):
    """The settings of one command."""

    model_config = SettingsConfigDict(env_prefix="TRUNKLINE_", env_ignore_empty=True, validate_by_name=True)

    dsn: Annotated[SecretStr, AfterValidator(_url(DSN_EXAMPLE, "postgresql", "postgres"))] | None = None
    store: Annotated[str, AfterValidator(check_store)] = Field("eventstore", validation_alias="TRUNKLINE_SCHEMA")
    stores: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_each)] = Field(
        (), validation_alias="TRUNKLINE_SCHEMAS"
    )
    listen: Annotated[Address, NoDecode, BeforeValidator(_address)] | None = None
    statement_cache_size: int = Field(100, ge=0)
    amqp_url: Annotated[SecretStr, AfterValidator(_url(AMQP_EXAMPLE, "amqp", "amqps"))] | None = None
    management_url: Annotated[SecretStr, AfterValidator(_url(_MANAGEMENT_URL, "http", "https"))] | None = None
    token: Annotated[SecretStr, AfterValidator(_token)] | None = None
    token_file: Path | None = None
    public_page: bool = False

    @classmethod
    def of(cls, **options: str | bool | list[str] | None) -> Self:
        """The environment's settings, but for the options that were given. Raises `InvalidSettings`."""
        given: dict[str, Any] = {name: value for name, value in options.items() if value not in (None, [])}
        in_files = {name: text for name in _IN_FILES if name not in given and (text := _in_file(name)) is not None}
        try:
            return cls(**{**given, **in_files})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = str(first["loc"][0])
            name = _variable(field) + "_FILE" if field in in_files else _NAMES[field]
            raise InvalidSettings(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None

    def page_token(self) -> str | None:
        """What opens the status page, from the file if one is named; None where nothing is set. Raises
        `InvalidSettings`, also where the page is to be closed by a token and open to everybody."""
        if self.public_page and (self.token is not None or self.token_file is not None):
            given = "token" if self.token_file is None else "token_file"
            raise InvalidSettings(f"{_NAMES['public_page']}: {_NAMES[given]} is given, too: give one of them")
        if self.token_file is None:
            return None if self.token is None else self.token.get_secret_value()
        try:
            return _token(SecretStr(self.token_file.read_text().strip())).get_secret_value()
        except (OSError, UnicodeError, ValueError) as error:
            raise InvalidSettings(f"{_NAMES['token_file']}: {self.token_file}: {error}") from None

    def each_store(self) -> list[Self]:
        """These settings for each of `stores`; without any, for the one store."""
        return [self.model_copy(update={"store": name}) for name in self.stores or (self.store,)]

    def database(self) -> str:
        """The DSN. Raises `InvalidSettings` where there is none."""
        return _needed(self.dsn, "no database is named", _NAMES["dsn"], DSN_EXAMPLE)

    def broker(self) -> str:
        """The AMQP URL. Raises `InvalidSettings` where there is none."""
        return _needed(self.amqp_url, "no RabbitMQ is named", _NAMES["amqp_url"], AMQP_EXAMPLE)

    def vhost(self) -> str:
        """That of the AMQP URL; RabbitMQ's default one where it names none."""
        url = "" if self.amqp_url is None else self.amqp_url.get_secret_value()
        return unquote(urlsplit(url).path.removeprefix("/")) or "/"

    def management(self) -> ManagementApi | None:
        """The management API, if there is one; asked by the URL's own user, else by the AMQP URL's."""
        if self.management_url is None:
            return None
        url = urlsplit(self.management_url.get_secret_value())
        amqp = urlsplit("" if self.amqp_url is None else self.amqp_url.get_secret_value())
        whose = url if url.username else amqp
        return ManagementApi(
            url._replace(netloc=url.netloc.rpartition("@")[2]).geturl().rstrip("/"),
            unquote(whose.username or _GUEST),
            unquote(whose.password or _GUEST),
        )


def _needed(secret: SecretStr | None, problem: str, name: str, example: str) -> str:
    if secret is None:
        raise InvalidSettings(f"{problem}: give {name}, such as {example}")
    return secret.get_secret_value()


def _variable(name: str) -> str:
    return f"TRUNKLINE_{name.upper()}"


def _in_file(name: str) -> str | None:
    """The text of the file that the variable with `_FILE` names, if there is one. Raises `InvalidSettings`."""
    variable = _variable(name)
    file = os.environ.get(f"{variable}_FILE")
    if not file:
        return None
    if os.environ.get(variable):
        raise InvalidSettings(f"{variable} and {variable}_FILE: give one of them")
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{variable}_FILE: {file} cannot be read: {error}") from None
