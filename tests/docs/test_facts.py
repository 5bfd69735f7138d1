"""What the pages quote from the code stands there: error sentences, limits, wheels' types, and what CI runs."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

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


ROOT = DOCS.parent


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, as a shell gets them."""
    text = (ROOT / "Makefile").read_text()
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert found is not None
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()]


def test_the_hooks_before_a_commit_run_what_ci_runs() -> None:
    """Each line of `make lint`, and nothing else; CI calls `make lint`."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local", "hooks of other repositories would be fetched"
    assert [hook["entry"] for hook in repository["hooks"]] == recipe("lint")
    for hook in repository["hooks"]:
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
    assert "make lint" in (ROOT / ".ci" / "run").read_text().splitlines()


FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("path", FORMS, ids=[path.name for path in FORMS])
def test_an_issue_form_is_one(path: Path) -> None:
    """With what GitHub wants of each element; the one for lost data asks for what shows it."""
    form = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        return
    assert form["name"]
    assert form["description"]
    ids = [element["id"] for element in form["body"] if element["type"] != "markdown"]
    assert len(ids) == len({*ids})
    for element in form["body"]:
        attributes = element["attributes"]
        match element["type"]:
            case "markdown":
                assert attributes["value"]
            case "input" | "textarea":
                assert attributes["label"]
            case "dropdown":
                assert attributes["label"]
                assert attributes["options"]
            case other:
                pytest.fail(f"{other} is no element")
    if path.name == "lost-data.yml":
        text = path.read_text()
        assert "matyan check" in text
        assert "matyan doctor" in text


USER = """\
from matyan import reader

with reader.open("folder") as tracker:
    reveal_type(tracker)
    reveal_type([*tracker.runs(experiment="one")])
    tracker.runs(limit="ten")
    tracker.no_such_method()
"""


def test_a_user_of_the_reader_has_its_types(tmp_path: Path) -> None:
    """mypy --strict of somebody who has installed the wheel: the reader's types are seen, and what it has not is an error."""
    source = tmp_path / "source"
    shutil.copytree(PACKAGE, source / "matyan", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    # What a wheel of the tree packs and leaves out; the codec is compiled already, and mypy does not look into it.
    wheel_of = "from setuptools import setup; setup()"
    run([sys.executable, "-c", wheel_of, "-q", "bdist_wheel", "-d", tmp_path], source)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (tmp_path / "user.py").write_text(USER)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache"]
    said = run([*mypy, "--python-executable", environment / "bin" / "python", "user.py"], tmp_path)
    lines = dict(re.findall(r"user.py:(\d+): (?:error|note: Revealed type is)[: ](.*)", said))
    assert lines["4"] == '"matyan.reader.reading.Reader"', said
    assert "list[dict[str, Any]]" in lines["5"]
    assert "No overload variant" in lines["6"]
    assert '"Reader" has no attribute "no_such_method"' in lines["7"]


def run(command: Sequence[str | Path], folder: Path) -> str:
    """What a command prints, whatever its exit code."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
