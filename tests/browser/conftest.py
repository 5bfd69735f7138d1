"""A tracker with the web app, filled by the SDK, and Chromium. Each file has its own, and may change what is stored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from dev.environments import chromium, web_app
from tests.api.logged import log_runs
from tests.browser.tab import Tab, browsing, open_tab
from tests.needs import needed
from tests.tracker import Tracker, running

_REQUIRED = "MATYAN_TEST_REQUIRE_BROWSER"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing(needed(chromium, _REQUIRED)) as started:
        yield started


@pytest.fixture(scope="module")
def tracker(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    folder = tmp_path_factory.mktemp("browser")
    with running(folder / "data", PYTHONPATH=str(needed(web_app, _REQUIRED))) as started:
        log_runs(started.url, folder)
        yield started
        assert started.stop() == 0, "".join(started.output)
    assert '"level": "error"' not in "".join(started.output)


@pytest.fixture(scope="module")
def tab(browser: Browser, tracker: Tracker) -> Iterator[Tab]:
    """One for all tests of a file: its files are loaded once, as a user's are."""
    with open_tab(browser, tracker.url) as opened:
        yield opened
