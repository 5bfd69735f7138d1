"""The ingest worker on Kafka and RocksDB or FoundationDB: how fast it catches up, and how soon a point can be read meanwhile.

    python -m bench.worker [--store rocks|fdb] [--rounds 3] [--records 1000000] [--seconds 10] [--parts rate,fresh] [--metrics 1,10]
        [--layouts compatible,packed]

A layout of its own, with as many records as it needs: on FoundationDB the compatible one takes half a minute for a million, and two
processes of the packed one have read as many before both are ready.

The broker is `dev/broker.py`'s (one node, real Kafka, in a folder under build/). The records are what our frontier writes for the SDK's log_metric, an epoch
included, so that a point has four keys: 96 runs over 6 partitions, in frames of 100 messages of a run; with 10 metrics that is ten steps of each.

What is counted, and the bias that it has:
- records/s: each round fills a topic, and every contender reads all of it in turn, with a store of its own. The worker is the process
  `matyan ingest-worker --store rocks:FOLDER`; its /metrics are asked fifty times a second for what it has committed, and its rate is from the first
  answer that counts a quarter of the records to the first that counts all of them; two consumers may not have shared the partitions quite by then. After its stop the stored points must be as many as the records.
- consume and count: confluent-kafka's consume() in one thread, with the worker's settings (but with the client's own queue,
  since nothing else holds records here), and nothing else. Consume and write: that, and four prebuilt
  keys and values a record into a RocksDB with the store's options, one batch and one sync for what a consume() brought (as much as the worker's
  transactions). It has no rules, no stored offset and no traces and does not look into the records; it writes the same 65,536 points over and over, of
  which RocksDB keeps only the last. Both are timed from their first records to their last, or for BARE_S seconds.
- ratio: to consume and write, round by round. CPU: user and system seconds of the contender with all its threads; the broker's are not in it.
  Memory is VmRSS at the end.
- freshness: a process keeps a pace in records/s (a tenth and half of what one worker of the layout did above) in frames as above, gathered for 5 ms as
  a frontier's many connections do, and every 10 ms sends
  one record of a run of its own (a new one each second) and notes when Kafka acknowledged it. A reader asks the worker for that run through the
  socket in the store's folder, READ_S after its last answer: what an answer shows is durable. So a time includes the reader's turn, half of READ_S
  and one and a half times what an answer takes, which has a column of its own; and the reader costs the worker CPU.
  The first second is not counted.
- Contender, broker and producer share the machine's cores.

With `--store fdb`, on the cluster of FDB_CLUSTER_FILE, which must be one for benches (see `engines.py`): consume and write is the binding's
`tr[key] = value`, 1,000 points a transaction; the contenders are processes instead of consumers in one; the reference's worker 0.3.0 (Python 3.12, an
environment of its own, REFERENCE_S seconds of its full pace) is one of them. The server shares the cores too, its CPU has a column of its own.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from bench import loadgen
from bench.engines import VALUES, Engine, Fdb, Rocks, Write
from bench.ingest import stored
from bench.machine import (
    OPENER,
    Server,
    environment,
    free_port,
    heading,
    medians,
    number,
    say,
    table,
    workplace,
)
from dev.broker import TOPICS, Broker, running
from dev.environments import reference_worker
from matyan import reader, settings
from matyan._codec import format_timestamp, validate
from matyan.broker.kafka.admin import open_admin
from matyan.broker.kafka.client import producer_config
from matyan.broker.kafka.consumer import consumer_config
from matyan.errors import NotFound
from matyan.settings import Settings

RUNS = 96
FRAME = 100
PROBE = "probe-%d"
PROBE_S = 0.01
PROBE_STEPS = 100
"""Points of a probe's run; then comes the next one. To show a long one would be work of its own."""
LINGER_MS = 5
UNREPORTED = {"delivery.report.only.error": True}
"""Of librdkafka's properties, for producers that nobody asks what was delivered."""
READ_S = 0.002
BARE_RECORDS = 3_000
"""What a bare loop consumes at once: about a transaction of the worker's."""
OWN_QUEUE = {"queued.min.messages": 100_000}
"""librdkafka's default: a worker has its own queue instead."""
PACES = {"a tenth": 0.1, "a fifth": 0.2, "half": 0.5}
LAYOUTS = ("compatible", "packed")
WRITES = "consume and write"
REFERENCE = "the reference's worker"
REFERENCE_S = 20
BARE_S = 20

