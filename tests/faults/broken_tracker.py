"""`matyan up` with one promise broken on purpose, for the negative controls of the fault tests.

python -m tests.faults.broken_tracker no-sync|acknowledge-early --data DIR --port PORT
"""

from __future__ import annotations

import sys
from functools import partial

from matyan import embedded, folder
from matyan.cli import main
from matyan.store.rocks import open_rocks
from matyan.workers.ingest import IngestWorker


def broken_tracker(promise: str) -> tuple[str, ...]:
    """The command that starts it."""
    return (sys.executable, "-m", "tests.faults.broken_tracker", promise)


if __name__ == "__main__":
    match sys.argv[1]:
        case "no-sync":
            folder.open_rocks = partial(open_rocks, sync=False)
        case "acknowledge-early":
            embedded.IngestWorker = partial(
                IngestWorker, lose_records_by_acknowledging_before_the_commit=True
            )
        case promise:
            sys.exit(f"no promise of that name: {promise}")
    sys.argv[:] = ["matyan", "up", *sys.argv[2:]]
    main()
