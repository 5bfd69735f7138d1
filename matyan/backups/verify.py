"""Whether a backup is still what was written: every checksum anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from matyan.backups import files, manifest
from matyan.backups.manifest import File
from matyan.backups.shelf import Backup

DAMAGED, MISSING, EXTRA = "damaged", "missing", "extra"


class Finding(NamedTuple):
    kind: str
    path: str
    """Below the backup's folder."""
    meaning: str
    """A fragment."""


class Sums:
    """Checksums by file: backups share most of theirs, and each is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], File] = {}

    def of(self, backup: Backup, name: str, advance: files.Advance) -> File | None:
        """None: it is no file of its own. Raises OSError."""
        path = backup.data / name
        state = path.lstat()
        if not files.is_plain(state):
            return None
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if key in self._known:
            advance(state.st_size)
        else:
            self._known[key] = files.summed(path, advance)
        return self._known[key]


def verify(
    backup: Backup, sums: Sums, report: Callable[[str, int, int], object]
) -> Iterator[Finding]:
    """What is wrong with it; nothing: all is well."""
    if backup.manifest is None:
        yield Finding(DAMAGED, manifest.FILE, backup.trouble)
        return
    done, total = 0, backup.manifest.bytes

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(f"verifying {backup.name}", done, total)

    for name, file in backup.manifest.files.items():
        path = f"{manifest.DATA}/{name}"
        try:
            found = sums.of(backup, name, advance)
        except (FileNotFoundError, NotADirectoryError):
            yield Finding(MISSING, path, "it is not there")
            continue
        except OSError as error:
            yield Finding(DAMAGED, path, f"it cannot be read ({error.strerror})")
            continue
        if found is None:
            yield Finding(DAMAGED, path, "something else is in its place")
        elif found.size != file.size:
            yield Finding(DAMAGED, path, f"it has {found.size:,} bytes, and had {file.size:,}")
        elif found.sha256 != file.sha256:
            yield Finding(DAMAGED, path, "its checksum differs")
    expected = {manifest.FILE, *(f"{manifest.DATA}/{name}" for name in backup.manifest.files)}
    for name, _ in files.walked(backup.path):
        if name not in expected:
            yield Finding(EXTRA, name, "the backup has not put it there")
