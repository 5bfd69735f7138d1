"""The load generator: many websocket clients in one process of their own, each with one frame in flight, as the SDK has.

Here stand the messages' text and the command line; the loop is `loadgen.c`, compiled at the first use. No servers and
no verdicts: `ingest.py`, `frontier.py` and `peers.py` start those and read the numbers.

Every frame is new: steps count up from 0, values come from a table, client_datetime is the clock's, the mask is random,
and the text is what the SDK's `json.dumps` writes. Its bias is in BIAS, which whoever measures with it prints.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import BUILD

HERE = Path(__file__).resolve().parent
PROGRAMS = BUILD / "bench"
RUN, NAME, VALUE, STEP, TIME = "\x01", "\x02", "\x03", "\x04", "\x05"

BIAS = """\
Load: every frame is new, with steps that its run has not had (a repeated frame would flatter the store and what compresses);
values repeat after 65,536. A connection is one run and sends nothing but log_metric after its create_run, one frame in
flight; it offers no permessage-deflate, as the SDK does (a server that accepts spends more). The generator, one thread,
shares the machine's cores with the server."""

# Members and their order as the SDK's send_create_run and send_log_metric have them.
CREATE_RUN = {"type": "create_run", "run_id": RUN, "client_datetime": TIME, "force_resume": False}
LOG_METRIC = {
    "type": "log_metric",
    "run_id": RUN,
    "name": NAME,
    "value": VALUE,
    "step": STEP,
    "epoch": None,
    "context": {"subset": "train"},
    "dtype": "float",
    "client_datetime": TIME,
}


@dataclass(frozen=True)
class Load:
    """What the clients do."""

    connections: int
    messages: int
    """Messages a frame."""
    rate: float = 0
    """Frames a second and connection on an open schedule; 0: the next one as soon as the last is acknowledged."""
    metrics: int = 1
    """Sequences a run: message i goes to sequence i % metrics at step i // metrics."""
    values: str = "smooth"
    """smooth (a loss curve at full precision) or random (uniform)."""
    spacing_us: int = 0
    """0: client_datetime is the clock's, so microseconds apart in a closed loop. Else a step's distance on the
    run's own clock, give or take a tenth: what a training loop would have sent."""

    def __str__(self) -> str:
        pace = f" × {self.rate:g}/s" if self.rate else ""
        kind = f", {self.metrics} metrics a run" if self.metrics > 1 else ""
        return f"{self.connections} × {self.messages}{pace}{kind}"


def template(message: dict[str, Any]) -> str:
    """The message as json.dumps writes it, with the generator's marks for the fields."""
    text = json.dumps(message, ensure_ascii=False)
    for mark, code in ((RUN, "\\u0001"), (NAME, "\\u0002"), (TIME, "\\u0005")):
        text = text.replace(code, mark)
    for mark, code in ((VALUE, '"\\u0003"'), (STEP, '"\\u0004"')):  # numbers: without the quotes
        text = text.replace(code, mark)
    return text


def table(kind: str, count: int = 65_536) -> list[float]:
    """Values to send."""
    if kind == "random":
        source = random.Random(1)
        return [source.random() for _ in range(count)]
    return [2.3 * math.exp(-i / 9000) + 0.05 + 0.01 * math.sin(i / 50) for i in range(count)]


def compiled(*, tls: bool = False) -> Path:
    """The generator's program, built when it is older than its source. tls: one that speaks TLS, and wants OpenSSL's headers."""
    source, program = HERE / "loadgen.c", PROGRAMS / ("loadgen-tls" if tls else "loadgen")
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        PROGRAMS.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *("cc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)),
                *(("-DWITH_TLS", "-lssl", "-lcrypto") if tls else ()),
            ],
            check=True,
        )
    return program


