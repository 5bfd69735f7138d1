"""The ingest worker on Kafka and RocksDB: how fast it catches up, and how soon a point can be read while it keeps up.

    python -m bench.worker [--rounds 3] [--records 1000000] [--seconds 10] [--parts rate,fresh]

The broker is `dev/broker.py`'s (one node, real Kafka, in a folder under build/). The records are what our frontier writes for the SDK's log_metric, an epoch
included, so that a point has four keys: 96 runs over 6 partitions, in frames of 100 messages of a run; with 10 metrics that is ten steps of each.

What is counted, and the bias that it has:
- records/s: each round fills a topic, and every contender reads all of it in turn, with a store of its own. The worker is the process
  `matyan ingest-worker --store rocks:FOLDER`; its /metrics are asked ten times a second for what it has committed, and its rate is from the first
  answer that counts a quarter of the records to the first that counts all of them; two consumers may not have shared the partitions quite by then. After its stop the stored points must be as many as the records.
- consume and count: confluent-kafka's consume() in one thread, with the worker's settings, and nothing else. Consume and write: that, and four prebuilt
  keys and values a record into a RocksDB with the store's options, one batch and one sync for what a consume() brought (as much as the worker's
  transactions). It has no rules, no stored offset and no traces and does not look into the records; it writes the same 65,536 points over and over, of
  which RocksDB keeps only the last. Both are timed from their first records to their last.
- ratio: to consume and write, round by round. CPU: user and system seconds of the contender with all its threads; the broker's are not in it.
  Memory is VmRSS at the end.
- freshness: a process keeps a pace in records/s (a tenth and half of what one worker of the layout did above) in frames as above, gathered for 5 ms as
  a frontier's many connections do, and every 10 ms sends
  one record of a run of its own (a new one each second) and notes when Kafka acknowledged it. A reader asks the worker for that run through the
  socket in the store's folder, 5 ms after its last answer: what an answer shows is durable. So a time includes the reader's turn, and the reader costs the worker CPU.
  The first second is not counted.
- Contender, broker and producer share the machine's cores.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import shutil
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import rocksdict
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from bench import loadgen
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
from matyan import reader, settings
from matyan._codec import Columns, compatible_points, format_timestamp, pack, validate
from matyan.broker.kafka.admin import open_admin
from matyan.broker.kafka.client import producer_config
from matyan.broker.kafka.consumer import BATCH_AGE_S, BATCH_RECORDS, consumer_config
from matyan.errors import NotFound
from matyan.settings import Settings
from matyan.store.rocks.database import open_database
from matyan.store.rocks.store import DIRECTORIES

RUNS = 96
FRAME = 100
PREBUILT = 65_536
PROBE = "probe-%d"
PROBE_S = 0.01
PROBE_STEPS = 100
"""Points of a probe's run; then comes the next one. To show a long one would be work of its own."""
LINGER_MS = 5
UNREPORTED = {"delivery.report.only.error": True}
"""Of librdkafka's properties, for producers that nobody asks what was delivered."""
READ_S = 0.005
PACES = {"a tenth": 0.1, "half": 0.5}
LAYOUTS = ("compatible", "packed")
WRITES = "consume and write"

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
VALUES = loadgen.table("smooth")
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


def bare(given: Settings, records: int, each: Callable[[int], None]) -> Result:
    """Consumes them all in this thread, and calls `each` with the count of what a consume() brought."""
    consumer = Consumer(consumer_config(given, "bare"))
    topic = given.kafka_data_ingestion_topic
    consumer.assign([TopicPartition(topic, n, 0) for n in range(TOPICS["data-ingestion"])])
    begun = cpu = 0.0
    count = 0
    while count < records:
        messages = consumer.consume(BATCH_RECORDS, BATCH_AGE_S)
        if messages and not count:
            begun, cpu = time.perf_counter(), time.process_time()
        count += len(messages)
        if messages:
            each(len(messages))
    result = rate(records, time.perf_counter() - begun, time.process_time() - cpu)
    consumer.close()
    return result


def rate(records: float, seconds: float, cpu: float) -> Result:
    return {"records_per_s": records / seconds, "cpu_s_per_million": cpu / records * 1e6}


def write_prebuilt(folder: Path) -> Callable[[int], None]:
    """Writes the four keys of so many points in one batch with one sync, in the keys' order."""
    pairs: list[tuple[bytes, bytes]] = []
    for run in range(PREBUILT // 1024):
        columns = Columns()
        for step in range(1024):
            columns.append(step, VALUES[step], 1.77e9 + step / 50, step // 100)
        prefix = pack((f"run-{run:05d}", "seqs", 7, "metric_000"), DIRECTORIES["data", "runs"])
        packed = compatible_points(prefix, columns)
        pairs += [(key, value) for key, value in packed if value is not None]
    pairs.sort()
    folder.mkdir()
    database = open_database(folder, torn=False)
    at = 0

    def write(records: int) -> None:
        nonlocal at
        at = 0 if at + 4 * records > len(pairs) else at
        batch = rocksdict.WriteBatch(raw_mode=True)
        put = batch.put
        for key, value in pairs[at : at + 4 * records]:
            put(key, value)
        at += 4 * records
        database.write(batch)
        database.flush_wal(True)

    return write


@contextmanager
def worker(
    given: Settings, folder: Path, layout: str, workers: int
) -> Iterator[tuple[Server, Callable[[], float]]]:
    """`matyan ingest-worker` on a fresh store, ready; and how many records it has committed."""
    folder.mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Server(
        [
            *(Path(sys.executable).with_name("matyan"), "ingest-worker"),
            *("--store", f"rocks:{folder}", "--workers", str(workers)),
        ],
        ready=f"{url}/health/ready/",
        env=environment(
            KAFKA_BOOTSTRAP_SERVERS=given.kafka_bootstrap_servers,
            KAFKA_DATA_INGESTION_TOPIC=given.kafka_data_ingestion_topic,
            MATYAN_SEQUENCE_LAYOUT=layout,
            HOST="127.0.0.1",
            METRICS_PORT=str(port),
        ),
        folder=folder,
    ) as server:
        yield server, lambda: committed(f"{url}/metrics/")


def committed(url: str) -> float:
    with OPENER.open(urllib.request.Request(url), timeout=10) as reply:
        text = reply.read().decode()
    (family,) = (
        family
        for family in text_string_to_metric_families(text)
        if family.name == "matyan_ingestion_messages_processed"
    )
    return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))


