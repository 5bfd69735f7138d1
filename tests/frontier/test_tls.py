"""The listener under TLS, over real sockets: handshakes, certificates, and what a client can do below HTTP."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trio
import trio.lowlevel
import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from trio.testing import MockClock

from matyan.frontier.edge import drain
from matyan.service import telemetry
from matyan.service.certificates import CHECK_S
from matyan.service.tls import HANDSHAKE_S, UNSENT_BYTES, TlsStream
from matyan.settings import Settings
from tests import tls
from tests.frontier.conftest import OVER_TLS, RawClient, Served, a_frontier
from tests.frontier.test_session import tag

OK = {"status": "ok", "error": None}
GET = b"GET /health/live/ HTTP/1.1\r\nHost: x\r\n\r\n"
PRESIGN = "/api/v1/rest/artifacts/presign"
BODY = {"run_id": "run-1", "artifact_path": "a"}


@pytest.fixture(autouse=True)
def under_tls(way: None) -> None:
    OVER_TLS.set(True)


def outcomes() -> dict[str, int]:
    (family,) = telemetry.TLS_HANDSHAKES.collect()
    return {
        sample.labels["outcome"]: int(sample.value)
        for sample in family.samples
        if sample.name.endswith("_total")
    }


async def raw(served: Served) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", served.port)


async def is_served(served: Served) -> None:
    """A new victim is answered."""
    client = await served.websocket("victim")
    await client.send(tag("a"))
    await served.handed(1)
    served.producer.deliver()
    assert await client.reply() == OK
    await client.stream.aclose()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():
            await trio.lowlevel.checkpoint()


# --- the handshake -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "alpn"),
    [
        (ssl.TLSVersion.TLSv1_2, ["http/1.1"]),
        (ssl.TLSVersion.TLSv1_3, ["h2", "http/1.1"]),
        (ssl.TLSVersion.TLSv1_3, []),
    ],
)
async def test_tls_1_2_and_1_3_are_spoken(
    served: Served, version: ssl.TLSVersion, alpn: list[str]
) -> None:
    """Another implementation of a client's stream, trio's; HTTP/1.1 alone is agreed on."""
    context = ssl.create_default_context(cafile=tls.authority_file())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(alpn)
    stream = trio.SSLStream(await raw(served), context, server_hostname="localhost")
    await stream.send_all(GET)
    assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
    assert stream.selected_alpn_protocol() == ("http/1.1" if alpn else None)
    await stream.aclose()  # it waits for the server's goodbye


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_tls_1_1_is_not(served: Served) -> None:
    context = ssl.create_default_context(cafile=tls.authority_file())
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    failed = outcomes()["failed"]
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        await tls.client(await raw(served), context)
    await until(lambda: outcomes()["failed"] == failed + 1)
    await is_served(served)


async def test_who_does_not_trust_it_is_told_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await tls.client(await raw(served), ssl.create_default_context())
    await until(lambda: "UNKNOWN_CA" in caplog.text)
    await is_served(served)


async def test_who_fails_again_and_again_does_not_fill_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reaches the port can: it is counted each time, and logged once a while, for each reason."""
    failed = outcomes()["failed"]
    for _ in range(5):
        async with await raw(served) as stream:
            await stream.send_all(b"\x16\x03\x01\x00\x05hello")
            await stream.receive_some()
    await until(lambda: outcomes()["failed"] == failed + 5)
    assert caplog.text.count("a TLS handshake failed") == 1
    with pytest.raises(ssl.SSLCertVerificationError):
        await tls.client(await raw(served), ssl.create_default_context())
    await until(lambda: "UNKNOWN_CA" in caplog.text)


async def test_a_request_without_tls_is_told_so(served: Served) -> None:
    async with await raw(served) as stream:
        await stream.send_all(GET)
        answer = b"".join([chunk async for chunk in stream])
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"https://" in answer


