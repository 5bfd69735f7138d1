"""What `matyan.reader.open` takes: a data folder, a store's name or a URL; and who answers for it."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from matyan.errors import ConfigurationError, FolderInUse
from matyan.folder import client
from matyan.reader.reading import Reader
from matyan.reader.remote import RemoteReader, Server, is_url
from matyan.settings import Settings, load_cluster
from matyan.store.open import (
    ClusterName,
    is_data_folder,
    is_named,
    named,
    open_cluster_store,
)

_LOCK_WAIT_S = 30.0
"""Who holds the folder may be starting, on a machine that is busy."""
_FIRST_POLL_S, _LONGEST_POLL_S = 0.05, 0.5
"""Each try costs a thread and a look at the lock."""


def open(data: str | os.PathLike[str] = ".matyan") -> Reader:
    """Opens a data folder for reading, whether or not `matyan up` or an ingest worker runs on it; or the store that `data` is
    the name of: "rocks:FOLDER", or "fdb:CLUSTER_FILE", a FoundationDB cluster ("fdb:": of the setting FDB_CLUSTER_FILE); or whatever
    process serves the read API at a URL, http://[name:token@]host:port. The reader is to be closed, best by a `with`.

    Raises:
        ConfigurationError: there is no tracker's data in the folder, no store in the cluster, or it cannot be opened; that is no URL.
            What a URL leads to is seen when something is asked.
        Unavailable: the cluster does not answer.
    """
    if is_url(data):
        return RemoteReader(Server(str(data)))
    place = _place(data)
    with ExitStack() as stack:
        if isinstance(place, Path):
            connect: client.Connect = _answered(place, stack)
        else:
            # The engines cost a start-up that most readers do not need.
            from matyan.folder.hold import open_cluster

            settings = load_cluster()
            open_store = partial(open_cluster_store, place, settings, create=False)
            connect = stack.enter_context(open_cluster(open_store, settings))
        return Reader(connect, stack.pop_all().close)


def _place(data: str | os.PathLike[str]) -> Path | ClusterName:
    if isinstance(data, str) and is_named(data):
        try:
            name = named(data)
        except ValueError as error:
            raise ConfigurationError(f"{data!r}: {error}.") from None
        return name if isinstance(name, ClusterName) else name.folder.absolute()
    return Path(data).absolute()


def _answered(folder: Path, stack: ExitStack) -> client.Connect:
    """Returns when somebody answers for the folder, if need be a thread of this process until `stack` is closed."""
    if not is_data_folder(folder):
        raise ConfigurationError(
            f"There is no tracker data in {folder}: name another folder with --data, "
            f"or start one with: matyan up --data {folder}."
        )
    deadline = time.monotonic() + _LOCK_WAIT_S
    pause = _FIRST_POLL_S
    while not client.is_answered(folder):
        from matyan.folder.hold import hold

        try:
            stack.enter_context(hold(folder, Settings()))
        except FolderInUse:
            # Somebody is between taking the lock and answering, or between the last answer and the exit.
            if time.monotonic() > deadline:
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_S)
    return partial(client.connect, folder)
