"""Makes a backup of a moment of a data folder, and removes old ones behind it.

What a data folder holds, and what of it is in a backup, is decided here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matyan import __version__, readable
from matyan.backups import files
from matyan.backups.manifest import DATA, File, Manifest
from matyan.backups.shelf import Backup, Shelf
from matyan.backups.verify import Finding, Sums, verify
from matyan.errors import ConfigurationError, Unavailable
from matyan.folder.checkpoint import FOLDER as CHECKPOINTS
from matyan.folder.folder import MOVES, RESTORING
from matyan.folder.wire import SOCKET_NAME
from matyan.keys import LOCAL, Keys, range_of, unpack_value
from matyan.rules.identity import known_store_id
from matyan.rules.sequences.layout import find_layout
from matyan.service import private
from matyan.store.base import Snapshot
from matyan.store.open import DATABASE, open_still

BLOBS: Final = "blobs"
COPIED: Final = ("tokens", "uploads_today")
"""Files of a data folder that a backup has beside store and blobs. Without its tokens a tracker would let everybody in."""
LEFT: Final = ("secret", SOCKET_NAME, CHECKPOINTS, RESTORING, MOVES)
"""What it has not: a key that signs uploads, of which a tracker makes a new one; what is a running process's; and what was sent where: of
a restored folder, which has less or other lines than then, that is not true."""

_CLOCK_NS: Final = 2_000_000_000
"""How exactly a file system keeps a time, at worst."""

Report = Callable[[str, int, int], object]
"""Told what is done, how many bytes of it, and of how many."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A data folder's files as they were at one moment: nobody changes them."""

    at: float
    """What was acknowledged before this is in it; epoch seconds."""
    path: Path
    """A folder with the store."""
    blobs: Path | None
    """Those that were there, by run; None: they are kept elsewhere."""


@dataclass(frozen=True, slots=True)
class Made:
    backup: Backup
    manifest: Manifest
    copied_bytes: int
    """What was written anew. The rest are links: to the backup before, or to the data folder's own files."""
    is_linked: bool
    """Whether some are links to the data folder's files."""
    unknown: Sequence[str]
    """Names in the data folder that are none of ours, and not in the backup."""


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    name: str
    """In the backup, with slashes."""
    size: int
    mtime_ns: int
    may_link: bool


def make(
    shelf: Shelf,
    moment: Callable[[], AbstractContextManager[Moment]],
    folder: Path,
    *,
    full: bool,
    report: Report,
) -> Made:
    """Makes a backup. The caller has the shelf to write.

    Args:
        moment: gives a moment of the data folder `folder`, for as long as the block lasts.
        full: everything is copied, nothing linked.

    Raises:
        ConfigurationError: the shelf cannot be written, is full, or is another store's; the store is damaged.
        Unavailable: the store cannot be read, or whoever had it open went away.
    """
    before = [one for one in shelf.backups() if one.manifest]
    last = before[-1] if before else None
    begun: Path | None = None
    try:
        with moment() as still:
            facts = _facts(still)
            if last and last.manifest and last.manifest.store != facts.store:
                raise ConfigurationError(
                    f"{shelf.path} holds backups of another store ({last.manifest.store}, which stood in "
                    f"{last.manifest.folder}): name another folder with --to."
                )
            begun = shelf.begin()
            work = _Work(begun / DATA, None if full else last, full, report)
            work.take([*_sources(still, folder)])
        report("writing to the disk", work.total, work.total)
        files.sync_all(begun)
        manifest = Manifest(
            number=1 + (last.manifest.number if last and last.manifest else 0),
            moment=still.at,
            program=__version__,
            folder=str(folder),
            store=facts.store,
            layout=facts.layout,
            offsets=facts.offsets,
            blobs="s3" if still.blobs is None else "folder",
            new_files=work.new_files,
            new_bytes=work.new_bytes,
            files=work.files,
        )
        backup = shelf.finish(begun, manifest)
    except FileNotFoundError as error:
        raise Unavailable(
            f"The process that held {folder} ended meanwhile ({error.filename} is gone): run the same command again."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"The backup was not made ({error.strerror}): see to the disk of {shelf.path} and run the same command again; what "
            "was begun is removed."
        ) from error
    finally:
        if begun is not None:
            shutil.rmtree(begun, ignore_errors=True)  # finished, it has another name
    return Made(backup, manifest, work.copied_bytes, work.is_linked, _unknown(folder))


def prune(
    shelf: Shelf, made: Backup, keep: int, report: Report
) -> tuple[list[str], list[str], list[Finding]]:
    """Removes the oldest backups, so that `keep` are left, `made` among them: but only when every checksum of that one is right.

    One of which nobody can say what it holds is not counted, and stays; so does one that is being read now.

    Returns: the names of those that are gone, of those that are being read, and what is wrong with `made`, where nothing was removed.
    """
    old = [one for one in shelf.backups() if one.manifest and one.path != made.path]
    doomed = old[: max(0, len(old) + 1 - keep)]
    if not doomed:
        return [], [], []
    findings = [*verify(made, Sums(), report)]
    if findings:
        return [], [], findings
    gone: list[str] = []
    held: list[str] = []
    for one in doomed:
        (gone if shelf.remove(one) else held).append(one.name)
    return gone, held, []


