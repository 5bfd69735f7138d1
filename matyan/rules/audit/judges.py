"""Judges: each reads, in one transaction, all that decides whether a place is damaged, tells what is, and mends it if it may.

A judge's name and arguments are a suspect's, as `walk.py` names them; the table is at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from matyan import readable
from matyan._codec import pack
from matyan.errors import ConfigurationError
from matyan.keys import EMPTY_DICT, EMPTY_LIST, LEAF, Keys, pack_value, range_of, unpack
from matyan.rules import contexts, entities, indexes, runs, shapes
from matyan.rules.audit import facts
from matyan.rules.audit.findings import Finding
from matyan.rules.rows import RunRows
from matyan.rules.sequences.audit import Place, SequenceAudit, Write, apply
from matyan.store.base import Snapshot, Transaction

Suspect = tuple[Any, ...]
"""A judge's name, and what it takes."""

_MOST_ROWS: Final = 1_000
"""Of a deleted run, cleared by one transaction."""
_MARKERS: Final = (LEAF, EMPTY_LIST, EMPTY_DICT)
"""What a reader takes where several stand at one place: the first of these."""
_ITEMS: Final = b"\x0b", b"\x1e"
"""Between these begins a packed integer."""


class Bench:
    """Where one transaction's judges sit.

    Args:
        tr: what they read.
        mending: the same, where they may write.
    """

    def __init__(
        self, keys: Keys, sequences: SequenceAudit, tr: Snapshot, mending: Transaction | None
    ) -> None:
        self.keys = keys
        self.sequences = sequences
        self.tr = tr
        self.mending = mending
        self.again: list[Suspect] = []
        """What was too much for one transaction, and is to be judged once more."""

    def judge(self, suspect: Suspect) -> Iterator[Finding]:
        name, *arguments = suspect
        return JUDGES[name](self, *arguments)

    def rows(self, run: str) -> RunRows[Snapshot]:
        return RunRows(self.tr, self.keys, run)

    def write(self, run: str, writes: list[Write]) -> bool:
        """Mends rows that writers remember of a run; whether it could."""
        if self.mending is None or not writes:
            return False
        apply(self.mending, writes)
        # Without its owner's row a run is read anew by whoever writes it.
        self.mending.clear(self.keys.owner(run))
        return True


# --- runs ----------------------------------------------------------------------------------------


def judge_run(bench: Bench, run: str) -> Iterator[Finding]:
    """A run that was deleted has no rows; one that has rows has a created_at."""
    rows = bench.rows(run)
    if runs.is_deleted(rows):
        yield from _deleted(bench, rows)
    elif facts.has_rows(rows) and not runs.exists(rows):
        fields = dict(_from_indexes(rows))
        mended = "created_at" in fields and bench.write(
            run,
            [
                (bench.keys.meta(run, field), pack_value(value))
                for field, value in fields.items()
                if bench.tr.get(bench.keys.meta(run, field)) is None
            ],
        )
        yield Finding("run-without-meta", run, "", mended)


def _from_indexes(rows: RunRows[Snapshot]) -> Iterator[tuple[str, Any]]:
    """Meta fields, as the run's index rows tell them."""
    start = len(rows.keys.reverse_index(rows.run))
    for field, index in facts.META_FACTS.items():
        found = [*rows.tr.scan(*range_of(rows.keys.reverse_index(rows.run, index)), limit=2)]
        if len(found) == 1:
            _, value, *_ = unpack(found[0][0], start)
            yield field, value


def _deleted(bench: Bench, rows: RunRows[Snapshot]) -> Iterator[Finding]:
    keys, run, tr = rows.keys, rows.run, rows.tr
    left = []
    if facts.has_rows(rows):
        left.append("data")
    of_run = range_of(keys.reverse_index_prefix(run))
    if next(iter(tr.scan(*of_run, limit=1)), None) is not None and not _goes_on(rows):
        left.append("indexes")
    if any(tr.get(key) is not None for key in _rows_beside(keys, run)):
        left.append("activity")
    if tr.get(keys.experiment_of_run(run)) is not None:
        left.append("experiment")
    if next(iter(tr.scan(*range_of(keys.tag_of_run(run)), limit=1)), None) is not None:
        left.append("tags")
    if not left:
        return
    if bench.mending is not None:
        writing = RunRows(bench.mending, keys, run)
        for _ in entities.forgetting_run(writing):
            pass
        bench.mending.clear_range(*keys.run_range(run))
        twins = [*tr.scan(*of_run, limit=_MOST_ROWS)]
        root, start = keys.index(), len(keys.reverse_index(run))
        apply(bench.mending, [(root + twin[start:], None) for twin, _ in twins])
        apply(bench.mending, [(twin, None) for twin, _ in twins])
        apply(bench.mending, [(key, None) for key in _rows_beside(keys, run)])
        if len(twins) == _MOST_ROWS:
            bench.again.append(("run", run))
    yield Finding("deleted-run", run, ", ".join(left), bench.mending is not None)


