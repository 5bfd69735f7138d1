"""A reader of a folder that somebody holds already."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from matyan.folder import client
from matyan.reader import Reader


def reader_of(folder: Path) -> Reader:
    return Reader(partial(client.connect, folder))
