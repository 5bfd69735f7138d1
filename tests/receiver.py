"""A server that webhooks are sent to: answers as it is told, and keeps what it got."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Got:
    path: str
    headers: dict[str, str]
    """By their names in small letters."""
    body: bytes
    moment: float = field(default_factory=time.monotonic)

    @property
    def told(self) -> tuple[str, str]:
        """The event's type, and whom it is about."""
        message = json.loads(self.body)
        return message["type"], next(iter(message["data"].values()), "")


Answer = Callable[[Got, BaseHTTPRequestHandler], None]


@dataclass
class Receiver:
    port: int
    got: list[Got] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    """By path; otherwise all is taken."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def at(self, path: str) -> list[tuple[str, str]]:
        """What was sent there, in order."""
        return [one.told for one in self.got if one.path == path]


def status(code: int, **headers: str) -> Answer:
    def answer(got: Got, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def dripping(got: Got, handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, and never a whole answer."""
    for _ in range(600):
        handler.wfile.write(b"H")
        handler.wfile.flush()
        time.sleep(0.1)


def hangs_up(got: Got, handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@contextmanager
def receiving(port: int = 0, **answers: Any) -> Iterator[Receiver]:
    """answers: by the path's only part."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            got = Got(self.path, headers, self.rfile.read(size))
            if len(got.body) < size:
                self.close_connection = True  # the sender was ended in the midst of it
                return
            receiver.got.append(got)
            try:
                receiver.answers.get(self.path, status(204))(got, self)
            except OSError:
                self.close_connection = True  # the sender waits no longer

        def log_message(self, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", port), Handler)
    receiver = Receiver(server.server_address[1])
    receiver.answers = {f"/{name}": answer for name, answer in answers.items()}
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
