"""What each kind of record does to a transaction: one function per kind, in one table at the end.

A record's effect depends on the record and on the store alone (no clock, no random number), so that a batch
applied twice writes the same bytes. No broker and no commit here; caches change in `Rules.committed`, never
before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from matyan import readable
from matyan._codec import (
    BLOBS,
    LINES,
    LOG_RECORDS,
    MetricPoints,
    Record,
    context_id,
    context_text,
    epoch_number,
    parse_timestamp,
)
from matyan.broker.base import ControlEvent
from matyan.errors import InvalidRecord
from matyan.keys import Keys
from matyan.rules import contexts, counts, entities, indexes, runs, shapes, trees
from matyan.rules.limits import Limited
from matyan.rules.rows import RunRows
from matyan.rules.sequences import Entry, Sequences
from matyan.store.base import Transaction

Op = MetricPoints | Record

ACTIVITY_S: Final = 60.0
"""The activity row is written again when it is this much older than the run's last record."""

HPARAMS: Final = "hparams"

NO_CONTEXT: Final = "{}"
"""The canonical text of the empty context."""

MOST_MET: Final = 10_000
"""Experiments and tags whose uuids are kept."""

MAX_RUN_BYTES: Final = 512
"""Of a run id: frontiers take 128, but other programs write records too, and each key holds one."""


class Rules:
    """The rules for one owner of a partition; remembers what it has committed, and nothing else.

    What it remembers of a run is right only while this owner is the only one that writes it. Another partition's writes
    show in the run's owner row, another owner's of the same partition do not: another assignment needs another Rules
    (and Sequences).
    """

    def __init__(self, keys: Keys, sequences: Sequences, *, remembered_runs: int = 20_000) -> None:
        self.keys = keys
        self.sequences = sequences
        self._remembered_runs = remembered_runs
        # Runs that exist -> their stored activity; the one used longest ago first.
        self._activity: dict[str, float] = {}
        self.contexts = contexts.Remembered()
        """The ids of contexts that are known to be stored."""
        self.met: dict[tuple[str, str], str] = {}
        """The uuid that an experiment or a tag had last, by family and name: a hint of what will be read, no more."""

    def begin(self, tr: Transaction, owner: str) -> Unit:
        """The work of one transaction. `owner`: whose records it applies, "topic_id/partition"."""
        return Unit(self, tr, owner)

    def committed(self, unit: Unit) -> None:
        """`unit`'s transaction is durable: from now on its outcome may be remembered."""
        assert unit.is_ended
        self.sequences.committed(unit.sequences)
        for run, ids in unit.contexts.items():
            self.contexts.add(run, ids)
        for run, activity in unit.activity.items():
            if activity is None:
                self.forget(run)
            else:
                self._activity.pop(run, None)
                self._activity[run] = activity
        while len(self._activity) > self._remembered_runs:
            del self._activity[next(iter(self._activity))]

    def forget(self, run: str) -> None:
        """All that is remembered of a run."""
        self._activity.pop(run, None)
        self.contexts.forget(run)
        self.sequences.forget_run(run)

    def remembered(self, run: str) -> float | None:
        """The activity of a run that is known to exist."""
        return self._activity.get(run)


class Dropped(NamedTuple):
    """What a unit did not apply of a run, since the run was deleted."""

    first: int
    """Index in the batch of the first such record; all of the run that come after it were dropped, too."""
    records: int


