"""A run as a sender gets it: the messages that a client would send, in order, and the blobs. How messages become frames.

No target and no file here.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

LINE: Final = "log_terminal_line"
RECORD: Final = "log_record"
CREATE: Final = "create_run"
FINISH: Final = "finish_run"
COUNTED: Final = frozenset((LINE, RECORD))
"""What a target appends: sent twice, it stands there twice."""
BULK: Final = frozenset(("log_metric", "log_custom_object"))
"""What has a step: sent twice, it stands there once. These come in any number, so their frames are not awaited one by one."""

FRAME_ITEMS: Final = 1_000
FRAME_BYTES: Final = 512 << 10
"""A frame is sent when it has so many items, or bytes. A data folder's socket takes 1 MiB at once."""
MESSAGE_BYTES: Final = 900 << 10
"""What a message may have (contract, section 6), as the record that it becomes; not longer as it is sent, but for its blanks."""

Message = Mapping[str, Any] | bytes
"""A message of the ingest protocol: the object, or its JSON in UTF-8, which then begins with `{"type":"…"`."""


@dataclass(frozen=True, slots=True)
class MovedBlob:
    """An artifact.

    size: None: not known before.
    open: its bytes in pieces, anew at each call; they are `size` together, or the upload fails. Raises NotFound, be it at the first
        piece: there are none, it was only announced.
    version: a text that changes when the bytes do, which their size alone would not show.
    """

    path: str
    content_type: str
    size: int | None
    open: Callable[[], Iterable[bytes]]
    version: str = ""


@dataclass(frozen=True, slots=True)
class MovedRun:
    """A run as messages.

    run_id: 1 to 128 of `[A-Za-z0-9_.:-]`, not "." or "..". An import derives it from what it reads, so that importing the same again
        goes on where it was and makes no second run.
    messages: the run's messages in order, anew and the same at each call: an interrupted run goes on behind those that were
        acknowledged. They begin with `create_run`, where its start is known, and end with `finish_run`, where it has ended. Each
        point and each object has a step. Lines and records are best together, not between points: whatever is appended is sent
        carefully. They may be made in another thread.
    blobs: its artifacts, anew at each call. They are uploaded behind the messages, and the sender sends their `blob_ref`.
    version: a text that changes when the source does: a run that was sent with the same one is not read again. "": it never changes.
    points: how many points and objects it has, for who shows progress; None: not known.
    origin: which run of the source it is, where the id does not say that: another one never goes on where this was.
    """

    run_id: str
    messages: Callable[[], Iterable[Message]]
    blobs: Callable[[], Iterable[MovedBlob]] = tuple
    version: str = ""
    points: int | None = None
    origin: str = ""


class Unwritable(ValueError):
    """A message that no frame can hold: str() says why, as a fragment."""


def kind_of(message: Message) -> str:
    if isinstance(message, bytes):
        begin = b'{"type":"'
        if not message.startswith(begin):
            raise ValueError(f'a message in bytes begins with {{"type":"…": {message[:40]!r}')
        return message[len(begin) : message.index(b'"', len(begin))].decode()
    return str(message["type"])


