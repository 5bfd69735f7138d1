"""Options of the commands that are settings: made from the fields of `Settings`, so that names, types and defaults
stand once.

No command and no engine here. A flag that is given wins over its variable.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, cast

import click

from matyan.kafka_properties import Properties
from matyan.settings import Settings, file_variable, is_secret, load
from matyan.store.open import SYNTAX, FolderName, StoreName, is_named, named

KAFKA = (
    "kafka_bootstrap_servers",
    "kafka_data_ingestion_topic",
    "kafka_control_events_topic",
    "kafka_security_protocol",
    "kafka_sasl_mechanism",
    "kafka_sasl_username",
    "kafka_sasl_password",
    "kafka_ssl_cafile",
    "kafka_ssl_certfile",
    "kafka_ssl_keyfile",
    "kafka_ssl_key_password",
    "kafka_config",
)
FDB = ("fdb_cluster_file", "fdb_api_version")
S3 = (
    "blob_backend_type",
    "s3_endpoint",
    "s3_public_endpoint",
    "s3_access_key",
    "s3_secret_key",
    "s3_bucket",
    "s3_region",
    "s3_addressing",
    "s3_ca_file",
    "s3_sse",
    "s3_sse_kms_key_id",
    "s3_presign_expiry",
)
TLS = ("tls_cert_file", "tls_key_file", "tls_client_ca_file")
UI = ("ui_base_path", "ui_api_host_base", "ui_api_base_path")
SERVICE = ("log_level", "environment", "shutdown_flush_timeout")

_FIELDS: dict[str, Field[Any]] = {row.name: row for row in fields(Settings)}
_METAVARS = {int: "N", float: "SECONDS", tuple: "LIST", str: "TEXT", Properties: "FILE"}


def settings_flags(
    *names: str,
    ignore: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a command an option for each of these fields of `Settings`, and calls it with `settings`.

    `ignore`: the command uses every setting but those whose variables begin so, whether it has an option for it or not;
    `also`: which of those it reads that have no option, for the table of the settings (`settings_read` of the command).
    `defaults`: of fields for which the command has others.

    A secret gets no option, since `ps` shows command lines to everybody: --help says which variable to set.
    """
    secrets = [name for name in names if is_secret(_FIELDS[name])]
    own = dict(defaults or {})
    options = [_option(_FIELDS[name], own.get(name)) for name in names if name not in secrets]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(*arguments: Any, **given: Any) -> Any:
            overrides = {name: given.pop(name) for name in names if name not in secrets}
            used = None if ignore else names
            settings = load(ignore=ignore, used=used, defaults=own, **overrides)
            return command(*arguments, settings=settings, **given)

        call.__doc__ = (command.__doc__ or "") + _about(secrets)
        call.settings_read = (*names, *also)  # type: ignore[attr-defined]  # a function has it, and the docs read it there
        for option in reversed(options):
            call = option(call)
        return call

    return decorate


def _about(secrets: list[str]) -> str:
    about = (
        "\n\n    Each flag of a setting wins over its variable, which is named in its help and may also stand in a .env "
        "file of the working folder."
    )
    if secrets:
        variables = ", ".join(_FIELDS[name].metadata["env"] for name in secrets)
        files = ", ".join(filter(None, (file_variable(_FIELDS[name]) for name in secrets)))
        about += (
            f" A variable only, because `ps` shows command lines to everybody: {variables}; or the path of a file that "
            f"holds the secret: {files}."
        )
    return about


def setting_option(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option of one field, for a command that makes its settings itself; None where it is not given."""
    return _option(_FIELDS[name])


def _option(row: Field[Any], default: Any = None) -> Callable[[Any], Any]:
    """default: the command's own; None: the field's."""
    name = f"--{row.name.replace('_', '-')}"
    help_ = f"{row.metadata['help']} {_variable(row, row.default if default is None else default)}"
    if isinstance(row.default, bool):
        return click.option(f"{name}/--no-{name[2:]}", row.name, default=None, help=help_)
    parse = row.metadata["parse"]

    def convert(value: str) -> Any:
        """As the variable's value is read."""
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(f"{value!r}: {error}.") from error

    words = getattr(parse, "words", ())
    metavar = "|".join(word for word in words if word) or _METAVARS[type(row.default)]
    names = [name]
    if former := row.metadata["former"]:
        names.append(f"--{former.removeprefix('MATYAN_').lower().replace('_', '-')}")
    return click.option(*names, row.name, type=convert, metavar=metavar, help=help_)


def _variable(row: Field[Any], default: Any) -> str:
    if isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, float):
        default = f"{default:g}"
    names = " or a file in ".join(filter(None, (row.metadata["env"], file_variable(row))))
    return f"[{names}{f'; default: {default}' if default not in ('', (), Properties()) else ''}]"


