"""`matyan offsets`: a group's stored and committed offsets side by side, and setting them.

Runs no service and applies no record. Where a worker may start is decided by `broker/kafka/start.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import trio

from matyan import readable
from matyan.broker.kafka.admin import Group, Place, describe_topic
from matyan.broker.kafka.start import Claimant, where_to_start
from matyan.cli import views
from matyan.cli.flags import KAFKA, as_json_option, settings_flags, store_option
from matyan.errors import ConfigurationError, FolderInUse, MatyanError, NotFound, Unavailable
from matyan.reader import Reader
from matyan.service import terminal
from matyan.settings import Settings
from matyan.store.open import SYNTAX, has_store


@click.group()
def offsets() -> None:
    """Compare the stored offsets with Kafka's, and say where ingestion goes on.

    The stored offset, which stands in the store with the data, is the truth; the committed one is for displays.
    """


_PATIENCE_S = 10.0
"""A broker that has started just now answers, but loads its groups first."""
_STORE_HELP = "The store of the ingestion workers."


@dataclass(frozen=True, slots=True)
class Stand:
    """One partition: where the store and where Kafka say that it stands."""

    partition: int
    stored: int | None
    place: Place
    dropped: int | None = None
    """Records of deleted runs that the store was brought and did not take; None: it cannot be asked."""

    def row(self) -> views.Row:
        known = self.stored if self.stored is not None else self.place.committed
        return {
            "partition": self.partition,
            "stored": self.stored,
            "committed": self.place.committed,
            "start": self.place.low,
            "end": self.place.high,
            "lag": self.place.high - (self.place.low if known is None else known),
            "dropped": self.dropped,
        }

    def prospect(self, target: int) -> str:
        """What setting it to `target` does, as a sentence."""
        name, low = f"partition {self.partition}", self.place.low
        if self.stored is None:
            return f"{name}: this store has no offset of it; it gets what stands at {target} and after, and nothing before"
        said = []
        if self.stored < low:
            said.append(
                f"{low - self.stored} records are lost, which the topic's retention removed"
            )
        known = max(self.stored, low)
        if target < known:
            said.append(f"{known - target} records that it has are applied again")
        elif target > known:
            said.append(f"{target - known} records that it has not are skipped for good")
        return f"{name}: {self.stored} → {target}: {', '.join(said) or 'nothing is applied again or skipped'}"


@offsets.command("show")
@store_option(f"{_STORE_HELP} The control workers have none.", required=False)
@click.option(
    "--group",
    metavar="NAME",
    help="The consumer group: the ingestion workers' (the default) or the control workers', such as control-workers.",
)
@as_json_option
@settings_flags(*KAFKA, "ingestion_group", "control_group")
def offsets_show(settings: Settings, folder: Path | None, group: str | None, as_json: bool) -> None:
    """Show stored, committed and end offset and the lag of each partition.

    While a worker holds the store its stored offsets cannot be read; the lag is then that of the committed ones,
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
        _show([stand.row() for stand in kafka.committed_stands()], as_json)
        return
    if group not in (None, settings.ingestion_group):
        raise NotFound(
            f"there is no group {group} here: {settings.ingestion_group} and {settings.control_group} are the ones that "
            "MATYAN_INGESTION_GROUP and MATYAN_CONTROL_GROUP name"
        )
    if folder is None:
        raise click.UsageError(f"Name the ingestion workers' store: --store {SYNTAX}.")
    kafka = GroupOffsets(settings)
    unread = None if has_store(folder) else f"there is no store in {folder} yet"
    try:
        stands = [] if unread else trio.run(kafka.stands, folder)
    except FolderInUse as error:
        unread = f"{folder} is held by {error.holder}"
    if unread:
        terminal.note(
            f"{unread}: no stored offsets are shown, and the lag is that of the committed ones"
        )
        stands = kafka.told_by(folder, kafka.committed_stands())
    _show([stand.row() for stand in stands], as_json)


