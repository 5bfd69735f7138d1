"""What a backup says of itself: of which store and moment it is, and each of its files with size and checksum.

One JSON object `{"sha256": …, "backup": {…}}`: the digest is that of the inner object's text as `_text` writes it, so that a manifest
which was changed or cut is none. It finds damage, and no forgery: whoever may write the folder can write a digest, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

FILE: Final = "manifest.json"
DATA: Final = "data"
FORMAT: Final = 1
_INT64: Final = 1 << 63
_LATEST_S: Final = 253402300800.0  # the year 10000


class Damaged(Exception):
    """It is no manifest that this version can use; str() is a fragment."""


@dataclass(frozen=True, slots=True)
class File:
    size: int
    """Bytes."""
    mtime_ns: int
    """When its content was written, as the file system has it, in the data folder and in the backup."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    number: int
    """Counts up in a folder, whatever the clock says."""
    moment: float
    """What was acknowledged before is in it; epoch seconds."""
    program: str
    """The version that made it."""
    folder: str
    """The data folder's path at that time."""
    store: str
    """The store's id."""
    layout: str
    offsets: Mapping[str, Mapping[str, int]]
    """topic id → partition → the next offset, as they are stored."""
    blobs: str
    """"folder": in it; "s3": elsewhere, and not in it."""
    new_files: int
    new_bytes: int
    """What the backup before did not have."""
    files: Mapping[str, File]
    """By their paths below DATA, with slashes."""

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files.values())


def write(manifest: Manifest) -> bytes:
    inner = {"format": FORMAT, **asdict(manifest)}
    text = _text(inner)
    digest = hashlib.sha256(text).hexdigest()
    return b'{"sha256": "%s", "backup":\n%s\n}\n' % (digest.encode(), text)


def read(file: Path) -> Manifest:
    """
    Raises:
        Damaged: it cannot be used, with the reason.
    """
    try:
        whole = json.loads(file.read_bytes())
        inner = whole["backup"]
        if hashlib.sha256(_text(inner)).hexdigest() != whole["sha256"]:
            raise Damaged("it is damaged: its checksum differs")
        return _manifest(inner)
    except FileNotFoundError:
        raise Damaged("it is not there") from None
    except OSError as error:
        raise Damaged(f"it cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged("it is damaged: it is no manifest, or not all of it is there") from None


def _manifest(inner: dict[str, Any]) -> Manifest:
    if (format := inner.pop("format")) != FORMAT:
        raise Damaged(f"it has the format {format!r}, which this version does not know")
    files = {path: File(**file) for path, file in inner.pop("files").items()}
    for path in files:
        pure = PurePosixPath(path)
        if pure.is_absolute() or not pure.parts or ".." in pure.parts:
            raise Damaged("it is damaged: it names a file outside of the backup")
        if str(pure) != path or "\0" in path:
            raise Damaged("it is damaged: it names a file that cannot be")
    made = Manifest(**inner, files=files)
    if not _is_sound(made):
        raise Damaged("it is damaged: a field of it has the wrong type")
    return made


def _is_sound(made: Manifest) -> bool:
    """Whoever wrote it could have written anything."""
    counts = [made.number, made.new_files, made.new_bytes]
    texts = [made.program, made.folder, made.store, made.layout, made.blobs]
    for file in made.files.values():
        counts += (file.size, abs(file.mtime_ns))
        texts.append(file.sha256)
    for partitions in made.offsets.values():
        counts += partitions.values()
    return (
        all(type(one) is int and 0 <= one < _INT64 for one in counts)
        and all(isinstance(one, str) for one in texts)
        and type(made.moment) is float
        and 0 <= made.moment < _LATEST_S
    )


def _text(inner: Mapping[str, Any]) -> bytes:
    """Sorted, one line a file for whoever compares two of them."""
    return json.dumps(inner, sort_keys=True, indent=0, separators=(",", ":")).encode()
