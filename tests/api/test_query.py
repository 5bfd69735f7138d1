"""The query language: what it means, what it refuses, and that nothing gets out of it."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan.api.query import EvaluationError, Node, Query, QueryError, parse
from matyan.api.query.values import Texts


class Run(Node):
    """A run of these attributes."""

    def __init__(self, **attributes: Any) -> None:
        self._attributes = {"is_archived": False, "archived": False, **attributes}

    def attribute(self, name: str) -> Any:
        return self._attributes.get(name)

    def item(self, key: Any) -> Any:
        if key not in self._attributes:
            raise EvaluationError(f"no {key}")
        return self._attributes[key]


RUN = Run(
    hash="abc",
    name="first",
    experiment=None,
    tags=Texts(["good", "old"]),
    created_at=1_772_323_200.0,
    duration=7.5,
    hparams={"lr": 0.1, "layers": [64, 32], "optim": {"name": "adam"}, "get": 5, "n": 3},
)


def matches(text: str, run: Node = RUN, **more: Any) -> bool:
    return parse(text, subject=None, **more).matches(run)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("   ", True),
        ("()", False),
        ("run.hash == 'abc'", True),
        ("run.hash in ['x', 'abc']", True),
        ("run.experiment is None", True),
        ("run.name is 'fi' + 'rst' and run.hparams.n is 3", True),
        ("run.name is not 'fi' + 'rst'", False),
        ("run.hparams.n is 3.0 or run.hparams.layers is [64, 32]", False),
        ("'good' in run.tags and 'bad' not in run.tags", True),
        ("run.tags.contains('old')", True),
        ("any([t in ['old'] for t in run.tags])", True),
        ("all(t.startswith('g') for t in run.tags)", False),
        ("run.hparams.lr < 0.2", True),
        ("0.05 < run.hparams.lr <= 0.1", True),
        ("run['hparams']['lr'] == run.hparams.lr", True),
        ("run.hparams.layers[-1] == 32 and run.hparams.layers[:1] == [64]", True),
        ("run.hparams.optim.name.upper() == 'ADAM'", True),
        ("run.hparams.missing is None", True),
        ("run.missing is None", True),
        # A parameter may be called like a method: it is the method where it is called.
        ("run.hparams.get == 5 and run.hparams.get('lr') == 0.1", True),
        ("{k: v for k, v in run.hparams.items()}['n'] == 3", True),
        ("{t for t in run.tags} == {'good', 'old'}", True),
        ("sum(x for x in range(5) if x % 2) == 4", True),
        ("[x * y for x in range(3) for y in range(3)][-1] == 4", True),
        ("math.sqrt(run.hparams.n ** 2) == 3.0 and math.pi > 3", True),
        ("isinstance(run.hparams.n, (int, str)) and not isinstance(run.hparams.lr, int)", True),
        ("(1 if run.hparams.n > 2 else 0) == 1", True),
        ("min(3, 1, 2) == 1 and max([1, 5]) == 5 and round(2.567, 2) == 2.57", True),
        ("sorted([3, 1, 2], reverse=True)[0] == 3 and list(zip([1], [2])) == [(1, 2)]", True),
        ("run.created_at >= datetime(2026, 3, 1)", True),
        ("run.created_at < datetime(2026, 3, 1) + timedelta(days=1)", True),
        ("select run if run.hash == 'abc'", True),
        ("SELECT run IF\nrun.hash == 'abc'".replace("IF", "if"), True),
        ("(run.hash ==\n 'abc')  # a comment", True),
        ("-run.hparams.n == -3 and +1 == 1 and not False", True),
    ],
)
def test_it_means_what_python_means(text: str, holds: bool) -> None:
    assert matches(text) is holds


TEXT, LIST = "('a' * 1000000)", "([0] * 65536)"


@pytest.mark.parametrize(
    "text",
    [
        # Each operation pays for the size of what it makes or looks at: gigabytes, or minutes, otherwise.
        f"[{TEXT} for i in range(20000)]",
        f"[{LIST} for i in range(20000)]",
        f"[t[1:] for t in [{TEXT}] for i in range(20000)]",
        f"[''.join([t, 'b']) for t in [{TEXT}] for i in range(20000)]",
        f"[t == u for t in [{TEXT}] for u in [{TEXT}] for i in range(20000)]",
        f"[u in [t] for t in [{TEXT}] for u in [{TEXT}] for i in range(20000)]",
        f"[u in (v for v in [t]) for t in [{TEXT}] for u in [{TEXT}] for i in range(20000)]",
        f"['b' in t for t in [{TEXT}] for i in range(20000)]",
        f"[1 in t for t in [{LIST}] for i in range(20000)]",
        "['b' in r for r in [range(65536)] for i in range(20000)]",
        "[math.fsum(r) for r in [range(65536)] for i in range(20000)]",
        f"([{LIST}] * 65536) == ([{LIST}] * 65536)",
        f"sorted([[{LIST}] * 9, [{LIST}] * 9])",
        f"max([{LIST}] * 9)",
        "set([(0,) * 65536] * 9) or [(((0,) * 65536,) * 65536) in {}]",
        f"[{LIST}].count({LIST}) + ([{LIST}] * 65536).index([{LIST}])",
        f"{TEXT}.rfind('a' * 250000 + 'b' + 'a' * 250000)",
        "{i * (2 ** 61 - 1) for i in range(20000)}",
        "[{i * (2 ** 61 - 1): 1 for i in range(20000)}]",
    ],
)
def test_what_a_step_costs_is_paid_for(text: str) -> None:
    with pytest.raises(EvaluationError, match="it takes more than"):
        matches(text)


@pytest.mark.parametrize(("offset", "hour"), [(0, 0), (-240, -4), (300, 5)])
def test_a_date_is_the_callers(offset: int, hour: int) -> None:
    """A naive one is UTC + 60 * offset seconds, where the offset is JavaScript's: -240 in UTC+4."""
    moment = datetime(2026, 3, 1, tzinfo=UTC).timestamp() + 3600 * hour
    run = Run(created_at=moment)
    assert matches("run.created_at == datetime(2026, 3, 1)", run, offset_minutes=offset)


