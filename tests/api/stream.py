"""The stream of the read API, decoded: written from its description, not from the encoder."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Any


def records(body: bytes) -> Iterator[tuple[tuple[str | int, ...], bytes]]:
    at = 0
    while at < len(body):
        parts = []
        for _ in range(2):
            (size,) = struct.unpack_from("<I", body, at)
            parts.append(body[at + 4 : at + 4 + size])
            assert len(parts[-1]) == size, "truncated"
            at += 4 + size
        yield _path(parts[0]), parts[1]


def _path(raw: bytes) -> tuple[str | int, ...]:
    path: list[str | int] = []
    while raw:
        if raw[0] == 0xFE:
            path.append(struct.unpack(">q", raw[1:9])[0])
            raw = raw[9:]
        else:
            text, _, raw = raw.partition(b"\xfe")
            raw = b"\xfe" + raw
            path.append(text.decode())
        assert raw[0] == 0xFE
        raw = raw[1:]
    return tuple(path)


def value(raw: bytes) -> Any:
    kind, payload = raw[0], raw[1:]
    match kind:
        case 0:
            return None
        case 1:
            return payload == b"\x01"
        case 2:
            return struct.unpack("<q", payload)[0]
        case 3:
            return struct.unpack("<d", payload)[0]
        case 4:
            return payload.decode()
        case 5:
            return payload
    assert (kind in (6, 7), payload) == (True, b""), raw
    return [] if kind == 6 else {}


class _List(dict[Any, Any]):
    """A list whose items are still coming, by their places."""


def objects(body: bytes) -> dict[str | int, Any]:
    """The objects of a stream by their names, in their order, progress among them; arrays as lists of floats.

    What the web app's decoder dies of is an assertion here: an object whose records are not together, an empty name, the same path
    twice in a row.
    """
    found: dict[Any, Any] = {}
    last: tuple[str | int, ...] = ()
    for path, raw in records(body):
        assert "" not in (path or ("",)), path
        assert path != last
        assert path[0] not in found or last[:1] == path[:1], path
        last, holder = path, found
        for element in path[:-1]:
            holder = holder.setdefault(element, {})
        got = value(raw)
        holder[path[-1]] = _List() if got == [] else got
    return {name: _finished(tree) for name, tree in found.items()}


def _finished(tree: Any) -> Any:
    if isinstance(tree, _List):
        assert [*tree] == [*range(len(tree))], tree
        return [_finished(child) for child in tree.values()]
    if isinstance(tree, dict):
        if tree.get("type") == "numpy" and isinstance(tree.get("blob"), bytes):
            numbers = array("d", tree["blob"])
            assert tree["dtype"] == "float64"
            assert tree["shape"] == len(numbers)
            return numbers.tolist()
        return {name: _finished(child) for name, child in tree.items()}
    return tree


def shown(body: bytes) -> dict[str | int, Any]:
    """The same without progress."""
    return {
        name: tree for name, tree in objects(body).items() if not str(name).startswith("progress")
    }
