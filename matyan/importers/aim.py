"""An Aim repository (the folder `.aim`): two RocksDB databases a run, of what it is (`meta`) and of its sequences (`seqs`), and one SQLite
database of names, experiments and tags.

A key is a path: texts and 64-bit integers, encoded as aim/storage/encoding/encoding.pyx has it; a value is a type byte and the value. A
tree stands as one row a leaf. The databases are opened to read only, and through a folder of links, since the library that opens them
leaves a file in a database's folder.
"""

from __future__ import annotations

import json
import math
import struct
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from rocksdict import AccessType, Options, Rdict

from matyan.errors import ConfigurationError
from matyan.importers import source, sqlite
from matyan.importers.source import Blob, Message, Report, Run
from matyan.importers.tree import walk

_END: Final = 0xFE
"""Ends each word of a path; before an integer it stands once more."""
_LOGS: Final = "aim.log_line"
_RECORDS: Final = "aim.log_record"


def looks_like(path: Path) -> bool:
    return _repository(path) is not None


def runs(path: Path, report: Report) -> Iterator[Run]:
    """The runs of a repository.

    Raises:
        ConfigurationError: there is none.
    """
    repository = _repository(path)
    if repository is None:
        raise ConfigurationError(
            f"{path} has no repository of Aim in it: name the folder that has .aim in it."
        )
    ids = source.Ids("aim")
    described = _described(repository / "run_metadata.sqlite", report)
    for folder in sorted((repository / "meta" / "chunks").iterdir()):
        if (folder / "CURRENT").is_file():
            about = described.get(folder.name, _About())
            yield _AimRun(repository, folder.name, about, ids.of(folder.name)).run()
        elif folder.is_dir():
            report.damage("run without a database", folder.name)


def _repository(path: Path) -> Path | None:
    for folder in (path, path / ".aim"):
        if (folder / "meta" / "chunks").is_dir():
            return folder
    return None


# --- the SQLite database -----------------------------------------------------------------------------


class _About(NamedTuple):
    name: str = ""
    experiment: str = ""
    description: str = ""
    archived: bool = False
    created: float | None = None
    tags: tuple[str, ...] = ()


def _described(file: Path, report: Report) -> dict[str, _About]:
    if "run" not in sqlite.tables(file):
        report.damage("names, experiments and tags (run_metadata.sqlite cannot be read)", file.name)
        return {}
    with sqlite.opened(file) as database:
        tags: dict[int, list[str]] = {}
        for run, tag in database.execute(
            "SELECT run_id, tag.name FROM run_tag JOIN tag ON tag.id = tag_id ORDER BY tag.id"
        ):
            tags.setdefault(run, []).append(tag)
        if "note" in sqlite.tables(file):
            (notes,) = database.execute("SELECT COUNT(*) FROM note").fetchone()
            if notes:
                report.leave_out("note", file.name, notes)
        rows = database.execute(
            "SELECT run.id, hash, run.name, experiment.name AS experiment, run.description, "
            "run.is_archived, run.created_at FROM run LEFT JOIN experiment ON experiment.id = experiment_id"
        )
        return {
            row["hash"]: _About(
                row["name"] or "",
                row["experiment"] or "",
                row["description"] or "",
                bool(row["is_archived"]),
                _utc(row["created_at"]),
                tuple(tags.get(row["id"], ())),
            )
            for row in rows
        }


def _utc(text: object) -> float | None:
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(str(text)).replace(tzinfo=UTC).timestamp()
    return None


# --- the encoding ------------------------------------------------------------------------------------

_FLOAT: Final = struct.Struct("<d")
_INT: Final = struct.Struct("<q")


def _path(*words: str | int) -> bytes:
    return b"".join(
        word.encode() + b"\xfe"
        if isinstance(word, str)
        else b"\xfe" + word.to_bytes(8, "big", signed=True) + b"\xfe"
        for word in words
    )


