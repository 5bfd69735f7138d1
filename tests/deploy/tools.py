"""The programs that judge deploy/: helm and compose, which `make deploy-tools` builds, and those of Debian's packages."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dev.process import Missing
from tests.needs import needed

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BUILT = ROOT / "build" / "deploy-tools"
REQUIRED = "MATYAN_TEST_REQUIRE_DEPLOY"


def tool(name: str) -> Path:
    """Where this program is; skips where it is not, or fails where all must be there."""

    def find() -> Path:
        found = shutil.which(name, path=BUILT) or shutil.which(name)
        if found is None:
            raise Missing(
                f"there is no {name}: call `make deploy-tools` (Go and, for promtool, Debian)"
            )
        return Path(found)

    return needed(find, REQUIRED)


@dataclass(frozen=True, slots=True)
class Ended:
    """What a program came to."""

    code: int
    out: str
    said: str
    """Its output and, behind it, its errors."""


def run(name: str, *words: object, cwd: Path = ROOT) -> Ended:
    """Whatever its exit code."""
    ended = subprocess.run(
        [tool(name), *map(str, words)],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stdout + ended.stderr)