def _goes_on(rows: RunRows[Snapshot]) -> bool:
    """Whether a worker still has index rows of the deleted run to clear."""
    return rows.tr.get(rows.keys.owed_deletion(rows.run)) is not None


def judge_left(bench: Bench, run: str) -> Iterator[Finding]:
    """Activity, owner and shape are those of a run that is there."""
    rows = bench.rows(run)
    left = [key for key in _rows_beside(bench.keys, run) if bench.tr.get(key)]
    if left and not facts.has_rows(rows):
        if bench.mending is not None:
            apply(bench.mending, [(key, None) for key in left])
        yield Finding("rows-without-run", run, "", bench.mending is not None)


def _rows_beside(keys: Keys, run: str) -> list[bytes]:
    """What stands outside of the run's own rows."""
    return [keys.activity(run), keys.owner(run), keys.shape(run)]


def judge_shape(bench: Bench, run: str, is_wanted: bool) -> Iterator[Finding]:
    """A run's shape fits its rows. is_wanted: whether one that is missing is made."""
    rows = bench.rows(run)
    stored = bench.tr.get(bench.keys.shape(run))
    if (stored is None and not is_wanted) or not facts.exists(rows):
        return
    right = shapes.counted(rows)
    if stored != shapes.packed(right):
        if bench.mending is not None:
            shapes.put(RunRows(bench.mending, bench.keys, run), right)
        kind = "shape" if stored is not None else "shape-missing"
        yield Finding(kind, run, "", bench.mending is not None)


def judge_context(bench: Bench, run: str, ctx: int) -> Iterator[Finding]:
    """A context that sequences are in is stored."""
    key = bench.keys.context(run, ctx)
    if isinstance(readable.found(bench.tr.get(key)), dict):
        return
    prefix = bench.keys.traces_prefix(run, ctx)
    if next(iter(bench.tr.scan(*range_of(prefix), limit=1)), None) is not None:
        writes: list[Write] = [(key, pack_value({}))] if ctx == contexts.EMPTY else []
        yield Finding("context-missing", run, f"context {ctx}", bench.write(run, writes))


# --- indexes -------------------------------------------------------------------------------------


def judge_fact(bench: Bench, run: str, fact: facts.Fact) -> Iterator[Finding]:
    """A fact that a run holds has its two rows, and any other has none."""
    rows = bench.rows(run)
    keys = bench.keys
    pair = keys.index(*fact, run), keys.reverse_index(run, *fact, run)
    standing = [key for key in pair if bench.tr.get(key) is not None]
    if facts.is_true(rows, fact):
        if len(standing) < 2 and not runs.is_deleted(rows):
            if bench.mending is not None:
                indexes.put(RunRows(bench.mending, keys, run), *fact)
            yield Finding("index-missing", run, _told(fact), bench.mending is not None)
    elif standing and not _is_all_that_tells(rows, fact) and not _goes_on(rows):
        if bench.mending is not None:
            indexes.drop(RunRows(bench.mending, keys, run), *fact)
        yield Finding("index-stale", run, _told(fact), bench.mending is not None)


def _is_all_that_tells(rows: RunRows[Snapshot], fact: facts.Fact) -> bool:
    """Whether the index is the only place that still says it: a run that has lost its meta row."""
    field = next((field for field, index in facts.META_FACTS.items() if index == fact[0]), None)
    if field is None or rows.tr.get(rows.keys.meta(rows.run, field)) is not None:
        return False
    return facts.exists(rows)


def _told(fact: facts.Fact) -> str:
    return " ".join(f"{item!s:.60}" for item in fact)


# --- trees ---------------------------------------------------------------------------------------


def judge_node(bench: Bench, run: str, path: tuple[str | int, ...]) -> Iterator[Finding]:
    """A place of the attributes holds a value, or named attributes, or list items."""
    place = bench.keys.attrs(run, *path)
    tr = bench.tr
    markers = [place + pack((marker,)) for marker in _MARKERS]
    standing = [key for key in markers if tr.get(key) is not None]
    begin, end = range_of(place)
    named = any(
        key not in markers
        for one, other in ((begin, place + _ITEMS[0]), (place + _ITEMS[1], end))
        for key, _ in tr.scan(one, other, limit=4)
    )
    items = next(iter(tr.scan(place + _ITEMS[0], place + _ITEMS[1], limit=1)), None) is not None
    # As `trees.read` sees it: what stands below wins, and then the first marker.
    hidden = standing if named or items else standing[1:]
    if hidden:
        if bench.mending is not None:
            apply(bench.mending, [(key, None) for key in hidden])
        yield Finding("leaf-beside-tree", run, _path(path), bench.mending is not None)
    if named and items:
        yield Finding("list-beside-object", run, _path(path), False)