def _words(data: bytes) -> list[str | int]:
    words: list[str | int] = []
    at = 0
    while at < len(data):
        if data[at] == _END:
            words.append(int.from_bytes(data[at + 1 : at + 9], "big", signed=True))
            at += 10
        else:
            end = data.find(b"\xfe", at)
            end = len(data) if end < 0 else end
            words.append(data[at:end].decode(errors="replace"))
            at = end + 1
    return words


class _Object(dict[str, Any]):
    """A tree that is one of Aim's objects."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind


class _List(dict[int, Any]):
    """A tree that is a list."""


def _value(data: bytes) -> Any:
    """What a row holds; a list, a dict and an object are the roots of trees."""
    if not data:
        return None
    kind, rest = data[0], data[1:]
    if kind == 1:
        return rest[:1] != b"\0"
    if kind == 2:
        return _INT.unpack(rest)[0]
    if kind == 3:
        return _FLOAT.unpack(rest)[0]
    if kind == 4:
        return rest.decode(errors="replace")
    if kind == 5:
        return rest
    if kind == 6:
        return _List()
    if kind == 7:
        return {}
    if kind == 15:
        return _Object(rest.decode(errors="replace"))
    return None


def _tree(rows: Iterator[tuple[list[str | int], Any]]) -> Any:
    """Rows below one path as a value: dicts, lists, objects."""
    top: Any = None
    for words, value in rows:
        if not words:
            top = value
            continue
        if not isinstance(top, dict):
            top = {}
        below = top
        for word in words[:-1]:
            inner = below.get(word)
            if not isinstance(inner, dict):
                inner = below[word] = {}
            below = inner
        below[words[-1]] = value
    return _plain(top)


def _plain(value: Any) -> Any:
    if isinstance(value, _List):
        return [_plain(value[at]) for at in sorted(value)]
    if isinstance(value, dict):
        for key, one in value.items():
            value[key] = _plain(one)
    return value


# --- the databases -----------------------------------------------------------------------------------


class _Database:
    """Rows of a RocksDB database, by path."""

    def __init__(self, database: Rdict) -> None:
        self._database = database

    def rows(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """What stands below a path: the rest of the key, and the value."""
        size = len(prefix)
        for row in self._database.items(from_key=prefix):
            key, value = cast("tuple[bytes, bytes]", row)
            if not key.startswith(prefix):
                return
            yield key[size:], value

    def tree(self, *path: str | int) -> Any:
        prefix = _path(*path)
        return self.filled(
            path, _tree((_words(key), _value(value)) for key, value in self.rows(prefix))
        )

    def filled(self, path: tuple[str | int, ...], tree: Any) -> Any:
        """Puts the large values in, which stand in a place of their own; their rows in the tree are empty."""
        if isinstance(tree, _Object):
            for key in tree:
                if tree[key] is None:
                    tree[key] = self.blob(*path, key)
        elif isinstance(tree, list):
            for at, one in enumerate(tree):
                self.filled((*path, at), one)
        elif isinstance(tree, dict):
            for key, one in tree.items():
                self.filled((*path, key), one)
        return tree

    def blob(self, *path: str | int) -> Any:
        data = self._database.get(_path("BLOBS", *path))
        return None if data is None else _value(data)

    def value(self, *path: str | int) -> Any:
        data = self._database.get(_path(*path))
        return None if data is None else _value(data)


@contextmanager
def _opened(folder: Path) -> Iterator[_Database]:
    """
    Raises:
        ConfigurationError: it cannot be opened.
    """
    with tempfile.TemporaryDirectory(prefix="matyan-import-") as place:
        links = Path(place)
        try:
            for file in folder.iterdir():
                if file.name not in ("LOCK", "LOG") and not file.name.startswith("LOG.old"):
                    (links / file.name).symlink_to(file.resolve())
            database = Rdict(place, Options(raw_mode=True), access_type=AccessType.read_only())
        except Exception as error:
            # What the library raises has no class of its own.
            raise ConfigurationError(
                f"{folder} cannot be opened as a database of Aim ({error}): if a training writes to it now, import again when it has ended."
            ) from error
        try:
            yield _Database(database)
        finally:
            database.close()


# --- a run -------------------------------------------------------------------------------------------

_NUMBERS: Final = {
    "int64": "q",
    "int32": "i",
    "uint64": "Q",
    "uint32": "I",
    "float64": "d",
    "float32": "f",
    "int16": "h",
    "uint8": "B",
    "bool": "?",
}
"""NumPy's types as the module struct has them."""


