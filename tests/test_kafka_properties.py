"""The file of MATYAN_KAFKA_CONFIG: what is taken from it, by which client, and what is refused by name."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from rich.pretty import pretty_repr

from matyan import kafka_properties
from matyan.broker.kafka.admin import open_admin
from matyan.broker.kafka.client import client_config, producer_config
from matyan.broker.kafka.consumer import consumer_config
from matyan.errors import ConfigurationError
from matyan.kafka_properties import CONSUMERS, OF_SETTINGS, PRODUCERS
from matyan.settings import Settings, load
from tests.tracker import environment, matyan


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., Settings]:
    """given(text, env): the settings with such a file."""

    def write(text: str | bytes, **env: str) -> Settings:
        path = tmp_path / "kafka.properties"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load({"MATYAN_KAFKA_CONFIG": str(path), **env})

    return write


class Lines:
    """What librdkafka logs."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, level: int, form: str, *words: Any) -> None:
        self.said.append(str(words[-1]))


def test_lines_comments_and_spaces(given: Callable[..., Settings]) -> None:
    """A value may hold = and #, and be empty; a byte order mark and CRLF are no trouble."""
    text = b"\xef\xbb\xbf# of ours\r\n\r\n  client.rack = a=b#c \r\n\t# more\nsocket.timeout.ms=7000\nclient.id="
    found = given(text).kafka_config
    assert dict(found) == {"client.rack": "a=b#c", "socket.timeout.ms": "7000", "client.id": ""}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.b\n", "line 1"),
        ("# x\n=1", "line 2"),
        ("a b=1", "line 1"),
        ("client.id: x", "line 1"),
        ("client.id=x\n\nclient.id=y", "line 3 sets client.id again"),
        ("client.id=\x1bx", "line 1, client.id: expected text without control characters"),
        (b"client.id=\xff", "not UTF-8"),
        (b"client.id=x\n" * 9_000, "bytes"),
    ],
)
def test_what_is_no_such_file_is_a_sentence(
    given: Callable[..., Settings], text: str | bytes, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        given(text)
    assert str(caught.value).startswith("MATYAN_KAFKA_CONFIG=")
    assert said in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("acks=1", "every in-sync replica"),
        ("request.required.acks=0", "every in-sync replica"),
        ("enable.idempotence=false", "twice"),
        ("enable.gapless.guarantee=false", "twice"),
        ("max.in.flight=6", "5"),
        ("max.in.flight.requests.per.connection=1000000", "5"),
        ("max.in.flight=٣", "5"),
        ("partitioner=random", "one partition"),
        ("partitioner_cb=x", "our clients have their own"),
        ("message.timeout.ms=1", "MATYAN_DELIVERY_TIMEOUT_S"),
        ("delivery.timeout.ms=1", "MATYAN_DELIVERY_TIMEOUT_S"),
        ("retries=0", "MATYAN_DELIVERY_TIMEOUT_S"),
        ("compression.type=zstd", "MATYAN_KAFKA_COMPRESSION"),
        ("compression.codec=zstd", "MATYAN_KAFKA_COMPRESSION"),
        ("group.id=x", "MATYAN_INGESTION_GROUP"),
        ("group.instance.id=x", "MATYAN_INSTANCE_ID"),
        ("enable.auto.commit=true", "stored"),
        ("auto.commit.enable=true", "stored"),
        ("enable.auto.offset.store=true", "stored"),
        ("auto.offset.reset=latest", "stored"),
        ("isolation.level=read_uncommitted", "transaction"),
        ("partition.assignment.strategy=range", "cooperative"),
        ("group.protocol=consumer", "cooperative"),
        ("transactional.id=x", "transactions"),
        ("queue.buffering.max.messages=1", "MATYAN_QUEUE_BYTES"),
        ("queue.buffering.max.kbytes=1", "MATYAN_QUEUE_BYTES"),
        ("message.max.bytes=1000", "900 KiB"),
        ("topic.metadata.refresh.interval.ms=-1", "partitions"),
        ("allow.auto.create.topics=true", "matyan topics create"),
        ("error_cb=print", "our clients have their own"),
    ],
)
def test_what_would_break_a_promise_is_refused_by_name(
    given: Callable[..., Settings], line: str, why: str
) -> None:
    """With the reason and the line; whatever the value, since what is right is ours already."""
    with pytest.raises(ConfigurationError) as caught:
        given(f"client.rack=a\n{line}")
    assert f"line 2 sets {line.partition('=')[0]}, but " in str(caught.value)
    assert why in str(caught.value)