class Unit:
    """Applies records, in the log's order, to one transaction."""

    def __init__(self, rules: Rules, tr: Transaction, owner: str) -> None:
        self._rules = rules
        self._owner = owner
        self.tr: Transaction = Limited(tr)
        self.sequences = rules.sequences.begin(tr)
        self.applied: dict[str, int] = {}
        """Records by kind."""
        self.dropped = 0
        """Records of deleted runs."""
        self.rows: dict[str, RunRows[Transaction]] = {}
        """Of each run that this unit met."""
        self.deleted: dict[str, Dropped] = {}
        """What was dropped of each deleted run."""
        self.activity: dict[str, float | None] = {}
        """Each run that this unit met: its stored activity, or None when it is deleted."""
        self.contexts: dict[str, dict[str, int]] = {}
        """The ids of contexts that this unit found or made, by run and canonical text."""
        self._reshaped_by: dict[str, int] = {}
        """How much the sums of the sequences have changed, by run."""
        self._reparamed: set[str] = set()

    def apply(self, op: Op) -> None:
        """Applies one item of `decode_records`.

        Raises:
            InvalidRecord: it can never be applied; the transaction is to be rolled back.
        """
        for _ in self.applying(op):
            pass

    def applying(self, op: Op) -> Iterable[None]:
        """`apply`, of which most is done at once: what is left pauses wherever others may have a turn."""
        if isinstance(op, MetricPoints):
            self._apply_points(op)
            return ()
        return self._apply_record(op)

    def _apply_points(self, op: MetricPoints) -> None:
        count = len(op.columns)
        rows = self._admit(op.run, op.timestamp, op.last_timestamp)
        if rows is None:
            self._drop(op.run, op.first, count)
            return
        ctx = self._known_context(op.run, op.context_text)
        if ctx is None:
            context = json.loads(op.context)
            ctx = self._find_context(rows, op.context_text, op.ctx, context)
        if self.sequences.append_points(op.run, ctx, op.name, op.dtype, op.columns):
            indexes.put(rows, "trace", op.name)
        if self.sequences.retyped:
            self._reshaped(op.run, op.context_text)
        self._applied("log_metric", count)

    def _apply_record(self, op: Record) -> Iterable[None]:
        rule = KINDS.get(op.kind)
        if rule is None:
            raise InvalidRecord(f"type: {op.kind!r} is no kind of record")
        # A deletion is repeated rather than dropped: it is idempotent, and the events of a batch are then
        # known without the store.
        rows: RunRows[Transaction] | None
        if rule is delete_run:
            _check_run(op.run)
            rows = RunRows(self.tr, self._rules.keys, op.run)
        else:
            rows = self._admit(op.run, op.timestamp, op.timestamp)
        if rows is None:
            self._drop(op.run, op.index, 1)
            return ()
        self._applied(op.kind, 1)
        return rule(self, rows, op) or ()

    def _drop(self, run: str, index: int, count: int) -> None:
        self.dropped += count
        before = self.deleted.get(run)
        if before is not None:
            index, count = min(index, before.first), count + before.records
        self.deleted[run] = Dropped(index, count)

    def _applied(self, kind: str, count: int) -> None:
        self.applied[kind] = self.applied.get(kind, 0) + count

    def _admit(self, run: str, first: float, last: float) -> RunRows[Transaction] | None:
        """The rows of a run that takes records, which is made on demand, and its activity noted; None: it was deleted."""
        rows = self.rows.get(run) or self._meet(run, first)
        activity = self.activity[run]
        if activity is None:
            return None
        if last >= activity + ACTIVITY_S:
            runs.put_activity(rows, last)
            self.activity[run] = last
        return rows

    def _meet(self, run: str, now: float) -> RunRows[Transaction]:
        """A run that this unit has not met: its rows, and its activity."""
        remembered = self._rules.remembered(run)
        if remembered is None:
            _check_run(run)
        rows = RunRows(self.tr, self._rules.keys, run)
        # Read in the transaction whatever is remembered: it is what makes a deletion by another owner conflict.
        if runs.is_deleted(rows):
            self.activity[run] = None
        else:
            self.activity[run] = self._activity(rows, now, remembered)
        self.rows[run] = rows
        return rows

    def _activity(self, rows: RunRows[Transaction], now: float, remembered: float | None) -> float:
        """The run's stored activity; made when it does not exist."""
        if runs.put_owner(rows, self._owner):
            # Another partition's records may have been applied: whatever is remembered counts no more.
            self.forget(rows.run)
        elif remembered is not None:
            return remembered
        if runs.exists(rows):
            activity = runs.get_activity(rows)
            return float("-inf") if activity is None else activity
        runs.create(rows, now)
        return now

    def append_object(
        self,
        rows: RunRows[Transaction],
        name: str,
        context: dict[str, Any] | None,
        dtype: str,
        entry: Entry,
    ) -> None:
        """Appends to a sequence that holds no metric."""
        text = context_text(context)
        ctx = self._context(rows, text, context)
        if self.sequences.append_object(rows.run, ctx, name, dtype, entry):
            indexes.put(rows, "trace", name)
        if self.sequences.retyped:
            self._reshaped(rows.run, text)

    def append_line(self, rows: RunRows[Transaction], line: str, sent: int, time: float) -> None:
        """Appends a terminal line; `sent`: the step that it was sent with."""
        self._context(rows, NO_CONTEXT, None)
        if self.sequences.append_line(rows.run, line, sent, time):
            indexes.put(rows, "trace", LINES)
        if self.sequences.retyped:
            self._reshaped(rows.run, NO_CONTEXT)

    def reparam(self, run: str) -> None:
        """The names of the run's parameters may have changed."""
        self._reparamed.add(run)

    def _reshaped(self, run: str, context: str) -> None:
        """The sequences that were written last and are new, or of another dtype."""
        for name, before, dtype in self.sequences.retyped:
            added = shapes.sequence(dtype, name, context)
            if before is not None:
                added -= shapes.sequence(before, name, context)
            self._reshaped_by[run] = self._reshaped_by.get(run, 0) + added
        self.sequences.retyped.clear()

    def ending(self) -> Iterator[None]:
        """What is done once for all that was applied, at the end: brings the shapes of the runs up to date."""
        for run in {*self._reshaped_by, *self._reparamed}:
            rows = self.rows[run]
            # A run that was deleted has no shape; of one whose shape is not known, no change makes it known.
            shape = None if self.activity[run] is None else shapes.read(rows)
            if shape is None:
                continue
            after = shapes.changed(shape, self._reshaped_by.get(run, 0))
            if run in self._reparamed:
                after = after._replace(params=(yield from shapes.summing_params(rows)))
            if after != shape:
                shapes.put(rows, after)
            yield
        self._reshaped_by.clear()
        self._reparamed.clear()

    @property
    def is_ended(self) -> bool:
        """Whether nothing is left for `ending`."""
        return not (self._reshaped_by or self._reparamed)

    def _context(
        self, rows: RunRows[Transaction], text: str, context: dict[str, Any] | None
    ) -> int:
        """The id of a context; it is stored when it is new."""
        ctx = self._known_context(rows.run, text)
        if ctx is None:
            ctx = self._find_context(rows, text, context_id(context), context or {})
        return ctx

    def _known_context(self, run: str, text: str) -> int | None:
        ctx = self._rules.contexts.get(run, text)
        if ctx is None and run in self.contexts:
            ctx = self.contexts[run].get(text)
        return ctx

    def _find_context(
        self, rows: RunRows[Transaction], text: str, first: int, context: object
    ) -> int:
        ctx = contexts.find_or_create(rows, text, first, context)
        self.contexts.setdefault(rows.run, {})[text] = ctx
        return ctx

    def met(self, family: str, name: str, uuid: str) -> str:
        """The uuid of an experiment or a tag, which is kept as a hint."""
        if len(self._rules.met) >= MOST_MET:
            self._rules.met.clear()
        self._rules.met[family, name] = uuid
        return uuid

    def forget(self, run: str) -> None:
        """What was remembered of this run counts no more, from here on."""
        self._rules.forget(run)
        self.sequences.forget_run(run)
        self.contexts.pop(run, None)
        self._reshaped_by.pop(run, None)
        self._reparamed.discard(run)


