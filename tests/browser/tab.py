"""A tab of headless Chromium on a tracker's web app: what is shown in it, and what went wrong there."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, sync_playwright

from tests.until import wait_for

SECONDS: Final = 60
"""Only ends what hangs."""
_EXPECTED: Final = ("loadPyodide", "ERR_FAILED")
"""Every page asks hosts of the internet for fonts, scripts and news, which is cut off here, and misses one of the scripts."""
_REFUSED: Final = "Failed to load resource"
"""What the console says of a response that is counted by itself."""
_FAILED: Final = "Something went wrong"
_EDITOR: Final = """
addEventListener("unhandledrejection", event => {
    // The editor of a query, set anew, gives up what it was computing.
    if (event.reason && event.reason.type === "cancelation") event.preventDefault();
});
"""


@contextmanager
def browsing(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        words = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=words)
        yield browser
        browser.close()


class Tab:
    """Made by `open_tab`."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.faults: list[str] = []
        """Errors of the page and of its console, and responses of 400 and more, that nobody was told of."""
        self._url = url
        page.on("response", self._on_response)
        page.on("pageerror", self._on_error)
        page.on("console", self._on_console)

    def go(self, path: str) -> None:
        self.page.goto(self._url + path)

    def text(self) -> str:
        return self.page.inner_text("body")

    def shows(self, *texts: str) -> None:
        """Waits until the page shows all of them, and then nothing that went wrong."""
        shown = ""

        def all_there() -> bool:
            nonlocal shown
            shown = self.text()
            return all(text in shown for text in texts)

        try:
            self.wait_for(all_there)
        except TimeoutError:
            missing = [text for text in texts if text not in shown]
            pytest.fail(f"{missing} not in {shown!r}; {self.told()}")
        assert _FAILED not in shown
        faults = self.told()
        assert not faults, faults

    def told(self) -> list[str]:
        """The faults since the last time."""
        faults, self.faults = self.faults, []
        return faults

    def wait_for(self, condition: Any) -> None:
        """
        Raises:
            TimeoutError: it does not come so far.
        """

        def turned() -> object:
            self.page.wait_for_timeout(50)  # its events are heard meanwhile
            return condition()

        wait_for(turned, SECONDS)

    def press(self, button: str, *, last: bool = False) -> None:
        found = self.page.get_by_role("button", name=button, exact=True)
        (found.last if last else found.first).click()

    def line(self, name: str, context: dict[str, Any]) -> list[tuple[float, float]]:
        """The points of a run page's chart in pixels, once it is drawn."""
        chart = state({"name": name, "context": context})
        drawn = self.page.locator(f"path[id='Line-{chart}']")
        path = drawn.get_attribute("d", timeout=SECONDS * 1000) or ""
        numbers = [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", path)]
        return [*zip(numbers[::2], numbers[1::2], strict=True)]

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status} {response.request.method} {response.url}")

    def _on_error(self, error: Exception) -> None:
        if not any(text in str(error) for text in _EXPECTED):
            self.faults.append(f"page: {error}")

    def _on_console(self, message: ConsoleMessage) -> None:
        quiet = (*_EXPECTED, _REFUSED)
        if message.type == "error" and not any(text in message.text for text in quiet):
            self.faults.append(f"console: {message.text}")


@contextmanager
def open_tab(browser: Browser, url: str) -> Iterator[Tab]:
    """A tab with a memory of its own, in Yerevan, that reaches nothing but `url`."""
    context = browser.new_context(
        viewport={"width": 1500, "height": 900}, timezone_id="Asia/Yerevan"
    )
    context.set_default_timeout(SECONDS * 1000)
    context.add_init_script(_EDITOR)
    inside = (url, "data:", "blob:")
    context.route(lambda address: not address.startswith(inside), lambda route: route.abort())
    yield Tab(context.new_page(), url)
    context.close()


def state(value: dict[str, Any]) -> str:
    """A page's state as the web app writes it into a URL."""
    text = urllib.parse.quote(json.dumps(value, separators=(",", ":")), safe="~()*!.'-_;,/?:@&=+$#")
    return "O-" + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def runs_where(query: str) -> str:
    return f"/runs?select={state({'query': query})}"


def explored(page: str, query: str) -> str:
    """A query of the pages of metrics and images."""
    wanted = {"advancedMode": True, "advancedQuery": query, "options": [], "query": ""}
    return f"/{page}?select={state(wanted)}"


def explored_anew(page: str, query: str) -> str:
    """A query of the pages of texts, audios and figures."""
    form = {"options": [], "simpleInput": "", "advancedInput": query}
    form |= {"advancedModeOn": True, "isInitial": False}
    return f"/{page}?query={state({'form': form, 'ranges': {'isInitial': True}})}"
