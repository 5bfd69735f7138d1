"""The stores that the ledger's tests run on: one that runs each body once, one that runs each twice, and FoundationDB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import fdb
from tests.ledger import Ledger
from tests.memory_store import MemoryStore, Twice


@pytest.fixture(scope="module", params=["each body once", "each body twice", *fdb.ENGINES])
def bodies(request: pytest.FixtureRequest) -> Iterator[None]:
    """How often the ledger's store runs the body of a transaction: an engine whose transactions conflict runs it again."""
    make = Ledger.make_store
    match request.param:
        case "each body twice":
            Ledger.make_store = staticmethod(lambda: MemoryStore(Twice()))
            yield
        case "fdb":
            with fdb.fdb_stores() as make_store:
                Ledger.make_store, Ledger.pays = staticmethod(make_store), True
                yield
        case _:
            yield
    Ledger.make_store, Ledger.pays = make, False