def test_all_that_is_refused_is_told_at_once(given: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigurationError, match=r"line 1 sets acks.*; line 3 sets group\.id"):
        given("acks=all\nclient.rack=a\ngroup.id=g")


VALUES = (
    *("1", "true", "x", "6000", "none", "earliest", "classic", "file", "all", "range", "fifo"),
    *("consistent", "read_committed"),
)


@pytest.mark.parametrize("name", sorted((CONSUMERS | PRODUCERS) - {"group.protocol.type"}))
def test_librdkafka_says_the_same_of_who_takes_a_property(name: str) -> None:
    """The other kind of client warns of it; group.protocol.type is left out, since its values ask for more than they say."""
    lines = Lines()
    for value in VALUES:
        config: dict[str, Any] = {name: value, "logger": lines}
        try:
            if name in CONSUMERS:
                Producer(config).poll(0)
            else:
                Consumer({**config, "group.id": "x"}).poll(0.01)
        except KafkaException:
            continue
        kind = "consumer" if name in CONSUMERS else "producer"
        assert any(f" is a {kind} property" in line for line in lines.said), lines.said
        return
    pytest.fail(f"no value of {name} was taken")


def test_each_client_gets_what_it_takes(given: Callable[..., Settings]) -> None:
    """Over our own values, without a warning of librdkafka's; an admin client what is common to all."""
    file = {
        "linger.ms": "3",
        "batch.size": "500000",
        "fetch.min.bytes": "7",
        "session.timeout.ms": "9000",
        "socket.timeout.ms": "8000",
        "client.id": "mine",
        "max.in.flight": "2",
    }
    settings = given("\n".join(map("=".join, file.items())))
    producing, consuming = producer_config(settings), consumer_config(settings, "a group")
    common = {"socket.timeout.ms", "client.id", "max.in.flight"}
    for config, own in (
        (producing, {"linger.ms", "batch.size"}),
        (consuming, {"fetch.min.bytes", "session.timeout.ms"}),
        (client_config(settings), set[str]()),
    ):
        assert {name for name, value in file.items() if config.get(name) == value} == common | own
    assert producing["acks"] == "all"
    lines = Lines()
    Producer({**producing, "logger": lines}).poll(0)
    Consumer({**consuming, "logger": lines}).poll(0.01)
    open_admin({**consuming, "logger": lines}).poll(0)
    assert not [line for line in lines.said if "property" in line]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no.such.property=sesame", 'No such configuration property: "no.such.property"'),
        ("ssl.truststore.location=/x", "Java"),
        ("socket.timeout.ms=soon", "socket.timeout.ms"),
        ("fetch.min.bytes=-5", "fetch.min.bytes"),
        ("linger.ms=-5", "outside allowed range"),
        (
            "sasl.oauthbearer.method=oidc\nsasl.mechanism=OAUTHBEARER\nsecurity.protocol=SASL_SSL",
            "oidc",
        ),
    ],
)
def test_what_librdkafka_does_not_take_is_told_in_its_words(
    given: Callable[..., Settings], line: str, said: str
) -> None:
    """At the start of every program, also of one that has no such client."""
    settings = given(line)
    for config in (client_config, producer_config, lambda s: consumer_config(s, "g")):
        with pytest.raises(ConfigurationError) as caught:
            config(settings)
        assert f"MATYAN_KAFKA_CONFIG={settings.kafka_config.path}: librdkafka" in str(caught.value)
        assert said in str(caught.value)
        assert "sesame" not in str(caught.value)


