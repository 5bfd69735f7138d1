"""MLflow's stores: a SQLite database of the tracking server or of `mlflow` itself, or the older folder `mlruns` of files; and the
artifacts, where they are files.

The tables: mlflow/store/tracking/dbmodels/models.py; the files: mlflow/store/tracking/file_store.py.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from matyan.errors import ConfigurationError
from matyan.importers import source, sqlite
from matyan.importers.source import Blob, Message, Report, Run
from matyan.importers.tree import walk

_TABLES: Final = {"experiments", "runs", "metrics", "params", "tags"}
_SYSTEM: Final = "system/"
_LARGEST: Final = 1.7976931348623157e308
"""How the SQL store writes an infinity."""
_STATUSES: Final = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_OPEN: Final = {"RUNNING", "SCHEDULED"}
_OTHER_TABLES: Final = {
    "logged_models": "logged model",
    "registered_models": "registered model",
    "trace_info": "trace",
    "datasets": "dataset",
}
_KEPT_TAGS: Final = {
    "mlflow.user": "user",
    "mlflow.source.name": "source",
    "mlflow.source.git.commit": "git_commit",
    "mlflow.parentRunId": "parent",
}
"""Tags of MLflow's own that say where a run comes from."""

Point = tuple[int, float, int]
"""Step, value, milliseconds."""
Series = tuple[str, Callable[[], Iterator[Point]]]


@dataclass
class _Stored:
    """A run as either store has it. metrics: each series ordered by step, then by time."""

    id: str
    name: str
    experiment: str
    archived: bool
    status: str
    started: float | None
    ended: float | None
    tags: dict[str, str]
    params: dict[str, str]
    artifacts: Path | None
    elsewhere: str
    """Where its artifacts are, if they are no files here."""
    metrics: Callable[[], Iterator[Series]]
    files: list[Path] = field(default_factory=list)
    """What changes with it."""


def looks_like(path: Path) -> bool:
    return _database(path) is not None or _file_store(path) is not None


def runs(path: Path, report: Report) -> Iterator[Run]:
    """The runs of a store.

    Raises:
        ConfigurationError: there is none.
    """
    ids = source.Ids("mlflow")
    if (database := _database(path)) is not None:
        stored = _of_database(database, report)
    elif (folder := _file_store(path)) is not None:
        stored = _of_files(folder, report)
    else:
        raise ConfigurationError(
            f"{path} has no store of MLflow in it: name its SQLite database (mlflow.db), or a folder mlruns."
        )
    for one in stored:
        yield _run(ids.of(one.id), one)


def _run(id: str, stored: _Stored) -> Run:
    return Run(
        id,
        f"{stored.experiment}/{stored.name}",
        source.version([*stored.files, *_files_below(stored.artifacts)]),
        lambda report: _messages(stored, report),
        lambda report: _blobs(stored, report),
    )


def _messages(stored: _Stored, report: Report) -> Iterator[Message]:
    yield source.begun(stored.started)
    own = {key: value for key, value in stored.tags.items() if not key.startswith("mlflow.")}
    yield from source.described(
        report,
        called=stored.name,
        experiment=stored.experiment,
        description=stored.tags.get("mlflow.note.content"),
        archived=stored.archived,
        # MLflow's tags have values; one without is what a tag is here.
        tags=[key for key, value in own.items() if not value],
    )
    imported = {"from": "mlflow", "id": stored.id, "status": stored.status}
    imported |= {name: stored.tags[key] for key, name in _KEPT_TAGS.items() if key in stored.tags}
    params = {key: _value(text) for key, text in stored.params.items()}
    yield from source.attributes(
        {"hparams": params, "mlflow_tags": own, "imported": imported}, report
    )
    for name, read in stored.metrics():
        fitted = source.sequence_name(_named(name), None, report)
        for step, value, milliseconds in _in_steps(name, read, report):
            when = source.moment(milliseconds / 1000)
            if when is None:
                report.change("time that is none, now the run's first", name)
                when = source.moment(stored.started) or source.moment(0.0)
            assert when is not None
            yield source.point(fitted, None, step, value, when)
    if stored.status not in _OPEN:
        yield source.ended(stored.ended)


def _named(name: str) -> str:
    return source.SYSTEM_PREFIX + name.removeprefix(_SYSTEM) if name.startswith(_SYSTEM) else name


