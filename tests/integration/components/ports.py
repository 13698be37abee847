"""Ports of loopback for servers that cannot let the kernel choose, or that are to come back on the port they had.

They lie below those that the kernel gives to whoever connects (``ip_local_port_range``): between the look and the server's start
no connection takes one. A process gives each of them once, and processes with neighbouring ids begin far apart.
"""

from __future__ import annotations

import itertools
import os
import socket

_FIRST, _COUNT = 20_000, 12_000
_GOLDEN_RATIO = 0.618_033_988_749_895
_numbers = itertools.count(int(os.getpid() * _GOLDEN_RATIO % 1 * _COUNT))


def free_ports(count: int) -> list[int]:
    """`count` ports in a row that nobody has."""
    ports: list[int] = []
    for number in itertools.islice(_numbers, _COUNT):
        port = _FIRST + number % _COUNT
        if not _is_free(port):
            ports = []
        elif ports and port != ports[-1] + 1:  # from the last to the first
            ports = [port]
        else:
            ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError(f"there are no {count} free ports in a row")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
