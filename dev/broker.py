"""A real Kafka broker on loopback, for tests, benches and `make kafka`: one KRaft node from Maven Central.

Fetches the pinned jars of pom.xml once, formats a folder, starts the broker, creates the topics and waits
until it answers. No mock and no container; nothing of the package needs this file.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

HERE = Path(__file__).parent
JARS = HERE / "target" / "jars"

TOPICS: Mapping[str, int] = {
    "data-ingestion": 6,
    "control-events": 1,
    "data-ingestion-dlq": 1,
    "control-events-dlq": 1,
}

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
# One node: the internal topics cannot have the replicas that they want by default, and need not 50 partitions.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# The first member of a group is served at once instead of after 3 s; sessions as short as tests like them.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
controlled.shutdown.enable=false
# After kill -9 the same node may register again when the controller has forgotten the old one: 9 s by default.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


class Missing(Exception):
    """Java, Maven or the jars are not there; the text says which."""


def classpath() -> str:
    """The class path of the pinned jars, fetched with Maven when pom.xml changed or nothing was fetched yet.

    Raises:
        Missing: Java or Maven is not installed, or Maven could not fetch the jars.
    """
    for program, why in (
        ("java", "Java 17 or newer runs the broker"),
        ("mvn", "Maven fetches the broker"),
    ):
        if shutil.which(program) is None:
            raise Missing(f"{program} is not on the PATH: {why}")
    pom = HERE / "pom.xml"
    stamp = JARS / "pom.xml"
    JARS.mkdir(parents=True, exist_ok=True)
    with (JARS.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != pom.read_bytes():
            done = subprocess.run(
                [
                    *("mvn", "-q", "-B", "dependency:copy-dependencies", "-f"),
                    pom,
                    f"-DoutputDirectory={JARS}",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise Missing(f"Maven could not fetch the broker: {done.stdout[-2000:]}")
            shutil.copyfile(pom, stamp)
    return str(JARS / "*")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


class Broker:
    """One broker on one folder and one port, which stay the same across kill and start."""

    def __init__(self, folder: Path, port: int = 0, controller_port: int = 0) -> None:
        self.folder = folder.absolute()
        free = iter(free_ports(2))
        self.port = port or next(free)
        self.controller_port = controller_port or next(free)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, timeout: float = 90, topics: Mapping[str, int] = TOPICS) -> None:
        """Formats the folder when it is new, starts, waits until the broker answers and has `topics`.

        Raises:
            Missing: it cannot be run on this machine.
            RuntimeError: it ended, or does not answer within `timeout` seconds; its log's end is in the text.
        """
        self.launch()
        self.wait(timeout, topics)

    def launch(self) -> None:
        """Starts the process and does not wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.folder / "data"
        properties = self.folder / "server.properties"
        properties.write_text(
            PROPERTIES.format(port=self.port, controller_port=self.controller_port, data=data)
        )
        # The serial collector: on a small machine with a small heap it starts faster and idles cheaper.
        java = ["java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", classpath()]
        java += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        java += ["-Dorg.slf4j.simpleLogger.showDateTime=true"]
        with (self.folder / "broker.log").open("ab") as log:
            if not (data / "meta.properties").exists():
                cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
                # One word: an id can begin with a dash, and would be read as an option.
                name = f"--cluster-id={cluster}"
                subprocess.run(
                    [*java, "kafka.tools.StorageTool", "format", name, "-c", properties],
                    stdout=log,
                    stderr=log,
                    check=True,
                )
            # Its own process group: a Ctrl-C at the terminal reaches the script, which stops the broker cleanly.
            self.process = subprocess.Popen(
                [*java, "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, timeout: float, topics: Mapping[str, int] = TOPICS) -> None:
        """Waits until the broker answers, and creates those of `topics` that are missing."""
        deadline = time.monotonic() + timeout
        while not self._listening():
            self._check(deadline, timeout)
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        while True:
            with contextlib.suppress(KafkaException):
                known = admin.list_topics(timeout=2).topics
                if all(
                    name in known and len(known[name].partitions) >= count
                    for name, count in topics.items()
                ):
                    return
                missing = [
                    NewTopic(name, count, 1) for name, count in topics.items() if name not in known
                ]
                for future in admin.create_topics(missing).values():
                    future.result(10)
            self._check(deadline, timeout)

    def _listening(self) -> bool:
        with socket.socket() as sock:
            sock.settimeout(1)
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def _check(self, deadline: float, timeout: float) -> None:
        time.sleep(0.05)
        assert self.process is not None
        ended = self.process.poll()
        if ended is None and time.monotonic() < deadline:
            return
        state = f"ended with {ended}" if ended is not None else f"did not answer in {timeout:g} s"
        self.kill()
        log = (self.folder / "broker.log").read_text(errors="replace")[-3000:]
        raise RuntimeError(f"the broker {state}:\n{log}")

    def signal(self, number: int) -> None:
        assert self.process is not None, "the broker is not running"
        os.kill(self.process.pid, number)

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay open and nothing answers, as on a machine that hangs."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9; the folder stays and start() works on it again."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self, timeout: float = 20) -> None:
        """SIGTERM and wait; kill -9 when it does not end in `timeout` seconds."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.thaw()
            self.signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None


@contextlib.contextmanager
def running(folder: Path, port: int = 0, controller_port: int = 0) -> Iterator[Broker]:
    """A started broker, stopped on leaving."""
    broker = Broker(folder, port, controller_port)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / "target" / "data", help="keeps the log")
    parser.add_argument("--port", type=int, default=9092, help="0: a free one")
    parser.add_argument("--controller-port", type=int, default=0, help="0: a free one")
    options = parser.parse_args()

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        with running(options.data, options.port, options.controller_port) as broker:
            print(f"Kafka answers on {broker.bootstrap}; its data: {broker.folder}", flush=True)
            assert broker.process is not None
            return broker.process.wait()
    except KeyboardInterrupt:
        return 0
    except (Missing, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
