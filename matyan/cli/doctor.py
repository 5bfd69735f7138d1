"""`matyan doctor`: is everything there that the services need, and how is what is wrong mended.

Each check asks the real thing, changes nothing that stays, and answers in one sentence. What is wrong with topics is
said by `broker/kafka/topics.py`, with blobs by `blobs/s3.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import trio

from matyan.cli import views
from matyan.cli.flags import (
    FDB,
    KAFKA,
    S3,
    TLS,
    as_json_option,
    settings_flags,
    store_name,
    store_option,
)
from matyan.errors import ConfigurationError, FolderInUse, MatyanError, NoStore, Unavailable
from matyan.service import terminal
from matyan.settings import Settings, read_environment, unknown_names
from matyan.store.open import ClusterName, FolderName, StoreName

_CHECK_S = 20.0
"""The longest that one check is waited for."""
_LEAST_S = 5.0
"""How long each check may take in a round that begins right before the deadline: the clock must not decide the verdict."""
_AGAIN_S = 1.0
_SKEW_S = 60.0
"""Clocks that are kept by NTP differ by far less, and S3 refuses signatures at 15 minutes."""


SERVICES = ("frontier", "ingest-worker", "control-worker", "api")
"""Those whose rights `broker/kafka/rights.py` knows."""
_WITHOUT_S3 = {"ingest-worker"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    ok: bool
    text: str
    """What is there, in a few words; or in sentences what is wrong and how to mend it."""


@click.command()
@click.option("--wait", is_flag=True, help="Ask again until all is well, for an init container.")
@click.option(
    "--timeout",
    type=click.FloatRange(0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long --wait waits.",
)
@store_option("Check this store, too.", required=False)
@click.option(
    "--service",
    "services",
    type=click.Choice(SERVICES),
    multiple=True,
    help="Check what this service needs alone: the rights in Kafka of its user, and blobs where it has to do with them; several times for several. By default what all need.",
)
@as_json_option
@settings_flags(
    *KAFKA,
    *FDB,
    *S3,
    *TLS,
    "kafka_compression",
    "ingestion_group",
    "control_group",
    "sequence_layout",
    "environment",
)
def doctor(
    settings: Settings,
    wait: bool,
    timeout: float,
    store: StoreName | None,
    services: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check what the services need, and say how to mend what is wrong; exit with 1 when something is.

    Checks the settings, the broker, the topics, where Kafka knows users this one's rights (what is missing comes with the
    commands that give it), the store (with --store), the blobs (a probe object is put by a presigned URL and deleted), this machine's clock
    (against the S3 server's) and the listener's certificate, where it has one.

    With --wait, progress goes to standard error; it ends with 0 as soon as all is well, with 1 at the timeout, and at
    once when a setting is wrong, since that does not mend itself.

    \b
      matyan doctor --store rocks:/var/lib/matyan
      matyan doctor --wait --timeout 120 && matyan frontier
      matyan doctor --service frontier
      matyan doctor --json | jq -r '.[] | select(.ok | not) | .text'
    """
    found = trio.run(
        _examine_until_well, settings, store, services or SERVICES, timeout if wait else None
    )
    if as_json:
        views.as_json([{"check": one.check, "ok": one.ok, "text": one.text} for one in found])
    else:
        views.table(
            ("check", "verdict", "finding"),
            ((one.check, "ok" if one.ok else "wrong", one.text) for one in found),
        )
    wrong = [one.check for one in found if not one.ok]
    if wrong:
        raise MatyanError(f"Not all is well: mend {', '.join(wrong)}.")


async def _examine_until_well(
    settings: Settings,
    store: StoreName | None,
    services: Sequence[str],
    wait_s: float | None,
) -> list[Finding]:
    """Once when `wait_s` is None; else again and again, with a line for each new reason to wait."""
    deadline = trio.current_time() + (_CHECK_S if wait_s is None else wait_s)
    told = ""
    while True:
        found = await examine(settings, store, deadline, services)
        wrong = [one for one in found if not one.ok]
        if (
            wait_s is None
            or not wrong
            or wrong[0].check == "settings"
            or trio.current_time() + _AGAIN_S >= deadline
        ):
            return found
        reasons = " ".join(f"{one.check}: {one.text}" for one in wrong)
        if reasons != told:
            terminal.note(f"Waits for {reasons}")
            told = reasons
        await trio.sleep(_AGAIN_S)


