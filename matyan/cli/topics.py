"""`matyan topics`: makes the topics of a deployment, and checks them.

What is wrong with a topic is said by `broker/kafka/topics.py`.
"""

from __future__ import annotations

import click

from matyan.broker.kafka.admin import open_admin
from matyan.broker.kafka.client import client_config
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
from matyan.cli.flags import KAFKA, as_json_option, settings_flags
from matyan.errors import MatyanError
from matyan.service import terminal
from matyan.settings import Settings


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
    admin = open_admin(client_config(settings))
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
    found = inspect_topics(open_admin(client_config(settings)), [*topic_names(settings)])
    if as_json:
        views.as_json([_topic_row(topic) for topic in found])
    else:
        views.topics(_topic_row(topic) for topic in found)
        for advice in dict.fromkeys(advice for topic in found for advice in topic.advice()):
            names = ", ".join(topic.name for topic in found if advice in topic.advice())
            terminal.note(f"Advice for {names}: {advice}")
        if found[0].partitions:
            terminal.note(f"Note on {found[0].name}: {about_order(found[0])}")
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
