"""A stand-in for the `fdb` package: an ordered map in memory, enough for a program that keeps its data in FoundationDB.

`install()` puts it in the package's place before anything imports that. The tuple and subspace layers are the real package's own
Python; its C library is never loaded. A transaction reads what was committed when it began, and its own writes over it; it is
refused, and repeated by `transactional`, when anything was committed meanwhile and it writes: coarser than FoundationDB, which
compares keys, and never wrong. No limit of time, no atomic operations, watches, versionstamps or key selectors.

Runs in the reference's environment: it imports nothing of this project.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

API_VERSION = 730
MAX_KEY_BYTES, MAX_VALUE_BYTES = 10_000, 100_000
NOT_COMMITTED, KEY_TOO_LARGE, VALUE_TOO_LARGE = 1020, 2102, 2103
_END_OF_KEYS = b"\xff"


class FDBError(Exception):
    """An error with FoundationDB's number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"FoundationDB error {code}")
        self.code = code


class Value:
    """What a get returns; absent when the key has no value."""

    def __init__(self, value: bytes | None) -> None:
        self.value = value

    def present(self) -> bool:
        return self.value is not None

    def wait(self) -> bytes | None:
        return self.value

    def __bytes__(self) -> bytes:
        if self.value is None:
            raise TypeError("the key has no value")
        return self.value

    def __eq__(self, other: object) -> bool:
        return self.value == (other.value if isinstance(other, Value) else other)

    __hash__ = None


class KeyValue:
    """One pair of a range."""

    def __init__(self, key: bytes, value: bytes) -> None:
        self.key = key
        self.value = value


class _State:
    """Everything that is committed. Never changed, only replaced."""

    def __init__(self, values: Mapping[bytes, bytes]) -> None:
        self.values = values
        self.keys = sorted(values)

    def between(self, begin: bytes, end: bytes) -> list[bytes]:
        return self.keys[bisect_left(self.keys, begin) : bisect_left(self.keys, end)]


class _Done:
    """A future that has ended well."""

    def wait(self) -> None:
        return None


class Transaction:
    def __init__(self, database: Database) -> None:
        self.db = database
        self.reset()

    def reset(self) -> None:
        self._state = self.db.state
        self._writes: dict[bytes, bytes | None] = {}

    @property
    def snapshot(self) -> Transaction:
        """Snapshot reads differ from others only in what conflicts, and here no read does."""
        return self

    def get(self, key: bytes) -> Value:
        return Value(self._writes.get(key, self._state.values.get(key)))

    def get_range(
        self,
        begin: bytes | None,
        end: bytes | None,
        limit: int = 0,
        reverse: bool = False,
        streaming_mode: int = -1,
    ) -> Iterator[KeyValue]:
        """The pairs with begin <= key < end as they are now; limit 0: all of them."""
        first, last = begin or b"", _END_OF_KEYS if end is None else end
        written = {key for key in self._writes if first <= key < last}
        keys = sorted({*self._state.between(first, last), *written}, reverse=reverse)
        found = [(key, self.get(key).value) for key in keys]
        pairs = [KeyValue(key, value) for key, value in found if value is not None]
        return iter(pairs[:limit] if limit else pairs)

    def get_range_startswith(self, prefix: bytes, **options: Any) -> Iterator[KeyValue]:
        return self.get_range(prefix, prefix + _END_OF_KEYS, **options)

    def __getitem__(self, key: bytes | slice) -> Any:
        if isinstance(key, slice):
            return self.get_range(key.start, key.stop, reverse=key.step == -1)
        return self.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        key, value = bytes(key), bytes(value)
        check_sizes(key, value)
        self._writes[key] = value

    def clear(self, key: bytes) -> None:
        self._writes[bytes(key)] = None

    def clear_range(self, begin: bytes | None, end: bytes | None) -> None:
        for pair in self.get_range(begin, end):
            self._writes[pair.key] = None

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.set(key, value)

    def __delitem__(self, key: bytes | slice) -> None:
        if isinstance(key, slice):
            self.clear_range(key.start, key.stop)
        else:
            self.clear(key)

    def commit(self) -> _Done:
        """
        Raises:
            FDBError: NOT_COMMITTED, something else was committed meanwhile.
        """
        if self._writes:
            self.db.replace(self._state, self._writes)
        return _Done()

    def on_error(self, error: FDBError) -> _Done:
        """Makes the transaction ready to be tried again, or raises what no second try can mend."""
        if error.code != NOT_COMMITTED:
            raise error
        self.reset()
        return _Done()


