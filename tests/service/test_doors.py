"""Who may come in: one table of requests, judged as the edge and the app do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan.errors import ConfigurationError
from matyan.service.doors import PRESIGN, Doors, doors_of, is_loopback, read_address
from matyan.settings import Settings

WS = "/api/v1/ws/runs/r"
BLOB = "/api/v1/rest/artifacts/blob/r/a"
HERE = "127.0.0.1:53801"
UI = "https://ui.example"


def doors(*listens: str, **settings: object) -> Doors:
    return doors_of(Settings(**settings)).listening_on(listens or ("127.0.0.1", "::1"))


# --- Host, on loopback alone -----------------------------------------------------------------------

LOOPBACK_HOSTS = [
    HERE,
    "127.0.0.1",
    "127.8.9.10:1",
    "127.0.0.1.",
    "[::1]",
    "[::1]:53801",
    "[0:0:0:0:0:0:0:1]:53801",
    "localhost",
    "LocalHost:53801",
    "localhost.:53801",
    "localhost:",
    "run.localhost:53801",
    "a.b.LOCALHOST.",
]
OTHER_HOSTS = [
    "",
    ":53801",
    "evil.example",
    "evil.example:53801",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io",
    "xlocalhost",
    ".localhost",
    "localhost..",
    "0.0.0.0:53801",
    "128.0.0.1",
    "10.0.0.1:53801",
    "[::]:53801",
    "[::2]",
    "::1",
    "[::1",
    "[localhost]",
    "[127.0.0.1]",
    "127.0.0.1:99999",
    "127.0.0.1:53801:53801",
    "127.0.0.1:x",
    "127.0.0.1@evil.example",
    "user@127.0.0.1",
    "127.0.0.1/evil",
    "127.0.0.1, evil.example",
    "evil.example, 127.0.0.1",
    "local host",
    "localhost\x00",
    "127.0.0.٣",
]


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
def test_a_loopback_host_is_answered(host: str) -> None:
    assert doors().judge("GET", "/docs", {"host": host}) is None


@pytest.mark.parametrize("host", OTHER_HOSTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT"])
def test_another_host_is_refused_on_loopback(method: str, host: str) -> None:
    """The 403 names the setting; health, and a process that others reach, answer to any name."""
    refusal = doors().judge(method, WS, {"host": host})
    assert refusal is not None
    assert refusal.status == 403
    assert "MATYAN_ALLOWED_HOSTS" in refusal.sentence
    assert doors().judge("GET", "/health/live/", {"host": host}) is None
    assert doors("0.0.0.0").judge(method, WS, {"host": host}) is None
    assert doors("127.0.0.1", "10.0.0.5").judge(method, WS, {"host": host}) is None
    assert doors(allowed_hosts=("*",)).judge(method, WS, {"host": host}) is None


def test_no_host_is_refused_on_loopback() -> None:
    assert doors().judge("GET", "/docs", {}) is not None


@pytest.mark.parametrize(
    "host", ["hub.example", "HUB.example:8888", "hub.example.", "t.example:1", "127.0.0.1"]
)
def test_hosts_of_the_settings_are_answered(host: str) -> None:
    """By name: a proxy may pass on another port."""
    named = doors(public_url="https://T.example:8443/base/", allowed_hosts=("Hub.Example",))
    assert named.judge("PUT", BLOB, {"host": host}) is None
    assert named.judge("PUT", BLOB, {"host": f"x{host}"}) is not None


@given(st.text())
def test_no_text_is_taken_for_loopback_by_accident(text: str) -> None:
    """Whatever is answered ends, port and dot aside, in what a browser sends to this machine alone."""
    if doors().judge("GET", "/docs", {"host": text}) is None:
        address = read_address(text)
        assert address is not None
        assert is_loopback(address.host)
        assert address.host.startswith(("127.", "[::1]")) or address.host.endswith("localhost")


# --- Origin ----------------------------------------------------------------------------------------

# Origin, Host, what CORS_ORIGINS and MATYAN_PUBLIC_URL say, whether it may change something.
ORIGINS = [
    # the address that it was sent to; no scheme, case, dot or default port makes a difference
    ("http://127.0.0.1:53801", HERE, {}, True),
    ("https://127.0.0.1:53801", HERE, {}, True),
    ("HTTP://LOCALHOST:53801", "localhost:53801", {}, True),
    ("http://localhost:53801", "localhost.:53801", {}, True),
    ("http://[::1]:53801", "[0::1]:53801", {}, True),
    ("https://localhost", "localhost:443", {}, True),
    ("https://localhost:443", "localhost", {}, True),
    ("http://localhost:80", "localhost", {}, True),
    ("https://localhost", "localhost", {}, True),
    # another page on the same machine is a stranger
    ("http://127.0.0.1:3000", HERE, {}, False),
    ("http://127.0.0.1", HERE, {}, False),
    ("http://localhost:53801", HERE, {}, False),
    ("http://[::1]:53801", HERE, {}, False),
    ("https://evil.example", HERE, {}, False),
    ("https://evil.example:53801", HERE, {}, False),
    ("http://127.0.0.1:53801.evil.example", HERE, {}, False),
    ("http://127.0.0.1:53801@evil.example", HERE, {}, False),
    # no origins
    ("null", HERE, {}, False),
    ("", HERE, {}, False),
    ("127.0.0.1:53801", HERE, {}, False),
    ("//127.0.0.1:53801", HERE, {}, False),
    ("://127.0.0.1:53801", HERE, {}, False),
    ("http://127.0.0.1:53801/", HERE, {}, False),
    ("http://127.0.0.1:53801/path", HERE, {}, False),
    ("http://127.0.0.1:53801?q", HERE, {}, False),
    ("http://127.0.0.1:53801 http://evil.example", HERE, {}, False),
    ("http://127.0.0.1:53801, https://evil.example", HERE, {}, False),
    ("http://", HERE, {}, False),
    ("http://:53801", HERE, {}, False),
    ("file://", HERE, {}, False),
    # CORS_ORIGINS: whole origins, scheme and port included
    (UI, HERE, {"cors_origins": (UI,)}, True),
    ("https://UI.example:443", HERE, {"cors_origins": (UI + "/",)}, True),
    ("http://ui.example", HERE, {"cors_origins": (UI,)}, False),
    ("https://ui.example:8443", HERE, {"cors_origins": (UI,)}, False),
    ("https://ui.example.evil.example", HERE, {"cors_origins": (UI,)}, False),
    ("https://any.example", HERE, {"cors_origins": ("*",)}, True),
    ("null", HERE, {"cors_origins": ("*",)}, True),
    ("null", HERE, {"cors_origins": ("null",)}, True),
    ("null", HERE, {"cors_origins": (UI,)}, False),
    ("file://", HERE, {"cors_origins": ("file://",)}, True),
    ("app://x", HERE, {"cors_origins": ("app://x/",)}, True),
    ("app://y", HERE, {"cors_origins": ("app://x/", "file://")}, False),
    # MATYAN_PUBLIC_URL: a proxy that sends another Host than the browser did
    ("https://t.example", HERE, {"public_url": "https://t.example"}, True),
    ("http://t.example", HERE, {"public_url": "https://t.example/matyan/"}, True),
    ("https://t.example:8443", HERE, {"public_url": "https://t.example"}, False),
    ("https://t.example:8443", HERE, {"public_url": "https://T.example:8443"}, True),
    ("https://x.t.example", HERE, {"public_url": "https://t.example"}, False),
    # MATYAN_ALLOWED_HOSTS says what a Host may be, and no more
    ("https://hub.example", HERE, {"allowed_hosts": ("hub.example", "*")}, False),
    ("https://hub.example", "hub.example", {"allowed_hosts": ("hub.example",)}, True),
]


@pytest.mark.parametrize(("origin", "host", "settings", "own"), ORIGINS)
def test_a_foreign_origin_changes_nothing(
    origin: str, host: str, settings: dict[str, object], own: bool
) -> None:
    """Handshakes, POST, PUT and whatever else may change something; reading is the browser's own affair."""
    headers = {"host": host, "origin": origin}
    json = {**headers, "content-type": "application/json"}
    for listens in ("127.0.0.1", "0.0.0.0"):
        judge = doors(listens, **settings).judge
        for refusal in (
            judge("GET", WS, {**headers, "upgrade": "websocket"}),
            judge("GET", "/elsewhere", {**headers, "upgrade": "WebSocket"}),
            judge("POST", PRESIGN, json),
            judge("PUT", BLOB, headers),
            judge("DELETE", "/health/live/", headers),
            judge("get", "/docs", headers),
        ):
            assert (refusal is None) == own
            assert refusal is None or (refusal.status, "CORS_ORIGINS" in refusal.sentence) == (
                403,
                True,
            )
        for method in ("GET", "HEAD", "OPTIONS"):
            assert judge(method, "/docs", headers) is None