async def examine(
    settings: Settings,
    store: StoreName | None,
    deadline: float = float("inf"),
    services: Sequence[str] = SERVICES,
) -> list[Finding]:
    """All checks side by side; `deadline`: the trio time at which it is time to end."""
    with_s3 = not _WITHOUT_S3.issuperset(services)
    checks: dict[str, Callable[[], Awaitable[str]]] = {
        "settings": partial(_check_settings, settings, with_s3=with_s3),
        "broker": partial(_check_broker, settings),
        "topics": partial(_check_topics, settings),
    }
    if with_s3:
        checks["blobs"] = partial(_check_blobs, settings)
        checks["clock"] = partial(_check_clock, settings)
    if settings.kafka_security_protocol not in ("", "PLAINTEXT"):  # else Kafka knows no user
        checks["rights"] = partial(_check_rights, settings, services)
    if settings.tls_cert_file:
        checks["certificate"] = partial(_check_certificate, settings)
    if store is not None:
        checks["store"] = partial(_check_store, settings, store)
    found: dict[str, Finding] = {}

    async def ask(name: str) -> None:
        seconds = max(_LEAST_S, min(_CHECK_S, deadline - trio.current_time()))
        found[name] = Finding(name, False, f"No answer came within {seconds:.0f} s.")
        with trio.move_on_after(seconds):
            try:
                found[name] = Finding(name, True, await checks[name]())
            except MatyanError as error:
                found[name] = Finding(name, False, str(error))

    async with trio.open_nursery() as nursery:
        for name in checks:
            nursery.start_soon(ask, name)
    return [found[name] for name in checks]


async def _check_settings(settings: Settings, *, with_s3: bool) -> str:
    from matyan.broker.kafka.client import client_config

    settings.refuse_development_values((*KAFKA, *S3) if with_s3 else KAFKA)
    client_config(settings)
    if with_s3:
        from matyan.blobs.s3 import S3Blobs

        S3Blobs(settings)
    return "; ".join(
        [
            f"fit for MATYAN_ENVIRONMENT={settings.environment}",
            _about_compression(settings.kafka_compression),
            *unknown_names(read_environment()),
        ]
    )


def _about_compression(compression: str) -> str:
    """Who can read records that are compressed so, and when another way is better."""
    from matyan.broker.kafka.client import READ_BY_ALL

    if compression in READ_BY_ALL:
        return (
            f"records are compressed by MATYAN_KAFKA_COMPRESSION={compression}, which every reader knows; where no worker of "
            "the reference's reads them, lz4 (or zstd, where the network or the brokers' disks are the limit) is better"
        )
    return (
        f"records are compressed by MATYAN_KAFKA_COMPRESSION={compression}: a worker of the reference's ends at the first, "
        "unless the package cramjam is installed beside it"
    )


async def _check_broker(settings: Settings) -> str:
    from matyan.broker.kafka.admin import cluster, open_admin
    from matyan.broker.kafka.client import client_config

    admin = open_admin(client_config(settings))
    try:
        found = await trio.to_thread.run_sync(cluster, admin, abandon_on_cancel=True)
    except Unavailable as error:
        raise Unavailable(
            f"{error} Is KAFKA_BOOTSTRAP_SERVERS={settings.kafka_bootstrap_servers} right, and may this machine "
            "connect to it (KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_…)?"
        ) from error
    many = "1 broker" if len(found.brokers) == 1 else f"{len(found.brokers)} brokers"
    return f"{many} at {settings.kafka_bootstrap_servers}"


async def _check_topics(settings: Settings) -> str:
    from matyan.broker.kafka.admin import open_admin
    from matyan.broker.kafka.client import client_config
    from matyan.broker.kafka.topics import inspect_topics, topic_names, troubles

    admin = open_admin(client_config(settings))
    names = [*topic_names(settings)]
    topics = await trio.to_thread.run_sync(inspect_topics, admin, names, abandon_on_cancel=True)
    if found := troubles(topics):
        raise Unavailable(" ".join(found))
    advised = any(topic.advice() for topic in topics)
    said = ", ".join(names) + ("; `matyan topics check` has advice" if advised else "")
    if await trio.to_thread.run_sync(_check_group, settings, abandon_on_cancel=True):
        return said
    return f"{said}; the consumer group {settings.ingestion_group} cannot be seen by this user"


async def _check_rights(settings: Settings, services: Sequence[str]) -> str:
    """What `services` do in Kafka, which may have a user each."""
    from matyan.broker.kafka.admin import open_admin
    from matyan.broker.kafka.client import client_config
    from matyan.broker.kafka.rights import commands, missing_rights, principal, rights_of

    config = client_config(settings)
    of = rights_of(settings)
    rights = [right for service in services for right in of[service]]
    missing = await trio.to_thread.run_sync(
        missing_rights,
        open_admin(config),
        config,
        rights,
        settings.kafka_data_ingestion_topic,
        abandon_on_cancel=True,
    )
    use = f"{' and '.join(services)} {'needs' if len(services) == 1 else 'need'}"
    if not missing:
        return f"this user may do what {use}"
    hint = ""
    if "PRINCIPAL" in principal(settings):
        hint = ", where PRINCIPAL is whom the brokers take this client for"
    raise Unavailable(
        f"This user may not {', '.join(map(str, missing))}, which {use} (--service says whose rights to look at). "
        f"Whoever may alter ACLs gives it with {', '.join(f'`{line}`' for line in commands(settings, missing))}{hint}; where "
        "an ACL denies it, that has to go, too."
    )