def _in_steps(name: str, read: Callable[[], Iterator[Point]], report: Report) -> Iterator[Point]:
    """A series with each step once. One that was logged without steps, and so stands at step 0 as a whole, is numbered in the order of
    its times; elsewhere the later point of a step counts."""
    count = 0
    for step, _, _ in read():
        count += 1
        if step != 0:
            count = 0
            break
    if count > 1:
        report.change("metric without steps, numbered in the order of time", name)
        for number, (_, value, milliseconds) in enumerate(read()):
            yield number, value, milliseconds
        return
    held: Point | None = None
    for point in read():
        if held is not None and held[0] == point[0]:
            report.leave_out("point at a step where a later one stands", f"{name} at {point[0]}")
        elif held is not None:
            yield held
        held = point
    if held is not None:
        yield held


def _value(text: str) -> Any:
    """What a parameter was before MLflow made a text of it, where that is certain."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if repr(value) == text:
            return value
    return text


# --- artifacts -------------------------------------------------------------------------------------


def _blobs(stored: _Stored, report: Report) -> Iterator[Blob]:
    if stored.artifacts is None:
        if stored.elsewhere:
            report.leave_out("artifacts that are elsewhere", stored.elsewhere)
        return
    for file in _files_below(stored.artifacts):
        path = source.artifact_path(file.relative_to(stored.artifacts).as_posix(), report)
        yield source.of_file(path, source.content_type(file.suffix.lstrip(".")), file)


def _files_below(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        for _, files in walk(folder):
            yield from files


def _place(uri: str, beside: Path, experiment: str, run: str) -> tuple[Path | None, str]:
    """The folder of a run's artifacts; or why there is none here."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # none at all
        return None, uri
    inside = f"{experiment}/{run}/artifacts"
    tried = []
    if parts.scheme in ("", "file"):
        named = Path(unquote(parts.path) if parts.scheme else uri)
        tried.append(named if named.is_absolute() else beside / named)
    elif parts.scheme == "mlflow-artifacts":
        inside = unquote(parts.path).lstrip("/")
    else:
        return None, uri
    # A store that was moved, or a server's.
    tried += [beside / top / inside for top in ("mlruns", "mlartifacts", "artifacts", ".")]
    for folder in tried:
        with contextlib.suppress(OSError, ValueError):  # it can be no path
            if folder.is_dir():
                return folder, ""
    return None, uri if parts.scheme == "mlflow-artifacts" else ""


# --- the SQL store -----------------------------------------------------------------------------------


def _database(path: Path) -> Path | None:
    candidates = [path] if path.is_file() else []
    if path.is_dir():
        with contextlib.suppress(OSError):
            candidates = sorted(file for file in path.iterdir() if file.is_file())
    return next((file for file in candidates if sqlite.tables(file) >= _TABLES), None)


def _of_database(path: Path, report: Report) -> Iterator[_Stored]:
    with sqlite.opened(path) as database:
        tables = sqlite.tables(path)
        for table, what in _OTHER_TABLES.items():
            if table in tables:
                (count,) = database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
                if count:
                    report.leave_out(what, path.name, count)
        rows = database.execute(
            "SELECT runs.*, experiments.name AS experiment, experiments.lifecycle_stage AS stage "
            "FROM runs JOIN experiments USING (experiment_id) ORDER BY start_time, run_uuid"
        ).fetchall()
        for row in rows:
            yield _of_row(path, database, row)


def _of_row(path: Path, database: sqlite3.Connection, row: sqlite3.Row) -> _Stored:
    id = row["run_uuid"]
    tags = dict(
        database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (id,)).fetchall()
    )
    params = dict(
        database.execute(
            "SELECT key, value FROM params WHERE run_uuid = ? ORDER BY key", (id,)
        ).fetchall()
    )
    artifacts, elsewhere = _place(
        row["artifact_uri"] or "", path.parent, str(row["experiment_id"]), id
    )
    return _Stored(
        id=id,
        name=row["name"] or tags.get("mlflow.runName") or id,
        experiment=row["experiment"],
        archived="deleted" in (row["lifecycle_stage"], row["stage"]),
        status=row["status"] or "",
        started=_seconds(row["start_time"]),
        ended=_seconds(row["end_time"]),
        tags={key: value or "" for key, value in tags.items()},
        params={key: value or "" for key, value in params.items()},
        artifacts=artifacts,
        elsewhere=elsewhere,
        metrics=lambda: _sql_metrics(path, id),
        files=sqlite.files(path),
    )


def _seconds(milliseconds: Any) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, (int, float)) else None


