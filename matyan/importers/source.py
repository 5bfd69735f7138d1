"""What a reader of another program's files gives: runs as messages of our wire format and blobs, and a report of what it could not take.

Here stand the words that all readers share, and how what others allow is fitted to what the wire takes (names, times, steps, free
values). No reader, and nothing of how runs are sent. The messages are those of the ingest socket (`_codec`'s schema).
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from matyan import _codec

Message = dict[str, Any]

SYSTEM_PREFIX: Final = "__system__"
"""What the SDK's own measurements of the machine begin with; the web app shows them by themselves."""
EXAMPLES: Final = 3
"""How many of each kind of loss are named."""
CUT: Final = "record that is cut at the end of a file"
"""No damage: a training may be writing it just now, and the next import takes it."""
PIECE_BYTES: Final = 1 << 20
MESSAGE_BYTES: Final = 800 * 1024
"""What a text or an object may take of a message, whose limit is `_codec.MAX_RECORD_BYTES` with all else in it."""

_NAMESPACE: Final = uuid.UUID("5f0e4b0c-7d7f-5c1b-9a53-2c9d3f6f2b0e")
_RESERVED: Final = frozenset({"logs", "__log_records"})
"""Sequences of the empty context that are not a client's."""
_EARLIEST_S: Final = -62135596800.0  # the year 1
_LATEST_S: Final = 253402300799.0  # the year 9999
_INT64: Final = 1 << 63


@dataclass
class Tally:
    """How many of one kind, and the first of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str, count: int = 1) -> None:
        self.count += count
        if len(self.examples) < EXAMPLES and example not in self.examples:
            self.examples.append(example)


@dataclass
class Report:
    """What became of a source: what was left out, since a run has no place for it here; what was changed to fit; and what should have
    been there and cannot be read."""

    left_out: dict[str, Tally] = field(default_factory=dict)
    changed: dict[str, Tally] = field(default_factory=dict)
    damaged: dict[str, Tally] = field(default_factory=dict)

    def damage(self, kind: str, example: str, count: int = 1) -> None:
        self.damaged.setdefault(kind, Tally()).add(example, count)

    def add(self, other: Report) -> None:
        for mine, others in (
            (self.left_out, other.left_out),
            (self.changed, other.changed),
            (self.damaged, other.damaged),
        ):
            for kind, tally in others.items():
                held = mine.setdefault(kind, Tally())
                held.count += tally.count
                held.examples += tally.examples[: max(0, EXAMPLES - len(held.examples))]

    def leave_out(self, kind: str, example: str, count: int = 1) -> None:
        self.left_out.setdefault(kind, Tally()).add(example, count)

    def change(self, kind: str, example: str, count: int = 1) -> None:
        self.changed.setdefault(kind, Tally()).add(example, count)


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that belong to a run. path: of the artifact; read: the pieces, from the beginning at each call, `size` together; version:
    changes when they do."""

    path: str
    content_type: str
    size: int
    read: Callable[[], Iterator[bytes]]
    version: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a source.

    id: the same at each reading of the source, whatever was added to it meanwhile.
    label: what a person calls it.
    version: changes when the source has changed.
    messages: from create_run on, to finish_run where the run has ended; the same at each call, as long as the source is.
    blobs: asked for when `messages` has ended. Both tell `Report` what they leave out, at each call anew.
    """

    id: str
    label: str
    version: str
    messages: Callable[[Report], Iterator[Message]]
    blobs: Callable[[Report], Iterator[Blob]]


def version(files: Iterable[Path]) -> str:
    """What changes when one of these files does."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            status = file.stat()
            state = (file.name, status.st_size, status.st_mtime_ns)
        except OSError:
            state = (file.name, -1, -1)
        digest.update(repr(state).encode(errors="surrogatepass"))
    return digest.hexdigest()


