"""Settings: frozen values read from the environment and a `.env` file of the working folder.

Names and defaults are the reference services' (contract, section 3); what is new begins with MATYAN_.
Nothing is read at import: the composition root calls `load`. No engine and no rule looks into the environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from matyan.errors import ConfigurationError


class Secret:
    """A text that no repr, str, format or log shows; `reveal` gives it to the one who must have it.

    No dataclass: asdict and pretty printers would look into it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "(hidden)"


def _text(raw: str) -> str:
    return raw


def _flag(raw: str) -> bool:
    word = raw.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError("expected true or false")


def _whole(raw: str) -> int:
    try:
        return int(raw)
    except ValueError:
        raise ValueError("expected a whole number") from None


def _seconds(raw: str) -> float:
    try:
        number = float(raw)
    except ValueError:
        raise ValueError("expected a number of seconds") from None
    if not 0 <= number < float("inf"):
        raise ValueError("expected a number of seconds, 0 or more")
    return number


def _positive(raw: str) -> int:
    number = _whole(raw)
    if number <= 0:
        raise ValueError("expected a whole number above 0")
    return number


def _port(raw: str) -> int:
    number = _whole(raw)
    if not 0 <= number <= 65535:
        raise ValueError("expected a port, 0 to 65535")
    return number


def _words(raw: str) -> tuple[str, ...]:
    """A JSON array of strings, or a list with commas."""
    if raw.strip().startswith("["):
        try:
            words = json.loads(raw)
        except ValueError:
            words = None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError('expected a JSON array of strings such as ["https://ui.example"]')
        return tuple(words)
    return tuple(word.strip() for word in raw.split(",") if word.strip())


class _OneOf:
    def __init__(self, *words: str) -> None:
        self.words = words

    def __call__(self, raw: str) -> str:
        if raw not in self.words:
            raise ValueError(f"expected one of {', '.join(self.words)}")
        return raw


def _level(raw: str) -> str:
    return _OneOf("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")(raw.upper())


