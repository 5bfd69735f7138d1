"""How often a body runs: the same tests on a store that runs each once, and on one that runs each twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ledger import Ledger
from tests.memory_store import Twice


@pytest.fixture(scope="module", params=[None, Twice], ids=["each body once", "each body twice"])
def bodies(request: pytest.FixtureRequest) -> Iterator[None]:
    """How often the ledger's store runs the body of a transaction: an engine whose transactions conflict runs it again."""
    Ledger.faults = request.param
    yield
    Ledger.faults = None
