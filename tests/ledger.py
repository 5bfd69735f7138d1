"""Records as the frontier writes them, applied to a store in memory: what the tests of the rules share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from matyan._codec import Malformed, context_text, decode_records, unpack
from matyan.keys import Keys, unpack_value
from matyan.rules import contexts, entities, runs, trees
from matyan.rules.prefetch import prefetch
from matyan.rules.records import Rules, Unit, pay
from matyan.rules.rows import RunRows
from matyan.rules.sequences import Growth, Layout, SequenceInfo, Sequences
from matyan.store.base import exhausted
from tests.memory_store import MemoryStore

T0 = 1_700_000_000.0
"""The time of the first record, epoch seconds."""


def moment(seconds: float) -> str:
    """A timestamp `seconds` after T0."""
    return datetime.fromtimestamp(T0 + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def record(kind: str, run: str = "r", at: float = 0.0, **payload: Any) -> bytes:
    """A broker record, `at` seconds after T0."""
    return json.dumps(
        {"type": kind, "run_id": run, "timestamp": moment(at), "payload": payload}
    ).encode()


def metric(
    name: str, value: float, step: int | None, run: str = "r", at: float = 0.0, **more: Any
) -> bytes:
    payload = {
        "epoch": None,
        "context": None,
        "dtype": "float",
        "client_datetime": moment(at),
        **more,
    }
    return record("log_metric", run, at, name=name, value=value, step=step, **payload)


class Ledger:
    """A store, its rules, and what a reader sees.

    store: one of those that `make_store` makes, or another of their kind.
    """

    make_store: ClassVar[Callable[[], Any]] = MemoryStore
    """Makes the stores to come: each has `commit`, `look` and `rows`."""

    pays: ClassVar[bool] = False
    """Whether what a batch owes is paid behind it, as a worker does it: where a store is shared."""

    def __init__(
        self,
        layout: Layout = "packed",
        growth: Growth | None = None,
        store: Any = None,
    ) -> None:
        self.store = store or self.make_store()
        self.keys = Keys(self.store)
        self.layout: Layout = layout
        self.growth = growth
        self.rules = self.make_rules()

    def make_rules(self) -> Rules:
        return Rules(self.keys, Sequences(self.keys, self.layout, growth=self.growth))

    def apply(self, *values: bytes, rules: Rules | None = None, owner: str = "T/0") -> Unit:
        """Applies the records in one transaction of `owner`, whose rules are `rules`."""
        rules = rules or self.rules

        def body(tr: Any) -> Unit:
            ops = []
            for op in decode_records(values):
                assert not isinstance(op, Malformed), op.reason
                ops.append(op)
            if tr.prefetches:
                prefetch(tr, rules, ops)
            unit = rules.begin(tr, owner)
            for op in ops:
                unit.apply(op)
            exhausted(unit.ending())
            return unit

        unit = self.store.commit(body)
        rules.committed(unit)
        while self.pays and self.store.commit(lambda tr: pay(tr, self.keys)):
            pass
        return unit

    def apply_split(self, values: Sequence[bytes], cuts: Iterable[int]) -> None:
        begin = 0
        for end in [*sorted(cuts), len(values)]:
            self.apply(*values[begin:end])
            begin = end

    # --- the store as a whole ---

    def dump(self) -> dict[tuple[str, bytes], bytes]:
        """Its rows without the prefixes of its directories, which no two stores of one cluster share."""
        return {
            (space, key[len(prefix) :]): value
            for key, value in self.store.rows.items()
            for space, prefix in self._spaces()
            if key.startswith(prefix)
        }

    def restore(self, dumped: Mapping[tuple[str, bytes], bytes]) -> None:
        """Has these rows and no other."""
        prefixes = dict(self._spaces())
        self.store.rows = {prefixes[space] + key: value for (space, key), value in dumped.items()}

    def _spaces(self) -> list[tuple[str, bytes]]:
        keys = self.keys
        return [("runs", keys.runs), ("indexes", keys.indexes), ("system", keys.system)]

    # --- what a reader sees ---

    def rows(self, snap: Any, run: str) -> RunRows[Any]:
        return RunRows(snap, self.keys, run)

    def meta(self, run: str = "r") -> dict[str, Any]:
        return self.store.look(lambda snap: runs.read_meta(self.rows(snap, run)))

    def attrs(self, run: str = "r") -> Any:
        found = self.store.look(lambda snap: trees.read(snap, self.keys.attrs(run)))
        return {} if found is trees.MISSING else found

    def facts(self, run: str = "r") -> set[tuple[Any, ...]]:
        """The forward index rows of a run, without the run; its twins must be the same."""
        root = len(self.keys.indexes)
        rows = {unpack(key, root) for key in self.store.rows if key.startswith(self.keys.indexes)}
        forward = {
            row[:-1] for row in rows if row[0] not in ("_rev", "_deleted") and row[-1] == run
        }
        assert {row[2:-1] for row in rows if row[:2] == ("_rev", run)} == forward
        return forward

    def tags(self, run: str = "r") -> list[str]:
        return self.store.look(lambda snap: entities.tags_of(self.rows(snap, run)))

    def experiment(self, run: str = "r") -> str | None:
        return self.store.look(lambda snap: entities.experiment_of(self.rows(snap, run)))

    def system(self, *beginning: str) -> dict[tuple[Any, ...], Any]:
        """System rows whose tuple begins so."""
        return {
            row: unpack_value(value)
            for key, value in self.store.rows.items()
            if key.startswith(self.keys.system)
            and (row := unpack(key, len(self.keys.system)))[: len(beginning)] == beginning
        }

    def counts(self, family: str) -> dict[str, int]:
        """The run_count of each experiment or tag, by name."""
        rows = self.system(family)
        return {
            value: rows[family, uuid, "run_count"]
            for (_, uuid, field), value in rows.items()
            if field == "name"
        }

    def rows_of(self, run: str) -> dict[tuple[Any, ...], Any]:
        """All R rows of a run."""
        begin, end = self.keys.run_range(run)
        root = len(self.keys.runs)
        return {
            unpack(key, root)[1:]: value
            for key, value in self.store.rows.items()
            if begin <= key < end
        }

    def context_id(self, context: object, run: str = "r") -> int:
        """The id of a context as it is stored; 0 when it is not."""
        texts = {context_text(found): ctx for ctx, found in self.contexts(run).items()}
        return texts.get(context_text(context), 0)

    def points(
        self, name: str, context: object = None, run: str = "r"
    ) -> list[tuple[int, float, float, int | None]]:
        """(step, value, time after T0, epoch) of a metric."""
        sequences = Sequences(self.keys, self.layout)
        columns = self.store.look(
            lambda snap: list(sequences.points(snap, run, self.context_id(context, run), name))
        )
        return [
            (step or 0, value, time - T0, epoch)
            for block in columns
            for step, value, time, epoch in block.rows()
        ]

    def objects(
        self, name: str, context: object = None, run: str = "r"
    ) -> list[tuple[int, int | None, float, object]]:
        sequences = Sequences(self.keys, self.layout)
        return [
            (step, epoch, time - T0, value)
            for step, epoch, time, value in self.store.look(
                lambda snap: list(sequences.objects(snap, run, self.context_id(context, run), name))
            )
        ]

    def traces(self, run: str = "r") -> list[SequenceInfo]:
        sequences = Sequences(self.keys, self.layout)
        return self.store.look(lambda snap: list(sequences.sequences(snap, run)))

    def contexts(self, run: str = "r") -> dict[int, Any]:
        return self.store.look(lambda snap: contexts.read(self.rows(snap, run)))
