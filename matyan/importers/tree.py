"""Folders below a path, each once, whatever symbolic links there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(top: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder and the files in it, sorted by name; a folder that links lead to twice, or in a circle, is there once. What cannot be
    read is passed over."""
    seen: set[tuple[int, int]] = set()
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield folder, [folder / entry.name for entry in entries if entry.is_file()]
        waiting += [folder / entry.name for entry in reversed(entries) if entry.is_dir()]
