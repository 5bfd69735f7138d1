"""A tracker's runs with every kind of object, logged by the SDK: what the reference's API and the web app are shown."""

from __future__ import annotations

import io
import json
import logging
import math
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from matyan_client import Run
from matyan_client.objects import Audio, Distribution, Figure, Image, Text
from PIL import Image as Pillow

RUNS: Final = ("archived", "finished", "lonely", "running")
"""Their ids. Only the last is active."""
EXPERIMENTS: Final = {"archived": "alpha", "finished": "beta", "lonely": None, "running": "beta"}
STEPS: Final = 300


def loss(step: int) -> float:
    return 1 / (step + 1)


def log_runs(url: str, folder: Path) -> None:
    """Logs them all; returns when they are stored.

    Args:
        folder: for the artifacts' files.
    """
    # One after the other, so that each is newer than the one before.
    runs = [
        Run(name, repo=url, experiment=EXPERIMENTS[name], capture_terminal_logs=False)
        for name in RUNS
    ]
    with ThreadPoolExecutor(len(RUNS)) as pool:
        for _ in pool.map(lambda number: _log(runs[number], folder, number), range(len(RUNS))):
            pass


def _log(run: Run, folder: Path, number: int) -> None:
    name = run.hash
    run.name, run.description = f"The {name} one ✓", "d" * number
    run["hparams"] = {
        "lr": (0.1, 1, 1.5, -5.0)[number],
        "layers": [64, {"size": 32}],
        "opt": {"name": "adam", "β": 0.9},
        "none": None,
        "flag": True,
        "empty": {},
        "no items": [],
    }
    run["dataset.version"] = number
    run.add_tag("kept")
    if number:
        run.add_tag("étiquette")
    for step in range(STEPS):
        value = loss(step) + number
        run.track(value, name="loss", step=step, epoch=step // 50, context={"subset": "train"})
        if step % 3 == 0:
            run.track(2 * value, name="loss", step=step, context={"subset": "val", "k": [1]})
        if step % 10 == 0:
            run.track(step * 1.5, name="acc", step=step)
    run.track(math.nan, name="no number", step=0)
    run.track(5, name="__system__cpu", step=0)
    for step in range(4):
        run.track(_image(step), name="digits", step=step, context={"a": 1})
        run.track(Text(f"text {step} ✓"), name="words", step=step)
        run.track(Distribution([1, 2, 3, 4.5 + step], bin_count=4), name="weights", step=step)
        run.track(Audio(_sound(step), format_="wav"), name="voice", step=step)
        bars = {"data": [{"type": "bar", "y": [1, 2, step]}], "layout": {"title": "Bars"}}
        run.track(Figure(bars), name="bars", step=step)
    run.log_info("begun", size=3)
    run.log_warning("look out")
    run.log_error("oops")
    run._log_message(logging.CRITICAL, "this was all")
    artifact = folder / f"{name}.json"
    artifact.write_text(json.dumps({"number": number}))
    run.log_artifact(str(artifact), "models/of run.json")
    for step in range(4):
        run._send_terminal_line(f"line {step} \x1b[1mbold\x1b[0m", step)
    if name == "archived":
        run.archived = True
    if name == "running":
        # Everything that `close` does, but for telling that the run has ended.
        run._blob_uploader.shutdown()
        run._ws.close()
        run._finalizer.detach()
        run._ws, run._closed = None, True
    else:
        run.close()


def _image(step: int) -> Image:
    out = io.BytesIO()
    Pillow.new("L", (8, 8), 25 * step).save(out, "PNG")
    return Image(out.getvalue(), caption=f"step {step}")


def _sound(step: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8_000)
        sound.writeframes(bytes(800 + step))
    return out.getvalue()
