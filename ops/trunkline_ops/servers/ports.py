"""Ports of the loopback interface that stay free for one server, also while it is down."""

import random
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

HOST = "127.0.0.1"
_BLOCK = 10
# Below the range from which the kernel takes the near ends of outgoing connections (from 32768, ip(7)). There,
# a client that retries towards a server that is down can be given that very port: it connects to itself, and
# the server cannot come back.
_BLOCKS = range(20_000, 32_000, _BLOCK)


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """`count` (at most 9) free ports, which no other program that asks here is given until the block is left.

    The first port of a block of ten stays bound, and thereby says that the other nine are taken.
    """
    assert count < _BLOCK
    for first in random.sample(_BLOCKS, len(_BLOCKS)):
        with closing(socket.socket()) as mark:
            ports = list(range(first + 1, first + 1 + count))
            if _bind(mark, first) and all(_is_free(port) for port in ports):
                yield ports
                return
    raise OSError(f"no {count} free ports next to each other in {_BLOCKS.start}-{_BLOCKS.stop}")


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return _bind(probe, port)


def _bind(to_bind: socket.socket, port: int) -> bool:
    try:
        to_bind.bind((HOST, port))
    except OSError:
        return False
    return True
