"""The folders of Weights & Biases runs, as `wandb` leaves them on the machine of the training (`offline-run-…`, `run-…`).

A run's records stand in its transaction log, a file of the framing of LevelDB's log behind a header of seven bytes; its media and what
was saved stand in `files/` beside it. Folders of one run id are one run: a training that was resumed. The messages:
wandb/proto/wandb_internal.proto.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from matyan.errors import ConfigurationError
from matyan.importers import source
from matyan.importers.protobuf import messages
from matyan.importers.source import Blob, Message, Report, Run
from matyan.importers.tree import walk

EXTRA: Final = "wandb"

_ITEM: Final = {"key": (1, "string"), "nested_key": (2, "string*"), "value_json": (16, "string")}
_SCHEMA: Final = {
    "Record": {
        "history": (2, "History"),
        "summary": (3, "Updates"),
        "output": (4, "Output"),
        "config": (5, "Updates"),
        "stats": (7, "Stats"),
        "artifact": (8, "Artifact"),
        "tbrecord": (9, "Nothing"),
        "alert": (10, "Alert"),
        "metric": (12, "Metric"),
        "output_raw": (13, "Output"),
        "run": (17, "RunRecord"),
        "exit": (18, "Exit"),
        "use_artifact": (25, "Nothing"),
        "environment": (26, "Environment"),
    },
    "Nothing": {},
    "History": {"item": (1, "Item*"), "step": (2, "Step")},
    "Step": {"num": (1, "int64")},
    "Item": _ITEM,
    "Updates": {"update": (1, "Item*"), "remove": (2, "Item*")},
    "Output": {"output_type": (1, "int32"), "timestamp": (2, "Time"), "line": (3, "string")},
    "Stats": {"timestamp": (2, "Time"), "item": (3, "StatsItem*")},
    "StatsItem": {"key": (1, "string"), "value_json": (16, "string")},
    "Time": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "Alert": {"title": (1, "string"), "text": (2, "string"), "level": (3, "string")},
    "Metric": {"name": (1, "string"), "glob_name": (2, "string"), "step_metric": (4, "string")},
    "Exit": {"exit_code": (1, "int32"), "runtime": (2, "int32")},
    "Git": {"remote_url": (1, "string"), "commit": (2, "string")},
    "Artifact": {
        "type": (4, "string"),
        "name": (5, "string"),
        "aliases": (11, "string*"),
        "manifest": (12, "Manifest"),
    },
    "Manifest": {"contents": (4, "Entry*"), "manifest_file_path": (5, "string")},
    "Entry": {"path": (1, "string"), "ref": (3, "string"), "local_path": (6, "string")},
    "RunRecord": {
        "run_id": (1, "string"),
        "entity": (2, "string"),
        "project": (3, "string"),
        "config": (4, "Updates"),
        "summary": (5, "Updates"),
        "run_group": (6, "string"),
        "job_type": (7, "string"),
        "display_name": (8, "string"),
        "notes": (9, "string"),
        "tags": (10, "string*"),
        "sweep_id": (12, "string"),
        "host": (13, "string"),
        "start_time": (17, "Time"),
        "git": (21, "Git"),
    },
    "Environment": {
        "os": (1, "string"),
        "python": (2, "string"),
        "args": (5, "string*"),
        "program": (6, "string"),
        "git": (9, "Git"),
        "executable": (14, "string"),
        "cpu_count": (16, "int32"),
        "gpu_type": (18, "string"),
        "gpu_count": (19, "int32"),
    },
}

_LEVELS: Final = {"INFO": 20, "WARN": 30, "ERROR": 40}
_OWN_KEYS: Final = frozenset({"_step", "_timestamp", "_runtime", "_wandb"})
_OWN_ARTIFACTS: Final = ("run_table", "wandb-history")
"""Types of artifacts that hold once more what is logged."""


def looks_like(path: Path) -> bool:
    return next(_logs(path), None) is not None


def runs(path: Path, report: Report) -> Iterator[Run]:
    """The runs below a path, or of one transaction log.

    Raises:
        ConfigurationError: the library is missing, or there is no log.
    """
    wire = messages(EXTRA, "wandb", _SCHEMA)
    ids = source.Ids("wandb")
    parts: dict[tuple[str, str, str], list[Path]] = {}
    found = False
    for log in _logs(path):
        found = True
        begun = _first_run(wire, log)
        if begun is None and log.stat().st_size <= _HEADER_BYTES:
            report.leave_out("run that wandb has not written down yet", str(log))
            continue
        if begun is None:
            report.damage("transaction log without the record of its run", str(log))
            continue
        parts.setdefault((begun.entity, begun.project, begun.run_id), []).append(log)
    if not found:
        raise ConfigurationError(
            f"{path} has no run of wandb (wandb/offline-run-…/run-….wandb) in it."
        )
    for stored, logs in parts.items():
        yield _LoggedRun(wire, ids.of(*stored), stored[2], logs).run()


def _logs(path: Path) -> Iterator[Path]:
    """The logs, in the order in which they were begun, which the names of their folders say ("latest-run" is a link)."""
    if path.is_file():
        if path.suffix == ".wandb":
            yield path
        return
    found = {file.resolve() for _, files in walk(path) for file in files if file.suffix == ".wandb"}
    yield from sorted(found, key=lambda log: (log.parent.name.partition("run-")[2], log))


# --- the log ---------------------------------------------------------------------------------------

_HEADER: Final = b":W&B\xe1\xbe"
_HEADER_BYTES: Final = 7
_BLOCK_BYTES: Final = 32768
_HEAD: Final = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_SEEDS: Final = {kind: zlib.crc32(bytes((kind,))) for kind in (_FULL, _FIRST, _MIDDLE, _LAST)}


def _records(log: Path, report: Report) -> Iterator[bytes]:
    """The records of a log: in pieces of blocks, each with its checksum. What is damaged costs its block."""
    gathered: list[bytes] | None = None
    at = 0
    with open(log, "rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            place = 0
            if at == 0:
                if not block.startswith(_HEADER):
                    report.damage("file that is no transaction log of wandb", log.name)
                    return
                place = _HEADER_BYTES
            while place + _HEAD.size <= len(block):
                sum_, length, kind = _HEAD.unpack_from(block, place)
                if kind == 0 and length == 0:
                    break  # the filling of a block
                data = block[place + _HEAD.size : place + _HEAD.size + length]
                if len(data) < length and len(block) < _BLOCK_BYTES:
                    report.leave_out(source.CUT, log.name)
                    return
                if kind not in _SEEDS or zlib.crc32(data, _SEEDS[kind]) != sum_:
                    report.damage("damaged block of records", f"{log.name} at byte {at + place}")
                    gathered = None
                    break
                place += _HEAD.size + length
                if kind == _FULL:
                    yield data
                    gathered = None
                elif kind == _FIRST:
                    gathered = [data]
                elif gathered is not None:
                    gathered.append(data)
                    if kind == _LAST:
                        yield b"".join(gathered)
                        gathered = None
            at += len(block)
    if gathered is not None:
        report.leave_out(source.CUT, log.name)


def _parsed(wire: Any, log: Path, report: Report) -> Iterator[Any]:
    parse = wire.Record.FromString
    try:
        for data in _records(log, report):
            try:
                record = parse(data)
            except Exception as error:  # noqa: BLE001 - each implementation of the library has its own
                report.damage("record that cannot be read", f"{log.name}: {error}")
                continue
            yield record
    except OSError as error:
        report.damage("file that cannot be read", f"{log}: {error.strerror}")


def _first_run(wire: Any, log: Path) -> Any:
    for number, record in enumerate(_parsed(wire, log, Report())):
        if record.HasField("run"):
            return record.run
        if number > 1000:
            break
    return None


# --- a run -----------------------------------------------------------------------------------------


class _LoggedRun:
    """The logs of one run id."""

    def __init__(self, wire: Any, id: str, stored: str, logs: list[Path]) -> None:
        self._wire = wire
        self._id = id
        self._stored = stored
        self._logs = logs
        self._label = stored
        self._media: list[tuple[str, str, Path]] = []
        """Of the last call of `messages`: path, content type and file of what is an object of a sequence."""

    def run(self) -> Run:
        return Run(
            self._id, self._stored, source.version(self._everything()), self.messages, self.blobs
        )

    def _everything(self) -> Iterator[Path]:
        for log in self._logs:
            yield log
            for _, found in walk(log.parent / "files"):
                yield from found

    def messages(self, report: Report) -> Iterator[Message]:
        reading = _Reading(self._id, self._stored, report)
        for log in self._logs:
            reading.files = log.parent / "files"
            for record in _parsed(self._wire, log, report):
                yield from reading.record(record)
        # What a tracker appends is sent together.
        for log in self._logs if reading.has_output else ():
            for record in _parsed(self._wire, log, Report()):
                yield from reading.said(record)
            yield from reading.end_of_log()
        yield from reading.end()
        self._media = reading.media

    def _artifacts(
        self, report: Report, media: list[tuple[str, str, Path]]
    ) -> Iterator[tuple[str, str, Path]]:
        """Files of the run that are no object of a sequence, and those of its artifacts, as far as they are here."""
        seen = set()
        shown = {file for _, _, file in media}
        for log in self._logs:
            files = log.parent / "files"
            for _, found in walk(files):
                for file in found:
                    if file in shown:
                        continue
                    path = source.artifact_path(file.relative_to(files).as_posix(), report)
                    if path not in seen:
                        seen.add(path)
                        yield path, source.content_type(file.suffix.lstrip(".")), file
            for record in _parsed(self._wire, log, Report()):
                if record.HasField("artifact"):
                    yield from self._contents(record.artifact, seen, report)

    def _contents(
        self, artifact: Any, seen: set[str], report: Report
    ) -> Iterator[tuple[str, str, Path]]:
        if artifact.type in _OWN_ARTIFACTS:
            return
        if artifact.manifest.manifest_file_path and not artifact.manifest.contents:
            report.leave_out(
                "artifact whose list of files stands in a file of its own", artifact.name
            )
        for entry in artifact.manifest.contents:
            path = source.artifact_path(f"artifacts/{artifact.name}/{entry.path}", report)
            file = Path(entry.local_path)
            if entry.ref:
                report.leave_out("reference of an artifact", f"{artifact.name}: {entry.ref}")
            elif not entry.local_path or not file.is_file():
                report.leave_out(
                    "file of an artifact that is not on this machine",
                    f"{artifact.name}: {entry.path}",
                )
            elif path not in seen:
                seen.add(path)
                yield path, source.content_type(file.suffix.lstrip(".")), file

    def blobs(self, report: Report) -> Iterator[Blob]:
        for path, type_, file in self._media:
            yield source.of_file(path, type_, file)
        for path, type_, file in self._artifacts(report, self._media):
            yield source.of_file(path, type_, file)


class _Reading:
    """One pass over the records of a run."""

    def __init__(self, id: str, stored: str, report: Report) -> None:
        self._id = id
        self._report = report
        self.files = Path()
        self.media: list[tuple[str, str, Path]] = []
        self._config: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._about: dict[str, Any] = {"from": "wandb", "id": stored}
        self._names: dict[str, str] = {}
        self._begun = False
        self._ended = False
        self._last = 0.0
        self._measured = 0
        self._lines = 0
        self._partial: dict[int, str] = {}
        self.has_output = False
        self._alerts: list[tuple[Any, float]] = []

    def record(self, record: Any) -> Iterator[Message]:
        if record.HasField("history"):
            yield from self._history(record.history)
        elif record.HasField("summary"):
            self._update(self._summary, record.summary)
        elif record.HasField("stats"):
            yield from self._stats(record.stats)
        elif record.HasField("output_raw") or record.HasField("output"):
            self.has_output = True
        elif record.HasField("config"):
            self._update(self._config, record.config)
        elif record.HasField("run"):
            yield from self._run(record.run)
        elif record.HasField("exit"):
            self._ended = True
            self._about["exit_code"] = record.exit.exit_code
        elif record.HasField("environment"):
            self._environment(record.environment)
        elif record.HasField("alert"):
            self._alerts.append((record.alert, self._last))
        elif record.HasField("metric"):
            metric = record.metric
            if metric.step_metric:
                self._report.leave_out(
                    "axis of a metric (define_metric)", metric.name or metric.glob_name
                )
        elif record.HasField("tbrecord"):
            self._report.leave_out("link to a folder of TensorBoard", self._about["id"])
        elif record.HasField("use_artifact"):
            self._report.leave_out("use of an artifact", self._about["id"])

    def said(self, record: Any) -> Iterator[Message]:
        """The lines of a record that has some."""
        if record.HasField("output_raw"):
            yield from self._output(record.output_raw)
        elif record.HasField("output"):
            yield from self._output(record.output)

    def _run(self, run: Any) -> Iterator[Message]:
        self._update(self._config, run.config)
        self._update(self._summary, run.summary)
        for field in ("entity", "project", "run_group", "job_type", "sweep_id", "host"):
            if value := getattr(run, field):
                self._about[field] = value
        self._git(run)
        self._ended = False  # it was resumed
        if self._begun:
            return
        self._begun = True
        self._last = _seconds(run.start_time)
        yield source.begun(self._last)
        yield from source.described(
            self._report,
            called=run.display_name or run.run_id,
            experiment=run.project,
            description=run.notes,
            tags=run.tags,
        )

    def _environment(self, environment: Any) -> None:
        for field in (
            "os",
            "python",
            "program",
            "executable",
            "cpu_count",
            "gpu_type",
            "gpu_count",
        ):
            if value := getattr(environment, field):
                self._about[field] = value
        if environment.args:
            self._about["args"] = [*environment.args]
        self._git(environment)

    def _git(self, record: Any) -> None:
        if record.git.commit:
            self._about["git"] = {
                "commit": record.git.commit,
                "remote_url": record.git.remote_url,
            }

    def _update(self, tree: dict[str, Any], updates: Any) -> None:
        for item in updates.update:
            *above, last = [*item.nested_key] or [item.key]
            _inside(tree, above)[last] = self._json(item.value_json, last)
        for item in updates.remove:
            *above, last = [*item.nested_key] or [item.key]
            _inside(tree, above).pop(last, None)

    def _json(self, text: str, where: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            self._report.damage("value that is no JSON", where)
            return None

    # --- rows of points ------------------------------------------------------------------------

    def _history(self, history: Any) -> Iterator[Message]:
        row: dict[str, Any] = {}
        for item in history.item:
            path = item.nested_key
            if len(path) > 1:
                *above, last = path
                _inside(row, above)[last] = self._json(item.value_json, last)
            else:
                key = path[0] if path else item.key
                row[key] = self._json(item.value_json, key)
        step = row.get("_step", history.step.num)
        logged = row.get("_timestamp")
        seconds = float(logged) if isinstance(logged, (int, float)) else math.nan
        when = source.moment(seconds)
        if not source.is_step(step):
            self._report.damage("row without a step", repr(step))
            return
        if when is None:
            when = source.moment(self._last)
        else:
            self._last = max(self._last, seconds)
        assert when is not None
        epoch = row.get("epoch")
        if not source.is_epoch(epoch):
            epoch = None
        for key, value in row.items():
            if key not in _OWN_KEYS:
                yield from self._value(key, value, step, when, epoch)

    def _value(
        self, key: str, value: Any, step: int, when: str, epoch: int | float | None
    ) -> Iterator[Message]:
        kind = type(value)
        if kind is float or kind is int or kind is bool:
            yield source.point(
                self._name(key), None, step, source.float_of(value), when, epoch=epoch
            )
        elif kind is str:
            if value in _SPOKEN:
                number = _SPOKEN[value]
                yield source.point(self._name(key), None, step, number, when, epoch=epoch)
            else:
                text = {"type": "text", "data": source.line(value, self._report, key)}
                yield source.custom(self._name(key), None, step, text, when, epoch)
        elif kind is dict and "_type" in value:
            for context, one in self._object(key, value, step):
                yield source.custom(self._name(key), context, step, one, when, epoch)
        elif kind is dict:
            for inner, one in value.items():
                yield from self._value(f"{key}.{inner}", one, step, when, epoch)
        else:
            what = "list of values" if kind is list else "null"
            self._report.leave_out(f"{what} at a step", f"{key} at {step}")

    def _name(self, key: str) -> str:
        found = self._names.get(key)
        if found is None:
            found = self._names[key] = source.sequence_name(key, None, self._report)
        return found

    # --- objects -------------------------------------------------------------------------------

    def _object(
        self, key: str, value: Mapping[str, Any], step: int
    ) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any]]]:
        kind = value["_type"]
        where = f"{key} at {step}"
        if kind == "histogram":
            if (made := _histogram(value, self._report, where)) is not None:
                yield None, made
            else:
                self._report.leave_out("histogram without values, or with infinite ones", where)
        elif kind in ("image-file", "audio-file"):
            yield from self._medium(key, value, step, None, kind.removesuffix("-file"))
        elif kind in ("images/separated", "images"):
            names = value.get("filenames") or []
            captions = value.get("captions") or []
            shared = {
                name: value.get(name) for name in ("width", "height", "format") if name in value
            }
            for at, name in enumerate(names):
                caption = captions[at] if isinstance(captions, list) and at < len(captions) else ""
                one = {**shared, "path": name, "caption": caption}
                context = source.numbered(None, at, len(names))
                yield from self._medium(key, one, step, context, "image")
            for field in ("all_boxes", "all_masks"):
                if value.get(field):
                    self._report.leave_out("boxes or masks of images", where)
            if not names:
                self._report.leave_out("images without their files", where)
        elif kind == "audio" and isinstance(value.get("audio"), list):
            clips = value["audio"]
            for at, clip in enumerate(clips):
                if isinstance(clip, dict):
                    context = source.numbered(None, at, len(clips))
                    yield from self._medium(key, clip, step, context, "audio")
        elif kind == "plotly-file":
            yield from self._figure(value, where)
        else:
            self._report.leave_out(
                f"object of the type {source.short(str(kind), 40)} (its file is taken as an artifact)",
                where,
            )

    def _medium(
        self,
        key: str,
        value: Mapping[str, Any],
        step: int,
        context: dict[str, Any] | None,
        kind: str,
    ) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any]]]:
        where = f"{key} at {step}"
        file = source.file_inside(self.files, value.get("path"))
        if file is None:
            self._report.leave_out(f"{kind} whose file is not in the run's folder", where)
            return
        if value.get("boxes") or value.get("masks"):
            self._report.leave_out("boxes or masks of images", where)
        format = str(value.get("format") or file.suffix.lstrip(".") or "bin").lower()
        path = source.media_path(self._name(key), context, step, format)
        self.media.append((path, source.content_type(format), file))
        caption = value.get("caption")
        extra = (
            {"width": _count(value.get("width")), "height": _count(value.get("height"))}
            if kind == "image"
            else {"rate": _count(value.get("sample_rate"))}
        )
        said = caption if isinstance(caption, str) else ""
        yield context, source.media(self._id, kind, path, format, said, **extra)

    def _figure(
        self, value: Mapping[str, Any], where: str
    ) -> Iterator[tuple[None, dict[str, Any]]]:
        file = source.file_inside(self.files, value.get("path"))
        try:
            data = json.loads(file.read_bytes()) if file else None
        except ValueError:
            data = None
        if not isinstance(data, dict):
            self._report.leave_out("figure whose file cannot be read", where)
            return
        yield None, {"type": "figure", "data": source.plain(data, self._report, where)}

    # --- the machine, the terminal ---------------------------------------------------------------

    def _stats(self, stats: Any) -> Iterator[Message]:
        when = source.moment(_seconds(stats.timestamp))
        step = self._measured
        self._measured += 1
        for item in stats.item:
            value = self._json(item.value_json, item.key)
            if when is not None and isinstance(value, (int, float)):
                name = self._name(f"{source.SYSTEM_PREFIX}{item.key}")
                yield source.point(name, None, step, source.float_of(value), when)

    def _output(self, output: Any) -> Iterator[Message]:
        """Whole lines; what has no end yet waits for it."""
        *lines, rest = (self._partial.pop(output.output_type, "") + output.line).split("\n")
        if rest:
            self._partial[output.output_type] = rest
        for text in lines:
            yield self._line(text)

    def _line(self, text: str) -> Message:
        number = self._lines
        self._lines += 1
        # What a carriage return has overwritten nobody saw last.
        shown = text.rstrip("\r").rpartition("\r")[2]
        return {
            "type": "log_terminal_line",
            "line": source.line(shown, self._report, "terminal line"),
            "step": number,
        }

    def _alert(self, alert: Any, at: float) -> Message:
        text = f"{alert.title}: {alert.text}" if alert.text else alert.title
        return {
            "type": "log_record",
            "message": source.line(text, self._report, "alert"),
            "level": _LEVELS.get(alert.level, 20),
            "timestamp": at,
        }

    # --- the end ---------------------------------------------------------------------------------

    def end_of_log(self) -> Iterator[Message]:
        for text in self._partial.values():
            yield self._line(text)
        self._partial.clear()

    def end(self) -> Iterator[Message]:
        """What is known of the whole run only."""
        config = {key: value for key, value in self._config.items() if key not in _OWN_KEYS}
        summary = {
            key: value
            for key, value in self._summary.items()
            if key not in _OWN_KEYS and not isinstance(value, (dict, list))
        }
        found = {"hparams": config, "summary": summary, "imported": self._about}
        yield from source.attributes(found, self._report)
        for alert, at in self._alerts:
            yield self._alert(alert, at)
        if self._ended:
            yield source.ended(self._last)


_SPOKEN: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How a program that knows strict JSON alone writes them."""


def _inside(tree: dict[str, Any], path: list[str]) -> dict[str, Any]:
    for word in path:
        below = tree.get(word)
        if not isinstance(below, dict):
            below = tree[word] = {}
        tree = below
    return tree


def _seconds(time: Any) -> float:
    return float(time.seconds) + float(time.nanos) / 1e9


def _count(value: object) -> int | None:
    return value if source.is_step(value) and not isinstance(value, bool) else None  # type: ignore[return-value]  # is_step has looked


def _histogram(value: Mapping[str, Any], report: Report, where: str) -> dict[str, Any] | None:
    counts = value.get("values")
    edges = value.get("bins")
    packed = value.get("packedBins")
    if edges is None and isinstance(packed, dict) and isinstance(counts, list):
        low, size = packed.get("min"), packed.get("size")
        if isinstance(low, (int, float)) and isinstance(size, (int, float)):
            edges = [low + at * size for at in range(len(counts) + 1)]
    return source.listed_histogram(edges, counts, report, where)
