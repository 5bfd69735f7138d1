"""`matyan offsets`: a group's stored and committed offsets side by side, and setting them.

They ask and tell; what stands where, and how it is set, is `group_offsets.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import click
import trio

from matyan.cli import views
from matyan.cli.flags import FDB, KAFKA, as_json_option, settings_flags, store_option, yes_option
from matyan.cli.group_offsets import GroupOffsets, PartitionOffsets
from matyan.errors import ConfigurationError, FolderInUse, NoStore, NotFound
from matyan.service import terminal
from matyan.settings import Settings
from matyan.store.open import SYNTAX, FolderName, StoreName

_STORE_HELP = "The store of the ingestion workers."


@click.group()
def offsets() -> None:
    """Compare the stored offsets with Kafka's, and say where ingestion goes on.

    The stored offset, which stands in the store with the data, is the truth; the committed one is for displays.
    """


@offsets.command("show")
@store_option(f"{_STORE_HELP} The control workers have none.", required=False)
@click.option(
    "--group",
    metavar="NAME",
    help="The consumer group: the ingestion workers' (the default) or the control workers', such as control-workers.",
)
@as_json_option
@settings_flags(*KAFKA, *FDB, "ingestion_group", "control_group")
def offsets_show(
    settings: Settings, store: StoreName | None, group: str | None, as_json: bool
) -> None:
    """Show stored, committed and end offset and the lag of each partition.

    While a worker holds a data folder its stored offsets cannot be read; the lag is then that of the committed ones,
    which follow within a second.

    Where records came for deleted runs, which are not stored, a last column counts them: "dropped". The worker's log names
    the runs.

    \b
    In a pipe: partition, stored, committed, end, lag and, where there is some, dropped; with tabs, "–" for none.
      matyan offsets show --store rocks:/var/lib/matyan
      matyan offsets show --store rocks:/var/lib/matyan --json | jq 'map(.lag) | add'
      matyan offsets show --group control-workers
    """
    if group == settings.control_group:
        kafka = GroupOffsets(settings, topic=settings.kafka_control_events_topic, group=group)
        _show(kafka.committed(), as_json)
        return
    if group not in (None, settings.ingestion_group):
        raise NotFound(
            f"There is no group {group} here: {settings.ingestion_group} and {settings.control_group} are the ones that "
            "MATYAN_INGESTION_GROUP and MATYAN_CONTROL_GROUP name."
        )
    if store is None:
        raise click.UsageError(f"Name the ingestion workers' store: --store {SYNTAX}.")
    kafka = GroupOffsets(settings)
    try:
        rows = trio.run(kafka.stored, store)
    except (FolderInUse, NoStore) as error:
        where = store.folder if isinstance(store, FolderName) else store
        unread = (
            f"{where} is held by {error.holder}"
            if isinstance(error, FolderInUse)
            else f"There is no store in {where} yet"
        )
        terminal.note(
            f"{unread}: no stored offsets are shown, and the lag is that of the committed ones."
        )
        rows = kafka.committed()
        if isinstance(store, FolderName):
            rows = kafka.told_by(store.folder, rows)
    _show(rows, as_json)


def _show(rows: Iterable[PartitionOffsets], as_json: bool) -> None:
    shown = [row.row() for row in rows]
    if as_json:
        views.as_json(shown)
    else:
        views.offsets(shown)


@offsets.command("reset")
@store_option(_STORE_HELP)
@click.option(
    "--to",
    type=click.Choice(["start", "end", "stored", "committed"]),
    required=True,
    help="The topic's first or end offset, or what the store or Kafka has, for both.",
)
@click.option(
    "--partition",
    "partitions",
    type=click.IntRange(0),
    multiple=True,
    help="Only this one; again for more.",
)
@click.option("--all-partitions", is_flag=True, help="Every partition of the topic.")
@yes_option
@settings_flags(*KAFKA, *FDB, "ingestion_group")
def offsets_reset(
    settings: Settings,
    store: StoreName,
    to: str,
    partitions: tuple[int, ...],
    all_partitions: bool,
    yes: bool,
) -> None:
    """Set where ingestion goes on, in the store and in Kafka; no worker may run.

    Before an offset that was stored, records are applied again: log lines and points without a step stand twice then.
    Beyond it, they are skipped for good. What will happen is told before the question.

    It is also how a group is given to another store, with --all-partitions: the id of this one is written beside the
    offsets, and a worker on the former store refuses.

    \b
      matyan offsets reset --store rocks:/var/lib/matyan --to end --partition 3
      matyan offsets reset --store rocks:/var/lib/matyan --to stored --all-partitions --yes
    """
    if all_partitions == bool(partitions):
        raise click.UsageError(
            "Name each partition with --partition N, or all of them with --all-partitions."
        )
    kafka = GroupOffsets(settings)

    def choose(rows: list[PartitionOffsets], store_id: str) -> dict[int, int]:
        chosen = _chosen(kafka.topic, rows, to, partitions)
        _note_other_store(rows, chosen, store_id)
        for row in rows:
            if row.partition in chosen:
                terminal.note(row.prospect(chosen[row.partition]))
        if not yes:
            which = "every partition" if all_partitions else _named(chosen)
            terminal.ask(f"Set {which} of {kafka.topic} to its {to} offset?", abort=True)
        return chosen

    rows = trio.run(kafka.reset, store, choose)
    views.table(
        ("partition", "goes on at"),
        (
            (row.partition, views.or_none(row.stored))
            for row in rows
            if all_partitions or row.partition in partitions
        ),
        right=("partition", "goes on at"),
    )


def _chosen(
    topic: str, rows: Sequence[PartitionOffsets], to: str, partitions: tuple[int, ...]
) -> dict[int, int]:
    """The new offset of each partition that is to be set, and has one; `partitions`: empty for all.

    Raises:
        NotFound: the topic has not so many.
    """
    unknown = set(partitions) - {row.partition for row in rows}
    if unknown:
        raise NotFound(
            f"The topic {topic} has no {_named(unknown)}: `matyan offsets show` lists those that it has."
        )
    offsets = {
        row.partition: {
            "start": row.kafka.low,
            "end": row.kafka.high,
            "stored": row.stored,
            "committed": row.kafka.committed,
        }[to]
        for row in rows
        if not partitions or row.partition in partitions
    }
    return {number: offset for number, offset in offsets.items() if offset is not None}


def _note_other_store(
    rows: Sequence[PartitionOffsets], chosen: Mapping[int, int], store_id: str
) -> None:
    """
    Raises:
        ConfigurationError: some of the partitions would go on feeding another store.
    """
    others = {row.partition for row in rows if row.kafka.store not in (None, store_id)}
    if others - chosen.keys():
        raise ConfigurationError(
            f"The consumer group feeds another store, with {_named(others)}: to give it to this one takes "
            "--all-partitions, and --to start or --to end where this one has no offset yet."
        )
    if others:
        terminal.note("The consumer group is given to this store: it fed another one.")


def _named(partitions: Iterable[int]) -> str:
    """Such as "partition 0, 3"."""
    return f"partition {', '.join(map(str, sorted(partitions)))}"