def test_archived_runs_are_left_out_unless_they_are_named() -> None:
    archived = Run(is_archived=True, archived=True, name="a")
    assert not matches("run.name == 'a'", archived)
    assert not matches("", archived)
    assert matches("run.archived", archived)
    assert matches("run.is_archived == True", archived)
    assert matches("run.archived in [True, False]", RUN)


def test_a_sequence_is_known_by_its_kind() -> None:
    metric = Run(name="loss", context={"subset": "train", "a b": 1}, last=0.5)
    query = parse("metric.name == 'loss' and metric.context.subset == 'train'", subject="metric")
    assert query.matches(RUN, metric)
    assert parse('metric.context["a b"] == 1', subject="metric").matches(RUN, metric)
    with pytest.raises(QueryError, match="this search knows run and images"):
        parse("metric.name == 'loss'", subject="images")


@pytest.mark.parametrize(
    "text",
    [
        "run.missing > 3",
        "run['missing']",
        "run.hparams['missing'] == 1",
        "run.hparams.missing.deeper == 1",
        "1 / 0",
        "'a' + 1",
        "[1][5]",
        "int('x')",
        "run.hash()",
        "math.sqrt(-1)",
        "10 ** 10 ** 10",
        "2 ** 100000",
        "'x' * 10 ** 9",
        "[0] * 10 ** 9",
        "sum([2 ** 4000 for x in range(1000)])",
        "range(10 ** 9)",
        "[x for x in range(60000) for y in range(60000)]",
        "any(x < 0 for x in range(60000) for y in range(60000))",
        "math.factorial(10 ** 6)",
        "math.comb(10 ** 6, 10 ** 5)",
        "''.join(['x' * 1000 for x in range(10000)])",
        "'x'.replace('', 'y' * 1000000)",
        "('x' * 1000).replace('x', 'y' * 10000)",
        "(-8) ** 0.5 == 1",
        "'%s' % run",
        "str(run)",
        "len(run)",
        "run in [1] or 1 in run",
        "datetime(2026, 13, 1)",
        "round(10 ** 50, -10 ** 9)",
        "''.format",
        "datetime.now()",
    ],
)
def test_what_fails_or_costs_too_much_is_no_match(text: str) -> None:
    with pytest.raises(EvaluationError):
        matches(text)


