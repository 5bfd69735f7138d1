"""The picture in ARCHITECTURE.md against the imports: each room imports only what stands below it, and there is no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import matyan

PACKAGE = Path(matyan.__file__).parent

ROOMS = (
    "__main__",
    "cli",
    "importers",
    "moving",
    "reader",
    "backups",
    "folder",
    "jobs",
    "workers",
    "frontier",
    "api",
    "rules",
    "blobs",
    "broker",
    "readable",
    "keys",
    "store",
    "service",
    "settings",
    "kafka_properties",
    "secret",
    "parsing",
    "_codec",
    "errors",
    "__init__",
)
"""From top to bottom, as the picture draws them."""

S3 = {"matyan.blobs.s3", "matyan.blobs.s3_client", "matyan.blobs.s3_credentials"}

NEVER = {
    "rules": {"matyan.broker.local", "matyan.broker.kafka", "matyan.store.rocks", "trio"},
    "api": {"matyan.store.rocks", "matyan.broker.local", "matyan.broker.kafka", *S3},
    "frontier": {"matyan.api", "matyan.store", "matyan.broker.local", "matyan.broker.kafka", *S3},
    "jobs": {"matyan.store.rocks", "matyan.broker.local", "matyan.broker.kafka", *S3},
    "workers": {"matyan.store.rocks", "matyan.broker.local", "matyan.broker.kafka"},
    "store": {"matyan.keys"},
    "moving": {"matyan.store.rocks", "matyan.broker", "matyan.workers", "matyan.rules", *S3},
    "service": {"rocksdict", "confluent_kafka", "boto3"},
}
"""What a room does without though it stands lower: engines are the composition root's choice."""


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(("matyan", *path.relative_to(PACKAGE).with_suffix("").parts))
        found[name.removesuffix(".__init__")] = path
    return found


def imports(source: str, known: set[str]) -> Iterator[str]:
    """The modules that a source imports: at its top, in functions and for type checkers alike."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield whole if whole in known else module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def graph() -> dict[str, set[str]]:
    found = modules()
    known = {*found, "matyan._codec"}
    return {name: set(imports(path.read_text(), known)) for name, path in found.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def misplaced(edges: dict[str, set[str]]) -> list[str]:
    """An import that goes up, or sideways into a room that does without it, one line each."""
    found = []
    for module, imported in sorted(edges.items()):
        for other in sorted(imported):
            if other.split(".")[0] == "matyan" and ROOMS.index(room(other)) < ROOMS.index(
                room(module)
            ):
                found.append(f"{module} imports {other}, which stands above it")
            if any(
                other == barred or other.startswith(f"{barred}.")
                for barred in NEVER.get(room(module), ())
            ) and room(module) != room(other):
                found.append(f"{module} imports {other}, which its room does without")
    return found


def test_every_room_imports_only_what_stands_below_it() -> None:
    assert misplaced(graph()) == []


def test_no_module_imports_itself_through_others() -> None:
    ours = {
        module: {other for other in imported if other != module and other in modules()}
        for module, imported in graph().items()
    }
    try:
        TopologicalSorter(ours).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("matyan.rules.runs", "from matyan.workers import ingest"),
        ("matyan.rules.runs", "def f():\n    from matyan.broker import local"),
        ("matyan.store.rocks", "import matyan.cli.main"),
        ("matyan.frontier.session", "from matyan.store.base import Store"),
        ("matyan.keys", "if TYPE_CHECKING:\n    from matyan.rules.runs import exists"),
    ],
)
def test_an_import_that_breaks_the_order_is_found(module: str, line: str) -> None:
    known = {*modules(), "matyan._codec"}
    assert misplaced({module: set(imports(line, known))}) != []


def test_the_picture_names_every_room_in_this_order() -> None:
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    rows = [row.split("`")[1] for row in text.splitlines() if row.startswith("| `")]
    named = [name.rstrip("/").removesuffix(".py").removesuffix(".pyx") for name in rows]
    assert named == [name for name in ROOMS if not name.startswith("__")]
