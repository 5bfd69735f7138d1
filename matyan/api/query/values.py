"""What a query computes with: its values, operators, functions and methods, each within bounds.

Values are None, booleans, numbers, texts, lists, tuples, sets, dicts, ranges, and Nodes, whose attributes and items their owner
answers for. Anything that goes wrong is an EvaluationError: no match.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

MOST_STEPS: Final = 200_000
"""Of one evaluation: some 50 ms."""
MOST_ITEMS: Final = 65_536
"""Of a range, a list or another collection that a query makes."""
MOST_TEXT: Final = 1 << 20
MOST_BITS: Final = 4_096
"""Of an integer."""


class EvaluationError(Exception):
    """The query cannot be evaluated here: it does not match. str(): why, a fragment."""


class TooManySteps(EvaluationError):
    """It may take as long on every other run."""


class Node:
    """What a query knows by a name, such as `run`: a subclass answers."""

    def attribute(self, name: str) -> Any:
        """Its value; None where there is none."""
        return None

    def item(self, key: Any) -> Any:
        """
        Raises:
            EvaluationError: there is none.
        """
        raise EvaluationError("it has no items")


class Budget:
    """Steps that are left for an evaluation."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MOST_STEPS

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooManySteps(f"it takes more than {MOST_STEPS:,} steps")

    def copied(self, value: Any) -> Any:
        """The value; the budget pays for what an operation made of it: time, and the memory that a query may hold on to."""
        if isinstance(value, str):
            self.spend(len(value) >> 6)
        elif isinstance(value, _HOLDERS):
            self.spend(len(value) >> 3)
        return value

    def compared(self, value: Any, times: int = 1) -> Any:
        """The value; the budget pays for comparing it so often."""
        if isinstance(value, (str, *_HOLDERS)):
            self.spend(times * _weight(value))
        return value

    def hashed(self, value: Any) -> Any:
        """The value; the budget pays for looking it up, or putting it, in a set or a dict."""
        if isinstance(value, int) and abs(value) >= _HASH_MODULUS:
            self.spend(64)  # any number of those may share one hash
        return self.compared(value)


_HOLDERS: Final = (list, tuple, set, frozenset, dict)
_HASH_MODULUS: Final = sys.hash_info.modulus


def _weight(value: Any) -> int:
    """Steps that it takes at most to compare a value with any other: a list may hold the same one many times, at each level."""
    total, rest = 0, [value]
    while rest and total <= MOST_STEPS:
        one = rest.pop()
        if isinstance(one, str):
            total += len(one) >> 6
        elif isinstance(one, _HOLDERS):
            total += len(one)
            rest.extend(one)
            if isinstance(one, dict):
                rest.extend(one.values())
    return total


def items(value: Any, budget: Budget) -> Iterator[Any]:
    """The items of a value that can be iterated."""
    if isinstance(value, Node) or not isinstance(value, Iterable):
        raise EvaluationError(f"{name_of(value)} has nothing to iterate over")
    for item in value:
        budget.spend()
        yield item


def name_of(value: Any) -> str:
    return "None" if value is None else type(value).__name__


_LONG: Final = (str, list, tuple)


def _must_fit(bits: int) -> None:
    if bits > MOST_BITS:
        raise EvaluationError(f"an integer of more than {MOST_BITS:,} bits")


def _sized(value: Any) -> Any:
    """The value, if it is within bounds."""
    if isinstance(value, int):
        _must_fit(value.bit_length())
    elif isinstance(value, str):
        if len(value) > MOST_TEXT:
            raise EvaluationError(f"a text of more than {MOST_TEXT:,} characters")
    elif isinstance(value, (list, tuple)) and len(value) > MOST_ITEMS:
        raise EvaluationError(f"more than {MOST_ITEMS:,} items")
    elif isinstance(value, complex):
        raise EvaluationError("the result is no real number")
    return value


# --- operators --------------------------------------------------------------------------------------