Result = dict[str, float]


# --- records ---------------------------------------------------------------------------------------


class Run:
    """A run's records, frame by frame, as the frontier makes them of what the SDK sends."""

    def __init__(self, name: str, metrics: int) -> None:
        self.key = name.encode()
        self._name = name
        self._metrics = metrics
        self._sent = 0

    def frame(self, messages: int = FRAME) -> list[bytes]:
        sent, self._sent = self._sent, self._sent + messages
        texts = [self._message(*divmod(i, self._metrics)) for i in range(sent, self._sent)]
        now = format_timestamp(time.time_ns() // 1000)
        found = validate(f"[{', '.join(texts)}]".encode(), self.key, now)
        if found.rejected:
            raise RuntimeError(f"the frame is not as the contract wants it: {found.rejected[0]}")
        return found.records

    def _message(self, step: int, metric: int) -> str:
        # 20 ms a step, give or take a tenth.
        moment = EPOCH + timedelta(microseconds=20_000 * step + 7_919 * step % 4_000)
        value = VALUES[step % len(VALUES)]
        return TEXT % (
            self._name,
            f"metric_{metric:03d}",
            value,
            step,
            step // 100,
            moment.isoformat(),
        )


EPOCH = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
TEXT = loadgen.template({**loadgen.LOG_METRIC, "epoch": "%s"}).replace('"%s"', "%s")
for mark in (loadgen.RUN, loadgen.NAME, loadgen.VALUE, loadgen.STEP, loadgen.TIME):
    TEXT = TEXT.replace(mark, "%s")


@contextmanager
def new_topic(broker: Broker, name: str) -> Iterator[Settings]:
    """A topic and its dead letters', and the settings that name it."""
    broker.wait(60, {name: TOPICS["data-ingestion"], f"{name}-dlq": 1})
    given = settings.load(
        {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "KAFKA_DATA_INGESTION_TOPIC": name}
    )
    yield given
    admin = open_admin(producer_config(given))
    for soon in admin.delete_topics([name]).values():
        soon.result(30)


def fill(given: Settings, records: int, metrics: int) -> int:
    """Produces about so many records; returns how many."""
    producer = Producer({**producer_config(given), **UNREPORTED})
    runs = [Run(f"run-{i:05d}", metrics) for i in range(RUNS)]
    rounds = max(1, records // RUNS // FRAME)
    for _ in range(rounds):
        for run in runs:
            send(producer, given, run.key, run.frame())
        while len(producer) > 100_000:
            producer.poll(0.01)
    if producer.flush(60):
        raise RuntimeError("the broker did not take the records")
    return rounds * RUNS * FRAME


def send(producer: Producer, given: Settings, key: bytes, values: list[bytes]) -> None:
    messages: list[dict[str, Any]] = [{"value": value, "key": key} for value in values]
    if producer.produce_batch(given.kafka_data_ingestion_topic, messages) != len(messages):
        raise RuntimeError("the producer did not take a frame")


# --- contenders ------------------------------------------------------------------------------------


def bare(given: Settings, records: int, engine: Engine, each: Write) -> Result:
    """Consumes them in this thread, and calls `each` with the count of what a consume() brought."""
    consumer = Consumer({**consumer_config(given, "bare"), **OWN_QUEUE})
    topic = given.kafka_data_ingestion_topic
    consumer.assign([TopicPartition(topic, n, 0) for n in range(TOPICS["data-ingestion"])])
    begun = cpu = served = 0.0
    count = 0
    while count < records and not (count and time.perf_counter() - begun > BARE_S):
        messages = consumer.consume(BARE_RECORDS, 0.02)
        if messages and not count:
            begun, cpu, served = time.perf_counter(), time.process_time(), engine.cpu()
        count += len(messages)
        if messages:
            each(len(messages))
    took, cpu = time.perf_counter() - begun, time.process_time() - cpu
    consumer.close()
    return rate(count, took, cpu, engine.cpu() - served)


def rate(records: float, seconds: float, cpu: float, served: float) -> Result:
    return {
        "records_per_s": records / seconds,
        "cpu_s_per_million": cpu / records * 1e6,
        "server_cpu": served / records * 1e6,
    }


class Workers:
    """The processes of a contender."""

    def __init__(self, servers: list[Server], ports: list[int]) -> None:
        self._servers = servers
        self._ports = ports

    def done(self) -> float:
        """How many records they have committed."""
        return sum(committed(f"http://127.0.0.1:{port}/metrics/") for port in self._ports)

    def cpu(self) -> float:
        return sum(server.cpu() for server in self._servers)

    def memory(self) -> float:
        return sum(server.memory() for server in self._servers)

    def quiet(self) -> None:
        for server in self._servers:
            server.quiet()

    def have_ended(self) -> bool:
        return any(server.process.poll() is not None for server in self._servers)


@contextmanager
def workers(
    given: Settings, engine: Engine, folder: Path, command: list[str], count: int, **env: str
) -> Iterator[Workers]:
    """So many processes on a fresh store, ready."""
    engine.fresh()
    group = f"bench-{time.time_ns()}"
    with ExitStack() as stack:
        servers, ports = [], []
        for number in range(count):
            port = free_port()
            here = folder.with_name(f"{folder.name}-{number}")
            here.mkdir(exist_ok=True)
            ports.append(port)
            server = Server(
                command,
                ready=f"http://127.0.0.1:{port}/health/ready/",
                env=environment(
                    KAFKA_BOOTSTRAP_SERVERS=given.kafka_bootstrap_servers,
                    KAFKA_DATA_INGESTION_TOPIC=given.kafka_data_ingestion_topic,
                    MATYAN_INGESTION_GROUP=group,
                    HOST="127.0.0.1",
                    METRICS_PORT=str(port),
                    **env,
                ),
                folder=here,
            )
            servers.append(stack.enter_context(server))
        yield Workers(servers, ports)


def ours(engine: Engine, members: int) -> tuple[list[str], int]:
    """The command for so many members of the group, and how many processes of it."""
    command = [str(Path(sys.executable).with_name("matyan")), "ingest-worker"]
    command += ["--store", engine.name]
    return (
        (command, members)
        if isinstance(engine, Fdb)
        else ([*command, "--workers", str(members)], 1)
    )


def committed(url: str) -> float:
    with OPENER.open(urllib.request.Request(url), timeout=10) as reply:
        text = reply.read().decode()
    (family,) = (
        family
        for family in text_string_to_metric_families(text)
        if family.name == "matyan_ingestion_messages_processed"
    )
    return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))