def _show(rows: list[views.Row], as_json: bool) -> None:
    if as_json:
        views.as_json(rows)
    else:
        views.offsets(rows)


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
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_flags(*KAFKA, "ingestion_group")
def offsets_reset(
    settings: Settings,
    folder: Path,
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

    def choose(stands: list[Stand], store_id: str) -> dict[int, int]:
        chosen = _chosen(kafka, stands, to, partitions)
        others = {s.partition for s in stands if s.place.store not in (None, store_id)}
        if others - chosen.keys():
            raise ConfigurationError(
                f"the consumer group feeds another store, with {_named(others)}: to give it to this one takes "
                "--all-partitions, and --to start or --to end where this one has no offset yet"
            )
        if others:
            terminal.note("the consumer group is given to this store; it fed another one")
        for stand in stands:
            if stand.partition in chosen:
                terminal.note(stand.prospect(chosen[stand.partition]))
        if not yes:
            which = "every partition" if all_partitions else _named(chosen)
            terminal.ask(f"Set {which} of {kafka.topic} to its {to} offset?", abort=True)
        return chosen

    views.table(
        ("partition", "goes on at"),
        (
            (stand.partition, views.or_none(stand.stored))
            for stand in trio.run(kafka.stands, folder, choose)
            if all_partitions or stand.partition in partitions
        ),
        right=("partition", "goes on at"),
    )


def _chosen(
    kafka: GroupOffsets, stands: list[Stand], to: str, partitions: tuple[int, ...]
) -> dict[int, int]:
    """The new offset of each partition that is to be set, and has one; `partitions`: empty for all."""
    unknown = set(partitions) - {stand.partition for stand in stands}
    if unknown:
        raise NotFound(f"the topic {kafka.topic} has no {_named(unknown)}")
    offsets = {
        stand.partition: {
            "start": stand.place.low,
            "end": stand.place.high,
            "stored": stand.stored,
            "committed": stand.place.committed,
        }[to]
        for stand in stands
        if not partitions or stand.partition in partitions
    }
    return {number: offset for number, offset in offsets.items() if offset is not None}


def _named(partitions: Iterable[int]) -> str:
    """Such as "partition 0, 3"."""
    return f"partition {', '.join(map(str, sorted(partitions)))}"


class GroupOffsets:
    """A consumer group, and the offsets in its store."""

    def __init__(
        self,
        settings: Settings,
        patience_s: float = _PATIENCE_S,
        *,
        topic: str | None = None,
        group: str | None = None,
    ) -> None:
        """
        Args:
            patience_s: how long a broker that loads its groups is waited for.
            topic, group: the ingestion workers' by default.
        """
        from matyan.broker.kafka.client import client_config

        self._patience_s = patience_s
        self.topic = topic or settings.kafka_data_ingestion_topic
        self._group = Group(client_config(settings), group or settings.ingestion_group)
        self._described = describe_topic(self._group.admin, self.topic)
        self._topic_id = str(self._described.topic_id)

    def places(self) -> dict[int, Place]:
        numbers = [row.id for row in self._described.partitions]
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._group.places(self.topic, numbers)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def committed_stands(self) -> list[Stand]:
        """What Kafka knows alone."""
        return [Stand(number, None, place) for number, place in sorted(self.places().items())]

    def told_by(self, folder: Path, stands: list[Stand]) -> list[Stand]:
        """The same with what the process that holds the folder can tell, where one answers."""
        try:
            rows = [*Reader(folder).ask("dropped", topic_id=self._topic_id)]
        except MatyanError:
            return stands
        told = {row["partition"]: row["dropped"] for row in rows}
        return [replace(stand, dropped=told.get(stand.partition, 0)) for stand in stands]

    def conflicts(self, claimant: Claimant, stands: Iterable[Stand]) -> list[str]:
        """Why partitions would stand still, or no worker of that store may start.

        Where the stored offset is not known, what Kafka has of it stands in: it follows within a second.
        """
        found = []
        for stand in stands:
            place = stand.place
            stored = place.committed if stand.stored is None and place.is_ours else stand.stored
            try:
                where_to_start(self.topic, stand.partition, stored, place, claimant)
            except ConfigurationError as error:
                found.append(str(error))
        return found

    async def stands(
        self,
        folder: Path,
        choose: Callable[[list[Stand], str], dict[int, int]] | None = None,
    ) -> list[Stand]:
        """Each partition, after the stored and committed offsets were set to what `choose` says of them and the store's
        id; the store is held meanwhile.

        Raises:
            FolderInUse: another process holds it.
            ConfigurationError: its records do not come from Kafka.
        """
        from matyan.keys import LOCAL, Keys, pack_value, unpack_value
        from matyan.rules.identity import feeders, store_id
        from matyan.store.base import Snapshot, Transaction
        from matyan.store.open import open_store

        store = open_store(folder)
        try:
            places = await trio.to_thread.run_sync(self.places, abandon_on_cancel=True)
            keys = Keys(store)

            def read(snap: Snapshot) -> list[Stand]:
                found = []
                for number, place in sorted(places.items()):
                    packed = snap.get(keys.ingest(self._topic_id, number))
                    stored = None if packed is None else int(unpack_value(packed))
                    dropped = int(
                        readable.number(snap.get(keys.dropped(self._topic_id, number))) or 0
                    )
                    found.append(Stand(number, stored, place, dropped))
                return found

            def write(tr: Transaction) -> None:
                for number, offset in chosen.items():
                    tr.set(keys.ingest(self._topic_id, number), pack_value(offset))

            stands = await store.read(read)
            if choose is None:
                return stands
            if LOCAL in await store.read(lambda snap: feeders(snap, keys)):
                raise ConfigurationError(
                    f"the records of {folder} come from `matyan up`, and not from Kafka: name a worker's store"
                )
            make_id = store_id()
            id = await store.transact(lambda tr: make_id(tr, keys))
            chosen = choose(stands, id)
            if chosen:
                # Kafka first: it refuses while the group has members, and then nothing has changed.
                self._group.commit(self.topic, self._topic_id, chosen, id)
                await store.transact(write)
            return [
                replace(stand, stored=chosen.get(stand.partition, stand.stored)) for stand in stands
            ]
        finally:
            await store.aclose()
