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


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a browser finds the web app, and the web app the API."""

    base_path: str = ""
    """What a proxy in front puts before every path, such as "/tracker"."""
    api_host: str = ""
    """scheme://host[:port]; empty: where the page comes from."""
    api_path: str = ""
    """What the API's paths begin with; empty: base_path, where the host is the page's, and /api/v1."""

    @property
    def api_base_path(self) -> str:
        return self.api_path or f"{'' if self.api_host else self.base_path}/api/v1"


def find_web_app() -> WebApp | None:
    """The web app that is installed beside this package; None: it is not."""
    try:
        found = distribution(_PACKAGE)
    except PackageNotFoundError:
        return None
    folder = Path(str(found.locate_file("matyan_ui/static")))
    return WebApp(folder, found.version) if (folder / TEMPLATE).is_file() else None