def _check_run(run: str) -> None:
    if not run or len(run.encode()) > MAX_RUN_BYTES:
        raise InvalidRecord(f"run_id: expected 1 to {MAX_RUN_BYTES} bytes")


def event_of(record: Record, *, told: bool = False) -> ControlEvent | None:
    """The control event that applying `record` causes, whatever the store holds.

    Args:
        told: somebody is told of runs that end or are archived, too (`workers/webhooks.py`); nothing else follows from that.

    Raises:
        InvalidRecord: it can never be applied.
    """
    named: dict[str, object] = {"run_id": record.run}
    if record.kind == "delete_run":
        _check_run(record.run)
        return ControlEvent("run_deleted", record.timestamp, named)
    if not told:
        return None
    if record.kind == "finish_run":
        _check_run(record.run)
        _time(record)
        ended = "run_stale" if record.payload.get("stale") is True else "run_finished"
        return ControlEvent(ended, record.timestamp, named)
    if record.kind == "set_run_property":
        archived = _field(record, "archived", bool, default=None)
        if archived is not None:
            _check_run(record.run)
            return archival(record.run, archived, record.timestamp)
    return None


def archival(run: str, archived: bool, now: float) -> ControlEvent:
    """run_archived or run_unarchived. now: epoch seconds."""
    kind = "run_archived" if archived else "run_unarchived"
    return ControlEvent(kind, now, {"run_id": run, "archived": archived})


