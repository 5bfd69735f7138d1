"""Settings: read from the environment, checked with a sentence that names the variable."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import traceback
from dataclasses import fields
from pathlib import Path

import pytest
from matyan_client.config import SETTINGS
from rich.pretty import pretty_repr

from matyan import settings
from matyan.cli.flags import KAFKA, S3
from matyan.errors import ConfigurationError
from matyan.secret import MAX_FILE_BYTES, Secret
from matyan.settings import Settings, file_variable, is_secret
from tests.tracker import MATYAN, environment, matyan, started


def test_defaults_are_the_references() -> None:
    """An empty environment gives the contract's defaults."""
    loaded = settings.load({})
    assert loaded.kafka_bootstrap_servers == "localhost:9092"
    assert loaded.s3_bucket == "matyan-artifacts"
    assert (loaded.host, loaded.port, loaded.metrics_port) == ("0.0.0.0", 53801, 9090)
    assert loaded.cors_origins == ()


@pytest.mark.parametrize(
    "raw",
    ['["https://a.example", "https://b.example"]', "https://a.example,https://b.example"],
)
def test_cors_origins_take_json_and_commas(raw: str) -> None:
    """Both spellings of a list give the same origins."""
    loaded = settings.load({"CORS_ORIGINS": raw})
    assert loaded.cors_origins == ("https://a.example", "https://b.example")


LINE = ["a\nb", "\x1b]0;owned\x07"]
NUMBER = ["", "many", "1.5", "1e3", "-1", "0x10", "9" * 5_000, "١٢"]
SECONDS = ["", "5s", "nan", "inf", "-1", "1e400", "99999999999", "1_000", "٣", "0x10", "1e", "."]
NO_URL = [
    *("http://u:p@h", "http://h:65536", "http://h:0", "http://h:", "http://h/a?b", "http://h#b"),
    *("https://*.example", "http://ä", "http://a..b", "http://h:١"),
]
FLAG = ["perhaps", "2", "tru"]
NAMES = ["", "a b", "a/b", ".", "..", "ä", "x" * 300]