def _check_group(settings: Settings) -> bool:
    """Whether the workers' group can be looked at, which a frontier's user need not be able to.

    Raises:
        Unavailable: partitions of it stand still.
    """
    from matyan.broker.kafka.start import FedStore
    from matyan.cli.group_offsets import GroupOffsets

    kafka = GroupOffsets(settings, patience_s=0)
    try:
        rows = kafka.committed()
    except Unavailable:
        return False
    if found := kafka.conflicts(FedStore(settings.ingestion_group), rows):
        raise Unavailable(" ".join(found))
    return True


async def _check_store(settings: Settings, name: StoreName) -> str:
    from matyan.broker.kafka.start import FedStore
    from matyan.cli.group_offsets import GroupOffsets
    from matyan.keys import Keys
    from matyan.rules.identity import known_store_id
    from matyan.rules.sequences import find_layout
    from matyan.store.base import Snapshot, Store
    from matyan.store.open import open_cluster_store, open_store

    where = name.folder if isinstance(name, FolderName) else name
    versions = ""
    try:
        store: Store
        if isinstance(name, ClusterName):
            store = cluster = await open_cluster_store(name, settings, create=False)
            versions = f"; {await cluster.versions()}"
        else:
            store = await open_store(name, settings, create=False)
    except FolderInUse as error:
        return f"{where} is held by {error.holder}"
    except NoStore:
        if isinstance(name, FolderName):
            return _check_place(name.folder)
        return f"the cluster answers and has none yet; it is made in {name} at the first start"
    try:
        keys = Keys(store)

        def check(snap: Snapshot) -> str:
            if snap.get(keys.layout()) is None:
                return "no layout yet"
            return f"{find_layout(snap, keys, settings.layout, store.default_layout)} layout"

        text = f"{where} opens, {await store.read(check)}{versions}"
        id = await store.read(lambda snap: known_store_id(snap, keys))
        fed_store = FedStore(settings.ingestion_group, id, store_name(name))
    finally:
        await store.aclose()
    try:
        kafka = await trio.to_thread.run_sync(GroupOffsets, settings, 0.0, abandon_on_cancel=True)
        rows = await kafka.stored(name)
    except Unavailable:
        return text  # the other checks say why nothing can be compared
    if found := kafka.conflicts(fed_store, rows):
        raise Unavailable(" ".join(found))
    return text


def _check_place(folder: Path) -> str:
    """A store that is made at the worker's first start."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"No store can be made in {folder}, since {place} is not a folder that this user may write: mend that, "
            "or name another folder with --store."
        )
    return f"none yet; it is made in {folder} at the first start"


async def _check_certificate(settings: Settings) -> str:
    from matyan.service.certificates import files_of, load

    files = files_of(settings)
    assert files is not None
    loaded = load(files)
    trouble = loaded.trouble()
    if not loaded.is_good():
        raise ConfigurationError(str(trouble))
    asks = f"; clients must show one signed by {files.client_ca}" if files.client_ca else ""
    return (
        trouble
        or f"{files.certificate} and its key belong together, good until {loaded.until}{asks}"
    )


async def _check_blobs(settings: Settings) -> str:
    from matyan.blobs.s3 import S3Blobs

    blobs = S3Blobs(settings)
    await blobs.check()
    text = f"a probe went into {settings.s3_bucket} at {settings.s3_endpoint} and out again, {blobs.credentials.about()}"
    if settings.s3_sse:
        text += f", encrypted with {settings.s3_sse}"
    if settings.s3_public_endpoint:
        text += f"; clients use {settings.s3_public_endpoint}, which is not tried from here"
    return text


async def _check_clock(settings: Settings) -> str:
    """Kafka tells no time; S3 does in each answer, and is the one that refuses a clock that is wrong."""
    from matyan.blobs.s3 import S3Blobs

    blobs = S3Blobs(settings)
    began = time.time()
    theirs = await blobs.server_time()
    # Their time is cut to the second, somewhere within the call.
    ahead = (began + time.time()) / 2 - (theirs + 0.5)
    side = "ahead of" if ahead > 0 else "behind"
    skew = f"{abs(ahead):.0f} s {side} the S3 server at {settings.s3_endpoint} (its Date header)"
    if abs(ahead) > _SKEW_S:
        raise Unavailable(
            f"This machine is {skew}: keep both clocks by NTP; S3 refuses signatures that are 15 minutes off, and "
            "records carry this machine's time."
        )
    return skew
