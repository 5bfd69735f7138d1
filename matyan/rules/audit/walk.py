"""The walk over a store, in pages that are short enough for any engine: which places look damaged.

Where a page ends, its cursor says how the next one begins; a walk that is left goes on from there, also in another process.
What a page names are suspects: judges look again, in one transaction each (`judges.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from matyan import readable
from matyan.keys import EMPTY_DICT, EMPTY_LIST, LEAF, Keys, range_of, unpack
from matyan.rules import counts
from matyan.rules.audit import facts
from matyan.rules.audit.findings import Finding
from matyan.rules.audit.judges import FAMILIES, Bench, Suspect
from matyan.rules.records import HPARAMS
from matyan.rules.sequences.audit import Place, SequenceAudit
from matyan.rules.sequences.state import MIN_STEP
from matyan.store.base import Snapshot

PAGE_ROWS: Final = 2_000
PAGE_BYTES: Final = 4 << 20
"""What a page reads at most, more or less: a fraction of a second."""

_MARKERS = (LEAF, EMPTY_DICT, EMPTY_LIST)

Cursor = list[Any]
"""Where a page begins: the stage's name, and where in it."""


@dataclass(slots=True)
class Page:
    """What a page of the walk has seen."""

    suspects: list[Suspect] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)
    """What needs no judge, since nobody mends it."""
    rows: int = 0
    size: int = 0
    """Bytes."""
    most_rows: int = PAGE_ROWS
    next: Cursor | None = None
    """None: this was the last page."""

    @property
    def is_full(self) -> bool:
        return self.rows >= self.most_rows or self.size >= PAGE_BYTES

    def took(self, key: bytes, value: bytes) -> None:
        self.rows += 1
        self.size += len(key) + len(value)


