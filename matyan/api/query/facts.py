"""What must hold of every match, as far as an index can tell: for whoever looks runs up in one.

A need may only narrow what is looked at; the query decides. So whatever is not understood here is no need, and what is must hold of
each run of which the query is true. Runs of which the query cannot be evaluated do not match anyway.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from matyan.api.query.values import ERRORS, EvaluationError

Index = Literal[
    "hash", "hparam", "tag", "experiment", "active", "archived", "sequence", "created_at"
]


@dataclass(frozen=True, slots=True)
class Is:
    """The run has this value: one of its tags, the name of one of its sequences, `True` or `False` for active and archived."""

    index: Index
    value: Any
    name: str = ""
    """Of the hparam."""


@dataclass(frozen=True, slots=True)
class Within:
    """A number that the run has lies between these, both included; None: no bound."""

    index: Literal["hparam", "created_at"]
    low: float | None
    high: float | None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Begins:
    """The run has a sequence whose name begins so."""

    text: str


@dataclass(frozen=True, slots=True)
class Every:
    """All of these; none: nothing is known."""

    parts: tuple[Need, ...] = ()


@dataclass(frozen=True, slots=True)
class Either:
    """One of these at least; none: nothing matches."""

    parts: tuple[Need, ...] = ()


Need = Is | Within | Begins | Every | Either

ANYTHING: Final = Every()
NOTHING: Final = Either()

Evaluate = Callable[[ast.expr], Any]
"""The value of an expression without names.

Raises:
    EvaluationError, or one of ERRORS: it has none.
"""

_FLAGS: Final[dict[str, Index]] = {
    "active": "active",
    "archived": "archived",
    "is_archived": "archived",
}
_DATES: Final = frozenset(("created_at", "creation_time"))
_LASTS: Final = frozenset(("last", "last_step"))
_LISTS: Final = (ast.List, ast.Tuple, ast.Set)
_TURNED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.Eq,
    ast.Is: ast.Is,
    ast.NotEq: ast.NotEq,
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}
"""a < b is b > a."""
_MOST_NODES: Final = 64
"""Of an expression that is evaluated beforehand."""


def needs(tree: ast.expr, evaluate: Evaluate) -> Need:
    """What every match of a checked query needs."""
    return _Reader(evaluate).truthy(tree)


@dataclass(frozen=True, slots=True)
class _Reader:
    _evaluate: Evaluate

    def truthy(self, node: ast.expr) -> Need:
        """What must hold where the expression is true."""
        if isinstance(node, ast.BoolOp):
            parts = tuple(self.truthy(value) for value in node.values)
            if isinstance(node.op, ast.And):
                return _every(parts)
            return ANYTHING if ANYTHING in parts else Either(parts)
        if isinstance(node, ast.Compare):
            # a < b < c is a < b and b < c.
            sides = [node.left, *node.comparators]
            pairs = zip(sides, node.ops, sides[1:], strict=False)
            return _every(tuple(self._compared(left, op, right) for left, op, right in pairs))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return _flag(_path(node.operand), False)
        if isinstance(node, ast.Attribute):
            return _flag(_path(node), True)
        if isinstance(node, ast.Call):
            return self._called(node)
        if isinstance(node, (ast.Tuple, ast.List)) and not node.elts:
            return NOTHING
        constant = self._constant(node)
        return NOTHING if constant and not constant[0] else ANYTHING

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Need:
        if isinstance(op, ast.In):
            return self._contained(left, right)
        if type(op) not in _TURNED:
            return ANYTHING
        constant, kind, other = self._constant(right), type(op), left
        if not constant:
            constant, kind, other = self._constant(left), _TURNED[type(op)], right
        if not constant:
            return ANYTHING
        if (
            constant[0] is True
            and kind in (ast.Eq, ast.Is)
            and isinstance(other, (ast.Call, ast.Compare))
        ):
            return self.truthy(other)
        return _related(_path(other), kind, constant[0])

    def _contained(self, left: ast.expr, right: ast.expr) -> Need:
        if _path(right) == ("run", "tags"):
            wanted = self._constant(left)
            return Is("tag", wanted[0]) if wanted and isinstance(wanted[0], str) else ANYTHING
        path = _path(left)
        if path is None or not isinstance(right, _LISTS):
            return ANYTHING
        values = [self._constant(item) for item in right.elts]
        if not all(values):
            return ANYTHING
        parts = tuple(_related(path, ast.Eq, value[0]) for value in values)
        return ANYTHING if ANYTHING in parts else Either(parts)

    def _called(self, node: ast.Call) -> Need:
        function, arguments = node.func, node.args
        if len(arguments) != 1 or node.keywords:
            return ANYTHING
        if isinstance(function, ast.Name) and function.id == "any":
            return self._any(arguments[0])
        if not isinstance(function, ast.Attribute):
            return ANYTHING
        path, wanted = _path(function.value), self._constant(arguments[0])
        if not wanted or not isinstance(wanted[0], str):
            return ANYTHING
        if function.attr == "contains" and path == ("run", "tags"):
            return Is("tag", wanted[0])
        if function.attr == "startswith" and _is_sequence_name(path):
            return Begins(wanted[0])
        return ANYTHING

    def _any(self, node: ast.expr) -> Need:
        """any(t in ["a"] for t in run.tags), as the web app's home page asks."""
        if not isinstance(node, (ast.GeneratorExp, ast.ListComp)) or len(node.generators) != 1:
            return ANYTHING
        loop, test = node.generators[0], node.elt
        if _path(loop.iter) != ("run", "tags") or not isinstance(loop.target, ast.Name):
            return ANYTHING
        if not isinstance(test, ast.Compare) or len(test.ops) != 1:
            return ANYTHING
        op, (wanted,) = test.ops[0], test.comparators
        if not isinstance(test.left, ast.Name) or test.left.id != loop.target.id:
            return ANYTHING
        if isinstance(op, ast.Eq):
            values = [self._constant(wanted)]
        elif isinstance(op, ast.In) and isinstance(wanted, _LISTS):
            values = [self._constant(item) for item in wanted.elts]
        else:
            return ANYTHING
        if not all(values):
            return ANYTHING
        return Either(tuple(Is("tag", value[0]) for value in values if isinstance(value[0], str)))

    def _constant(self, node: ast.expr) -> list[Any]:
        """[its value], or [] where it depends on a run, has none, or is nothing that stands in an index."""
        if isinstance(node, ast.Constant):
            return [node.value]
        for count, part in enumerate(ast.walk(node)):
            named = isinstance(part, ast.Name) and part.id not in ("datetime", "timedelta")
            if named or isinstance(part, ast.comprehension) or count >= _MOST_NODES:
                return []
        try:
            value = self._evaluate(node)
        except (
            EvaluationError,
            *ERRORS,
        ):  # then it is an error of each evaluation, where it is told
            return []
        return [value] if isinstance(value, (int, float)) else []