def encoded(message: Message) -> bytes:
    """A message as it goes into a frame.

    Raises:
        Unwritable: it is too long, or holds what JSON cannot.
    """
    if isinstance(message, bytes):
        data = message
    else:
        if kind_of(message) in BULK and message.get("step") is None:
            raise ValueError(
                f"{message['type']} without a step: what is sent twice would stand twice"
            )
        try:
            text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
            data = text.encode()
        except UnicodeEncodeError:
            raise Unwritable("a text is no valid Unicode") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise Unwritable(f"JSON cannot hold it ({error})") from None
    if len(data) > MESSAGE_BYTES:
        raise Unwritable(f"it has {len(data):,} bytes, a message may have {MESSAGE_BYTES:,}")
    return data


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come."""

    messages: int = 0
    digest: bytes = b""
    """Of all these messages."""
    lines: int = 0
    records: int = 0


START: Final = Position()


@dataclass(slots=True)
class Frame:
    """Messages that go together."""

    messages: list[tuple[str, bytes]]
    """Kind and JSON of each; none, where all have come before. Lines are only among lines, records only among records."""
    end: Position | None
    """Where the run stands when they have come; None: in the midst of what was a frame before."""

    @property
    def is_bulk(self) -> bool:
        return all(kind in BULK for kind, _ in self.messages)

    @property
    def is_counted(self) -> bool:
        return bool(self.messages) and self.messages[0][0] in COUNTED

    def data(self, number: int) -> bytes:
        """As it goes over the wire. number: of a connection's frames no two that wait at once may be the same bytes, since the second
        would be taken for a copy of the first; blanks tell them apart."""
        return b"[" + b" " * (number % 64) + b",".join(data for _, data in self.messages) + b"]"


def one_by_one(frame: Frame) -> list[Frame]:
    """The same, each of its messages in a frame of its own."""
    *others, last = frame.messages
    return [*(Frame([item], None) for item in others), Frame([last], frame.end)]


class Frames:
    """The frames of one run, one after the other. Its calls block on the run's source: for a thread.

    Args:
        single: lines and records go one a frame.
        unwritable: told of each message that no frame can hold: its kind and the reason.
    """

    def __init__(
        self,
        messages: Iterable[Message],
        *,
        single: bool,
        unwritable: Callable[[str, str], None],
    ) -> None:
        self._source = iter(messages)
        self._single = single
        self._unwritable = unwritable
        self._ahead: tuple[str, bytes] | None = None
        self._again: deque[Frame] = deque()
        # Of what went into frames, or was passed over.
        self._hash = blake2b(digest_size=16)
        self._count = self._lines = self._records = 0
        self.drop = {LINE: 0, RECORD: 0}
        """How many of the next lines and records have come before, and are not sent."""
        self.leave_out: frozenset[str] = frozenset()
        """Kinds that are not sent."""

    def skip(self, to: Position) -> bool:
        """Passes over what has come before. False: these are other messages than then, and this object is of no further use."""
        while self._count < to.messages:
            item = self._read()
            if item is None:
                return False
            self._pass(*item)
        return self._end() == to

    def next(self) -> Frame | None:
        """The next frame; None: there is none."""
        if self._again:
            frame = self._again.popleft()
            frame.messages = [item for item in frame.messages if self._is_sent(item[0])]
            return frame
        messages: list[tuple[str, bytes]] = []
        size = taken = 0
        most = FRAME_ITEMS
        while len(messages) < most and taken < FRAME_ITEMS:
            item = self._read()
            if item is None:
                break
            kind, data = item
            is_counted = kind in COUNTED
            if messages and (
                (kind != messages[0][0] and (is_counted or messages[0][0] in COUNTED))
                or size + len(data) > FRAME_BYTES
            ):
                self._ahead = item
                break
            self._pass(kind, data)
            taken += 1
            if self._is_sent(kind):
                messages.append(item)
                size += len(data) + 1
                most = 1 if is_counted and self._single else FRAME_ITEMS
        return Frame(messages, self._end()) if taken else None

    def again(self, frames: Iterable[Frame]) -> None:
        """Gives these frames once more, before all others."""
        self._again.extendleft(reversed([*frames]))

    def _is_sent(self, kind: str) -> bool:
        if self.drop.get(kind):
            self.drop[kind] -= 1
            return False
        return kind not in self.leave_out

    def _end(self) -> Position:
        digest = self._hash.digest() if self._count else b""
        return Position(self._count, digest, self._lines, self._records)

    def _pass(self, kind: str, data: bytes) -> None:
        self._hash.update(data)
        self._count += 1
        self._lines += kind == LINE
        self._records += kind == RECORD

    def _read(self) -> tuple[str, bytes] | None:
        if self._ahead is not None:
            item, self._ahead = self._ahead, None
            return item
        for message in self._source:
            kind = kind_of(message)
            try:
                return kind, encoded(message)
            except Unwritable as reason:
                self._unwritable(kind, str(reason))
        return None