def test_to_check_them_asks_nobody(given: Callable[..., Settings]) -> None:
    """Neither a broker nor an identity provider is connected to; one that never answers would hold up every start."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = given(
            f"bootstrap.servers={address}\nsecurity.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n"
            "sasl.oauthbearer.method=oidc\nsasl.oauthbearer.client.id=a\nsasl.oauthbearer.client.secret=b\n"
            f"sasl.oauthbearer.token.endpoint.url=http://{address}/token"
        )
        for config in (client_config, producer_config, lambda s: consumer_config(s, "g")):
            assert config(settings)["sasl.oauthbearer.token.endpoint.url"].endswith("/token")
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_program_ends_with_two_and_a_sentence(tmp_path: Path) -> None:
    """Before it listens or connects."""
    path = tmp_path / "kafka.properties"
    for text, said in (("acks=1", "acks"), ("no.such=1", "no.such")):
        path.write_text(text)
        for words in (("frontier", "--port", "0"), ("topics", "check")):
            done = matyan(*words, check=2, env=environment(MATYAN_KAFKA_CONFIG=str(path)))
            (line,) = [line for line in done.stderr.splitlines() if line.startswith("matyan: ")]
            assert said in line


def test_its_properties_that_are_settings_count_as_the_settings(
    given: Callable[..., Settings],
) -> None:
    """So that what is asked of a setting is asked of them, and nobody needs to know which of the two a person chose."""
    settings = given(
        "bootstrap.servers=k:9093\nsecurity.protocol=sasl_ssl\nsasl.mechanisms=SCRAM-SHA-512\n"
        "sasl.username=u\nsasl.password=sesame\nclient.rack=r"
    )
    assert settings.kafka_bootstrap_servers == "k:9093"
    assert settings.kafka_security_protocol == "SASL_SSL"
    assert settings.kafka_sasl_password.reveal() == "sesame"
    config = client_config(settings)
    assert "sasl.mechanisms" not in config
    assert config["sasl.mechanism"] == "SCRAM-SHA-512"
    assert config["client.rack"] == "r"
    with pytest.raises(
        ConfigurationError, match=r"security\.protocol in .*expected one of PLAINTEXT"
    ):
        given("security.protocol=TLS")
    with pytest.raises(ConfigurationError, match="KAFKA_SASL_PASSWORD"):
        given("security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username=u")


@pytest.mark.parametrize("name", sorted(OF_SETTINGS))
def test_one_of_the_two_is_to_be_kept(given: Callable[..., Settings], name: str) -> None:
    """A property beside its setting contradicts it, or will when one of them is changed."""
    good = {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SASL_MECHANISM": "PLAIN"}
    variable = OF_SETTINGS[name]
    value = good.get(variable, "sesame")
    with pytest.raises(ConfigurationError, match="keep one of them") as caught:
        given(f"{name}={value}", **{variable: value})
    assert variable in str(caught.value)
    assert name in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_its_secrets_are_shown_to_nobody(given: Callable[..., Settings]) -> None:
    settings = given(
        "sasl.oauthbearer.client.secret=sesame\nssl.key.pem=sesame\nclient.rack=sesame"
    )
    for text in (repr(settings), str(settings.kafka_config), pretty_repr(settings)):
        assert "sesame" not in text
    assert "sasl.oauthbearer.client.secret" in repr(settings)


def test_the_embedded_mode_reads_none(tmp_path: Path) -> None:
    """A tracker of one machine starts, whatever the variable says."""
    assert (
        load(
            {"MATYAN_KAFKA_CONFIG": str(tmp_path / "none")}, ignore=("KAFKA_", "MATYAN_KAFKA_")
        ).kafka_config
        == kafka_properties.Properties()
    )


@pytest.mark.parametrize(
    "line",
    [
        "enable.sasl.oauthbearer.unsecure.jwt=true",
        "enable.ssl.certificate.verification=False",
        "ssl.endpoint.identification.algorithm=none",
    ],
)
def test_what_is_for_trying_out_is_refused_in_production(
    given: Callable[..., Settings], line: str
) -> None:
    """It lets anybody be the broker, or one of its users."""
    client_config(given(line))
    with pytest.raises(ConfigurationError, match="MATYAN_ENVIRONMENT=production") as caught:
        client_config(given(line, MATYAN_ENVIRONMENT="production"))
    assert line in str(caught.value)