BAD: dict[str, list[str]] = {
    "MATYAN_UI_BASE_PATH": [
        "tracker",
        "/a//b",
        "/a/../b",
        "/.",
        '/a"b',
        "/a<b",
        "/a b",
        "/é",
        "//x",
    ],
    "MATYAN_UI_API_BASE_PATH": ["api/v1", "/<script>"],
    "MATYAN_UI_API_HOST_BASE": ["tracker", "http://", "ftp://x"],
    "KAFKA_BOOTSTRAP_SERVERS": [
        *(
            "",
            " ",
            ",",
            "http://kafka:9092",
            "kafka:9092/x",
            "kafka:port",
            "kafka:0",
            "kafka:70000",
        ),
        *(
            "PLAINTEXT://kafka:9092",
            "user@kafka:9092",
            "a b:1",
            "::1:9092",
            "kafka:9092;other:9092",
        ),
    ],
    "KAFKA_DATA_INGESTION_TOPIC": NAMES,
    "KAFKA_CONTROL_EVENTS_TOPIC": NAMES,
    "KAFKA_SECURITY_PROTOCOL": ["TLS", "SASL", "https", "SASL_TLS"],
    "KAFKA_SASL_MECHANISM": ["FOO", "SCRAM", "GSSAPI", "SHA-512"],
    "KAFKA_SASL_USERNAME": LINE,
    "KAFKA_SASL_PASSWORD": LINE,
    "KAFKA_SSL_CAFILE": LINE,
    "KAFKA_SSL_CERTFILE": LINE,
    "KAFKA_SSL_KEYFILE": LINE,
    "KAFKA_SSL_KEY_PASSWORD": LINE,
    "MATYAN_KAFKA_CONFIG": ["/no/such/file", "/", "/dev/zero", *LINE],
    "MATYAN_INGESTION_GROUP": ["", " ", " a", *LINE, "x" * 300],
    "MATYAN_KAFKA_COMPRESSION": ["", "brotli", "9", "gzip:1"],
    "MATYAN_CONTROL_GROUP": ["", " ", "a ", *LINE, "x" * 300],
    "MATYAN_INSTANCE_ID": NAMES[1:],
    "FDB_CLUSTER_FILE": ["", " ", *LINE],
    "FDB_API_VERSION": [*NUMBER, "0"],
    "BLOB_BACKEND_TYPE": ["", "ftp", "S4"],
    "S3_ENDPOINT": ["", "localhost:9000", "ftp://x", "http://", "http://a b", *NO_URL],
    "S3_PUBLIC_ENDPOINT": ["artifacts", "s3://x", "http://:80", *NO_URL],
    "S3_ACCESS_KEY": LINE,
    "S3_SECRET_KEY": LINE,
    "S3_BUCKET": ["", "no bucket", "a/b", "x" * 300],
    "S3_REGION": ["", "us east", "ä"],
    "MATYAN_S3_ADDRESSING": ["", "host", "virtual-host"],
    "S3_CA_FILE": LINE,
    "MATYAN_S3_SSE": ["kms", "aws", "SSE-C"],
    "MATYAN_S3_SSE_KMS_KEY_ID": ["a b", "ä", "x" * 3_000, *LINE],
    "S3_PRESIGN_EXPIRY": [*NUMBER, "0", "604801"],
    "MATYAN_PRESIGN_BLOB_REF": ["", "both"],
    "MATYAN_BLOB_MAX_BYTES": [*NUMBER, "0"],
    "MATYAN_PUBLIC_URL": ["tracker.example", "ftp://x", "http://", *NO_URL],
    "LOG_LEVEL": ["", "LOUD", "5"],
    "HOST": ["", "http://x", "a b"],
    "PORT": [*NUMBER, "70000"],
    "MATYAN_TLS_CERT_FILE": LINE,
    "MATYAN_TLS_KEY_FILE": LINE,
    "MATYAN_TLS_CLIENT_CA_FILE": LINE,
    "METRICS_ENABLED": FLAG,
    "METRICS_PORT": [*(raw for raw in NUMBER if raw != "-1"), "70000", "65536"],
    "CORS_ORIGINS": [
        *("not json", "[1]", '["https://a.example"', '{"a": 1}', '"https://a.example"'),
        *("a.example", "https://a.example,b", '["https://a.example/path"]', "[" * 100_000),
        *("https://*.a.example", "http://", "http://h:0", "http://h:65536", "https://ä", "app://*"),
    ],
    "MATYAN_ALLOWED_HOSTS": ["[1]", "http://hub.example", '["a b"]'],
    "MATYAN_TOKENS_FILE": LINE,
    "MATYAN_WEBHOOKS_FILE": LINE,
    "SHUTDOWN_FLUSH_TIMEOUT": SECONDS,
    "MATYAN_ENVIRONMENT": ["", "prod", "staging"],
    "MATYAN_QUEUE_BYTES": [*NUMBER, "0"],
    "MATYAN_DELIVERY_TIMEOUT_S": [*SECONDS, "0"],
    "MATYAN_WS_DEFLATE": FLAG,
    "MATYAN_READINESS": ["", "epoll", "kqueue"],
    "INGEST_MAX_TXN_BYTES": [*NUMBER, "0"],
    "INGEST_MAX_MESSAGES_PER_TXN": [*NUMBER, "0"],
    "MATYAN_SEQUENCE_LAYOUT": ["tall", "1"],
    "TOMBSTONE_CLEANUP_OLDER_THAN_HOURS": [*NUMBER, "876001"],
    "CLEANUP_JOB_LOCK_TTL_SECONDS": SECONDS,
}