class Walk:
    """
    Args:
        only_indexes: look for nothing else, and for summaries and shapes that nobody has made: for `reindex`.
    """

    def __init__(self, keys: Keys, sequences: SequenceAudit, *, only_indexes: bool = False) -> None:
        self._keys = keys
        self._sequences = sequences
        self._only_indexes = only_indexes
        self._stages: dict[str, Callable[[Snapshot, Page, list[Any]], Cursor | None]] = {
            "runs": self._runs,
            "sequence": self._sequence,
            "system": self._system,
            "indexes": self._indexes,
            "counters": self._counters,
        }

    def page(self, snap: Snapshot, cursor: Cursor | None, most_rows: int = PAGE_ROWS) -> Page:
        """The next page; `cursor` None: the first. `most_rows`: about so many, since what is looked at beside a row takes longer
        than the row where each read is a round trip."""
        page = Page(most_rows=most_rows)
        where: Cursor | None = cursor or ["runs", range_of(self._keys.runs)[0]]
        while where is not None and not page.is_full:
            stage, *rest = where
            if stage == "counters" and page.suspects:
                break  # what is counted is to be mended before
            where = self._stages[stage](snap, page, rest)
        page.next = where
        page.suspects = [*dict.fromkeys(page.suspects)]
        return page

    # --- R ---------------------------------------------------------------------------------------

    def _runs(self, snap: Snapshot, page: Page, where: list[Any]) -> Cursor | None:
        (begin,) = where
        root = self._keys.runs
        looks = _Looks(self._bench(snap), page)
        rows = _RunRows(looks, self._only_indexes)
        # Who is in what comes before the indexes, which follow it, and the counters at the end.
        following: Cursor = ["system", range_of(self._keys.system)[0]]
        for key, value in snap.scan(begin, range_of(root)[1]):
            page.took(key, value)
            items = _unpacked(key, len(root))
            if items is None or len(items) < 3 or not isinstance(items[0], str):
                continue
            rows.run(items[0])
            if items[1] == "seqs":
                following = self._sequence_at(items)
                break
            rows.row(items, value)
            if page.is_full:
                # A row and the next one are looked at together: the last of a page is the first of the next, if it moves on.
                following = ["runs", key if key != begin else key + b"\x00"]
                break
        looks.end()
        return following

    def _sequence_at(self, items: tuple[Any, ...]) -> Cursor:
        run, _, *place = items
        if not self._only_indexes and len(place) > 2 and _is_place(place[:2]):
            return ["sequence", run, *place[:2], "chunks", 0]
        return ["runs", range_of(self._keys.seqs_prefix(run))[1]]

    def _sequence(self, snap: Snapshot, page: Page, where: list[Any]) -> Cursor | None:
        run, ctx, name, kind, begin = where
        place = Place(run, ctx, name)
        following: Cursor
        if kind == "chunks":
            looked = self._sequences.chunks(snap, place, begin)
            told = f"{name:.60} in context {ctx}"
            page.found += [Finding(kind, run, f"{told}: {at}", False) for kind, at in looked.found]
            following = ["chunks", looked.next]
            if looked.next is None:
                following = ["steps", MIN_STEP]
        else:
            looked = self._sequences.steps(snap, place, begin)
            page.suspects += [("step", *place, step) for step in looked.suspects]
            following = ["steps", looked.next]
        page.rows += 1 + looked.rows
        if following[1] is not None:
            return ["sequence", *place, *following]
        looks = _Looks(self._bench(snap), page)
        looks.look("context", run, ctx)
        looks.look("trace", *place)
        looks.look("summary", *place, False)
        return ["runs", range_of(self._keys.seq(*place))[1]]

    def _bench(self, snap: Snapshot) -> Bench:
        return Bench(self._keys, self._sequences, snap, None)

    # --- I ---------------------------------------------------------------------------------------

    def _indexes(self, snap: Snapshot, page: Page, where: list[Any]) -> Cursor | None:
        (begin,) = where
        root = self._keys.index()
        looks = _Looks(self._bench(snap), page)
        for key, value in snap.scan(begin, range_of(root)[1]):
            page.took(key, value)
            if (items := _unpacked(key, len(root))) is not None and len(items) >= 2:
                self._index_row(looks, items)
            if page.is_full:
                looks.end()
                return ["indexes", key + b"\x00"]
        looks.end()
        return None if self._only_indexes else ["counters", "experiments", b""]

    def _index_row(self, looks: _Looks, items: tuple[Any, ...]) -> None:
        keys = self._keys
        match items[0]:
            case "_deleted":
                if not self._only_indexes and isinstance(items[1], str):
                    looks.look("run", items[1])
            case "_rev":
                if len(items) > 3 and isinstance(items[1], str):
                    looks.must_stand(keys.index(*items[2:]), ("fact", items[1], items[2:-1]))
            case _ if isinstance(items[-1], str):
                looks.look("fact", items[-1], items[:-1])
                if items[0] == "created_at":  # once for each run
                    looks.look("shape", items[-1], self._only_indexes)

    # --- S ---------------------------------------------------------------------------------------

    def _system(self, snap: Snapshot, page: Page, where: list[Any]) -> Cursor | None:
        (begin,) = where
        root = self._keys.system
        looks = _Looks(self._bench(snap), page)
        for key, value in snap.scan(begin, range_of(root)[1]):
            page.took(key, value)
            items = _unpacked(key, len(root))
            if items is not None and all(isinstance(item, str) for item in items):
                self._system_row(looks, items, value)
            if page.is_full:
                looks.end()
                return ["system", key + b"\x00"]
        looks.end()
        return ["indexes", range_of(self._keys.index())[0]]

    def _system_row(self, looks: _Looks, items: tuple[str, ...], value: bytes) -> None:
        family, *words = items
        if family == "run_experiment":
            words.append(readable.text(value) or "")
        if (known := _ENTITY_OF.get(family)) is not None and len(words) == 2:
            of, turned = known
            uuid, run = words[::-1] if turned else words
            if turned:
                name = readable.text(
                    looks.bench.tr.get(FAMILIES[of].field(self._keys, uuid, "name"))
                )
                if name is not None:
                    looks.fact(run, (of.removesuffix("s"), name))
            if not self._only_indexes:
                looks.look("member", of, uuid, run)
        elif self._only_indexes:
            pass
        elif family in ("activity", "owner", "shape") and len(words) == 1:
            looks.look("left", *words)
        elif family in FAMILIES and words[1:] == ["name"]:
            looks.look("name", family, words[0])
        elif (named := family.removesuffix("_by_name")) != family and len(words) == 1:
            looks.look("by name", named, *words)

    def _counters(self, snap: Snapshot, page: Page, where: list[Any]) -> Cursor | None:
        family, begin = where
        prefix = self._keys.entities_prefix(family)
        low, high = range_of(prefix)
        owed = counts.owed(snap, self._keys)
        for key, packed in snap.scan(max(begin, low), high):
            page.took(key, packed)
            found = readable.elements(key, len(prefix), str, str)
            if found is not None and found[1] == "run_count":
                members = FAMILIES[family].members(self._keys, found[0])
                count = sum(1 for _ in snap.scan(*range_of(members)))
                page.rows += count
                right = count - owed.get((family, found[0]), 0)
                if readable.found(packed) != right:
                    page.suspects.append(("counter", family, found[0], packed, right))
            if page.is_full:
                return ["counters", family, key + b"\x00"]
        return ["counters", "tags", b""] if family == "experiments" else None