class _Sequence(NamedTuple):
    ctx: int
    name: str
    dtype: str
    version: int


class _AimRun:
    """One run of a repository."""

    def __init__(self, repository: Path, hash: str, about: _About, id: str) -> None:
        self._meta = repository / "meta" / "chunks" / hash
        self._seqs = repository / "seqs" / "chunks" / hash
        self._described = repository / "run_metadata.sqlite"
        self._hash = hash
        self._about = about
        self._id = id
        self._has_blobs = True

    def run(self) -> Run:
        files = [
            file
            for folder in (self._meta, self._seqs)
            for _, files in walk(folder)
            for file in files
            if file.name not in ("LOCK", "LOG")
        ]
        label = f"{self._about.experiment or 'default'}/{self._about.name or self._hash}"
        version = source.version([*files, *sqlite.files(self._described)])
        return Run(self._id, label, version, self.messages, self.blobs)

    def messages(self, report: Report) -> Iterator[Message]:
        about = self._about
        self._has_blobs = False
        try:
            with _opened(self._meta) as meta:
                tree = meta.tree("meta", "chunks", self._hash)
        except ConfigurationError as error:
            report.damage("run whose database cannot be opened", str(error))
            return
        tree = tree if isinstance(tree, dict) else {}
        started = about.created or _seconds(self._meta)
        yield source.begun(started)
        yield from source.described(
            report,
            called=about.name or f"Run: {self._hash}",
            experiment=about.experiment,
            description=about.description,
            archived=about.archived,
            tags=about.tags,
        )
        attributes = tree.get("attrs")
        found = _free(attributes) if isinstance(attributes, dict) else {}
        found["imported"] = {"from": "aim", "id": self._hash}
        yield from source.attributes(found, report)
        for artifact in tree.get("artifacts") or ():
            report.leave_out("artifact (it stands in a store of its own)", str(artifact))
        sequences = _sequences(tree)
        if sequences:
            yield from self._all(sequences, tree.get("contexts") or {}, report)
        ended = tree.get("end_time")
        if isinstance(ended, float):
            yield source.ended(ended)

    def _all(
        self, sequences: list[_Sequence], contexts: dict[int, Any], report: Report
    ) -> Iterator[Message]:
        try:
            with _opened(self._seqs) as seqs:
                # What a tracker appends is sent together, behind all else.
                for one in sorted(sequences, key=lambda one: one.dtype in (_LOGS, _RECORDS)):
                    context = contexts.get(one.ctx) or None
                    yield from self._sequence(seqs, one, context, report)
        except ConfigurationError as error:
            report.damage("sequences whose database cannot be opened", str(error))

    def _sequence(
        self, seqs: _Database, one: _Sequence, context: dict[str, Any] | None, report: Report
    ) -> Iterator[Message]:
        if context is not None:
            context = source.plain(_free(context), report, "context")
        name = one.name
        if one.dtype not in (_LOGS, _RECORDS):
            name = source.sequence_name(name, context, report)
        if one.version == 2:
            yield from _metric(seqs, self._hash, one, name, context, report)
            return
        for step, value, when, epoch in _steps(seqs, self._hash, one):
            if one.dtype == _LOGS:
                text = value.get("data") if isinstance(value, dict) else value
                line = source.line(str(text or ""), report, "terminal line")
                yield {"type": "log_terminal_line", "line": line, "step": step}
            elif one.dtype == _RECORDS:
                yield from _record(value, report)
            elif isinstance(value, (int, float)):
                yield source.point(name, context, step, float(value), when, epoch=epoch)
            else:
                objects = value if isinstance(value, list) else [value]
                for at, single in enumerate(objects):
                    where = source.numbered(context, at, len(objects))
                    made = self._object(single, name, where, step, report)
                    if made is not None:
                        yield source.custom(name, where, step, made, when, epoch)

    def _object(
        self, value: Any, name: str, context: dict[str, Any] | None, step: int, report: Report
    ) -> dict[str, Any] | None:
        where = f"{name} at {step}"
        kind = value.kind if isinstance(value, _Object) else type(value).__name__
        data = value.get("data") if isinstance(value, _Object) else None
        if kind == "aim.text" and isinstance(data, str):
            return {"type": "text", "data": source.line(data, report, where)}
        if kind in ("aim.image", "aim.audio") and isinstance(data, bytes):
            self._has_blobs = True
            format = str(value.get("format") or source.image_format(data)).lower()
            path = source.media_path(name, context, step, format)
            caption = str(value.get("caption") or "")
            if kind == "aim.audio":
                return source.media(self._id, "audio", path, format, caption, rate=None)
            size = {"width": value.get("width"), "height": value.get("height")}
            return source.media(self._id, "image", path, format, caption, **size)
        if kind == "aim.figure" and isinstance(data, str):
            with suppress(ValueError):
                figure = json.loads(data)
                if isinstance(figure, dict):
                    return {"type": "figure", "data": source.plain(figure, report, where)}
        if kind == "aim.distribution" and isinstance(data, bytes):
            made = _distribution(value, data)
            if made is not None:
                return made
        report.leave_out(f"object of the type {source.short(kind, 40)} that is not read", where)
        return None

    def blobs(self, _report: Report) -> Iterator[Blob]:
        if not self._has_blobs:
            return
        try:
            with _opened(self._meta) as meta:
                tree = meta.tree("meta", "chunks", self._hash)
            contexts = tree.get("contexts") or {}
            wanted = [one for one in _sequences(tree) if one.version != 2 and "aim." in one.dtype]
            quiet = Report()  # `messages` has told of everything
            with _opened(self._seqs) as seqs:
                for one in wanted:
                    context = contexts.get(one.ctx) or None
                    if context is not None:
                        context = source.plain(_free(context), quiet, "context")
                    name = source.sequence_name(one.name, context, quiet)
                    for step, value, _, _ in _steps(seqs, self._hash, one):
                        yield from _media(value, name, context, step)
        except ConfigurationError:
            return