def catch_up(given: Settings, records: int, folder: Path, layout: str, workers: int) -> Result:
    """A worker reads the topic from its beginning to its end."""
    deadline = time.monotonic() + 600
    with worker(given, folder, layout, workers) as (server, done):

        def reach(count: float) -> float:
            while (stands := done()) < count:
                if server.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the worker stands at {stands:g} of {records} records")
                time.sleep(0.1)
            return stands

        first = reach(records / 4)
        begun, cpu = time.perf_counter(), server.cpu()
        last = reach(records)
        result = rate(last - first, time.perf_counter() - begun, server.cpu() - cpu)
        result["rss_mb"] = server.memory() / 1e6
    found = stored(folder, "run-")
    if found != records:
        raise RuntimeError(f"{layout}: {records} records, {found} points stored")
    return result


def measure_rate(
    broker: Broker, folder: Path, topic: str, records: int, metrics: int
) -> dict[str, Result]:
    """Every contender once, on one topic."""
    results: dict[str, Result] = {}

    def note(name: str, result: Result) -> None:
        say(f"{metrics} metrics a run, {name}: {result}")
        results[name] = result

    with new_topic(broker, topic) as given:
        records = fill(given, records, metrics)
        note("consume and count", bare(given, records, lambda count: None))
        note(WRITES, bare(given, records, write_prebuilt(folder)))
        shutil.rmtree(folder)
        for layout in LAYOUTS:
            for workers in (1, 2):
                result = catch_up(given, records, folder, layout, workers)
                note(contender(layout, workers), result)
                shutil.rmtree(folder)
    for result in results.values():
        result["ratio"] = result["records_per_s"] / results[WRITES]["records_per_s"]
    return results


def contender(layout: str, workers: int) -> str:
    what = (
        "one consumer"
        if workers == 1
        else f"{workers} consumers, {TOPICS['data-ingestion'] // workers} partitions each"
    )
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
    broker: Broker, folder: Path, topic: str, layout: str, pace: float, seconds: float
) -> Result:
    """Milliseconds from acknowledged to readable at a pace of so many records/s."""
    ours, theirs = multiprocessing.Pipe()
    readable: list[float] = []
    kept: tuple[float, dict[int, float]] | None = None
    with new_topic(broker, topic) as given, worker(given, folder, layout, 1) as (server, done):
        server.quiet()
        producer = multiprocessing.get_context("spawn").Process(
            target=keep_pace, args=(given, pace, seconds, theirs), daemon=True
        )
        producer.start()
        theirs.close()  # so that its end is heard here
        ours.recv()
        cpu = server.cpu()
        deadline = time.monotonic() + seconds + 60
        with reader.open(folder) as opened:
            while kept is None or len(readable) < len(kept[1]):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{len(readable)} probes can be read")
                number, seen = divmod(len(readable), PROBE_STEPS)
                last = last_step(opened, PROBE % number)
                readable += [time.monotonic()] * (last + 1 - seen)
                if kept is None and ours.poll():
                    kept = ours.recv()
                time.sleep(READ_S)
        producer.join()
        cpu = (server.cpu() - cpu) / done()
    shutil.rmtree(folder)
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
    parser = argparse.ArgumentParser(description="The ingest worker on Kafka and RocksDB.")
    parser.add_argument("--rounds", type=int, default=3, help="medians over so many")
    parser.add_argument("--records", type=int, default=1_000_000, help="of each topic")
    parser.add_argument("--seconds", type=float, default=10, help="of each pace")
    parser.add_argument("--parts", default="rate,fresh", help="fresh needs rate")
    parser.add_argument("--metrics", default="1,10", help="metrics a run; fresh: 1")
    given = parser.parse_args()
    kinds = [int(word) for word in given.metrics.split(",")]
    with workplace("worker") as scratch, running(scratch / "kafka") as broker:
        print(heading("matyan-trio", "confluent-kafka", "rocksdict") + "\n")
        rates: dict[int, dict[str, list[Result]]] = {kind: {} for kind in kinds}
        fresh: dict[str, list[Result]] = {}
        for turn in range(given.rounds):
            for kind in kinds:
                found = measure_rate(
                    broker, scratch / "rate", f"rate-{turn}-{kind}", given.records, kind
                )
                for name, result in found.items():
                    rates[kind].setdefault(name, []).append(result)
            if "fresh" in given.parts.split(","):
                for layout in LAYOUTS:
                    full = rates[kinds[0]][contender(layout, 1)][-1]["records_per_s"]
                    for name, share in PACES.items():
                        topic = f"fresh-{turn}-{layout}-{share}"
                        result = measure_fresh(
                            broker,
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
    "CPU s / million": "cpu_s_per_million",
    "RSS, MB": "rss_mb",
}
FRESH = {
    "records/s": "pace",
    "p50, ms": "p50",
    "p99": "p99",
    "max": "max",
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
