"""Programs to compare with, each in an environment of its own under build/, made by uv when it is not there.

They are pinned here where a test depends on them. Nothing of the package needs this file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dev.process import Missing

FOLDER = Path(__file__).resolve().parent.parent / "build" / "envs"


def make(
    name: str, packages: Sequence[str], *, python: str = sys.executable, folder: Path = FOLDER
) -> Path:
    """The bin folder of the environment `name`, which holds `packages`; one that is there is filled up.

    Args:
        python: what uv makes it with: a version, a name or a path.

    Raises:
        Missing: there is no uv or no such Python, or the packages cannot be installed; the text says which.
    """
    place = folder / name
    stamp = place / "packages.txt"
    wanted = "\n".join(packages)
    with _alone(place):
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"installing {' '.join(packages)} in {place}", file=sys.stderr, flush=True)
            _uv("venv", "--allow-existing", "--no-python-downloads", "--python", python, str(place))
            _uv("pip", "install", "--python", str(place / "bin" / "python"), *packages)
            stamp.write_text(wanted)
    return place / "bin"


def reference_frontier(*, python: str = "3.12", folder: Path = FOLDER) -> list[str]:
    """The command that starts the reference's frontier; it takes --host and --port.

    Raises:
        Missing: as `make` does. It wants Python 3.12 or newer.
    """
    packages = ("matyan-frontier==0.3.0", "matyan-api-models==0.2.1")
    bin = make("frontier", packages, python=python, folder=folder)
    return [str(bin / "matyan-frontier"), "start"]


def reference_worker(*, python: str = "3.12", folder: Path = FOLDER) -> list[str]:
    """The command that starts the reference's ingestion worker.

    Raises:
        Missing: as `make` does. It wants Python 3.12 or newer.
    """
    return [
        str(reference_backend(python=python, folder=folder) / "matyan-backend"),
        "ingest-worker",
    ]


def reference_api(*, python: str = "3.12", folder: Path = FOLDER) -> list[str]:
    """The command that starts the reference's API server; it takes --host and --port.

    Raises:
        Missing: as `make` does. It wants Python 3.12 or newer.
    """
    return [str(reference_backend(python=python, folder=folder) / "matyan-backend"), "start"]


def reference_backend(*, python: str = "3.12", folder: Path = FOLDER) -> Path:
    """The bin folder of an environment with the reference's worker and API server.

    Raises:
        Missing: as `make` does. It wants Python 3.12 or newer.
    """
    packages = ("matyan-backend==0.3.0", "matyan-api-models==0.2.1")
    return make("backend", packages, python=python, folder=folder)


def reference_consumer(*, folder: Path = FOLDER) -> Path:
    """The Python of an environment with the library that the reference's workers consume with, as they install it.

    Raises:
        Missing: as `make` does.
    """
    return make("consumer", ("aiokafka==0.14.0",), folder=folder) / "python"


def web_app(*, folder: Path = FOLDER) -> Path:
    """A folder for PYTHONPATH with the files of the web app, which its wheel has for Python 3.12 or newer alone.

    Raises:
        Missing: as `make` does.
    """
    place = folder / "web-app"
    package = "matyan-ui==0.3.2"
    stamp = place / "packages.txt"
    with _alone(place):
        if not stamp.exists() or stamp.read_text() != package:
            # Files and nothing that runs: any Python serves them.
            where = ("--target", str(place), "--python-version", "3.12", "--no-deps")
            _uv("pip", "install", *where, package)
            stamp.write_text(package)
    return place


def chromium() -> str:
    """
    Raises:
        Missing: there is none on the PATH.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    raise Missing("there is no Chromium on the PATH: `make browser` installs Debian's")


# PyTorch from the package index brings CUDA's libraries with it, some gigabytes; Keras is content with JAX.
_TORCH = (
    "torch==2.15.0",
    "transformers==5.24.0",
    "accelerate==1.15.0",
    "pytorch-lightning==2.6.6",
    "omegaconf==2.4.0",
)
_TRAINING = {
    "keras": ("keras", ("keras==3.15.1", "jax==0.10.2")),
    "hugging_face": ("torch", _TORCH),
    "lightning": ("torch", _TORCH),
}


def training_library(library: str, *, folder: Path = FOLDER) -> Path:
    """The bin folder of an environment with the SDK and one of the libraries that it has callbacks for.

    Raises:
        Missing: as `make` does.
    """
    name, packages = _TRAINING[library]
    return make(f"training-{name}", ("matyan-client==0.3.0", *packages), folder=folder)


_TRACKERS = {
    "tensorboard": ("tensorboardX==2.6.5", "pillow==13.0.0"),
    "wandb": ("wandb==0.31.0", "numpy==2.4.6", "pillow==13.0.0"),
    # Without its server and its machine learning.
    "mlflow": ("mlflow-skinny==3.17.2", "sqlalchemy==2.1.9", "alembic==1.20.1"),
    "trackio": ("trackio==0.43.0",),
    "aim": ("aim==3.29.1",),
}


def tracker(program: str, *, folder: Path = FOLDER) -> Path:
    """The bin folder of an environment with another tracker's library, which writes the files that `matyan import` reads.

    Raises:
        Missing: as `make` does.
    """
    return make(f"import-{program}", _TRACKERS[program], folder=folder)


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Several processes may want the same one at once: the others wait until it is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _uv(*words: str) -> None:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise Missing("uv is not on the PATH: it makes the environments to compare with")
    # Where pyenv holds a version that is not chosen, its shim of that name is found and fails, and uv looks no further.
    chosen = {"PYENV_VERSION": words[words.index("--python") + 1]} if "venv" in words else {}
    done = subprocess.run(
        [uv, "--quiet", *words],
        env={**chosen, **os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Missing(f"uv {words[0]} failed: {done.stderr[-2000:]}")
