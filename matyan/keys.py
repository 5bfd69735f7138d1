"""The key layout (contract, section 4), drawn as a table, and its packers.

Which keys exist and how they are packed; what is written to them and when stands in the modules above.
Keys are FoundationDB tuples behind the prefix of one of three directories, values are msgpack.

| R: ("data","runs")                                   | method                                    |
|------------------------------------------------------|-------------------------------------------|
| (run, …)                                             | run_range                                 |
| (run, "meta", field, "__leaf__")                     | meta, meta_prefix                         |
| (run, "attrs", *path, …)                             | attrs                                     |
| (run, "contexts", ctx)                               | context, contexts_prefix                  |
| (run, "traces", ctx, name, "dtype"|"last"|…)         | trace, traces_prefix                      |
| (run, "traces", ctx, name, "summary")                | trace: count, first, min, max; not always |
| (run, "seqs", ctx, name, "val"|"step"|…, step)       | seq + POINT_FIELDS                        |
| (run, "seqs", ctx, name, "chunk", n)                 | seq + CHUNK; seqs_prefix                  |
| (run, "parts", ctx, name, step, i)                   | parts                                     |
| (run, "tags", tag_uuid)                              | run_tag, run_tags_prefix                  |

| I: ("data","indexes")                                | method                                    |
|------------------------------------------------------|-------------------------------------------|
| ("archived"|"active", bool, run)                     | index                                     |
| ("created_at", float, run), ("experiment", name, run)| index                                     |
| ("tag", name, run), ("trace", name, run)             | index                                     |
| ("hparam", name, value, run)                         | index                                     |
| ("_rev", run, *forward)                              | reverse_index, reverse_index_prefix       |
| ("_deleted", run)                                    | tombstone, tombstones_prefix              |

| S: ("system",)                                       | method                                    |
|------------------------------------------------------|-------------------------------------------|
| ("experiments"|"tags", uuid, field)                  | experiment, tag; entities_prefix          |
| ("experiments_by_name"|"tags_by_name", name)         | experiment_by_name, tag_by_name           |
| ("experiment_runs"|"tag_runs", uuid, run)            | experiment_run, tag_run                   |
| ("run_experiment", run), ("run_tags", run, uuid)     | experiment_of_run, tag_of_run             |
| ("job_lock"|"job_lock_owner", job)                   | job_lock, job_lock_owner                  |
| ("activity", run), ("owner", run)                    | activity, owner                           |
| ("shape", run)                                       | shape: which params and sequences it has  |
| ("ingest", topic_id, partition)                      | ingest, ingest_prefix                     |
| ("dropped", topic_id, partition)                     | dropped: records of deleted runs, counted |
| ("counts_owed", run, family, uuid)                   | owed_count                                |
| ("deletion_owed", run)                               | owed_deletion                             |
| ("layout",), ("store",)                              | layout, store                             |
| ("dashboards"|"dashboard_apps", id, field)           | document                                  |
| ("reports"|"notes", id, field)                       | document                                  |
| ("project", field, "__leaf__")                       | project                                   |
| ("pinned_sequences", "__leaf__")                     | pinned_sequences                          |
| ("webhook_events", webhook, n)                       | webhook_event, webhook_events_prefix: what it has not taken yet |
| ("control_events", n), ("dead_letters", n)           | control_event, dead_letter: the embedded  |
|                                                      | broker's                                  |

Tuple booleans are booleans and floats are doubles: False, 0 and 0.0 are three different keys.
A method whose name ends in `_prefix` gives bytes that `range_of` turns into (begin, end) and whose
length is the `start` for `unpack`; one that ends in `_range` gives (begin, end).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgpack

from matyan._codec import (
    EMPTY_DICT,
    EMPTY_LIST,
    LEAF,
    key_int,
    msgpack_value,
    pack,
    range_of,
    unpack,
)
from matyan.store.base import Directories

__all__ = [
    "CHUNK",
    "EMPTY_DICT",
    "EMPTY_LIST",
    "LEAF",
    "LOCAL",
    "POINT_FIELDS",
    "Keys",
    "pack_value",
    "range_of",
    "unpack",
    "unpack_value",
]

LOCAL = "local"
"""The topic id of the embedded broker, in ("ingest", topic_id, …)."""

POINT_FIELDS = {field: pack((field,)) for field in ("val", "step", "epoch", "time")}
"""What follows `Keys.seq(…)` and precedes the step, packed."""
CHUNK = pack(("chunk",))
"""What follows `Keys.seq(…)` and precedes a chunk's number, packed."""

