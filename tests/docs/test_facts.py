"""What the pages quote from the code stands there: error sentences, limits, wheels' types, and what CI runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import matyan
from tests.docs.page import DOCS

PACKAGE = Path(matyan.__file__).parent

QUOTED = re.compile(r"^### [^\n]*?`([^`\n]+)`", re.MULTILINE)


def texts_of(tree: ast.AST) -> Iterator[str]:
    """Every text of a module, with "…" for what is known when it runs only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


TEXTS = [text for path in PACKAGE.rglob("*.py") for text in texts_of(ast.parse(path.read_text()))]


def quoted() -> list[str]:
    """The sentences that the page of troubles has as headings, but for bare names."""
    return [text for text in QUOTED.findall((DOCS / "faq.md").read_text()) if " " in text]


@pytest.mark.parametrize("sentence", quoted())
def test_a_sentence_of_the_page_of_troubles_is_said_by_the_code(sentence: str) -> None:
    """Its pieces stand in one text, in this order: so who searches for what he was told finds it."""
    pieces = [re.escape(piece.strip()) for piece in sentence.split("…") if piece.strip(" :")]
    pattern = re.compile(".*".join(pieces), re.DOTALL)
    assert any(pattern.search(text) for text in TEXTS), sentence
