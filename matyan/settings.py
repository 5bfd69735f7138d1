"""Settings: frozen values read from the environment and a `.env` file of the working folder.

Names and defaults are the reference services' (contract, section 3); what is new begins with MATYAN_.
Nothing is read at import: the composition root calls `load`. No engine and no rule looks into the environment.
"""

from __future__ import annotations

import difflib
import io
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, cast

from matyan import kafka_properties, parsing
from matyan.errors import ConfigurationError
from matyan.kafka_properties import Properties
from matyan.secret import Secret, read_file

DEFAULT_PORT: Final = 53801
API_PORT: Final = 53800
"""Where the reference's API server listens."""


def _secret(raw: str) -> Secret:
    return Secret(parsing.text(raw))


def _setting(
    default: Any,
    name: str,
    help: str,
    parse: Callable[[str], Any],
    *,
    in_file: bool = False,
    former: str = "",
) -> Any:
    """in_file: no secret, and yet often kept beside one: it can stand in a file, too. former: the name it had."""
    return field(
        default=default,
        metadata={
            "env": name,
            "help": help,
            "parse": parse,
            "in_file": in_file,
            "former": former,
        },
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, with its unit where it has one. The embedded mode reads no Kafka, FDB or S3 one."""

    # Kafka
    kafka_bootstrap_servers: str = _setting(
        "localhost:9092",
        "KAFKA_BOOTSTRAP_SERVERS",
        "Kafka's brokers, HOST:PORT with commas.",
        parsing.brokers,
    )
    kafka_data_ingestion_topic: str = _setting(
        "data-ingestion",
        "KAFKA_DATA_INGESTION_TOPIC",
        "The topic of the clients' records.",
        parsing.topic,
    )
    kafka_control_events_topic: str = _setting(
        "control-events",
        "KAFKA_CONTROL_EVENTS_TOPIC",
        "The topic of the control events.",
        parsing.topic,
    )
    kafka_security_protocol: str = _setting(
        "",
        "KAFKA_SECURITY_PROTOCOL",
        "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.",
        parsing.OneOf("", "PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    )
    kafka_sasl_mechanism: str = _setting(
        "",
        "KAFKA_SASL_MECHANISM",
        "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, or OAUTHBEARER (whose properties stand in MATYAN_KAFKA_CONFIG).",
        parsing.OneOf("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"),
    )
    kafka_sasl_username: str = _setting(
        "", "KAFKA_SASL_USERNAME", "The user at the brokers.", parsing.text, in_file=True
    )
    kafka_sasl_password: Secret = _setting(
        Secret(""), "KAFKA_SASL_PASSWORD", "The user's password.", _secret
    )
    kafka_ssl_cafile: str = _setting(
        "",
        "KAFKA_SSL_CAFILE",
        "The certificates of the authorities that Kafka's are signed by, PEM; empty: the machine's.",
        parsing.text,
        former="MATYAN_KAFKA_CA_FILE",
    )
    kafka_ssl_certfile: str = _setting(
        "",
        "KAFKA_SSL_CERTFILE",
        "This client's certificate and those between it and its authority, PEM.",
        parsing.text,
    )
    kafka_ssl_keyfile: str = _setting(
        "",
        "KAFKA_SSL_KEYFILE",
        "The certificate's private key, PEM; empty: it stands in KAFKA_SSL_CERTFILE, too.",
        parsing.text,
    )
    kafka_ssl_key_password: Secret = _setting(
        Secret(""), "KAFKA_SSL_KEY_PASSWORD", "What opens an encrypted private key.", _secret
    )
    kafka_config: Properties = _setting(
        Properties(),
        "MATYAN_KAFKA_CONFIG",
        "A file of librdkafka's properties, lines of NAME=VALUE; those that would break what matyan promises are refused.",
        kafka_properties.read,
    )
    kafka_compression: str = _setting(
        "none",
        "MATYAN_KAFKA_COMPRESSION",
        "How records are compressed: none, gzip, lz4, zstd or snappy. The reference's programs read none and gzip; the others only with the package cramjam.",
        parsing.OneOf("none", "gzip", "lz4", "zstd", "snappy"),
    )
    ingestion_group: str = _setting(
        "ingestion-workers",
        "MATYAN_INGESTION_GROUP",
        "The consumer group of the ingestion workers; one store each.",
        parsing.group,
    )
    control_group: str = _setting(
        "control-workers",
        "MATYAN_CONTROL_GROUP",
        "The consumer group of the control workers.",
        parsing.group,
    )
    instance_id: str = _setting(
        "",
        "MATYAN_INSTANCE_ID",
        "Kafka's group.instance.id, of one worker: one that comes back soon gets its partitions without a rebalance.",
        parsing.instance,
    )
    # FoundationDB
    fdb_cluster_file: str = _setting(
        "fdb.cluster", "FDB_CLUSTER_FILE", "The cluster's file.", parsing.name
    )
    fdb_api_version: int = _setting(
        730, "FDB_API_VERSION", "The client's version.", parsing.positive
    )
    # blobs
    blob_backend_type: str = _setting(
        "s3", "BLOB_BACKEND_TYPE", "Where blobs are kept: s3.", parsing.OneOf("s3", "gcs", "azure")
    )
    s3_endpoint: str = _setting(
        "http://localhost:9000",
        "S3_ENDPOINT",
        "The S3 server, as this process reaches it.",
        parsing.url,
    )
    s3_public_endpoint: str = _setting(
        "",
        "S3_PUBLIC_ENDPOINT",
        "The S3 server as clients reach it; empty: the same.",
        parsing.url_or_none,
    )
    s3_access_key: str = _setting(
        "rustfsadmin",
        "S3_ACCESS_KEY",
        "The access key's id; when it and S3_SECRET_KEY are set and empty, AWS's own chain is used.",
        parsing.text,
        in_file=True,
    )
    s3_secret_key: Secret = _setting(
        Secret("rustfsadmin"), "S3_SECRET_KEY", "The secret key.", _secret
    )
    s3_bucket: str = _setting(
        "matyan-artifacts", "S3_BUCKET", "The bucket of all blobs.", parsing.bucket
    )
    s3_region: str = _setting("us-east-1", "S3_REGION", "The bucket's region.", parsing.region)
    s3_addressing: str = _setting(
        "auto",
        "MATYAN_S3_ADDRESSING",
        "Where the bucket's name stands: path (endpoint/bucket/key), virtual (bucket.endpoint/key) or auto: virtual at Amazon's endpoints.",
        parsing.OneOf("auto", "path", "virtual"),
    )
    s3_ca_file: str = _setting(
        "",
        "S3_CA_FILE",
        "The certificates of the authorities that S3's are signed by, PEM; empty: the public ones.",
        parsing.text,
    )
    s3_sse: str = _setting(
        "",
        "MATYAN_S3_SSE",
        "How S3 is asked to encrypt each blob: AES256, aws:kms or aws:kms:dsse; empty: as the bucket does.",
        parsing.OneOf("", "AES256", "aws:kms", "aws:kms:dsse"),
    )
    s3_sse_kms_key_id: str = _setting(
        "",
        "MATYAN_S3_SSE_KMS_KEY_ID",
        "The id, ARN or alias of the KMS key for it; empty: Amazon's own key.",
        parsing.kms_key,
    )
    s3_presign_expiry: int = _setting(
        3600, "S3_PRESIGN_EXPIRY", "Seconds that a presigned URL is good for.", parsing.expiry
    )
    presign_blob_ref: str = _setting(
        "publish",
        "MATYAN_PRESIGN_BLOB_REF",
        "Who publishes the record of a blob: this process when it signs the upload, or the client.",
        parsing.OneOf("publish", "client"),
    )
    blob_max_bytes: int = _setting(
        5 << 30, "MATYAN_BLOB_MAX_BYTES", "The largest blob in the embedded mode.", parsing.positive
    )
    public_url: str = _setting(
        "",
        "MATYAN_PUBLIC_URL",
        "scheme://host[:port] as clients and browsers know this process; empty: as each request names it.",
        parsing.url_or_none,
    )
    # the services
    log_level: str = _setting(
        "INFO",
        "LOG_LEVEL",
        "DEBUG, INFO, WARNING, ERROR or CRITICAL.",
        parsing.OneOf("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    )
    host: str = _setting("0.0.0.0", "HOST", "The address to listen on.", parsing.host)
    port: int = _setting(
        DEFAULT_PORT, "PORT", "The port to listen on; 0: any free one.", parsing.port
    )
    tls_cert_file: str = _setting(
        "",
        "MATYAN_TLS_CERT_FILE",
        "This server's certificate and those between it and its authority, PEM: it listens under TLS then; read again when it changes.",
        parsing.text,
    )
    tls_key_file: str = _setting(
        "",
        "MATYAN_TLS_KEY_FILE",
        "The certificate's private key, PEM, not encrypted.",
        parsing.text,
    )
    tls_client_ca_file: str = _setting(
        "",
        "MATYAN_TLS_CLIENT_CA_FILE",
        "The authorities of clients' certificates, PEM: each client must show one then, but for /health/.",
        parsing.text,
    )
    metrics_enabled: bool = _setting(True, "METRICS_ENABLED", "Serve /metrics/.", parsing.flag)
    metrics_port: int = _setting(
        9090,
        "METRICS_PORT",
        "Where a worker serves /metrics and /health; 0 or less: nowhere.",
        parsing.metrics_port,
    )
    cors_origins: tuple[str, ...] = _setting(
        (),
        "CORS_ORIGINS",
        "Origins that may call, a JSON array or a list with commas.",
        parsing.origins,
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        "MATYAN_ALLOWED_HOSTS",
        "Hosts that a process which listens on loopback alone answers to as well, such as a notebook proxy's; * is any.",
        parsing.hosts,
    )
    ui_base_path: str = _setting(
        "",
        "MATYAN_UI_BASE_PATH",
        "What a proxy puts before every path of this process, such as /tracker, whether it takes that off again or not; for the web app.",
        parsing.base_path,
    )
    ui_api_host_base: str = _setting(
        "",
        "MATYAN_UI_API_HOST_BASE",
        "scheme://host[:port] that the web app asks; empty: where it comes from.",
        parsing.url_or_none,
    )
    ui_api_base_path: str = _setting(
        "",
        "MATYAN_UI_API_BASE_PATH",
        "The path that the web app's questions begin with; empty: MATYAN_UI_BASE_PATH and /api/v1.",
        parsing.base_path,
    )
    tokens_file: str = _setting(
        "",
        "MATYAN_TOKENS_FILE",
        "The file of the tokens that may come in, which `matyan tokens` writes; empty: in the data folder of `matyan up`, else none is asked for.",
        parsing.text,
    )
    webhooks_file: str = _setting(
        "",
        "MATYAN_WEBHOOKS_FILE",
        "The TOML file of the webhooks that are told of runs that finish, are deleted and so on: see `matyan webhooks --help`; empty: nobody is.",
        parsing.text,
    )
    shutdown_flush_timeout: float = _setting(
        5.0,
        "SHUTDOWN_FLUSH_TIMEOUT",
        "Seconds that a drain may take after SIGTERM.",
        parsing.Seconds(0, 86_400),
    )
    environment: str = _setting(
        "development",
        "MATYAN_ENVIRONMENT",
        "In `production`, development credentials, localhost defaults, SASL_PLAINTEXT, and a listener beyond loopback without tokens are refused.",
        parsing.OneOf("development", "production"),
    )
    queue_bytes: int = _setting(
        256 << 20,
        "MATYAN_QUEUE_BYTES",
        "Bytes that the process may hold between accepting a frame and its delivery.",
        parsing.positive,
    )
    delivery_timeout_s: float = _setting(
        300.0,
        "MATYAN_DELIVERY_TIMEOUT_S",
        "Seconds that Kafka may be away before what waits for it is given up.",
        parsing.Seconds(0.1, 86_400),
    )
    ws_deflate: bool = _setting(
        False,
        "MATYAN_WS_DEFLATE",
        "Accept permessage-deflate: a tenth of the bytes on a slow network, more CPU on both ends.",
        parsing.flag,
    )
    readiness: str = _setting(
        "auto",
        "MATYAN_READINESS",
        "How the ingest path waits for its sockets. auto: by epoll where there is one; trio: as on a system without it, slower.",
        parsing.OneOf("auto", "trio"),
    )
    # the workers
    ingest_max_txn_bytes: int = _setting(
        1_000_000,
        "INGEST_MAX_TXN_BYTES",
        "The most bytes that one transaction takes.",
        parsing.positive,
    )
    ingest_max_messages_per_txn: int = _setting(
        10_000,
        "INGEST_MAX_MESSAGES_PER_TXN",
        "The most records that one transaction takes.",
        parsing.positive,
    )
    sequence_layout: str = _setting(
        "",
        "MATYAN_SEQUENCE_LAYOUT",
        "How points are stored; empty: the engine's default (packed on RocksDB, compatible on FoundationDB).",
        parsing.OneOf("", "compatible", "packed"),
    )

    # the jobs
    tombstone_cleanup_older_than_hours: int = _setting(
        168,
        "TOMBSTONE_CLEANUP_OLDER_THAN_HOURS",
        "How long it is remembered at least that a run was deleted.",
        parsing.hours,
    )
    cleanup_job_lock_ttl_seconds: float = _setting(
        300.0,
        "CLEANUP_JOB_LOCK_TTL_SECONDS",
        "Seconds after which the lock of a job that was killed is free; 0: jobs take no lock.",
        parsing.Seconds(0, 86_400),
    )

    @property
    def layout(self) -> Literal["compatible", "packed"] | None:
        """The sequence layout that is wanted; None: what the store has, else its engine's default."""
        return cast('Literal["compatible", "packed"]', self.sequence_layout) or None

    def refuse_development_values(self, used: Collection[str] | None = None) -> None:
        """In MATYAN_ENVIRONMENT=production, refuses development credentials, localhost defaults and passwords in plain sight.

        Args:
            used: the fields that the caller uses, which alone are looked at; None: all.

        Raises:
            ConfigurationError: names the settings to change.
        """
        if self.environment != "production":
            return
        bad = [
            row.metadata["env"]
            for row in fields(self)
            if row.name in _DEVELOPMENT_ONLY
            and (used is None or row.name in used)
            and getattr(self, row.name) == row.default
        ]
        if bad:
            has_key = not {"S3_ACCESS_KEY", "S3_SECRET_KEY"}.isdisjoint(bad)
            hint = (
                " To use AWS's own chain of credentials make both keys of S3 empty."
                if has_key
                else ""
            )
            raise ConfigurationError(
                f"MATYAN_ENVIRONMENT=production, but {', '.join(bad)} still has its development "
                f"default: set {'it' if len(bad) == 1 else 'each of them'} and start again.{hint}"
            )
        # Whatever the mechanism: PLAIN shows the password, SCRAM what can be guessed at, OAUTHBEARER the token.
        if self.kafka_security_protocol == "SASL_PLAINTEXT" and (
            used is None or "kafka_security_protocol" in used
        ):
            raise ConfigurationError(
                "MATYAN_ENVIRONMENT=production, but KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT lets everybody on the way read how this "
                "user logs in, and all records: use SASL_SSL."
            )

    def _refuse_contradictions(self, used: Collection[str] | None) -> None:
        """used: as `load` has it.

        Raises:
            ConfigurationError: two settings do not go together.
        """
        self._refuse_one_name_for_two()
        if used is None or "tls_cert_file" in used:
            self._refuse_half_a_pair()
        if not self.kafka_security_protocol.startswith("SASL_") or (
            used is not None and "kafka_sasl_password" not in used
        ):
            return
        needed: dict[str, object] = {"KAFKA_SASL_MECHANISM": self.kafka_sasl_mechanism}
        if self.kafka_sasl_mechanism == "OAUTHBEARER":
            needed[
                "the properties of its tokens (sasl.oauthbearer.method=oidc and others) in MATYAN_KAFKA_CONFIG"
            ] = kafka_properties.gets_tokens(self.kafka_config)
        else:
            needed["KAFKA_SASL_USERNAME"] = self.kafka_sasl_username
            needed["KAFKA_SASL_PASSWORD"] = self.kafka_sasl_password
        missing = [name for name, value in needed.items() if not value]
        if missing:
            raise ConfigurationError(
                f"KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol}: expected {' and '.join(missing)} to be set, too."
            )

    def _refuse_half_a_pair(self) -> None:
        given = {
            "MATYAN_TLS_CERT_FILE": self.tls_cert_file,
            "MATYAN_TLS_KEY_FILE": self.tls_key_file,
            "MATYAN_TLS_CLIENT_CA_FILE": self.tls_client_ca_file,
        }
        missing = [name for name in [*given][:2] if not given[name]]
        if missing and any(given.values()):
            named = next(name for name, value in given.items() if value)
            raise ConfigurationError(
                f"{named}={given[named]}: expected {' and '.join(missing)} to be set, too: a listener under TLS has both a "
                "certificate and its key."
            )

    def _refuse_one_name_for_two(self) -> None:
        topics = (self.kafka_data_ingestion_topic, self.kafka_control_events_topic)
        if len({*topics, *map(dead_letter_topic, topics)}) < 4:
            raise ConfigurationError(
                f"KAFKA_DATA_INGESTION_TOPIC={topics[0]} and KAFKA_CONTROL_EVENTS_TOPIC={topics[1]}: expected two topics, "
                f"neither of which is the other's for dead letters ({dead_letter_topic('NAME')})."
            )
        if self.ingestion_group == self.control_group:
            raise ConfigurationError(
                f"MATYAN_INGESTION_GROUP and MATYAN_CONTROL_GROUP are both {self.control_group!r}: expected two groups."
            )


def dead_letter_topic(topic: str) -> str:
    """The name of the topic that holds the dead letters of `topic`."""
    return topic + parsing.DEAD_LETTERS_SUFFIX


def is_secret(row: Field[Any]) -> bool:
    """Whether this field of `Settings` is one that only its user may see."""
    return isinstance(row.default, Secret)


def file_variable(row: Field[Any]) -> str | None:
    """The variable that names a file with the value of this field of `Settings` in it; every secret has one."""
    return f"{row.metadata['env']}_FILE" if is_secret(row) or row.metadata["in_file"] else None


_DEVELOPMENT_ONLY = frozenset(
    {"kafka_bootstrap_servers", "s3_endpoint", "s3_access_key", "s3_secret_key"}
)


EMBEDDED_IGNORES = ("KAFKA_", "MATYAN_KAFKA_", "FDB_", "S3_", "MATYAN_S3_", "BLOB_")
"""Beginnings of the names that the embedded mode does not read."""


def load(
    environment: Mapping[str, str] | None = None,
    *,
    ignore: tuple[str, ...] = (),
    used: Collection[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Settings:
    """Settings from `environment` (default: os.environ over the `.env` file of the working folder).

    `ignore`: names that begin so keep their defaults. `used`: the fields that the caller uses, None for all; files with
    values of others need not be there. `defaults`: those of fields for which the caller has others. `overrides` are already parsed values, from command-line flags; None means not given.

    Raises:
        ConfigurationError: names the variable, its value and what was expected.
    """
    if environment is None:
        environment = read_environment()
    values = dict(defaults or {})
    for row in fields(Settings):
        given = overrides.pop(row.name, None)
        if given is not None:
            values[row.name] = given
        elif not row.metadata["env"].startswith(ignore):
            is_used = used is None or row.name in used
            if not is_used and row.name == "kafka_config":
                continue  # its value is the file's
            found = _found(row, environment, with_file=is_used)
            if found is not None:
                values[row.name] = _parsed(row, *found)
    if overrides:
        raise TypeError(f"unknown settings {sorted(overrides)}")
    if given := values.get("kafka_config"):
        _take_from_file(given, values)
    settings = Settings(**values)
    settings._refuse_contradictions(used)
    return settings


def _found(
    row: Field[Any], environment: Mapping[str, str], *, with_file: bool
) -> tuple[str, str] | None:
    """The variable that this field's value comes from, and the value's text. A file's variable that is empty names none."""
    name, file_name = row.metadata["env"], file_variable(row)
    if with_file and file_name is not None and (path := environment.get(file_name)):
        if environment.get(name):
            raise ConfigurationError(f"{name} and {file_name} are both set: keep one of them.")
        _refuse_other_encodings(file_name, path)
        return file_name, read_file(file_name, path)
    if name not in environment and (former := row.metadata["former"]) in environment:
        name = former
    return (name, environment[name]) if name in environment else None


def _take_from_file(given: Properties, values: dict[str, Any]) -> None:
    """Puts the properties of MATYAN_KAFKA_CONFIG that are settings, too, among the settings' `values`.

    Raises:
        ConfigurationError: one is given in both ways, or its value is none.
    """
    rows = {row.metadata["env"]: row for row in fields(Settings)}
    for name, variable in kafka_properties.OF_SETTINGS.items():
        if name not in given:
            continue
        row = rows[variable]
        if row.name in values:
            raise ConfigurationError(
                f"{variable} is set, and {name} in MATYAN_KAFKA_CONFIG={given.path}, too: keep one of them."
            )
        try:
            values[row.name] = row.metadata["parse"](given[name])
        except ValueError as error:
            raise ConfigurationError(
                f"{name} in MATYAN_KAFKA_CONFIG={given.path}: {error}."
            ) from None


def _parsed(row: Field[Any], name: str, raw: str) -> Any:
    _refuse_other_encodings(name, raw)
    try:
        return row.metadata["parse"](raw)
    except ValueError as error:
        shown = Secret(raw) if is_secret(row) or name != row.metadata["env"] else raw
        raise ConfigurationError(f"{name}={shown!r}: {error}.") from None


def _refuse_other_encodings(name: str, raw: str) -> None:
    """No client could pass such a text on."""
    if any("\ud800" <= character <= "\udfff" for character in raw):
        raise ConfigurationError(f"{name}: expected UTF-8.")


def load_cluster() -> Settings:
    """For a command or a library on the store of a cluster: those of FoundationDB and Kafka, and of no others, which may be
    another program's.

    Raises:
        ConfigurationError: as `load` does.
    """
    names = [row.metadata["env"] for row in fields(Settings)]
    return load(ignore=tuple(name for name in names if not name.startswith(_CLUSTER)))


_CLUSTER = ("FDB_", "KAFKA_", "MATYAN_KAFKA_")


def read_environment() -> dict[str, str]:
    """The variables of this process over the `.env` file of the working folder.

    Raises:
        ConfigurationError: there is such a file, which cannot be read.
    """
    path = Path(".env")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        return dict(os.environ)
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path.absolute()} is not UTF-8 (byte {error.start}): save it as UTF-8."
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{path.absolute()} cannot be read ({error.strerror}): mend its permissions, or start in another folder."
        ) from None
    from dotenv import dotenv_values  # 20 ms, which a process without such a file need not pay

    values = dotenv_values(stream=io.StringIO(text))
    return {**{name: raw for name, raw in values.items() if raw is not None}, **os.environ}


def unknown_names(environment: Mapping[str, str], *, ignore: tuple[str, ...] = ()) -> list[str]:
    """A sentence for each variable that looks like one of ours and is none, with the nearest of ours; and for former names.

    `ignore`: as `load` has it.
    """
    known = {row.metadata["env"] for row in fields(Settings)}
    known |= {name for row in fields(Settings) if (name := file_variable(row)) is not None}
    former = {row.metadata["former"]: row.metadata["env"] for row in fields(Settings)}
    found = []
    for name in sorted(environment):
        if (now := former.get(name)) and not name.startswith(ignore):
            found.append(
                f"{name} is the former name of {now}, and still read where {now} is not set: use the new one."
            )
            continue
        # In small letters it is none of ours either, whatever other programs make of it.
        upper = name.upper()
        is_ours = upper.startswith(("MATYAN_", "KAFKA_")) and not upper.startswith(ignore)
        if not is_ours or name in known or name in _OTHERS or _FOREIGN.fullmatch(upper):
            continue
        if environment[name].startswith(("tcp://", "udp://")):
            continue  # what Kubernetes sets for a service called so
        near = difflib.get_close_matches(upper, known, 1, 0.7)
        hint = f": is {near[0]} meant?" if near else "."
        found.append(f"{name} is set, and there is no such setting{hint}")
    return found


_OTHERS = frozenset(
    {
        "MATYAN_DATA",
        # The SDK's own (its config.py).
        "MATYAN_BACKEND_URL",
        "MATYAN_FRONTIER_URL",
        "MATYAN_WS_BATCH_INTERVAL_MS",
        "MATYAN_WS_BATCH_SIZE",
        "MATYAN_WS_HEARTBEAT_INTERVAL",
        "MATYAN_WS_QUEUE_MAX_MEMORY_MB",
        "MATYAN_WS_RETRY_COUNT",
        "MATYAN_WS_VERBOSE",
    }
)
_FOREIGN = re.compile(
    # Our tests and make targets; what Kubernetes sets for services called so; Kafka's own scripts.
    r"MATYAN_(?:TEST|FUZZ)_.*"
    r"|\w+_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
    r"|KAFKA_(?:HOME|DEBUG|OPTS|\w+_OPTS|JMX_\w+|VERSION)"
)