def _path(path: tuple[str | int, ...]) -> str:
    return ".".join(f"{element!s:.60}" for element in path)


# --- sequences -----------------------------------------------------------------------------------


def judge_trace(bench: Bench, run: str, ctx: int, name: str) -> Iterator[Finding]:
    place = Place(run, ctx, name)
    if bench.sequences.can_be_measured(bench.tr, place):
        with suppress(
            ConfigurationError
        ):  # a chunk that cannot be read, which is told where it stands
            yield from _in_sequence(bench, place, bench.sequences.trace(bench.tr, place))


def judge_summary(
    bench: Bench, run: str, ctx: int, name: str, is_wanted: bool
) -> Iterator[Finding]:
    """is_wanted: whether one that is missing is made."""
    place = Place(run, ctx, name)
    with suppress(ConfigurationError):  # a chunk that cannot be read
        found = bench.sequences.summary(bench.tr, place, is_wanted=is_wanted)
        yield from _in_sequence(bench, place, found)


def judge_step(bench: Bench, run: str, ctx: int, name: str, step: int) -> Iterator[Finding]:
    place = Place(run, ctx, name)
    return _in_sequence(bench, place, bench.sequences.step(bench.tr, place, step))


def judge_parts(bench: Bench, run: str, ctx: int, name: str, step: int) -> Iterator[Finding]:
    place = Place(run, ctx, name)
    return _in_sequence(bench, place, bench.sequences.parts(bench.tr, place, step))


def _in_sequence(
    bench: Bench, place: Place, found: Iterator[tuple[str, str, list[Write]]]
) -> Iterator[Finding]:
    if runs.is_deleted(bench.rows(place.run)):
        return  # all of it goes
    for kind, where, writes in found:
        told = f"{place.name:.60} in context {place.ctx}" + (f": {where}" if where else "")
        yield Finding(kind, place.run, told, bench.write(place.run, writes))
        if kind == "trace-missing":
            bench.again.append(("fact", place.run, ("trace", place.name)))
            bench.again.append(("summary", *place, True))


# --- experiments and tags ------------------------------------------------------------------------


def judge_member(bench: Bench, family: str, uuid: str, run: str) -> Iterator[Finding]:
    """What says that a run is in an experiment, or has a tag, says so on both sides."""
    rows, keys = bench.rows(run), bench.keys
    sides = FAMILIES[family]
    member = sides.member(keys, uuid, run)
    stands, linked = bench.tr.get(member) is not None, sides.linked(rows, uuid)
    if not stands and not linked:
        return
    is_there = facts.exists(rows)
    if is_there and stands and linked:
        return
    lives = bench.tr.get(sides.field(keys, uuid, "name")) is not None
    if is_there and linked and not lives and family == "experiments":
        return  # as the API server leaves it when it deletes an experiment
    right = is_there and lives and sides.vouched(rows, uuid)
    if bench.mending is not None:
        apply(bench.mending, [(member, _TRUE if right else None)])
        sides.link(RunRows(bench.mending, keys, run), uuid, right)
    kind = "member-one-sided" if is_there else "rows-without-run"
    yield Finding(kind, run, f"{family} {uuid}", bench.mending is not None)


def judge_tag_row(bench: Bench, run: str, uuid: str) -> Iterator[Finding]:
    """A tag among a run's rows is one that it has; the API server writes no such row, and leaves ours when it deletes a tag."""
    keys = bench.keys
    row = keys.run_tag(run, uuid)
    if (
        bench.tr.get(row) is not None
        and bench.tr.get(keys.tag_of_run(run, uuid)) is None
        and bench.tr.get(keys.tag_run(uuid, run)) is None
    ):
        if bench.mending is not None:
            bench.mending.clear(row)
        yield Finding("tag-row-left", run, f"tags {uuid}", bench.mending is not None)


def judge_name(bench: Bench, family: str, uuid: str) -> Iterator[Finding]:
    """An experiment or tag is found by its name."""
    sides, keys, tr = FAMILIES[family], bench.keys, bench.tr
    name = readable.text(tr.get(sides.field(keys, uuid, "name")))
    if name is None:
        return
    found = readable.text(tr.get(sides.by_name(keys, name)))
    if found == uuid:
        return
    if found is not None and readable.text(tr.get(sides.field(keys, found, "name"))) == name:
        yield Finding("name-taken", "", f"{family} {name!s:.60}: {found} and {uuid}", False)
        return
    if bench.mending is not None:
        bench.mending.set(sides.by_name(keys, name), pack_value(uuid))
    kind = "name-missing" if found is None else "name-stale"
    yield Finding(kind, "", f"{family} {name!s:.60}", bench.mending is not None)


