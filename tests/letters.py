"""Dead letters in a data folder."""

from __future__ import annotations

from pathlib import Path

from matyan.broker.base import DeadLetter
from matyan.broker.local import LocalBroker
from matyan.keys import Keys
from matyan.store.open import open_folder_store


async def bury(data: Path, *records: bytes) -> None:
    """Puts records among the dead letters of a folder that nobody holds, as a worker that could not apply them did."""
    store = open_folder_store(data)
    try:
        outbox = LocalBroker(Keys(store), 1 << 20).outbox()
        letters = [
            DeadLetter("data-ingestion", 0, number, b"r", value, "InvalidRecord", "a bug, mended")
            for number, value in enumerate(records)
        ]
        await store.transact(lambda tr: outbox.within(tr, [], letters))
    finally:
        await store.aclose()
