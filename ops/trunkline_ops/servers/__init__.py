"""Real servers for the demo, for tests and for trying things out: a PostgreSQL and a RabbitMQ.

    with postgres_server() as postgres, rabbitmq_server() as rabbitmq:
        ...  # postgres.dsn, rabbitmq.amqp_url, rabbitmq.management_url

They are the ones that `TRUNKLINE_DSN`, `TRUNKLINE_AMQP_URL` and `TRUNKLINE_MANAGEMENT_URL` name, where
these are set. Else they are this program's own (that takes Linux): on free ports of the loopback interface,
with fresh data, and they end with the program, however it ends.
"""

from trunkline_ops.servers.postgres import PostgresServer, postgres_server, standby_of
from trunkline_ops.servers.rabbitmq import RabbitMQServer, rabbitmq_server
from trunkline_ops.servers.server import Server
from trunkline_ops.servers.ways import ServerError, Unavailable

__all__ = [
    "PostgresServer",
    "RabbitMQServer",
    "Server",
    "ServerError",
    "Unavailable",
    "postgres_server",
    "rabbitmq_server",
    "standby_of",
]