def _setting(
    default: Any,
    name: str,
    help: str,
    parse: Callable[[str], Any] = _text,
) -> Any:
    return field(default=default, metadata={"env": name, "help": help, "parse": parse})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, with its unit where it has one. The embedded mode reads no Kafka, FDB or S3 one."""

    # Kafka
    kafka_bootstrap_servers: str = _setting(
        "localhost:9092", "KAFKA_BOOTSTRAP_SERVERS", "Kafka's brokers, HOST:PORT with commas."
    )
    kafka_data_ingestion_topic: str = _setting(
        "data-ingestion", "KAFKA_DATA_INGESTION_TOPIC", "The topic of the clients' records."
    )
    kafka_control_events_topic: str = _setting(
        "control-events", "KAFKA_CONTROL_EVENTS_TOPIC", "The topic of the control events."
    )
    kafka_security_protocol: str = _setting(
        "", "KAFKA_SECURITY_PROTOCOL", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    kafka_sasl_mechanism: str = _setting(
        "", "KAFKA_SASL_MECHANISM", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."
    )
    kafka_sasl_username: str = _setting("", "KAFKA_SASL_USERNAME", "The user at the brokers.")
    kafka_sasl_password: Secret = _setting(
        Secret(""), "KAFKA_SASL_PASSWORD", "The user's password.", Secret
    )
    ingestion_group: str = _setting(
        "ingestion-workers",
        "MATYAN_INGESTION_GROUP",
        "The consumer group of the ingestion workers; one store each.",
    )
    control_group: str = _setting(
        "control-workers", "MATYAN_CONTROL_GROUP", "The consumer group of the control workers."
    )
    instance_id: str = _setting(
        "",
        "MATYAN_INSTANCE_ID",
        "Kafka's group.instance.id, of one worker: one that comes back soon gets its partitions without a rebalance.",
    )
    # FoundationDB
    fdb_cluster_file: str = _setting("fdb.cluster", "FDB_CLUSTER_FILE", "The cluster's file.")
    fdb_api_version: int = _setting(730, "FDB_API_VERSION", "The client's version.", _positive)
    # blobs
    blob_backend_type: str = _setting("s3", "BLOB_BACKEND_TYPE", "Where blobs are kept: s3.")
    s3_endpoint: str = _setting(
        "http://localhost:9000", "S3_ENDPOINT", "The S3 server, as this process reaches it."
    )
    s3_public_endpoint: str = _setting(
        "", "S3_PUBLIC_ENDPOINT", "The S3 server as clients reach it; empty: the same."
    )
    s3_access_key: str = _setting("rustfsadmin", "S3_ACCESS_KEY", "The access key's id.")
    s3_secret_key: Secret = _setting(
        Secret("rustfsadmin"), "S3_SECRET_KEY", "The secret key.", Secret
    )
    s3_bucket: str = _setting("matyan-artifacts", "S3_BUCKET", "The bucket of all blobs.")
    s3_region: str = _setting("us-east-1", "S3_REGION", "The bucket's region.")
    s3_presign_expiry: int = _setting(
        3600, "S3_PRESIGN_EXPIRY", "Seconds that a presigned URL is good for.", _positive
    )
    presign_blob_ref: str = _setting(
        "publish",
        "MATYAN_PRESIGN_BLOB_REF",
        "Who publishes the record of a blob: this process when it signs the upload, or the client.",
        _OneOf("publish", "client"),
    )
    blob_max_bytes: int = _setting(
        5 << 30, "MATYAN_BLOB_MAX_BYTES", "The largest blob in the embedded mode.", _positive
    )
    public_url: str = _setting(
        "",
        "MATYAN_PUBLIC_URL",
        "scheme://host[:port] as clients and browsers know this process; empty: as each request names it.",
    )
    # the services
    log_level: str = _setting(
        "INFO", "LOG_LEVEL", "DEBUG, INFO, WARNING, ERROR or CRITICAL.", _level
    )
    host: str = _setting("0.0.0.0", "HOST", "The address to listen on.")
    port: int = _setting(53801, "PORT", "The port to listen on; 0: any free one.", _port)
    metrics_enabled: bool = _setting(True, "METRICS_ENABLED", "Serve /metrics/.", _flag)
    metrics_port: int = _setting(
        9090,
        "METRICS_PORT",
        "Where a worker serves /metrics and /health; 0 or less: nowhere.",
        _whole,
    )
    cors_origins: tuple[str, ...] = _setting(
        (), "CORS_ORIGINS", "Origins that may call, a JSON array or a list with commas.", _words
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        "MATYAN_ALLOWED_HOSTS",
        "Hosts that a process which listens on loopback alone answers to as well, such as a notebook proxy's; * is any.",
        _words,
    )
    shutdown_flush_timeout: float = _setting(
        5.0, "SHUTDOWN_FLUSH_TIMEOUT", "Seconds that a drain may take after SIGTERM.", _seconds
    )
    environment: str = _setting(
        "development",
        "MATYAN_ENVIRONMENT",
        "In `production`, development credentials and localhost defaults are refused.",
    )
    queue_bytes: int = _setting(
        256 << 20,
        "MATYAN_QUEUE_BYTES",
        "Bytes that the process may hold between accepting a frame and its delivery.",
        _positive,
    )
    delivery_timeout_s: float = _setting(
        300.0,
        "MATYAN_DELIVERY_TIMEOUT_S",
        "Seconds that Kafka may be away before what waits for it is given up.",
        _seconds,
    )
    ws_deflate: bool = _setting(
        False,
        "MATYAN_WS_DEFLATE",
        "Accept permessage-deflate: a tenth of the bytes on a slow network, more CPU on both ends.",
        _flag,
    )
    # the workers
    ingest_max_txn_bytes: int = _setting(
        1_000_000, "INGEST_MAX_TXN_BYTES", "The most bytes that one transaction takes.", _positive
    )
    ingest_max_messages_per_txn: int = _setting(
        10_000,
        "INGEST_MAX_MESSAGES_PER_TXN",
        "The most records that one transaction takes.",
        _positive,
    )
    sequence_layout: str = _setting(
        "",
        "MATYAN_SEQUENCE_LAYOUT",
        "How points are stored; empty: the engine's default (packed on RocksDB, compatible on FoundationDB).",
        _OneOf("", "compatible", "packed"),
    )

    @property
    def rocks_layout(self) -> Literal["compatible", "packed"] | None:
        """The sequence layout of a store on RocksDB; None: what the store has, else packed."""
        return cast('Literal["compatible", "packed"]', self.sequence_layout) or None

    def refuse_development_values(self) -> None:
        """In MATYAN_ENVIRONMENT=production, refuses development credentials and localhost defaults.

        Raises:
            ConfigurationError: names the settings to change.
        """
        if self.environment != "production":
            return
        bad = [
            row.metadata["env"]
            for row in fields(self)
            if row.name in _DEVELOPMENT_ONLY and getattr(self, row.name) == row.default
        ]
        if bad:
            raise ConfigurationError(
                f"MATYAN_ENVIRONMENT=production, but {', '.join(bad)} still has its development "
                f"default; set {'it' if len(bad) == 1 else 'each of them'} and start again"
            )


def is_secret(row: Field[Any]) -> bool:
    """Whether this field of `Settings` is one that only its user may see."""
    return isinstance(row.default, Secret)


_DEVELOPMENT_ONLY = frozenset(
    {"kafka_bootstrap_servers", "s3_endpoint", "s3_access_key", "s3_secret_key"}
)


EMBEDDED_IGNORES = ("KAFKA_", "FDB_", "S3_", "BLOB_")
"""Beginnings of the names that the embedded mode does not read."""


def load(
    environment: Mapping[str, str] | None = None,
    *,
    ignore: tuple[str, ...] = (),
    **overrides: Any,
) -> Settings:
    """Settings from `environment` (default: os.environ over the `.env` file of the working folder).

    `ignore`: names that begin so keep their defaults. `overrides` are already parsed values, from command-line
    flags; None means not given.

    Raises:
        ConfigurationError: names the variable, its value and what was expected.
    """
    if environment is None:
        from dotenv import (
            dotenv_values,
        )  # 20 ms, which a command that asks `matyan up` need not pay

        dotenv = {name: raw for name, raw in dotenv_values(Path(".env")).items() if raw is not None}
        environment = {**dotenv, **os.environ}
    values: dict[str, Any] = {}
    for row in fields(Settings):
        name = row.metadata["env"]
        given = overrides.pop(row.name, None)
        if given is not None:
            values[row.name] = given
        elif name in environment and not name.startswith(ignore):
            raw = environment[name]
            try:
                values[row.name] = row.metadata["parse"](raw)
            except ValueError as error:
                shown = repr(Secret(raw) if is_secret(row) else raw)
                raise ConfigurationError(f"{name}={shown}: {error}") from None
    if overrides:
        raise TypeError(f"unknown settings {sorted(overrides)}")
    return Settings(**values)
