"""Every page of docs/ does what it says: its commands run in their order and print what it shows, its Python blocks run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev import broker, s3
from tests.docs.page import ROOT, Page, Step, pages
from tests.docs.walk import own_network
from tests.needs import needed

PAGES = pages()
WALKED = [page for page in PAGES if any(not step.not_run for step in page.steps)]
NEEDS = {"kafka", "s3", "fdb", "source", "browser", "long"}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_what_a_page_needs_is_known(page: Page) -> None:
    """And a block that is not run says why."""
    assert page.needs <= NEEDS
    for step in page.steps:
        if step.not_run:
            assert len(step.not_run.split()) > 2, step


@pytest.mark.parametrize("page", WALKED, ids=[page.name for page in WALKED])
def test_a_page_can_be_followed(page: Page, tmp_path: Path) -> None:
    """From an empty folder, or from a clone, on a network that has nothing but what the page starts."""
    if "long" in page.needs and os.environ.get("MATYAN_TEST_LONG") != "1":
        pytest.skip("MATYAN_TEST_LONG=1 follows it: `make test-long`")
    if "kafka" in page.needs:
        needed(broker.classpath, "MATYAN_TEST_REQUIRE_KAFKA")
    if "s3" in page.needs:
        needed(s3.classpath, "MATYAN_TEST_REQUIRE_S3")
    if "fdb" in page.needs and not os.environ.get("FDB_CLUSTER_FILE"):
        pytest.skip("FDB_CLUSTER_FILE names no cluster: `make test-fdb`")
    folder = tmp_path / "folder"
    folder.mkdir()
    # A cluster listens on the machine's own loopback.
    network = [] if "fdb" in page.needs else own_network()
    done = subprocess.run(
        [*network, sys.executable, "-m", "tests.docs.walk", page.path, folder],
        cwd=ROOT,
        env={**os.environ, "MATYAN_TEST_OWN_NETWORK": "1" if network else ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _blocks() -> list[tuple[Page, Step]]:
    return [(page, step) for page in PAGES for step in page.steps if step.not_run]


@pytest.mark.parametrize(
    ("page", "step"), _blocks(), ids=[f"{page.name}:{step.line}" for page, step in _blocks()]
)
def test_what_is_not_run_names_what_is_there(page: Page, step: Step) -> None:
    """Of a command that cannot be run here: each file of the tree that it names stands there."""
    for command in step.commands() if step.kind == "console" else []:
        for word in command.text.split():
            word = word.strip("'\"")
            if word.startswith(("deploy/", "docs/", "bench/", "examples/", "./deploy/")):
                assert (ROOT / word).exists(), (page.name, step.line, word)
