"""`matyan frontier` with one promise broken on purpose, for the negative controls of the fault tests.

python -m tests.faults.broken_frontier publish-resends|acknowledge-early --host HOST --port PORT
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from matyan.broker.base import DeliveryCallback
from matyan.broker.kafka import producer
from matyan.cli.main import main
from matyan.frontier.session import PendingFrame


def broken_frontier(promise: str) -> tuple[str, ...]:
    """The command that starts it."""
    return (sys.executable, "-m", "tests.faults.broken_frontier", promise)


class Hasty(producer.KafkaProducer):
    """Says that a frame is delivered as soon as it has it, while records wait for half a second before they are sent."""

    def __init__(self, config: dict[str, Any], *more: Any) -> None:
        super().__init__({**config, "linger.ms": 500}, *more)

    def produce(self, key: bytes, values: Sequence[bytes], on_done: DeliveryCallback) -> None:
        super().produce(key, values, lambda error: None)
        on_done(None)


if __name__ == "__main__":
    match sys.argv[1]:
        case "publish-resends":
            PendingFrame.is_due = lambda self, now: False
        case "acknowledge-early":
            producer.KafkaProducer = Hasty
        case promise:
            sys.exit(f"no promise of that name: {promise}")
    sys.argv[:] = ["matyan", "frontier", *sys.argv[2:]]
    main()
