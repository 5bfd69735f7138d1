"""Flags of settings: made from the fields of `Settings`, each naming its variable; secrets have none."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from matyan.cli.flags import place_options, settings_flags, store_option
from matyan.cli.frontier import frontier
from matyan.cli.workers import control_worker, ingest_worker
from matyan.settings import Settings, is_secret
from matyan.store.open import ClusterName, FolderName, StoreName
from tests.tracker import matyan

SECRETS = {row.name for row in fields(Settings) if is_secret(row)}


def run(names: tuple[str, ...], *words: str, **environment: str) -> tuple[Result, Settings | None]:
    seen: list[Settings] = []

    @click.command()
    @settings_flags(*names)
    def command(settings: Settings) -> None:
        """Help."""
        seen.append(settings)

    result = CliRunner(env=environment).invoke(command, words)
    return result, seen[0] if seen else None


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("port", ("--port", "8080"), 8080),
        ("host", ("--host", "h"), "h"),
        ("shutdown_flush_timeout", ("--shutdown-flush-timeout", "2.5"), 2.5),
        ("cors_origins", ("--cors-origins", "https://a,https://b"), ("https://a", "https://b")),
        ("ws_deflate", ("--ws-deflate",), True),
        ("metrics_enabled", ("--no-metrics-enabled",), False),
        ("log_level", ("--log-level", "debug"), "DEBUG"),
        ("presign_blob_ref", ("--presign-blob-ref", "client"), "client"),
        ("queue_bytes", ("--queue-bytes", "1000"), 1000),
        ("kafka_ssl_cafile", ("--kafka-ssl-cafile", "ca.pem"), "ca.pem"),
        ("kafka_ssl_cafile", ("--kafka-ca-file", "ca.pem"), "ca.pem"),
    ],
)
def test_a_flag_is_read_as_its_variable(name: str, words: tuple[str, ...], value: Any) -> None:
    """The same text as a flag and as a variable gives the same setting, and the flag wins."""
    _, settings = run((name,), *words)
    assert getattr(settings, name) == value
    variable = next(row.metadata["env"] for row in fields(Settings) if row.name == name)
    _, settings = run((name,), **{variable: str(words[-1]) if len(words) > 1 else str(value)})
    assert getattr(settings, name) == value
    _, settings = run((name,), *words, **{variable: "nonsense"})
    assert getattr(settings, name) == value


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--port", "http"), "expected a whole number"),
        (("--port", "70000"), "expected a port"),
        (("--presign-blob-ref", "nobody"), "expected one of publish, client"),
    ],
)
def test_a_bad_flag_is_named(words: tuple[str, ...], expected: str) -> None:
    """Exit code 2, the flag's name, and what was expected."""
    result, settings = run(("port", "presign_blob_ref"), *words)
    assert (result.exit_code, settings) == (2, None)
    assert words[0] in result.stderr
    assert expected in result.stderr


@pytest.mark.parametrize("command", [frontier, ingest_worker, control_worker])
def test_help_names_variable_and_default_and_gives_secrets_no_flag(command: click.Command) -> None:
    """Each flag of a setting names its variable and default; for a secret the variable alone is named."""
    text = " ".join(CliRunner().invoke(command, ["--help"]).stdout.split())
    options = {option for param in command.params for option in param.opts}
    assert "--kafka-sasl-password" not in options
    assert "everybody: KAFKA_SASL_PASSWORD" in text
    assert "holds the secret: KAFKA_SASL_PASSWORD_FILE" in text
    assert "[KAFKA_SASL_USERNAME or a file in KAFKA_SASL_USERNAME_FILE]" in text
    by_name = {row.name: row for row in fields(Settings)}
    flagged = [by_name[param.name] for param in command.params if param.name in by_name]
    assert not SECRETS & {row.name for row in flagged}
    for row in flagged:
        assert f"[{row.metadata['env']}" in text
        assert row.metadata["help"] in text
    assert "[KAFKA_BOOTSTRAP_SERVERS; default: localhost:9092]" in text


def stored(*words: str) -> tuple[Result, list[StoreName]]:
    seen: list[StoreName] = []

    @click.command()
    @store_option("The store.")
    def command(store: StoreName) -> None:
        seen.append(store)

    return CliRunner().invoke(command, ["--store", *words]), seen


