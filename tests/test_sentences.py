"""What a person is told is a sentence (`errors.py` says which texts are): a capital, a full stop."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import matyan

PACKAGE = Path(matyan.__file__).parent

TOLD = {
    "BadParameter": 0,
    "BadRequest": 1,
    "ClickException": 0,
    "ConfigurationError": 0,
    "FolderInUse": 0,
    "Forbidden": 0,
    "MatyanError": 0,
    "NotFound": 0,
    "OffsetConflict": 0,
    "Refusal": 1,
    "Refused": 0,
    "RefusedByServer": 0,
    "TooLarge": 0,
    "Unavailable": 0,
    "UsageError": 0,
    "_Refused": 1,
    "abort": 1,
    "detail": 1,
}
"""What makes a text that a person reads, and which of its arguments that text is."""

FRAGMENTS = {
    # It goes into the reply of a frame (contract, section 1).
    ("broker/local.py", "run … was deleted; take a new run id"),
    # A field and what is wrong with it.
    ("frontier/app.py", "…: …"),
}

SENTENCES = {"hint", "mend", "mend_of", "mends", "trouble"}
"""Variables that hold a sentence, and functions that return one, or its end: a text may end with one."""

FIELD = re.compile(r"[a-z_]+( id)?: ")
"""A field and what is wrong with it: a fragment."""


def texts(node: ast.expr, constants: dict[str, ast.expr]) -> Iterator[str]:
    """The texts that an expression can be, with "…" for each value in them that is not known."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else value_of(part) for part in values
            )
        case ast.IfExp(body=body, orelse=orelse):
            yield from texts(body, constants)
            yield from texts(orelse, constants)
        case ast.Name(id=name) if name in constants:
            yield from texts(constants[name], constants)


def value_of(part: ast.expr) -> str:
    names = {one.id for one in ast.walk(part) if isinstance(one, ast.Name)}
    return "A sentence." if names & SENTENCES else "…"


def told(source: str) -> Iterator[tuple[int, str]]:
    """The line and the text of each place that tells a person something which is known there."""
    tree = ast.parse(source)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in TOLD and len(node.args) > TOLD[name]:
            for text in texts(node.args[TOLD[name]], constants):
                yield node.lineno, text


def is_sentence(text: str) -> bool:
    if FIELD.match(text):
        return True
    return not text[0].islower() and text.endswith((".", "?"))


def test_what_a_person_is_told_is_a_sentence() -> None:
    wrong = []
    count = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        place = str(path.relative_to(PACKAGE))
        for line, text in told(path.read_text()):
            count += 1
            if (place, text) not in FRAGMENTS and not is_sentence(text):
                wrong.append(f"{place}:{line}: {text}")
    assert wrong == []
    assert count > 100  # the walk still finds them


@pytest.mark.parametrize(
    "line",
    [
        'raise NotFound("there is no run.")',
        'raise NotFound(f"There is no run {run}")',
        'raise errors.ConfigurationError("Set both" if two else "Set it.")',
        '_GONE = "It went away"\nraise Unavailable(_GONE)',
        'abort(404, "no such page.")',
        'raise click.UsageError(f"Name the runs: {error}")',
    ],
)
def test_a_fragment_is_found(line: str) -> None:
    assert not all(is_sentence(text) for _, text in told(line))
