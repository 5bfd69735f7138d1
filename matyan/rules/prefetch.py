"""What a batch will read, said before its first record is applied: an engine whose reads take a round trip each then makes
them together.

It says nothing where everything is remembered, and it may say too much or too little: what is not said is read when a
rule comes to it. So it decides nothing, writes nothing, and passes over what no rule would take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from matyan._codec import (
    LINES,
    LOG_RECORDS,
    MAX_KEY_BYTES,
    MetricPoints,
    Record,
    context_id,
    context_text,
)
from matyan.keys import Keys, range_of
from matyan.rules import runs
from matyan.rules.contexts import EMPTY
from matyan.rules.entities import EXPERIMENTS, TAGS
from matyan.rules.records import HPARAMS, Op, Rules
from matyan.store.base import Range, Transaction


def prefetch(tr: Transaction, rules: Rules, ops: Iterable[Op]) -> None:
    """Says to `tr` what applying `ops` will read."""
    reads = _Reads(rules)
    for op in ops:
        # A text that no key can hold is the affair of its rule.
        with suppress(UnicodeEncodeError):
            reads.of(op)
    tr.prefetch(
        [key for key in reads.keys if len(key) <= MAX_KEY_BYTES],
        [one for one in reads.ranges if len(one.end) <= MAX_KEY_BYTES],
    )


class _Reads:
    """Keys and ranges, each once, in the order in which they are first wanted."""

    def __init__(self, rules: Rules) -> None:
        self.keys: dict[bytes, None] = {}
        self.ranges: dict[Range, None] = {}
        self._rules = rules
        self._pack = rules.keys
        self._runs: set[str] = set()
        self._sequences: set[tuple[str, str, str]] = set()

    def of(self, op: Op) -> None:
        if op.run not in self._runs:
            self._runs.add(op.run)
            self.want(*runs.admission_keys(self._pack, op.run, self._rules.remembered(op.run)))
        if isinstance(op, MetricPoints):
            self.sequence(op.run, op.context_text, op.ctx, op.name)
        elif (kind := _KINDS.get(op.kind)) is not None:
            kind(self, self._pack, op)

    def want(self, *keys: bytes) -> None:
        self.keys.update(dict.fromkeys(keys))

    def want_owed(self, run: str) -> None:
        if self._pack.are_shared:
            self.want_below(self._pack.owed_count(run))

    def met(self, family: str, name: str) -> str | None:
        return self._rules.met.get((family, name))

    def want_below(self, prefix: bytes) -> None:
        self.ranges[Range(*range_of(prefix))] = None

    def sequence(
        self, run: str, text: str, first: int, name: str, *, entries: bool = False
    ) -> None:
        """A sequence in the context `text`, which `first` is the preferred id of; `entries`: what can stand in parts."""
        if (run, text, name) in self._sequences:
            return
        self._sequences.add((run, text, name))
        ctx = self._rules.contexts.get(run, text)
        if ctx is None:
            # Where it stands, unless another one has taken that place.
            ctx = EMPTY if text == "{}" else first or 1
            self.want(self._pack.context(run, ctx))
        if known := self._rules.sequences.prefetched(run, ctx, name, entries=entries):
            self.ranges.update(dict.fromkeys(known))
            self.want(self._pack.shape(run))


# --- one function per kind, as in records.py --------------------------------------------------------


def _create_run(reads: _Reads, keys: Keys, record: Record) -> None:
    reads.want(keys.meta(record.run, "client_start_ts"))


def _finish_run(reads: _Reads, keys: Keys, record: Record) -> None:
    reads.want(keys.meta(record.run, "client_start_ts"), keys.meta(record.run, "created_at"))


def _set_run_property(reads: _Reads, keys: Keys, record: Record) -> None:
    if isinstance(name := record.payload.get("experiment"), str):
        reads.want(keys.experiment_by_name(name), keys.experiment_of_run(record.run))
        if (uuid := reads.met(EXPERIMENTS, name)) is not None:
            reads.want(keys.experiment_run(uuid, record.run))
        reads.want_owed(record.run)


def _tag(reads: _Reads, keys: Keys, record: Record) -> None:
    if isinstance(name := record.payload.get("tag_name"), str):
        reads.want(keys.tag_by_name(name))
        if (uuid := reads.met(TAGS, name)) is not None:
            reads.want(keys.tag_run(uuid, record.run))
        reads.want_owed(record.run)


def _log_hparams(reads: _Reads, keys: Keys, record: Record) -> None:
    value = record.payload.get("value")
    reads.want(keys.shape(record.run))
    reads.want_below(keys.attrs(record.run))
    if isinstance(value, dict) and HPARAMS in value:
        reads.want_below(keys.reverse_index(record.run, "hparam"))


def _log_custom_object(reads: _Reads, keys: Keys, record: Record) -> None:
    name, context = record.payload.get("name"), record.payload.get("context")
    if isinstance(name, str) and (context is None or isinstance(context, dict)):
        reads.sequence(record.run, context_text(context), context_id(context), name, entries=True)


def _in_sequence(name: str) -> Callable[[_Reads, Keys, Record], None]:
    return lambda reads, keys, record: reads.sequence(record.run, "{}", EMPTY, name, entries=True)


def _delete_run(reads: _Reads, keys: Keys, record: Record) -> None:
    reads.want(keys.experiment_of_run(record.run))
    reads.want_below(keys.tag_of_run(record.run))
    reads.want_below(keys.reverse_index(record.run))
    reads.want_owed(record.run)


_KINDS: Final[dict[str, Callable[[_Reads, Keys, Record], Any]]] = {
    "create_run": _create_run,
    "finish_run": _finish_run,
    "set_run_property": _set_run_property,
    "add_tag": _tag,
    "remove_tag": _tag,
    "log_hparams": _log_hparams,
    "log_custom_object": _log_custom_object,
    "log_terminal_line": _in_sequence(LINES),
    "log_record": _in_sequence(LOG_RECORDS),
    "delete_run": _delete_run,
}