def catch_up(
    given: Settings, records: int, engine: Engine, folder: Path, layout: str, members: int
) -> Result:
    """Workers read the topic from its beginning to its end."""
    command, count = ours(engine, members)
    env = {"MATYAN_SEQUENCE_LAYOUT": layout}
    with workers(given, engine, folder, command, count, **env) as running:
        result = measure_pace(running, engine, records / 4, records, 600)
    found = stored(engine.name, "run-")
    if found != records:
        raise RuntimeError(f"{layout}: {records} records, {found} points stored")
    return result


def measure_pace(
    running: Workers, engine: Engine, first: float, last: float, most_s: float
) -> Result:
    """Their pace between so many records and so many, or as many as it is after `most_s` seconds."""
    deadline = time.monotonic() + most_s

    def reach(count: float) -> float:
        while (stands := running.done()) < count and time.monotonic() < deadline:
            if running.have_ended():
                raise RuntimeError(f"a worker has ended at {stands:g} records")
            time.sleep(0.02)
        return stands

    first = reach(first)
    begun, cpu, served = time.perf_counter(), running.cpu(), engine.cpu()
    last = reach(last)
    if last == first:
        raise RuntimeError(
            f"{last:g} records are too few to measure with: all were read before the worker was ready; give more --records"
        )
    took = time.perf_counter() - begun
    result = rate(last - first, took, running.cpu() - cpu, engine.cpu() - served)
    result["rss_mb"] = running.memory() / 1e6
    return result


def measure_reference(given: Settings, records: int, engine: Engine, folder: Path) -> Result:
    """The reference's worker, for as long as it is given."""
    # Its group cannot be named: it is fresh with each topic.
    with workers(given, engine, folder, reference_worker(), 1) as running:
        return measure_pace(running, engine, 1, records, REFERENCE_S)