def test_without_an_origin_nothing_is_asked() -> None:
    """The SDK and curl send none."""
    assert doors().judge("GET", WS, {"host": HERE, "upgrade": "websocket"}) is None
    assert doors().judge("PUT", BLOB, {"host": HERE}) is None


# --- Content-Type ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("application/json", True),
        ("Application/JSON", True),
        ("application/json; charset=utf-8", True),
        ("application/json ;charset=utf-8", True),
        ("text/plain", False),
        ("text/plain; application/json", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data", False),
        ("application/jsonp", False),
        ("application/json, text/plain", False),
        ("application/vnd.api+json", False),
        ("", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_json_route_takes_json(kind: str | None, good: bool, slash: str) -> None:
    """What a page can send without asking is not taken; a blob may have any type."""
    headers = {"host": HERE} if kind is None else {"host": HERE, "content-type": kind}
    refusal = doors().judge("POST", PRESIGN + slash, headers)
    assert (refusal is None) == good
    assert refusal is None or refusal.status == 415
    assert doors().judge("PUT", BLOB, headers) is None


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"public_url": "t.example"},
        {"public_url": "https://"},
        {"public_url": "https://t example"},
        {"allowed_hosts": ("https://hub.example",)},
        {"allowed_hosts": ("hub.example", "*.example")},
        {"allowed_hosts": ("::1",)},
    ],
)
def test_a_setting_without_an_address_is_a_sentence(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        doors(**settings)
