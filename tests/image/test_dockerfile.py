"""The Dockerfile as a text: what its linter sees without building it, and what it copies."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


def test_the_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_sent_to_the_builder() -> None:
    """The list of what is ignored begins with everything."""
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in sent
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    names = [name for words in copied for name in words.split()]
    assert names
    for name in names:
        assert (ROOT / name).exists()
        assert f"!{name}" in sent


def test_each_base_is_an_argument_with_a_version() -> None:
    text = DOCKERFILE.read_text()
    bases = dict(re.findall(r"^ARG (\w+)=(\S+)$", text.partition("\nFROM")[0], re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        _, _, tag = bases[base.strip("${}")].partition(":")
        assert re.search(r"\d+\.\d+\.\d+", tag), base
