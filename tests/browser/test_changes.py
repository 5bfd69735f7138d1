"""What a user changes in the web app is there after a reload; what a run logs meanwhile comes by itself."""

from __future__ import annotations

from matyan_client import Run

from tests.browser.tab import Tab
from tests.tracker import Tracker


def test_a_run_is_renamed_and_archived(tab: Tab) -> None:
    tab.go("/runs/finished/settings")
    tab.shows("Archive Run")
    tab.page.locator("input").first.fill("Renamed")
    tab.press("Save")
    tab.shows("Changes successfully saved")
    tab.press("Archive")
    tab.shows("Run successfully archived")
    tab.go("/runs/finished/settings")
    tab.shows("Renamed", "Unarchive Run")
    tab.go("/runs")
    tab.shows("The lonely one ✓")
    assert "Renamed" not in tab.text()
    tab.go("/runs/finished/settings")
    tab.shows("Unarchive Run")
    tab.press("Unarchive")
    tab.shows("Run successfully unarchived")
    tab.go("/runs")
    tab.shows("The lonely one ✓", "Renamed")


def test_a_run_gets_a_tag_and_a_note(tab: Tab) -> None:
    tab.go("/tags")
    tab.shows("2 Tags")
    tab.page.get_by_text("Create Tag").click()
    tab.page.get_by_placeholder("Name").fill("later")
    tab.press("Create")
    tab.shows("3 Tags", "later")
    tab.go("/runs/lonely/overview")
    tab.page.locator(".AttachedTagsList__ControlPopover__editPopoverButton").click()
    with tab.page.expect_response("**/tags/new*"):
        tab.page.locator(".SelectTag").get_by_text("later").click()
    tab.go("/runs/lonely/overview")
    tab.shows("TAGS (3)", "later")
    tab.go("/runs/lonely/notes")
    tab.page.locator(".ProseMirror[contenteditable=true]").click()
    tab.page.keyboard.type("it went well")
    with tab.page.expect_response("**/note*"):
        tab.press("Save")
    tab.go("/runs/lonely/notes")
    tab.shows("it went well")


def test_a_run_is_deleted(tab: Tab) -> None:
    tab.go("/runs/archived/settings")
    tab.shows("Delete Run")
    tab.press("Delete")
    tab.shows("Are you sure you want to delete this run?")
    tab.press("Delete", last=True)
    tab.wait_for(lambda: tab.page.url.endswith("/runs"))
    tab.go("/")
    tab.shows("Total runs: 3")


def test_logs_follow_a_live_run(tab: Tab, tracker: Tracker) -> None:
    """Without a reload; and its page says when it has ended."""
    run = Run("live", repo=tracker.url, capture_terminal_logs=False)
    run._send_terminal_line("the first line", 0)
    assert run._ws.wait_for_flush()
    tab.go("/runs/live/logs")
    tab.shows("In Progress", "the first line")
    run._send_terminal_line("the second line", 1)
    tab.shows("the first line", "the second line")
    run.close()
    tab.go("/runs/live/logs")
    tab.shows("Finished", "the second line")
