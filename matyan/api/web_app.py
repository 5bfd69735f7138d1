"""Where the web app `matyan-ui` is installed, if it is. Without Quart, so that a start can ask."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

_PACKAGE: Final = "matyan-ui"
TEMPLATE: Final = "index-template.html"


@dataclass(frozen=True, slots=True)
class WebApp:
    """Where its files are."""

    folder: Path
    version: str


def find_web_app() -> WebApp | None:
    """The web app that is installed beside this package; None: it is not."""
    try:
        found = distribution(_PACKAGE)
    except PackageNotFoundError:
        return None
    folder = Path(str(found.locate_file("matyan_ui/static")))
    return WebApp(folder, found.version) if (folder / TEMPLATE).is_file() else None
