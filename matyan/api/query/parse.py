"""A query's text becomes a checked tree, by Python's own grammar, or an error that marks the place."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from typing import Any, Final

from matyan.api.query.compile import closure, evaluated
from matyan.api.query.facts import Need, needs
from matyan.api.query.values import (
    BINARY,
    COMPARE,
    FUNCTIONS,
    MATH,
    MOST_BITS,
    UNARY,
    Budget,
    Node,
    datetime_at,
)

MOST_CHARACTERS: Final = 64 << 10
"""The web app names every selected run in a query."""
MOST_NESTING: Final = 64
SUBJECTS: Final = ("metric", "images", "audios", "texts", "distributions", "figures")

_ARCHIVED: Final = frozenset({"archived", "is_archived"})
_SELECT = re.compile(r"select\b", re.IGNORECASE)
_IF = re.compile(r"\bif\b")


class QueryError(Exception):
    """The text is no query. str(): a sentence; statement, line and offset (from 1 on) say where."""

    def __init__(self, sentence: str, statement: str, line: int, offset: int) -> None:
        super().__init__(sentence)
        self.statement = statement
        self.line = line
        self.offset = offset


class Query:
    """A query that can be evaluated. Made by `parse`."""

    def __init__(self, tree: ast.expr, subject: str | None, offset_minutes: int) -> None:
        constants = {
            **FUNCTIONS,
            "datetime": datetime_at(offset_minutes),
            "None": None,
        }
        self._subject = subject
        self._closure = closure(tree, constants)
        self.needs: Need = needs(tree, lambda node: closure(node, constants)({}, Budget()))
        """What an index can tell of its matches."""
        self.asks = frozenset(_asked(tree))
        """What it may look at of a run."""

    def matches(self, run: Node, subject: Node | None = None) -> bool:
        """Whether it is true of a run, or of one of its sequences.

        Raises:
            EvaluationError: it cannot be evaluated here.
        """
        names: dict[str, Any] = {"run": run}
        if self._subject is not None:
            names[self._subject] = subject
        return evaluated(self._closure, names)


def parse(text: str, *, subject: str | None, offset_minutes: int = 0) -> Query:
    """
    Args:
        subject: the name of the sequence that is searched for, one of SUBJECTS; None: runs are.
        offset_minutes: minutes from the caller's local time to UTC, for `datetime(…)`.

    Raises:
        QueryError: it is none.
    """
    statement = text.strip()
    if (select := _SELECT.match(statement)) is not None:
        condition = _IF.search(statement, select.end())
        statement = statement[condition.end() :].strip() if condition else ""
    if len(statement) > MOST_CHARACTERS:
        raise QueryError(f"A query may have {MOST_CHARACTERS:,} characters.", "", 1, 1)
    # In parentheses, so that it may have several lines; the last of them may end in a comment.
    end = "\n)" if "#" in statement else ")"
    source = f"({statement or 'True'}{end}"
    tree = _tree(source)
    _Checker(source, subject).check(tree)
    if not any(_names_archived(node) for node in ast.walk(tree)):
        kept = _tree("(run.is_archived == False)")
        tree = ast.BoolOp(ast.And(), [tree, kept])
    return Query(tree, subject, offset_minutes)


def _tree(source: str) -> ast.expr:
    """
    Raises:
        QueryError: it does not parse.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's hints for programmers, such as `1 is 1`
            return ast.parse(source, mode="eval").body
    except SyntaxError as error:
        line, offset = error.lineno or 1, error.offset or 1
        reason = (error.msg or "invalid syntax").rstrip(".")
        raise QueryError(f"The query is not valid: {reason}.", source, line, offset) from None
    except (ValueError, RecursionError, MemoryError):
        raise QueryError(
            "The query is not valid: it holds a NUL, or is nested too deep.", source, 1, 1
        ) from None


def _names_archived(node: ast.AST) -> bool:
    """Whether a comparison, or a bare mention, decides about archived runs by itself."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr in _ARCHIVED
        and isinstance(node.value, ast.Name)
        and node.value.id == "run"
    )


def _asked(tree: ast.expr) -> Iterator[str]:
    """The names of attributes and items of runs."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Subscript)) and _is_run(node.value):
            if isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                yield node.slice.value


def _is_run(node: ast.expr) -> bool:
    """`run`, or `metric.run`."""
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return bool(name == "run")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_PLAIN: Final = (
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.List,
    ast.Tuple,
    ast.Set,
    ast.Subscript,
    ast.Slice,
    ast.Call,
    *_COMPREHENSIONS,
)

_WORDS: Final[dict[type[ast.AST], str]] = {
    ast.NamedExpr: "an assignment (:=)",
    ast.Lambda: "a lambda",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Starred: "a starred expression",
    ast.JoinedStr: "an f-string",
    ast.FormattedValue: "an f-string",
}


