"""A network that breaks: a proxy which ends sockets of runs in the midst, after some of what was sent has come and before it is answered."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_INGEST = b"GET /api/v1/ws/"


class Cutting:
    """
    Args:
        cuts: so many sockets of runs are ended, each within so many bytes of its client.
    """

    def __init__(self, url: str, seed: int, cuts: int, within_bytes: int) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname, parts.port
        self._draw = random.Random(seed)
        self._within = within_bytes
        self._left = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _pass(self, client: socket.socket) -> None:
        head = client.recv(1 << 16)
        server = socket.create_connection(self._target)
        left = 1 << 60
        if head.startswith(_INGEST) and self._left:
            self._left -= 1
            left = len(head) + self._draw.randrange(self._within)
        broken = threading.Event()

        def back() -> None:
            with suppress(OSError):
                while data := server.recv(1 << 16):
                    # What is on its way when the network breaks does not arrive.
                    if not broken.is_set():
                        client.sendall(data)
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)

        threading.Thread(target=back, daemon=True).start()
        with suppress(OSError):
            data = head
            while data:
                if len(data) >= left:
                    broken.set()
                    server.sendall(data[:left])
                    self.cuts += 1
                    time.sleep(self._draw.choice([0, 0.2]))
                    break
                server.sendall(data)
                left -= len(data)
                data = client.recv(1 << 16)
        for end in client, server:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def cutting(url: str, seed: int, cuts: int, within_bytes: int) -> Iterator[Cutting]:
    proxy = Cutting(url, seed, cuts, within_bytes)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()