def test_every_setting_has_bad_values() -> None:
    """The table below is whole: a new setting comes with the values that it refuses."""
    assert set(BAD) == {row.metadata["env"] for row in fields(Settings)}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_a_sentence(name: str) -> None:
    """It names the variable, the value (a secret's never) and what was expected; bytes that are no UTF-8 too."""
    for raw in [*BAD[name], "\udcff"]:
        with pytest.raises(ConfigurationError) as caught:
            settings.load({name: raw})
        said = str(caught.value)
        assert said.startswith(f"{name}"), raw
        assert "expected" in said
        assert "\n" not in said
        assert "\x1b" not in said
        if is_secret(next(row for row in fields(Settings) if row.metadata["env"] == name)):
            assert raw not in said


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"KAFKA_BOOTSTRAP_SERVERS": " a:1 , [::1]:2 ,b"},
            ("kafka_bootstrap_servers", "a:1,[::1]:2,b"),
        ),
        ({"KAFKA_SECURITY_PROTOCOL": "ssl"}, ("kafka_security_protocol", "SSL")),
        ({"MATYAN_ENVIRONMENT": "Production"}, ("environment", "production")),
        ({"LOG_LEVEL": "debug"}, ("log_level", "DEBUG")),
        ({"METRICS_PORT": "-1"}, ("metrics_port", -1)),
        ({"METRICS_PORT": " 9090 "}, ("metrics_port", 9090)),
        ({"CORS_ORIGINS": "*"}, ("cors_origins", ("*",))),
        ({"CORS_ORIGINS": '["null", "app://x/"]'}, ("cors_origins", ("null", "app://x/"))),
        ({"SHUTDOWN_FLUSH_TIMEOUT": "0"}, ("shutdown_flush_timeout", 0.0)),
        ({"SHUTDOWN_FLUSH_TIMEOUT": " 1.5e1 "}, ("shutdown_flush_timeout", 15.0)),
        ({"SHUTDOWN_FLUSH_TIMEOUT": "+.5"}, ("shutdown_flush_timeout", 0.5)),
        ({"SHUTDOWN_FLUSH_TIMEOUT": "2."}, ("shutdown_flush_timeout", 2.0)),
        ({"S3_ENDPOINT": "http://min_io.:9000/s3/"}, ("s3_endpoint", "http://min_io.:9000/s3/")),
        ({"CORS_ORIGINS": "HTTPS://UI:443/"}, ("cors_origins", ("HTTPS://UI:443/",))),
        ({"S3_ENDPOINT": "https://[::1]:9000"}, ("s3_endpoint", "https://[::1]:9000")),
    ],
)
def test_a_good_value_in_an_odd_form_is_taken(
    given: dict[str, str], expected: tuple[str, object]
) -> None:
    name, value = expected
    assert getattr(settings.load(given), name) == value


@pytest.mark.parametrize(
    "given",
    [
        {"KAFKA_DATA_INGESTION_TOPIC": "control-events"},
        {"KAFKA_CONTROL_EVENTS_TOPIC": "data-ingestion"},
        {"KAFKA_CONTROL_EVENTS_TOPIC": "data-ingestion-dlq"},
        {"KAFKA_DATA_INGESTION_TOPIC": "control-events-dlq"},
        {"MATYAN_INGESTION_GROUP": "control-workers"},
        {"MATYAN_INGESTION_GROUP": "all", "MATYAN_CONTROL_GROUP": "all"},
    ],
)
def test_one_name_is_not_for_two(given: dict[str, str]) -> None:
    """Topics, those of dead letters among them, and groups are each for one purpose."""
    with pytest.raises(ConfigurationError, match="expected two") as caught:
        settings.load(given)
    assert all(name in str(caught.value) for name in given)


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\x00"])
def test_certificates_that_are_none_are_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    """A missing file too; of each command that would speak to Kafka, with and without TLS."""
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_bytes(content)
    for protocol in ("", "SSL"):
        env = environment(KAFKA_SSL_CAFILE=str(ca), KAFKA_SECURITY_PROTOCOL=protocol)
        done = matyan("topics", "check", check=2, env=env)
        assert done.stderr.startswith(f"matyan: KAFKA_SSL_CAFILE={str(ca)!r}")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("protocol", ["SASL_SSL", "SASL_PLAINTEXT"])
@pytest.mark.parametrize("missing", ["MECHANISM", "USERNAME", "PASSWORD"])
def test_sasl_wants_all_of_its_settings(protocol: str, missing: str) -> None:
    """What is missing is named; nothing is sent to a broker to find it out."""
    given = {"MECHANISM": "PLAIN", "USERNAME": "u", "PASSWORD": "sesame"}
    variables = {f"KAFKA_SASL_{name}": raw for name, raw in given.items() if name != missing}
    with pytest.raises(ConfigurationError, match=f"KAFKA_SASL_{missing}") as caught:
        settings.load({"KAFKA_SECURITY_PROTOCOL": protocol, **variables})
    assert "sesame" not in str(caught.value)


def test_a_former_name_is_read_and_told() -> None:
    """Where the new one is not set; the sentence says which one is to be used."""
    former = {"MATYAN_KAFKA_CA_FILE": "/old.pem"}
    assert settings.load(former).kafka_ssl_cafile == "/old.pem"
    assert settings.load({**former, "KAFKA_SSL_CAFILE": "/new.pem"}).kafka_ssl_cafile == "/new.pem"
    (sentence,) = settings.unknown_names(former)
    assert "former name of KAFKA_SSL_CAFILE" in sentence
    assert settings.unknown_names(former, ignore=settings.EMBEDDED_IGNORES) == []
    assert settings.load(former, ignore=settings.EMBEDDED_IGNORES).kafka_ssl_cafile == ""