class Ids:
    """Run ids of one program: the same stored id gives the same run."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._given: set[str] = set()

    def of(self, *stored: str, otherwise: str = "") -> str:
        """otherwise: what tells apart two runs of one source that claim the same stored id."""
        found = self._made(*stored)
        if found in self._given:
            found = self._made(*stored, otherwise)
        self._given.add(found)
        return found

    def _made(self, *words: str) -> str:
        return uuid.uuid5(_NAMESPACE, "\0".join((self._program, *map(_valid, words)))).hex


# --- names -----------------------------------------------------------------------------------------


def _valid(text: str) -> str:
    """Without lone surrogates, which the wire refuses."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass").decode(errors="replace")
    return text


def name(text: str, report: Report, what: str = "name") -> str:
    """A name that a sequence, a tag or an experiment can have. One that is too long keeps its beginning, and a digest of the whole."""
    fitted = _valid(text) or f"(no {what})"
    data = fitted.encode()
    if len(data) > _codec.MAX_NAME_BYTES:
        digest = hashlib.sha256(data).hexdigest()[:16]
        beginning = data[: _codec.MAX_NAME_BYTES - 24].decode(errors="ignore")
        fitted = f"{beginning} … {digest}"
    if fitted != text:
        report.change(f"{what} over {_codec.MAX_NAME_BYTES} bytes, or none at all", short(text))
    return fitted


def sequence_name(text: str, context: Mapping[str, Any] | None, report: Report) -> str:
    fitted = name(text, report)
    if fitted in _RESERVED and not context:
        report.change("name that is kept for log lines", fitted)
        return f"{fitted} (metric)"
    return fitted


def short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


# --- times, steps, values --------------------------------------------------------------------------


def moment(seconds: float | None) -> str | None:
    """Epoch seconds as a client_datetime; None where they are no time of the years 1 to 9999."""
    if seconds is None or not _EARLIEST_S <= seconds <= _LATEST_S:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def is_step(step: object) -> bool:
    return isinstance(step, int) and -_INT64 <= step < _INT64


