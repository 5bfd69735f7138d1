"""The units of deploy/systemd: judged by systemd, and against matyan itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import pytest

from matyan.cli.main import cli
from matyan.settings import Settings, load
from tests.deploy.test_chart import command_of
from tests.deploy.tools import DEPLOY

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAM = "/opt/matyan/bin/matyan"
MOST_EXPOSURE = 3.0
ABORT_S = 1.0
"""What a drain that is late is waited for."""

Lines = dict[str, list[str]]


def lines_of(unit: Path) -> Lines:
    """Name → its values, of all sections."""
    found: Lines = defaultdict(list)
    for name, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found[name].append(value)
    return found


def environment(lines: Lines) -> dict[str, str]:
    """As the first instance has it."""
    given = dict(line.split("=", 1) for line in lines["Environment"])
    return {name: value.replace("%i", "1").replace("%H", "host") for name, value in given.items()}


def words_of(lines: Lines) -> list[str]:
    """The arguments of matyan, its variables put in."""
    (line,) = lines["ExecStart"]
    program, *words = line.split()
    assert program == PROGRAM
    given = environment(lines)
    return [re.sub(r"\$\{(\w+)\}", lambda match: given[match[1]], word) for word in words]


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, Path]:
    """The units as on a machine where the program is there; one with an @ as its first instance."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NOT TESTED: there is no systemd-analyze here")
    program = tmp_path / "matyan"
    program.symlink_to(sys.executable)
    units = {}
    for unit in UNITS:
        place = tmp_path / unit.name.replace("@.", "@1.")
        place.write_text(unit.read_text().replace(PROGRAM, str(program)))
        units[unit.name] = place
    return units


def analyze(*words: object) -> tuple[int, str]:
    ended = subprocess.run(
        ["systemd-analyze", *map(str, words)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout


@pytest.mark.parametrize("unit", [unit.name for unit in UNITS])
def test_systemd_has_nothing_to_say_against_it(unit: str, installed: dict[str, Path]) -> None:
    assert analyze("verify", "--man=no", installed[unit]) == (0, "")


@pytest.mark.parametrize("unit", [unit.name for unit in UNITS])
def test_it_may_do_little_but_its_work(unit: str, installed: dict[str, Path]) -> None:
    """systemd's own measure: 10 is everything, a service without a sandbox 9.6."""
    code, said = analyze(
        "security", "--offline=true", f"--threshold={MOST_EXPOSURE * 10:.0f}", installed[unit]
    )
    assert code == 0, said
    found = re.search(r"exposure level for .*: ([0-9.]+)", said)
    assert found is not None, said
    assert float(found[1]) < MOST_EXPOSURE


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_its_command_and_its_settings_exist(unit: Path) -> None:
    lines = lines_of(unit)
    command, rest = command_of(words_of(lines))
    assert command.name is not None
    (name,) = re.findall(r"^matyan-?([a-z-]*)@?\.service$", unit.name)
    assert command.name == (name or "up")
    command.make_context(command.name, rest)
    known = {row.metadata["env"] for row in fields(Settings)}
    used = set(re.findall(r"\$\{(\w+)\}", " ".join(lines["ExecStart"])))
    given = environment(lines)
    assert given.keys() - used <= known
    load({name: value for name, value in given.items() if name in known})


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_it_gets_the_time_that_its_drain_takes(unit: Path) -> None:
    lines = lines_of(unit)
    (stop,) = lines["TimeoutStopSec"]
    assert float(stop) > float(environment(lines)["SHUTDOWN_FLUSH_TIMEOUT"]) + ABORT_S
    # matyan tells systemd nothing by itself.
    assert lines["Type"] == ["exec"]
    assert lines["RestartPreventExitStatus"] == ["2"]


def test_those_of_one_machine_do_not_share_a_port() -> None:
    ports = [
        environment(lines_of(unit)).get(name)
        for unit in UNITS
        for name in ("PORT", "METRICS_PORT")
        if unit.name != "matyan.service"
    ]
    used = [port for port in ports if port]
    assert len(used) == len(set(used)) == 4
    # Of nine workers, too.
    (worker,) = [unit for unit in UNITS if "@" in unit.name]
    assert "METRICS_PORT=909%i" in lines_of(worker)["Environment"]


def test_there_is_one_for_each_service() -> None:
    services = {"frontier", "ingest-worker", "control-worker", "api", "up"}
    assert {words_of(lines_of(unit))[0] for unit in UNITS} == services <= {*cli.list_commands(None)}