def test_tokens_want_to_come_from_somewhere(tmp_path: Path) -> None:
    """OAUTHBEARER asks for no password, and for properties that say who gives the tokens."""
    path = tmp_path / "kafka.properties"
    env = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "oauthbearer",
        "MATYAN_KAFKA_CONFIG": str(path),
    }
    path.write_text("client.rack=a")
    with pytest.raises(ConfigurationError, match=r"sasl\.oauthbearer\.method=oidc"):
        settings.load(env)
    for text in ("sasl.oauthbearer.method=oidc", "enable.sasl.oauthbearer.unsecure.jwt=true"):
        path.write_text(text)
        assert settings.load(env).kafka_sasl_mechanism == "OAUTHBEARER"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BOOTSTRAP_SERVERS"),
        ("kafka_bootstrap_servers", "KAFKA_BOOTSTRAP_SERVERS"),
        ("Matyan_Public_Url", "MATYAN_PUBLIC_URL"),
        ("KAFKA_SASL_PASWORD", "KAFKA_SASL_PASSWORD"),
        ("MATYAN_QUEUE_BYTE", "MATYAN_QUEUE_BYTES"),
        ("MATYAN_SEQUENCE_LAYUOT", "MATYAN_SEQUENCE_LAYOUT"),
        ("MATYAN_PORT", None),
        ("KAFKA_QQQ", None),
    ],
)
def test_a_name_that_is_no_setting_is_told(name: str, near: str | None) -> None:
    """With the nearest of ours when one is near, and without the value."""
    (sentence,) = settings.unknown_names({name: "sesame"})
    assert sentence.startswith(f"{name} is set")
    assert "sesame" not in sentence
    assert ("meant?" in sentence) == (near is not None)
    assert near is None or f"is {near} meant?" in sentence


def test_names_of_others_are_not_told() -> None:
    """Ours, the SDK's, what Kubernetes and Kafka's scripts set; and in the embedded mode all that it does not read."""
    ours = dict.fromkeys(BAD, "x")
    sdk = dict.fromkeys(
        [f"MATYAN_{name.upper()}" for name in type(SETTINGS).model_fields], "http://x"
    )
    foreign = {
        "KAFKA_PORT": "tcp://10.0.0.1:9092",
        "KAFKA_SERVICE_HOST": "10.0.0.1",
        "KAFKA_SERVICE_PORT": "9092",
        "KAFKA_PORT_9092_TCP_ADDR": "10.0.0.1",
        "MATYAN_FRONTIER_PORT_53801_TCP": "tcp://10.0.0.2:53801",
        "KAFKA_HEAP_OPTS": "-Xmx1g",
        "MATYAN_DATA": "x",
        "PATH": "x",
    }
    assert settings.unknown_names({**ours, **sdk, **foreign}) == []
    assert settings.unknown_names({"KAFKA_X": ""}, ignore=settings.EMBEDDED_IGNORES) == []


@pytest.mark.parametrize("body", [b"PORT=1\nHOST=\xff\xfe\n", "PORT=ä".encode("utf-16")])
def test_a_dotenv_file_that_is_not_utf_8_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """It names the file."""
    (tmp_path / ".env").write_bytes(body)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"\.env is not UTF-8"):
        settings.load()


def test_a_service_with_a_bad_setting_ends_with_2(tmp_path: Path) -> None:
    """One line, no traceback; a name that is no setting is warned of in the log."""
    words = ("ingest-worker", "--store", f"rocks:{tmp_path}")
    for variables in (
        {"KAFKA_SECURITY_PROTOCOL": "TLS"},
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
        {"METRICS_PORT": "70000"},
        {"KAFKA_BOOTSTRAP_SERVERS": ""},
    ):
        ended = matyan(*words, check=2, env=environment(**variables))
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.startswith("matyan: KAFKA_") or "METRICS_PORT" in ended.stderr
    with started(
        [*MATYAN, *words],
        "MATYAN_QUEUE_BYTES meant",
        MATYAN_QEUE_BYTES="1",
        METRICS_PORT="0",
        KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
    ):
        pass


