"""What a target has acknowledged of each run: a file of the sender's, so that an interrupted move goes on where it was.

JSON lines, only ever appended to; read, and written anew in its shortest form, when it is opened. A line that was not written whole ends
it. Which run goes where is not known here.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from matyan.errors import ConfigurationError
from matyan.moving.moved import START, Position

_BEGINNING: Final = b'{"run":'
"""Of each line, and so of what a crash has left of the first."""


@dataclass(slots=True)
class Entry:
    """What is known of a run at the target."""

    at: Position = START
    """What of its messages was acknowledged, if they are still the same."""
    lines: int = 0
    records: int = 0
    """How many of its lines and records were, whatever the messages are now."""
    origin: str = ""
    """Which run of the source it is."""
    base: tuple[int, int] = (0, 0)
    """Lines and records that the target had of this run before."""
    is_finished: bool = False
    """Whether its `finish_run` was acknowledged."""
    in_doubt: bool = False
    """Whether a record was on its way when this was written, of which nobody can say whether it came."""
    done: str | None = None
    """The version that is there as a whole."""
    blobs: dict[str, str] = field(default_factory=dict)
    """Of those that were uploaded: path, and what changes when their bytes do."""
    rejected: int = 0
    """Messages that the target did not take."""

    def row(self, run: str) -> dict[str, Any]:
        return {
            "run": run,
            "at": [self.at.messages, self.at.digest.hex(), self.at.lines, self.at.records],
            "lines": self.lines,
            "records": self.records,
            "base": [*self.base],
            "finished": self.is_finished,
            "in_doubt": self.in_doubt,
            "done": self.done,
            "rejected": self.rejected,
        }


class Ledger:
    """The file, held by one process at a time. To be used in a `with`.

    Raises:
        ConfigurationError: it cannot be used, or another process is at the same move.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Entry] = {}

    def __enter__(self) -> Self:
        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b", buffering=0)
        except OSError as error:
            raise self._unusable(error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ConfigurationError(
                f"Another process is at this move ({path} is its ledger): wait until it has ended."
            ) from None
        except OSError as error:
            self._file.close()
            raise self._unusable(error) from None
        self._load()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def entry(self, run: str) -> Entry | None:
        """None: nothing was ever sent of it."""
        return self._entries.get(run)

    def begin(self, run: str, origin: str = "", base: tuple[int, int] = (0, 0)) -> Entry:
        """Forgets what was known of a run. base: lines and records that the target has of it."""
        self._entries[run] = entry = Entry(origin=origin, base=base)
        self._write(_begun(run, entry))
        return entry

    def note(self, run: str, *, durable: bool = False) -> None:
        """Writes down what its entry says now. It survives this process; `durable`: the machine, too."""
        self._write(self._entries[run].row(run))
        if durable:
            os.fdatasync(self._file.fileno())

    def uploaded(self, run: str, blobs: dict[str, str]) -> None:
        """Writes down that these blobs are there."""
        self._entries[run].blobs.update(blobs)
        self._write({"run": run, "blobs": blobs})

    def _write(self, row: dict[str, Any]) -> None:
        data = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        try:
            self._file.write(data)
        except OSError as error:
            raise self._unusable(error) from None

    def _load(self) -> None:
        self._file.seek(0)
        rows = self._file.read().splitlines(keepends=True)
        whole = 0
        for row in rows:
            if not row.endswith(b"\n") or not self._take(row):
                break
            whole += len(row)
        if rows and not whole and not _BEGINNING.startswith(rows[0][: len(_BEGINNING)]):
            self._file.close()
            raise ConfigurationError(
                f"{self.path} is no ledger of matyan, and stays as it is: name another file with --ledger."
            )
        self._file.truncate(whole)
        # Mostly positions that later ones have overtaken.
        if len(rows) > 2 * sum(1 + bool(entry.blobs) for entry in self._entries.values()) + 100:
            self._shorten()

    def _take(self, data: bytes) -> bool:
        with suppress(ValueError, KeyError, TypeError):
            row = json.loads(data)
            if "begin" in row:
                lines, records = row["base"]
                self._entries[row["run"]] = Entry(origin=row["origin"], base=(lines, records))
                return True
            entry = self._entries.setdefault(row["run"], Entry())
            if "blobs" in row:
                entry.blobs.update(row["blobs"])
                return True
            count, digest, lines, records = row["at"]
            entry.at = Position(count, bytes.fromhex(digest), lines, records)
            entry.lines, entry.records = row["lines"], row["records"]
            first, second = row["base"]
            entry.base = first, second
            entry.is_finished, entry.in_doubt = row["finished"], row["in_doubt"]
            entry.done, entry.rejected = row["done"], row["rejected"]
            return True
        return False

    def _shorten(self) -> None:
        """A shorter file in its place, locked before it has the name."""
        rows: list[dict[str, Any]] = []
        for run, entry in self._entries.items():
            rows.append(_begun(run, entry))
            rows.append(entry.row(run))
            if entry.blobs:
                rows.append({"run": run, "blobs": entry.blobs})
        data = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
        short = self.path.with_name(f"{self.path.name}.part")
        try:
            short.write_bytes(data)
            with open(short, "r+b") as file:
                os.fsync(file.fileno())
            replacing = open(short, "a+b", buffering=0)  # noqa: SIM115 - it lives as long as this
            fcntl.flock(replacing, fcntl.LOCK_EX | fcntl.LOCK_NB)
            short.replace(self.path)
        except OSError as error:
            raise self._unusable(error) from None
        self._file.close()
        self._file = replacing

    def _unusable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"The ledger {self.path} cannot be used ({error.strerror}): mend that, or name another file with --ledger."
        )


def _begun(run: str, entry: Entry) -> dict[str, Any]:
    return {"run": run, "begin": True, "origin": entry.origin, "base": [*entry.base]}