# --- payloads -------------------------------------------------------------------------------------

_REQUIRED = object()


def _field(record: Record, name: str, *types: type, default: Any = _REQUIRED) -> Any:
    """A payload's member of exactly one of `types` (a bool is no int); null counts as not there."""
    value = record.payload.get(name)
    if value is None and default is not _REQUIRED:
        return default
    if type(value) not in types:
        expected = " or ".join(kind.__name__ for kind in types)
        raise InvalidRecord(f"{record.kind}: {name}: expected {expected}")
    return value


def _int64(record: Record, name: str, default: Any = _REQUIRED) -> Any:
    """A payload's member that is an integer in int64: what a step's key and a column hold."""
    value = _field(record, name, int, default=default)
    if value is not None and not readable.is_int64(value):
        raise InvalidRecord(f"{record.kind}: {name}: out of the range of int64")
    return value


def _epoch(record: Record) -> int | float | None:
    """An integer, a fraction, or null."""
    try:
        return epoch_number(_field(record, "epoch", int, float, default=None))
    except OverflowError as error:
        raise InvalidRecord(f"{record.kind}: epoch: {error}") from None


def _time(record: Record) -> float:
    """client_datetime, else the record's timestamp."""
    text = _field(record, "client_datetime", str, default=None)
    if text is None:
        return record.timestamp
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise InvalidRecord(f"{record.kind}: client_datetime: {error}") from None


# --- one function per kind ------------------------------------------------------------------------


def create_run(unit: Unit, rows: RunRows[Transaction], record: Record) -> None:
    # A new run was made on the way here and starts the same way as one that is taken up again.
    started = _time(record)
    fields: dict[str, object] = {"active": True, "finalized_at": None, "duration": None}
    if runs.get_meta(rows, "client_start_ts") is None:
        fields["client_start_ts"] = started
    runs.put_meta(rows, record.timestamp, fields)
    unit.sequences.begin_session(record.run)


def finish_run(unit: Unit, rows: RunRows[Transaction], record: Record) -> None:
    started = runs.get_meta(rows, "client_start_ts")
    created = runs.get_meta(rows, "created_at")
    if started is None:
        duration, finalized = None, record.timestamp
    else:
        duration = max(0.0, _time(record) - started)
        finalized = created + duration
    fields = {"active": False, "duration": duration, "finalized_at": finalized}
    runs.put_meta(rows, record.timestamp, fields)


def set_run_property(unit: Unit, rows: RunRows[Transaction], record: Record) -> None:
    fields = {
        "name": _field(record, "name", str, default=None),
        "description": _field(record, "description", str, default=None),
        "is_archived": _field(record, "archived", bool, default=None),
    }
    experiment = _field(record, "experiment", str, default=None)
    if experiment is not None:
        uuid = entities.set_experiment(rows, experiment, record.timestamp)
        fields["experiment_id"] = unit.met(entities.EXPERIMENTS, experiment, uuid)
    given = {field: value for field, value in fields.items() if value is not None}
    runs.put_meta(rows, record.timestamp, given)


def add_tag(unit: Unit, rows: RunRows[Transaction], record: Record) -> None:
    name = _field(record, "tag_name", str)
    unit.met(entities.TAGS, name, entities.add_tag(rows, name, record.timestamp))


def remove_tag(unit: Unit, rows: RunRows[Transaction], record: Record) -> None:
    entities.remove_tag(rows, _field(record, "tag_name", str))


def log_hparams(unit: Unit, rows: RunRows[Transaction], record: Record) -> Iterator[None]:
    value = _field(record, "value", dict)
    attrs = rows.keys.attrs(record.run)
    if len(value) == 1:
        # What lies below the single keys is replaced, and nothing beside it.
        path, subtree = _single(value)
        yield from trees.replacing(rows.tr, attrs, path, subtree)
        if path[0] == HPARAMS:
            yield from _index_hparams(rows, path[1:], subtree)
    else:
        yield from trees.replacing_each(rows.tr, attrs, value)
        if HPARAMS in value:
            yield from _index_hparams(rows, (), value[HPARAMS])
    unit.reparam(record.run)
    runs.put_meta(rows, record.timestamp, {})


