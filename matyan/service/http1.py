"""HTTP/1.1 as the edge and the workers' probes speak it: a request's head in, an answer out.

Strict (RFC 9112): one parser stands in front of everything that answers, so that no two of them can disagree about where
a request ends. What a request means, who may send it and which page it gets is decided elsewhere.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import unquote

import trio

from matyan.parsing import HIGHEST_PORT
from matyan.service.tls import Stream

HEAD_BYTES = 64 << 10
"""What a request's head may hold. nginx allows 8 KiB a line, node 16 KiB in all; but the web app names every selected run in a URL."""
_TRAILER_BYTES = 16 << 10
_PIECE_BYTES = 16 << 10
"""Of one read."""
HEAD_S = 10.0
"""A head must be complete within this time once it has begun; a new connection may say nothing for as long."""
KEEP_ALIVE_S = 60.0
"""How long a connection may say nothing after an answer."""
SEND_S = 30.0
"""A peer must take what it is sent within this time."""
LINGER_S = 2.0
"""How long a socket is still read after the last answer."""


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Further fields."""


def json_answer(status: int, value: object, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status, "application/json", json.dumps(value).encode(), headers)


def detail(status: int, sentence: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """An error as the reference's services shape it."""
    return json_answer(status, {"detail": sentence}, headers)