def _multiply(left: Any, right: Any) -> Any:
    for one, times in ((left, right), (right, left)):
        if isinstance(one, _LONG) and isinstance(times, int):
            most = MOST_TEXT if isinstance(one, str) else MOST_ITEMS
            if len(one) * max(times, 0) > most:
                raise EvaluationError("the repetition is too long")
    if isinstance(left, int) and isinstance(right, int):
        _must_fit(left.bit_length() + right.bit_length())
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
        _must_fit(left.bit_length() * right)
    return _numbers(operator.pow)(left, right)


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, _LONG) and isinstance(right, _LONG):
        most = MOST_TEXT if isinstance(left, str) else MOST_ITEMS
        if len(left) + len(right) > most:
            raise EvaluationError("the sum is too long")
    return left + right


def _numbers(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """An operator for numbers alone: of a text, % formats."""

    def checked(left: Any, right: Any) -> Any:
        for value in (left, right):
            if not isinstance(value, (int, float)):
                raise EvaluationError(f"{name_of(value)} is no number")
        return function(left, right)

    return checked


def _minus(left: Any, right: Any) -> Any:
    if isinstance(left, (set, frozenset)) and isinstance(right, (set, frozenset)):
        return left - right
    return _numbers(operator.sub)(left, right)


def contains(budget: Budget, container: Any, item: Any) -> bool:
    if isinstance(container, Node):
        raise EvaluationError("it holds nothing that could be looked for")
    if isinstance(container, str):
        _search(budget, container, item)
    elif isinstance(container, (set, frozenset, dict)):
        budget.hashed(item)
    elif isinstance(container, (list, tuple, range)):
        budget.spend(len(container) >> 3)
        budget.compared(item, len(container))
    else:
        return any(
            found is item or found == budget.compared(item) for found in items(container, budget)
        )
    return bool(item in container)


def _search(budget: Budget, text: str, sought: Any) -> None:
    """Pays for looking for a text in another one: at the worst each character is compared with each."""
    budget.spend(len(text) * (1 + (len(sought) if isinstance(sought, str) else 0)) >> 10)


def same(budget: Budget, left: Any, right: Any) -> bool:
    """`is`. Texts and numbers that are equal and of one type are the same: whether Python has one object for them depends on how they
    were read."""
    if left is right:
        return True
    is_value = type(left) is type(right) and isinstance(left, (str, int, float))
    return is_value and bool(budget.compared(left) == right)


def _ordered(function: Callable[[Any, Any], Any]) -> Callable[[Budget, Any, Any], Any]:
    return lambda budget, left, right: function(budget.compared(left), right)


BINARY: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "Add": _add,
    "Sub": _minus,
    "Mult": _multiply,
    "Div": _numbers(operator.truediv),
    "FloorDiv": _numbers(operator.floordiv),
    "Mod": _numbers(operator.mod),
    "Pow": _power,
}

UNARY: Final[dict[str, Callable[[Any], Any]]] = {
    "Not": operator.not_,
    "USub": operator.neg,
    "UAdd": operator.pos,
}

COMPARE: Final[dict[str, Callable[[Budget, Any, Any], Any]]] = {
    "Eq": _ordered(operator.eq),
    "NotEq": _ordered(operator.ne),
    "Lt": _ordered(operator.lt),
    "LtE": _ordered(operator.le),
    "Gt": _ordered(operator.gt),
    "GtE": _ordered(operator.ge),
    "In": lambda budget, left, right: contains(budget, right, left),
    "NotIn": lambda budget, left, right: not contains(budget, right, left),
    "Is": same,
    "IsNot": lambda budget, left, right: not same(budget, left, right),
}


def binary(name: str) -> Callable[[Budget, Any, Any], Any]:
    function = BINARY[name]
    return lambda budget, left, right: budget.copied(_sized(function(left, right)))


def subscript(budget: Budget, value: Any, at: Any) -> Any:
    if isinstance(value, Node):
        return value.item(budget.compared(at))
    if isinstance(at, slice):
        return budget.copied(value[at])
    return value[budget.hashed(at)]


# --- functions -------------------------------------------------------------------------------------


def _listed(make: Callable[[Iterable[Any]], Any]) -> Callable[..., Any]:
    def made(budget: Budget, *args: Any) -> Any:
        if not args:
            return make(())
        (values,) = args
        found = list(islice(items(values, budget), MOST_ITEMS + 1))
        if make is set:
            for value in found:
                budget.hashed(value)
        return make(_sized(found))

    return made


