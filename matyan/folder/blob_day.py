"""The bytes of this day's uploads in a file of the data folder, so that a restart gives no token a second day.

Written some seconds after a change and at the end: a kill forgets those seconds. What is counted is `service/accounts.py`'s.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from matyan.service import private
from matyan.service.accounts import BlobDay
from matyan.service.logs import get_logger

log = get_logger()

FILE: Final = "uploads_today"
WRITE_EVERY_S: Final = 5.0


def restore(day: BlobDay, folder: Path) -> None:
    """What the last process of this day has counted; nothing where there is no such file, or none that can be read."""
    with suppress(OSError, ValueError, RecursionError):
        day.restore(json.loads((folder / FILE).read_bytes()))


async def keep(
    day: BlobDay, folder: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Writes it whenever it has changed, until it is cancelled."""
    written = day.snapshot()
    task_status.started()
    try:
        while True:
            await trio.sleep(WRITE_EVERY_S)
            if (now := day.snapshot()) != written:
                await trio.to_thread.run_sync(_write, folder / FILE, now)
                written = now
    finally:
        if (now := day.snapshot()) != written:
            _write(folder / FILE, now)


def _write(path: Path, value: dict[str, object]) -> None:
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.write_text(json.dumps(value))
        private.tighten(partial)
        partial.replace(path)
    except OSError as error:
        log.warning(
            "the uploads of this day could not be written", file=str(path), error=error.strerror
        )
