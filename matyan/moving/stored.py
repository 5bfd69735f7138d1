"""A run of a store, as a reader sees it, made into the messages that bring it to another tracker.

What the protocol cannot carry is not in them: `LOSSES` says what. The order is always the same, so that an interrupted run goes on: how it
began, what it is called, parameters, tags, points and objects by sequence, lines, records, how it ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Final

from matyan._codec import BLOBS, LINES, LOG_RECORDS, format_timestamp
from matyan.errors import ConfigurationError
from matyan.moving.moved import MESSAGE_BYTES, Message, MovedBlob, MovedRun
from matyan.reader.blocks import Block
from matyan.reader.reading import Reader

LOSSES: Final = (
    "created_at, updated_at and finalized_at are the target's: it stamps what it takes (client_start_ts and duration are kept, and runs "
    "begin in the order of their creation)",
    "the times of terminal lines, and the time at which a log record came (the time that the record itself names is kept)",
    "times finer than a microsecond",
    "steps of log records that were not counted from 0 without a gap",
    "that a tag was taken away, where the run was sent before with it",
    "colours and descriptions of tags and experiments, notes, dashboards and what else people write in the web app",
)
"""What a move does not bring, whatever the target is."""

_MICROSECONDS: Final = 1_000_000
_HPARAMS_BYTES: Final = MESSAGE_BYTES - 1024

Pieces = Callable[[str, str], Iterable[bytes]]
"""The bytes of an artifact of a run, by its path."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Artifacts that lie beside the store, in a bucket."""

    artifact: Pieces
    held: Callable[[str], dict[str, tuple[int, float]]]
    """The bytes of each of a run's and when they were written, in epoch seconds, by path."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where runs are read from.

    artifact: gives an artifact's bytes, where whoever answers the reader has them.
    elsewhere: opens what has them, where it has not.
    """

    reader: Reader
    artifact: Pieces
    elsewhere: Callable[[], Elsewhere] | None = None

    def run(self, run: str, as_: str | None = None) -> MovedRun:
        """as_: the id that it is to have there.

        Raises:
            NotFound: there is no such run.
        """
        shown = self.reader.show(run)
        name = as_ or run
        facts = repr(_facts(shown)).encode("utf-8", "backslashreplace")
        version = blake2b(facts, digest_size=16).hexdigest()
        return MovedRun(
            name,
            partial(self._messages, run, name),
            partial(self._blobs, run, version),
            version,
            sum(one["points"] or 0 for one in shown["sequences"]),
            origin=run,
        )

    def _messages(self, run: str, name: str) -> Iterator[Message]:
        shown = self.reader.show(run)
        meta = shown["meta"]
        if meta.get("client_start_ts") is not None:
            yield {"type": "create_run", "client_datetime": moment(meta["client_start_ts"])}
        yield from _properties(shown, run, name)
        for key, value in shown["attrs"].items():
            if key != BLOBS:
                if isinstance(value, dict) and len(value) == 1:
                    # A single key below would be put beside what an earlier push has left there.
                    yield {"type": "log_hparams", "value": {key: {}}}
                yield from _parameters((key,), value)
        for tag in shown["tags"]:
            yield {"type": "add_tag", "tag_name": tag}
        damage: ConfigurationError | None = None
        try:
            for block in self.reader.blocks(run):
                if block.points is not None:
                    yield from _points(block)
                elif block.context or block.name not in (LINES, LOG_RECORDS):
                    yield from _objects(block, run, name)
        except ConfigurationError as error:
            damage = error  # it comes behind all that can be read
        yield from self._log(run, LINES, _line)
        yield from self._log(run, LOG_RECORDS, _record)
        if meta.get("active") is False:
            yield _finish(meta)
        if damage is not None:
            raise damage

    def _log(
        self, run: str, name: str, message: Callable[[int, Any], dict[str, Any]]
    ) -> Iterator[Message]:
        for block in self.reader.blocks(run, name=name, context={}):
            for step, _, _, value in block.objects or ():
                yield message(step, value)

    def _blobs(self, run: str, version: str) -> Iterator[MovedBlob]:
        rows = [*self.reader.artifacts(run)]
        if rows and "bytes" not in rows[0] and self.elsewhere is not None:
            there = self.elsewhere()
            artifact, held = there.artifact, there.held(run)
            rows = [
                {**row, "bytes": size, "modified": modified}
                for row in rows
                for size, modified in [held.get(row["path"], (None, None))]
            ]
        else:
            artifact = self.artifact
        for row in rows:
            path = row["path"]
            kind = row["content_type"] or "application/octet-stream"
            yield MovedBlob(
                path,
                kind,
                row.get("bytes"),
                partial(artifact, run, path),
                # Where nobody says when they were written, they may be others whenever the run has changed.
                repr(row["modified"]) if "modified" in row else version,
            )