def measure_rate(
    broker: Broker,
    engine: Engine,
    folder: Path,
    topic: str,
    records: int,
    metrics: int,
    layouts: Sequence[str],
) -> dict[str, Result]:
    """Every contender once, on one topic."""
    results: dict[str, Result] = {}

    def note(name: str, result: Result) -> None:
        say(f"{metrics} metrics a run, {name}: {result}")
        results[name] = result

    with new_topic(broker, topic) as given:
        records = fill(given, records, metrics)
        note("consume and count", bare(given, records, engine, lambda count: None))
        engine.fresh()
        note(WRITES, bare(given, records, engine, engine.write_prebuilt(records)))
        if isinstance(engine, Fdb):
            note(REFERENCE, measure_reference(given, records, engine, folder))
        for layout in layouts:
            for members in (1, 2):
                result = catch_up(given, records, engine, folder, layout, members)
                note(contender(engine, layout, members), result)
    for result in results.values():
        result["ratio"] = result["records_per_s"] / results[WRITES]["records_per_s"]
        if REFERENCE in results:
            result["to_reference"] = result["records_per_s"] / results[REFERENCE]["records_per_s"]
    return results


def contender(engine: Engine, layout: str, members: int) -> str:
    each = TOPICS["data-ingestion"] // members
    kind = "process" if isinstance(engine, Fdb) else "consumer"
    many = "processes" if isinstance(engine, Fdb) else "consumers"
    what = f"one {kind}" if members == 1 else f"{members} {many}, {each} partitions each"
    return f"matyan, {layout}, {what}"


# --- freshness -------------------------------------------------------------------------------------


