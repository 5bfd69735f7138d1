"""The checked tree of a query becomes closures: each takes the names that are known and a budget, and gives a value."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, Final

from matyan.api.query.values import (
    COMPARE,
    ERRORS,
    MATH,
    MOST_ITEMS,
    UNARY,
    Budget,
    EvaluationError,
    Node,
    Type,
    binary,
    items,
    method,
    name_of,
    subscript,
    truth,
)

Names = dict[str, Any]
Closure = Callable[[Names, Budget], Any]


def closure(node: ast.expr, constants: Names) -> Closure:
    """
    Args:
        node: checked by `parse.check`.
        constants: what names mean besides those that an evaluation gives: functions and modules.
    """
    return _Compiler(constants).of(node)


class _Compiler:
    def __init__(self, constants: Names) -> None:
        self._constants = constants

    def of(self, node: ast.expr) -> Closure:
        make: Callable[[Any], Closure] = getattr(self, f"_{type(node).__name__.lower()}")
        inner = make(node)

        def stepped(names: Names, budget: Budget) -> Any:
            budget.left -= 1
            if budget.left < 0:
                budget.spend()
            return inner(names, budget)

        return stepped

    def _each(self, nodes: list[ast.expr]) -> list[Closure]:
        return [self.of(node) for node in nodes]

    # --- values --------------------------------------------------------------------------------------

    def _constant(self, node: ast.Constant) -> Closure:
        value = node.value
        return lambda names, budget: value

    def _name(self, node: ast.Name) -> Closure:
        id, constants = node.id, self._constants

        def found(names: Names, budget: Budget) -> Any:
            return names[id] if id in names else constants[id]

        return found

    def _list(self, node: ast.List) -> Closure:
        parts = self._each(node.elts)
        return lambda names, budget: [part(names, budget) for part in parts]

    def _tuple(self, node: ast.Tuple) -> Closure:
        parts = self._each(node.elts)
        return lambda names, budget: tuple([part(names, budget) for part in parts])

    def _set(self, node: ast.Set) -> Closure:
        parts = self._each(node.elts)
        return lambda names, budget: {budget.hashed(part(names, budget)) for part in parts}

    def _dict(self, node: ast.Dict) -> Closure:
        # No key may be None: that is `**`, which is refused.
        pairs = [
            (self.of(key), self.of(value))
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        ]
        return lambda names, budget: {
            budget.hashed(key(names, budget)): value(names, budget) for key, value in pairs
        }

    # --- operators -----------------------------------------------------------------------------------

    def _boolop(self, node: ast.BoolOp) -> Closure:
        parts, goes_on = self._each(node.values), isinstance(node.op, ast.And)

        def decided(names: Names, budget: Budget) -> Any:
            value = None
            for part in parts:
                value = part(names, budget)
                if truth(value) is not goes_on:
                    break
            return value

        return decided

    def _unaryop(self, node: ast.UnaryOp) -> Closure:
        function, operand = UNARY[type(node.op).__name__], self.of(node.operand)
        return lambda names, budget: function(operand(names, budget))

    def _binop(self, node: ast.BinOp) -> Closure:
        function = binary(type(node.op).__name__)
        left, right = self.of(node.left), self.of(node.right)
        return lambda names, budget: function(budget, left(names, budget), right(names, budget))

    def _compare(self, node: ast.Compare) -> Closure:
        first = self.of(node.left)
        rest = [
            (COMPARE[type(op).__name__], self.of(right))
            for op, right in zip(node.ops, node.comparators, strict=True)
        ]

        def compared(names: Names, budget: Budget) -> Any:
            left, holds = first(names, budget), True
            for function, part in rest:
                right = part(names, budget)
                holds = function(budget, left, right)
                if not holds:
                    break
                left = right
            return holds

        return compared

    def _ifexp(self, node: ast.IfExp) -> Closure:
        test, then, other = self._each([node.test, node.body, node.orelse])
        return lambda names, budget: (then if truth(test(names, budget)) else other)(names, budget)

    # --- attributes, items, calls ----------------------------------------------------------------------

    def _attribute(self, node: ast.Attribute) -> Closure:
        if _is_math(node):
            value = MATH[node.attr]
            return lambda names, budget: value
        owner, name = self.of(node.value), node.attr
        return lambda names, budget: attribute(owner(names, budget), name)

    def _subscript(self, node: ast.Subscript) -> Closure:
        owner, key = self.of(node.value), self.of(node.slice)

        def found(names: Names, budget: Budget) -> Any:
            return subscript(budget, owner(names, budget), key(names, budget))

        return found

    def _slice(self, node: ast.Slice) -> Closure:
        parts = [
            None if part is None else self.of(part) for part in (node.lower, node.upper, node.step)
        ]

        def made(names: Names, budget: Budget) -> Any:
            return slice(*(None if part is None else part(names, budget) for part in parts))

        return made

    def _call(self, node: ast.Call) -> Closure:
        args = self._each(node.args)
        named = {word.arg: self.of(word.value) for word in node.keywords if word.arg is not None}
        called = self._method(node.func) or self.of(node.func)

        def result(names: Names, budget: Budget) -> Any:
            function = called(names, budget)
            if isinstance(function, Type):
                function = function.function
            if not callable(function) or isinstance(function, Node):
                raise EvaluationError(f"{name_of(function)} cannot be called")
            return function(
                budget,
                *[arg(names, budget) for arg in args],
                **{name: value(names, budget) for name, value in named.items()},
            )

        return result

    def _method(self, node: ast.expr) -> Closure | None:
        if not isinstance(node, ast.Attribute) or _is_math(node):
            return None
        owner, name = self.of(node.value), node.attr

        def found(names: Names, budget: Budget) -> Any:
            value = owner(names, budget)
            return method(value, name) or attribute(value, name)

        return found

    # --- comprehensions ------------------------------------------------------------------------------

    def _listcomp(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Closure:
        element, loops = self.of(node.elt), self._loops(node.generators)

        def made(names: Names, budget: Budget) -> list[Any]:
            found: list[Any] = []
            for inner in loops(names, budget):
                if len(found) >= MOST_ITEMS:
                    raise EvaluationError(f"more than {MOST_ITEMS:,} items")
                found.append(element(inner, budget))
            return found

        return made

    def _generatorexp(self, node: ast.GeneratorExp) -> Closure:
        # Lazily, as in Python: any() and all() stop at what decides.
        element, loops = self.of(node.elt), self._loops(node.generators)

        def made(names: Names, budget: Budget) -> Any:
            return (element(inner, budget) for inner in loops(names, budget))

        return made

    def _setcomp(self, node: ast.SetComp) -> Closure:
        made = self._listcomp(node)
        return lambda names, budget: {budget.hashed(item) for item in made(names, budget)}

    def _dictcomp(self, node: ast.DictComp) -> Closure:
        key, value = self.of(node.key), self.of(node.value)
        loops = self._loops(node.generators)

        def made(names: Names, budget: Budget) -> dict[Any, Any]:
            found: dict[Any, Any] = {}
            for inner in loops(names, budget):
                if len(found) >= MOST_ITEMS:
                    raise EvaluationError(f"more than {MOST_ITEMS:,} items")
                found[budget.hashed(key(inner, budget))] = value(inner, budget)
            return found

        return made

    def _loops(self, generators: list[ast.comprehension]) -> Callable[[Names, Budget], Any]:
        steps = [
            (self.of(one.iter), _target(one.target), self._each(one.ifs)) for one in generators
        ]

        def loops(names: Names, budget: Budget, depth: int = 0) -> Any:
            if depth == len(steps):
                yield names
                return
            source, bind, conditions = steps[depth]
            for item in items(source(names, budget), budget):
                inner = {**names, **bind(item, budget)}
                if all(truth(condition(inner, budget)) for condition in conditions):
                    yield from loops(inner, budget, depth + 1)

        return loops


def attribute(value: Any, name: str) -> Any:
    """What `value.name` is where it is not called: a Node's attribute, or an item of a dict; None where there is none.

    Raises:
        EvaluationError: the value has no attributes.
    """
    if isinstance(value, Node):
        return value.attribute(name)
    if isinstance(value, dict):
        return value.get(name)
    raise EvaluationError(f"{name_of(value)} has no {name!r}")


def _is_math(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "math"


def _target(node: ast.expr) -> Callable[[Any, Budget], Names]:
    if isinstance(node, ast.Name):
        id = node.id
        return lambda item, budget: {id: item}
    assert isinstance(node, (ast.Tuple, ast.List))
    parts = [_target(part) for part in node.elts]

    def bound(item: Any, budget: Budget) -> Names:
        values = list(items(item, budget))
        if len(values) != len(parts):
            raise EvaluationError(f"{len(parts)} values expected, got {len(values)}")
        names: Names = {}
        for part, value in zip(parts, values, strict=True):
            names |= part(value, budget)
        return names

    return bound


_ERRORS: Final = ERRORS


def evaluated(made: Closure, names: Names) -> bool:
    """
    Raises:
        EvaluationError: whatever went wrong.
    """
    try:
        return truth(made(names, Budget()))
    except _ERRORS as error:
        raise EvaluationError(str(error) or type(error).__name__) from None