@pytest.mark.parametrize(
    "text",
    [
        # Ways out of sandboxes that were reported in public.
        "().__class__.__bases__[0].__subclasses__()",
        "run.__init__.__globals__",
        "''.__class__.__mro__[1]",
        "[].__class__",
        "run._RUN",
        "getattr(run, 'x')",
        "setattr(run, 'x', 1)",
        "vars(run)",
        "type(run)",
        "__import__('os').system('true')",
        "open('/etc/passwd')",
        "eval('1')",
        "exec('1')",
        "compile('1', '', 'eval')",
        "globals()",
        "locals()",
        "dir()",
        "print(1)",
        "input()",
        "breakpoint()",
        "object",
        "'{0.__class__}'.format(run)",
        "'{x.__class__}'.format_map({'x': run})",
        "f'{run.__class__}'",
        "f'{1}'",
        "(lambda: 1)()",
        "[y := 1, y]",
        "(yield 1)",
        "[x async for x in run]",
        "print(*[1])",
        "max(*[1, 2])",
        "dict(**{'a': 1})",
        "{**{'a': 1}}",
        "[*run.tags]",
        "(x for x in run).gi_frame.f_back.f_globals.__builtins__",
        "[_ for _x in [1]]",
        "[run for __run in [1]]",
        "math",
        "math.__loader__",
        "math._x",
        "math.nothing",
        "run @ run",
        "1 << 100",
        "~1",
        "1 | 2",
        "b'x'",
        "1j",
        "...",
        "import os",
        "x = 1",
        "run.hash = 'x'",
        "del run",
        "raise ValueError",
        "while True: pass",
        "unknown == 1",
        "datetime(run.created_at)",
        "await run",
        "print",
        "run.hash ==",
        "(" * 300 + "1" + ")" * 300,
        "-" * 30_000 + "1",
        "not " * 10_000 + "1",
        "+".join(["1"] * 20_000),
        "run" + ".a" * 100,
        "[" * 80 + "]" * 80,
        "'\ud800'",
        "a\x00b",
        "1" * 100_000,
        "9" * 5_000,
        "0x" + "f" * 60_000 + " == 1",
    ],
)
def test_what_is_not_on_the_list_is_refused(text: str) -> None:
    with pytest.raises(QueryError):
        parse(text, subject=None)


@pytest.mark.parametrize(
    ("text", "line", "offset"),
    [
        ("run.x == unknown", 1, 11),
        ("  run.x ==\n  é + unknown", 2, 3),
        ("'é' == unknown", 1, 9),
        ("run.a and run.__b", 1, 12),
        ("run.x == )", 1, 12),
    ],
)
def test_an_error_marks_the_place(text: str, line: int, offset: int) -> None:
    """From 1 on, in the trimmed query with one parenthesis before it."""
    with pytest.raises(QueryError) as caught:
        parse(text, subject=None)
    assert (caught.value.line, caught.value.offset) == (line, offset)
    assert caught.value.statement.startswith(f"({text.strip()}")


# --- beside Python -----------------------------------------------------------------------------------

numbers = st.integers(-20, 20).map(str) | st.sampled_from(["0.5", "-1.5", "2.0"])
texts = st.sampled_from(["'a'", "'ab'", "''", "'b c'"])
names = st.sampled_from(["i", "f", "s", "l", "d"])
KNOWN = {"i": 7, "f": 0.25, "s": "abc", "l": [1, 2, 3], "d": {"a": 1, "b": [0.5]}}


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        pairs.flatmap(
            lambda pair: st.sampled_from(
                [
                    "+",
                    "-",
                    "*",
                    "/",
                    "//",
                    "%",
                    "==",
                    "!=",
                    "<",
                    "<=",
                    ">",
                    ">=",
                    "in",
                    "not in",
                    "and",
                    "or",
                ]
            ).map(lambda sign: f"({pair[0]} {sign} {pair[1]})")
        ),
        inner.map(lambda one: f"(not {one})"),
        inner.map(lambda one: f"(-{one})"),
        inner.map(lambda one: f"len({one})"),
        inner.map(lambda one: f"[x for x in {one} if x]"),
        inner.map(lambda one: f"any(x == {one} for x in l)"),
        inner.map(lambda one: f"sorted({one})"),
        inner.map(lambda one: f"{one}[0]"),
        inner.map(lambda one: f"{one}[-1:]"),
        pairs.map(lambda pair: f"({pair[0]} if {pair[1]} else 1)"),
        pairs.map(lambda pair: f"[{pair[0]}, {pair[1]}]"),
        pairs.map(lambda pair: f"{{{pair[0]}: {pair[1]}}}"),
        pairs.map(lambda pair: f"max({pair[0]}, {pair[1]})"),
        inner.map(lambda one: f"str({one})"),
        inner.map(lambda one: f"{one}.upper()"),
    )


expressions = st.recursive(numbers | texts | names, _grown, max_leaves=12)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@settings(max_examples=400)
@given(expressions)
def test_it_evaluates_as_python_does(text: str) -> None:
    """Whatever is true, false or an error there is so here; but for an `%` of a text, which formats."""
    query = text
    for name in KNOWN:
        query = _named(query, name)
    try:
        wanted: bool | None = bool(eval(text, {"math": math, **KNOWN}))
    except Exception:  # noqa: BLE001 - any error is no match
        wanted = None
    try:
        parsed: Query = parse(f"bool({query}) or run.archived", subject=None)
        got: bool | None = parsed.matches(Run(**KNOWN))
    except (EvaluationError, QueryError):
        got = None
    if wanted != got:
        assert got is None
        assert "%" in text or "str(" in text or "(-" in text


def _named(text: str, name: str) -> str:
    """The text with `name` as an attribute of the run, where it stands alone."""
    return re.sub(rf"(?<![\w'.]){name}(?![\w'(])", f"run.{name}", text)
