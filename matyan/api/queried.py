"""Runs and sequences as the query language meets them: what `run.…` and `metric.…` mean."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

from matyan.api.query import EvaluationError, Node
from matyan.api.query.values import Texts
from matyan.api.runs import METRIC, RunView, text
from matyan.rules.sequences import SequenceInfo
from matyan.rules.trees import MISSING


class QueriedRun(Node):
    """`run`: what is listed here, and its attributes."""

    def __init__(self, run: RunView) -> None:
        self.view = run

    def attribute(self, name: str) -> Any:
        known = _RUN.get(name)
        return self.view.attribute(name) if known is None else known(self.view)

    def item(self, key: Any) -> Any:
        found = self.view.attribute(key, MISSING) if isinstance(key, str) else MISSING
        if found is MISSING:
            raise EvaluationError(f"the run has no attribute {str(key)[:100]!r}")
        return found


def duration(run: RunView) -> float | None:
    """Up to now while it goes on."""
    meta = run.meta
    if meta.get("duration") is not None:
        return float(meta["duration"])
    begun, ended = meta.get("client_start_ts") or meta.get("created_at"), meta.get("finalized_at")
    if begun is None or not (meta.get("active") or ended):
        return None
    return max(0.0, (time.time() if ended is None else float(ended)) - float(begun))


_RUN: Final[dict[str, Callable[[RunView], Any]]] = {
    "hash": lambda run: run.run,
    "name": lambda run: text(run.meta, "name"),
    "description": lambda run: text(run.meta, "description"),
    "experiment": lambda run: run.experiment["name"],
    "tags": lambda run: Texts(tag["name"] for tag in run.tags),
    "created_at": lambda run: run.meta.get("created_at"),
    "creation_time": lambda run: run.meta.get("created_at"),
    "end_time": lambda run: run.meta.get("finalized_at"),
    "finalized_at": lambda run: run.meta.get("finalized_at"),
    "duration": duration,
    "active": lambda run: bool(run.meta.get("active")),
    "archived": lambda run: bool(run.meta.get("is_archived")),
    "is_archived": lambda run: bool(run.meta.get("is_archived")),
    "metrics": lambda run: _Metrics(run),
}


class _Metrics(Node):
    """`run.metrics["loss"]`, or `run.metrics["loss", {"subset": "train"}]`; without a context the first one of that name."""

    def __init__(self, run: RunView) -> None:
        self._run = run

    def item(self, key: Any) -> Any:
        name, context = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        if context is None:
            info = self._run.first_metric(name) if isinstance(name, str) else None
        else:
            info = self._run.find(METRIC, name, context)
        return _Nothing() if info is None else QueriedSequence(self._run, info)


class _Nothing(Node):
    """A metric that the run has not: all of it is None."""


class QueriedSequence(Node):
    """`metric`, `images` and so on."""

    def __init__(self, run: RunView, info: SequenceInfo) -> None:
        self._run = run
        self._info = info

    def attribute(self, name: str) -> Any:
        if name == "name":
            return self._info.name
        if name == "context":
            return self._context
        if name in ("last", "last_step"):
            return getattr(self._info, name)
        return QueriedRun(self._run) if name == "run" else None

    @cached_property
    def _context(self) -> dict[str, Any]:
        return self._run.context(self._info)
