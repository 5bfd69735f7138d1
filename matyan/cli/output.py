"""Where a command writes the bytes that it was asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from matyan.errors import ConfigurationError
from matyan.service import terminal


@contextmanager
def output_file(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, in a terminal without control characters, or a file that appears under its name only when it is whole."""
    if path is None:
        yield cast("BinaryIO", terminal.Shown()) if sys.stdout.isatty() else sys.stdout.buffer
        return
    if path.exists() and not path.is_file():
        # A device or a pipe: nothing may take its place.
        with open(path, "wb") as file:
            yield file
        return
    path = path.resolve()
    partial = path.with_name(f"{path.name}.part")
    try:
        with open(partial, "w+b") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