async def test_what_comes_behind_the_handshake_is_answered(served: Served) -> None:
    """In one segment with the client's last word of the handshake, as fast clients send it."""
    transport = await raw(served)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.client_context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    await transport.send_all(outgoing.read())
    while True:
        incoming.write(await transport.receive_some())
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
    client.write(GET)
    await transport.send_all(outgoing.read())
    answer = b""
    with trio.fail_after(10):
        while b"\r\n\r\n" not in answer:
            incoming.write(await transport.receive_some())
            with suppress(ssl.SSLWantReadError):
                answer += client.read()
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("size", [1, 5, 100])
async def test_a_handshake_may_come_in_any_pieces(served: Served, size: int) -> None:
    class Pieces:
        """Sends so many bytes at a time."""

        def __init__(self, stream: trio.SocketStream) -> None:
            self.socket, self.receive_some = stream.socket, stream.receive_some
            self._send = stream.send_all

        async def send_all(self, data: bytes) -> None:
            for at in range(0, len(data), size):
                await self._send(data[at : at + size])

    stream = await tls.client(Pieces(await raw(served)))
    await stream.send_all(GET)
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    [b"", b"\x16", tls.hello()[:100], tls.hello()],
    ids=["nothing", "a byte", "a part", "and waits"],
)
async def test_a_handshake_has_a_deadline(mock_clock: MockClock, sent: bytes) -> None:
    async with a_frontier() as served:
        stream = await raw(served)
        await stream.send_all(sent) if sent else None
        late = outcomes()["late"]
        await until_streams(served, 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(HANDSHAKE_S + 0.1)
        mock_clock.rate = 1
        await until(lambda: outcomes()["late"] == late + 1)
        assert not served.frontier.http.streams
        await is_served(served)


async def until_streams(served: Served, count: int) -> None:
    while len(served.frontier.http.streams) != count:
        await trio.lowlevel.checkpoint()


async def test_a_drain_does_not_wait_for_handshakes(served: Served) -> None:
    streams = [await raw(served) for _ in range(3)]
    await streams[1].send_all(tls.hello()[:50])
    await streams[2].send_all(tls.hello())
    await until_streams(served, 3)
    with trio.fail_after(5):
        assert await drain(served.frontier, trio.current_time() + 60) == 0


async def test_hostile_handshakes_end_alone(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut anywhere, with bytes changed, doubled or of nothing: no reply of a victim's is missed, nothing is left behind."""
    rng = random.Random(20)
    victim = await served.websocket("victim")

    async def attack() -> None:
        data = bytearray(tls.hello())
        for _ in range(rng.choice((0, 1, 1, 3))):
            at = rng.randrange(1, len(data))
            data[at : at + rng.choice((0, 1, 30))] = rng.randbytes(rng.choice((0, 1, 40)))
        data = data[: rng.choice((len(data), rng.randrange(len(data) + 1)))]
        data += rng.choice(
            (
                b"",
                b"",
                tls.hello(),
                GET,
                b"\x17\x03\x03\x40\x00" + bytes(100),
                rng.randbytes(70_000),
            )
        )
        stream = await raw(served)
        with suppress(trio.BrokenResourceError), trio.move_on_after(rng.choice((0, 0.01, 0.1))):
            await stream.send_all(data)
            await stream.send_eof()
            async for _ in stream:
                pass
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        for number in range(150):
            nursery.start_soon(attack)
            if number % 10 == 0:
                await victim.send(tag(f"t{number}"))
                with trio.fail_after(30):
                    await served.handed(1)
                    served.producer.deliver()
                    assert await victim.reply() == OK
    await until(lambda: not served.frontier.http.streams)
    assert "ended with an error" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("kept", [0, 1, 10, 25])
async def test_records_that_are_none_end_that_connection_alone(served: Served, kept: int) -> None:
    """On the lane, behind a frame: it is stored, the connection is over."""
    client = await served.websocket()
    await client.send(tag("a"))
    assert isinstance(client.stream, TlsStream)
    record = b"\x17\x03\x03\x00\x20" + bytes(32)
    client.stream.socket.send(record[:kept] + bytes(60))
    await served.handed(1)
    await until(lambda: not served.frontier.lane.connections)
    assert len(served.producer.frames) == 1
    served.producer.deliver()
    await is_served(served)


# --- the end -------------------------------------------------------------------------------------


async def test_a_goodbye_of_tls_is_an_end(served: Served) -> None:
    """Though the client keeps the connection below it open, before and on the lane."""
    before = await served.connect()
    lane = await served.websocket()
    await until(lambda: len(served.frontier.lane.connections) == 1)
    for stream in (before, lane.stream):
        assert isinstance(stream, TlsStream)
        sock = stream.detach()
        sock._say_goodbye()
        kept = sock.plain  # noqa: F841 - open until the test's end
    await until(lambda: not served.frontier.lane.connections and not served.frontier.http.streams)


async def test_a_goodbye_right_behind_a_frame_loses_nothing(served: Served) -> None:
    client = await served.websocket()
    assert isinstance(client.stream, TlsStream)
    sock = client.stream.detach()
    sent: list[bytes] = []

    class Gather:
        """Keeps what is sent, for one segment."""

        def __getattr__(self, name: str) -> object:
            return getattr(plain, name)

        def send(self, data: bytes) -> int:
            sent.append(bytes(data))
            return len(data)

    plain = sock.plain
    sock._sock = Gather()
    client.protocol.send_text(tag("a"))
    sock.send(b"".join(client.protocol.data_to_send()))
    sock._say_goodbye()
    plain.send(b"".join(sent))
    await served.handed(1)
    await until(lambda: not served.frontier.lane.connections)
    assert len(served.producer.frames) == 1


@pytest.mark.parametrize("how", ["answered", "drained", "dropped"])
async def test_the_server_says_goodbye(served: Served, how: str) -> None:
    """A client can tell an end from a cut: trio's stream raises at the latter, where it is asked to be strict."""
    transport = await raw(served)
    stream = trio.SSLStream(transport, tls.client_context(), server_hostname="127.0.0.1")
    if how == "answered":
        await stream.send_all(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    elif how == "drained":
        await stream.do_handshake()
        await until(lambda: any(isinstance(one, TlsStream) for one in served.frontier.http.streams))
        served.frontier.nursery.start_soon(drain, served.frontier, trio.current_time() + 1)
    else:
        client = RawClient(stream, "run-1", served.port)
        await client.shake_hands()
        await until(lambda: bool(served.frontier.lane.connections))
        for connection in list(served.frontier.lane.connections):
            connection.drop()
    with trio.fail_after(10):
        async for _ in stream:
            pass


# --- what a client can make OpenSSL do -----------------------------------------------------------


class KeyUpdates:
    """A client's records that ask for new keys (RFC 8446, 4.6.3): the `ssl` module cannot send them.

    Args:
        secret: the client's first traffic secret, from the key log, of TLS_AES_256_GCM_SHA384.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _expand(self, label: str, size: int) -> bytes:
        name = b"tls13 " + label.encode()
        info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
        return HKDFExpand(SHA384(), size, info).derive(self._secret)

    def next(self) -> bytes:
        """One record, the first under its key."""
        head = b"\x17\x03\x03" + (6 + 16).to_bytes(2, "big")
        asks = b"\x18\0\0\1\1" + b"\x16"
        record = head + AESGCM(self._expand("key", 32)).encrypt(self._expand("iv", 12), asks, head)
        self._secret = self._expand("traffic upd", 48)
        return record


async def test_key_updates_without_end_end_that_connection_alone(
    served: Served, tmp_path: Path
) -> None:
    """Each makes the server answer; whoever never reads these answers makes it keep them, up to a limit."""
    victim = await served.websocket("victim")
    context = ssl.create_default_context(cafile=tls.authority_file())
    context.keylog_filename = str(tmp_path / "keys")
    transport = await raw(served)
    transport.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client = await tls.client(transport, context)
    await until(lambda: any(isinstance(one, TlsStream) for one in served.frontier.http.streams))
    (stream,) = served.frontier.http.streams
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    (line,) = (
        line
        for line in (tmp_path / "keys").read_text().splitlines()
        if line.startswith("CLIENT_TRAFFIC_SECRET_0 ")
    )
    updates = KeyUpdates(bytes.fromhex(line.split()[2]))
    most = 0

    async def flood() -> None:
        nonlocal most
        while True:
            records = b"".join(updates.next() for _ in range(100))
            while records:
                try:
                    records = records[client.socket.send(records) :]
                except BlockingIOError:
                    await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            most = max(most, len(stream._sock._unsent))

    with pytest.raises(OSError, match=r"reset|Broken pipe"), trio.fail_after(60):
        await flood()
    assert UNSENT_BYTES / 2 < most < 2 * UNSENT_BYTES
    await victim.send(tag("a"))
    await served.handed(1)
    served.producer.deliver()
    assert await victim.reply() == OK


# --- certificates --------------------------------------------------------------------------------


async def test_uploads_are_signed_for_https(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, verify=tls.client_context()) as http:
        answer = await http.post(PRESIGN, json=BODY)
    assert answer.json()["upload_url"].startswith(f"{served.url}/put/")
    assert served.url.startswith("https://")


@asynccontextmanager
async def asking(folder: Path) -> AsyncIterator[tuple[Served, ssl.SSLContext, ssl.SSLContext]]:
    """A frontier that asks for certificates; a client with one, and one with another authority's."""
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "clients.pem")
    contexts = []
    for name, signed_by in (("client", authority), ("stranger", other)):
        context = ssl.create_default_context(cafile=tls.authority_file())
        context.load_cert_chain(tls.write_client(folder, signed_by, name))
        contexts.append(context)
    settings = Settings(tls_client_ca_file=str(folder / "clients.pem"))
    async with a_frontier(settings=settings) as served:
        yield served, contexts[0], contexts[1]


async def test_a_client_with_a_certificate_comes_in(tmp_path: Path) -> None:
    async with asking(tmp_path) as (served, context, _):
        stream = await tls.client(await raw(served), context)
        client = RawClient(stream, "run-1", served.port)
        await client.shake_hands()
        await client.send(tag("a"))
        await served.handed(1)
        served.producer.deliver()
        assert await client.reply() == OK
        async with httpx.AsyncClient(base_url=served.url, verify=context) as http:
            assert (await http.post(PRESIGN, json=BODY)).status_code == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /health/live/ HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"GET //health/live/ HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"POST /api/v1/rest/artifacts/presign HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (
            b"GET /api/v1/ws/runs/a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\n\r\n",
            403,
        ),
    ],
)
async def test_one_without_gets_its_health_checks_and_a_sentence(
    tmp_path: Path, request_: bytes, status: int
) -> None:
    async with asking(tmp_path) as (served, _, _):
        stream = await served.connect()
        await stream.send_all(request_)
        answer = bytes(await stream.receive_some())
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert (b"MATYAN_TLS_CLIENT_CA_FILE" in answer) is (status == 403)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_one_with_another_authoritys_is_refused(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Its health checks too: a certificate that is shown must be good."""
    async with asking(tmp_path) as (served, _, stranger):
        stranger.maximum_version = version

        async def visit() -> bytes:
            stream = await tls.client(await raw(served), stranger)
            await stream.send_all(GET)
            return await stream.receive_some()

        # Of TLS 1.3 a client hears that it is refused when its own handshake is over already.
        answer = b""
        with suppress(ssl.SSLError, trio.BrokenResourceError):
            answer = await visit()
        assert answer == b""


async def test_a_new_certificate_is_for_new_connections(tmp_path: Path) -> None:
    """Those that are open go on."""
    certificate, key = tls.write_pair(tmp_path)
    settings = Settings(tls_cert_file=str(certificate), tls_key_file=str(key))
    async with a_frontier(settings=settings) as served:
        client = await served.websocket()
        seen = []
        for _ in range(2):
            transport = trio.SSLStream(
                await raw(served), tls.client_context(), server_hostname="127.0.0.1"
            )
            await transport.do_handshake()
            seen.append(transport.getpeercert(binary_form=True))
            tls.write_pair(tmp_path)
            assert served.frontier.http.certificates is not None
            await trio.to_thread.run_sync(served.frontier.http.certificates.refresh)
        assert seen[0] != seen[1]
        await client.send(tag("a"))
        await served.handed(1)
        served.producer.deliver()
        assert await client.reply() == OK


async def test_the_files_are_watched(mock_clock: MockClock, tmp_path: Path) -> None:
    certificate, key = tls.write_pair(tmp_path)
    settings = Settings(tls_cert_file=str(certificate), tls_key_file=str(key))
    async with a_frontier(settings=settings) as served:
        certificates = served.frontier.http.certificates
        assert certificates is not None
        before = certificates.context
        tls.write_pair(tmp_path)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(CHECK_S + 0.1)
        mock_clock.rate = 1
        await until(lambda: certificates.context is not before)


async def test_the_end_of_the_certificate_is_a_metric(served: Served) -> None:
    assert served.frontier.http.certificates is not None
    expires = served.frontier.http.certificates.expires
    answer = await served.talk(b"GET /metrics/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    (line,) = (
        line
        for line in answer.decode().splitlines()
        if line.startswith("matyan_tls_certificate_expiry_timestamp_seconds{")
        and tls.server_settings()["tls_cert_file"] in line
    )
    assert float(line.split()[-1]) == expires