def is_epoch(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return is_step(value) or (isinstance(value, float) and math.isfinite(value))


def float_of(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def plain(value: Any, report: Report, where: str, depth: int = 8) -> Any:
    """A free value as the wire takes it: integers of 64 bits (else floats), texts of at most a stored value, no lone surrogates, no
    deeper than JSON may be. depth: how deep `where` stands."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        if -_INT64 <= value < 2 * _INT64:
            return value
        report.change("integer of more than 64 bits, now a text", where)
        return str(value)
    if isinstance(value, str):
        return _text(value, report, where)
    if depth >= _codec.MAX_DEPTH:
        report.change("value nested too deep, now a text", where)
        return _text(repr(value), report, where)
    if isinstance(value, Mapping):
        fields = {}
        for key, one in value.items():
            word = _valid(str(key))
            if not word or len(word.encode()) > 1024:
                report.change("key over 1,024 bytes or empty", f"{where}: {short(word)}")
                word = word[:256] + hashlib.sha256(word.encode()).hexdigest()[:16]
            fields[word] = plain(one, report, f"{where}.{word}", depth + 1)
        return fields
    if isinstance(value, (list, tuple)):
        return [plain(one, report, f"{where}[{at}]", depth + 1) for at, one in enumerate(value)]
    report.change("value that JSON cannot hold, now a text", where)
    return _text(str(value), report, where)


def _text(text: str, report: Report, where: str) -> str:
    fitted = _valid(text)
    most = _codec.MAX_VALUE_BYTES - 1000
    data = fitted.encode()
    if len(data) > most:
        report.change(f"text over {_codec.MAX_VALUE_BYTES:,} bytes, cut", where)
        return data[:most].decode(errors="ignore") + " …"
    return fitted


def line(text: str, report: Report, where: str) -> str:
    """A text that fills its message at most."""
    fitted = _valid(text)
    data = fitted.encode()
    if len(data) > MESSAGE_BYTES // 6:  # each control character takes six in JSON
        report.change(f"text over {MESSAGE_BYTES // 6:,} bytes, cut", where)
        return data[: MESSAGE_BYTES // 6].decode(errors="ignore") + " …"
    return fitted


def artifact_path(path: str, report: Report) -> str:
    """A path that an artifact can have."""
    words = [word for word in _valid(path).split("/") if word not in ("", ".", "..")]
    fitted = "".join(letter if letter.isprintable() else "_" for letter in "/".join(words))
    data = fitted.encode()
    most = _codec.MAX_BLOB_KEY_BYTES - 64
    if len(data) > most:
        digest = hashlib.sha256(data).hexdigest()[:16]
        # What a file is, its ending says.
        fitted = data[: most - 60].decode(errors="ignore") + f"-{digest}" + _ending(fitted)
    if fitted != path:
        report.change("path that an artifact cannot have", short(path))
    return fitted or "(no name)"


def _ending(path: str) -> str:
    ending = Path(path).suffix
    return ending if len(ending.encode()) <= 20 else ""


# --- messages --------------------------------------------------------------------------------------


def begun(at: float | None) -> Message:
    return {"type": "create_run", "client_datetime": moment(at) or moment(0.0)}


def ended(at: float | None) -> Message:
    message: Message = {"type": "finish_run"}
    if (when := moment(at)) is not None:
        message["client_datetime"] = when
    return message


def described(
    report: Report,
    *,
    called: str,
    experiment: str | None = None,
    description: str | None = None,
    archived: bool = False,
    tags: Iterable[str] = (),
) -> Iterator[Message]:
    """The properties and tags of a run."""
    fields: Message = {"type": "set_run_property", "name": _text(called, report, "name")}
    if experiment:
        fields["experiment"] = name(experiment, report, "experiment")
    if description:
        fields["description"] = _text(description, report, "description")
    if archived:
        fields["archived"] = True
    yield fields
    for tag in tags:
        yield {"type": "add_tag", "tag_name": name(tag, report, "tag")}


def attributes(values: Mapping[str, Any], report: Report) -> Iterator[Message]:
    """Attributes of a run, each top-level one a message of its own, so that one that is too large keeps no other out."""
    for key, value in values.items():
        if isinstance(value, Mapping) and not value:
            continue
        fitted = plain({key: value}, report, "")
        if _size(fitted) <= MESSAGE_BYTES:
            yield {"type": "log_hparams", "value": fitted}
            continue
        if not isinstance(value, Mapping):
            report.leave_out(f"attribute over {MESSAGE_BYTES:,} bytes", key)
            continue
        (parts,) = fitted.values()
        for part, one in parts.items():
            piece = {key: {part: one}}
            if _size(piece) <= MESSAGE_BYTES:
                yield {"type": "log_hparams", "value": piece}
            else:
                report.leave_out(f"attribute over {MESSAGE_BYTES:,} bytes", f"{key}.{part}")


def _size(value: Any) -> int:
    """At least what it takes as JSON."""
    if isinstance(value, str):
        return 6 * len(value.encode()) if not value.isprintable() else len(value.encode()) + 2
    if isinstance(value, Mapping):
        return 2 + sum(_size(key) + _size(one) + 4 for key, one in value.items())
    if isinstance(value, list):
        return 2 + sum(_size(one) + 2 for one in value)
    return 26


def point(
    name: str, context: dict[str, Any] | None, step: int, value: float, when: str, **extra: Any
) -> Message:
    """A point of a metric. extra: epoch."""
    return {
        "type": "log_metric",
        "name": name,
        "value": value,
        "step": step,
        "epoch": None,
        "context": context,
        "dtype": "float",
        "client_datetime": when,
        **extra,
    }


def custom(
    name: str,
    context: dict[str, Any] | None,
    step: int,
    value: dict[str, Any],
    when: str | None,
    epoch: int | float | None = None,
) -> Message:
    """An object as the SDK sends it; its kind is its dtype."""
    return {
        "type": "log_custom_object",
        "name": name,
        "value": value,
        "step": step,
        "epoch": epoch,
        "context": context,
        "dtype": value["type"],
        "client_datetime": when,
    }


def numbered(context: dict[str, Any] | None, place: int, count: int) -> dict[str, Any] | None:
    """The context of one of several objects at one step: the wire takes one object a step."""
    return context if count == 1 else {**(context or {}), "index": place}


# --- objects ---------------------------------------------------------------------------------------

_IMAGES: Final = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
)
_CONTENT_TYPES: Final = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "webp": "image/webp",
    "svg": "image/svg+xml",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "json": "application/json",
    "html": "text/html",
    "txt": "text/plain",
    "mp4": "video/mp4",
}


def image_format(data: bytes) -> str:
    """By its first bytes; `bin` for one that is none of those that browsers show."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((format for magic, format in _IMAGES if data.startswith(magic)), "bin")


def content_type(format: str) -> str:
    return _CONTENT_TYPES.get(format.lower(), "application/octet-stream")


def media_path(name: str, context: Mapping[str, Any] | None, step: int, format: str) -> str:
    """Where the bytes of an image or audio of a sequence stand: as the SDK has it, and a digest of the context, where there is one,
    since two contexts would share one path."""
    place = str(step)
    if context:
        text = repr(sorted(context.items(), key=repr))
        place += "." + hashlib.sha256(_valid(text).encode()).hexdigest()[:8]
    words = [word for word in name.split("/") if word not in (".", "..")]
    clean = "".join(letter if letter.isprintable() else "_" for letter in "/".join(words))
    return f"seq/{clean}/{place}.{format.lower()}"


def media(
    run: str, kind: str, path: str, format: str, caption: str | None, **extra: Any
) -> dict[str, Any]:
    """The object that names an uploaded image or audio. extra: width and height, or rate."""
    return {
        "type": kind,
        "format": format,
        "caption": _valid(caption or ""),
        **extra,
        "s3_key": f"{run}/{path}",
    }


def in_memory(path: str, type_: str, data: bytes) -> Blob:
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Blob(path, type_, len(data), lambda: iter((data,)), digest)


def of_file(path: str, type_: str, file: Path) -> Blob:
    state = file.stat()
    return Blob(path, type_, state.st_size, lambda: pieces(file), str(state.st_mtime_ns))


def file_inside(folder: Path, path: object) -> Path | None:
    """A file that a source names; None where it is none, or lies outside of the source's folder."""
    if not isinstance(path, str):
        return None
    file = folder / path
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
        return file if inside and file.is_file() else None
    except (OSError, ValueError):
        return None


def pieces(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            yield piece


BINS: Final = 64
"""Of a histogram whose own bins are not of one width."""


def distribution(
    edges: list[float], counts: list[float], report: Report, where: str
) -> dict[str, Any] | None:
    """A histogram as the SDK's Distribution, whose bins are of one width: others are spread over bins of one width, each count in
    proportion. None: nothing in it, or edges that are no numbers."""
    if len(edges) != len(counts) + 1 or not counts:
        return None
    if not all(map(math.isfinite, edges)) or not all(map(math.isfinite, counts)):
        return None
    low, high = edges[0], edges[-1]
    width = (high - low) / len(counts)
    even = all(
        abs(edge - (low + at * width)) <= 1e-6 * (abs(width) + abs(edge) * 1e-6)
        for at, edge in enumerate(edges)
    )
    if not even and high > low:
        report.change("histogram of unequal bins, spread over equal ones", where)
        counts = _spread(edges, counts, BINS)
    return {
        "type": "distribution",
        "bin_count": len(counts),
        "range": [low, high],
        "data": counts,
    }


def listed_histogram(
    edges: object, counts: object, report: Report, where: str
) -> dict[str, Any] | None:
    """`distribution` of what JSON has for both."""
    if not _are_numbers(edges) or not _are_numbers(counts):
        return None
    assert isinstance(edges, list)
    assert isinstance(counts, list)
    return distribution([float_of(edge) for edge in edges], [*counts], report, where)


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(one, (int, float)) for one in values)


def _spread(edges: list[float], counts: list[float], bins: int) -> list[float]:
    low = edges[0]
    width = (edges[-1] - low) / bins
    spread = [0.0] * bins
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if not count:
            continue
        first = min(bins - 1, max(0, int((left - low) / width)))
        last = min(bins - 1, max(first, int((right - low) / width)))
        if right <= left or first == last:
            spread[first] += count
            continue
        for at in range(first, last + 1):
            inside = min(right, low + (at + 1) * width) - max(left, low + at * width)
            spread[at] += count * max(0.0, inside) / (right - left)
    return spread