def test_the_ingest_worker_needs_no_s3_secrets_in_production(tmp_path: Path) -> None:
    """Only what it connects to may not be a development value."""
    env = {
        "MATYAN_ENVIRONMENT": "Production",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "METRICS_PORT": "0",
    }
    worker = [*MATYAN, "ingest-worker", "--store", f"rocks:{tmp_path}"]
    with started(worker, "waits at its start", **env):
        pass
    refused = matyan("frontier", "--port", "0", check=2, env=environment(**env))
    assert "S3_SECRET_KEY" in refused.stderr


def test_the_dotenv_file_counts_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .env in the working folder is read; a variable that is set overrides it."""
    (tmp_path / ".env").write_text("PORT=1111\nHOST=10.0.0.1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOST", "127.0.0.1")
    monkeypatch.delenv("PORT", raising=False)
    loaded = settings.load()
    assert (loaded.host, loaded.port) == ("127.0.0.1", 1111)


def test_flags_win_over_the_environment() -> None:
    """A flag that was given overrides its variable; one that was not (None) leaves it."""
    loaded = settings.load({"PORT": "1", "HOST": "h"}, port=2, host=None)
    assert (loaded.port, loaded.host) == (2, "h")


PRODUCTION = {
    "MATYAN_ENVIRONMENT": "production",
    "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
    "S3_ENDPOINT": "https://s3.example",
    "S3_ACCESS_KEY": "id",
    "S3_SECRET_KEY": "hush",
}
SASL = {
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "u",
    "KAFKA_SASL_PASSWORD": "hush",
}


@pytest.mark.parametrize(
    ("change", "used", "named"),
    [
        ({}, None, ()),
        ({"S3_ACCESS_KEY": "", "S3_SECRET_KEY": ""}, None, ()),
        ({"KAFKA_BOOTSTRAP_SERVERS": "localhost:9092"}, KAFKA, ("KAFKA_BOOTSTRAP_SERVERS",)),
        ({"KAFKA_BOOTSTRAP_SERVERS": "localhost:9092"}, S3, ()),
        ({"S3_ENDPOINT": "http://localhost:9000"}, S3, ("S3_ENDPOINT",)),
        ({"S3_ENDPOINT": "http://localhost:9000"}, KAFKA, ()),
        ({"S3_ACCESS_KEY": "rustfsadmin"}, S3, ("S3_ACCESS_KEY", "make both keys of S3 empty")),
        ({"S3_SECRET_KEY": "rustfsadmin"}, None, ("S3_SECRET_KEY", "make both keys of S3 empty")),
        ({"S3_SECRET_KEY": "rustfsadmin"}, KAFKA, ()),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", **SASL},
            KAFKA,
            ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", **SASL},
            None,
            ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        ),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", **SASL}, S3, ()),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", **SASL}, None, ()),
        ({"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, None, ()),
    ],
)
def test_production_refuses_what_is_for_development(
    change: dict[str, str], used: tuple[str, ...] | None, named: tuple[str, ...]
) -> None:
    """Each setting that is wrong is named, and what to do; of a service only those that it uses. In development all of it goes."""
    given = {**PRODUCTION, **change}
    settings.load({**given, "MATYAN_ENVIRONMENT": "development"}).refuse_development_values()
    loaded = settings.load(given)
    if not named:
        loaded.refuse_development_values(used)
        return
    with pytest.raises(ConfigurationError, match=r"^MATYAN_ENVIRONMENT=production, but ") as caught:
        loaded.refuse_development_values(used)
    said = str(caught.value)
    assert all(name in said for name in named)
    assert "hush" not in said
    assert {word for word in ("KAFKA_BOOTSTRAP_SERVERS", "S3_ENDPOINT") if word in said} <= {*named}


def test_each_service_refuses_at_its_start_what_it_uses(tmp_path: Path) -> None:
    """With 2 and one line; the same settings that another service is refused with are none of its affair."""
    plain = {**PRODUCTION, "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", **SASL}
    keys = {**PRODUCTION, "S3_SECRET_KEY": "rustfsadmin"}
    frontier, control = ("frontier", "--port", "0"), ("control-worker",)
    ingest = ("ingest-worker", "--store", f"rocks:{tmp_path}")
    for words, given, named in (
        (frontier, plain, "SASL_SSL"),
        (control, plain, "SASL_SSL"),
        (ingest, plain, "SASL_SSL"),
        (frontier, keys, "S3_SECRET_KEY"),
        (control, keys, "S3_SECRET_KEY"),
    ):
        ended = matyan(*words, check=2, env=environment(**given))
        assert ended.stderr.startswith("matyan: MATYAN_ENVIRONMENT=production, but ")
        assert ended.stderr.count("\n") == 1
        assert named in ended.stderr
        assert "hush" not in ended.stderr


def test_what_the_embedded_mode_ignores_is_not_even_parsed() -> None:
    """A Kafka, FDB or S3 setting that is wrong does not matter there."""
    wrong = {"FDB_API_VERSION": "x", "S3_PRESIGN_EXPIRY": "x", "LOG_LEVEL": "DEBUG"}
    loaded = settings.load(wrong, ignore=settings.EMBEDDED_IGNORES)
    assert (loaded.fdb_api_version, loaded.log_level) == (730, "DEBUG")


# --- secrets from files ----------------------------------------------------------------------------

FROM_FILE = {name: row for row in fields(Settings) if (name := file_variable(row)) is not None}


def test_every_secret_has_a_file() -> None:
    """By its type alone; and no such name is a setting of another meaning."""
    names = {row.metadata["env"] for row in fields(Settings)}
    assert {f"{row.metadata['env']}_FILE" for row in fields(Settings) if is_secret(row)} <= set(
        FROM_FILE
    )
    assert {"S3_SECRET_KEY_FILE", "S3_ACCESS_KEY_FILE", "KAFKA_SASL_PASSWORD_FILE"} <= set(
        FROM_FILE
    )
    assert not set(FROM_FILE) & names
    assert settings.unknown_names(dict.fromkeys(FROM_FILE, "x")) == []
    (sentence,) = settings.unknown_names({"KAFKA_SASL_PASSWORD_FIEL": "x"})
    assert "is KAFKA_SASL_PASSWORD_FILE meant?" in sentence


def _value(loaded: Settings, variable: str) -> str:
    value = getattr(loaded, FROM_FILE[variable].name)
    return value.reveal() if isinstance(value, Secret) else value


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"sesame", "sesame"),
        (b"sesame\n", "sesame"),
        (b"sesame\r\n", "sesame"),
        (b"sesame\n\n", "sesame"),
        (b"\xef\xbb\xbfsesame", "sesame"),
        (b" ses ame ", " ses ame "),
        ("sésame/+=#$\\".encode(), "sésame/+=#$\\"),
        (b"s" * MAX_FILE_BYTES, "s" * MAX_FILE_BYTES),
    ],
)
@pytest.mark.parametrize("variable", FROM_FILE)
def test_a_secret_is_what_stands_in_its_file(
    tmp_path: Path, variable: str, content: bytes, value: str
) -> None:
    """Without the line ends and the mark that editors write; all else is the secret's own. No text of it is expanded."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert _value(settings.load({variable: str(file)}), variable) == value
    # Compose files pass on what is not set as empty.
    other = variable.removesuffix("_FILE")
    assert _value(settings.load({variable: str(file), other: ""}), variable) == value
    assert _value(settings.load({variable: "", other: "x"}), variable) == "x"


