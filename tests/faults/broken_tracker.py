"""`matyan up` with one promise broken on purpose, for the negative controls of the fault tests.

python -m tests.faults.broken_tracker no-sync|acknowledge-early|die-before-replay|die-after-replay --data DIR --port PORT
"""

from __future__ import annotations

import os
import sys
from functools import partial

from matyan import embedded, folder
from matyan.broker.base import DeadLetter, DeliveryCallback
from matyan.broker.local import LocalBroker, Redelivery
from matyan.cli import main
from matyan.store.rocks import open_rocks
from matyan.workers.ingest import IngestWorker


class DiesAfterReplay(LocalBroker):
    """The process ends between the commit of a dead letter that was sent again and everything that follows."""

    def redeliver(self, number: int, letter: DeadLetter, on_done: DeliveryCallback) -> Redelivery:
        return super().redeliver(number, letter, lambda error: os._exit(9))


class DiesBeforeReplay(LocalBroker):
    """The process ends when it has taken a dead letter again, before it is committed."""

    def redeliver(self, number: int, letter: DeadLetter, on_done: DeliveryCallback) -> Redelivery:
        super().redeliver(number, letter, on_done)
        os._exit(9)


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
        case "die-before-replay":
            embedded.LocalBroker = DiesBeforeReplay
        case "die-after-replay":
            embedded.LocalBroker = DiesAfterReplay
        case promise:
            sys.exit(f"no promise of that name: {promise}")
    sys.argv[:] = ["matyan", "up", *sys.argv[2:]]
    main()
