"""What the pages of docs/ do not say themselves, filled in when mkdocs builds them (mkdocs.yml names this file).

A line `{{ settings }}`, `{{ commands }}`, `{{ metrics }}` or `{{ file NAME.md }}` of a page becomes the table of every setting,
the help of every command, the table of every metric, or a page that stands at the top of the tree. So each of these facts
stands once, in the code or in that file. No page is written here.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import click
from prometheus_client import REGISTRY

from matyan.cli.main import cli
from matyan.service import telemetry
from matyan.settings import Settings, file_variable

ROOT = Path(__file__).parent.parent

PAGES = {
    "SECURITY.md": "security.md",
    "ARCHITECTURE.md": "developing/architecture.md",
    "CONTRIBUTING.md": "developing/contributing.md",
    "CHANGELOG.md": "developing/changelog.md",
}
"""Files at the top of the tree → the page of docs/ that shows them."""

_PLACE = re.compile(r"^\{\{ (\w+)(?: (\S+))? \}\}$", re.MULTILINE)
_MARKER = re.compile(r"^<!-- (?:page|test): .*? -->\n", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^):]+?\.md)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """mkdocs' hook: the page's text as it is to be rendered, without the marks for the tests."""
    here: str = page.file.src_uri
    return _PLACE.sub(lambda found: _filled(found, here), _MARKER.sub("", markdown))


def _filled(found: re.Match[str], here: str) -> str:
    what, name = found.groups()
    if what == "file":
        return shown_at((ROOT / name).read_text(), here)
    return GENERATED[what]()


def shown_at(text: str, here: str) -> str:
    """The text of a file at the top of the tree, for the page `here`: its links lead to pages of docs/."""

    def link(found: re.Match[str]) -> str:
        target, anchor = found.groups()
        page = PAGES.get(target) or target.removeprefix("docs/")
        return f"]({posixpath.relpath(page, posixpath.dirname(here) or '.')}{anchor or ''})"

    return _LINK.sub(link, text)


# --- settings ------------------------------------------------------------------------------------


def settings_table() -> str:
    """A row for each field of `Settings`: its variable, its default, its meaning and which commands read it."""
    readers = readers_of_settings()
    lines = ["| variable | default | meaning | read by |", "|---|---|---|---|"]
    for row in fields(Settings):
        names = [row.metadata["env"]]
        if (file := file_variable(row)) is not None:
            names.append(file)
        variables = "<br>".join(f"`{name}`" for name in names)
        who = ", ".join(f"`{name}`" for name in readers[row.name])
        meaning = row.metadata["help"].replace("|", "\\|")
        anchor = f'<a id="{row.metadata["env"]}"></a>'
        lines.append(f"| {anchor}{variables} | {_shown(row)} | {meaning} | {who} |")
    return "\n".join(lines)


def _shown(row: Field[Any]) -> str:
    from matyan.secret import Secret

    value = row.default
    if isinstance(value, Secret):
        value = value.reveal()
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float):
        value = f"{value:g}"
    return f"`{value}`" if value not in ("", ()) and str(value) else ""


def readers_of_settings() -> dict[str, list[str]]:
    """Field of `Settings` → the commands that read it, in the order of `matyan --help`."""
    readers: dict[str, list[str]] = {row.name: [] for row in fields(Settings)}
    for path, command in commands():
        for name in getattr(command.callback, "settings_read", ()):
            if path[0] not in readers[name]:
                readers[name].append(path[0])
    return readers


# --- commands ------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command by its words, groups before what is in them."""

    def walk(path: tuple[str, ...], group: click.Group) -> Iterator[Any]:
        context = click.Context(group, info_name=path[-1] if path else "matyan")
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield (*path, name), command
            if isinstance(command, click.Group):
                yield from walk((*path, name), command)

    return walk((), cli)


def commands_help() -> str:
    """A heading and the --help of every command."""
    parts = []
    for path, command in commands():
        words = "matyan " + " ".join(path)
        anchor = "-".join(path)
        parts.append(
            f"## `{words}` {{#{anchor}}}" if len(path) == 1 else f"### `{words}` {{#{anchor}}}"
        )
        parts.append(f"```text\n{help_of(path, command)}\n```")
    return "\n\n".join(parts)


def help_of(path: tuple[str, ...], command: click.Command) -> str:
    """What `matyan PATH --help` prints, at the width of a page."""
    context = click.Context(cli, info_name="matyan", terminal_width=100, max_content_width=100)
    for name in path[:-1]:
        group = context.command
        assert isinstance(group, click.Group)
        child = group.get_command(context, name)
        assert child is not None
        context = click.Context(child, parent=context, info_name=name)
    own = click.Context(
        command, parent=context, info_name=path[-1], help_option_names=["-h", "--help"]
    )
    return command.get_help(own).rstrip()


# --- metrics -------------------------------------------------------------------------------------


def metrics_table() -> str:
    """A row for each metric that a process of ours may show."""
    assert telemetry
    lines = ["| metric | kind | meaning |", "|---|---|---|"]
    for family in sorted(REGISTRY.collect(), key=lambda family: family.name):
        if family.name.startswith("matyan_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            meaning = family.documentation.replace("|", "\\|")
            lines.append(f'| <a id="{name}"></a>`{name}` | {family.type} | {meaning} |')
    return "\n".join(lines)


GENERATED: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "commands": commands_help,
    "metrics": metrics_table,
}
