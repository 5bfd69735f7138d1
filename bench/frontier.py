"""The frontier beside the reference's: `matyan-frontier` 0.3.0 and ours in turn, on one Kafka broker, under one load generator.

    python -m bench.frontier [--rounds 3] [--seconds 5] [--only reference,ours,lz4] [--loads 32x100,1x1] [--env FOLDER] [--python 3.12]

The broker is `dev/broker.py`'s (one node, real Kafka, in a folder under build/). The reference runs in an environment of its own (Python 3.12,
made from the package index under build/envs, or given by --env), with its defaults; ours with its defaults: one setting for all loads.
The name of a compression (gzip, lz4, zstd, snappy) is ours with MATYAN_KAFKA_COMPRESSION, which the reference's worker does not read but for gzip.

What is counted, and the bias that it has:
- messages/s and acknowledgements are the generator's, whose bias is printed (`loadgen.BIAS`); CPU is the frontier's alone, the broker's stands
  beside it.
- After each load the topic must have grown by as many records as were acknowledged, and one create_run a connection.
- Neither is offered permessage-deflate, which the reference would accept and pay for.
- Broker, frontier and generator share the machine's cores.
- bare: confluent-kafka with our producer's setting and prebuilt records as ours writes them, 64,000 different ones: what the broker takes without a
  frontier.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from bench import loadgen
from bench.loadgen import Load
from bench.machine import (
    Server,
    cpu_of,
    environment,
    free_port,
    heading,
    medians,
    number,
    say,
    table,
    workplace,
)
from bench.worker import FRAME, Run
from dev.broker import TOPICS, Broker, running
from dev.environments import reference_frontier
from matyan import settings
from matyan.broker.kafka.client import producer_config

TOPIC = "data-ingestion"
LOADS = (
    *(Load(connections, messages) for connections in (1, 32) for messages in (1, 10, 100)),
    Load(500, 10, rate=20),
    Load(100, 10, rate=5),
)


def reference(python: str, env: Path | None) -> list[str]:
    """The reference's command, installed when it is not there."""
    if env is not None:
        return [str(env / "bin" / "matyan-frontier"), "start"]
    return reference_frontier(python=python)


def ours() -> list[str]:
    return [str(Path(sys.executable).with_name("matyan")), "frontier"]


def records(broker: Broker) -> int:
    """Records of the topic."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "bench"})
    try:
        marks = [
            consumer.get_watermark_offsets(TopicPartition(TOPIC, partition), timeout=10)
            for partition in range(TOPICS[TOPIC])
        ]
        return sum(high for _, high in marks)
    finally:
        consumer.close()


def measure(
    command: list[str],
    broker: Broker,
    load: Load,
    scratch: Path,
    seconds: float,
    **variables: str,
) -> dict[str, float]:
    """One load on a fresh frontier."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    port = free_port()
    env = environment(
        KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap, HOST="127.0.0.1", PORT=str(port), **variables
    )
    with Server(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        ready=f"http://127.0.0.1:{port}/health/live/",
        env=env,
        folder=folder,
    ) as server:
        server.quiet()
        # The first frame must not pay for the producer's connection.
        loadgen.run(port, Load(1, 1), frames=20, seconds=30)
        before = records(broker)
        assert broker.process is not None
        broker_cpu = cpu_of(broker.process.pid)
        done = loadgen.run(port, load, seconds=seconds, cpu=server.cpu)
        broker_cpu = cpu_of(broker.process.pid) - broker_cpu
        memory = server.memory()
    grown = records(broker) - before
    if grown != done["acknowledged"] + load.connections:
        raise RuntimeError(f"{load}: {done['acknowledged']} acknowledged, {grown} in the topic")
    return {
        "messages_per_s": done["messages_per_s"],
        "p50": done["ack_ms"]["p50"],
        "p99": done["ack_ms"]["p99"],
        "cpu": done["cpu_s_per_million"],
        "broker_cpu": broker_cpu / done["acknowledged"] * 1e6,
        "rss_mb": memory / 1e6,
    }


