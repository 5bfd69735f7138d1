"""A log_metric as the tests of the codec change it, member by member."""

from __future__ import annotations

from typing import Any

STAMP = b"2026-01-02T03:04:05.678901Z"
"""When the frontier took it."""


def metric_members(**changes: Any) -> dict[str, Any]:
    """Its members, some changed or added; a member that is `...` is left out."""
    members = {
        "name": "loss",
        "value": 0.5,
        "step": 3,
        "epoch": None,
        "context": {},
        "dtype": "float",
        "client_datetime": "2026-01-02T03:04:05.5+00:00",
    }
    return {name: value for name, value in (members | changes).items() if value is not ...}