def _range(budget: Budget, *args: Any) -> range:
    made = range(*args)
    # len() fails on what is beyond a machine's word.
    if made and (made[-1] - made[0]) // made.step >= MOST_ITEMS:
        raise EvaluationError(f"a range of more than {MOST_ITEMS:,} numbers")
    return made


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    def found(budget: Budget, *args: Any, default: Any = ...) -> Any:
        values = list(items(args[0], budget)) if len(args) == 1 else list(args)
        if not values and default is not ...:
            return default
        for value in values:
            budget.compared(value)
        return function(values)

    return found


def _sum(budget: Budget, values: Any, start: Any = 0) -> Any:
    total = start
    if isinstance(total, str):
        raise EvaluationError("sum() adds no texts")
    for value in items(values, budget):
        total = _sized(_add(total, value))
        budget.spend(len(total) if isinstance(total, (list, tuple)) else 0)
    return total


def _sorted(budget: Budget, values: Any, reverse: Any = False) -> Any:
    found = list(items(values, budget))
    budget.spend(len(found) * max(1, len(found).bit_length()))
    for value in found:
        budget.compared(value, len(found).bit_length())
    return sorted(found, reverse=bool(reverse))


def _int(budget: Budget, value: Any = 0, base: Any = None) -> int:
    if isinstance(value, str):
        if len(value) > 100:
            raise EvaluationError("int() of a long text")
        return int(value) if base is None else int(value, base)
    if not isinstance(value, (int, float)) or base is not None:
        raise EvaluationError(f"int() of {name_of(value)}")
    return int(value)


def _float(budget: Budget, value: Any = 0.0) -> float:
    if not isinstance(value, (int, float, str)) or (isinstance(value, str) and len(value) > 100):
        raise EvaluationError(f"float() of {name_of(value)}")
    return float(value)


def _str(budget: Budget, value: Any = "") -> str:
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise EvaluationError(f"str() of {name_of(value)}")
    return str(value)


def _len(budget: Budget, value: Any) -> int:
    if isinstance(value, Node):
        raise EvaluationError("it has no length")
    return len(value)


def _abs(budget: Budget, value: Any) -> Any:
    return abs(value)


def _round(budget: Budget, value: Any, digits: Any = None) -> Any:
    if isinstance(digits, int) and abs(digits) > 1_000:
        raise EvaluationError("round() to so many digits")
    return _sized(round(value, digits))


def _bool(budget: Budget, value: Any = False) -> bool:
    return truth(value)


def _any(budget: Budget, values: Any) -> bool:
    return any(truth(value) for value in items(values, budget))


def _all(budget: Budget, values: Any) -> bool:
    return all(truth(value) for value in items(values, budget))


def _zip(budget: Budget, *args: Any) -> list[tuple[Any, ...]]:
    return list(zip(*(list(items(value, budget)) for value in args), strict=False))


class Type:
    """The name of a type in a query: something to call, and something for isinstance()."""

    def __init__(self, function: Callable[..., Any], type_: type) -> None:
        self.function = function
        self.type = type_


def _isinstance(budget: Budget, value: Any, types: Any) -> bool:
    wanted = types if isinstance(types, tuple) else (types,)
    if not all(isinstance(one, Type) for one in wanted):
        raise EvaluationError("isinstance() wants one of bool, float, int, list, set, str, tuple")
    return isinstance(value, tuple(one.type for one in wanted))


def truth(value: Any) -> bool:
    return True if isinstance(value, Node) else bool(value)


def _timedelta(budget: Budget, *args: Any, **named: Any) -> float:
    return timedelta(*args, **named).total_seconds()


def datetime_at(offset_minutes: int) -> Callable[..., float]:
    """datetime(): epoch seconds of a local time, where the caller's clock stands `offset_minutes` behind UTC."""

    def epoch(budget: Budget, *args: Any, **named: Any) -> float:
        if not {"tzinfo", "fold"}.isdisjoint(named):
            raise EvaluationError("datetime() takes no time zone")
        local = datetime(*args, **named).replace(tzinfo=UTC)
        return local.timestamp() + 60 * offset_minutes

    return epoch


