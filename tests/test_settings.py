"""Settings: read from the environment, checked with a sentence that names the variable."""

import copy
import dataclasses
import json
import logging
import traceback
from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from matyan import settings
from matyan.errors import ConfigurationError


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


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("PORT", "http", "whole number"),
        ("METRICS_ENABLED", "perhaps", "true or false"),
        ("MATYAN_QUEUE_BYTES", "-1", "above 0"),
        ("SHUTDOWN_FLUSH_TIMEOUT", "nan", "seconds"),
        ("CORS_ORIGINS", "[1]", "JSON array"),
        ("MATYAN_SEQUENCE_LAYOUT", "tall", "compatible, packed"),
        ("LOG_LEVEL", "LOUD", "DEBUG"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, raw: str, expected: str) -> None:
    """The error says which variable, which value and what was expected."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        settings.load({name: raw})
    assert raw in str(caught.value)
    assert expected in str(caught.value)


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


def test_production_refuses_development_values() -> None:
    """Every setting that still has its development default is named."""
    loaded = settings.load(
        {"MATYAN_ENVIRONMENT": "production", "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}
    )
    with pytest.raises(ConfigurationError, match="S3_ACCESS_KEY") as caught:
        loaded.refuse_development_values()
    assert "KAFKA_BOOTSTRAP_SERVERS" not in str(caught.value)
    settings.load({}).refuse_development_values()


def test_what_the_embedded_mode_ignores_is_not_even_parsed() -> None:
    """A Kafka, FDB or S3 setting that is wrong does not matter there."""
    wrong = {"FDB_API_VERSION": "x", "S3_PRESIGN_EXPIRY": "x", "LOG_LEVEL": "DEBUG"}
    loaded = settings.load(wrong, ignore=settings.EMBEDDED_IGNORES)
    assert (loaded.fdb_api_version, loaded.log_level) == (730, "DEBUG")


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
    assert loaded.s3_secret_key == settings.Secret("hush-s3")
    assert not settings.load({}).kafka_sasl_password