def _media(value: Any, name: str, context: dict[str, Any] | None, step: int) -> Iterator[Blob]:
    objects = value if isinstance(value, list) else [value]
    for at, one in enumerate(objects):
        data = one.get("data") if isinstance(one, _Object) else None
        if isinstance(data, bytes) and one.kind in ("aim.image", "aim.audio"):
            format = str(one.get("format") or source.image_format(data)).lower()
            where = source.numbered(context, at, len(objects))
            path = source.media_path(name, where, step, format)
            yield source.in_memory(path, source.content_type(format), data)


def _sequences(tree: Any) -> list[_Sequence]:
    found = []
    traces = tree.get("traces") if isinstance(tree, dict) else None
    for ctx, names in (traces or {}).items():
        for name, about in names.items() if isinstance(names, dict) else ():
            if isinstance(about, dict):
                # Older versions wrote neither.
                dtype, version = about.get("dtype", "float"), about.get("version", 1)
                found.append(_Sequence(ctx, str(name), str(dtype), version))
    return found


def _metric(
    seqs: _Database,
    hash: str,
    one: _Sequence,
    name: str,
    context: dict[str, Any] | None,
    report: Report,
) -> Iterator[Message]:
    """A metric, whose rows stand in the order of hashes of their steps: one is held as a whole, to be sorted."""
    above = ("seqs", "v2", "chunks", hash, one.ctx, one.name)
    steps, values, times = array("q"), array("d"), array("d")
    epochs: list[int | float | None] = []
    columns = {
        column: _Column(seqs.rows(_path(*above, column))) for column in ("step", "time", "epoch")
    }
    for key, data in seqs.rows(_path(*above, "val")):
        if not key:
            continue  # the root of the column
        value = _value(data)
        step = columns["step"].at(key)
        if not isinstance(step, int) or not isinstance(value, (int, float)):
            report.damage("point that is not whole", name)
            continue
        steps.append(step)
        values.append(source.float_of(value))
        when = columns["time"].at(key)
        times.append(when if isinstance(when, float) else math.nan)
        epoch = columns["epoch"].at(key)
        epochs.append(epoch if source.is_epoch(epoch) else None)
    for at in sorted(range(len(steps)), key=steps.__getitem__):
        when = source.moment(times[at]) or source.moment(0.0)
        assert when is not None
        yield source.point(name, context, steps[at], values[at], when, epoch=epochs[at])


