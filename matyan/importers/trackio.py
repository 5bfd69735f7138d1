"""trackio's folder: a SQLite database for each project, its media and artifacts beside it.

The tables: trackio/sqlite_storage.py; what stands in a row of metrics: trackio/utils.py (infinities and NaN as texts) and the modules of
its objects (`_type`).
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from matyan.errors import ConfigurationError
from matyan.importers import source, sqlite
from matyan.importers.source import Blob, Message, Report, Run
from matyan.importers.tree import walk

_COLUMNS: Final = {"run_name", "timestamp", "step", "metrics"}
"""Of the table metrics; another program's may have one of that name."""
_LEVELS: Final = {"info": 20, "warn": 30, "error": 40}
_NUMBERS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def looks_like(path: Path) -> bool:
    return bool(_databases(path))


def runs(path: Path, report: Report) -> Iterator[Run]:
    """The runs of one project's database, or of all of a folder.

    Raises:
        ConfigurationError: there is none.
    """
    databases = _databases(path)
    if not databases:
        raise ConfigurationError(
            f"{path} has no database of trackio in it: name its folder (TRACKIO_DIR, ~/.cache/huggingface/trackio), or a project's .db."
        )
    ids = source.Ids("trackio")
    for file in databases:
        with sqlite.opened(file) as database:
            found = [*_identities(database)]
            traces = _count(database, "traces")
        if traces:
            report.leave_out("trace", file.stem, traces)
        saved = sum(len(files) for _, files in walk(file.parent / "media" / file.stem / "files"))
        if saved:
            report.leave_out("file of a project, of no run", file.stem, saved)
        for key, name in found:
            yield _ProjectRun(file, key, name, ids.of(file.stem, key)).run()
    inbox = databases[0].parent / "inbox"
    if inbox.is_dir() and any(files for _, files in walk(inbox)):
        report.leave_out("points that trackio has not put into its database yet", str(inbox))


def _databases(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if _is_ours(path) else []
    with contextlib.suppress(OSError):
        return [file for file in sorted(path.glob("*.db")) if _is_ours(file)]
    return []


def _is_ours(file: Path) -> bool:
    if "metrics" not in sqlite.tables(file):
        return False
    with sqlite.opened(file) as database:
        return _columns(database, "metrics") >= _COLUMNS


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row["name"] for row in database.execute(f"PRAGMA table_info({table})")}


def _count(database: sqlite3.Connection, table: str) -> int:
    if not _columns(database, table):
        return 0
    (count,) = database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
    return int(count)


def _key(database: sqlite3.Connection, table: str) -> str:
    """What tells runs apart: older versions know names alone."""
    return "run_id" if "run_id" in _columns(database, table) else "run_name"


