"""One run as the read API shows it, and the runs of a store in their order.

Each part of a run is read when it is asked for, once. No query, no points, no HTTP.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Final

from matyan._codec import BLOBS, Summary, context_text
from matyan.errors import ConfigurationError
from matyan.keys import Keys, range_of
from matyan.readable import is_number
from matyan.rules import contexts, entities, indexes, runs, trees
from matyan.rules.documents import Fields
from matyan.rules.entities import EXPERIMENTS, TAGS
from matyan.rules.rows import RunRows
from matyan.rules.sequences import SequenceInfo, Sequences
from matyan.store.base import Range, Snapshot

KINDS: Final = ("images", "texts", "distributions", "audios", "figures")
METRIC: Final = "metric"

_KIND_OF_DTYPE: Final = {
    "image": "images",
    "text": "texts",
    "distribution": "distributions",
    "audio": "audios",
    "figure": "figures",
    "logs": None,
    "log_records": None,
}
_MOST_ANEW: Final = 2_000_000
"""Points that one answer reads to find their extremes, where no row tells them: less than a second. A list of many runs shows the
others without."""
_ANEW_AT_LEAST: Final = 1_000
"""What a sequence counts for, however few points it has."""
_SYSTEM_PARAMS: Final = "__system_params"
_UPLOADED_BY_SEQUENCES: Final = "seq/"
_DEFAULT_EXPERIMENT: Final = {"id": None, "name": None, "description": None}


PAGE_RUNS: Final = 64
"""Whose rows are read together, where each read takes a round trip."""
_ATTRIBUTES: Final = ""
METRICS: Final = "metrics"
ENTITIES: Final = ("experiment", "tags")
WHOLE: Final = (*ENTITIES, METRICS, _ATTRIBUTES)
"""All that a list of runs shows of one."""
FIELDS: Final = frozenset(
    (
        *("hash", "name", "description", "created_at", "creation_time", "end_time", "finalized_at"),
        *("duration", "active", "archived", "is_archived", "run", "date", "creator"),
    )
)
"""What a query, or an order, asks of a run's meta."""


def kind_of(info: SequenceInfo) -> str | None:
    """Which kind of sequence it is: "metric", one of KINDS, or None for logs."""
    return _KIND_OF_DTYPE.get(info.dtype, METRIC)


def text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


class View:
    """A snapshot with what is needed to read it; what many runs share is read once."""

    def __init__(self, snap: Snapshot, keys: Keys, sequences: Sequences) -> None:
        self.snap = snap
        self.keys = keys
        self.sequences = sequences
        self._entities: dict[tuple[str, str], Fields] = {}
        self._anew = _MOST_ANEW

    def entity(self, family: str, uuid: str) -> Fields:
        """The fields of an experiment or tag; {}: there is none."""
        place = family, uuid
        if place not in self._entities:
            self._entities[place] = entities.read(self.snap, self.keys, family, uuid)
        return self._entities[place]

    def run(self, run: str) -> RunView:
        return RunView(self, run)

    def summary(self, run: str, info: SequenceInfo) -> Summary | None:
        """The sequence's summary; None where its points would have to be read, and those of many others were, or some cannot be."""
        if info.summary is None:
            if self._anew <= 0:
                return None
            self._anew -= _ANEW_AT_LEAST
        try:
            summary = self.sequences.summary(self.snap, run, info)
        except ConfigurationError:  # a damaged chunk
            return None
        if info.summary is None:
            self._anew -= summary.count
        return summary

    def say(self, names: Iterable[str], parts: Collection[str]) -> None:
        """Says what of these runs is going to be read, besides their meta, where each read takes a round trip. parts: as a query names
        them, or WHOLE."""
        if not self.snap.prefetches:
            return
        keys = self.keys
        gets: list[bytes] = []
        ranges: list[Range] = []
        for run in names:
            prefixes = [keys.meta_prefix(run)]
            for part in parts:
                if part == "experiment":
                    gets.append(keys.experiment_of_run(run))
                elif part == "tags":
                    prefixes.append(keys.tag_of_run(run))
                elif part == METRICS:
                    prefixes += keys.contexts_prefix(run), keys.traces_prefix(run)
                elif part == _ATTRIBUTES:
                    prefixes.append(keys.attrs(run))
                elif part not in FIELDS:
                    prefixes.append(keys.attrs(run, part))
            ranges += (Range(*range_of(prefix)) for prefix in prefixes)
        self.snap.prefetch(gets, ranges)

    def said(self, names: Iterable[str], parts: Collection[str]) -> Iterator[str]:
        """The same names; what is read of each page of them is said before."""
        if not self.snap.prefetches:
            yield from names
            return
        found = iter(names)
        while page := list(itertools.islice(found, PAGE_RUNS)):
            self.say(page, parts)
            yield from page

    def newest_first(self) -> Iterator[str]:
        """All runs that have a date; those that are being deleted too."""
        return runs.list_runs(self.snap, self.keys, newest_first=True)

    def active(self) -> Iterator[str]:
        """The runs that an index has as active."""
        return indexes.runs_under(self.snap, self.keys, "active", True)

    def by_date(self, names: Iterable[str]) -> list[str]:
        """Those of these runs that are there, newest first, each once."""
        # In the order of keys: runs that stand beside each other are read together.
        dated = [(self.run(run).created_at, run) for run in self.said(sorted(set(names)), ())]
        return [
            run
            for at, run in sorted(((at, run) for at, run in dated if at is not None), reverse=True)
        ]