def _facts(shown: dict[str, Any]) -> dict[str, Any]:
    """Of what is shown of a run, what changes when anything in it does."""
    return {name: value for name, value in shown.items() if name != "last_record"}


def moment(epoch_seconds: float) -> str | None:
    """None: a time that no client sends; the target says so."""
    try:
        return format_timestamp(round(epoch_seconds * _MICROSECONDS)).decode()
    except (ValueError, OverflowError):
        return None


def _properties(shown: dict[str, Any], run: str, name: str) -> Iterator[Message]:
    meta = shown["meta"]
    title = meta.get("name")
    if name != run and title == f"Run: {run}":  # nobody has named it
        title = None
    found = {
        "name": title,
        "description": meta.get("description"),
        "archived": meta.get("is_archived"),
        "experiment": shown["experiment"],
    }
    given = {field: value for field, value in found.items() if value is not None}
    if given:
        yield {"type": "set_run_property", **given}


def _parameters(path: tuple[str, ...], value: object) -> Iterator[Message]:
    """What is below `path`: one message, or as many as it takes."""
    tree: object = value
    for key in reversed(path):
        tree = {key: tree}
    message = {"type": "log_hparams", "value": tree}
    if isinstance(value, dict) and len(value) > 1 and _size(message) > _HPARAMS_BYTES:
        for key, below in value.items():
            yield from _parameters((*path, key), below)
    else:
        yield message


def _size(message: dict[str, Any]) -> int:
    return len(json.dumps(message, ensure_ascii=False, default=str).encode(errors="replace"))


def _points(block: Block) -> Iterator[Message]:
    """As bytes: these are most of a run's messages."""
    points = block.points
    assert points is not None
    name, context, dtype = (
        json.dumps(one) for one in (block.name, block.context or None, block.dtype)
    )
    head = f'{{"type":"log_metric","name":{name},"context":{context},"dtype":{dtype},"step":'
    for step, value, time, epoch in zip(
        points.steps, points.values, points.times, points.epochs, strict=True
    ):
        at = "null" if epoch is None else repr(epoch)
        text = json.dumps(value) if value - value != 0.0 else repr(value)
        when = moment(time)
        quoted = "null" if when is None else f'"{when}"'
        yield f'{head}{step},"epoch":{at},"value":{text},"client_datetime":{quoted}}}'.encode()


def _objects(block: Block, run: str, name: str) -> Iterator[Message]:
    for step, epoch, time, value in block.objects or ():
        yield {
            "type": "log_custom_object",
            "name": block.name,
            "value": value if name == run else _readdressed(value, f"{run}/", f"{name}/"),
            "step": step,
            "epoch": epoch,
            "context": block.context or None,
            "dtype": block.dtype,
            "client_datetime": moment(time),
        }


def _readdressed(value: Any, before: str, after: str) -> Any:
    """An object whose bytes lie among the run's artifacts, which have another place under another id."""
    key = value.get("s3_key") if isinstance(value, dict) else None
    if isinstance(key, str) and key.startswith(before):
        return {**value, "s3_key": after + key.removeprefix(before)}
    return value


def _line(step: int, value: Any) -> dict[str, Any]:
    return {"type": "log_terminal_line", "line": value, "step": step}


def _record(step: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):  # damaged: the target says so
        value = {"message": value}
    told = {
        "message": value.get("message"),
        "level": value.get("log_level"),
        "timestamp": value.get("timestamp"),
        "logger_info": value.get("logger_info"),
        "extra_args": value.get("args"),
    }
    given = {field: one for field, one in told.items() if one is not None}
    return {"type": "log_record", **given}


def _finish(meta: dict[str, Any]) -> Message:
    begun, duration = meta.get("client_start_ts"), meta.get("duration")
    if begun is None or duration is None:
        return {"type": "finish_run"}
    return {"type": "finish_run", "client_datetime": moment(begun + duration)}
