"""The one parser of requests: what it takes, what it refuses, and that a laxer one behind it sees the same."""

from __future__ import annotations

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from matyan.service.http1 import (
    HEAD_BYTES,
    BadRequest,
    Chunked,
    Head,
    Sized,
    parse_head,
    read_head,
)

GOOD: list[tuple[bytes, tuple[str, str, int | None]]] = [
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "/", 0)),
    (b"GET / HTTP/1.0\r\n\r\n", ("GET", "/", 0)),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", ("GET", "/", 0)),
    (b"GET / HTTP/1.1\r\nhOsT: [::1]:8080\r\n\r\n", ("GET", "/", 0)),
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:\r\nX: \xff\t a\r\n\r\n", ("GET", "/", 0)),
    (b"get /a%2Fb?c=[|^] HTTP/1.9\r\nHost: x\r\n\r\n", ("get", "/a%2Fb?c=[|^]", 0)),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", ("OPTIONS", "*", 0)),
    (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length:007\r\n\r\n", ("PUT", "/", 7)),
    (b"PUT / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: \tChunked \r\n\r\n", ("PUT", "/", None)),
    (b"GET http://y:1/a?b HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "/a?b", 0)),
    (b"GET HTTP://y?b HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "/?b", 0)),
    (b"GET ws://[::1]/a HTTP/1.1\r\nHost: x\r\n\r\n", ("GET", "/a", 0)),
]


@pytest.mark.parametrize(("raw", "want"), GOOD)
def test_what_is_sound_is_taken(raw: bytes, want: tuple[str, str, int | None]) -> None:
    head = parse_head(raw, b"more")
    assert (head.method, head.target, head.length) == want
    assert head.rest == b"more"
    assert as_h11_reads(head.forwarded()) == (want[0].encode(), want[1].encode())


def lines(*fields: bytes, first: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: x\r\n") -> bytes:
    return first + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


BAD = {
    "no host": lines(host=b""),
    "two hosts": lines(b"Host: x"),
    "two hosts in HTTP/1.0": lines(b"host: y", first=b"GET / HTTP/1.0"),
    "a host of two words": lines(host=b"Host: x y\r\n"),
    "a host with a user": lines(host=b"Host: u@x\r\n"),
    "a host with a path": lines(host=b"Host: x/y\r\n"),
    "a host that is not ASCII": lines(host=b"Host: \xff\r\n"),
    "half an IPv6 host": lines(host=b"Host: [::1\r\n"),
    "an IPv6 host that is none": lines(host=b"Host: [:::]\r\n"),
    "a port that is none": lines(host=b"Host: x:99999\r\n"),
    "a space before the colon": lines(b"Content-Length : 55"),
    "a tab before the colon": lines(b"Content-Length\t: 55"),
    "a control character before the colon": lines(b"Content-Length\x0b: 55"),
    "a space before the name": lines(b" Content-Length: 55"),
    "a space before the first name": lines(host=b" Host: x\r\n"),
    "a folded value": lines(b"X: a", b" b"),
    "a name that is not ASCII": lines(b"Content-Length\xa0: 55"),
    "a NUL in a name": lines(b"X\0: a"),
    "a NUL in a value": lines(b"X: a\0b"),
    "a bell in a value": lines(b"X: a\x07b"),
    "a DEL in a value": lines(b"X: a\x7fb"),
    "a line without a colon": lines(b"Content-Length 55"),
    "a line without a name": lines(b": 55"),
    "a bare LF": lines(b"X: a\nContent-Length: 55"),
    "a bare CR": lines(b"X: a\rContent-Length: 55"),
    "a bare LF behind the first line": b"GET / HTTP/1.1\nHost: x\r\n\r\n",
    "bare LFs alone": b"GET / HTTP/1.1\nHost: x\n\n",
    "CRs alone": b"GET / HTTP/1.1\rHost: x\r\r",
    "two lengths": lines(b"Content-Length: 5", b"Content-Length: 6"),
    "the same length twice": lines(b"Content-Length: 5", b"content-length: 5"),
    "a list of lengths": lines(b"Content-Length: 5, 5"),
    "a signed length": lines(b"Content-Length: +5"),
    "a negative length": lines(b"Content-Length: -5"),
    "a length in hex": lines(b"Content-Length: 0x5"),
    "a length with a line": lines(b"Content-Length: 1_0"),
    "a length with a fraction": lines(b"Content-Length: 5.0"),
    "a length in other digits": lines("Content-Length: ²".encode("latin-1")),
    "no length": lines(b"Content-Length:"),
    "a length beyond all": lines(b"Content-Length: " + b"9" * 30),
    "length and chunked": lines(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunked and length": lines(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "chunked twice": lines(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked in a list": lines(b"Transfer-Encoding: chunked, identity"),
    "chunked behind another": lines(b"Transfer-Encoding: gzip, chunked"),
    "identity": lines(b"Transfer-Encoding: identity"),
    "xchunked": lines(b"Transfer-Encoding: xchunked"),
    "chunked in quotes": lines(b'Transfer-Encoding: "chunked"'),
    "chunked behind a control character": lines(b"Transfer-Encoding: \x0bchunked"),
    "chunked with a parameter": lines(b"Transfer-Encoding: chunked;q=1"),
    "no coding": lines(b"Transfer-Encoding:"),
    "chunked in HTTP/1.0": lines(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0"),
    "no version": lines(first=b"GET /"),
    "a version that is none": lines(first=b"GET / HTTP/1.x"),
    "a long version": lines(first=b"GET / HTTP/1.10"),
    "a version in small letters": lines(first=b"GET / http/1.1"),
    "two spaces": lines(first=b"GET  / HTTP/1.1"),
    "a space in the target": lines(first=b"GET /a b HTTP/1.1"),
    "a tab": lines(first=b"GET\t/ HTTP/1.1"),
    "a space behind the version": lines(first=b"GET / HTTP/1.1 "),
    "a method that is none": lines(first=b"G(T / HTTP/1.1"),
    "a method that is not ASCII": lines(first=b"G\xffT / HTTP/1.1"),
    "a target that is not ASCII": lines(first=b"GET /\xff HTTP/1.1"),
    "a target without a slash": lines(first=b"GET a HTTP/1.1"),
    "a target of another form": lines(first=b"GET * HTTP/1.1"),
    "a target with a fragment": lines(first=b"GET /#a HTTP/1.1"),
    "a target with half an escape": lines(first=b"GET /%2 HTTP/1.1"),
    "a target with no escape": lines(first=b"GET /%zz HTTP/1.1"),
    "half an IPv6 target": lines(first=b"GET http://[::1 HTTP/1.1"),
    "a target without a host": lines(first=b"GET http:///a HTTP/1.1"),
    "a target with a port alone": lines(first=b"GET http://:80/a HTTP/1.1"),
    "a target with a user": lines(first=b"GET http://u:p@x/ HTTP/1.1"),
    "a target of another scheme": lines(first=b"GET file:///etc/passwd HTTP/1.1"),
    "a target with a bad port": lines(first=b"GET http://x:70000/ HTTP/1.1"),
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
async def test_what_is_not_sound_is_400(raw: bytes) -> None:
    """Also where it has no end that could be waited for."""
    ours, theirs = memory_stream_pair()
    await theirs.send_all(raw)
    with pytest.raises(BadRequest) as caught:
        await read_head(ours, b"")
    assert caught.value.answer.status == 400


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b"PRI * HTTP/2.0", 505),
        (b"GET / HTTP/0.9", 505),
        (b"GET / HTTP/3.0", 505),
        (b"CONNECT x:80 HTTP/1.1", 501),
    ],
)
def test_what_is_another_protocol_is_told_so(first: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_head(lines(first=first), b"")
    assert caught.value.answer.status == status


def test_the_host_of_an_absolute_target_counts() -> None:
    """RFC 9112, 3.2.2; also for the server behind."""
    head = parse_head(b"GET http://y:1/ HTTP/1.1\r\nA: b\r\nHost: x\r\n\r\n", b"")
    assert head.headers == {"host": "y:1", "a": "b"}
    assert head.forwarded() == b"GET / HTTP/1.1\r\nHost: y:1\r\nA: b\r\n\r\n"


def test_an_upgrade_is_not_forwarded() -> None:
    head = parse_head(lines(b"Upgrade: h2c", b"uPGRADE: websocket", b"HTTP2-Settings: AAAA"), b"")
    assert head.headers["upgrade"] == "h2c, websocket"
    assert head.forwarded() == lines(b"HTTP2-Settings: AAAA")


def test_a_header_that_appears_twice_counts_whole() -> None:
    head = parse_head(lines(b"Connection: x", b"connection: Close"), b"")
    assert head.headers["connection"] == "x, Close"
    assert not head.keeps_alive
    assert parse_head(lines(b"Connection: closed"), b"").keeps_alive


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n", b"\r\n" * 100])
@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_empty_lines_before_a_request_are_ignored(before: bytes, size: int) -> None:
    ours, theirs = memory_stream_pair()
    data = before + lines() + b"rest"
    got: list[Head | None] = []

    async def read() -> None:
        got.append(await read_head(ours, b""))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for start in range(0, len(data), size):
            await theirs.send_all(data[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
    (head,) = got
    assert head is not None
    assert head.target == "/"


async def test_a_head_has_a_limit() -> None:
    for filler in (b"X: " + b"x" * HEAD_BYTES, b"X: x\r\n" * HEAD_BYTES):
        ours, theirs = memory_stream_pair()
        await theirs.send_all(b"GET / HTTP/1.1\r\n" + filler + b"\r\n\r\n")
        with pytest.raises(BadRequest) as caught:
            await read_head(ours, b"")
        assert caught.value.answer.status == 431


@pytest.mark.parametrize(
    ("begun", "first", "status"),
    [
        (b"", True, 408),
        (b"\r\n", True, 408),
        (b"GET /", True, 408),
        (b"GET /", False, 408),
        (b"PRI * HTTP/2.0\r\n", False, 408),
        (b"", False, None),
        (b"\r\n", False, None),
    ],
)
async def test_no_connection_may_wait_for_ever(
    mock_clock: MockClock, begun: bytes, first: bool, status: int | None
) -> None:
    """10 s for the first head and for each that has begun, 60 s of silence between two, whatever trickles in."""
    ours, theirs = memory_stream_pair()
    mock_clock.autojump_threshold = 0
    ended: list[tuple[int | None, float]] = []

    async def read() -> None:
        began = trio.current_time()
        got = None
        try:
            assert await read_head(ours, begun, first=first) is None
        except BadRequest as error:
            got = error.answer.status
        ended.append((got, trio.current_time() - began))
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        while True:
            await trio.sleep(4)
            await theirs.send_all(b"x" if begun.startswith((b"G", b"P")) else b"\r\n")
    ((got, took),) = ended
    assert got == status
    assert took == pytest.approx(10 if status else 60)


# --- beside a laxer parser -----------------------------------------------------------------------


def as_h11_reads(raw: bytes) -> tuple[bytes, bytes]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event.method, event.target


PIECES = st.sampled_from(
    b"GET|PUT| |/|HTTP/1.1|HTTP/1.0|\r\n|Host|: |x|y:1|Content-Length|Transfer-Encoding|chunked|5|0|"
    b"\n|\r|\0|\t|http://|[::1]|\xff|,|;|Upgrade|websocket|%|?|*".split(b"|")
)
LINE = st.one_of(
    st.sampled_from([b"Host: x", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X: y"]),
    st.lists(PIECES, max_size=6).map(b"".join),
)
RAW = st.tuples(
    st.one_of(st.just(b"GET / HTTP/1.1"), st.lists(PIECES, max_size=6).map(b"".join)),
    st.lists(LINE, max_size=5),
).map(lambda parts: b"\r\n".join((parts[0], *parts[1], b"", b"")))


@given(RAW)
def test_what_is_forwarded_is_read_alike_behind(raw: bytes) -> None:
    """No head passes that h11 refuses, or of whose body it has another opinion."""
    try:
        head = parse_head(raw, b"")
    except BadRequest:
        return
    body = b"abcde" if head.length is None else b"x" * min(head.length, 1000)
    sent = b"5\r\nabcde\r\n0\r\n\r\n" if head.length is None else body
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head.forwarded() + sent)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target.decode()) == (head.method, head.target)
    got = b""
    while isinstance(event := connection.next_event(), h11.Data):
        got += event.data
    assert isinstance(event, h11.EndOfMessage) or (head.length or 0) > len(body)
    assert got == body


# --- bodies --------------------------------------------------------------------------------------


def fed(body: Sized | Chunked, data: bytes, size: int) -> int:
    """How many bytes were the body's, given in pieces."""
    taken = 0
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        used = body.feed(piece)
        taken += used
        if used < len(piece):
            break
    return taken


CHUNKED = b"5\r\nhello\r\n00a;name=value\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_body_ends_where_it_ends(size: int) -> None:
    body: Sized | Chunked
    for body, data in ((Sized(7), b"1234567"), (Chunked(), CHUNKED), (Chunked(), b"0\r\n\r\n")):
        assert not body.ended
        assert fed(body, data + b"\r\nGET / HTTP/1.1", size) == len(data)
        assert body.ended
    assert Sized(0).ended


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"5\nhello",
        b"5 \r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"-5\r\n",
        b"+5\r\n",
        b"5_0\r\n",
        b";a\r\n",
        b"x\r\n",
        b"5;a\0\r\n",
        b"5\r\nhello!\r\n",
        b"5\r\nhello\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"11111111111111111\r\n",
        b"5;" + b"x" * 5000,
        b"0\r\n: x\r\n\r\n",
        b"0\r\nX : x\r\n\r\n",
        b"0\r\n" + b"X: x\r\n" * 5000,
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_what_is_no_chunk_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(BadRequest):
        fed(Chunked(), data, size)


@given(st.lists(st.binary(max_size=50)), st.integers(1, 60))
def test_chunks_are_found_however_they_are_cut(chunks: list[bytes], size: int) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    data += b"0\r\n\r\n"
    body = Chunked()
    assert fed(body, data + data, size) == len(data)
    assert body.ended


@pytest.mark.parametrize(
    ("target", "below"),
    [
        ("/a/b/c?d", "/c?d"),
        ("/a/b", "/"),
        ("/a/b/", "/"),
        ("/a/b?c", "/?c"),
        ("/a/b//c", "//c"),
        ("/a/b/a/b", "/a/b"),
        ("/a/bc", "/a/bc"),
        ("/a", "/a"),
        ("/x/a/b", "/x/a/b"),
        ("//a/b/c", "//a/b/c"),
        ("/a%2Fb/c", "/a%2Fb/c"),
    ],
)
def test_what_a_proxy_left_in_front_of_a_path_is_taken_off(target: str, below: str) -> None:
    """Once, and where it is a whole beginning of the path; what another server sees is the rest."""
    head = parse_head(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"")
    assert head.below("/a/b").target == below
    assert head.below("/a/b").forwarded().startswith(f"GET {below} HTTP/1.1\r\n".encode())
    assert head.below("") == head
