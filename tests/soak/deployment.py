"""A whole deployment as processes on loopback: brokers, an S3 server, frontiers, workers, a control worker, the read API.

Each service keeps its port and its folder, and can be killed, frozen and started again; whoever was not ended here and has
ended is found by `unexpected`. Brokers ask who comes (a user, with a password), so that rights can be taken away.
"""

from __future__ import annotations

import contextlib
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dev.broker import Cluster
from dev.process import Server, free_ports
from dev.s3 import S3, Versity
from matyan import reader
from matyan.broker.kafka.admin import Group
from matyan.broker.kafka.client import client_config
from matyan.errors import Unavailable
from matyan.settings import load
from tests.blobs.bucket import s3_environment
from tests.cluster.places import empty
from tests.cluster.server import Server as Foundation
from tests.cluster.server import server_of
from tests.tracker import MATYAN, environment, matyan
from tests.until import wait_for

DOOR = "plain-open"
INGESTION, CONTROL = "data-ingestion", "control-events"
PARTITIONS = {INGESTION: 6, CONTROL: 1}
GROUPS = {INGESTION: "ingestion-workers", CONTROL: "control-workers"}
SESSION = "session.timeout.ms=10000\n"
"""A worker that is killed or frozen holds up its partitions for so long; by default for 45 s."""
STARTS_S = 120.0