def _sql_metrics(path: Path, run: str) -> Iterator[Series]:
    with sqlite.opened(path) as database:
        names = database.execute(
            "SELECT DISTINCT key FROM metrics WHERE run_uuid = ? ORDER BY key", (run,)
        ).fetchall()

        def read(name: str) -> Iterator[Point]:
            rows = database.execute(
                "SELECT step, value, is_nan, timestamp FROM metrics WHERE run_uuid = ? AND key = ? "
                "ORDER BY step, timestamp, rowid",
                (run, name),
            )
            for step, value, is_nan, milliseconds in rows:
                yield step, math.nan if is_nan else _finite_or_not(value), milliseconds

        for (name,) in names:
            yield name, lambda name=name: read(name)  # type: ignore[misc]  # a default binds it now, which mypy cannot infer in a lambda


def _finite_or_not(value: float) -> float:
    if abs(value) >= _LARGEST:
        return math.copysign(math.inf, value)
    return float(value)


# --- the store of files ------------------------------------------------------------------------------


def _file_store(path: Path) -> Path | None:
    for folder in (path, path / "mlruns"):
        with contextlib.suppress(OSError):
            if any(
                (one / "meta.yaml").is_file() and _meta(one).get("experiment_id") is not None
                for one in folder.iterdir()
                if one.is_dir()
            ):
                return folder
    return None


def _of_files(top: Path, report: Report) -> Iterator[_Stored]:
    experiments = [*_folders(top), *_folders(top / ".trash")]
    for experiment in experiments:
        meta = _meta(experiment)
        for run in _folders(experiment):
            about = _meta(run)
            if "run_id" not in about:
                continue
            yield _of_folder(top, meta, run, about, report)


def _of_folder(
    top: Path, experiment: dict[str, str], run: Path, about: dict[str, str], report: Report
) -> _Stored:
    status = about.get("status", "")
    artifacts, elsewhere = _place(
        about.get("artifact_uri", ""), top.parent, about.get("experiment_id", ""), run.name
    )
    inside = run / "artifacts"
    if inside.is_dir():
        artifacts, elsewhere = inside, ""
    tags = {key: _text(file) for key, file in _named_files(run / "tags")}
    stages = (about.get("lifecycle_stage"), experiment.get("lifecycle_stage"))
    return _Stored(
        id=about["run_id"],
        name=about.get("run_name") or tags.get("mlflow.runName") or run.name,
        experiment=experiment.get("name") or about.get("experiment_id", ""),
        archived="deleted" in stages,
        status=_STATUSES.get(int(status), status) if status.isdigit() else status,
        started=_of_text(about.get("start_time")),
        ended=_of_text(about.get("end_time")),
        tags=tags,
        params={key: _text(file) for key, file in _named_files(run / "params")},
        artifacts=artifacts,
        elsewhere=elsewhere,
        metrics=lambda: _file_metrics(run / "metrics", report),
        files=[
            run / "meta.yaml",
            *(
                file
                for name in ("metrics", "params", "tags")
                for _, file in _named_files(run / name)
            ),
        ],
    )


def _folders(top: Path) -> list[Path]:
    try:
        return sorted(one for one in top.iterdir() if (one / "meta.yaml").is_file())
    except OSError:
        return []


def _meta(folder: Path) -> dict[str, str]:
    """The fields of a meta.yaml, each a line of its own."""
    found = {}
    for line in _text(folder / "meta.yaml").splitlines():
        key, colon, value = line.partition(":")
        if colon and not line.startswith((" ", "-", "#")):
            word = value.strip()
            if len(word) > 1 and word[0] == word[-1] == "'":
                word = word[1:-1].replace("''", "'")
            elif len(word) > 1 and word[0] == word[-1] == '"':
                word = word[1:-1].encode().decode("unicode_escape")
            if word != "null":
                found[key] = word
    return found


def _of_text(milliseconds: str | None) -> float | None:
    try:
        return None if milliseconds is None else int(milliseconds) / 1000
    except ValueError:
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _named_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files whose place below a folder is their key."""
    for _, files in walk(folder):
        for file in files:
            yield file.relative_to(folder).as_posix(), file


def _file_metrics(folder: Path, report: Report) -> Iterator[Series]:
    for name, file in _named_files(folder):
        yield name, lambda name=name, file=file: _lines(name, file, report)  # type: ignore[misc]  # a default binds it now, which mypy cannot infer in a lambda


def _lines(name: str, file: Path, report: Report) -> Iterator[Point]:
    """Of one metric: milliseconds, value and step a line, sorted, since the file is in the order of writing."""
    points = []
    for line in _text(file).splitlines():
        words = line.split()
        try:
            points.append((int(words[2]) if len(words) > 2 else 0, float(words[1]), int(words[0])))
        except (ValueError, IndexError):
            report.damage("line that is no point", f"{name}: {source.short(line)}")
    return iter(sorted(points, key=lambda point: (point[0], point[2])))
