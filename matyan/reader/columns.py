"""What attributes and metrics are called where they are columns."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any, Final

from matyan.service import json_text

Row = dict[str, Any]

_METRICS: Final = "metrics"
_PLAIN_NAME = re.compile(r'[^."\[\]]+')


def leaves(tree: Row, taken: Container[str] = ()) -> Iterator[tuple[str, object]]:
    """A run's attributes by what a query calls them behind `run.`: hparams.lr, hparams["a.b"]. taken: what stands in brackets, too."""
    for name, child in tree.items():
        is_taken = name in taken or name == _METRICS
        is_plain = _PLAIN_NAME.fullmatch(name) and not is_taken
        yield from _below(name if is_plain else _bracketed(name), child)


def _below(path: str, tree: object) -> Iterator[tuple[str, object]]:
    if not isinstance(tree, dict) or not tree:
        yield path, tree
        return
    for name, child in tree.items():
        below = f".{name}" if _PLAIN_NAME.fullmatch(name) else _bracketed(name)
        yield from _below(f"{path}{below}", child)


def _bracketed(name: str) -> str:
    return f"[{json_text.dumps(name, ascii=False)}]"


def metric_column(name: str, context: Row) -> str:
    """The column of a metric."""
    within = f" {json_text.dumps(context, ascii=False)}" if context else ""
    return f"{_METRICS}{_bracketed(name) if ' {' in name else f'.{name}'}{within}"
