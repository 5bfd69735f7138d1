"""Trains a small classifier on scikit-learn's bundled digits and tracks all of it.

pip install matyan-client scikit-learn pillow
matyan up                       # in another terminal
python examples/digits.py       # then: matyan runs
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
from matyan_client import Run
from matyan_client.objects import Image
from PIL import Image as Pillow
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tracker", default=os.environ.get("MATYAN_FRONTIER_URL", "http://127.0.0.1:53801")
    )
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=0.005)
    parser.add_argument("--hidden", type=int, default=48)
    return parser.parse_args()


def must_answer(tracker: str) -> None:
    """Ends the program with what to do when no tracker answers: the SDK itself would wait 15 s first."""
    try:
        urllib.request.urlopen(f"{tracker}/api/v1/rest/version/", timeout=3).close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        sys.exit(
            f"No tracker answers at {tracker} ({reason}). "
            "Start one in another terminal with `matyan up`, or name it with --tracker URL."
        )


def confusion_image(truth: np.ndarray, guess: np.ndarray) -> Pillow.Image:
    """The confusion matrix, one square of 24 pixels a cell, brighter where more digits fell."""
    counts = confusion_matrix(truth, guess).astype(float)
    brightness = 255 * np.sqrt(counts / counts.max())
    return Pillow.fromarray(brightness.astype("uint8")).resize(
        (240, 240), Pillow.Resampling.NEAREST
    )


def main() -> None:
    options = arguments()
    must_answer(options.tracker)

    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        digits.data / 16, digits.target, test_size=0.3, random_state=7, stratify=digits.target
    )

    run = Run(repo=options.tracker, experiment="digits")
    run.name = f"MLP with {options.hidden} hidden units"
    run["hparams"] = {
        "hidden": options.hidden,
        "learning_rate": options.learning_rate,
        "epochs": options.epochs,
        "batch_size": 64,
    }
    run["dataset"] = {"name": "digits", "train": len(x_train), "test": len(x_test)}
    run.add_tag("example")
    run.add_tag("scikit-learn")
    run.log_info("training begins", images=len(x_train))

    model = MLPClassifier(
        hidden_layer_sizes=(options.hidden,),
        learning_rate_init=options.learning_rate,
        batch_size=64,
        random_state=7,
    )
    splits = {"train": (x_train, y_train), "test": (x_test, y_test)}
    accuracy = 0.0
    for epoch in range(options.epochs):
        model.partial_fit(x_train, y_train, classes=np.unique(digits.target))
        for subset, (x, y) in splits.items():
            accuracy = model.score(x, y)
            context = {"subset": subset}
            loss = log_loss(y, model.predict_proba(x))
            run.track(loss, name="loss", step=epoch, epoch=epoch, context=context)
            run.track(accuracy, name="accuracy", step=epoch, epoch=epoch, context=context)
        # The SDK captures what is printed: `matyan logs` shows these lines.
        print(f"epoch {epoch:3d}  test loss {loss:.4f}  test accuracy {accuracy:.4f}")
        if epoch % 10 == 9 or epoch == options.epochs - 1:
            image = confusion_image(y_test, model.predict(x_test))
            run.track(
                Image(image, caption=f"epoch {epoch}"), name="confusion", step=epoch, epoch=epoch
            )

    if accuracy < 0.95:
        run.log_warning("the classifier is worse than it should be", accuracy=accuracy)
    run.log_info("training ended", accuracy=accuracy)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "model.pickle")
        weights.write_bytes(pickle.dumps(model))
        run.log_artifact(str(weights), name="model.pickle")
        run.close()
    print(f"tracked as {run.hash}; look at it with: matyan show {run.hash[:8]} --plot loss")


if __name__ == "__main__":
    main()
