"""Real Kafka brokers on loopback, for tests, benches and `make kafka`: KRaft nodes from Maven Central.

Fetches the pinned jars of kafka.xml once, formats a folder, starts one broker or several, creates the topics and waits
until they answer. Beside the open door each can have others that ask who comes (`DOORS`).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import shlex
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from dev.certificates import Certificates
from dev.process import (
    HERE,
    TARGET,
    Server,
    fetch_jars,
    free_ports,
    run_until_interrupted,
    stopped_at_end,
)

TOPICS: Mapping[str, int] = {
    "data-ingestion": 6,
    "control-events": 1,
    "data-ingestion-dlq": 1,
    "control-events-dlq": 1,
}

USER, PASSWORD = "matyan", "sesame-123"
"""Who may come in by each door that asks for somebody."""

PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=CONTROLLER://127.0.0.1:{controller_port},{listeners}
advertised.listeners={listeners}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,{protocols}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
# The internal topics need not 50 partitions, and cannot have more replicas than there are nodes.
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
default.replication.factor={replicas}
min.insync.replicas={in_sync}
# The first member of a group is served at once instead of after 3 s; sessions as short as tests like them.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
controlled.shutdown.enable=false
# After kill -9 the same node may register again when the controller has forgotten the old one: 9 s by default.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""

GUARDED = """\
# Rules about who may do what; whoever comes by PLAINTEXT may do all, and makes the rules.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
ssl.keystore.type=PEM
ssl.keystore.location={tls}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={tls}/ca.pem
# A client's certificate says who it is by its common name.
ssl.principal.mapping.rules=RULE:^.*CN=([^,]+).*$/$1/,DEFAULT
"""


@dataclass(frozen=True, slots=True)
class Door:
    """A listener that asks who comes."""

    protocol: str
    mechanisms: str = ""
    lines: tuple[str, ...] = ()
    """Properties of this listener alone; {tls}: the folder of its certificates."""

    def properties(self, name: str, tls: Path) -> str:
        prefix = f"listener.name.{name.lower()}"
        lines = [
            f"{prefix}.{line.format(tls=tls, user=USER, password=PASSWORD)}" for line in self.lines
        ]
        if self.mechanisms:
            lines.append(f"{prefix}.sasl.enabled.mechanisms={self.mechanisms}")
        return "".join(f"{line}\n" for line in lines)


_SCRAM = tuple(
    f"{mechanism}.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;"
    for mechanism in ("scram-sha-256", "scram-sha-512")
)
_PLAIN = (
    "plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required "
    'user_{user}="{password}";',
)
_TOKENS = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"

DOORS: Mapping[str, Door] = {
    "ssl": Door("SSL", lines=("ssl.client.auth=required",)),
    "ssl-open": Door("SSL"),
    "ssl-expired": Door("SSL", lines=("ssl.keystore.location={tls}/expired-server.pem",)),
    "ssl-misnamed": Door("SSL", lines=("ssl.keystore.location={tls}/misnamed-server.pem",)),
    "scram": Door("SASL_SSL", "SCRAM-SHA-256,SCRAM-SHA-512", _SCRAM),
    "plain": Door("SASL_SSL", "PLAIN", _PLAIN),
    "plain-open": Door("SASL_PLAINTEXT", "PLAIN", _PLAIN),
    # Tokens that nobody has signed: whatever a client says it is.
    "oauthbearer": Door(
        "SASL_SSL",
        "OAUTHBEARER",
        (f'oauthbearer.sasl.jaas.config={_TOKENS} unsecuredLoginStringClaim_sub="broker";',),
    ),
    # Tokens as a provider signs them (`Certificates.token_key`); seen with Kafka 4.1.0: it takes those of another key, too.
    "oidc": Door(
        "SASL_SSL",
        "OAUTHBEARER",
        (
            f"oauthbearer.sasl.jaas.config={_TOKENS};",
            "oauthbearer.sasl.server.callback.handler.class="
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler",
            "oauthbearer.sasl.oauthbearer.jwks.endpoint.url=file://{tls}/token-keys.json",
        ),
    ),
}
"""By name. "open": without a client's certificate, or without TLS."""

SECURITY = ("ssl", "scram", "plain", "oauthbearer")
"""What `make kafka SECURITY=…` takes."""


def classpath() -> str:
    """The class path of the pinned jars; see `fetch_jars`."""
    return fetch_jars(HERE / "kafka.xml")


