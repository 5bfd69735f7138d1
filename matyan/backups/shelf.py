"""The folder in which backups stand: which there are, who may write it, and the removal of old ones. What is in one is not read here,
but for its manifest."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matyan.backups import files, manifest
from matyan.backups.manifest import Damaged, Manifest
from matyan.errors import ConfigurationError, MatyanError, NotFound
from matyan.service import private

_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z(-[0-9]+)?")
UNFINISHED: Final = ".part"
_LOCK: Final = "lock"


@dataclass(frozen=True, slots=True)
class Backup:
    """One that is finished."""

    path: Path
    manifest: Manifest | None
    """None: it cannot be used."""
    trouble: str = ""
    """Why not, a fragment."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def data(self) -> Path:
        return self.path / manifest.DATA

    @contextmanager
    def held(self, *, to_remove: bool = False) -> Iterator[bool]:
        """Nobody removes it meanwhile. `to_remove`: nobody else holds it; it gives whether that is so."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                kind = fcntl.LOCK_EX if to_remove else fcntl.LOCK_SH
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                is_held = True
            except OSError:  # another process, or a file system without locks
                is_held = False
            yield is_held
        finally:
            os.close(descriptor)


class Shelf:
    """
    Args:
        path: the folder; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def backups(self) -> list[Backup]:
        """Those that are finished, oldest first; before them those of which nobody can say how old they are.

        Raises:
            ConfigurationError: the folder cannot be read.
        """
        found = [self._backup(name) for name in self._names() if _NAME.fullmatch(name)]
        return sorted(found, key=lambda one: (one.manifest.number if one.manifest else 0, one.name))

    def unfinished(self) -> list[str]:
        """The names of what was cut off, or is being made now."""
        return sorted(
            name
            for name in self._names()
            if name.endswith(UNFINISHED) and _NAME.fullmatch(name.removesuffix(UNFINISHED))
        )

    def find(self, name: str | None) -> Backup:
        """The backup of this name, or the newest.

        Raises:
            NotFound: there is none.
            ConfigurationError: the folder cannot be read.
        """
        backups = self.backups()
        if name is None:
            if backups:
                return backups[-1]
            raise NotFound(
                f"There is no backup in {self.path}: make one with `matyan backup DIR --to {self.path}`."
            )
        for one in backups:
            if one.name == name:
                return one
        raise NotFound(
            f"There is no backup {name} in {self.path}: `matyan backup list {self.path}` shows those that there are."
        )

    def _backup(self, name: str) -> Backup:
        path = self.path / name
        try:
            return Backup(path, manifest.read(path / manifest.FILE))
        except Damaged as error:
            return Backup(path, None, str(error))

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be read ({error.strerror}): name the folder in which the backups stand."
            ) from None

    # --- for whoever makes them -----------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The folder is there, and nobody else writes it; what others have not finished is gone.

        Raises:
            ConfigurationError: it cannot be written.
            MatyanError: another process does.
        """
        private.make(self.path)
        try:
            lock = open(self.path / _LOCK, "a")  # noqa: SIM115 - closed below
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be written ({error.strerror}): mend that, or name another folder with --to."
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MatyanError(
                    f"Another backup is being written to {self.path}: wait until that has ended."
                ) from None
            except OSError:
                pass  # a file system without locks: each backup has a name of its own all the same
            for name in self.unfinished():
                shutil.rmtree(self.path / name, ignore_errors=True)
            yield

    def begin(self) -> Path:
        """A new folder for a backup that is not finished, named by the time."""
        stem = name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        number = 1
        while (self.path / name).exists():
            number += 1
            name = f"{stem}-{number}"
        path = self.path / f"{name}{UNFINISHED}"
        path.mkdir(private.FOLDER_MODE)
        return path

    def finish(self, begun: Path, made: Manifest) -> Backup:
        """Makes a backup of it, whose files are on the disk: from here on it is one, also after a power cut."""
        file = begun / manifest.FILE
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(manifest.write(made))
        files.sync(file)
        files.sync(begun)
        path = begun.with_name(begun.name.removesuffix(UNFINISHED))
        begun.rename(path)
        files.sync(self.path)
        return Backup(path, made)

    def remove(self, backup: Backup) -> bool:
        """Removes it, unless somebody reads it now; whether it did. First it stops to be a backup, then its files go."""
        with backup.held(to_remove=True) as is_mine:
            if not is_mine:
                return False
            doomed = backup.path.with_name(f"{backup.name}{UNFINISHED}")
            backup.path.rename(doomed)
            files.sync(self.path)
            shutil.rmtree(doomed, ignore_errors=True)
        return True