def check_sizes(key: bytes, value: bytes) -> None:
    """
    Raises:
        FDBError: FoundationDB takes no pair of such sizes.
    """
    if len(key) > MAX_KEY_BYTES:
        raise FDBError(KEY_TOO_LARGE)
    if len(value) > MAX_VALUE_BYTES:
        raise FDBError(VALUE_TOO_LARGE)


class Database:
    def __init__(self) -> None:
        self.state = _State({})
        self.directories: dict[tuple[str, ...], bytes] = {}
        """The prefix of each directory that was created."""
        self._lock = threading.Lock()

    def create_transaction(self) -> Transaction:
        return Transaction(self)

    def load(self, pairs: Mapping[bytes, bytes]) -> None:
        """Puts these pairs in the place of all that is there."""
        with self._lock:
            self.state = _State(dict(pairs))

    def replace(self, before: _State, writes: Mapping[bytes, bytes | None]) -> None:
        with self._lock:
            if self.state is not before:
                raise FDBError(NOT_COMMITTED)
            values = {**before.values, **writes}
            self.state = _State({key: value for key, value in values.items() if value is not None})


def transactional(function: Callable[..., Any]) -> Callable[..., Any]:
    """The first argument may be a database: then the call is one transaction, repeated until it commits."""

    @functools.wraps(function)
    def wrapper(target: Any, *arguments: Any, **keywords: Any) -> Any:
        if not isinstance(target, Database):
            return function(target, *arguments, **keywords)
        transaction = target.create_transaction()
        while True:
            try:
                result = function(transaction, *arguments, **keywords)
                transaction.commit().wait()
            except FDBError as error:
                transaction.on_error(error).wait()
            else:
                return result

    return wrapper


def _directory_module(subspace: type) -> ModuleType:
    """Directories with short fixed prefixes, in the order of their creation."""

    class DirectorySubspace(subspace):
        def __init__(self, path: tuple[str, ...], prefix: bytes) -> None:
            super().__init__(rawPrefix=prefix)
            self.path = path

        def get_path(self) -> tuple[str, ...]:
            return self.path

    class DirectoryLayer:
        def create_or_open(
            self, target: Database | Transaction, path: str | tuple[str, ...], layer: bytes = b""
        ) -> DirectorySubspace:
            database = target if isinstance(target, Database) else target.db
            name = (path,) if isinstance(path, str) else tuple(path)
            prefix = b"\x15" + bytes([len(database.directories) + 1])
            return DirectorySubspace(name, database.directories.setdefault(name, prefix))

        open = create_or_open

        def exists(self, target: Database | Transaction, path: str | tuple[str, ...]) -> bool:
            database = target if isinstance(target, Database) else target.db
            return ((path,) if isinstance(path, str) else tuple(path)) in database.directories

    module = ModuleType("fdb.directory_impl")
    module.DirectorySubspace = DirectorySubspace
    module.DirectoryLayer = DirectoryLayer
    module.directory = DirectoryLayer()
    return module


def install() -> Database:
    """Puts the stand-in into `sys.modules` as `fdb`; returns the database that every `fdb.open` gives.

    Raises:
        ModuleNotFoundError: the package `foundationdb` is not installed.
    """
    assert "fdb" not in sys.modules, "the real package was imported before"
    # Looks for the package without running anything of it.
    spec = importlib.util.find_spec("fdb")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("the package foundationdb is not installed")

    database = Database()
    package = ModuleType("fdb")
    package.__path__ = list(spec.submodule_search_locations)
    implementation = ModuleType("fdb.impl")
    for name, member in {
        "Database": Database,
        "Transaction": Transaction,
        "FDBError": FDBError,
        "KeyValue": KeyValue,
        "Value": Value,
        "transactional": transactional,
        "open": lambda *arguments, **keywords: database,
    }.items():
        setattr(package, name, member)
        setattr(implementation, name, member)
    package.api_version = lambda version: None
    package.is_api_version_selected = lambda: True
    package.get_api_version = lambda: API_VERSION
    package.impl = implementation
    sys.modules["fdb"] = package
    sys.modules["fdb.impl"] = implementation

    # The real ones, found through the package's path.
    package.tuple = importlib.import_module("fdb.tuple")
    subspace = importlib.import_module("fdb.subspace_impl").Subspace
    package.Subspace = subspace
    directories = _directory_module(subspace)
    sys.modules["fdb.directory_impl"] = directories
    package.directory_impl = directories
    package.directory = directories.directory
    return database
