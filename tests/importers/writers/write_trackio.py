"""Runs in an environment of trackio: two runs of a project, and what they have logged.

python -m writers.write_trackio FOLDER
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
os.environ.update(TRACKIO_DIR=str(FOLDER), HF_HUB_OFFLINE="1")

import numpy as np  # noqa: E402 - it reads the environment
import trackio  # noqa: E402 - behind it
from writers.truth import Run, tell  # noqa: E402 - behind it

CONFIG = {"lr": 0.1, "nested": {"a": [1, 2, None], "s": "é"}, "flag": True}


def main() -> None:
    truth = Run("run é 1", experiment="proj", params=CONFIG)
    with contextlib.redirect_stdout(io.StringIO()):
        run = trackio.init(project="proj", name="run é 1", config=CONFIG, group="g")
        for step in range(500):
            row = {"loss": 1 / (step + 1), "train/acc": step, "epoch": step / 4, "n": {"x": step}}
            epoch = step / 4
            for name, value in (("loss", 1 / (step + 1)), ("train/acc", step), ("n.x", step)):
                truth.point(name, step, value, epoch=epoch)
            truth.point("epoch", step, epoch, epoch=epoch)
            if step == 3:
                row |= {"odd": math.nan, "other": -math.inf, "word": "hello é"}
                truth.point("odd", step, math.nan, epoch=epoch)
                truth.point("other", step, -math.inf, epoch=epoch)
                truth.object("word", step, {"type": "text", "data": "hello é"})
            run.log(row)
        pixels = np.full((4, 6, 3), 128, dtype=np.uint8)
        run.log({"picture": trackio.Image(pixels, caption="grey")}, step=600)
        run.log(
            {"bars": trackio.Histogram(np_histogram=([3, 0, 1], [0.0, 1.0, 2.0, 3.0]))}, step=601
        )
        bars = {"type": "distribution", "bin_count": 3, "range": [0.0, 3.0], "data": [3, 0, 1]}
        truth.object("bars", 601, bars)
        run.log({"sound": trackio.Audio(np.zeros(100, dtype=np.int16), sample_rate=8000)}, step=602)
        run.log({"text": trackio.Markdown("# hi"), "list": [1, 2]}, step=603)
        truth.object("text", 603, {"type": "text", "data": "# hi"})
        run.log_system({"gpu": 0.5})
        truth.point("__system__gpu", 0, 0.5)
        trackio.alert("title", "text")
        truth.records.append([30, "title: text"])
        kept = FOLDER / "weights.bin"
        kept.write_bytes(b"weights")
        artifact = trackio.Artifact("model", type="model")
        artifact.add_file(str(kept))
        run.log_artifact(artifact)
        truth.artifact("artifacts/model/v0/weights.bin", b"weights")
        trackio.finish()
        # One that logs nothing is not written down by trackio.
        trackio.init(project="proj", name="small", config={"a": 1}).log({"x": 1})
        trackio.finish()
    (picture,) = FOLDER.glob("media/proj/*/600/*.png")
    fields = {"type": "image", "format": "png", "caption": "grey"}
    truth.object("picture", 600, fields, data=picture.read_bytes())
    (sound,) = FOLDER.glob("media/proj/*/602/*.wav")
    truth.object("sound", 602, {"type": "audio", "format": "wav"}, data=sound.read_bytes())
    small = Run("small", experiment="proj", params={"a": 1})
    small.point("x", 0, 1)
    tell([truth, small], left_out={"list of values at a step": 1})


main()
