"""The receiving side of a WebSocket connection (RFC 6455, and 7692 without context takeover): bytes in, messages out.

A large, fragmented or compressed message comes out in pieces as it arrives, so that nobody has to hold it whole.
Pongs and close frames are made here and wait in `data_to_send`. No sockets, no clock, no budget, and no JSON: whoever
calls `next` decides when, and holds what comes out.

`websockets`' own Sans-I/O layer holds a frame until it is whole, whatever its size; its handshake and its tables are used.
"""

from __future__ import annotations

import codecs
import re
import zlib
from enum import Enum, auto

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode

from matyan._codec import text_message, unmask

GOODBYE = "the server is shutting down"
NO_TEXT = "messages are text frames"
"""Reasons of close frames, whichever server sends them."""

SMALL_BYTES = 64 << 10
"""A message in one frame of so many bytes at most comes out whole, as today's clients send nearly all of theirs."""
PIECE_BYTES = 64 << 10
"""The most that one piece has, inflated."""

_CONTROL = 0x08
_FIN, _RSV1, _RSV23 = 0x80, 0x40, 0x30
_MASKED = 0x80
_WHOLE_TEXT = _FIN | Opcode.TEXT
_KNOWN = {Opcode.CONT, Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PING, Opcode.PONG}
_TAIL = b"\x00\x00\xff\xff"
"""What ends each compressed message and is not sent (RFC 7692, 7.2.2)."""
_utf8 = codecs.getincrementaldecoder("utf-8")
# The decoder keeps these as the beginning of a character, though no character begins so.
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")


class Kind(Enum):
    """What comes next."""

    WHOLE = auto()
    """A message in one piece; not yet known to be UTF-8."""
    BEGIN = auto()
    """Of a message in pieces; these are UTF-8."""
    PIECE = auto()
    END = auto()