UNFIT: dict[str, bytes | None] = {
    "names no file that there is": None,
    "names a file that is empty": b" \r\n\n",
    "names a file that is not UTF-8": b"hush\xff",
    "names a file of more than 65,536 bytes": b"hush" * 20_000,
    "control characters": b"hush\nhush",
}


@pytest.mark.parametrize("trouble", UNFIT)
@pytest.mark.parametrize("variable", FROM_FILE)
def test_a_secrets_file_that_will_not_do_is_a_sentence(
    tmp_path: Path, variable: str, trouble: str
) -> None:
    """It names the variable. Neither it nor an error behind it holds a byte of the file, or the path, which may be the secret."""
    file = tmp_path / "hush"
    if (content := UNFIT[trouble]) is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=trouble) as caught:
        settings.load({variable: str(file)})
    said = str(caught.value)
    assert said.startswith(variable)
    assert "expected" in said
    assert said.endswith(".")
    assert "hush" not in "".join(traceback.format_exception(caught.value))
    context = caught.value.__context__
    assert context is None or "hush" not in repr(vars(context)) + repr(context.args)
    assert not isinstance(context, UnicodeError)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "circle", "under a file"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    """A folder, a pipe that nobody writes to, a device without end, a link to itself."""
    place = tmp_path / "hush"
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "circle":
        place.symlink_to(place)
    elif kind == "under a file":
        place.write_text("hush")
        place = place / "hush"
    else:
        place = Path("/dev/zero")
    with pytest.raises(
        ConfigurationError, match=r"^S3_SECRET_KEY_FILE names .*: expected"
    ) as caught:
        settings.load({"S3_SECRET_KEY_FILE": str(place)})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("variable", FROM_FILE)