class Process(Server):
    """One process of ours."""

    def __init__(self, name: str, folder: Path, words: list[str], env: dict[str, str]) -> None:
        super().__init__(folder / name.replace(" ", "-"), free_ports(1)[0])
        self.name = name
        self._words = words
        self._env = env
        self.folder.mkdir(parents=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> None:
        option = "--port" if self._words[0] in ("frontier", "api") else "--metrics-port"
        words = [*MATYAN, *self._words, "--host", "127.0.0.1", option, str(self.port)]
        self.spawn(words, environment(**self._env))

    def ask(self, path: str, timeout: float = 2.0) -> str:
        """
        Raises:
            OSError: it does not answer, or not with 200.
        """
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return str(answer.read().decode())

    def unready(self) -> str:
        """Why it is not ready, as it says itself; empty when it is."""
        try:
            self.ask("/health/ready/", 5.0)
        except urllib.error.HTTPError as refused:
            return str(refused.read().decode())
        except OSError as error:
            return str(error)
        return ""

    def connections(self) -> int:
        """Of clients, by its own count; 0 where it has none or does not answer."""
        try:
            lines = self.ask("/metrics/").splitlines()
        except OSError:
            return 0
        found = [row.split()[1] for row in lines if row.startswith("matyan_ws_connections_active ")]
        return int(float(found[0])) if found else 0


class Deployment:
    """
    Args:
        folder: a new one, for everything.
        cluster_file: of the FoundationDB cluster that two workers share; empty: a data folder, of one worker process.
        own_server: whether that cluster's server is there for this alone.
    """

    def __init__(
        self, folder: Path, *, brokers: int, cluster_file: str = "", own_server: bool = False
    ) -> None:
        self.folder = folder
        self.cluster_file = cluster_file
        self.kafka = Cluster(folder / "kafka", brokers=brokers, front=DOOR)
        # One that survives a full disk and a kill: S3Proxy lists nothing any more where it left half an object.
        self.s3 = Versity(folder / "s3")
        self.data = folder / "store" / "data"
        self.store = f"fdb:{cluster_file}" if cluster_file else f"rocks:{self.data}"
        self.foundation: Foundation | None = None
        if cluster_file:
            server = server_of(cluster_file)
            self.store_folder = _data_of(server) or folder / "none"
            self.foundation = server if own_server else None
        else:
            self.store_folder = self.data
        self.processes: dict[str, Process] = {}
        self.ended: set[str] = set()
        """Processes that were ended here, and are not running for that."""
        self._groups: dict[str, Group] = {}

    def start(self) -> None:
        """
        Raises:
            Missing: something is not on this machine.
            RuntimeError: something does not start.
        """
        if self.cluster_file:
            empty(self.cluster_file)
        with ThreadPoolExecutor(2) as pool:
            started = [
                pool.submit(self.kafka.start, STARTS_S),
                pool.submit(self.s3.start, STARTS_S),
            ]
            for one in started:
                one.result()
        (self.folder / "kafka.properties").write_text(SESSION)
        self.env = {
            **self.kafka.environment(DOOR),
            **s3_environment(self.s3),
            "MATYAN_KAFKA_CONFIG": str(self.folder / "kafka.properties"),
            "CORS_ORIGINS": "[]",
        }
        store = ["--store", self.store]
        plan = {"frontier 1": ["frontier"], "frontier 2": ["frontier"]}
        if self.cluster_file:
            plan |= {f"worker {n}": ["ingest-worker", *store] for n in (1, 2)}
        else:
            plan["worker 1"] = ["ingest-worker", *store, "--workers", "2"]
        plan |= {"control worker": ["control-worker"], "read API": ["api", *store]}
        for name, words in plan.items():
            self.processes[name] = Process(name, self.folder / "services", words, self.env)
            self.processes[name].launch()
        self._wait_until_ready(STARTS_S)

    @property
    def frontiers(self) -> list[Process]:
        return [self.processes["frontier 1"], self.processes["frontier 2"]]

    @property
    def api(self) -> Process:
        return self.processes["read API"]

    def servers(self) -> Iterator[tuple[str, Server]]:
        """All that this starts, ours and theirs."""
        yield from self.processes.items()
        yield from ((f"broker {node.node}", node) for node in self.kafka.nodes)
        yield "S3", self.s3

    def pids(self) -> Iterator[tuple[str, int, bool]]:
        """Name, process and whether it is ours, of all that run."""
        for name, server in self.servers():
            if server.process is not None and name not in self.ended:
                yield name, server.process.pid, name in self.processes
        if self.foundation is not None and self.foundation.is_alive():
            yield "FoundationDB", self.foundation.pid, False

    def unexpected(self) -> list[str]:
        """Who has ended by itself, a sentence each; they are started again."""
        found = []
        for name, server in self.servers():
            code = None if server.process is None else server.process.poll()
            if code is not None and name not in self.ended:
                last = server.log.read_text(errors="replace")[-600:]
                found.append(f"{name} has ended by itself with {code}: {last}")
                self.launch(name)
        return found

    def launch(self, name: str) -> None:
        """Starts it again where it does not run, and does not wait for it."""
        server = dict(self.servers())[name]
        if server.process is None or server.process.poll() is not None:
            if isinstance(server, S3):
                server.start(STARTS_S)
            else:
                server.launch()
        self.ended.discard(name)

    def kill(self, name: str) -> None:
        self.ended.add(name)
        dict(self.servers())[name].kill()

    def heal(self) -> None:
        """Everything runs, and is ready."""
        if self.foundation is not None:
            self.foundation.restore()
        for name, server in self.servers():
            with contextlib.suppress(ProcessLookupError, AssertionError):
                server.thaw()
            self.launch(name)
        self._wait_until_ready(2 * STARTS_S)

    def _wait_until_ready(self, seconds: float) -> None:
        """
        Raises:
            RuntimeError: somebody is not, and says why.
        """
        unready: dict[str, str] = {}

        def all_are_ready() -> bool:
            unready.clear()
            unready.update(
                (name, why) for name, one in self.processes.items() if (why := one.unready())
            )
            return not unready

        try:
            wait_for(all_are_ready, seconds)
        except TimeoutError:
            raise RuntimeError(f"not ready after {seconds:g} s: {unready}") from None

    def stop(self) -> list[str]:
        """Ends everything, ours first and in order; those of ours that did not end well, a sentence each."""
        found = []
        for name, server in self.processes.items():
            if server.process is None:
                continue
            process = server.process
            server.stop(60)
            if process.returncode:
                found.append(f"{name} ended with {process.returncode} when it was told to")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(Server.stop, [*self.kafka.nodes, self.s3]))
        return found

    # --- what is known of it ---

    def ends(self) -> dict[int, int]:
        """The end offset of each partition of the ingestion topic."""
        return {number: high for number, (_, high) in self._places(INGESTION).items()}

    def lag(self) -> int:
        """Records that are not stored or handled yet, of both topics."""
        return sum(
            high - committed
            for topic in PARTITIONS
            for committed, high in self._places(topic).values()
        )

    def _places(self, topic: str) -> dict[int, tuple[int, int]]:
        """
        Raises:
            Unavailable: Kafka does not say.
        """
        found = self._group(GROUPS[topic]).places(topic, range(PARTITIONS[topic]))
        return {number: (place.committed or 0, place.high) for number, place in found.items()}

    def _group(self, name: str) -> Group:
        if name not in self._groups:
            settings = load({"KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap})
            self._groups[name] = Group(client_config(settings), name)
        return self._groups[name]

    def is_through(self) -> bool:
        try:
            return self.lag() == 0
        except Unavailable:
            return False

    def letters(self) -> dict[str, int]:
        """Dead letters, by topic."""
        return {
            topic: sum(place.high for place in self._group("soak").places(topic, range(1)).values())
            for topic in (f"{INGESTION}-dlq", f"{CONTROL}-dlq")
        }

    def command(self, *words: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        """A command of ours on its store."""
        done: subprocess.CompletedProcess[str] = matyan(
            *words, "--store", self.store, check=check, env=environment(**self.env)
        )
        return done

    def open(self) -> reader.Reader:
        return reader.open(self.store if self.cluster_file else self.data)


def _data_of(server: Foundation) -> Path | None:
    """The folder of an fdbserver's files, by its command line."""
    for option, value in zip(server.argv, [*server.argv[1:], ""], strict=True):
        if option in ("--datadir", "-d"):
            return server.folder / value
        if option.startswith("--datadir="):
            return server.folder / option.partition("=")[2]
    return None