FUNCTIONS: Final[dict[str, Any]] = {
    "abs": _abs,
    "all": _all,
    "any": _any,
    "bool": Type(_bool, bool),
    "float": Type(_float, float),
    "int": Type(_int, int),
    "isinstance": _isinstance,
    "len": _len,
    "list": Type(_listed(list), list),
    "max": _extreme(max),
    "min": _extreme(min),
    "range": _range,
    "round": _round,
    "set": Type(_listed(set), set),
    "sorted": _sorted,
    "str": Type(_str, str),
    "sum": _sum,
    "timedelta": _timedelta,
    "tuple": Type(_listed(tuple), tuple),
    "zip": _zip,
}

_MOST_FACTORIAL: Final = 500
"""500! has 3,768 bits."""


def _math(name: str) -> Callable[..., Any]:
    function = getattr(math, name)

    def called(budget: Budget, *args: Any) -> Any:
        plain = [list(items(arg, budget)) if isinstance(arg, Iterable) else arg for arg in args]
        return _sized(function(*plain))

    return called


def _bounded(name: str) -> Callable[..., Any]:
    """What makes huge numbers of small ones."""
    function = getattr(math, name)

    def called(budget: Budget, *args: Any) -> Any:
        if any(isinstance(arg, int) and arg > _MOST_FACTORIAL for arg in args):
            raise EvaluationError(f"math.{name}() of more than {_MOST_FACTORIAL}")
        return function(*args)

    return called


def _product(budget: Budget, values: Any, start: Any = 1) -> Any:
    total = start
    for value in items(values, budget):
        total = _sized(_numbers(_multiply)(total, value))
    return total


MATH: Final[dict[str, Any]] = {
    **{
        name: _math(name) if callable(getattr(math, name)) else getattr(math, name)
        for name in dir(math)
        if not name.startswith("_")
    },
    **{name: _bounded(name) for name in ("factorial", "comb", "perm")},
    "prod": _product,
}

_TEXT_METHODS: Final = [
    "capitalize",
    "casefold",
    "count",
    "endswith",
    "find",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "rfind",
    "rindex",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
]


class Texts(list[str]):
    """A list of texts that can be asked for one."""

    def contains(self, text: object) -> bool:
        return text in self


METHODS: Final[dict[type, frozenset[str]]] = {
    Texts: frozenset(("contains", "count", "index")),
    str: frozenset((*_TEXT_METHODS, "join", "replace")),
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
    dict: frozenset(("get", "items", "keys", "values")),
    set: frozenset(("isdisjoint", "issubset", "issuperset", "intersection", "union", "difference")),
}
"""Methods that change nothing, and of which none formats: a format's text looks up attributes."""


def method(value: Any, name: str) -> Callable[..., Any] | None:
    """The method of a value, or None where it has none of this name."""
    if name not in METHODS.get(type(value), ()):
        return None
    bound = getattr(value, name)

    def called(budget: Budget, *args: Any, **named: Any) -> Any:
        budget.spend(1 + (len(value) >> 4))
        for arg in args:
            if isinstance(value, str):
                _search(budget, value, arg)
            budget.compared(arg, len(value) if isinstance(value, (list, tuple)) else 1)
            budget.hashed(arg)
        if name == "join":
            args = tuple(list(items(arg, budget)) for arg in args)
            _join_fits(value, args)
        elif name == "replace" and len(args) >= 2:
            _replacement_fits(value, *args[:2])
        elif name in ("items", "keys", "values"):
            return budget.copied(list(bound(*args, **named)))
        return budget.copied(_sized(bound(*args, **named)))

    return called


def _join_fits(text: str, args: tuple[list[Any], ...]) -> None:
    for parts in args:
        length = sum(len(part) for part in parts if isinstance(part, str)) + len(text) * len(parts)
        if length > MOST_TEXT:
            raise EvaluationError("the joined text is too long")


def _replacement_fits(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        times = text.count(old)
        if len(text) + times * len(new) > MOST_TEXT:
            raise EvaluationError("the replaced text is too long")


ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What these functions raise on values that do not fit: no match."""