_DATETIME = 1  # the msgpack ext type of a datetime: a packed float of epoch seconds

pack_value = msgpack_value


def _ext(code: int, data: bytes) -> object:
    if code == _DATETIME:
        return datetime.fromtimestamp(msgpack.unpackb(data), UTC)
    return msgpack.ExtType(code, data)


def unpack_value(value: bytes) -> Any:
    """The inverse of `pack_value`. Raises ValueError on bytes that are no msgpack."""
    return msgpack.unpackb(value, ext_hook=_ext, strict_map_key=False)


class Keys:
    """The packers, bound to a store's directories."""

    def __init__(self, store: Directories) -> None:
        self.are_shared = store.is_shared
        """Whether others write the store, too."""
        self.runs = store.directory(("data", "runs"))
        self.indexes = store.directory(("data", "indexes"))
        self.system = store.directory(("system",))
        self._layout = pack(("layout",), self.system)
        self._control_events = pack(("control_events",), self.system)
        self._dead_letters = pack(("dead_letters",), self.system)

    # --- R: one run's data ---

    def run_range(self, run: str) -> tuple[bytes, bytes]:
        return range_of(pack((run,), self.runs))

    def meta(self, run: str, field: str) -> bytes:
        return pack((run, "meta", field, LEAF), self.runs)

    def meta_prefix(self, run: str) -> bytes:
        return pack((run, "meta"), self.runs)

    def attrs(self, run: str, *path: str | int) -> bytes:
        """The root of a tree; see trees.py for what stands under it."""
        return pack((run, "attrs", *path), self.runs)

    def context(self, run: str, ctx: int) -> bytes:
        return pack((run, "contexts", ctx), self.runs)

    def contexts_prefix(self, run: str) -> bytes:
        return pack((run, "contexts"), self.runs)

    def trace(self, run: str, ctx: int, name: str, field: str) -> bytes:
        return pack((run, "traces", ctx, name, field), self.runs)

    def traces_prefix(self, run: str, *ctx_and_name: int | str) -> bytes:
        """Of all sequences, of those in a context, or of one."""
        return pack((run, "traces", *ctx_and_name), self.runs)

    def seq(self, run: str, ctx: int, name: str) -> bytes:
        """What the keys of a sequence's points start with."""
        return pack((run, "seqs", ctx, name), self.runs)

    def seqs_prefix(self, run: str) -> bytes:
        """Of the points of all sequences."""
        return pack((run, "seqs"), self.runs)

    def parts(self, run: str, ctx: int, name: str) -> bytes:
        """What (step, i) follows for the parts of a sequence's large objects."""
        return pack((run, "parts", ctx, name), self.runs)

    def run_tag(self, run: str, tag: str) -> bytes:
        return pack((run, "tags", tag), self.runs)

    def run_tags_prefix(self, run: str) -> bytes:
        return pack((run, "tags"), self.runs)

    # --- I: indexes ---

    def index(self, *forward: object) -> bytes:
        """A forward index key, or what a range of them starts with."""
        return pack(forward, self.indexes)

    def reverse_index(self, run: str, *forward: object) -> bytes:
        """The twin of the forward key, by which deleting a run finds it."""
        return pack(("_rev", run, *forward), self.indexes)

    def reverse_index_prefix(self, run: str) -> bytes:
        return pack(("_rev", run), self.indexes)

    def tombstone(self, run: str) -> bytes:
        return pack(("_deleted", run), self.indexes)

    def tombstones_prefix(self) -> bytes:
        return pack(("_deleted",), self.indexes)

    # --- S: entities, jobs, the log's offsets ---

    def experiment(self, uuid: str, *field: str) -> bytes:
        """One field; without one what all of them start with."""
        return pack(("experiments", uuid, *field), self.system)

    def entities_prefix(self, family: str) -> bytes:
        """Of all "experiments", or "tags"."""
        return pack((family,), self.system)

    def experiment_by_name(self, name: str) -> bytes:
        return pack(("experiments_by_name", name), self.system)

    def experiment_run(self, uuid: str, *run: str) -> bytes:
        return pack(("experiment_runs", uuid, *run), self.system)

    def experiment_of_run(self, run: str) -> bytes:
        return pack(("run_experiment", run), self.system)

    def tag(self, uuid: str, *field: str) -> bytes:
        """One field; without one what all of them start with."""
        return pack(("tags", uuid, *field), self.system)

    def tag_by_name(self, name: str) -> bytes:
        return pack(("tags_by_name", name), self.system)

    def tag_run(self, uuid: str, *run: str) -> bytes:
        return pack(("tag_runs", uuid, *run), self.system)

    def tag_of_run(self, run: str, *uuid: str) -> bytes:
        return pack(("run_tags", run, *uuid), self.system)

    def document(self, family: str, *id_and_field: str) -> bytes:
        """One field; without one what those of a document, or of all of a family, start with."""
        return pack((family, *id_and_field), self.system)

    def project(self) -> bytes:
        """The root of a tree."""
        return pack(("project",), self.system)

    def pinned_sequences(self) -> bytes:
        return pack(("pinned_sequences", LEAF), self.system)

    def owed_count(self, *place: str) -> bytes:
        """Run, family and uuid; what a part of them starts with."""
        return pack(("counts_owed", *place), self.system)

    def owed_deletion(self, *run: str) -> bytes:
        return pack(("deletion_owed", *run), self.system)

    def job_lock(self, job: str) -> bytes:
        return pack(("job_lock", job), self.system)

    def job_lock_owner(self, job: str) -> bytes:
        return pack(("job_lock_owner", job), self.system)

    def activity(self, run: str) -> bytes:
        return pack(("activity", run), self.system)

    def owner(self, run: str) -> bytes:
        return pack(("owner", run), self.system)

    def shape(self, *run: str) -> bytes:
        """One run's; without it what all of them start with."""
        return pack(("shape", *run), self.system)

    def ingest(self, topic_id: str, partition: int) -> bytes:
        return pack(("ingest", topic_id, partition), self.system)

    def ingest_prefix(self, *topic_id: str) -> bytes:
        return pack(("ingest", *topic_id), self.system)

    def dropped(self, topic_id: str, *partition: int) -> bytes:
        """One partition's; without it what those of a topic start with."""
        return pack(("dropped", topic_id, *partition), self.system)

    def store(self) -> bytes:
        return pack(("store",), self.system)

    def compacted(self) -> bytes:
        return pack(("compacted",), self.system)

    def webhook_event(self, webhook: str, n: int) -> bytes:
        return pack(("webhook_events", webhook, n), self.system)

    def webhook_events_prefix(self, *webhook: str) -> bytes:
        """Of one webhook, or of all."""
        return pack(("webhook_events", *webhook), self.system)

    def layout(self) -> bytes:
        return self._layout

    def control_event(self, n: int) -> bytes:
        return key_int(self._control_events, n)

    def control_events_prefix(self) -> bytes:
        return self._control_events

    def dead_letter(self, n: int) -> bytes:
        return key_int(self._dead_letters, n)

    def dead_letters_prefix(self) -> bytes:
        return self._dead_letters
