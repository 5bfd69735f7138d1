"""librdkafka tells a pipe that something waits for poll(): real clients, and nobody to connect to but a closed port."""

from __future__ import annotations

import os
from typing import Any

import trio
from confluent_kafka import KafkaError

from matyan.broker.kafka.answers import Answers

NOBODY: dict[str, Any] = {
    "bootstrap.servers": "127.0.0.1:1",
    "log_level": 0,
    "reconnect.backoff.ms": 10,
    "reconnect.backoff.max.ms": 10,
}


async def test_what_waits_for_poll_is_told_each_time_the_queue_was_empty() -> None:
    """Nobody waits in poll(), and errors are heard as they come."""
    errors: list[KafkaError] = []
    answers = Answers()
    client = answers.client({**NOBODY, "error_cb": errors.append})
    client.poll(0)
    with trio.fail_after(30):
        while len(errors) < 3:
            await answers.wait()
            client.poll(0)
    answers.close()


async def test_look_wakes_who_waits() -> None:
    """As often as it is called, once."""
    answers = Answers()
    answers.look()
    answers.look()
    with trio.fail_after(5):
        await answers.wait()
    with trio.move_on_after(0.01) as scope:
        await answers.wait()
    assert scope.cancelled_caught
    answers.close()


async def test_clients_that_follow_one_another_tell_the_same() -> None:
    """A producer's next client is made while the last one lives."""
    answers = Answers()
    errors: list[list[KafkaError]] = [[], []]
    clients = [answers.client({**NOBODY, "error_cb": of.append}) for of in errors]
    answers.look()
    with trio.fail_after(30):
        while not all(errors):
            await answers.wait()
            for client in clients:
                client.poll(0)
    answers.close()


async def test_a_client_that_outlives_it_writes_to_nobody_elses_descriptor() -> None:
    """The next ones that are opened get its numbers; and with the client all that it had open is closed."""
    before = len(os.listdir("/proc/self/fd"))
    errors: list[KafkaError] = []
    answers = Answers()
    client = answers.client({**NOBODY, "error_cb": errors.append})
    numbers = answers._hears, answers._tells
    answers.close()
    reader, writer = os.pipe()
    assert (reader, writer) == numbers

    with trio.fail_after(30):
        while len(errors) < 3:
            await trio.sleep(0.01)
            client.poll(0)
    with trio.move_on_after(0.01) as scope:
        await trio.lowlevel.wait_readable(reader)
    assert scope.cancelled_caught
    os.close(reader)
    os.close(writer)
    del client
    assert len(os.listdir("/proc/self/fd")) == before