class _Checker:
    """Refuses what is not on the list."""

    def __init__(self, source: str, subject: str | None) -> None:
        self._source = source
        self._subject = subject

    def check(self, tree: ast.expr) -> None:
        self._expression(tree, frozenset(), 0)

    def _expression(self, node: ast.expr, bound: frozenset[str], depth: int) -> None:
        if depth > MOST_NESTING:
            raise self._refused(node, f"it is nested deeper than {MOST_NESTING}")
        self._judge(node, bound)
        if isinstance(node, _COMPREHENSIONS):
            for one in node.generators:
                self._expression(one.iter, bound, depth + 1)
                bound = bound | self._targets(one.target)
                for condition in one.ifs:
                    self._expression(condition, bound, depth + 1)
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        elif isinstance(node, ast.Call):
            parts = [node.func, *node.args, *(word.value for word in node.keywords)]
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "math"
        ):
            parts = []
        else:
            parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        for part in parts:
            self._expression(part, bound, depth + 1)

    def _judge(self, node: ast.expr, bound: frozenset[str]) -> None:
        """The node itself."""
        if isinstance(node, ast.Constant):
            if not isinstance(node.value, (str, int, float, type(None))):
                raise self._refused(node, f"{type(node.value).__name__} is no value of a query")
            if isinstance(node.value, int) and node.value.bit_length() > MOST_BITS:
                raise self._refused(node, f"an integer of more than {MOST_BITS:,} bits")
            if isinstance(node.value, str) and not _is_unicode(node.value):
                raise self._refused(node, "half of a surrogate pair is no character")
        elif isinstance(node, ast.Name):
            self._name(node, bound)
        elif isinstance(node, ast.Attribute):
            self._attribute(node)
        elif isinstance(node, ast.UnaryOp):
            self._listed(node, node.op, UNARY)
        elif isinstance(node, ast.BinOp):
            self._listed(node, node.op, BINARY)
        elif isinstance(node, ast.Dict):
            if None in node.keys:
                raise self._refused(node, "** is not allowed")
        elif not isinstance(node, _PLAIN):
            word = _WORDS.get(type(node), type(node).__name__)
            raise self._refused(node, f"{word} is not allowed")
        if isinstance(node, ast.Compare):
            for operator in node.ops:
                self._listed(node, operator, COMPARE)
        if isinstance(node, ast.Call):
            self._call(node)
        if isinstance(node, _COMPREHENSIONS) and any(one.is_async for one in node.generators):
            raise self._refused(node, "async is not allowed")

    def _listed(self, node: ast.expr, operator: ast.AST, known: dict[str, Any]) -> None:
        if type(operator).__name__ not in known:
            raise self._refused(node, f"the operator {type(operator).__name__} is not allowed")

    def _name(self, node: ast.Name, bound: frozenset[str]) -> None:
        name = node.id
        if name.startswith("_"):
            raise self._refused(node, f"{name!r} begins with an underscore")
        if name == "math":
            raise self._refused(node, "math is no value: write math.sqrt(…)")
        if name in bound or name in FUNCTIONS or name in ("run", "datetime", self._subject):
            return
        hint = f": this search knows run{f' and {self._subject}' if self._subject else ''}"
        raise self._refused(node, f"there is no name {name!r}{hint if name in SUBJECTS else ''}")

    def _attribute(self, node: ast.Attribute) -> None:
        if node.attr.startswith("_"):
            raise self._refused(node, f"{node.attr!r} begins with an underscore")
        if isinstance(node.value, ast.Name) and node.value.id == "math" and node.attr not in MATH:
            raise self._refused(node, f"there is no math.{node.attr}")

    def _call(self, node: ast.Call) -> None:
        if any(word.arg is None for word in node.keywords):
            raise self._refused(node, "** is not allowed")
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "format_map"):
            raise self._refused(node, "format() is not allowed")
        if isinstance(node.func, ast.Name) and node.func.id == "datetime":
            values = [*node.args, *(word.value for word in node.keywords)]
            if not all(isinstance(value, ast.Constant) for value in values):
                raise self._refused(node, "datetime() takes constants")

    def _targets(self, node: ast.expr) -> frozenset[str]:
        if isinstance(node, ast.Name):
            if node.id.startswith("_") and node.id.strip("_"):
                raise self._refused(node, f"{node.id!r} begins with an underscore")
            return frozenset({node.id})
        if isinstance(node, (ast.Tuple, ast.List)):
            return frozenset().union(*(self._targets(part) for part in node.elts))
        raise self._refused(node, "this cannot be a variable")

    def _refused(self, node: ast.expr, reason: str) -> QueryError:
        line, offset = node.lineno, node.col_offset
        # Python counts bytes; an editor counts characters.
        text = self._source.splitlines()[line - 1].encode()[:offset].decode(errors="replace")
        return QueryError(f"The query is not allowed: {reason}.", self._source, line, len(text) + 1)
