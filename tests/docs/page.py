"""A page of docs/ as steps that a test takes in their order: its blocks of commands and of Python, and its marks.

Marks are comments, which the site does not show:

    <!-- page: needs kafka s3 source -->        what the page's commands want of the machine; `long`: in `make test-long`
    <!-- test: background until TEXT -->        the next block runs until the page's end; it has printed TEXT
    <!-- test: soon -->                         the next block's commands are tried again until they print what is shown
    <!-- test: exit N -->                       the next block's last command ends with N
    <!-- test: save as FILE -->                 the next block becomes that file of the page's folder
    <!-- test: not run: REASON -->              the next block is read only
    <!-- test: let NAME be PATTERN -->          NAME in later commands stands for the first group of PATTERN in what was printed last
    <!-- test: interrupt COMMAND -->            Ctrl-C for the command in the background that begins so
    <!-- test: printed TEXT by COMMAND -->      the command in the background that begins so prints TEXT now, or has printed it

No process here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"^ *<!-- (page|test): (.*?) -->$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Command:
    """What a person types after `$`, and the lines that the page shows under it."""

    text: str
    shown: tuple[str, ...]


@dataclass(slots=True)
class Step:
    """One block, or one mark that stands alone."""

    kind: str
    """console, python, another language of a block that is saved, let, interrupt or printed"""
    text: str
    line: int
    until: str | None = None
    """In the background, and this has to be printed."""
    code: int = 0
    is_soon: bool = False
    not_run: str = ""
    file: str = ""
    """What the block is saved as, in place of being run."""

    def commands(self) -> list[Command]:
        """Of a console block: each `$` begins one, which goes on after a backslash or in an open here-document."""
        found: list[tuple[list[str], list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append(([line[2:]], []))
            elif found and not found[-1][1] and (line.startswith("> ") or line == ">"):
                found[-1][0].append(line[2:])
            elif found:
                found[-1][1].append(line)
        return [Command("\n".join(words), tuple(shown)) for words, shown in found]


@dataclass(slots=True)
class Page:
    path: Path
    needs: set[str] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.path.relative_to(DOCS))


def read(path: Path) -> Page:
    """
    Raises:
        ValueError: a mark that is none, or that marks nothing.
    """
    text = path.read_text()
    page = Page(path)
    places = sorted([*_FENCE.finditer(text), *_MARK.finditer(text)], key=re.Match.start)
    marks: list[str] = []
    end = 0
    for place in places:
        if place.start() < end:
            continue  # inside of a block
        end = place.end()
        line = text.count("\n", 0, place.start()) + 1
        if place.re is _MARK:
            where, words = place.groups()
            if where == "page":
                page.needs |= set(words.removeprefix("needs ").split())
            elif words.startswith(("let ", "interrupt ", "printed ")):
                kind, _, rest = words.partition(" ")
                page.steps.append(Step(kind, rest, line))
            else:
                marks.append(words)
            continue
        indent, language, body = place.groups()
        is_saved = any(mark.startswith("save as ") for mark in marks)
        if language in ("console", "python") or is_saved:
            lines = [row.removeprefix(indent) for row in body.splitlines()]
            page.steps.append(_marked(Step(language, "\n".join(lines) + "\n", line), marks, path))
        elif marks:
            raise ValueError(f"{path}:{line}: {marks} marks a block that is not run.")
        marks = []
    if marks:
        raise ValueError(f"{path}: {marks} marks nothing.")
    return page


def _marked(step: Step, marks: list[str], path: Path) -> Step:
    for mark in marks:
        if found := re.fullmatch(r"background until (.+)", mark):
            step.until = found[1]
        elif mark == "soon":
            step.is_soon = True
        elif found := re.fullmatch(r"exit (\d+)", mark):
            step.code = int(found[1])
        elif found := re.fullmatch(r"save as (\S+)", mark):
            step.file = found[1]
        elif found := re.fullmatch(r"not run: (.+)", mark, re.DOTALL):
            step.not_run = " ".join(found[1].split())
        else:
            raise ValueError(f"{path}:{step.line}: no such mark: {mark}")
    return step


def pages() -> list[Page]:
    return [read(path) for path in sorted(DOCS.rglob("*.md"))]
