"""What each service's process holds."""

from __future__ import annotations

import sys

import trio


async def test_frontier_imports_no_store() -> None:
    """The frontier's process holds neither a store's engine nor the code that handles blob content on disk."""
    code = (
        "import sys, matyan.services, matyan.broker.kafka, matyan.blobs.s3, matyan.frontier.edge\n"
        "bad = [m for m in sys.modules if m.startswith(('rocksdict', 'matyan.store.rocks', 'matyan.blobs.folder',"
        " 'matyan.records', 'matyan.workers.ingest', 'fdb'))]\n"
        "assert not bad, bad"
    )
    await trio.run_process([sys.executable, "-c", code])
