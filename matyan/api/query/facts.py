"""What must hold of every match, as far as the outermost `and` of a query says so: for whoever looks things up in an index.

A fact may only narrow what is looked at; the query decides.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_FLAGS = {"active": "active", "archived": "archived", "is_archived": "archived"}
_LISTS = (ast.List, ast.Tuple, ast.Set)


@dataclass(slots=True)
class Facts:
    """None, or {}: nothing is known."""

    never: bool = False
    """Nothing can match."""
    hashes: list[str] | None = None
    """The run is one of these."""
    experiments: list[str] | None = None
    tags: list[str] = field(default_factory=list)
    """The run has each of these."""
    flags: dict[str, bool] = field(default_factory=dict)
    """"active" and "archived"."""
    sequences: list[str] | None = None
    """The run has a sequence of one of these names."""


def facts_of(tree: ast.expr) -> Facts:
    facts = Facts()
    for clause in _clauses(tree):
        _learn(facts, clause)
    return facts


def _clauses(tree: ast.expr) -> Iterator[ast.expr]:
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        for value in tree.values:
            yield from _clauses(value)
    else:
        yield tree


def _learn(facts: Facts, clause: ast.expr) -> None:
    if isinstance(clause, (ast.Constant, ast.Tuple, ast.List)):
        facts.never = facts.never or not (
            clause.value if isinstance(clause, ast.Constant) else clause.elts
        )
        return
    if not isinstance(clause, ast.Compare) or len(clause.ops) != 1:
        return
    left, op, right = clause.left, clause.ops[0], clause.comparators[0]
    if (
        isinstance(op, ast.In)
        and isinstance(left, ast.Constant)
        and _path(right) == ("run", "tags")
    ):
        if isinstance(left.value, str):
            facts.tags.append(left.value)
        return
    if isinstance(op, ast.Eq) and isinstance(left, ast.Constant):
        left, right = right, left
    path = _path(left)
    values = _constants(op, right)
    if path is None or values is None:
        return
    texts = [value for value in values if isinstance(value, str)]
    whole = len(texts) == len(values)
    if path == ("run", "hash"):
        facts.hashes = _both(facts.hashes, texts)
    elif path == ("run", "experiment") and whole:
        facts.experiments = _both(facts.experiments, texts)
    elif len(path) == 2 and path[0] != "run" and path[1] == "name":
        facts.sequences = _both(facts.sequences, texts)
    elif path[0] == "run" and path[1] in _FLAGS and values in ([True], [False]):
        facts.flags.setdefault(_FLAGS[path[1]], bool(values[0]))


def _path(node: ast.expr) -> tuple[str, str] | None:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id, node.attr
    return None


def _constants(op: ast.cmpop, node: ast.expr) -> list[Any] | None:
    """The values that the left side may have."""
    if isinstance(op, ast.Eq) and isinstance(node, ast.Constant):
        return [node.value]
    if isinstance(op, ast.In) and isinstance(node, _LISTS):
        found = [item.value for item in node.elts if isinstance(item, ast.Constant)]
        return found if len(found) == len(node.elts) else None
    return None


def _both(known: list[str] | None, more: list[str]) -> list[str]:
    if known is None:
        return more
    wanted = set(more)
    return [text for text in known if text in wanted]