_ENTITY_OF: Final = {
    "experiment_runs": ("experiments", False),
    "tag_runs": ("tags", False),
    "run_experiment": ("experiments", True),
    "run_tags": ("tags", True),
}
"""The rows that associate runs: whose they are, and whether the run stands first."""


class _Looks:
    """What a page looks at beside the row at hand: in the same moment, so that what is whole is no suspect."""

    def __init__(self, bench: Bench, page: Page) -> None:
        self.bench = bench
        self._page = page
        self._keys: dict[bytes, Suspect] = {}

    def look(self, *suspect: Any) -> None:
        """It is one if a judge finds something."""
        if any(True for _ in self.bench.judge(suspect)):
            self._page.suspects.append(suspect)

    def must_stand(self, key: bytes, suspect: Suspect) -> None:
        """It is one if there is no such row: asked together with the page's others."""
        self._keys[key] = suspect

    def fact(self, run: str, fact: facts.Fact) -> None:
        """Both rows of a fact that a run holds must stand."""
        keys = self.bench.keys
        for key in keys.index(*fact, run), keys.reverse_index(run, *fact, run):
            self.must_stand(key, ("fact", run, fact))

    def end(self) -> None:
        snap = self.bench.tr
        if snap.prefetches:
            snap.prefetch([*self._keys], [])
        self._page.suspects += [
            suspect for key, suspect in self._keys.items() if snap.get(key) is None
        ]
        self._keys.clear()


class _RunRows:
    """The rows of runs but those of their sequences, one after the other."""

    def __init__(self, looks: _Looks, only_indexes: bool) -> None:
        self._looks = looks
        self._only_indexes = only_indexes
        self._run: str | None = None
        self._path: tuple[Any, ...] | None = None
        """Of the attribute before, with its marker."""
        self._parts: tuple[Any, ...] | None = None

    def run(self, run: str) -> None:
        """Whose the next row is."""
        if run != self._run:
            self._run, self._path = run, None
            if not self._only_indexes:
                self._looks.look("run", run)

    def row(self, items: tuple[Any, ...], value: bytes) -> None:
        run, block, *rest = items
        match (block, *rest):
            case ("meta", str(field), marker) if marker == LEAF:
                if (fact := facts.of_meta(field, value)) is not None:
                    self._looks.fact(run, fact)
            case ("attrs", *path):
                self._attribute(run, tuple(path), value)
            case ("traces", int(ctx), str(name), "last_step"):
                self._looks.fact(run, ("trace", name))
                if self._only_indexes:
                    self._looks.look("summary", run, ctx, name, True)
                else:
                    self._empty_sequence(Place(run, ctx, name))
            case _ if self._only_indexes:
                pass
            case ("contexts", int(ctx)):
                self._looks.look("context", run, ctx)
            case ("parts", int(ctx), str(name), int(step), _):
                if (place := (run, ctx, name, step)) != self._parts:
                    self._parts = place
                    self._looks.look("parts", *place)
            case ("tags", str(uuid)):
                self._looks.look("tag row", run, uuid)

    def _empty_sequence(self, place: Place) -> None:
        # Those that are not are looked at where their rows stand.
        if self._looks.bench.sequences.is_empty(self._looks.bench.tr, place):
            self._looks.look("trace", *place)

    def _attribute(self, run: str, path: tuple[Any, ...], value: bytes) -> None:
        if path[:1] == (HPARAMS,) and path[2:] == (LEAF,) and isinstance(path[1], str):
            fact = facts.of_hparam(self._looks.bench.rows(run), path[1], value)
            if fact is not None and facts.is_true(self._looks.bench.rows(run), fact):
                self._looks.fact(run, fact)
        before, self._path = self._path, path
        if before is None or self._only_indexes:
            return
        # All that stands below one place stands together: what is wrong there shows between two neighbours.
        for one, other in ((before, path), (path, before)):
            if one[-1] in _MARKERS and other[: len(one) - 1] == one[:-1]:
                self._looks.look("node", run, one[:-1])
        depth = next(
            (at for at, (one, other) in enumerate(zip(before, path, strict=False)) if one != other),
            None,
        )
        if depth is not None and type(before[depth]) is not type(path[depth]):
            self._looks.look("node", run, path[:depth])


def _unpacked(key: bytes, start: int) -> tuple[Any, ...] | None:
    try:
        return unpack(key, start)
    except ValueError:
        return None


def _is_place(items: list[Any]) -> bool:
    return type(items[0]) is int and type(items[1]) is str
