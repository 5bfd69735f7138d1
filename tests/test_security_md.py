"""SECURITY.md promises nothing that no test holds: each row of its threats names tests, and these exist."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from matyan.settings import Settings, file_variable

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text()

WHO = (
    "a page in a browser on the same machine",
    "a client without a token",
    "a client with a token",
    "the broker",
    "the store and the blobs",
    "another user of the machine",
)
"""From whom a tracker has something to fear: each has rows."""

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


THREATS = rows("Threats")


def functions_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_each_of_them_has_rows() -> None:
    assert {row[0] for row in THREATS} == {*WHO}


@pytest.mark.parametrize("row", THREATS, ids=[row[1][:50] for row in THREATS])
def test_each_threat_is_held_by_a_test_that_exists(row: list[str]) -> None:
    """By its file and its name; the row says what is tried, what happens, and where that is tested."""
    assert len(row) == 4
    assert all(row)
    named = NAMED.findall(row[3])
    assert named, row
    assert not NAMED.sub("", row[3]).strip(" ,"), "something that is no test"
    for file, name in named:
        assert name in functions_of(ROOT / file), f"{file} has no {name}"


def test_the_comparison_is_whole_and_says_where_it_is_from() -> None:
    """A cell for each program and question, and for each program its version and how that was found out."""
    for row in (table := rows("What others let in by default")):
        assert len(row) == 6
        assert all(row)
    assert len(table) >= 6
    sources = section("What others let in by default")
    for name in ("PostHog capture", "Sentry Relay", "MLflow", "trackio"):
        assert re.search(rf"{name}:? .*(read at|tried)", sources), name


def test_every_secret_stands_there_with_its_file() -> None:
    """So that whoever deploys it finds all of them in one place."""
    text = section("Secrets")
    for row in fields(Settings):
        if (file := file_variable(row)) is not None:
            assert f"`{row.metadata['env']}`" in text
            assert f"`{file}`" in text
