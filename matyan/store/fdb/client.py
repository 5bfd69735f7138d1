"""FoundationDB's client library: loading it, opening a cluster, and what its errors mean for whoever must mend them.

The binding `foundationdb` loads the library and runs its network thread; the calls made for each row are `_calls`'. Codes and
names of errors: https://apple.github.io/foundationdb/api-error-codes.html.
"""

from __future__ import annotations

import ctypes
import json
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from matyan.errors import ConfigurationError, Expired, Unavailable
from matyan.store.fdb._calls import FUNCTIONS, Calls

TIMEOUT_S: Final = 4.0
"""What a transaction takes at most: FoundationDB gives it 5 s, and a drain as many (SHUTDOWN_FLUSH_TIMEOUT)."""

TOO_OLD: Final = 1007
TIMED_OUT: Final = 1031
LOCKED: Final = 1038
TOO_LARGE: Final = {
    2101: "the transaction is larger than the 10,000,000 bytes that FoundationDB takes",
    2102: "a key is larger than the 10,000 bytes that FoundationDB takes",
    2103: "a value is larger than the 100,000 bytes that FoundationDB takes",
}
"""transaction_too_large, key_too_large, value_too_large."""
STATUS: Final = b"\xff\xff/status/json"
"""The key of what `fdbcli --exec 'status json'` prints (https://apple.github.io/foundationdb/special-keys.html)."""
_OLDEST_API: Final = 630
"""The first that has all that is called here: the timeout of a database's transactions, and STATUS."""
_RETRYABLE: Final = 50_000
"""FDB_ERROR_PREDICATE_RETRYABLE."""


_NO_BINDING: Final = (
    "A FoundationDB store needs the extra foundationdb, `pip install 'matyan-trio[foundationdb]'`, and FoundationDB's client "
    "library (libfdb_c.so), version 7.3: install the package foundationdb-clients of the cluster's version."
)


class Cluster:
    """A cluster that was opened; it need not answer.

    Args:
        file: the path of its cluster file.
        database: the binding's.
    """

    def __init__(self, fdb: ModuleType, file: str, database: Any) -> None:
        self.fdb = fdb
        self.file = file
        self.database = database
        library = fdb.impl._capi
        self._library = library
        addresses = [
            ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in FUNCTIONS
        ]
        self.calls = Calls(addresses, fdb.FDBError)

    def transaction(self) -> Any:
        """A new transaction, the binding's."""
        return self.database.create_transaction()

    def is_retryable(self, code: int) -> bool:
        """Whether the next attempt may do. The client thinks so of a locked database, too, and would wait as long as it may."""
        return code != LOCKED and bool(self._library.fdb_error_predicate(_RETRYABLE, code))

    def away(self, code: int) -> Unavailable:
        """What to say when a transaction failed for good."""
        why = self.fdb.FDBError(code).description
        why = why.decode() if isinstance(why, bytes) else str(why)
        if code == LOCKED:
            return Unavailable(
                f"The FoundationDB database of {self.file} is locked, as during a restore: unlock it with "
                "`fdbcli --exec 'unlock UID'`."
            )
        if code == TIMED_OUT:
            return Unavailable(
                f"FoundationDB (coordinators {self._coordinators()}, as {self.file} says) did not answer in "
                f"{TIMEOUT_S:.0f} s: `fdbcli -C {self.file} --exec status` tells whether it can be reached, and what it "
                "waits for (processes that are away, a full disk)."
            )
        return Unavailable(
            f"FoundationDB ({self.file}) says: {why} ({code}). `fdbcli -C {self.file} --exec status` tells more."
        )

    def versions(self, status: bytes | None) -> str:
        """Those of the servers, as STATUS tells them, and of the client library."""
        get_client_version = self._library.fdb_get_client_version
        get_client_version.restype = ctypes.c_char_p
        client = get_client_version().decode().partition(",")[0]
        try:
            processes = json.loads(status or b"{}")["cluster"]["processes"].values()
            servers = sorted({str(process["version"]) for process in processes})
        except (KeyError, TypeError, ValueError):
            servers = []
        return f"FoundationDB {' and '.join(servers) or 'of an unknown version'}, client library {client}"

    def expired(self) -> Expired:
        return Expired(
            "A transaction took longer than the 5 s that FoundationDB gives it: the cluster is slow, or there is too much in it."
        )

    def _coordinators(self) -> str:
        try:
            return Path(self.file).read_text().strip().rpartition("@")[2] or "none"
        except (OSError, UnicodeDecodeError):
            return "not to be read any more"


def load(api_version: int) -> ModuleType:
    """The binding, with its library; the version is chosen once a process.

    Raises:
        ConfigurationError: there is no library, or it does not fit (the sentence says which).
    """
    if api_version < _OLDEST_API:
        raise ConfigurationError(
            f"FDB_API_VERSION={api_version} is too old: 730 is that of the client library 7.3."
        )
    try:
        import fdb

        fdb.api_version(api_version)
    except ImportError as error:
        raise ConfigurationError(_NO_BINDING) from error
    except RuntimeError as error:
        raise ConfigurationError(
            f"FDB_API_VERSION={api_version} does not go with the FoundationDB client here: {error}. "
            "730 is that of the client library 7.3."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"FoundationDB's client library cannot be loaded: {error}."
        ) from error
    except Exception as error:
        # The binding raises no other class when it finds no library.
        raise ConfigurationError(
            "A FoundationDB store needs FoundationDB's client library (libfdb_c.so), version 7.3, which no Python package "
            "has: install the package foundationdb-clients of the cluster's version."
        ) from error
    module: ModuleType = fdb
    return module


def open_cluster(file: str, api_version: int) -> Cluster:
    """
    Raises:
        ConfigurationError: no binding, no cluster file that can be read, or no client library; in this order, as somebody installs them.
    """
    if find_spec("fdb") is None:
        raise ConfigurationError(_NO_BINDING)
    path = Path(file).expanduser().absolute()
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no cluster file {path}: give the path of the cluster's fdb.cluster, as --store fdb:FILE or FDB_CLUSTER_FILE."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"The cluster file {path} cannot be read: {why}.") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1 or "@" not in lines[0]:
        raise ConfigurationError(
            f"The file {path} is no cluster file: it has one line, such as description:id@10.0.0.1:4500."
        )
    fdb = load(api_version)
    try:
        database = fdb.open(str(path))
    except fdb.FDBError as error:
        raise ConfigurationError(
            f"The cluster file {path} cannot be used: {error}. It has one line, such as description:id@10.0.0.1:4500."
        ) from error
    database.options.set_transaction_timeout(int(1000 * TIMEOUT_S))
    return Cluster(fdb, str(path), database)
