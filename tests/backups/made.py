"""Backups that tests make in their own process, of folders that they fill."""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from matyan import reader
from matyan.cli import backup as commands
from tests.cli.test_main import presign
from tests.tracker import Tracker


def call(command: str, *words: str | Path) -> tuple[int, str, str]:
    """Runs one of the two commands in this process: exit code, output, what was said. Raises what `matyan` would print."""
    umask = os.umask(0o022)
    out, said = StringIO(), StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(said):
            code = getattr(commands, command).main([*map(str, words)], standalone_mode=False)
    finally:
        os.umask(umask)
    return int(code or 0), out.getvalue(), said.getvalue()


def backed_up(data: Path, to: Path, *words: str) -> Any:
    """What `matyan backup --json` prints."""
    code, out, said = call("backup", data, "--to", to, "--json", *words)
    assert code == 0, said
    return json.loads(out)


def verified(to: Path, *names: str) -> dict[str, set[tuple[str, str]]]:
    """What `matyan backup verify` finds: by backup kind and path."""
    code, out, _ = call("backup", "verify", to, *names, "--json")
    found = {
        row["name"]: {(one["kind"], one["path"]) for one in row["findings"]}
        for row in json.loads(out)
    }
    assert code == int(any(found.values()))
    return found


def restored(to: Path, folder: Path, *names: str) -> Path:
    call("restore", to, *names, "--to", folder)
    return folder


def upload(tracker: Tracker, run: str, path: str, content: bytes) -> None:
    """Acknowledged when this returns."""
    kind = {"Content-Type": "application/octet-stream"}
    request = Request(presign(tracker, run, path), content, kind, method="PUT")
    urlopen(request, timeout=60).close()


def seen(data: Path) -> dict[str, Any]:
    """What a folder shows: of each run its points and the bytes of its artifacts."""
    with reader.open(data) as opened:
        return {
            row["run"]: (
                [(row["name"], opened.show(row["run"])["attrs"].get("hparams"))],
                [
                    (block.name, *block.points.values)
                    for block in opened.blocks(row["run"])
                    if block.points is not None
                ],
                {
                    one["path"]: opened.artifact(row["run"], one["path"]).read()
                    for one in opened.artifacts(row["run"])
                    if one["bytes"] is not None
                },
            )
            for row in opened.runs()
        }


def inodes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_ino
        for path in folder.rglob("*")
        if path.is_file()
    }


def slow(*words: str | Path, before: str) -> list[str]:
    """A command whose copying waits for ever before the first file whose path holds `before`, and says so."""
    program = f"""
import sys, time
from matyan.backups import files
from matyan.cli import main
for name in ("copied", "linked"):
    def waiting(source, target, *more, then=getattr(files, name)):
        if {before!r} in str(target):
            print("waits", flush=True)
            time.sleep(3600)
        return then(source, target, *more)
    setattr(files, name, waiting)
main.main()
"""
    return [sys.executable, "-c", program, *map(str, words)]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def modes(folder: Path) -> set[tuple[bool, int]]:
    """Whether it is a folder, and its rights, of all that is in it."""
    return {(path.is_dir(), path.lstat().st_mode & 0o777) for path in folder.rglob("*")}