def keep_pace(given: Settings, pace: float, seconds: float, outcome: Connection) -> None:
    """In a process of its own; sends (records/s that it kept, when each probe was acknowledged)."""
    producer = Producer({**producer_config(given), **UNREPORTED, "linger.ms": LINGER_MS})
    probes = Producer(producer_config(given))
    runs = [Run(f"run-{i:05d}", 1) for i in range(RUNS)]
    load = [
        (run.key, run.frame())
        for run, _ in zip(itertools.cycle(runs), range(int(pace * seconds / FRAME)))
    ]
    acknowledged: dict[int, float] = {}
    outcome.send(None)
    begun = time.monotonic()
    frames = probed = 0
    while (passed := time.monotonic() - begun) < seconds or frames < len(load):
        if passed >= probed * PROBE_S:

            def note(error: object, message: Message[bytes, bytes], step: int = probed) -> None:
                if error is None:
                    acknowledged[step] = time.monotonic()

            if probed % PROBE_STEPS == 0:
                probe = Run(PROBE % (probed // PROBE_STEPS), 1)
            probes.produce(
                given.kafka_data_ingestion_topic, probe.frame(1)[0], probe.key, on_delivery=note
            )
            probed += 1
        elif frames < len(load) and passed * pace >= frames * FRAME:
            send(producer, given, *load[frames])
            frames += 1
        else:
            probes.poll(0.001)
        probes.poll(0)
        producer.poll(0)
    took = time.monotonic() - begun
    if probes.flush(60) + producer.flush(60) or len(acknowledged) != probed:
        raise RuntimeError("the broker did not take all records")
    outcome.send((frames * FRAME / took, acknowledged))


def measure_fresh(
    broker: Broker,
    engine: Engine,
    folder: Path,
    topic: str,
    layout: str,
    pace: float,
    seconds: float,
) -> Result:
    """Milliseconds from acknowledged to readable at a pace of so many records/s."""
    command, count = ours(engine, 1)
    env = {"MATYAN_SEQUENCE_LAYOUT": layout}
    pipe, theirs = multiprocessing.Pipe()
    readable: list[float] = []
    answers: list[float] = []
    kept: tuple[float, dict[int, float]] | None = None
    with (
        new_topic(broker, topic) as given,
        workers(given, engine, folder, command, count, **env) as running,
    ):
        running.quiet()
        producer = multiprocessing.get_context("spawn").Process(
            target=keep_pace, args=(given, pace, seconds, theirs), daemon=True
        )
        producer.start()
        theirs.close()  # so that its end is heard here
        pipe.recv()
        cpu = running.cpu()
        deadline = time.monotonic() + seconds + 60
        with reader.open(engine.name) as opened:
            while kept is None or len(readable) < len(kept[1]):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{len(readable)} probes can be read")
                number, seen = divmod(len(readable), PROBE_STEPS)
                asked = time.monotonic()
                last = last_step(opened, PROBE % number)
                answered = time.monotonic()
                answers.append(1e3 * (answered - asked))
                readable += [answered] * (last + 1 - seen)
                if kept is None and pipe.poll():
                    kept = pipe.recv()
                time.sleep(READ_S)
        producer.join()
        cpu = (running.cpu() - cpu) / running.done()
    attained, acknowledged = kept
    times = [
        1e3 * max(0.0, readable[step] - moment)
        for step, moment in acknowledged.items()
        if step * PROBE_S >= 1
    ]
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "pace": attained,
        "p50": cuts[49],
        "p99": cuts[98],
        "max": max(times),
        "answer": statistics.median(answers),
        "cpu_s_per_million": cpu * 1e6,
    }


def last_step(opened: reader.Reader, run: str) -> int:
    """The newest step of the run that can be read, or -1."""
    try:
        sequences = opened.show(run)["sequences"]
    except NotFound:
        return -1
    return int(sequences[0]["last_step"]) if sequences else -1


# --- the report ------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="The ingest worker on Kafka and a store.")
    parser.add_argument("--store", choices=("rocks", "fdb"), default="rocks")
    parser.add_argument("--rounds", type=int, default=3, help="medians over so many")
    parser.add_argument("--records", type=int, default=1_000_000, help="of each topic")
    parser.add_argument("--seconds", type=float, default=10, help="of each pace")
    parser.add_argument("--parts", default="rate,fresh", help="fresh needs rate")
    parser.add_argument("--metrics", default="1,10", help="metrics a run; fresh: 1")
    parser.add_argument("--layouts", default=",".join(LAYOUTS), help="comma list")
    given = parser.parse_args()
    layouts = given.layouts.split(",")
    if not set(layouts) <= set(LAYOUTS):
        parser.error(f"the layouts are {', '.join(LAYOUTS)}")
    kinds = [int(word) for word in given.metrics.split(",")]
    with workplace("worker") as scratch, running(scratch / "kafka") as broker:
        engine: Engine = (
            Rocks(scratch / "store")
            if given.store == "rocks"
            else Fdb(os.environ.get("FDB_CLUSTER_FILE", "fdb.cluster"))
        )
        print(heading("matyan-trio", "confluent-kafka", *engine.packages) + "\n")
        rates: dict[int, dict[str, list[Result]]] = {kind: {} for kind in kinds}
        fresh: dict[str, list[Result]] = {}
        for turn in range(given.rounds):
            for kind in kinds:
                found = measure_rate(
                    broker,
                    engine,
                    scratch / "rate",
                    f"rate-{turn}-{kind}",
                    given.records,
                    kind,
                    layouts,
                )
                for name, result in found.items():
                    rates[kind].setdefault(name, []).append(result)
            if "fresh" in given.parts.split(","):
                for layout in layouts:
                    full = rates[kinds[0]][contender(engine, layout, 1)][-1]["records_per_s"]
                    for name, share in PACES.items():
                        topic = f"fresh-{turn}-{layout}-{share}"
                        result = measure_fresh(
                            broker,
                            engine,
                            scratch / "fresh",
                            topic,
                            layout,
                            share * full,
                            given.seconds,
                        )
                        say(f"{layout}, {name}: {result}")
                        fresh.setdefault(f"{layout}, {name} of the full rate", []).append(result)
    print(
        report(
            "metrics a run, contender",
            RATE,
            {f"{k}, {name}": r for k in kinds for name, r in rates[k].items()},
        )
    )
    if fresh:
        print("\n" + report("freshness", FRESH, fresh))


RATE = {
    "records/s": "records_per_s",
    "ratio": "ratio",
    "to the reference": "to_reference",
    "CPU s / million": "cpu_s_per_million",
    "the server's": "server_cpu",
    "RSS, MB": "rss_mb",
}
FRESH = {
    "records/s": "pace",
    "p50, ms": "p50",
    "p99": "p99",
    "max": "max",
    "an answer": "answer",
    "CPU s / million": "cpu_s_per_million",
}


def report(head: str, columns: dict[str, str], results: dict[str, list[Result]]) -> str:
    rows = ((name, medians(found)) for name, found in results.items())
    return table(
        [head, *columns],
        ([name, *(number(median.get(key)) for key in columns.values())] for name, median in rows),
    )


if __name__ == "__main__":
    main()