class RunView:
    """One run in one snapshot."""

    def __init__(self, view: View, run: str) -> None:
        self.view = view
        self.run = run
        self.rows = RunRows(view.snap, view.keys, run)
        self._attributes: dict[str, object] = {}

    @cached_property
    def meta(self) -> dict[str, Any]:
        return runs.read_meta(self.rows)

    @property
    def created_at(self) -> float | None:
        at = runs.get_meta(self.rows, "created_at")
        return None if at is None else float(at)

    @property
    def is_there(self) -> bool:
        """False also for one that is being deleted."""
        return self.meta.get("created_at") is not None and not self.meta.get("pending_deletion")

    def text(self, field: str) -> str:
        """One field of the meta."""
        return text({field: runs.get_meta(self.rows, field)}, field)

    def attribute(self, name: str, default: Any = None) -> Any:
        """One attribute, with all that it holds; read alone, since a run may have as many blobs as it has images."""
        if name not in self._attributes:
            prefix = self.view.keys.attrs(self.run, name)
            self._attributes[name] = trees.read(self.view.snap, prefix)
        found = self._attributes[name]
        return default if found is trees.MISSING else found

    def params(self, *, skip_system: bool = False) -> dict[str, Any]:
        """All attributes but the blobs."""
        left_out = (BLOBS, _SYSTEM_PARAMS) if skip_system else (BLOBS,)
        read = trees.read(self.view.snap, self.view.keys.attrs(self.run), left_out)
        return read if isinstance(read, dict) else {}

    @cached_property
    def experiment(self) -> dict[str, Any]:
        """id, name and description; null each for a run without one."""
        uuid = entities.experiment_uuid(self.rows)
        fields = {} if uuid is None else self.view.entity(EXPERIMENTS, uuid)
        if not fields:
            return _DEFAULT_EXPERIMENT
        return {
            "id": uuid,
            "name": text(fields, "name"),
            "description": text(fields, "description"),
        }

    @cached_property
    def tags(self) -> list[dict[str, Any]]:
        found = ((uuid, self.view.entity(TAGS, uuid)) for uuid in entities.tag_uuids(self.rows))
        return [
            {"id": uuid, **{name: text(fields, name) for name in ("name", "color", "description")}}
            for uuid, fields in found
            if fields
        ]

    def props(self) -> dict[str, Any]:
        meta = self.meta
        return {
            "name": text(meta, "name"),
            "description": text(meta, "description"),
            "experiment": self.experiment,
            "tags": self.tags,
            "creation_time": meta.get("created_at"),
            "end_time": meta.get("finalized_at"),
            "archived": bool(meta.get("is_archived")),
            "active": bool(meta.get("active")),
        }

    @cached_property
    def contexts(self) -> dict[int, Any]:
        return {ctx: in_order(context) for ctx, context in contexts.read(self.rows).items()}

    def context(self, info: SequenceInfo) -> dict[str, Any]:
        found = self.contexts.get(info.ctx)
        return contexts.stand_in(info.ctx) if found is None else found

    @cached_property
    def traces(self) -> list[SequenceInfo]:
        return [*self.view.sequences.sequences(self.view.snap, self.run)]

    def of_kind(self, *kinds: str) -> Iterator[SequenceInfo]:
        return (info for info in self.traces if kind_of(info) in kinds)

    def find(self, kind: str, name: str, context: dict[str, Any]) -> SequenceInfo | None:
        """The sequence of this kind, name and context, by the context's canonical text: `true`, 1 and 1.0 are three."""
        try:
            return self._by_identity.get((kind, name, context_text(context)))
        except RecursionError:  # nested deeper than any that is stored
            return None

    @cached_property
    def _by_identity(self) -> dict[tuple[str | None, str, str], SequenceInfo]:
        return {
            (kind_of(info), info.name, context_text(self.context(info))): info
            for info in self.traces
        }

    def first_metric(self, name: str) -> SequenceInfo | None:
        """The first metric of this name, in the order of the contexts' ids; read alone, where it stands in one that is known."""
        view = self.view
        if "traces" not in self.__dict__:
            for ctx in self.contexts:
                info = view.sequences.sequence(view.snap, self.run, ctx, name)
                if info is not None and kind_of(info) == METRIC:
                    return info
        return next((info for info in self.of_kind(METRIC) if info.name == name), None)

    def overview(self, kinds: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Name, context and last value of the sequences, by kind; each of `kinds` has a list."""
        found: dict[str, list[dict[str, Any]]] = {
            kind: [] for kind in (METRIC, *KINDS) if kind in kinds
        }
        for info in self.traces:
            kind = kind_of(info)
            if kind is not None and kind in found:
                last = info.last if kind == METRIC else None
                found[kind].append(
                    {"name": info.name, "context": self.context(info), "last_value": last}
                )
        return found

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics as lists of runs show them."""
        return [
            {
                "name": info.name,
                "context": self.context(info),
                "values": {"last": info.last, "last_step": info.last_step, **self._extremes(info)},
            }
            for info in self.of_kind(METRIC)
        ]

    def _extremes(self, info: SequenceInfo) -> dict[str, float | None]:
        summary = self.view.summary(self.run, info)
        if summary is None or summary.first is None:
            return {}
        return {"first": summary.first, "min": summary.min, "max": summary.max}

    def artifacts(self) -> Iterator[tuple[str, str, str]]:
        """(path, s3 key, content type) of what was uploaded besides the files of sequences."""
        blobs = self.attribute(BLOBS)
        for path, blob in sorted(blobs.items()) if isinstance(blobs, dict) else ():
            if isinstance(blob, dict) and not path.startswith(_UPLOADED_BY_SEQUENCES):
                key = text(blob, "s3_key") or f"{self.run}/{path}"
                yield path, key, _header(text(blob, "content_type")) or "application/octet-stream"


def _header(value: str) -> str:
    """The value if a header can hold it, or nothing: whoever logged it could have written anything."""
    return value if value.isascii() and value.isprintable() else ""


def in_order(value: Any) -> Any:
    """The same with the keys of all objects sorted: the web app compares contexts by their text."""
    if isinstance(value, dict):
        return {name: in_order(child) for name, child in sorted(value.items())}
    if isinstance(value, list):
        return [in_order(child) for child in value]
    return value


def paged(found: Sequence[str], offset: str, limit: int) -> Iterator[str]:
    """What comes behind `offset` (""; all), at most `limit` (0: all)."""
    after = itertools.dropwhile(lambda run: run != offset, found) if offset else iter(found)
    if offset:
        next(after, None)
    return itertools.islice(after, limit or None)


def number(value: object) -> float | None:
    return float(value) if is_number(value) else None
