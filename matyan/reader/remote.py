"""A reader of a process that serves the read API: the same questions, over HTTP.

No settings and no store here. The process is named by a URL, with a token in it where one is wanted: http://name:token@host:port.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from matyan import __version__
from matyan.errors import ConfigurationError, MatyanError, NotFound, Unavailable
from matyan.folder.client import answered
from matyan.reader.reading import Reader

_BASE: Final = "/api/v1/rest/reader/"
_SILENCE_S: Final = 60.0
"""A process that reads says so several times a second."""
_ANSWER: Final = "application/octet-stream"
_REFUSAL_BYTES: Final = 64 << 10
_PIECE_BYTES: Final = 256 << 10

_ASKED: Final = frozenset(
    {
        *("runs", "find", "show", "artifacts", "logs", "export"),
        *("query_runs", "query_points", "query_objects", "query_values", "news"),
    }
)
"""What changes a store, and what is about its files, is asked where they are."""


def is_url(place: object) -> bool:
    return isinstance(place, str) and place.lower().startswith(("http://", "https://"))


class RefusedByServer(ConfigurationError):
    """What answers at a URL refuses, with this status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Server:
    """Where a process answers, and what it is shown. str(): without the token.

    Raises:
        ConfigurationError: the URL is none.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _no_url(str(error)) from None
        if not parts.hostname or parts.query or parts.fragment:
            raise _no_url("there is no host in it" if not parts.hostname else "it ends in a query")
        self.secure = parts.scheme.lower() == "https"
        self.host = parts.hostname
        self.port = port or (443 if self.secure else 80)
        self.prefix = parts.path.rstrip("/")
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.name = f"{parts.scheme.lower()}://{shown}{f':{port}' if port else ''}{self.prefix}"
        self.headers = {"User-Agent": f"matyan/{__version__}"}
        if parts.username is not None or parts.password is not None:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            self.headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"

    def __str__(self) -> str:
        return self.name

    def connect(self) -> HTTPConnection:
        """A connection that is still to be made.

        Raises:
            ConfigurationError: no host is called so.
        """
        place = self.host, self.port
        try:
            if not self.secure:
                return HTTPConnection(*place, timeout=_SILENCE_S)
            return HTTPSConnection(*place, timeout=_SILENCE_S, context=trusting())
        except HTTPException:
            raise _no_url(f"{self.host!r} is no host") from None

    def request(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: object = None,
        answer: str = _ANSWER,
    ) -> tuple[HTTPResponse, socket.socket | None]:
        """A successful answer, of the type `answer`, and the socket that it comes through.

        Raises:
            MatyanError: in a sentence, what the process says or why it says nothing.
        """
        headers = dict(self.headers)
        data = None
        if body is not None:
            data = _json(body)
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, self.prefix + path, data, headers)
            # Whoever hangs up needs it; an answer that ends with its connection takes it away from there.
            through = connection.sock
            response = connection.getresponse()
            # A page that asks for a login, say, is a success, too.
            if response.status == 200 and response.headers.get_content_type() == answer:
                return response, through
            told = response.read(_REFUSAL_BYTES)
        except ssl.SSLCertVerificationError as error:
            raise untrusted(self, error) from None
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"{self} does not speak TLS as this side does ({error.reason}): is it http:// there?"
            ) from None
        except (socket.gaierror, UnicodeError):
            raise Unavailable(f"There is no host {self.host!r}: see to the URL.") from None
        except TimeoutError:
            raise Unavailable(
                f"{self} does not answer: try again, or see what it is busy with."
            ) from None
        except (OSError, HTTPException) as error:
            raise Unavailable(
                f"Nobody answers at {self} ({_reason(error)}): start matyan up or matyan api there, or see to the URL."
            ) from None
        raise self._refusal(method, answer, response, told)

    def _refusal(
        self, method: str, wanted: str, response: HTTPResponse, told: bytes
    ) -> MatyanError:
        status = response.status
        if status == 401:
            known = (
                "the token in the URL is not known there, or was revoked"
                if ("Authorization" in self.headers)
                else "it wants a token"
            )
            return RefusedByServer(
                f"{self} lets nobody in: {known}. Write the URL as http://NAME:TOKEN@HOST:PORT.",
                status,
            )
        if status in (301, 302, 303, 307, 308):
            return RefusedByServer(
                f"{self} leads on to {response.headers.get('Location', 'nowhere')[:200]!r}: write that URL.",
                status,
            )
        if wanted == _ANSWER and (status == 405 or (status == 404 and method == "POST")):
            return RefusedByServer(
                f"{self} does not answer a reader's questions: run the same version of matyan there, or see to the URL.",
                status,
            )
        try:
            sentence = json.loads(told)["detail"]
            assert isinstance(sentence, str)
        except (ValueError, KeyError, TypeError, AssertionError):
            return RefusedByServer(
                f"What answers at {self} with {status} is no tracker that this version can read: see to the URL, and to the versions.",
                status,
            )
        if status == 403:
            return RefusedByServer(f"{self} refuses: {sentence.rstrip('.')}.", status)
        if response.status == 404:
            return NotFound(sentence)
        return Unavailable(sentence) if status >= 500 else MatyanError(sentence)


def untrusted(place: object, error: ssl.SSLCertVerificationError) -> ConfigurationError:
    return ConfigurationError(
        f"The certificate of {place} is not trusted ({error.verify_message}): name its authority's file in SSL_CERT_FILE."
    )


def trusting() -> ssl.SSLContext:
    """What checks certificates. It honours SSL_CERT_FILE, where one is of an authority of one's own."""
    return ssl.create_default_context()


def _json(body: object) -> bytes:
    """
    Raises:
        MatyanError: there is a text in it that no store holds, such as a word of a command line that is no UTF-8.
    """
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise MatyanError("That is no valid Unicode: no name is written so.") from None


def _no_url(reason: str) -> ConfigurationError:
    # The URL itself may hold a token.
    return ConfigurationError(f"That is no URL of a tracker ({reason}): write http://HOST:PORT.")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class RemoteReader(Reader):
    """Asks a process over HTTP; each call is a connection of its own."""

    def __init__(self, server: Server) -> None:
        super().__init__(_no_socket)
        self._server = server

    def ask(self, op: str, **arguments: Any) -> Iterator[Any]:
        if op not in _ASKED:
            raise ConfigurationError(
                f"{op!r} is not asked over a URL: run this beside the data, with --data FOLDER or --store STORE."
            )
        given = {
            name: value for name, value in arguments.items() if value is not None or name == "seen"
        }
        with closing(self._server.connect()) as connection:
            response, through = self._server.request(
                connection, "POST", f"{_BASE}{op}/get-batch", given
            )
            with response:
                yield from answered(response, partial(_hang_up, through), self._saw)

    def _pieces(self, run: str, path: str) -> Iterator[bytes]:
        with closing(self._server.connect()) as connection:
            place = f"{_BASE}blob?run={quote(run, safe='')}&path={quote(path, safe='')}"
            response, _ = self._server.request(connection, "GET", place)
            with response:
                try:
                    while piece := response.read(_PIECE_BYTES):
                        yield piece
                except (OSError, HTTPException):
                    raise Unavailable(
                        f"{self._server} went away within {path!r}: ask for it again."
                    ) from None


def _no_socket() -> socket.socket:
    raise Unavailable("A process at a URL has no socket here.")


def _hang_up(through: socket.socket | None) -> None:
    """Wakes whoever reads from it, in any thread."""
    if through is not None:
        with suppress(OSError):
            through.shutdown(socket.SHUT_RDWR)
