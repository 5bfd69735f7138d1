"""Runs in an environment of Aim: a repository with two runs, one of them killed, and what they have logged.

python -m writers.write_aim FOLDER
"""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import aim
import numpy as np
from PIL import Image
from writers.truth import Run, tell

FOLDER = Path(sys.argv[1])
QUIET = {"system_tracking_interval": None, "capture_terminal_logs": False}
PARAMS = {"lr": 0.1, "layers": [1, 2, {"a": None}], "empty": {}, "none": [], "s": "é", "b": True}


def killed() -> None:
    run = aim.Run(repo=str(FOLDER), experiment="other", **QUIET)
    run.name = "killed"
    for step in range(50):
        run.track(step, name="loss", step=step)
    os._exit(9)


def main() -> None:
    if len(sys.argv) > 2:
        killed()
    repo = aim.Repo.from_path(str(FOLDER), init=True)
    run = aim.Run(repo=repo, experiment="exp é", **QUIET)
    run.name, run.description = "my run é", "what it is"
    run.add_tag("a tag é")
    run["hparams"] = PARAMS
    run["other"] = 5
    truth = Run(
        "my run é",
        experiment="exp é",
        description="what it is",
        tags=["a tag é"],
        params=PARAMS,
        attributes={"other": 5},
    )
    for number in range(2000):
        step = number * 3 - 5
        run.track(
            1 / (number + 1),
            name="loss",
            step=step,
            epoch=number // 10,
            context={"subset": "train"},
        )
        truth.point("loss", step, 1 / (number + 1), epoch=number // 10, context={"subset": "train"})
        if number < 100:
            run.track(number, name="loss", step=number, context={"subset": "val", "fold": 2})
            truth.point("loss", number, number, context={"subset": "val", "fold": 2})
    for step, value in ((0, math.nan), (3, math.inf), (1, -math.inf), (2**40, 5)):
        run.track(value, name="odd", step=step)
        truth.point("odd", step, value)
    for value in (1.0, 2.0):
        run.track(value, name="twice", step=7)
    truth.point("twice", 7, 2.0)
    run.track(aim.Text("hello é"), name="text", step=3)
    truth.object("text", 3, {"type": "text", "data": "hello é"})
    run.track([aim.Text("a"), aim.Text("b")], name="texts", step=-2)
    for at, text in enumerate("ab"):
        truth.object("texts", -2, {"type": "text", "data": text}, context={"index": at})
    run.track(aim.Distribution(hist=[1, 0, 2], bin_range=(-1.0, 2.0)), name="bars", step=1)
    bars = {"type": "distribution", "bin_count": 3, "range": [-1.0, 2.0], "data": [1, 0, 2]}
    truth.object("bars", 1, bars)
    for subset in ("train", "val"):
        shade = 0 if subset == "train" else 255
        pixels = np.full((4, 6, 3), shade, dtype=np.uint8)
        run.track(
            aim.Image(pixels, caption="cap é"), name="picture", step=1, context={"subset": subset}
        )
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG", optimize=False, quality=90)
        fields = {"type": "image", "format": "png", "width": 6, "height": 4, "caption": "cap é"}
        truth.object("picture", 1, fields, context={"subset": subset}, data=encoded.getvalue())
    run.track(aim.Audio(b"RIFF....WAVE", format="wav", caption="c"), name="sound", step=0)
    truth.object(
        "sound", 0, {"type": "audio", "format": "wav", "caption": "c"}, data=b"RIFF....WAVE"
    )
    run.log_warning("a record é", x=1)
    truth.records.append([30, "a record é"])
    run.close()
    subprocess.run([sys.executable, "-m", "writers.write_aim", str(FOLDER), "killed"], check=False)
    other = Run("killed", experiment="other", active=True)
    for step in range(50):
        other.point("loss", step, step)
    tell([truth, other])


main()