def test_a_secret_stands_in_one_place(tmp_path: Path, variable: str) -> None:
    """Which of the two would count is not left to be guessed."""
    file = tmp_path / "secret"
    file.write_text("hush")
    other = variable.removesuffix("_FILE")
    with pytest.raises(ConfigurationError, match=f"^{other} and {variable} are both set") as caught:
        settings.load({variable: str(file), other: "hush"})
    assert "hush" not in str(caught.value)


def test_a_secrets_file_is_named_in_the_dotenv_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a path from the working folder."""
    (tmp_path / "secret").write_text("sesame\n")
    (tmp_path / ".env").write_text("S3_SECRET_KEY_FILE=secret\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("S3_SECRET_KEY", raising=False)
    assert settings.load().s3_secret_key.reveal() == "sesame"
    with pytest.raises(ConfigurationError, match="expected UTF-8"):
        settings.load({"S3_SECRET_KEY_FILE": "\udcff"})


def test_a_command_reads_the_secrets_that_it_uses_alone(tmp_path: Path) -> None:
    """One environment for all services: a secret that is not given to one is not missed there, and a flag is enough."""
    gone = str(tmp_path / "gone")
    sasl = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "u",
        "KAFKA_SASL_PASSWORD_FILE": gone,
    }
    s3 = {"S3_SECRET_KEY_FILE": gone, "S3_ACCESS_KEY_FILE": gone}
    settings.load({**sasl, **s3}, used={"host"})
    settings.load(sasl, used={"s3_secret_key"})
    with pytest.raises(ConfigurationError, match="KAFKA_SASL_PASSWORD_FILE"):
        settings.load(sasl, used={"kafka_sasl_password"})
    given = settings.load({"S3_ACCESS_KEY_FILE": gone}, s3_access_key="me")
    assert given.s3_access_key == "me"
    settings.load(s3, ignore=settings.EMBEDDED_IGNORES)
    worker = ("ingest-worker", "--store", f"rocks:{tmp_path / 'data'}")
    ended = matyan(*worker, check=2, env=environment(**sasl, **s3))
    assert ended.stderr.startswith("matyan: KAFKA_SASL_PASSWORD_FILE names no file")
    with started(
        [*MATYAN, *worker],
        "waits at its start",
        KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
        METRICS_PORT="0",
        **s3,
    ):
        pass


SHOWN = {
    "repr": repr,
    "str": str,
    "format": lambda value: f"{value} {value!s:>50} {value!r}",
    "asdict": lambda value: str(dataclasses.asdict(value)),
    "astuple": lambda value: str(dataclasses.astuple(value)),
    "rich": lambda value: pretty_repr(value, expand_all=True),
    "replace": lambda value: str(dataclasses.replace(value, host="h")),
    "copy": lambda value: str(copy.deepcopy(value)),
    "json": lambda value: json.dumps(dataclasses.asdict(value), default=str),
    "log": lambda value: logging.LogRecord("", 0, "", 0, "%s", (value,), None).getMessage(),
    "locals": lambda value: "".join(
        traceback.StackSummary.extract(_frames(value), capture_locals=True).format()
    ),
}


def _frames(value: object):
    try:
        raise ValueError(value)
    except ValueError as error:
        return list(traceback.walk_tb(error.__traceback__))


@pytest.mark.parametrize("how", SHOWN)
def test_no_way_to_show_settings_shows_a_secret(how: str) -> None:
    """Whoever prints them, or a thing that holds them, prints no secret; who asks for one by name gets it."""
    loaded = settings.load({"S3_SECRET_KEY": "hush-s3", "KAFKA_SASL_PASSWORD": "hush-kafka"})
    shown = SHOWN[how](loaded)
    assert "localhost:9092" in shown
    assert "hush" not in shown
    assert loaded.s3_secret_key.reveal() == "hush-s3"
    assert loaded.kafka_sasl_password.reveal() == "hush-kafka"
    assert loaded.s3_secret_key == Secret("hush-s3")
    assert not settings.load({}).kafka_sasl_password