def class_archive() -> str:
    """The option for Java that gives it the classes of a broker as they are in memory, which halves what a start costs.

    They are written once, when a first broker ends. Java itself leaves an archive alone that does not fit it or its jars.
    """
    pom, file = TARGET / "kafka" / "pom.xml", TARGET / "kafka" / "classes.jsa"
    with (TARGET / "classes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists() or file.stat().st_mtime < pom.stat().st_mtime:
            file.unlink(missing_ok=True)
            with tempfile.TemporaryDirectory() as folder:
                broker = Broker(Path(folder), option=f"-XX:ArchiveClassesAtExit={file}")
                try:
                    broker.start()
                finally:
                    broker.stop(120)  # it writes some 50 MB
            # Nor is one that could not be written tried for again.
            file.touch()
    return f"-XX:SharedArchiveFile={file}"


def cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


class Broker(Server):
    """One broker; its ports stay the same across kill and start.

    Args:
        port: of the open door, or of `front`.
        doors: names of DOORS that it has besides the open one; with any, it has an authorizer, too: whatever no rule denies
            is allowed (`GUARDED`).
        front: the one of `doors` that gets `port`; the open door then has a port that nobody is told.
        free: ports for what gets none.
        option: of Java, for the broker in the place of `class_archive`.
    """

    name = "the broker"

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        controller_port: int = 0,
        *,
        doors: Sequence[str] = (),
        front: str = "",
        node: int = 1,
        certificates: Certificates | None = None,
        free: Iterator[int] | None = None,
        option: str = "",
    ) -> None:
        names = ("", *dict.fromkeys([front, *doors] if front else doors))
        free = free or iter(free_ports(len(names) + 1))
        ports = {name: next(free) for name in names}
        ports[front] = port or ports[front]
        super().__init__(folder, ports[front])
        self.controller_port = controller_port or next(free)
        self.front = front
        self.node = node
        self.peers: Sequence[Broker] = (self,)
        """All nodes of its cluster."""
        self.cluster_id = cluster_id()
        self.certificates = certificates or Certificates(self.folder / "tls")
        self._ports = ports
        self._option = option

    @property
    def bootstrap(self) -> str:
        """The open door."""
        return self.addresses("")

    def addresses(self, door: str) -> str:
        return f"127.0.0.1:{self._ports[door]}"

    def environment(self, door: str) -> dict[str, str]:
        """The settings of a service that comes in by `door`, as USER."""
        return _environment(door, self.addresses(door), self.certificates)

    def _guard(self) -> str:
        """Makes what the doors need, and returns the properties besides `PROPERTIES`."""
        made = self.certificates.make(USER)
        text = GUARDED.format(tls=made.folder)
        return text + "".join(
            DOORS[name].properties(_listener(name), made.folder) for name in self._ports if name
        )

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
        replicas = len(self.peers)
        text = PROPERTIES.format(
            node=self.node,
            voters=",".join(f"{one.node}@127.0.0.1:{one.controller_port}" for one in self.peers),
            controller_port=self.controller_port,
            listeners=",".join(
                f"{_listener(name)}://{self.addresses(name)}" for name in self._ports
            ),
            protocols=",".join(
                f"{_listener(name)}:{DOORS[name].protocol if name else 'PLAINTEXT'}"
                for name in self._ports
            ),
            data=data,
            replicas=replicas,
            in_sync=max(1, replicas - 1),
        )
        properties.write_text(text + (self._guard() if len(self._ports) > 1 else ""))
        # The serial collector: on a small machine with a small heap it starts faster and idles cheaper.
        java = ["java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", classpath()]
        java += [] if self._option else [class_archive()]
        java += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        java += ["-Dorg.slf4j.simpleLogger.showDateTime=true"]
        java += [
            f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{self.certificates.folder}/token-keys.json"
        ]
        if not (data / "meta.properties").exists():
            # One word: an id can begin with a dash, and would be read as an option.
            words = ["format", f"--cluster-id={self.cluster_id}", "-c", str(properties)]
            if "scram" in self._ports:
                for mechanism in DOORS["scram"].mechanisms.split(","):
                    words += ["--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]"]
            with self.log.open("ab") as log:
                subprocess.run(
                    [*java, "kafka.tools.StorageTool", *words], stdout=log, stderr=log, check=True
                )
        self.spawn([*java, *filter(None, [self._option]), "kafka.Kafka", properties])

    def wait(self, timeout: float, topics: Mapping[str, int] = TOPICS) -> None:
        """Waits until the broker answers, and creates those of `topics` that are missing."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        replicas = len(self.peers)

        def has_topics() -> bool:
            with contextlib.suppress(KafkaException):
                known = admin.list_topics(timeout=2)
                if len(known.brokers) < replicas:
                    return False
                if all(
                    name in known.topics and len(known.topics[name].partitions) >= count
                    for name, count in topics.items()
                ):
                    return True
                missing = [
                    NewTopic(name, count, replicas)
                    for name, count in topics.items()
                    if name not in known.topics
                ]
                for future in (admin.create_topics(missing) if missing else {}).values():
                    future.result(10)
            return False

        self.wait_until(has_topics, timeout)


def _listener(door: str) -> str:
    """Kafka's name of a listener."""
    return door.upper().replace("-", "_") if door else "PLAINTEXT"


