"""A consumer group's offsets and members, also while the broker that coordinates it comes and goes."""

from __future__ import annotations

import sys
import time

from confluent_kafka import Consumer

from dev.broker import Broker
from matyan.broker.kafka import admin as kafka_admin
from matyan.broker.kafka.admin import Group
from matyan.errors import Unavailable
from tests.kafka.topics import create_topic
from tests.tracker import started
from tests.until import wait_for


def test_owners_are_those_of_the_assignment(broker: Broker) -> None:
    """Every partition of the topic that was asked for, also when the group reads another one, too."""
    topics = ["owners-a", "owners-b"]
    for topic in topics:
        create_topic(broker, topic, 3)
    config = {"bootstrap.servers": broker.bootstrap, "group.id": "owners"}
    member = Consumer(config)
    try:
        member.subscribe(topics)
        wait_for(lambda: member.poll(0.1) is None and member.assignment())
        group = Group(config, "owners")
        assert group.owners(topics[1]) == {member.memberid(): {0, 1, 2}}
        assert group.owners("of nobody") == {member.memberid(): set()}
    finally:
        member.close()


def test_a_coordinator_that_comes_and_goes_crashes_nobody(own_broker: Broker) -> None:
    """And there are answers again at once.

    librdkafka's admin client would not list a topic's offsets for minutes, since its leader has moved; and it would end
    the process sometimes, when asked for a group's offsets or members.
    """
    with started([sys.executable, "-m", __name__, own_broker.bootstrap], "answers") as asking:

        def says(what: str) -> bool:
            assert asking.process.poll() is None
            # Between librdkafka's own lines.
            said = [line.strip() for line in asking.output if not line.startswith("%")]
            return said[-1] == what

        for _ in range(2):
            time.sleep(1)
            own_broker.kill()
            wait_for(lambda: says("is silent"))
            own_broker.start()
            wait_for(lambda: says("answers"))


def ask_for_ever(bootstrap: str) -> None:
    """Prints whether there are answers, whenever that changes."""
    kafka_admin.NETWORK_S = 1.0
    group = Group({"bootstrap.servers": bootstrap}, "a group")
    said = ""
    while True:
        try:
            group.places("data-ingestion", [0])
            group.owners("data-ingestion", 1)
            says = "answers"
        except Unavailable:
            says = "is silent"
            time.sleep(0.05)
        if says != said:
            print(said := says, flush=True)


if __name__ == "__main__":
    ask_for_ever(sys.argv[1])
