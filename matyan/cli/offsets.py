"""The operator's commands on Kafka and the store of a deployment: `matyan topics` and `matyan offsets`.

They look at what the services need, and set it; they run no service and apply no record. What is wrong with a topic
is said by `broker/kafka_topics.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import trio
from confluent_kafka.admin import AdminClient

from matyan import readable
from matyan.broker.kafka.admin import Group, Place, describe_topic, open_admin
from matyan.broker.kafka.start import Claimant, where_to_start
from matyan.broker.kafka.topics import (
    Topic,
    about_order,
    alter_topics,
    create_topics,
    inspect_topics,
    topic_names,
    troubles,
)
from matyan.cli import views
from matyan.cli.flags import KAFKA, as_json_option, settings_flags, store_option
from matyan.errors import ConfigurationError, FolderInUse, MatyanError, NotFound, Unavailable
from matyan.reader import DATABASE, Reader, has_database
from matyan.service import terminal
from matyan.settings import Settings


def _admin(settings: Settings) -> AdminClient:
    from matyan.broker.kafka.producer import client_config

    return open_admin(client_config(settings))


# --- topics --------------------------------------------------------------------------------------


@click.group()
def topics() -> None:
    """Make and check the topics in Kafka."""


@topics.command("create")
@click.option(
    "--partitions",
    type=click.IntRange(1),
    default=6,
    show_default=True,
    help="Of the topic of the clients' records: as many workers can share it. The others have one.",
)
@click.option(
    "--replication",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Copies of each record. With 3, min.insync.replicas becomes 2: one broker may be away.",
)
@click.option(
    "--alter",
    is_flag=True,
    help="Raise max.message.bytes and min.insync.replicas of the topics that are there, too, and end compaction.",
)
@settings_flags(*KAFKA)
def topics_create(settings: Settings, partitions: int, replication: int, alter: bool) -> None:
    """Make the topics that are missing, fit for our records.

    Partitions and replicas of a topic that is there are left alone: more partitions would move runs to other ones.

    \b
      matyan topics create --partitions 12 --replication 3
      matyan topics create --alter
    """
    admin = _admin(settings)
    wanted = topic_names(settings, partitions)
    names = [*wanted]
    before = {topic.name: topic for topic in inspect_topics(admin, names)}
    made = create_topics(admin, wanted, replication)
    standing = [before[name] for name in names if name not in made]
    altered = alter_topics(admin, standing) if alter else []
    for name in names:
        terminal.out(name, _outcome(before[name], name in made, name in altered))
    # What was made or altered a moment ago may not be told by every broker yet.
    _end_with([topic for topic in standing if topic.name not in altered])


def _outcome(before: Topic, is_made: bool, is_altered: bool) -> str:
    if is_made:
        return "created"
    many = "1 partition" if before.partitions == 1 else f"{before.partitions} partitions"
    return f"{'altered' if is_altered else 'was there'}, with {many}"


@topics.command("check")
@as_json_option
@settings_flags(*KAFKA)
def topics_check(settings: Settings, as_json: bool) -> None:
    """Show the topics, and what is wrong with them; exit with 1 when something is.

    Advice ("could be safer") does not change the exit code. Sentences go to standard error.

    \b
    In a pipe: topic, partitions, replication, max.message.bytes, min.insync.replicas, verdict; with tabs.
      matyan topics check
      matyan topics check --json | jq -r '.[] | select(.trouble != []) | .topic'
    """
    found = inspect_topics(_admin(settings), [*topic_names(settings)])
    if as_json:
        views.as_json([_topic_row(topic) for topic in found])
    else:
        views.topics(_topic_row(topic) for topic in found)
        for advice in dict.fromkeys(advice for topic in found for advice in topic.advice()):
            names = ", ".join(topic.name for topic in found if advice in topic.advice())
            terminal.note(f"advice for {names}: {advice}")
        if found[0].partitions:
            terminal.note(f"note on {found[0].name}: {about_order(found[0])}")
    _end_with(found)


def _topic_row(topic: Topic) -> views.Row:
    return {
        "topic": topic.name,
        "partitions": topic.partitions,
        "replication": topic.replication,
        "max.message.bytes": topic.max_message_bytes,
        "min.insync.replicas": topic.min_insync_replicas,
        "cleanup.policy": topic.cleanup_policy,
        "retention.ms": topic.retention_ms,
        "retention.bytes": topic.retention_bytes,
        "trouble": topic.trouble(),
        "advice": topic.advice(),
    }


def _end_with(topics: list[Topic]) -> None:
    if found := troubles(topics):
        raise MatyanError("\nmatyan: ".join(found))


# --- offsets -------------------------------------------------------------------------------------


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
        raise click.UsageError("Name the ingestion workers' store: --store rocks:FOLDER.")
    kafka = GroupOffsets(settings)
    unread = None if has_database(folder) else f"there is no store in {folder} yet"
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
        from matyan.broker.kafka.producer import client_config

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
        from matyan.keys import Keys, pack_value, unpack_value
        from matyan.rules.identity import LOCAL, feeders, store_id
        from matyan.store.base import Snapshot, Transaction
        from matyan.store.rocks import open_rocks

        store = open_rocks(folder / DATABASE)
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
