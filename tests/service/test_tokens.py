"""The tokens file: what it may be, who may change it, and what a service makes of one that is not whole."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from matyan.errors import ConfigurationError
from matyan.service.entrance import Visitor
from matyan.service.http1 import parse_head
from matyan.service.quotas import Quota
from matyan.service.tokens import (
    AGAIN_S,
    Scope,
    Token,
    Tokens,
    changing,
    digest,
    dump,
    is_name,
    new_secret,
    parse,
    read_or_none,
    tokens_of,
)
from matyan.settings import Settings
from tests import tokens as file_of

ROW = {
    "name": "ci",
    "digest": "ab" * 32,
    "scopes": ["write"],
    "created": "2026-01-02T03:04:05Z",
    "expires": None,
    "quota": None,
}

token = some.builds(
    Token,
    name=some.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    digest=some.binary(min_size=32, max_size=32),
    scopes=some.frozensets(some.sampled_from(Scope), min_size=1),
    created=some.integers(0, 4_000_000_000).map(float),
    expires=some.none() | some.integers(0, 4_000_000_000).map(float),
    quota=some.none() | some.builds(Quota, connections=some.integers(1, 1000)),
)


@given(some.dictionaries(some.text(), token).map(lambda d: {t.name: t for t in d.values()}))
def test_what_is_written_is_read(tokens: dict[str, Token]) -> None:
    assert parse(dump(tokens)) == tokens


def test_half_a_file_is_none() -> None:
    """However much of it is missing: each beginning of a file is refused, but for its last line end."""
    text = dump(parse(json.dumps({"tokens": [ROW]}).encode()))
    for size in range(len(text) - 1):
        with pytest.raises(ValueError, match="JSON"):
            parse(text[:size])


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "{}", "[[]]", '{"tokens": null}', '{"tokens": {}x', '{"tokens": [1]}'),
        *('{"tokens": {}}', '{"tokens": ""}'),
        *('{"tokens": "x"}', '{"tokens": [null]}', '{"tokens": [[]]}', "[" * 100_000, "\xff"),
        *('{"tokens": {"ci": {}}}', '{"tokens": [' + "9" * 10_000 + "]}"),
        *(
            json.dumps({"tokens": [{**ROW, **wrong}]})
            for wrong in (
                *({"name": bad} for bad in (None, 1, "", "a b", "a:b", "ä", "-a", "x" * 65, "a\n")),
                *({"digest": bad} for bad in (None, 1, "", "ab" * 31, "AB" * 32, "x" * 64)),
                *({"scopes": bad} for bad in (None, [], "write", ["all"], [1], [["write"]])),
                *({"created": bad} for bad in (None, 1, "", "yesterday")),
                *({"expires": bad} for bad in (1, "", "yesterday", False)),
                *({"quota": bad} for bad in (1, "", "many", {})),
            )
        ),
        json.dumps({"tokens": [ROW, ROW]}),
    ],
)
def test_what_is_no_tokens_file_is_refused(text: str) -> None:
    """Whole: a row that is not understood may be the one that was to be revoked. It says why, and shows no digest."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - any fragment
        parse(text.encode("latin-1"))
    assert "abab" not in str(caught.value)


json_value = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(),
    lambda inner: (
        some.lists(inner) | some.dictionaries(some.sampled_from(list(ROW)) | some.text(), inner)
    ),
    max_leaves=8,
)
moment = some.datetimes().map(str) | some.sampled_from(
    ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999", "1e9", "2026-02-30", "2026-W01-1")
)  # fmt: skip


@given(
    some.fixed_dictionaries({"tokens": json_value})
    | some.fixed_dictionaries(
        {"tokens": some.lists(some.dictionaries(some.sampled_from(list(ROW)), moment | json_value).map(lambda odd: {**ROW, **odd}))}
    )
)  # fmt: skip
def test_whatever_stands_there_is_tokens_or_refused(value: object) -> None:
    """No other error, which would end the service that looks at its file; and what is read can be written."""
    try:
        tokens = parse(json.dumps(value).encode())
    except ValueError:
        return
    assert parse(dump(tokens)).keys() == tokens.keys()


# --- changes -------------------------------------------------------------------------------------


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    """And one that is there keeps whom it is readable by, but is never written by others."""
    file = tmp_path / "folder" / "tokens"
    before = os.umask(0)
    try:
        file_of.add(file, "ci", "write")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.chmod(0o664)
    file_of.add(file, "second", "write")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [path.name for path in file.parent.iterdir()] == ["tokens"]


def test_a_file_that_others_may_write_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    file_of.add(file, "ci", "write")
    Tokens(file)
    assert caplog.text == ""
    file.chmod(0o620)
    assert Tokens(file).on
    assert "chmod go-w" in caplog.text


def test_a_link_stays_one(tmp_path: Path) -> None:
    link, file = tmp_path / "link", tmp_path / "elsewhere" / "tokens"
    link.symlink_to(file)
    file_of.add(link, "ci", "write")
    assert link.is_symlink()
    assert read_or_none(file) is not None
    assert read_or_none(link) == read_or_none(file)


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file_of.add(file, "ci", "write")
    before = file.read_bytes()
    with suppress(ZeroDivisionError), changing(file) as tokens:
        tokens.clear()
        raise ZeroDivisionError
    assert file.read_bytes() == before
    file.write_bytes(before[:-10])
    with pytest.raises(ConfigurationError, match="no tokens file"), changing(file):
        pass
    assert file.read_bytes() == before[:-10]
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_many_may_change_it_at_once(tmp_path: Path) -> None:
    """Processes that add a token each, side by side: all of them are in it."""
    code = "import sys, pathlib; from tests.tokens import add\nfor i in range(5): add(pathlib.Path(sys.argv[1]), sys.argv[2] + str(i), 'read')"
    file = tmp_path / "tokens"
    adding = [
        subprocess.Popen([sys.executable, "-c", code, str(file), name])
        for name in ("a", "b", "c", "d")
    ]
    assert [process.wait(60) for process in adding] == [0] * 4
    assert len(read_or_none(file) or ()) == 20


