"""Runs in an environment of wandb: two offline runs, one of them killed, and what they have logged.

python -m writers.write_wandb FOLDER
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from writers.truth import Run, tell

FOLDER = Path(sys.argv[1])
os.environ.update(
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    WANDB_DIR=str(FOLDER),
    WANDB_DATA_DIR=str(FOLDER / "staging"),
    WANDB_CACHE_DIR=str(FOLDER / "cache"),
)

import numpy as np  # noqa: E402 - it reads the environment
import wandb  # noqa: E402 - behind it
from PIL import Image  # noqa: E402 - behind it

CONFIG = {"lr": 0.1, "nested": {"a": [1, 2, {"b": None}], "s": "é"}, "big": 2**60, "flag": True}


def killed() -> Run:
    """A run whose log lacks the end of its last record, which says that it has ended."""
    truth = Run("killed", experiment="proj", active=True)
    run = wandb.init(project="proj", id="killedrun", name="killed")
    for step in range(20):
        run.log({"loss": step})
        truth.point("loss", step, step)
    run.finish()
    wandb.teardown()  # wandb's own process writes the log, and ends with it
    (log,) = FOLDER.glob("wandb/*killedrun/*.wandb")
    os.truncate(log, log.stat().st_size - 5)
    return truth


def main() -> None:
    truth = Run(
        "my run é",
        experiment="proj",
        description="some notes",
        tags=["a", "b c"],
        params={**CONFIG, "late": 7},
    )
    settings = wandb.Settings(x_stats_sampling_interval=1)
    run = wandb.init(
        project="proj",
        id="firstrun",
        name="my run é",
        notes="some notes",
        tags=["a", "b c"],
        group="g1",
        job_type="train",
        config=CONFIG,
        settings=settings,
    )
    run.define_metric("val/*", step_metric="epoch")
    for step in range(500):
        row = {
            "loss": 1 / (step + 1),
            "epoch": step / 4,
            "val/acc": step,
            "n": {"deep": {"x": step}},
        }
        if step == 2:
            row |= {"odd": math.nan, "other": -math.inf, "flag": True}
        run.log(row)
        epoch = step / 4
        truth.point("loss", step, 1 / (step + 1), epoch=epoch)
        truth.point("epoch", step, epoch, epoch=epoch)
        truth.point("val/acc", step, step, epoch=epoch)
        truth.point("n.deep.x", step, step, epoch=epoch)
        if step == 2:
            truth.point("odd", step, math.nan, epoch=epoch)
            truth.point("other", step, -math.inf, epoch=epoch)
            truth.point("flag", step, 1, epoch=epoch)
    counts = [3.0, 0.0, 2.0, 1.0]
    made = wandb.Histogram(np_histogram=(np.array(counts), np.linspace(0, 2, 5)))
    run.log({"h": made, "word": "hello é"}, step=600)
    bars = {"type": "distribution", "bin_count": 4, "range": [0.0, 2.0], "data": counts}
    truth.object("h", 600, bars)
    truth.object("word", 600, {"type": "text", "data": "hello é"})
    pictures = []
    for shade in (0, 128, 255):
        file = FOLDER / f"{shade}.png"
        Image.fromarray(np.full((4, 6, 3), shade, dtype=np.uint8)).save(file)
        pictures.append(file)
    one, *others = (wandb.Image(str(file), caption=f"of {file.stem}") for file in pictures)
    run.log({"picture": one, "pictures": [*others]}, step=601)
    size = {"type": "image", "format": "png", "width": 6, "height": 4}
    truth.object("picture", 601, {**size, "caption": "of 0"}, data=pictures[0].read_bytes())
    for at, file in enumerate(pictures[1:]):
        fields = {**size, "caption": f"of {file.stem}"}
        truth.object("pictures", 601, fields, context={"index": at}, data=file.read_bytes())
    run.log({"table": wandb.Table(columns=["a"], data=[[1]]), "list": [1, 2, 3]}, step=602)
    run.config.update({"late": 7})
    print("a line")
    print("another é")
    truth.lines += ["a line", "another é"]
    kept = FOLDER / "model.bin"
    kept.write_bytes(b"weights")
    artifact = wandb.Artifact("model", "model")
    artifact.add_file(str(kept))
    run.log_artifact(artifact)
    truth.artifact("artifacts/model/model.bin", b"weights")
    run.alert("title", "text", level="WARN")
    truth.records.append([30, "title: text"])
    run.finish()

    tell(
        [truth, killed()],
        left_out={
            "axis of a metric (define_metric)": 1,
            "list of values at a step": 1,
            "object of the type table-file (its file is taken as an artifact)": 1,
            "record that is cut at the end of a file": 1,
        },
    )


main()
