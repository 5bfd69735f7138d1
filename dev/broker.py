"""A real Kafka broker on loopback, for tests, benches and `make kafka`: one KRaft node from Maven Central.

Fetches the pinned jars of kafka.xml once, formats a folder, starts the broker, creates the topics and waits
until it answers.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

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


GUARDED = """\
# Two more doors, and rules about who may do what; whoever comes by PLAINTEXT may do all, and makes the rules.
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},SASL_PLAINTEXT://127.0.0.1:{sasl_port},SSL://127.0.0.1:{tls_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl_port},SSL://127.0.0.1:{tls_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
ssl.keystore.type=PKCS12
ssl.keystore.location={keystore}
ssl.keystore.password={password}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
"""

USER, PASSWORD = "matyan", "sesame-123"
"""Who may come in by a guarded broker's SASL_PLAINTEXT door."""


def classpath() -> str:
    """The class path of the pinned jars; see `fetch_jars`."""
    return fetch_jars(HERE / "kafka.xml")


class Broker(Server):
    """One broker; its ports stay the same across kill and start.

    Args:
        guarded: with a SASL_PLAINTEXT and an SSL listener, too, and with an authorizer: whatever no rule denies is
            allowed (`GUARDED`).
    """

    name = "the broker"

    def __init__(
        self, folder: Path, port: int = 0, controller_port: int = 0, *, guarded: bool = False
    ) -> None:
        free = iter(free_ports(4))
        super().__init__(folder, port or next(free))
        self.controller_port = controller_port or next(free)
        self.guarded = guarded
        self.sasl_port, self.tls_port = next(free), next(free)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def certificate(self) -> Path:
        """A guarded broker's own, which no authority has signed."""
        return self.folder / "broker.pem"

    def _guard(self) -> str:
        """Makes the key of the SSL listener, and returns the properties besides `PROPERTIES`."""
        keystore = self.folder / "broker.p12"
        if not keystore.exists():
            store = ["-alias", "broker", "-keystore", str(keystore), "-storepass", PASSWORD]
            subprocess.run(
                [
                    *("keytool", "-genkeypair", "-keyalg", "RSA", "-storetype", "PKCS12", *store),
                    *("-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1"),
                ],
                check=True,
                capture_output=True,
            )
            subprocess.run(
                ["keytool", "-exportcert", "-rfc", *store, "-file", str(self.certificate)],
                check=True,
                capture_output=True,
            )
        return GUARDED.format(
            port=self.port,
            controller_port=self.controller_port,
            sasl_port=self.sasl_port,
            tls_port=self.tls_port,
            user=USER,
            password=PASSWORD,
            keystore=keystore,
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
        text = PROPERTIES.format(port=self.port, controller_port=self.controller_port, data=data)
        # A property that stands twice counts as it stands last.
        properties.write_text(text + (self._guard() if self.guarded else ""))
        # The serial collector: on a small machine with a small heap it starts faster and idles cheaper.
        java = ["java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", classpath()]
        java += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        java += ["-Dorg.slf4j.simpleLogger.showDateTime=true"]
        if not (data / "meta.properties").exists():
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
            # One word: an id can begin with a dash, and would be read as an option.
            name = f"--cluster-id={cluster}"
            with self.log.open("ab") as log:
                subprocess.run(
                    [*java, "kafka.tools.StorageTool", "format", name, "-c", properties],
                    stdout=log,
                    stderr=log,
                    check=True,
                )
        self.spawn([*java, "kafka.Kafka", properties])

    def wait(self, timeout: float, topics: Mapping[str, int] = TOPICS) -> None:
        """Waits until the broker answers, and creates those of `topics` that are missing."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

        def has_topics() -> bool:
            with contextlib.suppress(KafkaException):
                known = admin.list_topics(timeout=2).topics
                if all(
                    name in known and len(known[name].partitions) >= count
                    for name, count in topics.items()
                ):
                    return True
                missing = [
                    NewTopic(name, count, 1) for name, count in topics.items() if name not in known
                ]
                for future in (admin.create_topics(missing) if missing else {}).values():
                    future.result(10)
            return False

        self.wait_until(has_topics, timeout)


def running(
    folder: Path, port: int = 0, controller_port: int = 0
) -> AbstractContextManager[Broker]:
    """A started broker, stopped on leaving."""
    broker = Broker(folder, port, controller_port)
    return stopped_at_end(broker, broker.start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=TARGET / "data", help="keeps the log")
    parser.add_argument("--port", type=int, default=9092, help="0: a free one")
    parser.add_argument("--controller-port", type=int, default=0, help="0: a free one")
    options = parser.parse_args()

    return run_until_interrupted(
        running(options.data, options.port, options.controller_port),
        lambda broker: f"Kafka answers on {broker.bootstrap}; its data: {broker.folder}",
    )


if __name__ == "__main__":
    sys.exit(main())
