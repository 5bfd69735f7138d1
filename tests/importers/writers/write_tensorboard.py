"""Runs in an environment of tensorboardX, which torch's writer is the same as: writes a folder, and tells what it has logged.

python -m writers.write_tensorboard FOLDER
"""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from writers.truth import Run, tell

BEGUN = 1_700_000_000.25


def scalar(writer: SummaryWriter, run: Run, tag: str, step: int, value: float, **name: str) -> None:
    when = BEGUN + step % 100_000
    writer.add_scalar(tag, value, step, walltime=when)
    run.point(name.get("name", tag), step, float(np.float32(value)), time=when)


def only_file(folder: Path, name: str) -> None:
    """The files of a folder are read by name, which begins with the second that they were made in: two of one test have the same."""
    (file,) = folder.iterdir()
    file.rename(folder / name)


def main() -> None:
    top = Path(sys.argv[1])
    first = Run("group/träining run", experiment=top.name)
    with SummaryWriter(str(top / "group" / "träining run")) as writer:
        for step in range(3000):
            scalar(writer, first, "loss/train", step, 1 / (step + 1))
        for step, value in ((0, math.nan), (5, math.inf), (3, -math.inf), (4, 0.1)):
            scalar(writer, first, "odd", step, value)
        for step, value in ((2**62, 3e38), (0, 1e-45), (7, -0.0)):
            scalar(writer, first, "huge", step, value)
        scalar(writer, first, "é 損 x", 1, 1.0, name="é_損_x")
        for step in range(3):
            scalar(writer, first, "logs", step, step, name="logs (metric)")
        # The same step again: the later counts.
        writer.add_scalar("twice", 1.0, 4, walltime=BEGUN)
        scalar(writer, first, "twice", 4, 2.0)
        writer.add_text("note", "# a **text** é", 3, walltime=BEGUN)
        first.object("note/text_summary", 3, {"type": "text", "data": "# a **text** é"})
        samples = np.concatenate([np.linspace(-1, 1, 100), np.full(50, 0.25)])
        writer.add_histogram("weights", samples, 7, bins=np.linspace(-1, 1, 11), walltime=BEGUN)
        counts, _ = np.histogram(samples, np.linspace(-1, 1, 11))
        bars = {"type": "distribution", "bin_count": 10, "range": [-1.0, 1.0]}
        first.object("weights", 7, {**bars, "data": [float(count) for count in counts]})
        pixels = np.zeros((3, 4, 6), dtype=np.uint8)
        pixels[0, :, :3] = 255
        writer.add_image("sample", pixels, 9, walltime=BEGUN)
        encoded = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(encoded, "PNG")
        picture = {"type": "image", "format": "png", "width": 6, "height": 4}
        first.object("sample", 9, picture, data=encoded.getvalue())
        writer.add_pr_curve("curve", np.array([0, 1, 1]), np.array([0.1, 0.8, 0.6]), 1)

    # Killed at step 9, begun again at step 5, and killed at step 7: TensorBoard shows no step 8 and 9.
    restarted = Run("restarted", experiment=top.name)
    folder = top / "restarted"
    with SummaryWriter(str(folder)) as writer:
        for step in range(10):
            if step < 5:
                scalar(writer, restarted, "loss", step, step)
            else:
                writer.add_scalar("loss", step, step, walltime=BEGUN)
            scalar(writer, restarted, "of the first alone", step, step, name="of_the_first_alone")
    only_file(folder, "events.out.tfevents.1700000000.a")
    with SummaryWriter(str(folder)) as writer:
        for step in range(5, 8):
            scalar(writer, restarted, "loss", step, 100 + step)

    # The same with the word of the writer that all from step 6 on is void.
    purged = Run("purged", experiment=top.name)
    folder = top / "purged"
    with SummaryWriter(str(folder)) as writer:
        for step in range(10):
            for tag in ("loss", "other"):
                if step < 6:
                    scalar(writer, purged, tag, step, step)
                else:
                    writer.add_scalar(tag, step, step, walltime=BEGUN)
    only_file(folder, "events.out.tfevents.1700000000.a")
    with SummaryWriter(str(folder), purge_step=6) as writer:
        scalar(writer, purged, "loss", 6, 106)

    params = {"lr": 0.5, "layers": 3.0, "name": "é", "fast": True}
    tuned = Run("tuned", experiment=top.name, params=params)
    with SummaryWriter(str(top / "tuned")) as writer:
        writer.add_hparams(params, {"accuracy": 0.75}, name=".", global_step=2)
    tuned.point("accuracy", 2, 0.75)

    empty = Run("empty", experiment=top.name)
    SummaryWriter(str(top / "empty")).close()

    tell(
        [first, restarted, purged, tuned, empty],
        left_out={
            "tensor of the plugin pr_curves": 1,
            "point that a restart has made void": 5 + 8,
        },
        changed={"name that is kept for log lines": 1},
    )


main()
