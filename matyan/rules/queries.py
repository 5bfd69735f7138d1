"""Reads over a snapshot, as plain values: the rows that the CLI and `reader/` get.

No sockets, no formats for people, no writes. Every function yields as it scans, so that an answer's size
costs no memory. Only `sequences` knows what a sequence is made of.
"""

from __future__ import annotations

import difflib
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Final

from matyan import readable
from matyan._codec import BLOBS, LINES, LOG_RECORDS, Columns, context_text, pack
from matyan.errors import ConfigurationError, NotFound
from matyan.keys import Keys, range_of, unpack
from matyan.rules import contexts, entities, runs, trees
from matyan.rules.rows import RunRows
from matyan.rules.sequences import SequenceInfo, Sequences
from matyan.store.base import Range, Snapshot

Row = dict[str, Any]

_PAGE_RUNS: Final = 200
"""Whose rows are read together, where each read takes a round trip."""
_SUGGEST_FROM_RUNS: Final = 10_000
"""Near ids are looked for among so many of the newest runs."""
LOG_WINDOW_ROWS: Final = 50_000
LOG_WINDOW_BYTES: Final = 32 << 20
"""Log rows are put in order within a window of so many rows or bytes, whichever is less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs are wanted: what is None lets every run pass."""

    experiment: str | None = None
    tag: str | None = None
    active: bool | None = None
    archived: bool | None = None
    heard_before: float | None = None
    """Only active runs whose last record came before that time, in epoch seconds."""

    def indexed(self) -> list[tuple[str, bool]]:
        """The index entries that a run must have."""
        facts = [("active", self.active), ("archived", self.archived)]
        if self.heard_before is not None:
            facts.append(("active", True))
        return [(name, value) for name, value in facts if value is not None]