def _identities(database: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Key and name of each run, in the order of their first rows."""
    seen: dict[Any, str] = {}
    for table in ("metrics", "configs", "system_metrics"):
        if _columns(database, table):
            key = _key(database, table)
            for row in database.execute(
                f"SELECT {key}, MAX(run_name), MIN(id) AS first FROM {table} GROUP BY {key} ORDER BY first"
            ):
                seen.setdefault(row[0], row[1])
    yield from ((key, name) for key, name in seen.items() if key is not None)


class _ProjectRun:
    """One run of a project's database."""

    def __init__(self, file: Path, key: str, name: str, id: str) -> None:
        self._file = file
        self._key = key
        self._name = name
        self._id = id
        self._top = file.parent
        self._media: list[tuple[str, str, Path]] = []
        self._names: dict[str, str] = {}

    def run(self) -> Run:
        label = f"{self._file.stem}/{self._name}"
        version = source.version(sqlite.files(self._file))
        return Run(self._id, label, version, self.messages, self.blobs)

    def messages(self, report: Report) -> Iterator[Message]:
        self._media = []
        self._names = {}
        with sqlite.opened(self._file) as database:
            config = self._config(database, report)
            own = {key: value for key, value in config.items() if key.startswith("_")}
            started = _seconds(own.get("_Created"))
            rows = self._rows(database, "metrics")
            first = next(rows, None)
            if started is None and first is not None:
                started = _seconds(first["timestamp"])
            yield source.begun(started)
            yield from source.described(report, called=self._name, experiment=self._file.stem)
            last = started or 0.0
            imported = {"from": "trackio", "id": self._key} | {
                key.lstrip("_").lower(): value
                for key, value in own.items()
                if value is not None and key != "_Created"
            }
            params = {key: value for key, value in config.items() if key not in own}
            yield from source.attributes({"hparams": params, "imported": imported}, report)
            if first is not None:
                last = max(last, _seconds(first["timestamp"]) or 0.0)
                yield from self._points(first, report)
            for row in rows:
                last = max(last, _seconds(row["timestamp"]) or 0.0)
                yield from self._points(row, report)
            for number, row in enumerate(self._rows(database, "system_metrics")):
                yield from self._system(row, number, report)
            for row in self._rows(database, "alerts"):
                yield self._alert(row, report)
        # trackio does not write down whether a run has ended.
        yield source.ended(last)

    def _rows(self, database: sqlite3.Connection, table: str) -> Iterator[sqlite3.Row]:
        if not _columns(database, table):
            return
        key = _key(database, table)
        yield from database.execute(
            f"SELECT * FROM {table} WHERE {key} = ? ORDER BY id", (self._key,)
        )

    def _config(self, database: sqlite3.Connection, report: Report) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for row in self._rows(database, "configs"):
            config |= self._fields(row["config"], report, "config")
        return config

    def _fields(self, data: str | bytes, report: Report, where: str) -> dict[str, Any]:
        try:
            fields = json.loads(data)
        except ValueError:
            fields = None
        if isinstance(fields, dict):
            return fields
        report.damage("row that is no JSON object", f"{self._name}: {where}")
        return {}

    # --- points --------------------------------------------------------------------------------

    def _points(self, row: sqlite3.Row, report: Report) -> Iterator[Message]:
        fields = self._fields(row["metrics"], report, f"row {row['id']}")
        step = row["step"]
        when = source.moment(_seconds(row["timestamp"])) or source.moment(0.0)
        assert when is not None
        epoch = fields.get("epoch")
        if not source.is_epoch(epoch):
            epoch = None
        for key, value in fields.items():
            yield from self._value(key, value, step, when, epoch, report)

    def _value(
        self,
        key: str,
        value: Any,
        step: int,
        when: str,
        epoch: int | float | None,
        report: Report,
    ) -> Iterator[Message]:
        kind = type(value)
        if kind is float or kind is int or kind is bool:
            number = source.float_of(value)
            yield source.point(self._fitted(key, report), None, step, number, when, epoch=epoch)
        elif kind is str and value in _NUMBERS:
            number = _NUMBERS[value]
            yield source.point(self._fitted(key, report), None, step, number, when, epoch=epoch)
        elif kind is str:
            text = {"type": "text", "data": source.line(value, report, key)}
            yield source.custom(self._fitted(key, report), None, step, text, when, epoch)
        elif kind is dict and "_type" in value:
            one = self._object(key, value, step, report)
            if one is not None:
                yield source.custom(self._fitted(key, report), None, step, one, when, epoch)
        elif kind is dict:
            for inner, below in value.items():
                yield from self._value(f"{key}.{inner}", below, step, when, epoch, report)
        else:
            what = "list of values" if kind is list else "null"
            report.leave_out(f"{what} at a step", f"{key} at {step}")

    def _fitted(self, key: str, report: Report) -> str:
        found = self._names.get(key)
        if found is None:
            found = self._names[key] = source.sequence_name(key, None, report)
        return found

    def _object(
        self, key: str, value: Mapping[str, Any], step: int, report: Report
    ) -> dict[str, Any] | None:
        kind = str(value["_type"]).removeprefix("trackio.")
        where = f"{key} at {step}"
        if kind == "histogram":
            made = source.listed_histogram(value.get("bins"), value.get("values"), report, where)
            if made is None:
                report.leave_out("histogram without values, or with infinite ones", where)
            return made
        if kind in ("image", "audio"):
            return self._medium(kind, key, value, step, report)
        if kind == "markdown" and isinstance(value.get("_value"), str):
            return {"type": "text", "data": source.line(value["_value"], report, where)}
        rest = " (its file is taken as an artifact)" if "file_path" in value else ""
        report.leave_out(f"object of the type {source.short(kind, 40)}{rest}", where)
        if (file := self._file_of(value.get("file_path"))) is not None:
            path = source.artifact_path(f"media/{key}/{step}/{file.name}", report)
            self._media.append((path, source.content_type(file.suffix.lstrip(".")), file))
        return None

    def _medium(
        self, kind: str, key: str, value: Mapping[str, Any], step: int, report: Report
    ) -> dict[str, Any] | None:
        file = self._file_of(value.get("file_path"))
        if file is None:
            report.leave_out(f"{kind} whose file is not in trackio's folder", f"{key} at {step}")
            return None
        format = file.suffix.lstrip(".").lower() or "bin"
        path = source.media_path(self._fitted(key, report), None, step, format)
        self._media.append((path, source.content_type(format), file))
        extra = {"width": None, "height": None} if kind == "image" else {"rate": None}
        caption = value.get("caption")
        said = caption if isinstance(caption, str) else ""
        return source.media(self._id, kind, path, format, said, **extra)

    def _file_of(self, path: object) -> Path | None:
        return source.file_inside(self._top / "media", path)

    def _system(self, row: sqlite3.Row, number: int, report: Report) -> Iterator[Message]:
        when = source.moment(_seconds(row["timestamp"])) or source.moment(0.0)
        assert when is not None
        fields = self._fields(row["metrics"], report, f"system row {row['id']}")
        for key, value in fields.items():
            known = _NUMBERS.get(value) if isinstance(value, str) else value
            if isinstance(known, (int, float)):
                name = self._fitted(f"{source.SYSTEM_PREFIX}{key}", report)
                yield source.point(name, None, number, source.float_of(known), when)
            else:
                report.leave_out("measurement of the machine that is no number", key)

    def _alert(self, row: sqlite3.Row, report: Report) -> Message:
        text = f"{row['title']}: {row['text']}" if row["text"] else row["title"]
        return {
            "type": "log_record",
            "message": source.line(text, report, "alert"),
            "level": _LEVELS.get(row["level"], 30),
            "timestamp": _seconds(row["timestamp"]) or 0.0,
        }

    # --- blobs ---------------------------------------------------------------------------------

    def blobs(self, report: Report) -> Iterator[Blob]:
        for path, type_, file in self._media:
            yield source.of_file(path, type_, file)
        yield from self._artifacts(report)

    def _artifacts(self, report: Report) -> Iterator[Blob]:
        """Of the versions that this run has made."""
        with sqlite.opened(self._file) as database:
            if not _columns(database, "artifact_versions"):
                return
            rows = database.execute(
                "SELECT artifacts.name, version, manifest FROM artifact_versions JOIN artifacts "
                "ON artifacts.id = artifact_id WHERE producer_run_id = ? ORDER BY artifact_versions.id",
                (self._key,),
            ).fetchall()
        blobs = self._top / "artifacts" / self._file.stem / "blobs" / "sha256"
        for name, number, manifest in rows:
            entries = json.loads(manifest)
            for entry in entries if isinstance(entries, list) else ():
                digest, inside = str(entry.get("digest")), str(entry.get("path"))
                path = source.artifact_path(f"artifacts/{name}/v{number}/{inside}", report)
                file = source.file_inside(blobs, f"{digest[:2]}/{digest}")
                if file is None:
                    report.damage(
                        "file of an artifact that is not on this machine", f"{name}: {inside}"
                    )
                else:
                    yield source.of_file(path, source.content_type(Path(inside).suffix[1:]), file)


def _seconds(text: object) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