@pytest.mark.parametrize(
    ("value", "store"),
    [
        ("rocks:data", FolderName(Path("data"))),
        ("rocks:/a b/c", FolderName(Path("/a b/c"))),
        ("rocks:fdb:x", FolderName(Path("fdb:x"))),
        ("fdb:", ClusterName("")),
        ("fdb:fdb.cluster", ClusterName("fdb.cluster")),
        ("fdb:/etc/foundationdb/fdb.cluster", ClusterName("/etc/foundationdb/fdb.cluster")),
        ("fdb:rocks:x", ClusterName("rocks:x")),
    ],
)
def test_a_store_is_named_by_its_engine(value: str, store: StoreName) -> None:
    """And its name is how it is told again, such as in a sentence that says what to call."""
    result, seen = stored(value)
    assert (result.exit_code, seen, str(store)) == (0, [store], value)


@pytest.mark.parametrize(
    "value",
    ["", "rocks:", "rocks", "fdb", "FDB:", " fdb:", "/data", "file:x", "mem:", "s3:x", ":x"],
)
def test_a_store_that_is_not_one_is_refused(value: str) -> None:
    """With both forms that a store's name has."""
    result, seen = stored(value)
    assert (result.exit_code, seen) == (2, [])
    assert f"{value!r}: expected rocks:FOLDER or fdb:[CLUSTER_FILE]." in result.stderr


def placed(*words: str, **environment: str) -> tuple[Result, list[StoreName]]:
    seen: list[StoreName] = []

    @click.command()
    @place_options
    def command(store: StoreName) -> None:
        seen.append(store)

    return CliRunner(env=environment).invoke(command, words), seen


@pytest.mark.parametrize(
    ("words", "environment", "store"),
    [
        ((), {}, "rocks:.matyan"),
        ((), {"MATYAN_DATA": "runs"}, "rocks:runs"),
        (("--data", "here"), {"MATYAN_DATA": "runs"}, "rocks:here"),
        (("--data", "./fdb:x"), {}, "rocks:fdb:x"),
        (("--store", "rocks:here"), {}, "rocks:here"),
        (("--store", "fdb:"), {}, "fdb:"),
        # An option wins over a variable.
        (("--store", "fdb:x"), {"MATYAN_DATA": "runs"}, "fdb:x"),
    ],
)
def test_a_place_is_a_folder_or_a_store(
    words: tuple[str, ...], environment: dict[str, str], store: str
) -> None:
    result, seen = placed(*words, **environment)
    assert (result.exit_code, list(map(str, seen))) == (0, [store])


@pytest.mark.parametrize(
    ("words", "environment", "sentence"),
    [
        (("--data", ".matyan", "--store", "rocks:.matyan"), {}, "Name one place, with --data or"),
        (("--store", "fdb:", "--data", "x"), {}, "Name one place, with --data or with --store"),
        (("--data", "fdb:"), {}, "'fdb:' is a store's name: give it with --store"),
        (("--data", "rocks:x"), {}, "'rocks:x' is a store's name: give it with --store"),
        ((), {"MATYAN_DATA": "fdb:/x"}, "'fdb:/x' is a store's name: give it with --store"),
    ],
)
def test_two_places_or_the_wrong_option_is_a_sentence(
    words: tuple[str, ...], environment: dict[str, str], sentence: str
) -> None:
    result, seen = placed(*words, **environment)
    assert (result.exit_code, seen) == (2, [])
    assert sentence in result.stderr


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "--data", LONG),
        ("up", "--port", "0", "--data", LONG),
        ("runs", "--data", "\udcff"),
        ("up", "--port", "0", "--data", "\udcff"),
        ("export", "run", "--output", LONG),
        ("artifacts", "run", "--get", "a", "--output", LONG),
        ("artifacts", "run", "--all", LONG),
        ("offsets", "show", "--store", f"rocks:{LONG}"),
        ("doctor", "--store", "rocks:\udcff"),
        ("doctor", "--store", "fdb:\udcff"),
        ("runs", "--store", f"fdb:{LONG}"),
    ],
)
def test_a_path_that_cannot_be_is_a_sentence(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Of every option that takes one, before anything is done."""
    done = matyan(*arguments, check=2, cwd=tmp_path)
    assert done.stderr.splitlines()[-1].startswith("Error: Invalid value for '--")
    assert [*tmp_path.iterdir()] == []