# --- what a service knows ------------------------------------------------------------------------


def test_without_a_file_no_token_is_asked_for(tmp_path: Path) -> None:
    """As long as there never was one; a service that was told of one does not start without it."""
    assert not Tokens(None).on
    tokens = tokens_of(Settings(), tmp_path / "tokens")
    tokens.look()
    assert not tokens.on
    assert tokens.objection(None, Scope.WRITE) is None
    for missing in (tmp_path / "tokens", tmp_path / "no" / "folder"):
        with pytest.raises(ConfigurationError, match="does not exist"):
            tokens_of(Settings(tokens_file=str(missing)))


def gone(file: Path) -> None:
    file.unlink()


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def listener(file: Path) -> None:
    file.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(file))


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def huge(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(1 << 30)


def other_words(file: Path) -> None:
    file.write_text(file.read_text().replace('"write"', '"everything"'))


def no_parent(file: Path) -> None:
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("")


BREAKS: list[Callable[[Path], None]] = [
    gone, half, empty, folder, pipe, listener, loop, huge, other_words, no_parent
]  # fmt: skip


@pytest.mark.parametrize("break_", BREAKS)
def test_a_file_that_breaks_keeps_its_last_good_state(
    tmp_path: Path, break_: Callable[[Path], None]
) -> None:
    """Whoever had a token still has, nobody else; once it is whole again it counts, without a restart."""
    file = tmp_path / "in" / "tokens"
    secret = file_of.add(file, "ci", "write")
    tokens = Tokens(file)
    break_(file)
    for _ in range(2):
        tokens.look()
        assert tokens.on
        assert tokens.find("ci", secret) is not None
        assert tokens.find("ci", secret + "x") is None
        assert tokens.objection(None, Scope.WRITE) is not None
    # Mended by hand.
    if file.is_dir():
        file.rmdir()
    elif file.parent.is_dir():
        file.unlink(missing_ok=True)
    else:
        file.parent.unlink()
    other = file_of.add(file, "other", "write")
    tokens.look()
    assert tokens.find("other", other) is not None
    assert tokens.find("ci", secret) is None


@pytest.mark.parametrize("break_", [one for one in BREAKS if one not in (gone, no_parent)])
def test_a_file_that_is_broken_from_the_first_opens_nothing(
    tmp_path: Path, break_: Callable[[Path], None]
) -> None:
    """No service starts with it; one that runs lets nobody in until it is whole."""
    file = tmp_path / "in" / "tokens"
    tokens = Tokens(file)
    file_of.add(file, "ci", "write")
    break_(file)
    tokens.look()
    assert tokens.on
    assert len(tokens) == 0
    for settings, default in ((Settings(), file), (Settings(tokens_file=str(file)), None)):
        with pytest.raises(ConfigurationError):
            tokens_of(settings, default)


def test_the_last_token_revoked_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    secret = file_of.add(file, "ci", "write")
    tokens = Tokens(file)
    file_of.revoke(file, "ci")
    tokens.look()
    assert tokens.on
    assert tokens.find("ci", secret) is None
    assert Tokens(file).on


def test_a_write_in_place_is_seen(tmp_path: Path) -> None:
    """Also one of as many bytes within the same moment as it was looked at, once it was found half written."""
    file = tmp_path / "tokens"
    file_of.add(file, "ci", "write")
    tokens = Tokens(file)
    whole = file.read_bytes()
    moment = file.stat().st_mtime_ns
    file.write_bytes(whole[:-10] + b" " * 10)
    os.utime(file, ns=(moment, moment))
    tokens.look()
    file.write_bytes(whole.replace(b'"write"', b'"read" '))
    os.utime(file, ns=(moment, moment))
    time.sleep(AGAIN_S)
    tokens.look()
    found = tokens.current("ci")
    assert found is not None
    assert found.scopes == {Scope.READ}


def test_a_token_is_long_and_fits_a_url() -> None:
    made = {new_secret().reveal() for _ in range(1000)}
    assert len(made) == 1000
    assert all(
        len(one) >= 43 and one.isascii() and one.replace("-", "_").isidentifier() for one in made
    )
    assert is_name("a.b_c-1")


def test_nothing_that_is_printed_shows_a_token() -> None:
    """Neither the token, nor its digest, nor a head that it came in, wherever one is logged or formatted."""
    secret = new_secret()
    token = Token("ci", digest(secret.reveal()), frozenset({Scope.READ}), time.time())
    sent = file_of.basic("ci", secret.reveal())
    head = parse_head(
        f"GET /a?signature=abcdef HTTP/1.1\r\nHost: x\r\nAuthorization: {sent}\r\n\r\n".encode(),
        b"",
    )
    for shown in (secret, token, Visitor(token), head, [head], {"head": head}):
        for text in (repr(shown), str(shown), f"{shown}", f"{shown!r}"):
            assert secret.reveal() not in text
            assert sent.removeprefix("Basic ") not in text
            assert "abcdef" not in text
            assert token.digest.hex() not in text
            assert repr(token.digest) not in text
    assert "/a" in repr(head)
