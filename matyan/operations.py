"""The operator's commands of a deployment: `matyan topics`, `offsets` and `doctor`.

They look at what the services need, and set it; they run no service and apply no record.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click
import trio

from matyan.broker.kafka_admin import (
    Place,
    commit_offsets,
    create_topics,
    describe_topic,
    known_topics,
    open_admin,
    read_place,
    topic_names,
)
from matyan.errors import MatyanError
from matyan.services import folder_of, kafka_check, load_settings
from matyan.settings import Settings, load

# --- topics --------------------------------------------------------------------------------------


@click.group()
def topics() -> None:
    """Make and check the topics in Kafka."""


@topics.command("create")
@click.option("--replication", type=click.IntRange(1), default=1, show_default=True)
def topics_create(replication: int) -> None:
    """Make the topics that are missing."""
    from matyan.broker.kafka import client_config

    settings = load()
    made = create_topics(open_admin(client_config(settings)), topic_names(settings), replication)
    for name in topic_names(settings):
        click.echo(f"{name}\t{'created' if name in made else 'was there'}")


@topics.command("check")
def topics_check() -> None:
    """Say which topics are missing; exit with 1 when one is."""
    from matyan.broker.kafka import client_config

    settings = load()
    known = known_topics(open_admin(client_config(settings)))
    for name in topic_names(settings):
        click.echo(f"{name}\t{'ok' if name in known else 'missing'}")
    if set(topic_names(settings)) - known:
        raise MatyanError("topics are missing: `matyan topics create` makes them")


# --- offsets -------------------------------------------------------------------------------------


@click.group()
def offsets() -> None:
    """Compare the stored offsets with Kafka's, and say where ingestion goes on."""


@offsets.command("show")
@click.option("--store", "store_", required=True, metavar="rocks:FOLDER")
def offsets_show(store_: str) -> None:
    """Print stored, committed and end offset and the lag of each partition; no worker may run."""
    click.echo("partition\tstored\tcommitted\tend\tlag")
    for number, stored, place in trio.run(_offsets, load(), folder_of(store_), None):
        behind = place.high - (place.low if stored is None else stored)
        click.echo(f"{number}\t{stored}\t{place.committed}\t{place.high}\t{behind}")


@offsets.command("reset")
@click.option("--store", "store_", required=True, metavar="rocks:FOLDER")
@click.option("--to", type=click.Choice(["start", "end", "stored", "committed"]), required=True)
@click.option("--partition", type=int, help="Only this one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def offsets_reset(store_: str, to: str, partition: int | None, yes: bool) -> None:
    """Set where ingestion goes on, in the store and in Kafka; no worker may run.

    Before an offset that was stored, records are applied twice; beyond it, they are skipped for good.
    """
    which = "every partition" if partition is None else f"partition {partition}"
    if not yes:
        click.confirm(f"Set {which} to its {to} offset?", abort=True, err=True)

    def choose(number: int, stored: int | None, place: Place) -> int | None:
        if partition is not None and number != partition:
            return None
        return {
            "start": place.low,
            "end": place.high,
            "stored": stored,
            "committed": place.committed,
        }[to]

    for number, stored, _ in trio.run(_offsets, load(), folder_of(store_), choose):
        click.echo(f"{number}\t{stored}")


async def _offsets(
    settings: Settings,
    folder: Path,
    choose: Callable[[int, int | None, Place], int | None] | None,
) -> list[tuple[int, int | None, Place]]:
    """(partition, stored offset, place) of each partition, after `choose` has set those that it names."""
    from matyan.broker.kafka import client_config
    from matyan.keys import Keys, pack_value, unpack_value
    from matyan.store.base import Transaction
    from matyan.store.rocks import open_rocks

    admin = open_admin(client_config(settings))
    topic, group = settings.kafka_data_ingestion_topic, "ingestion-workers"
    described = describe_topic(admin, topic)
    topic_id = str(described.topic_id)
    places = read_place(admin, group, topic, [row.id for row in described.partitions])
    store = open_rocks(folder)
    try:
        keys = Keys(store)

        def body(tr: Transaction) -> list[tuple[int, int | None, Place]]:
            rows = []
            for number, place in sorted(places.items()):
                key = keys.ingest(topic_id, number)
                packed = tr.get(key)
                stored = None if packed is None else int(unpack_value(packed))
                chosen = None if choose is None else choose(number, stored, place)
                if chosen is not None:
                    tr.set(key, pack_value(chosen))
                    stored = chosen
                rows.append((number, stored, place))
            return rows

        rows = await store.transact(body)
    finally:
        await store.aclose()
    if choose is not None:
        known = {number: stored for number, stored, _ in rows if stored is not None}
        commit_offsets(admin, group, topic, topic_id, known)
    return rows


# --- doctor --------------------------------------------------------------------------------------


@click.command()
@click.option("--wait", is_flag=True, help="Wait until all is well, for an init container.")
@click.option(
    "--timeout", type=click.FloatRange(0), default=300.0, show_default=True, help="Seconds."
)
def doctor(wait: bool, timeout: float) -> None:
    """Check the settings, the broker and its topics, and the blobs' settings; say how to mend what is wrong."""
    settings = load_settings()
    end = time.monotonic() + timeout
    while True:
        found = _examine(settings)
        if not wait or time.monotonic() >= end or all(why is None for why in found.values()):
            break
        time.sleep(1)
    for name, why in found.items():
        click.echo(f"{name}\t{'ok' if why is None else why}")
    if any(why is not None for why in found.values()):
        raise MatyanError("not all is well")


def _examine(settings: Settings) -> dict[str, str | None]:
    """What was examined, and what is wrong with it or None."""
    from matyan.blobs.s3 import S3Blobs

    kafka = kafka_check(settings, list(topic_names(settings)))
    examined: dict[str, Callable[[], object]] = {
        "kafka": kafka,
        "blobs": lambda: S3Blobs(settings),
    }
    found: dict[str, str | None] = {"settings": None}
    for name, examine in examined.items():
        try:
            examine()
        except MatyanError as error:
            found[name] = str(error)
        else:
            found[name] = None
    return found