@contextmanager
def command(
    port: int,
    load: Load,
    prefix: str,
    create: bool,
    *,
    token: str = "",
    tls: bool = False,
    **options: float,
) -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory(prefix="loadgen-") as folder:
        files = {
            "template": template(LOG_METRIC),
            "values": "\n".join(map(repr, table(load.values))),
        }
        if create:
            files["create"] = template(CREATE_RUN)
        words = [str(compiled(tls=tls))]
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
            words += [f"--{name}", str(Path(folder) / name)]
        numbers: dict[str, object] = {
            "port": port,
            "prefix": prefix,
            "connections": load.connections,
            "messages": load.messages,
            "metrics": load.metrics,
            "rate": load.rate,
            "spacing_us": load.spacing_us,
            **({"token": token} if token else {}),
            **options,
        }
        for name, value in numbers.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        yield words


def fresh_prefix() -> str:
    """Run ids that were not there before."""
    return f"load-{time.time_ns():x}"


def run(
    port: int,
    load: Load,
    *,
    seconds: float = 5,
    warmup: float = 1,
    frames: int = 0,
    first_step: int = 0,
    prefix: str | None = None,
    create: bool = True,
    token: str = "",
    tls: bool = False,
    cpu: Callable[[], float] = time.process_time,
) -> dict[str, Any]:
    """Puts `load` on 127.0.0.1:`port` and returns the generator's counts; latencies in milliseconds.

    With `frames`, that many a connection and no warm-up, or what of them `seconds` allow.
    ack_ms is from sending to acknowledgement, ack_from_schedule_ms from when the schedule wanted the frame sent (no coordinated omission).

    With `tls`, under TLS, whatever the server's certificate.
    With `token`, a throw-away one that `ps` may show, each handshake has it as Bearer.

    `cpu` tells the server's CPU seconds; what it used from the first frame to the last reply, warm-up included and
    connecting not, is cpu_s_per_million.

    Raises:
        RuntimeError: a connection broke, or a reply was not the exact ok reply.
    """
    prefix = prefix or fresh_prefix()
    with command(
        port,
        load,
        prefix,
        create,
        seconds=seconds,
        warmup=0 if frames else warmup,
        frames=frames,
        first_step=first_step,
        token=token,
        tls=tls,
    ) as words:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        before = cpu()
        text = process.stdout.readline()
        used = cpu() - before
        _, errors = process.communicate()
    if process.returncode or errors:
        raise RuntimeError(errors.strip() or f"the generator ended with {process.returncode}")
    result: dict[str, Any] = json.loads(text)
    result["cpu_s_per_million"] = used / max(1, result["acknowledged"]) * 1e6
    result["prefix"] = prefix
    return result


@contextmanager
def idle(
    port: int, connections: int, *, create: bool, hold: float = 30, tls: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Holds open connections that send nothing (after create_run, when asked) while the caller looks at the server."""
    with command(port, Load(connections, 1), fresh_prefix(), create, hold=hold, tls=tls) as words:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError("the idle connections could not be opened")
            yield process
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Load on a frontier at 127.0.0.1; prints JSON.")
    parser.add_argument("port", type=int)
    parser.add_argument("-c", "--connections", type=int, default=32)
    parser.add_argument("-m", "--messages", type=int, default=100, help="messages a frame")
    parser.add_argument(
        "-r", "--rate", type=float, default=0, help="frames/s a connection (0: closed loop)"
    )
    parser.add_argument("-k", "--metrics", type=int, default=1, help="sequences a run")
    parser.add_argument("--values", choices=("smooth", "random"), default="smooth")
    parser.add_argument("-t", "--seconds", type=float, default=5)
    parser.add_argument("-w", "--warmup", type=float, default=1)
    parser.add_argument(
        "-n", "--frames", type=int, default=0, help="end after so many a connection"
    )
    parser.add_argument("--prefix", help="run ids are PREFIX-00000 and up")
    given = parser.parse_args()
    load = Load(given.connections, given.messages, given.rate, given.metrics, given.values)
    try:
        result = run(
            given.port,
            load,
            seconds=3600 if given.frames else given.seconds,
            warmup=given.warmup,
            frames=given.frames,
            prefix=given.prefix,
        )
    except RuntimeError as error:
        sys.exit(str(error))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