def bare(broker: Broker, seconds: float) -> tuple[float, float]:
    """(messages/s in bulk, milliseconds for one at a time) of confluent-kafka alone."""
    given = dataclasses.replace(settings.load(ignore=()), kafka_bootstrap_servers=broker.bootstrap)
    producer = Producer(
        {
            **producer_config(given),
            "delivery.report.only.error": True,
            "queue.buffering.max.messages": 200_000,
        }
    )
    runs = [Run(f"bare-{i:05d}", 1) for i in range(32)]
    frames = [(run.key, run.frame(FRAME)) for _ in range(20) for run in runs]
    begun = time.perf_counter()
    sent = 0
    for key, values in cycle(frames):
        for value in values:
            while True:
                try:
                    producer.produce(TOPIC, value, key)
                    break
                except BufferError:
                    producer.poll(0.01)
        sent += len(values)
        producer.poll(0)
        if time.perf_counter() - begun >= seconds:
            break
    producer.flush(60)
    rate = sent / (time.perf_counter() - begun)
    times = []
    key, values = runs[0].key, runs[0].frame(1000)
    for value in values:
        one = time.perf_counter()
        producer.produce(TOPIC, value, key)
        producer.flush(10)
        times.append(time.perf_counter() - one)
    return rate, statistics.median(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description="Our frontier and the reference's, on Kafka.")
    parser.add_argument("--rounds", type=int, default=3, help="medians over so many")
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    parser.add_argument(
        "--only", default="reference,ours,lz4", help="who, or ours with a compression"
    )
    parser.add_argument("--loads", help="connections x messages of each; all when not given")
    parser.add_argument("--env", type=Path, help="an environment that has matyan-frontier 0.3.0")
    parser.add_argument("--python", default="3.12", help="makes that environment")
    given = parser.parse_args()
    commands: dict[str, list[str]] = {}
    variables: dict[str, dict[str, str]] = {}
    for name in given.only.split(","):
        if name == "reference":
            commands[name] = reference(given.python, given.env)
        else:
            commands[name] = ours()
            if name != "ours":
                variables[name] = {"MATYAN_KAFKA_COMPRESSION": name}
    wanted = given.loads and given.loads.split(",")
    loads = [
        load for load in LOADS if not wanted or f"{load.connections}x{load.messages}" in wanted
    ]
    results: dict[tuple[Load, str], list[dict[str, float]]] = {}
    with workplace("frontier") as scratch, running(scratch / "kafka") as broker:
        print(f"{heading('matyan-trio', 'confluent-kafka')}\n\n{loadgen.BIAS}\n")
        alone, single = bare(broker, given.seconds)
        for _ in range(given.rounds):
            for load in loads:
                for who, command in commands.items():
                    more = variables.get(who, {})
                    result = measure(command, broker, load, scratch, given.seconds, **more)
                    say(f"{load}, {who}: {result}")
                    results.setdefault((load, who), []).append(result)
    print(report(results))
    print(f"\nbare confluent-kafka: {number(alone)} messages/s, {number(single)} ms one at a time")
    busiest = Load(32, 100)
    if (busiest, "ours") in results:
        share = medians(results[busiest, "ours"])["messages_per_s"] / alone
        print(f"ours at {busiest}: {share:.0%} of that")


def report(results: dict[tuple[Load, str], list[dict[str, float]]]) -> str:
    columns = {
        "messages/s": "messages_per_s",
        "ack p50, ms": "p50",
        "p99": "p99",
        "CPU s / million": "cpu",
        "broker's": "broker_cpu",
        "RSS, MB": "rss_mb",
    }
    rows: list[list[Any]] = []
    for load in LOADS:
        found = {who: medians(r) for (of, who), r in results.items() if of == load}
        for who, median in found.items():
            rows.append([f"{load}, {who}", *(number(median[key]) for key in columns.values())])
        if "ours" in found and "reference" in found:
            a, b = found["ours"], found["reference"]
            rows.append(
                [f"{load}, ours : reference", *(f"{a[k] / b[k]:.2f}" for k in columns.values())]
            )
    return table(["connections × messages a frame", *columns], rows)


if __name__ == "__main__":
    main()