class CheckedPath(click.Path):
    """A path that can be looked at, whatever stands there; `inside`: and into. `utf8`: for an engine, which knows UTF-8 alone."""

    def __init__(self, *, inside: bool = False, utf8: bool = False, **kwargs: Any) -> None:
        super().__init__(path_type=Path, **kwargs)
        self._inside = inside
        self._utf8 = utf8

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-" and self.allow_dash:
            return None  # a standard stream; a file of that name is ./-
        path = cast("Path", super().convert(value, param, ctx))
        try:
            os.stat(os.path.join(path, ".") if self._inside else path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self.fail(f"{str(path)!r}: {error.strerror}.", param, ctx)
        if self._utf8:
            try:
                str(path).encode()
            except UnicodeEncodeError:
                self.fail(f"{str(path)!r}: expected a path in UTF-8.", param, ctx)
        return path


# --- stores --------------------------------------------------------------------------------------


def store_name(store: StoreName) -> str:
    """What `--store` takes, for a shell."""
    return shlex.quote(str(store))


def _store(value: str) -> StoreName:
    try:
        store = named(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}.") from error
    if isinstance(store, FolderName):
        CheckedPath(inside=True, utf8=True).convert(store.folder, None, None)
    else:
        CheckedPath(utf8=True).convert(store.file, None, None)
    return store


_METAVAR = SYNTAX.replace(" or ", "|")


def store_option(help: str, *, required: bool = True) -> Callable[[Any], Any]:
    """--store; the command gets `store`."""
    return click.option("--store", type=_store, metavar=_METAVAR, required=required, help=help)


class _DataFolder(CheckedPath):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and is_named(value):
            self.fail(
                f"{value!r} is a store's name: give it with --store, or write ./{value} for a folder that is called so.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


data_option = click.option(
    "--data",
    type=_DataFolder(inside=True, utf8=True),
    default=Path(".matyan"),
    show_default=True,
    envvar="MATYAN_DATA",
    help="The data folder.",
)


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--data and --store, of which one says where the runs are; the command gets `store`."""
    return _placed(
        store_option(
            "The store in place of --data: a data folder's, or that of a FoundationDB cluster, by its cluster file "
            "(FDB_CLUSTER_FILE).",
            required=False,
        )
    )(command)


def _placed(
    option: Callable[[Any], Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(*arguments: Any, data: Path, store: PlaceName | None, **given: Any) -> Any:
            source = click.get_current_context().get_parameter_source("data")
            if store is None:
                store = FolderName(data)
            elif source is click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(
                    "Name one place, with --data or with --store: --data FOLDER is --store rocks:FOLDER."
                )
            return command(*arguments, store=store, **given)

        return cast("Callable[..., Any]", data_option(option(call)))

    return decorate


@dataclass(frozen=True, slots=True)
class ServerName:
    """A process that serves the read API, by its URL, with a token in it where one is wanted."""

    url: str

    def __str__(self) -> str:
        return self.url


PlaceName = StoreName | ServerName


def _place(value: str) -> PlaceName:
    if value.lower().startswith(("http://", "https://")):
        return ServerName(value)
    if not is_named(value):
        raise click.BadParameter(f"{value!r}: expected {SYNTAX} or http://HOST:PORT.")
    return _store(value)


def read_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `place_options`; --store takes a URL, too."""
    return _placed(
        click.option(
            "--store",
            type=_place,
            metavar=f"{_METAVAR}|URL",
            help="The store in place of --data: a data folder's, or that of a FoundationDB cluster, by its cluster file "
            "(FDB_CLUSTER_FILE); or the URL of a process that serves the read API, http://[NAME:TOKEN@]HOST:PORT.",
        )
    )(command)


_AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|m|h|d|w)")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def age(value: str) -> float:
    """Seconds from "90s", "30m", "1h", "2d" or "1w", in either case but for M."""
    if value.rstrip().endswith("M") and _AGE.fullmatch(value.strip().lower()):
        # Elsewhere M is a month: taken for minutes it would end runs that go on.
        raise click.BadParameter(f"{value!r}: minutes or months? Write 30min or 30d.")
    found = _AGE.fullmatch(value.strip().lower())
    if found is None:
        raise click.BadParameter(f"{value!r}: expected an age such as 90s, 30m, 1h, 2d or 1w.")
    return float(found[1]) * _UNITS[found[2]]


_FILTERS = (
    click.option("--experiment", metavar="NAME", help="Only runs of this experiment."),
    click.option("--tag", metavar="NAME", help="Only runs with this tag."),
    click.option("--active/--finished", default=None, help="Only runs that go on, or have ended."),
    click.option(
        "--archived/--not-archived", default=None, help="Only archived runs, or the others."
    ),
    click.option(
        "--stale",
        type=age,
        metavar="AGE",
        help="Only active runs that were not heard of for so long: 90s, 30m, 1h, 2d, 1w.",
    ),
)


def run_filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose runs; the command gets `filters`, those that were given, as `Reader.runs` takes them."""

    @functools.wraps(command)
    def call(*arguments: Any, stale: float | None, **given: Any) -> Any:
        names = ("experiment", "tag", "active", "archived")
        filters = {name: given.pop(name) for name in names}
        filters["heard_before"] = None if stale is None else time.time() - stale
        chosen = {name: value for name, value in filters.items() if value is not None}
        return command(*arguments, filters=chosen, **given)

    for option in reversed(_FILTERS):
        call = option(call)
    return call


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
