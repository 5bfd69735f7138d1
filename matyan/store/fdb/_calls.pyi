"""What `_calls.pyx` offers; its docstrings stand there."""

from collections.abc import Callable, Sequence

from matyan.store.base import KeyValue

FUNCTIONS: tuple[str, ...]

class Calls:
    def __init__(self, addresses: Sequence[int], failed: Callable[[int], Exception]) -> None: ...
    def commit(self, transaction: int) -> int: ...
    def on_error(self, transaction: int, error: int) -> int: ...
    def get(self, transaction: int, key: bytes, snapshot: bool) -> Pending: ...
    def get_range(
        self,
        transaction: int,
        begin: bytes,
        end: bytes,
        limit: int,
        target_bytes: int,
        snapshot: bool,
        reverse: bool,
    ) -> Pending: ...
    def write(
        self,
        transaction: int,
        cleared: list[tuple[bytes, bytes]],
        rows: dict[bytes, bytes | None],
        unranged: set[bytes],
        ranges: list[tuple[bytes, bytes]],
    ) -> int: ...

class Pending:
    def value(self) -> bytes | None: ...
    def pairs(self) -> tuple[list[KeyValue], bool]: ...
