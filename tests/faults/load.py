"""Clients for the fault tests, and the oracle: what was sent, what was acknowledged, what is stored."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

OK = {"status": "ok", "error": None}


def metric(run: str, name: str, value: float, step: int | None) -> dict[str, object]:
    """One log_metric message as the SDK writes it."""
    return {
        "type": "log_metric",
        "run_id": run,
        "name": name,
        "value": value,
        "step": step,
        "epoch": None,
        "context": {"subset": "train"},
        "dtype": "float",
        "client_datetime": datetime.now(UTC).isoformat(),
    }


@dataclass
class Ledger:
    """What one client knows of its run. Values are unique, so a value stored twice is seen."""

    sent: set[float] = field(default_factory=set)
    acknowledged: set[float] = field(default_factory=set)

    def faults(self, stored: Iterable[float]) -> list[str]:
        """What is wrong with what is stored: lost, doubled or invented values; empty when all is well."""
        times = Counter(stored)
        checks = {
            "acknowledged and lost": self.acknowledged - times.keys(),
            "stored and never sent": times.keys() - self.sent,
            "stored twice": {value for value, often in times.items() if often > 1},
        }
        return [
            f"{len(wrong)} {what}: {sorted(wrong)[:5]}" for what, wrong in checks.items() if wrong
        ]


class Client(threading.Thread):
    """A raw client: one frame in flight, as the SDK has it; after a lost connection it connects again.

    Points have no step, so that each record that is applied makes a point of its own: a record that was
    applied twice would show. A frame without an answer is not sent again (nobody knows its fate).
    """

    def __init__(self, url: str, run: str, *, per_frame: int = 20) -> None:
        super().__init__(daemon=True)
        self.run_id = run
        self.ledger = Ledger()
        self._url = f"{url.replace('http', 'ws')}/api/v1/ws/runs/{run}"
        self._per_frame = per_frame
        self._values = count()
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.is_set():
            try:
                with connect(
                    self._url, compression=None, open_timeout=2, close_timeout=1
                ) as socket:
                    while not self._stop_asked.is_set():
                        values = [float(next(self._values)) for _ in range(self._per_frame)]
                        self.ledger.sent.update(values)
                        socket.send(
                            json.dumps([metric(self.run_id, "loss", v, None) for v in values])
                        )
                        if json.loads(socket.recv(timeout=60)) == OK:
                            self.ledger.acknowledged.update(values)
            except (OSError, WebSocketException):
                time.sleep(
                    0.02
                )  # the server is down: this is the load of the test, not a wait for it

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(90)
        assert not self.is_alive(), f"the client of {self.run_id} hangs"
