"""The pages of docs/ as a site: it is built without a warning, holds every fact of the code, and asks no other server for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dev.docs_pages import commands, help_of, readers_of_settings
from matyan.settings import Settings, file_variable
from tests.docs.page import DOCS, ROOT

_LOADS = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "link": ("href",),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src",),
    "audio": ("src",),
    "use": ("href", "xlink:href"),
    "object": ("data",),
}
"""Which attributes a browser loads by itself."""

_RELATIONS_THAT_LOAD_NOTHING = {"canonical", "next", "prev", "alternate"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it, on a network that has nobody where the machine allows one."""
    from tests.docs.walk import own_network

    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [*own_network(), sys.executable, "-m", "mkdocs", "build", "--strict", "-d", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


class Loads(HTMLParser):
    """What a page makes the browser load, its styles and scripts included; and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.shown: list[str] = []
        self.ids: set[str] = set()
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._inside = tag
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "link" and given.get("rel", "") in _RELATIONS_THAT_LOAD_NOTHING:
            return
        self.found += [given[name] for name in _LOADS.get(tag, ()) if name in given]
        self.found += re.findall(r"url\(([^)]*)\)", given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.found += re.findall(r"url\(([^)]*)\)", data)
        elif self._inside != "script":
            self.shown.append(data)


def pages_of(site: Path) -> Iterator[tuple[Path, Loads]]:
    for path in sorted(site.rglob("*.html")):
        yield path, Loads(path.read_text())


def is_elsewhere(address: str) -> bool:
    return re.match(r"\s*['\"]?(https?:)?//", address) is not None


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No page and no style names a file of another server: the site is whole on a machine without a network."""
    found = [
        (str(path.relative_to(site)), address)
        for path, page in pages_of(site)
        for address in page.found
        if is_elsewhere(address)
    ]
    for style in site.rglob("*.css"):
        text = style.read_text()
        addresses = re.findall(r"url\(([^)]*)\)", text) + re.findall(r"@import\s+(\S+)", text)
        found += [(style.name, address) for address in addresses if is_elsewhere(address)]
    assert not found


def test_what_would_be_loaded_from_elsewhere_is_seen() -> None:
    page = Loads(
        '<link rel="stylesheet" href="https://a/b.css"><p style="x:url(//c/d)"><img src="e">'
    )
    assert [address for address in page.found if is_elsewhere(address)] == [
        "https://a/b.css",
        "//c/d",
    ]


def test_no_page_uses_what_the_theme_would_fetch(site: Path) -> None:
    """Its diagrams and mathematics come from other servers, at the reader's: diagrams are drawn in text."""
    for path, _ in pages_of(site):
        assert 'class="mermaid"' not in path.read_text(), path


def test_marks_for_the_tests_are_not_shown(site: Path) -> None:
    for path, _ in pages_of(site):
        assert "<!-- test:" not in path.read_text(), path
        assert "{{ " not in "".join(Loads(path.read_text()).shown), path


def text_of(site: Path, page: str) -> str:
    return " ".join("".join(Loads((site / page / "index.html").read_text()).shown).split())


def test_every_setting_stands_in_the_table(site: Path) -> None:
    """With its default, its meaning, and who reads it: each is read by somebody."""
    text = text_of(site, "reference/settings")
    readers = readers_of_settings()
    for row in fields(Settings):
        assert row.metadata["env"] in text
        assert " ".join(row.metadata["help"].replace("`", "").split()) in text
        assert readers[row.name], f"no command says that it reads {row.metadata['env']}"
        if (file := file_variable(row)) is not None:
            assert file in text


def test_every_command_stands_there_with_its_help(site: Path) -> None:
    """The words that `matyan COMMAND --help` prints, each heading one that can be linked."""
    html = (site / "reference/commands/index.html").read_text()
    text = text_of(site, "reference/commands")
    for path, command in commands():
        assert f'id="{"-".join(path)}"' in html
        # click keeps a command's help option as it was made first, which is without -h where a test called the command by itself.
        help = " ".join(help_of(path, command).split()).replace(" --help Show", " -h, --help Show")
        assert help.replace("-h, -h,", "-h,") in text


def test_the_help_on_the_page_is_what_the_command_prints() -> None:
    from tests.tracker import environment

    for path, command in commands():
        if path in (("offsets", "reset"), ("runs",)):
            done = subprocess.run(
                [sys.executable, "-m", "matyan", *path, "--help"],
                env=environment(COLUMNS="102"),
                capture_output=True,
                text=True,
                check=True,
            )
            assert "".join(done.stdout.split()) == "".join(help_of(path, command).split())


def test_every_page_is_in_the_navigation() -> None:
    """And each of the navigation is a page; mkdocs checks that, too, once it is built."""
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} == named


ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"


@pytest.mark.skipif(not ALERTS.exists(), reason="there are no alerts yet")
def test_every_alert_has_its_section() -> None:
    """An alert's link leads to what it means and what to do; there is no section of an alert that is gone."""
    names = re.findall(r"^\s*- alert: *(\w+)", ALERTS.read_text(), re.MULTILINE)
    text = (DOCS / "operating" / "monitoring.md").read_text()
    assert names
    assert sorted(re.findall(r"\{#alert-(\w+)\}", text)) == sorted({name.lower() for name in names})