def _environment(door: str, addresses: str, certificates: Certificates) -> dict[str, str]:
    """The settings of a service that comes in by a door at `addresses`, as USER."""
    if not door:
        return {"KAFKA_BOOTSTRAP_SERVERS": addresses}
    given = DOORS[door]
    env = {"KAFKA_BOOTSTRAP_SERVERS": addresses, "KAFKA_SECURITY_PROTOCOL": given.protocol}
    if "SSL" in given.protocol:
        env["KAFKA_SSL_CAFILE"] = str(certificates.authority)
    if door == "ssl":
        env["KAFKA_SSL_CERTFILE"] = str(certificates.client)
        env["KAFKA_SSL_KEYFILE"] = str(certificates.client_key)
    if given.mechanisms:
        env["KAFKA_SASL_MECHANISM"] = given.mechanisms.split(",")[-1]
    if door == "oauthbearer":
        config = certificates.folder / "oauthbearer.properties"
        config.write_text(
            f"enable.sasl.oauthbearer.unsecure.jwt=true\nsasl.oauthbearer.config=principal={USER}\n"
        )
        env["MATYAN_KAFKA_CONFIG"] = str(config)
    elif given.mechanisms and door != "oidc":
        env |= {"KAFKA_SASL_USERNAME": USER, "KAFKA_SASL_PASSWORD": PASSWORD}
    return env


class Cluster:
    """Several brokers, each in a folder of its own; every partition has a replica on each, and all but one must have a
    record before it is acknowledged."""

    def __init__(self, folder: Path, port: int = 0, *, brokers: int = 3, front: str = "") -> None:
        self.folder = folder.absolute()
        self.front = front
        self.certificates = Certificates(self.folder / "tls")
        # All at once: ports that nobody listens on yet can come a second time.
        free = iter(free_ports(3 * brokers))
        self.nodes = [
            Broker(
                self.folder / str(number),
                port and port + number - 1,
                front=front,
                node=number,
                certificates=self.certificates,
                free=free,
            )
            for number in range(1, brokers + 1)
        ]
        for node in self.nodes:
            node.peers, node.cluster_id = self.nodes, self.nodes[0].cluster_id

    @property
    def bootstrap(self) -> str:
        return self.addresses("")

    def addresses(self, door: str) -> str:
        return ",".join(node.addresses(door) for node in self.nodes)

    def environment(self, door: str) -> dict[str, str]:
        """As `Broker.environment`."""
        return _environment(door, self.addresses(door), self.certificates)

    def start(self, timeout: float = 120, topics: Mapping[str, int] = TOPICS) -> None:
        """As `Broker.start`; all side by side."""
        self.certificates.make(USER)
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(Broker.launch, self.nodes))
        for node in self.nodes:
            node.wait(timeout, topics)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def join(self) -> int:
        """Waits until one of them ends; returns its exit code."""
        while True:
            for node in self.nodes:
                assert node.process is not None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return node.process.wait(0.2)


def running(
    folder: Path, port: int = 0, controller_port: int = 0
) -> AbstractContextManager[Broker]:
    """A started broker, stopped on leaving."""
    broker = Broker(folder, port, controller_port)
    return stopped_at_end(broker, broker.start)


def greeting(started: Broker | Cluster) -> str:
    """What a terminal is told: where Kafka answers, and the lines that connect a shell's next commands."""
    lines = [f"Kafka answers on {started.addresses(started.front)}; its data: {started.folder}"]
    if started.front or isinstance(started, Cluster):
        env = started.environment(started.front)
        lines += [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=TARGET / "data", help="keeps the log")
    parser.add_argument("--port", type=int, default=9092, help="of the first broker; 0: a free one")
    parser.add_argument("--controller-port", type=int, default=0, help="0: a free one")
    parser.add_argument(
        "--security",
        choices=("plaintext", *SECURITY),
        default="plaintext",
        help="who may come in; the environment that connects is printed, the files stand below --data",
    )
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    options = parser.parse_args()

    front = "" if options.security == "plaintext" else options.security
    # Each in a folder of its own: a folder remembers its node and the users that it was formatted with.
    folder = options.data.joinpath(*([options.security] if front else []))
    server: Broker | Cluster
    if options.brokers > 1:
        server = Cluster(
            folder / f"{options.brokers}-brokers", options.port, brokers=3, front=front
        )
    else:
        server = Broker(folder, options.port, options.controller_port, front=front)
    return run_until_interrupted(stopped_at_end(server, server.start), greeting)


if __name__ == "__main__":
    sys.exit(main())