def _every(parts: tuple[Need, ...]) -> Need:
    """All of these, where two bounds of one number are one need."""
    found: list[Need] = []
    bounds: dict[tuple[str, str], Within] = {}
    for part in parts:
        for one in part.parts if isinstance(part, Every) else (part,):
            if isinstance(one, Within):
                place = one.index, one.name
                bounds[place] = _both(bounds.get(place, one), one)
            else:
                found.append(one)
    found += bounds.values()
    return found[0] if len(found) == 1 else Every(tuple(found))


def _both(one: Within, other: Within) -> Within:
    lows = [need.low for need in (one, other) if need.low is not None]
    highs = [need.high for need in (one, other) if need.high is not None]
    return Within(one.index, max(lows, default=None), min(highs, default=None), one.name)


def _path(node: ast.expr) -> tuple[str, ...] | None:
    """run.a["b"] is ("run", "a", "[b"); None: it is no such path."""
    names: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
        elif isinstance(node, ast.Subscript) and (key := _key(node.slice)) is not None:
            names.append(f"[{key}")
        else:
            return None
        node = node.value
    return (node.id, *reversed(names))


def _key(node: ast.expr) -> str | None:
    """The text of a subscript; of a name and a context the name."""
    if isinstance(node, ast.Tuple) and len(node.elts) == 2:
        node = node.elts[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_sequence_name(path: tuple[str, ...] | None) -> bool:
    return path is not None and len(path) == 2 and path[0] != "run" and path[1] == "name"


def _flag(path: tuple[str, ...] | None, value: bool) -> Need:
    if path is None or len(path) != 2 or path[0] != "run" or path[1] not in _FLAGS:
        return ANYTHING
    return Is(_FLAGS[path[1]], value)


def _related(path: tuple[str, ...] | None, op: type[ast.cmpop], value: Any) -> Need:
    """What must hold where what stands at `path` is so related to a value."""
    if path is None or len(path) < 2:
        return ANYTHING
    equals = op in (ast.Eq, ast.Is)
    if _is_sequence_name(path):
        return _text("sequence", value) if equals else ANYTHING
    if path[0] != "run":
        return ANYTHING
    if len(path) == 2:
        return _of_run(path[1], op, value)
    if len(path) == 3 and path[1] in ("hparams", "[hparams"):
        return _of_hparam(path[2].removeprefix("["), op, value)
    if len(path) == 4 and path[1] == "metrics" and path[2][0] == "[" and path[3] in _LASTS:
        # Of a metric that is not there both are None.
        is_there = value is not None and op is not ast.NotEq
        return Is("sequence", path[2][1:]) if is_there else ANYTHING
    return ANYTHING


def _of_run(name: str, op: type[ast.cmpop], value: Any) -> Need:
    equals = op in (ast.Eq, ast.Is)
    if name in _FLAGS:
        if not isinstance(value, (int, float)) or value not in (0, 1):
            return ANYTHING
        if equals or op is ast.NotEq:
            return Is(_FLAGS[name], bool(value) is equals)
        return ANYTHING
    if name in _DATES:
        return _between("created_at", "", op, value)
    if name == "hash" and equals:
        return _text("hash", value)
    if name == "experiment" and equals and value is not None:
        return _text("experiment", value)
    return ANYTHING


def _of_hparam(name: str, op: type[ast.cmpop], value: Any) -> Need:
    if op in (ast.Eq, ast.Is) and isinstance(value, (str, int, float)):
        return Is("hparam", value, name)
    return _between("hparam", name, op, value)


def _between(
    index: Literal["hparam", "created_at"], name: str, op: type[ast.cmpop], value: Any
) -> Need:
    if not isinstance(value, (int, float)):
        return ANYTHING
    try:
        bound = float(value)
    except OverflowError:
        return ANYTHING
    if op in (ast.Lt, ast.LtE):
        return Within(index, None, bound, name)
    if op in (ast.Gt, ast.GtE):
        return Within(index, bound, None, name)
    return Within(index, bound, bound, name) if op in (ast.Eq, ast.Is) else ANYTHING


def _text(index: Index, value: Any) -> Need:
    """What is a text equals nothing else."""
    return Is(index, value) if isinstance(value, str) else NOTHING
