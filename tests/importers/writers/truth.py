"""What a writer has logged, in the shape that `tests/importers/imported.py` compares: printed as one JSON object.

It imports nothing but the standard library, since it runs in the environments of the other programs.
"""

from __future__ import annotations

import base64
import json
from typing import Any


class Run:
    """One run as it should be here. name: how it is called here."""

    def __init__(self, name: str, **about: Any) -> None:
        self.name = name
        self.about: dict[str, Any] = {"tags": [], "active": False, **about}
        self.metrics: dict[str, list[list[Any]]] = {}
        self.objects: list[list[Any]] = []
        self.artifacts: dict[str, str] = {}
        self.lines: list[str] = []
        self.records: list[list[Any]] = []

    def point(
        self,
        name: str,
        step: int,
        value: float,
        *,
        context: dict[str, Any] | None = None,
        epoch: float | None = None,
        time: float | None = None,
    ) -> None:
        key = json.dumps([name, context or {}], sort_keys=True)
        self.metrics.setdefault(key, []).append([step, float(value), epoch, time])

    def object(
        self,
        name: str,
        step: int,
        fields: dict[str, Any],
        *,
        context: dict[str, Any] | None = None,
        data: bytes | None = None,
    ) -> None:
        """fields: those of its value that are compared; data: of its blob."""
        self.objects.append([name, context or {}, step, fields, _text(data)])

    def artifact(self, path: str, data: bytes) -> None:
        self.artifacts[path] = base64.b64encode(data).decode()


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def tell(runs: list[Run], **more: Any) -> None:
    """more: left_out, changed: kind → count."""
    print(json.dumps({"runs": [vars(run) for run in runs], "left_out": {}, "changed": {}, **more}))
