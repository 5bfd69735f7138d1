"""Pictures of the web app for the documentation: `python -m tests.browser.shots FOLDER` (`make screenshots`).

A tracker of its own gets some runs of examples/digits.py; six pages of them are written as WebP.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from PIL import Image

from dev.environments import chromium, web_app
from tests.browser.tab import browsing, explored, open_tab
from tests.tracker import asked, running

EXAMPLE: Final = Path(__file__).parent.parent.parent / "examples" / "digits.py"
TRAININGS: Final = (("16", "0.02"), ("32", "0.01"), ("48", "0.005"), ("64", "0.001"))
"""Hidden units and learning rate of each."""
MAX_BYTES: Final = 150_000


def pages(run: str) -> Iterator[tuple[str, str, list[str]]]:
    """Names, paths, and what is shown when a page is drawn."""
    yield "home", "/", ["Total runs: 4", "What's New"]
    yield "runs", "/runs", ["MLP with 16 hidden units", "dataset.name"]
    yield "run", f"/runs/{run}/overview", ["Run Artifacts", "model.pickle"]
    yield "run-metrics", f"/runs/{run}/metrics", ["accuracy", 'subset="test"']
    query = 'metric.name in ["loss", "accuracy"] and metric.context.subset == "test"'
    yield "metrics", explored("metrics", query), ['metric.name="accuracy"', "Mixed: 4 values"]
    yield "images", explored("images", 'images.name == "confusion"'), ["epoch 29", "MLP with 16"]


def train(url: str, hidden: str, rate: str) -> None:
    words = ["--tracker", url, "--hidden", hidden, "--learning-rate", rate]
    subprocess.run([sys.executable, str(EXAMPLE), *words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    target = parser.parse_args().folder
    target.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "data", PYTHONPATH=str(web_app())) as tracker,
        browsing(chromium()) as browser,
        open_tab(browser, tracker.url) as tab,
    ):
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(lambda training: train(tracker.url, *training), TRAININGS):
                pass
        newest = asked("runs", "--data", tracker.data)[0]["run"]
        for name, path, texts in pages(newest):
            tab.go(path)
            tab.shows(*texts)
            tab.page.wait_for_load_state("networkidle")
            tab.page.wait_for_timeout(1_000)  # what moves comes to rest
            picture = Image.open(io.BytesIO(tab.page.screenshot()))
            file = target / f"{name}.webp"
            picture.convert("RGB").save(file, quality=80, method=6)
            assert file.stat().st_size < MAX_BYTES, file
            print(file, file.stat().st_size)
        tracker.stop()


if __name__ == "__main__":
    main()
