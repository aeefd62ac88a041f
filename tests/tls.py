"""A PostgreSQL and a RabbitMQ that speak TLS, with certificates of an authority that is made for it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import trustme

from trunkline_ops.servers import ServerError, postgres_server, rabbitmq_server
from trunkline_ops.servers.guard import account_for_servers
from trunkline_ops.servers.ports import HOST, reserved_ports

NAME = "localhost"
"""The one name that the certificates are for; the servers listen on 127.0.0.1."""


class Tls(NamedTuple):
    """URLs without any parameter of TLS, and the authorities."""

    dsn: str
    amqp_url: str
    management_url: str
    authority: Path
    stranger: Path
    """Another authority, which has signed nothing."""

    @property
    def verified(self) -> "Tls":
        """With the parameters that have the certificates and their names verified."""
        return self.trusting(self.authority)

    def trusting(self, authority: Path) -> "Tls":
        return self._replace(
            dsn=f"{self.dsn}?sslmode=verify-full&sslrootcert={authority}",
            amqp_url=f"{self.amqp_url}?cafile={authority}",
            management_url=f"{self.management_url}?cafile={authority}",
        )

    def by_address(self) -> "Tls":
        """By an address that the certificates are not for."""
        return self._replace(
            dsn=self.dsn.replace(f"@{NAME}", f"@{HOST}"),
            amqp_url=self.amqp_url.replace(f"@{NAME}", f"@{HOST}"),
            management_url=self.management_url.replace(f"//{NAME}", f"//{HOST}"),
        )


@contextmanager
def tls_servers() -> Iterator[Tls]:
    """Both servers, until the block is left. They are processes, which read the folder that is made here."""
    with tempfile.TemporaryDirectory(prefix="trunkline-tls-") as name, pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRUNKLINE_SERVERS", "embedded")
        folder = Path(name)
        folder.chmod(0o755)
        certificate, key, authority = _signed(folder)
        stranger = folder / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(stranger)
        files = {"cacertfile": authority, "certfile": certificate, "keyfile": key}
        with reserved_ports(2) as [amqps, https]:
            of_postgres = {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key), "fsync": "off"}
            of_rabbitmq = {
                "listeners.ssl.1": f"{HOST}:{amqps}",
                "management.ssl.ip": HOST,
                "management.ssl.port": str(https),
                **{
                    f"{of}.{each}": str(file)
                    for of in ("ssl_options", "management.ssl")
                    for each, file in files.items()
                },
            }
            try:
                postgres = postgres_server(private=True, settings=of_postgres)
                with postgres as database, rabbitmq_server(private=True, settings=of_rabbitmq) as broker:
                    url = urlsplit(database.dsn)
                    credentials = broker.amqp_url.partition("//")[2].partition("@")[0]
                    yield Tls(
                        url._replace(netloc=f"{url.username}:{url.password}@{NAME}:{url.port}").geturl(),
                        f"amqps://{credentials}@{NAME}:{amqps}/",
                        f"https://{NAME}:{https}/",
                        authority,
                        stranger,
                    )
            except ServerError as error:
                if "SSL is not supported" in str(error):
                    pytest.skip("this PostgreSQL was built without TLS")
                raise


def _signed(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate for the name, its key, and the authority that has signed it."""
    authority = trustme.CA()
    server = authority.issue_cert(NAME)
    paths = folder / "server.pem", folder / "server.key", folder / "authority.pem"
    with paths[0].open("wb") as chain:
        chain.writelines(blob.bytes() for blob in server.cert_chain_pems)
    server.private_key_pem.write_to_path(paths[1])
    authority.cert_pem.write_to_path(paths[2])
    paths[1].chmod(0o600)
    if account := account_for_servers():
        os.chown(paths[1], *account)
    return paths