class Wire:
    """
    Args:
        max_bytes: of a message, inflated; beyond them it is closed with 1009.
        deflate: permessage-deflate was agreed on, without the client's context takeover.
    """

    __slots__ = (
        "_at",
        "_data",
        "_fin",
        "_inflate",
        "_left",
        "_mask",
        "_mask_at",
        "_max_bytes",
        "_message",
        "_more",
        "_out",
        "_size",
        "_tail",
        "_tailed",
        "_text",
        "close_rcvd",
        "close_sent",
        "closed",
        "declared",
        "deflate",
        "failed",
        "splits_small",
        "taken",
    )

    def __init__(self, max_bytes: int, *, deflate: bool = False) -> None:
        self._max_bytes = max_bytes
        self.deflate = deflate
        self._data = b""
        self._at = 0
        self._out: list[bytes] = []
        # The data frame at hand: what is left of its payload, its mask and that one's turn. None: between frames.
        self._left: int | None = None
        self._mask = b""
        self._mask_at = 0
        self._fin = False
        # The message at hand.
        self._message = False
        self._size = 0
        self._text: codecs.IncrementalDecoder | None = None
        self._inflate: zlib._Decompress | None = None
        self._tail = b""
        self._tailed = False
        self._more = False
        self.declared: int | None = None
        """The bytes of the message that begins, where its frame says them."""
        self.close_rcvd: Close | None = None
        self.close_sent: Close | None = None
        self.closed = False
        """Whether a whole close frame came, be it after the last that was taken."""
        self.splits_small = False
        """Whether a small message that is not all there comes out in pieces too, so that nothing is held here."""
        self.failed = False
        """Whether nothing more is taken: the peer said goodbye, or broke the rules."""
        self.taken = 0
        """Bytes that messages in pieces brought so far, as they came; no heads and no control frames."""

    @property
    def is_open(self) -> bool:
        """No close frame was sent or received."""
        return self.close_sent is None and not self.failed

    @property
    def is_between(self) -> bool:
        """Whether the next byte is the first of a message or of a control frame."""
        return self._left is None and not self._message and self._at == len(self._data)

    @property
    def held(self) -> int:
        """Bytes that came and did not come out."""
        return len(self._data) - self._at + len(self._tail)

    def whole(self, data: bytes) -> bytes | None:
        """The message, where `data` is one in one frame and nothing else is under way, as nearly always; else None: feed it."""
        if (
            self._left is None
            and not self._message
            and self._at == len(self._data)
            and self.close_sent is None
            and not self.failed
        ):
            return text_message(data)
        return None

    def feed(self, data: bytes) -> None:
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0

    def data_to_send(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def send_ping(self) -> None:
        self._out.append(Frame(Opcode.PING, b"").serialize(mask=False))

    def send_close(self, code: int, reason: str) -> None:
        """Says goodbye; what comes nevertheless is still taken."""
        self._queue_close(Close(code, reason))

    def fail(self, code: int, reason: str) -> None:
        """Says goodbye for a reason that makes it useless to read on (RFC 6455, 7.1.7)."""
        if self.close_sent is None:
            self._queue_close(Close(code, reason))
        self._stop()

    def next(self) -> tuple[Kind, bytes] | None:
        """What comes next, or None: more bytes are needed, or nothing will come (`failed`)."""
        try:
            while not self.failed:
                if self._left is None:
                    found = self._begin_frame()
                elif self._left or self._more or self._tail or self._put_tail():
                    found = self._next_piece()
                else:
                    found = self._end_frame()
                if found is None:
                    return None
                if found is not _NOTHING:
                    return found
        except ProtocolError as error:
            self.fail(CloseCode.PROTOCOL_ERROR, str(error))
        except UnicodeDecodeError as error:
            self.fail(CloseCode.INVALID_DATA, f"not UTF-8: {error.reason}")
        self._skip_to_close()
        return None

    def _begin_frame(self) -> tuple[Kind, bytes] | None:
        data, at = self._data, self._at
        if len(data) - at < 2:
            return None
        first, second = data[at], data[at + 1]
        opcode, length = first & 0x0F, second & 0x7F
        # A message in one frame, as nearly all are, breaks no rule.
        if first != _WHOLE_TEXT or second < _MASKED or self._message:
            self._check_rules(first, second)
        if opcode == Opcode.BINARY:
            self.fail(CloseCode.UNSUPPORTED_DATA, NO_TEXT)
            return _NOTHING
        wide = 2 if length == 126 else 8 if length == 127 else 0
        head = at + 2 + wide
        if len(data) < head + (0 if wide else 4):
            return None
        if wide:
            length = int.from_bytes(data[at + 2 : head])
        if self._size + length > self._max_bytes:
            self._too_large()
            return _NOTHING
        body = head + 4
        whole = body + length <= len(data)
        small = first == _WHOLE_TEXT and length <= SMALL_BYTES and (whole or not self.splits_small)
        if small or opcode & _CONTROL:
            if not whole:
                return None
            self._at = body + length
            payload = unmask(data, body, length, data[head:body], 0)
            if small:
                return Kind.WHOLE, payload
            self._take_control(opcode, payload)
            return _NOTHING
        if len(data) < body:
            return None
        self._at = body
        self._left, self._mask, self._mask_at = length, data[head:body], 0
        self._fin = bool(first & _FIN)
        return _NOTHING if opcode == Opcode.CONT else self._begin_message(first, length)

    def _check_rules(self, first: int, second: int) -> None:
        """What RFC 6455, section 5, asks of the first two bytes of a client's frame.

        Raises:
            ProtocolError: they break a rule.
        """
        opcode = first & 0x0F
        if opcode not in _KNOWN:
            raise ProtocolError("invalid opcode")
        if second < _MASKED:
            raise ProtocolError("incorrect masking")
        compressible = self.deflate and opcode in {Opcode.TEXT, Opcode.BINARY}
        if first & (_RSV23 if compressible else _RSV1 | _RSV23):
            raise ProtocolError("reserved bits must be 0")
        if opcode & _CONTROL:
            if not first & _FIN:
                raise ProtocolError("fragmented control frame")
            if second & 0x7F > 125:
                raise ProtocolError("control frame too long")
        elif (opcode == Opcode.CONT) is not self._message:
            raise ProtocolError(
                "expected a continuation frame"
                if self._message
                else "unexpected continuation frame"
            )

    def _begin_message(self, first: int, length: int) -> tuple[Kind, bytes]:
        """A message that comes out in pieces: its first frame's head was taken."""
        self._message = True
        self._text = _utf8()
        compressed = bool(first & _RSV1)
        self._inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS) if compressed else None
        self._tailed = False
        self.declared = length if self._fin and not compressed else None
        return Kind.BEGIN, b""

    def _next_piece(self) -> tuple[Kind, bytes] | None:
        left, at = self._left, self._at
        assert left is not None
        piece = b""
        # Few compressed bytes can become very many: no more of them are taken before all that they became has come out.
        if left and not self._tail and not self._more:
            size = min(left, len(self._data) - at, PIECE_BYTES)
            if not size:
                return None
            piece = unmask(self._data, at, size, self._mask, self._mask_at)
            self._mask_at = (self._mask_at + size) & 3
            self._at = at + size
            self._left = left - size
            self.taken += size
        if self._inflate is not None:
            piece = self._inflated(self._tail + piece)
        if not piece:
            return _NOTHING
        self._size += len(piece)
        if self._size > self._max_bytes:
            self._too_large()
            return _NOTHING
        self._check_text(piece)
        return Kind.PIECE, piece

    def _put_tail(self) -> bool:
        """Puts the tail behind a compressed message, once."""
        if not self._fin or self._inflate is None or self._tailed:
            return False
        self._tail, self._tailed = _TAIL, True
        return True

    def _inflated(self, data: bytes) -> bytes:
        inflate = self._inflate
        assert inflate is not None
        try:
            piece = inflate.decompress(data, PIECE_BYTES)
        except zlib.error:
            raise ProtocolError("decompression failed") from None
        if len(inflate.unused_data) > 2 * len(_TAIL):
            # A little is legal (RFC 7692, 7.2.3.4); much of it would be held.
            raise ProtocolError("data behind the end of a compressed message")
        self._tail = inflate.unconsumed_tail
        # A full piece can leave more behind it, though all input is consumed.
        self._more = len(piece) == PIECE_BYTES and not self._tail
        return piece

    def _end_frame(self) -> tuple[Kind, bytes] | None:
        self._left = None
        if not self._fin:
            return _NOTHING
        assert self._text is not None
        self._text.decode(b"", final=True)
        self._message, self._size, self._text, self._inflate = False, 0, None, None
        return Kind.END, b""

    def _check_text(self, piece: bytes) -> None:
        assert self._text is not None
        self._text.decode(piece)
        held, _ = self._text.getstate()
        if _SURROGATE.match(held):
            self._text.decode(b"", final=True)

    def _take_control(self, opcode: int, payload: bytes) -> None:
        if opcode == Opcode.PING:
            self._out.append(Frame(Opcode.PONG, payload).serialize(mask=False))
        elif opcode == Opcode.CLOSE:
            self.closed = True
            self.close_rcvd = close = Close.parse(payload)
            if self.close_sent is None:
                # The answer repeats the code that came, or the lack of one; between two fragments it always has one.
                if self._message and close.code == CloseCode.NO_STATUS_RCVD:
                    close = Close(CloseCode.NORMAL_CLOSURE, "")
                self._queue_close(close)
            self._stop()

    def _queue_close(self, close: Close) -> None:
        none = close.code == CloseCode.NO_STATUS_RCVD
        payload = b"" if none else close.serialize()
        self._out.append(Frame(Opcode.CLOSE, payload).serialize(mask=False))
        self.close_sent = close

    def _too_large(self) -> None:
        self.fail(
            CloseCode.MESSAGE_TOO_BIG, f"a message may have {self._max_bytes:,} bytes, inflated"
        )

    def _stop(self) -> None:
        self.failed = True
        self._message, self._text, self._inflate = False, None, None
        self._tail, self._more = b"", False

    def _skip_to_close(self) -> None:
        """Looks for nothing but the close frame in what still comes."""
        while not self.closed:
            left = len(self._data) - self._at
            if self._left:
                size = min(self._left, left)
                self._left -= size
                self._at += size
                if self._left:
                    return
            head = self._data[self._at : self._at + 14]
            if len(head) < 2:
                return
            wide = {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
            size = 2 + wide + (4 if head[1] & 0x80 else 0)
            if len(head) < size:
                return
            length = int.from_bytes(head[2 : 2 + wide]) if wide else head[1] & 0x7F
            if head[0] & 0x0F == Opcode.CLOSE:
                if left < size + length:
                    return
                self.closed = True
            self._at += size
            self._left = length
        self._data, self._at = b"", 0


_NOTHING = (Kind.PIECE, b"")
"""Something was taken that is nothing to the caller."""