class Queries:
    """Every read that a user can ask for. The snapshot is the first argument of each."""

    def __init__(self, keys: Keys, sequences: Sequences) -> None:
        self._keys = keys
        self._sequences = sequences

    def _rows(self, snap: Snapshot, run: str) -> RunRows[Snapshot]:
        return RunRows(snap, self._keys, run)

    # --- runs ------------------------------------------------------------------------------------

    def runs(
        self,
        snap: Snapshot,
        *,
        limit: int | None = None,
        counts: bool = False,
        **wanted: Any,
    ) -> Iterator[Row]:
        """A row a run, newest first, of those that `RunFilter(**wanted)` lets pass. A row costs what it holds: how many sequences
        and points a run has is counted, key by key where need be, only for `counts`.

        Raises:
            TypeError: there is no such filter.
        """
        return self._listed(snap, RunFilter(**wanted), limit, counts)

    def _listed(
        self, snap: Snapshot, wanted: RunFilter, limit: int | None, counts: bool
    ) -> Iterator[Row]:
        names = entities.Names(snap, self._keys)
        passing = itertools.islice(self._passing(snap, wanted), limit)
        for run in self._with_rows(snap, passing):
            row = self._run_row(snap, run, names)
            yield row | self._counts(snap, run) if counts else row

    def _with_rows(self, snap: Snapshot, found: Iterator[str]) -> Iterator[str]:
        """The runs, and what `_run_row` reads of each page of them said before."""
        if not snap.prefetches:
            yield from found
            return
        keys = self._keys
        while page := list(itertools.islice(found, _PAGE_RUNS)):
            snap.prefetch(
                [key for run in page for key in (keys.activity(run), keys.experiment_of_run(run))],
                [
                    Range(*range_of(prefix))
                    for run in page
                    for prefix in (keys.meta_prefix(run), keys.tag_of_run(run))
                ],
            )
            # One that was deleted between two moments is no run any more.
            yield from (run for run in page if runs.exists(self._rows(snap, run)))

    def _passing(self, snap: Snapshot, wanted: RunFilter) -> Iterator[str]:
        keys = self._keys
        required: list[Callable[[str], bytes]] = [
            partial(keys.index, *fact) for fact in wanted.indexed()
        ]
        # Not by the indexes of these two: when the API server renames a tag, it leaves the index under the old name.
        for members_of, name in (
            (entities.members_of_experiment, wanted.experiment),
            (entities.members_of_tag, wanted.tag),
        ):
            if name is not None:
                member_key = members_of(snap, keys, name)
                if member_key is None:
                    return
                required.append(member_key)
        moment = wanted.heard_before
        read = required if moment is None else [*required, keys.activity]
        for run in _said(snap, runs.list_runs(snap, keys, newest_first=True), read):
            if all(snap.get(key(run)) is not None for key in required) and (
                moment is None or self._heard_before(snap, run, moment)
            ):
                yield run

    def _heard_before(self, snap: Snapshot, run: str, moment: float) -> bool:
        last = runs.get_activity(self._rows(snap, run))
        return last is not None and last < moment

    def find(self, snap: Snapshot, *, runs: list[str]) -> Iterator[Row]:
        """A row for each of these runs, or unique beginnings of ids, once."""
        names = entities.Names(snap, self._keys)
        for run in dict.fromkeys([self.resolve(snap, name) for name in runs]):
            yield self._run_row(snap, run, names)

    def _run_row(self, snap: Snapshot, run: str, names: entities.Names) -> Row:
        rows = self._rows(snap, run)
        meta = runs.read_listed(rows)
        return {
            "run": run,
            "name": meta.get("name"),
            "experiment": names.experiment_of(run),
            "tags": names.tags_of(run),
            "active": meta.get("active"),
            "archived": meta.get("is_archived"),
            "created_at": meta.get("created_at"),
            "last_record": runs.get_activity(rows),
            "duration": meta.get("duration"),
        }

    def _counts(self, snap: Snapshot, run: str) -> Row:
        sequences = points = 0
        for info in self._sequences.sequences(snap, run):
            sequences += 1
            with suppress(ConfigurationError):  # a damaged chunk
                points += self._sequences.count(snap, run, info)
        return {"sequences": sequences, "points": points}

    def resolve(self, snap: Snapshot, run: str) -> str:
        """The id of the run that is called `run`, or that alone begins with it.

        Raises:
            NotFound: none or several do; the sentence names near ones.
        """
        if runs.exists(self._rows(snap, run)):
            return run
        if run:
            begun = list(itertools.islice(self._beginning(snap, run), 4))
            if len(begun) == 1:
                return begun[0]
            if begun:
                names = ", ".join(begun[:3]) + (", …" if len(begun) > 3 else "")
                raise NotFound(f"Several runs begin with {run!r}: {names}. Give more of the id.")
        raise self._no_such(snap, run)

    def exact(self, snap: Snapshot, run: str) -> str:
        """`run`, if there is a run of this id. Whatever changes a run takes no beginning of an id: between the question and the
        change the run that was meant may have gone, and another one be the only one that begins so.

        Raises:
            NotFound: there is no such run.
        """
        if not runs.exists(self._rows(snap, run)):
            raise self._no_such(snap, run)
        return run

    def _no_such(self, snap: Snapshot, run: str) -> NotFound:
        newest = itertools.islice(
            runs.list_runs(snap, self._keys, newest_first=True), _SUGGEST_FROM_RUNS
        )
        near = difflib.get_close_matches(run, list(newest), n=3, cutoff=0.5)
        hint = f": did you mean {' or '.join(near)}?" if near else ": `matyan runs` lists them."
        return NotFound(f"There is no run {run!r}{hint}")

    def _beginning(self, snap: Snapshot, text: str) -> Iterator[str]:
        """The runs whose ids begin with `text`: one short scan each, whatever they hold."""
        # Without the end of its text element, the packed beginning of an id is what the packed ids begin with.
        begin = pack((text,), self._keys.runs)[:-1]
        end = begin + b"\xff"
        while True:
            first = next(iter(snap.scan(begin, end, limit=1)), None)
            if first is None:
                return
            try:
                run = unpack(first[0], len(self._keys.runs))[0]
            except ValueError:
                begin = first[0] + b"\x00"  # a damaged key: what follows it
                continue
            yield run
            begin = self._keys.run_range(run)[1]

    # --- one run ---------------------------------------------------------------------------------

    def show(self, snap: Snapshot, *, run: str) -> Iterator[Row]:
        """One object: run, experiment, last_record, meta, attrs, tags, contexts, sequences; and artifacts, when it has some."""
        run = self.resolve(snap, run)
        rows = self._rows(snap, run)
        stored = contexts.read(rows)
        attrs = trees.read(snap, self._keys.attrs(run))
        blobs = [*_artifacts(attrs.get(BLOBS))] if isinstance(attrs, dict) else []
        yield {
            "run": run,
            "experiment": entities.experiment_of(rows),
            "last_record": runs.get_activity(rows),
            "meta": runs.read_meta(rows),
            "attrs": attrs if isinstance(attrs, dict) else {},
            "tags": sorted(entities.tags_of(rows)),
            "contexts": list(stored.values()),
            "sequences": [
                self._shown(snap, run, info, stored)
                for info in self._sequences.sequences(snap, run)
            ],
            **({"artifacts": blobs} if blobs else {}),
        }

    def artifacts(self, snap: Snapshot, *, run: str) -> Iterator[Row]:
        """What was signed for a run: path and content_type, by path."""
        run = self.resolve(snap, run)
        yield from _artifacts(trees.read(snap, self._keys.attrs(run, BLOBS)))

    def _shown(self, snap: Snapshot, run: str, info: SequenceInfo, stored: dict[int, Row]) -> Row:
        points: int | None
        try:
            points = self._sequences.count(snap, run, info)
            last, last_step = self._sequences.last(snap, run, info)
        except ConfigurationError:
            # A damaged chunk: its other sequences can be read.
            points, last, last_step = None, info.last, info.last_step
        return {
            "name": info.name,
            "context": stored.get(info.ctx) or contexts.stand_in(info.ctx),
            "dtype": info.dtype,
            "last": last,
            "last_step": last_step,
            "points": points,
        }

    def logs(self, snap: Snapshot, *, run: str) -> Iterator[Row]:
        """Log records and terminal lines by their times, whatever order they came in: a training of several processes has
        several clocks.

        Put in order within a window of LOG_WINDOW_ROWS rows, or of LOG_WINDOW_BYTES: an answer begins at once and its memory is bounded.
        """
        run = self.resolve(snap, run)

        def rows(kind: str, name: str) -> Iterator[tuple[float, Row]]:
            for step, _, when, value in self._sequences.objects(snap, run, contexts.EMPTY, name):
                if kind == "record" and isinstance(value, dict):
                    told, level = value.get("timestamp"), value.get("log_level")
                    row: Row = {
                        "kind": kind,
                        "step": step,
                        "message": value.get("message"),
                        "level": level if readable.is_int64(level) else None,
                        "time": told if readable.is_number(told) else when,
                        "args": value.get("args"),
                        "logger_info": value.get("logger_info"),
                    }
                else:
                    row = {
                        "kind": kind,
                        "step": step,
                        "message": value,
                        "level": None,
                        "time": when,
                    }
                # A NaN has no place in an order of times: the time at which the record came stands in for it.
                yield next((at for at in (row["time"], when) if not math.isnan(at)), 0.0), row

        yield from _in_order(
            heapq.merge(rows("record", LOG_RECORDS), rows("line", LINES), key=itemgetter(0))
        )
        self._must_still_be(snap, run)

    def export(
        self,
        snap: Snapshot,
        *,
        run: str,
        name: str | None = None,
        context: Row | None = None,
    ) -> Iterator[Row]:
        """All sequences of a run, or those called `name` (in `context`): blocks of columns, or of objects.

        Raises:
            ConfigurationError: some points cannot be read; all others were yielded before.
        """
        run = self.resolve(snap, run)
        # Compared as texts: for Python {"x": 1} is {"x": True} too, and a NaN is never the same.
        wanted = None if context is None else context_text(context)
        stored = contexts.read(self._rows(snap, run))
        damage: ConfigurationError | None = None
        for info in self._sequences.sequences(snap, run):
            here = stored.get(info.ctx) or contexts.stand_in(info.ctx)
            if name not in (None, info.name) or wanted not in (None, context_text(here)):
                continue
            head: Row = {"name": info.name, "context": here, "dtype": info.dtype}
            for blocks in self._points(snap, run, info, head), self._objects(snap, run, info, head):
                try:
                    yield from blocks
                except ConfigurationError as error:
                    damage = error
        self._must_still_be(snap, run)
        if damage is not None:
            raise damage

    def _must_still_be(self, snap: Snapshot, run: str) -> None:
        """
        Raises:
            NotFound: the run was deleted at one of the moments that were read: some of it may be missing.
        """
        if next(iter(snap.scan(*self._keys.run_range(run), limit=1)), None) is None:
            raise NotFound(f"Run {run} was deleted while it was read.")

    def _points(self, snap: Snapshot, run: str, info: SequenceInfo, head: Row) -> Iterator[Row]:
        for block in self._sequences.points(snap, run, info.ctx, info.name):
            yield {**head, **columns(block)}

    def _objects(self, snap: Snapshot, run: str, info: SequenceInfo, head: Row) -> Iterator[Row]:
        # One object a block: each may be as large as a message.
        for row in self._sequences.objects(snap, run, info.ctx, info.name):
            yield {**head, "objects": [row]}

    # --- what was not applied --------------------------------------------------------------------

    def dropped(self, snap: Snapshot, *, topic_id: str) -> Iterator[Row]:
        """How many records of deleted runs each partition of a topic has brought, where any."""
        prefix = self._keys.dropped(topic_id)
        for key, packed in snap.scan(*range_of(prefix)):
            if (place := readable.elements(key, len(prefix), int)) is not None:
                yield {"partition": place[0], "dropped": readable.number(packed)}

    # --- dead letters ----------------------------------------------------------------------------