class _Column:
    """Rows in the order of their keys, asked for in that order."""

    def __init__(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        self._rows = rows
        self._held = next(rows, None)

    def at(self, key: bytes) -> Any:
        while self._held is not None and self._held[0] < key:
            self._held = next(self._rows, None)
        if self._held is None or self._held[0] != key:
            return None
        return _value(self._held[1])


def _steps(
    seqs: _Database, hash: str, one: _Sequence
) -> Iterator[tuple[int, Any, str, int | float | None]]:
    """Step, value, time and epoch of a sequence of objects."""
    above = ("seqs", "chunks", hash, one.ctx, one.name)
    rows: list[tuple[list[str | int], Any]] = []
    held: int | None = None

    def made(step: int) -> tuple[int, Any, str, int | float | None]:
        value = seqs.filled((*above, "val", step), _tree(iter(rows)))
        when = seqs.value(*above, "time", step)
        epoch = seqs.value(*above, "epoch", step)
        moment = source.moment(when if isinstance(when, float) else None) or source.moment(0.0)
        assert moment is not None
        return step, value, moment, epoch if source.is_epoch(epoch) else None

    for key, data in seqs.rows(_path(*above, "val")):
        words = _words(key)
        if not words or not isinstance(words[0], int):
            continue
        if held is not None and words[0] != held:
            yield made(held)
            rows = []
        held = words[0]
        rows.append((words[1:], _value(data)))
    if held is not None:
        yield made(held)


def _record(value: Any, report: Report) -> Iterator[Message]:
    if not isinstance(value, dict):
        report.damage("log record that is not whole", str(value)[:40])
        return
    message: Message = {
        "type": "log_record",
        "message": source.line(str(value.get("message") or ""), report, "log record"),
        "level": value["log_level"] if source.is_step(value.get("log_level")) else 20,
        "timestamp": value["timestamp"] if isinstance(value.get("timestamp"), float) else 0.0,
    }
    if isinstance(where := value.get("__logger_info"), list):
        message["logger_info"] = where
    if isinstance(extra := value.get("extra_args"), dict) and extra:
        message["extra_args"] = source.plain(_free(extra), report, "log record")
    yield message


def _distribution(value: dict[str, Any], data: bytes) -> dict[str, Any] | None:
    code = _NUMBERS.get(str(value.get("dtype")))
    ends = value.get("range")
    if code is None or not isinstance(ends, list) or len(ends) != 2:
        return None
    count = len(data) // struct.calcsize(code)
    return {
        "type": "distribution",
        "bin_count": count,
        "range": ends,
        "data": [*struct.unpack_from(f"<{count}{code}", data)],
    }


def _free(value: Any) -> Any:
    """A tree as a free value: bytes are none that JSON has."""
    if isinstance(value, dict):
        return {str(key): _free(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_free(one) for one in value]
    return f"({len(value)} bytes)" if isinstance(value, bytes) else value


def _seconds(folder: Path) -> float | None:
    with suppress(OSError):
        return folder.stat().st_mtime
    return None
