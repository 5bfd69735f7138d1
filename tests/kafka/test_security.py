"""Each way to come in by, on a real broker that asks who comes; and what is said when it lets nobody in."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio

from dev.broker import Broker
from dev.certificates import KEY_PASSWORD
from matyan import reader
from matyan.broker.kafka.admin import cluster, open_admin
from matyan.broker.kafka.client import client_config
from matyan.errors import Unavailable
from matyan.settings import load
from tests import training
from tests.kafka.deployment import deploy
from tests.kafka.provider import SECRET, properties, provider
from tests.kafka.test_consumer import fill, start_at
from tests.kafka.topics import create_topic
from tests.tracker import MATYAN, started
from tests.until import wait_for

CERT, KEY, CA = "KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE", "KAFKA_SSL_CAFILE"

WAYS = {
    "ssl": ("ssl", {}),
    "ssl, encrypted key": ("ssl", {KEY: "locked_key", "KAFKA_SSL_KEY_PASSWORD": KEY_PASSWORD}),
    "ssl, one file": ("ssl", {CERT: "server", KEY: None}),
    "ssl without a certificate": ("ssl-open", {}),
    "scram-sha-512": ("scram", {}),
    "scram-sha-256": ("scram", {"KAFKA_SASL_MECHANISM": "scram-sha-256"}),
    "plain": ("plain", {}),
    "plain without tls": ("plain-open", {}),
    "unsigned tokens": ("oauthbearer", {}),
}


def settings_of(broker: Broker, door: str, given: dict[str, str | None]) -> dict[str, str]:
    """The environment of a door with other values; a name of one of the certificates stands for its path."""
    env: dict[str, str | None] = {**broker.environment(door), **given}
    return {
        name: str(getattr(broker.certificates, value, value))
        for name, value in env.items()
        if value is not None
    }


@contextmanager
def tokens(broker: Broker, folder: Path, secret: str = SECRET) -> Iterator[dict[str, str]]:
    """The environment of a service that gets its tokens from a provider."""
    with provider(broker.certificates) as url:
        path = properties(folder / f"{uuid.uuid4().hex}.properties", url, secret)
        yield {**broker.environment("oidc"), "MATYAN_KAFKA_CONFIG": path}


async def goes_in_and_out(broker: Broker, env: dict[str, str]) -> None:
    settings, topic = load(env), f"t-{uuid.uuid4().hex[:12]}"
    create_topic(broker, topic)
    await fill(settings, topic, 20)
    assert await start_at(settings, topic, 7) == (7, b"7")


async def test_records_go_in_and_out_by_each_way(guarded_broker: Broker, tmp_path: Path) -> None:
    """By the producer, the consumer, its group and the admin clients that a service has; the signed tokens are those of a
    provider whom librdkafka asks (OIDC)."""
    broker = guarded_broker
    with tokens(broker, tmp_path) as signed:
        env = {way: settings_of(broker, *given) for way, given in WAYS.items()}
        env["signed tokens"] = signed
        went = set()

        async def try_(way: str) -> None:
            await goes_in_and_out(broker, env[way])
            went.add(way)

        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                for way in env:
                    nursery.start_soon(try_, way)
    assert went == set(env)


async def test_a_file_alone_can_say_it_all(guarded_broker: Broker, tmp_path: Path) -> None:
    """As an operator has it from the provider of a cluster."""
    broker, path = guarded_broker, tmp_path / "kafka.properties"
    env = broker.environment("scram")
    path.write_text(
        f"bootstrap.servers={env['KAFKA_BOOTSTRAP_SERVERS']}\nsecurity.protocol=SASL_SSL\nsasl.mechanisms=SCRAM-SHA-512\n"
        f"sasl.username={env['KAFKA_SASL_USERNAME']}\nsasl.password={env['KAFKA_SASL_PASSWORD']}\n"
        f"ssl.ca.location={env[CA]}\nsession.timeout.ms=45000\nclient.rack=one\n"
    )
    await goes_in_and_out(broker, {"MATYAN_KAFKA_CONFIG": str(path)})


def test_a_training_goes_through_services_that_come_by_different_doors(
    guarded_broker: Broker, tmp_path: Path
) -> None:
    """A frontier with a client certificate and an encrypted key, a worker with SCRAM: the SDK's run is stored whole; and
    no line of theirs shows a secret."""
    deployment = deploy(guarded_broker)
    by_key = settings_of(guarded_broker, *WAYS["ssl, encrypted key"])
    with (
        deployment.running("frontier", **by_key) as front,
        deployment.running(
            "ingest-worker",
            "--store",
            f"rocks:{tmp_path}",
            **guarded_broker.environment("scram"),
            LOG_LEVEL="DEBUG",
        ) as worker,
    ):
        wait_for(lambda: not front.unready() and not worker.unready())
        training.start(front.url, ["run"], steps=20).report()
        assert front.stop() == 0
        sent = len(training.messages("run", 20))
        wait_for(lambda: sum(worker.metric("matyan_ingestion_messages_processed_total")) >= sent)
        assert worker.stop() == 0
        said = "".join([*front.output, *worker.output])
    with reader.open(tmp_path) as opened:
        assert training.stored_faults(opened.show("run"), opened.blocks("run"), "run", 20) == []
    assert KEY_PASSWORD not in said
    assert guarded_broker.environment("scram")["KAFKA_SASL_PASSWORD"] not in said


REASONS = {
    "wants a client's certificate": ("ssl", {CERT: None, KEY: None}),
    "refuses this client's certificate": ("ssl", {CERT: "stranger", KEY: None}),
    "has expired": ("ssl-expired", {}),
    "is for another name": ("ssl-misnamed", {}),
    "is signed by nobody whom this machine trusts": ("ssl-open", {CA: "strange_authority"}),
    "refuses the user or its password": ("scram", {"KAFKA_SASL_PASSWORD": "sesame"}),
    "does not take this mechanism": ("plain", {"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"}),
    "asks for no user": (
        "ssl-open",
        {
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": "u",
            "KAFKA_SASL_PASSWORD": "sesame",
        },
    ),
    "closes the connection without an answer": (
        "ssl-open",
        {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"},
    ),
    "speaks otherwise": ("plain-open", {"KAFKA_SECURITY_PROTOCOL": "SSL", CA: "authority"}),
}
NAMED = {
    "wants a client's certificate": CERT,
    "refuses this client's certificate": CERT,
    "has expired": CA,
    "is for another name": "KAFKA_BOOTSTRAP_SERVERS",
    "is signed by nobody whom this machine trusts": CA,
    "refuses the user or its password": "KAFKA_SASL_PASSWORD",
    "does not take this mechanism": "KAFKA_SASL_MECHANISM",
    "asks for no user": "KAFKA_SECURITY_PROTOCOL",
    "closes the connection without an answer": "KAFKA_SECURITY_PROTOCOL",
    "speaks otherwise": "KAFKA_SECURITY_PROTOCOL",
    "no token came from the identity provider": "sasl.oauthbearer",
}


async def test_each_reason_is_a_sentence_of_its_own(guarded_broker: Broker, tmp_path: Path) -> None:
    """It says which broker, what is wrong and the setting to look at, and shows no secret."""
    broker, said = guarded_broker, dict[str, str]()

    async def ask(part: str, env: dict[str, str]) -> None:
        admin = open_admin(client_config(load(env)))
        try:
            await trio.to_thread.run_sync(cluster, admin)
        except Unavailable as error:
            said[part] = str(error)

    with ExitStack() as stack:
        cases = {part: settings_of(broker, *given) for part, given in REASONS.items()}
        cases["no token came from the identity provider"] = stack.enter_context(
            tokens(broker, tmp_path, secret="sesame")
        )
        # Side by side: each takes as long as a broker that is away is given.
        async with trio.open_nursery() as nursery:
            for part, env in cases.items():
                nursery.start_soon(ask, part, env)
    assert set(said) == set(NAMED)
    for part, sentence in said.items():
        assert [other for other in NAMED if other in sentence] == [part]
        assert NAMED[part] in sentence
        assert "sesame" not in sentence
        if part != "no token came from the identity provider":
            assert cases[part]["KAFKA_BOOTSTRAP_SERVERS"] in sentence


def test_a_service_says_at_its_start_why_it_waits(guarded_broker: Broker) -> None:
    """Alive; with the same words as doctor, and before the first long answer."""
    env = settings_of(guarded_broker, *REASONS["is for another name"])
    with started([*MATYAN, "frontier", "--port", "0"], "is for another name", **env) as service:
        assert service.stop() == 0
