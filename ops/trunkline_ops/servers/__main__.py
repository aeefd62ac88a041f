"""Fetches a RabbitMQ and says which one it is: `python -m trunkline_ops.servers 4.3`, or `newest`."""

import sys

from trunkline_ops.servers.rabbitmq import home_of, version_of
from trunkline_ops.servers.ways import Unavailable

try:
    print(f"RabbitMQ {version_of(home_of(sys.argv[1]))}")
except Unavailable as reason:
    sys.exit(f"no RabbitMQ {sys.argv[1]}: {' '.join(str(reason).split())}")