def _said(
    snap: Snapshot, found: Iterator[str], read: Sequence[Callable[[str], bytes]]
) -> Iterator[str]:
    """The runs; these keys of each page of them are said before."""
    if not snap.prefetches or not read:
        yield from found
        return
    while page := list(itertools.islice(found, _PAGE_RUNS)):
        snap.prefetch([key(run) for run in page for key in read], [])
        yield from page


def columns(block: Columns) -> Row:
    """Points as an answer has them, little endian: steps int64, values and times float64; epochs as `Columns.epochs_bytes` and their
    mask, None where no point has one."""
    mask = block.epoch_mask()
    given = any(mask)
    return {
        "steps": block.steps_bytes(),
        "values": block.values_bytes(),
        "times": block.times_bytes(),
        "epochs": block.epochs_bytes() if given else None,
        "epoch_mask": mask if given else None,
    }


def _artifacts(blobs: object) -> Iterator[Row]:
    if isinstance(blobs, dict):
        for path, blob in sorted(blobs.items(), key=lambda row: str(row[0])):
            if isinstance(path, str) and isinstance(blob, dict):
                yield {"path": path, "content_type": blob.get("content_type")}


def _in_order(rows: Iterable[tuple[float, Row]]) -> Iterator[Row]:
    """The rows by their numbers; those of one number as they come."""
    window: list[tuple[float, int, int, Row]] = []
    held = 0
    for place, (at, row) in enumerate(rows):
        size = len(str(row["message"])) + len(str(row.get("args") or ""))
        heapq.heappush(window, (at, place, size, row))
        held += size
        while len(window) > LOG_WINDOW_ROWS or held > LOG_WINDOW_BYTES:
            _, _, size, first = heapq.heappop(window)
            held -= size
            yield first
    while window:
        yield heapq.heappop(window)[3]