# --- what is in a data folder ----------------------------------------------------------------------


def _sources(still: Moment, folder: Path) -> Iterator[_Source]:
    places = [(still.path / DATABASE, DATABASE)]
    if still.blobs is not None:
        places.append((still.blobs, BLOBS))
    for place, name in places:
        for inner, state in files.walked(place):
            yield _Source(place / inner, f"{name}/{inner}", state.st_size, state.st_mtime_ns, True)
    for name in COPIED:
        # Whoever runs the service may have put links there. What stands in it may change until it is copied.
        if (path := folder / name).is_file():
            state = path.stat()
            yield _Source(path, name, state.st_size, state.st_mtime_ns, False)


def _unknown(folder: Path) -> list[str]:
    known = {DATABASE, BLOBS, *COPIED, *LEFT}
    return sorted(
        path.name
        for path in folder.iterdir()
        # Files beside these that take their place in a moment are called after them.
        if not any(path.name == name or path.name.startswith(f"{name}.") for name in known)
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    store: str
    layout: str
    offsets: dict[str, dict[str, int]]


def _facts(still: Moment) -> _Facts:
    """What the store says of itself; that it can be opened is seen here, too.

    Raises:
        ConfigurationError: it is damaged.
    """
    with open_still(still.path) as snap:
        keys = Keys(snap)
        layout = find_layout(snap, keys, None, "packed")
        return _Facts(known_store_id(snap, keys), layout, _offsets(snap, keys))


def _offsets(snap: Snapshot, keys: Keys) -> dict[str, dict[str, int]]:
    prefix = keys.ingest_prefix()
    found: dict[str, dict[str, int]] = {}
    for key, packed in snap.scan(*range_of(prefix)):
        if (row := readable.elements(key, len(prefix), str, int)) is not None:
            topic_id, partition = row
            found.setdefault(topic_id, {})[str(partition)] = int(unpack_value(packed))
    return found


def is_fed_by_kafka(manifest: Manifest) -> bool:
    return bool(manifest.offsets.keys() - {LOCAL})


# --- files -----------------------------------------------------------------------------------------


class _Work:
    """Brings files into a backup, each by the cheapest way that there is."""

    def __init__(self, data: Path, last: Backup | None, full: bool, report: Report) -> None:
        self._data = data
        self._last = last
        self._may_link = not full
        self._report = report
        self._done = 0
        self.total = 0
        self.files: dict[str, File] = {}
        self.new_files = self.new_bytes = self.copied_bytes = 0
        self.is_linked = False

    def take(self, sources: Sequence[_Source]) -> None:
        self.total = sum(source.size for source in sources)
        self._data.mkdir(private.FOLDER_MODE)
        for source in sources:
            target = self._data / source.name
            for folder in reversed(target.relative_to(self._data).parents):
                (self._data / folder).mkdir(private.FOLDER_MODE, exist_ok=True)
            self.files[source.name] = self._again(source, target) or self._anew(source, target)

    def _again(self, source: _Source, target: Path) -> File | None:
        """It is as it was in the backup before. A store gives no name twice, but a restored one may give those anew that were given behind its
        backup: so the time counts, too. Whether the disk has kept it is `verify`'s to say, and --full's to mend."""
        if self._last is None or self._last.manifest is None:
            return None
        known = self._last.manifest.files.get(source.name)
        if known is None or (known.size, known.mtime_ns) != (source.size, source.mtime_ns):
            return None
        there = self._last.data / source.name
        try:
            state = there.lstat()
        except OSError:
            return None
        if (
            not files.is_plain(state)
            or state.st_size != known.size
            or abs(state.st_mtime_ns - known.mtime_ns) > _CLOCK_NS
            or not files.linked(there, target)
        ):
            return None
        self._advance(known.size)
        return known

    def _anew(self, source: _Source, target: Path) -> File:
        if self._may_link and source.may_link and files.linked(source.path, target):
            self.is_linked = True
            made = files.summed(target, self._advance)
        else:
            made = files.copied(source.path, target, self._advance)
            self.copied_bytes += made.size
        self.new_files += 1
        self.new_bytes += made.size
        return made

    def _advance(self, count: int) -> None:
        self._done += count
        self._report("copying", self._done, self.total)


def refuse_inside(folder: Path, shelf: Path) -> None:
    """
    Raises:
        ConfigurationError: the backups would stand in what they are backups of.
    """
    data, to = folder.resolve(), shelf.resolve()
    if to == data or to.is_relative_to(data):
        raise ConfigurationError(
            f"{shelf} lies in the data folder {folder}: name a folder outside of it with --to, best on another disk."
        )