def _single(value: dict[str, Any]) -> tuple[tuple[str, ...], Any]:
    """The keys from the top down, as long as each is the only one of its object, and what lies below them."""
    path: tuple[str, ...] = ()
    subtree: Any = value
    while isinstance(subtree, dict) and len(subtree) == 1:
        [(name, subtree)] = subtree.items()
        path = (*path, name)
    return path, subtree


def _index_hparams(
    rows: RunRows[Transaction], path: tuple[str, ...], subtree: Any
) -> Iterator[None]:
    """`subtree` was put at `path` below hparams: the index of its top-level scalars follows."""
    top = {path[0]: subtree} if len(path) == 1 else subtree if not path else {}
    facts = (
        ("hparam", name, value)
        for name, value in (top.items() if isinstance(top, dict) else ())
        # A text too long for a key stands among the attributes only.
        if isinstance(value, str | int | float) and indexes.fits(rows, "hparam", name, value)
    )
    yield from indexes.replacing_all(rows, ("hparam", *path[:1]), facts)


def blob_ref(unit: Unit, rows: RunRows[Transaction], record: Record) -> None:
    path = _field(record, "artifact_path", str)
    value = {
        "s3_key": _field(record, "s3_key", str),
        "content_type": _field(record, "content_type", str, default="application/octet-stream"),
    }
    trees.replace(rows.tr, rows.keys.attrs(record.run), (BLOBS, path), value)
    runs.put_meta(rows, record.timestamp, {})


def log_custom_object(unit: Unit, rows: RunRows[Transaction], record: Record) -> None:
    name = _field(record, "name", str)
    context = _field(record, "context", dict, default=None)
    dtype = _field(record, "dtype", str, default="custom")
    step, epoch = _int64(record, "step", None), _epoch(record)
    entry = Entry(step, epoch, _time(record), _field(record, "value", dict))
    unit.append_object(rows, name, context, dtype, entry)


def log_terminal_line(unit: Unit, rows: RunRows[Transaction], record: Record) -> None:
    line, step = _field(record, "line", str), _int64(record, "step")
    unit.append_line(rows, line, step, record.timestamp)


def log_record(unit: Unit, rows: RunRows[Transaction], record: Record) -> None:
    value = {
        "message": _field(record, "message", str),
        "log_level": _int64(record, "level"),
        "timestamp": float(_field(record, "timestamp", int, float)),
        "args": _field(record, "extra_args", dict, default=None),
        "logger_info": _field(record, "logger_info", list, default=None),
    }
    entry = Entry(None, None, record.timestamp, value)
    unit.append_object(rows, LOG_RECORDS, None, "log_records", entry)


def delete_run(unit: Unit, rows: RunRows[Transaction], record: Record) -> Iterator[None]:
    yield from entities.forgetting_run(rows)
    yield from runs.deleting(rows, record.timestamp)
    unit.forget(record.run)
    unit.rows[record.run] = rows
    unit.activity[record.run] = None


Rule = Callable[[Unit, RunRows[Transaction], Record], Iterator[None] | None]

KINDS: Final[dict[str, Rule]] = {
    rule.__name__: rule
    for rule in (
        create_run,
        finish_run,
        set_run_property,
        add_tag,
        remove_tag,
        log_hparams,
        blob_ref,
        log_custom_object,
        log_terminal_line,
        log_record,
        delete_run,
    )
}
"""Every kind but log_metric, whose records come gathered as MetricPoints. One whose work grows with what the record or the
store holds pauses in it."""

OWING: Final = frozenset({"set_run_property", "add_tag", "remove_tag", "delete_run"})
"""The kinds that may leave something to `pay` in a store that is shared."""


def pay(tr: Transaction, keys: Keys) -> bool:
    """Does a part of what batches have left to do, whoever's they were; returns whether there may be more. It may run twice."""
    owes_counts = counts.fold(tr, keys)
    return runs.go_on_deleting(tr, keys) or owes_counts
