"""Opening a port, with an error that says what to do. Who serves it is the caller's affair."""

from __future__ import annotations

import errno
import socket

import trio

from matyan.errors import ConfigurationError


async def open_port(
    host: str, port: int, *, host_name: str = "--host", port_name: str = "--port (0: any free one)"
) -> list[trio.SocketListener]:
    """Listens on `port` of `host` (0: any free one).

    host_name, port_name: how a person sets them.

    Raises:
        ConfigurationError: no address of this machine, or the port is not to be had.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except (socket.gaierror, UnicodeError):
        # A name that no resolver may be asked for, such as "a..b", is the second.
        raise ConfigurationError(
            f"{host!r} is no address of this machine: name one with {host_name}, such as 127.0.0.1 or 0.0.0.0."
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.EADDRNOTAVAIL, errno.EACCES):
            raise ConfigurationError(
                f"This process cannot listen on {host} port {port} ({reason}): name an address of this machine with {host_name} "
                f"and a port above 1023 with {port_name}."
            ) from None
        raise ConfigurationError(
            f"This process cannot listen on {host} port {port} ({reason}): stop the program that has it, "
            f"or name another port with {port_name}."
        ) from None