def turned_away(status: int, sentence: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """The same of a request that may not come in; the web app shows its `message`."""
    return json_answer(status, {"detail": sentence, "message": sentence}, headers)


class BadRequest(Exception):
    """What came is no request that is understood: answer so and close, since its end is not known."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.answer = detail(status, sentence)


# --- the head ------------------------------------------------------------------------------------

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REQUEST_LINE = re.compile(rb"([!-~]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
# What no line may hold: control characters (but tabs in the value of a field), and a CR or LF that stands alone.
_FOREIGN = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]|(?<!\r)\n")
_EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")
# RFC 3986, and what browsers leave as it is in a query besides: [ ] { } | ^ ` \\.
_ORIGIN_FORM = re.compile(rb"/(?:[!$&-;=?-~]|%[0-9A-Fa-f]{2})*")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;.*)?\r\n")
_LINE_BYTES = 4 << 10
"""The longest line of a chunked body: a size with its extensions, or a field of the trailer."""
_NO_LINE = "A control character, or a line that does not end in CRLF."
_ABSOLUTE_FORM = re.compile(rb"(?:https?|wss?)://([^/?]+)(.*)", re.IGNORECASE)
_AUTHORITY = re.compile(
    rb"(?:\[(?P<ipv6>[^\]]*)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::(?P<port>[0-9]{0,5}))?"
)


class Head(NamedTuple):
    """A request's head, whose framing is known to be sound."""

    method: str
    target: str
    """In origin form, as it came: percent-encoded, with its query. `*` of OPTIONS too."""
    version: str
    """"HTTP/1.0" or "HTTP/1.1"."""
    headers: dict[str, str]
    """By lower-case name; of a name that appears twice the values are joined with a comma. The host of a target in
    absolute form stands for the Host field's."""
    length: int | None
    """Bytes of the body; None: it is chunked."""
    rest: bytes
    """What was read beyond the head."""
    fields: tuple[tuple[bytes, bytes], ...]
    """As `headers`, in their order and with each one's own value."""

    def __repr__(self) -> str:
        """Without what may hold a secret: a token stands in a field, a signature in the query."""
        return f"Head({self.method} {self.path!r} {self.version})"

    @property
    def path(self) -> str:
        """Decoded, without the query."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> str:
        """As it came, percent-encoded."""
        return self.target.partition("?")[2]

    @property
    def bare(self) -> bool:
        """A GET or HEAD without a body."""
        return self.method in {"GET", "HEAD"} and self.length == 0

    @property
    def keeps_alive(self) -> bool:
        wish = {token.strip() for token in self.headers.get("connection", "").lower().split(",")}
        return "close" not in wish and (self.version == "HTTP/1.1" or "keep-alive" in wish)

    def below(self, base: str) -> Head:
        """The same without `base`, "" or such as /tracker, in front of its path, where a proxy has left that there."""
        rest = self.target.removeprefix(base)
        if not base or len(rest) == len(self.target) or rest[:1] not in ("", "/", "?"):
            return self
        return self._replace(target=rest if rest.startswith("/") else f"/{rest}")

    def forwarded(self) -> bytes:
        """The head as another server shall see it: without Upgrade, which it may not follow (RFC 9110, 7.8)."""
        lines = [f"{self.method} {self.target} {self.version}".encode()]
        lines += [name + b": " + value for name, value in self.fields if name.lower() != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))


def parse_head(raw: bytes, rest: bytes) -> Head:
    """Parses a head with its empty line.

    Raises:
        BadRequest: it is not HTTP/1.1, or not sound; what follows must not be read as a request.
    """
    if _FOREIGN.search(raw):
        raise BadRequest(400, _NO_LINE)
    first, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, version = _request_line(first)
    fields = list(map(_field, lines))
    hosts = [value for name, value in fields if name.lower() == b"host"]
    if len(hosts) > 1 or (not hosts and version == "HTTP/1.1"):
        raise BadRequest(400, "A request has one Host.")
    if hosts and not _is_authority(hosts[0]):
        raise BadRequest(400, "Host is no host.")
    if (absolute := _ABSOLUTE_FORM.fullmatch(target)) is not None:
        host, target = absolute.groups()
        if host.startswith(b":") or not _is_authority(host):
            raise BadRequest(400, "The request's target is no URL.")
        target = target if target.startswith(b"/") else b"/" + target
        hosts = [host]  # in place of the field (RFC 9112, 3.2.2)
    if hosts:
        fields = [field for field in fields if field[0].lower() != b"host"]
        # An empty port is the default one (RFC 3986, 6.2.3), to which not everybody agrees.
        fields.insert(0, (b"Host", hosts[0].removesuffix(b":")))
    if not _ORIGIN_FORM.fullmatch(target) and (method, target) != ("OPTIONS", b"*"):
        raise BadRequest(400, "The request's target is no path.")
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode().lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    length = _length(headers, version)
    return Head(method, target.decode(), version, headers, length, rest, tuple(fields))


def _request_line(line: bytes) -> tuple[str, bytes, str]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None or not _TOKEN.fullmatch(match[1]):
        raise BadRequest(400, "The first line is no request of HTTP/1.1.")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise BadRequest(505, "This server speaks HTTP/1.1.")
    if method == b"CONNECT":
        raise BadRequest(501, "This server is no proxy.")
    return method.decode(), target, "HTTP/1.0" if minor == b"0" else "HTTP/1.1"


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name):
        raise BadRequest(400, "A line of the head is no header field.")
    return name, value.strip(b" \t")


def _is_authority(text: bytes) -> bool:
    match = _AUTHORITY.fullmatch(text)
    if match is None or int(match["port"] or 0) > HIGHEST_PORT:
        return False
    try:
        return match["ipv6"] is None or bool(IPv6Address(match["ipv6"].decode()))
    except ValueError:
        return False


def _length(headers: dict[str, str], version: str) -> int | None:
    """RFC 9112, 6.3; where it leaves a choice, the one that ends the connection."""
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None or version == "HTTP/1.0":
            raise BadRequest(400, "Transfer-Encoding stands beside Content-Length, or in HTTP/1.0.")
        if coding.lower() != "chunked":
            raise BadRequest(400, "The one Transfer-Encoding is chunked.")
        return None
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise BadRequest(400, "Content-Length is no number.")
    return int(length)


async def read_head(
    stream: trio.abc.ReceiveStream, begun: bytes, *, first: bool = True
) -> Head | None:
    """The next request's head; None when the peer has no more. Empty lines before it are ignored.

    Args:
        begun: what was read already.
        first: whether nothing was answered on this connection yet; if something was, silence is an end as good as any.

    Raises:
        BadRequest: it is not sound, too long, or was not complete in time.
    """
    data, checked = begun, 0
    deadline = trio.current_time() + (HEAD_S if first else KEEP_ALIVE_S)
    has_begun = False
    while True:
        if not has_begun:
            data = _EMPTY_LINES.sub(b"", data)
            has_begun = data not in {b"", b"\r"}
            if has_begun:
                deadline = trio.current_time() + HEAD_S
        size = data.find(b"\r\n\r\n", max(checked - 3, 0)) + 4
        is_complete = size >= 4
        if (size if is_complete else len(data)) > HEAD_BYTES:
            raise BadRequest(431, f"The request's head is longer than {HEAD_BYTES} bytes.")
        if is_complete:
            return parse_head(data[:size], data[size:])
        # Refused at once: the end of such a head may never come.
        if _FOREIGN.search(data, max(checked - 1, 0)):
            raise BadRequest(400, _NO_LINE)
        checked = len(data)
        with trio.move_on_at(deadline) as scope:
            more = await stream.receive_some(_PIECE_BYTES)
        if scope.cancelled_caught:
            if not (first or has_begun):
                return None
            raise BadRequest(408, f"The request's head was not complete within {HEAD_S:.0f} s.")
        if not more:
            return None
        data += more


# --- the body ------------------------------------------------------------------------------------


class Sized:
    """Finds the end of a body of a known length."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def ended(self) -> bool:
        return self._left == 0

    def feed(self, data: bytes) -> int:
        """How many of these bytes are the body's."""
        taken = min(self._left, len(data))
        self._left -= taken
        return taken


class Chunked:
    """Finds the end of a chunked body (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self.ended = False
        self._line = bytearray()
        self._left = 0
        self._expect = self._size_line
        self._trailer_left = _TRAILER_BYTES

    def feed(self, data: bytes) -> int:
        """How many of these bytes are the body's.

        Raises:
            BadRequest: they are no chunks.
        """
        at = 0
        while at < len(data) and not self.ended:
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
            else:
                end = data.find(b"\n", at) + 1
                taken = (end or len(data)) - at
                self._line += data[at : at + taken]
                if len(self._line) > _LINE_BYTES:
                    raise BadRequest(400, "A line of the chunked body is too long.")
                if end:
                    line, self._line = bytes(self._line), bytearray()
                    if _FOREIGN.search(line):
                        raise BadRequest(400, _NO_LINE)
                    self._expect(line)
            at += taken
        return at

    def _size_line(self, line: bytes) -> None:
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise BadRequest(400, "A chunk begins with its size.")
        self._left = int(match[1], 16)
        self._expect = self._end_line if self._left else self._trailer_line

    def _end_line(self, line: bytes) -> None:
        if line != b"\r\n":
            raise BadRequest(400, "A chunk is longer than its size.")
        self._expect = self._size_line

    def _trailer_line(self, line: bytes) -> None:
        if line == b"\r\n":
            self.ended = True
            return
        _field(line.removesuffix(b"\r\n"))
        self._trailer_left -= len(line)
        if self._trailer_left < 0:
            raise BadRequest(431, f"The trailer is longer than {_TRAILER_BYTES} bytes.")


# --- the answer ----------------------------------------------------------------------------------


def response(answer: Answer, *, keep_alive: bool, head_only: bool = False) -> bytes:
    """The answer as HTTP/1.1."""
    status = HTTPStatus(answer.status)
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        # A request with another Origin may get another answer: no cache may give the one for the other.
        "Vary: Origin",
        *(f"{name}: {value}" for name, value in answer.headers),
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1") + (b"" if head_only else answer.body)


async def send_within(stream: trio.abc.SendStream, data: bytes) -> None:
    """Sends it all.

    Raises:
        trio.BrokenResourceError: the peer did not take it within SEND_S.
    """
    with trio.move_on_after(SEND_S) as scope:
        await stream.send_all(data)
    if scope.cancelled_caught:
        raise trio.BrokenResourceError("the peer does not read")


async def linger(stream: trio.abc.HalfCloseableStream) -> None:
    """Ends the sending side and waits a moment for the peer's end.

    A socket that is closed with unread bytes in it sends a reset, which can overtake the last answer.
    """
    with trio.move_on_after(LINGER_S):
        try:
            await stream.send_eof()
            while await stream.receive_some(_PIECE_BYTES):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


def peer_address(stream: Stream) -> str:
    """The address of the peer; empty when it has gone, or has none."""
    try:
        name = stream.socket.getpeername()
    except OSError:
        return ""
    return str(name[0]) if isinstance(name, tuple) else ""


async def refuse(stream: trio.abc.HalfCloseableStream, answer: Answer) -> None:
    """Sends the last answer of a connection."""
    await send_within(stream, response(answer, keep_alive=False))
    await linger(stream)