def judge_by_name(bench: Bench, family: str, name: str) -> Iterator[Finding]:
    """A name leads to an experiment or tag that is called so."""
    sides, keys, tr = FAMILIES[family], bench.keys, bench.tr
    row = sides.by_name(keys, name)
    if (packed := tr.get(row)) is None:
        return
    uuid = readable.text(packed)
    if uuid is not None and readable.text(tr.get(sides.field(keys, uuid, "name"))) == name:
        return
    if bench.mending is not None:
        bench.mending.clear(row)
    yield Finding("name-stale", "", f"{family} {name!s:.60}", bench.mending is not None)


def judge_counter(
    bench: Bench, family: str, uuid: str, seen: bytes, right: int
) -> Iterator[Finding]:
    """A counter and what is owed to it are the number of members. `seen`: its row, in a moment in which it should have been
    `right`: whoever changes the members owes it or changes the counter too, so as long as it stands so, that is right."""
    row = FAMILIES[family].field(bench.keys, uuid, "run_count")
    mended = bench.mending is not None and bench.tr.get(row) == seen
    if mended and bench.mending is not None:
        bench.mending.set(row, pack_value(right))
    yield Finding(
        "counter", "", f"{family} {uuid}: {readable.found(seen)!r:.20}, not {right}", mended
    )


_TRUE: Final = pack_value(True)


class _Sides(NamedTuple):
    """Where the rows of experiments or tags stand, and those of their runs."""

    field: Callable[[Keys, str, str], bytes]
    by_name: Callable[[Keys, str], bytes]
    member: Callable[[Keys, str, str], bytes]
    members: Callable[[Keys, str], bytes]
    """What the members' rows begin with."""
    linked: Callable[[RunRows[Snapshot], str], bool]
    """Whether the run's side has the uuid."""
    link: Callable[[RunRows[Transaction], str, bool], None]
    """Makes it so, or not."""
    vouched: Callable[[RunRows[Snapshot], str], bool]
    """Where one side alone says it: whether others say it too."""


def _has_experiment(rows: RunRows[Snapshot], uuid: str) -> bool:
    return readable.text(rows.tr.get(rows.keys.experiment_of_run(rows.run))) == uuid


def _put_experiment(rows: RunRows[Transaction], uuid: str, right: bool) -> None:
    if right:
        rows.tr.set(rows.keys.experiment_of_run(rows.run), pack_value(uuid))
    elif _has_experiment(rows, uuid):
        rows.tr.clear(rows.keys.experiment_of_run(rows.run))


def _experiment_is_vouched(rows: RunRows[Snapshot], uuid: str) -> bool:
    other = readable.text(rows.tr.get(rows.keys.experiment_of_run(rows.run)))
    return other in (None, uuid) and runs.get_meta(rows, "experiment_id") == uuid


def _has_tag(rows: RunRows[Snapshot], uuid: str) -> bool:
    return rows.tr.get(rows.keys.tag_of_run(rows.run, uuid)) is not None


def _put_tag(rows: RunRows[Transaction], uuid: str, right: bool) -> None:
    row = rows.keys.tag_of_run(rows.run, uuid)
    if right:
        rows.tr.set(row, _TRUE)
    else:
        apply(rows.tr, [(row, None), (rows.keys.run_tag(rows.run, uuid), None)])


def _tag_is_vouched(rows: RunRows[Snapshot], uuid: str) -> bool:
    name = readable.text(rows.tr.get(rows.keys.tag(uuid, "name")))
    return (
        rows.tr.get(rows.keys.run_tag(rows.run, uuid)) is not None
        or rows.tr.get(rows.keys.index("tag", name, rows.run)) is not None
    )


FAMILIES: Final = {
    "experiments": _Sides(
        Keys.experiment,
        Keys.experiment_by_name,
        Keys.experiment_run,
        Keys.experiment_run,
        _has_experiment,
        _put_experiment,
        _experiment_is_vouched,
    ),
    "tags": _Sides(
        Keys.tag,
        Keys.tag_by_name,
        Keys.tag_run,
        Keys.tag_run,
        _has_tag,
        _put_tag,
        _tag_is_vouched,
    ),
}

JUDGES: Final[dict[str, Callable[..., Iterator[Finding]]]] = {
    "run": judge_run,
    "left": judge_left,
    "shape": judge_shape,
    "context": judge_context,
    "fact": judge_fact,
    "node": judge_node,
    "trace": judge_trace,
    "summary": judge_summary,
    "step": judge_step,
    "parts": judge_parts,
    "member": judge_member,
    "tag row": judge_tag_row,
    "name": judge_name,
    "by name": judge_by_name,
    "counter": judge_counter,
}
