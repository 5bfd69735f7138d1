"""Each page of the web app in Chromium: it loads with what was logged, without an error in it or a refused request."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.api.logged import STEPS, loss
from tests.browser.tab import Tab, explored, explored_anew, runs_where

THIS = "run.hash == 'finished'"
RUN = "/runs/finished"
NAME = "The finished one ✓"

PAGES = {
    "home": ("/", ["Total runs: 4", "Active runs (1)", "The running one ✓", "alpha", "étiquette"]),
    "runs": ("/runs", [NAME, "The lonely one ✓", "The running one ✓", "435", "hparams.layers"]),
    "overview": (f"{RUN}/overview", [NAME, "Finished", 'hparams.opt["β"]', "435", "of run.json"]),
    "params": (f"{RUN}/run_parameters", ["dataset", "hparams", '"adam"']),
    "metrics of a run": (f"{RUN}/metrics", ["acc", 'subset="train"', "k=[1]"]),
    "system": (f"{RUN}/system", ["CPU (%)"]),
    "images of a run": (f"{RUN}/images", ["digits", "a=1", "step 0", "step 3"]),
    "audios of a run": (f"{RUN}/audios", ["voice", "record.step", "00:00"]),
    "texts of a run": (f"{RUN}/texts", ["words", "text 0 ✓", "text 3 ✓"]),
    "figures of a run": (f"{RUN}/figures", ["bars", "Bars"]),
    "distributions": (f"{RUN}/distributions", ["weights", "Step 0"]),
    "logs": (f"{RUN}/logs", ["line 0 bold", "line 3 bold"]),
    "messages": (f"{RUN}/messages", ["begun", "look out", "oops", "this was all", "WARNING"]),
    "notes": (f"{RUN}/notes", ["Save"]),
    "settings": (f"{RUN}/settings", ["Archive Run", "Delete Run"]),
    "metrics": (explored("metrics", THIS), ['metric.name="acc"', "290", "299", NAME]),
    "parameters": ("/params", ["PARAMS EXPLORER"]),
    "scatters": ("/scatters", ["SCATTERS EXPLORER"]),
    "images": (explored("images", THIS), ["step 0", "step 3", "digits", NAME]),
    "texts": (explored_anew("text", THIS), ["text 0 ✓", 'texts.name="words"']),
    "audios": (explored_anew("audios", THIS), ['audios.name="voice"', "record.step=3"]),
    "figures": (explored_anew("figures", THIS), ['figures.name="bars"', "Bars"]),
    "metrics, anew": ("/metrics_v2", ["METRICS EXPLORER V2"]),
    "bookmarks": ("/bookmarks", ["No Bookmarks Yet"]),
    "tags": ("/tags", ["kept", "étiquette", "2 Tags"]),
    "reports": ("/reports", ["You don't have any reports created"]),
}
"""Their paths, and what they show."""


def test_what_goes_wrong_in_a_page_is_seen(tab: Tab) -> None:
    """The negative control: a refused request, an error of a script and one in the console."""
    tab.go("/tags")
    tab.shows("2 Tags")
    tab.page.evaluate("fetch('/api/v1/rest/nowhere').then(() => console.error('said'))")
    tab.page.evaluate("setTimeout(() => { throw new Error('thrown') })")
    tab.wait_for(lambda: len(tab.faults) == 3)
    assert {fault.split()[0] for fault in tab.faults} == {"404", "page:", "console:"}
    with pytest.raises(AssertionError, match="thrown"):
        tab.shows("2 Tags")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_with_data(tab: Tab, name: str) -> None:
    path, texts = PAGES[name]
    tab.go(path)
    tab.shows(*texts)


@pytest.mark.parametrize("part", ["overview", "runs", "notes", "settings"])
def test_an_experiment_has_its_pages(tab: Tab, part: str) -> None:
    tab.go("/")
    tab.page.get_by_role("link", name="beta").first.click()
    tab.shows("beta")
    if part != "overview":
        tab.page.goto(f"{tab.page.url.rpartition('/')[0]}/{part}")
    tab.shows(
        {
            "overview": "Total runs: 2",
            "runs": "The finished one ✓",
            "notes": "Save",
            "settings": "Delete Experiment",
        }[part]
    )


def test_charts_show_the_points_that_were_logged(tab: Tab) -> None:
    """All of them, each at its place between the first and the last; and the axes name those."""
    tab.go(f"{RUN}/metrics")
    line = tab.line("acc", {})
    assert len(line) == STEPS // 10
    (x0, y0), (x9, y9) = line[0], line[-1]
    for number, (x, y) in enumerate(line):
        assert (x - x0) / (x9 - x0) == pytest.approx(number / (len(line) - 1))
        assert (y - y0) / (y9 - y0) == pytest.approx(number / (len(line) - 1))
    line = tab.line("loss", {"subset": "train"})
    (_, top), (_, bottom) = line[0], line[-1]
    logged = [loss(step) for step in (*range(0, STEPS - 1, 6), STEPS - 1)]
    for (_, y), value in zip(line[:3], logged, strict=False):
        found = loss(STEPS - 1) + (bottom - y) / (bottom - top) * (loss(0) - loss(STEPS - 1))
        assert found == pytest.approx(value, rel=0.05)
    assert all(lower <= upper + 1e-6 for (_, upper), (_, lower) in pairwise(line[::-1]))
    ticks = {"0", "50", "450", "290", "1.2", "2", "299"}
    tab.wait_for(lambda: ticks <= {*tab.text().split("\n")})


def test_an_image_is_shown_and_a_figure_drawn(tab: Tab) -> None:
    tab.go(f"{RUN}/images")
    sizes = "[...document.querySelectorAll('img[src^=data]')].map(image => image.naturalWidth)"
    tab.wait_for(lambda: tab.page.evaluate(sizes) == [8] * 4)
    tab.go(f"{RUN}/figures")
    tab.wait_for(lambda: tab.page.locator(".js-plotly-plot .point path").count() == 3)
    assert tab.told() == []


def test_a_search_narrows_and_a_query_that_does_not_parse_is_told(tab: Tab) -> None:
    tab.go(runs_where(THIS))
    tab.shows(NAME)
    assert "The lonely one" not in tab.text()
    # As a user types it.
    tab.go("/runs")
    tab.shows("The lonely one ✓", NAME)
    tab.page.locator(".monaco-editor").first.click()
    tab.page.keyboard.type("run.hparams.lr > 1")
    tab.page.keyboard.press("Enter")
    tab.wait_for(lambda: "The lonely one ✓" in tab.text() and NAME not in tab.text())
    tab.go(runs_where("run.hparams.lr >"))
    tab.wait_for(lambda: "Incorrect Query" in tab.text())
    assert [fault[:8] for fault in tab.told()] == ["400 GET "]
