"""Soak: a whole deployment under training programs, while one thing after another breaks; at the end nothing may be lost.

Starts Kafka (three brokers), S3, two frontiers, ingestion workers, a control worker and the read API, and twenty programs on
the real SDK that start, fork, die by kill -9, resume, finish and are deleted. One thing after the other is killed, frozen,
locked out of Kafka, or has its disk filled. At the end what the programs wrote down is compared with what is stored: nothing
that was acknowledged is lost, nothing stands twice, `matyan check` finds nothing, there is no dead letter; and no process of
ours has grown in memory, descriptors or threads by more than 5 in 100.

    make soak                                      one hour
    MATYAN_SOAK_MINUTES=5 make soak                five minutes
    python -m tests.soak --minutes 5 --only frozen --report soak.md

Where FDB_CLUSTER_FILE names a FoundationDB cluster of the tests' own, two worker processes share it, and --own-server says
that its server may be killed and frozen, too; else one worker process keeps a data folder. Disks are filled where this user
may mount a tmpfs. It ends by itself; Ctrl-C ends it sooner and prints what is known. Exit code 1: something was violated.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.machine import describe
from dev.process import Missing
from matyan.errors import MatyanError, NotFound
from tests.kafka.topics import read_topic
from tests.soak import diary, oracle
from tests.soak.crowd import Crowd
from tests.soak.deployment import INGESTION, Deployment
from tests.soak.faults import Fault, plan
from tests.soak.report import Outcome, markdown
from tests.soak.samples import Disk, Life, bytes_on_disk, disk_faults, sample, written
from tests.until import wait_for

HOUR = 60.0
CATCH_UP_S = 900.0
FAULTS_AN_HOUR = 26
"""As many in a shorter soak, closer together."""


def main() -> int:
    given = arguments()
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background jobs ignore the second
        signal.signal(number, signal.default_int_handler)
    outcome = Outcome()
    folder = Path(tempfile.mkdtemp(prefix="matyan-soak-", dir=given.folder))
    say(f"soak for {given.minutes:g} minutes in {folder}, seed {given.seed}")
    code = 1
    try:
        with ExitStack() as stack:
            disks = small_disks(stack, folder, given)
            Soak(given, folder, disks, outcome).run()
        code = 1 if outcome.violations else 0
    except KeyboardInterrupt:
        say("interrupted: this is what is known")
        code = 130
    except (Missing, RuntimeError, MatyanError, TimeoutError) as error:
        say(f"{type(error).__name__}: {error}")
        code = 2
    finally:
        if outcome.began:
            print(markdown(outcome), flush=True)
            if given.report:
                given.report.write_text(markdown(outcome))
        if given.keep or outcome.violations or (code == 2 and outcome.began):
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return code


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    minutes = float(os.environ.get("MATYAN_SOAK_MINUTES", HOUR))
    parser.add_argument("--minutes", type=float, default=minutes, help="[MATYAN_SOAK_MINUTES; 60]")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of all that is random")
    parser.add_argument("--programs", type=int, default=20, help="training programs at a time [20]")
    parser.add_argument("--rate", type=float, default=15, help="messages a second of each [15]")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=3, help="[3]")
    parser.add_argument("--every", type=float, help="seconds from fault to fault [138 in an hour]")
    parser.add_argument("--only", help="faults whose name holds this: killed, frozen, full, worker")
    parser.add_argument(
        "--own-server",
        action="store_true",
        help="the FoundationDB server is there for this alone: kill and freeze it, too",
    )
    parser.add_argument("--folder", type=Path, help="where everything is kept meanwhile [/tmp]")
    parser.add_argument("--keep", action="store_true", help="keep it; it is kept after a violation")
    parser.add_argument("--report", type=Path, help="writes the tables there, too")
    given = parser.parse_args()
    if given.minutes <= 0:
        parser.error("--minutes wants more than 0")
    given.cluster = os.environ.get("FDB_CLUSTER_FILE", "")
    given.every = given.every or 60 * given.minutes / FAULTS_AN_HOUR
    return given


def small_disks(stack: ExitStack, folder: Path, given: argparse.Namespace) -> dict[str, Path]:
    """File systems that can be filled, by what they are for; none where nothing can be mounted."""
    size = int((192 + 12 * given.minutes) * 2**20)
    wanted = {"s3": folder / "s3"}
    if given.brokers > 1:
        wanted["broker"] = folder / "kafka" / str(given.brokers)
    if not given.cluster:
        wanted["store"] = folder / "store"
    mounted = {}
    for name, place in wanted.items():
        place.mkdir(parents=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "matyan-soak", str(place)]
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            stack.callback(subprocess.run, ["umount", "-l", str(place)], check=False)
            mounted[name] = place
    if not mounted:
        say("no disk is filled: this user may not mount one here")
    return mounted


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Soak:
    """One soak; its outcome is complete when `run` has returned, and tells what is known whenever it has not."""

    def __init__(
        self, given: argparse.Namespace, folder: Path, disks: dict[str, Path], outcome: Outcome
    ) -> None:
        self.given = given
        self.disks = disks
        self.outcome = outcome
        self.seconds = 60 * given.minutes
        self.folder = folder
        self.deployment = Deployment(
            folder, brokers=given.brokers, cluster_file=given.cluster, own_server=given.own_server
        )
        self.crowd = Crowd(
            self.deployment,
            folder / "diaries",
            size=given.programs,
            rate=given.rate,
            life=max(15.0, min(240.0, self.seconds / 10)),
            dice=random.Random(given.seed),
        )
        self.kills: dict[int, list[float]] = {}
        """When each frontier was killed, epoch seconds."""
        self.now = ""
        """What is broken at the moment."""
        self.judged = False
        """Whether it has come to its end."""
        self._over = threading.Event()
        self._lives: dict[tuple[str, int], Life] = {}
        self._disk: list[Disk] = []
        self._records = 0

    def run(self) -> None:
        outcome, deployment = self.outcome, self.deployment
        engine = (
            "FoundationDB, two worker processes"
            if self.given.cluster
            else "RocksDB, one worker process"
        )
        outcome.title = (
            f"A soak of {self.given.minutes:g} minutes: {self.given.brokers} brokers, {engine}"
        )
        outcome.machine = f"{describe('matyan-client', 'confluent-kafka')}; {self.given.programs} programs, {self.given.rate:g} messages/s each, seed {self.given.seed}."
        outcome.happened = self.crowd.happened
        try:
            deployment.start()
            outcome.began = True
            say("everything runs")
            with self._threads():
                self._live()
                say("the time is over: the programs come to their end")
                self.crowd.finish(max(60.0, self.seconds / 4))
                deployment.heal()
                self._catch_up()
            self._judge()
            self.judged = True
        finally:
            self._over.set()
            self.crowd.end()
            outcome.counted = {**self._known(), **outcome.counted}
            outcome.lives = [*self._lives.values()]
            (self.folder / "samples.tsv").write_text(written(outcome.lives))
            outcome.disk = self._disk
            with contextlib.suppress(AttributeError):
                if deployment.foundation is not None:
                    deployment.foundation.restore()
            ended = deployment.stop()
            # One that was told to end before it had begun, as Ctrl-C may find it, does not end well.
            outcome.violations += ended if self.judged else []

    # --- while it goes on ---

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """What breaks things and what looks at processes, beside what this runs."""
        began = time.monotonic()
        threads = [
            threading.Thread(target=self._guarded, args=(work, began), daemon=True)
            for work in (self._break, self._look)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(120)

    def _guarded(self, work: Callable[[float], None], began: float) -> None:
        """A thread that fails is a violation, and not silence."""
        try:
            work(began)
        except Exception:  # noqa: BLE001 - the end of a thread
            self.outcome.violations.append(f"the soak itself: {traceback.format_exc()[-1500:]}")

    def _live(self) -> None:
        began = told = time.monotonic()
        while time.monotonic() - began < self.seconds:
            self.crowd.tick()
            self._mind(self.deployment.unexpected())
            if time.monotonic() - told >= min(60.0, self.seconds / 10):
                told = time.monotonic()
                self._tell(told - began)
            time.sleep(0.5)

    def _mind(self, ended: list[str]) -> None:
        for one in ended:
            say(one)
        # A broker whose disk is gone, and one that may not meet the others in time, end: theirs to do.
        self.outcome.violations += [one for one in ended if not one.startswith("broker")]
        self.outcome.faults += [one[:120] for one in ended if one.startswith("broker")]

    def _tell(self, seconds: float) -> None:
        clock = f"{int(seconds) // 60}:{int(seconds) % 60:02} of {self.given.minutes:g} min"
        happened = self.crowd.happened
        say(
            f"{clock}: {self.crowd.running} programs, {len(self.crowd.sessions)} runs, {happened['killed']} kills, "
            f"{happened['resumed']} resumed, {self._records:,} records, {len(self.outcome.violations)} violations"
            + (f"; now {self.now}" if self.now else "")
        )

    def _break(self, began: float) -> None:
        """One fault after another, while there is time for it and for getting over it."""
        faults = [
            one
            for one in plan(self.deployment, self.disks)
            if not self.given.only or self.given.only in str(one)
        ]
        scale = min(1.0, self.given.every / 90)
        at, number = self.given.every / 2, 0
        while faults and at < self.seconds - self.given.every / 2:
            if self._over.wait(max(0.0, began + at - time.monotonic())):
                return
            self._inflict(
                faults[number % len(faults)],
                max(2.0, scale * faults[number % len(faults)].seconds),
                began,
            )
            number += 1
            at = max(at + self.given.every, time.monotonic() - began + self.given.every / 4)

    def _inflict(self, fault: Fault, seconds: float, began: float) -> None:
        minute = (time.monotonic() - began) / 60
        self.now = str(fault)
        say(f"{fault} for {seconds:.0f} s")
        self.outcome.faults.append(f"{minute:.1f} min: {fault}, {seconds:.0f} s")
        if fault.what.startswith("frontier") and fault.kind == "killed":
            self.kills.setdefault(int(fault.what.split()[1]) - 1, []).append(time.time())
        try:
            with fault.inflict():
                self._over.wait(seconds)
        finally:
            self.now = ""

    def _look(self, began: float) -> None:
        every = min(10.0, self.seconds / 60)
        turns = 0
        while not self._over.wait(every):
            at = time.monotonic() - began
            for name, pid, ours in self.deployment.pids():
                connections = 0
                if name.startswith("frontier"):
                    connections = self.deployment.processes[name].connections()
                found = sample(pid, at, self.folder, connections)
                if found is not None:
                    life = self._lives.setdefault((name, pid), Life(name, pid, ours))
                    life.samples.append(found)
            turns += 1
            if turns % 3 == 0:
                self._weigh()
            self.outcome.lives = [*self._lives.values()]

    def _weigh(self) -> None:
        with contextlib.suppress(MatyanError):
            self._records = sum(self.deployment.ends().values())
        self._disk.append(
            Disk(
                bytes_on_disk(self.deployment.kafka.nodes[1 % self.given.brokers].folder / "data"),
                bytes_on_disk(self.deployment.store_folder),
                bytes_on_disk(self.deployment.s3.folder / "data"),
            )
        )

    # --- at its end ---

    def _catch_up(self) -> None:
        say("waiting until everything is stored")
        began = time.monotonic()
        try:
            wait_for(self.deployment.is_through, CATCH_UP_S)
        except TimeoutError:
            self.outcome.violations.append(
                f"{self.deployment.lag()} records are not stored after {CATCH_UP_S:g} s"
            )
        self.outcome.counted["seconds until all was stored"] = f"{time.monotonic() - began:.0f}"

    def _judge(self) -> None:
        outcome, deployment = self.outcome, self.deployment
        say("reading the diaries, the topic and the store")
        books = oracle.books(self._sessions())
        missing, found = 0, 0
        with deployment.open() as opened:
            for run, book in sorted(books.items()):
                try:
                    stored = oracle.stored_run(opened, run)
                except NotFound:
                    stored = None
                if run in self.crowd.deleted:
                    if stored is not None:
                        outcome.violations.append(f"{run}: deleted, and there")
                elif stored is None:
                    if book.acknowledged:
                        outcome.violations.append(
                            f"{run}: {len(book.acknowledged)} acknowledged, and no such run"
                        )
                else:
                    outcome.violations += oracle.faults(book, stored, self.kills)
                    missing += len(book.sent - book.acknowledged - set(stored.marks) - {"finish"})
                    found += len(stored.marks)
                    outcome.violations += self._blobs(run, stored)
        records = read_topic(deployment.kafka, INGESTION, timeout=60)
        outcome.violations += oracle.topic_faults(oracle.parsed(one.value() for one in records))
        raw = sum(len(one.value() or b"") + len(one.key() or b"") for one in records)
        outcome.violations += self._rows()
        outcome.violations += [fault for life in self._lives.values() for fault in life.faults()]
        outcome.violations += disk_faults(self._disk, raw)
        outcome.counted |= {
            "sent, not acknowledged and not stored": missing,
            "read back from the store": f"{found:,}",
            "records in the topic": f"{len(records):,} ({raw / 2**20:,.0f} MiB)",
            "acknowledged and lost": self._violated("acknowledged and lost"),
            "stored twice": self._violated("stored twice") + self._violated("twice in the topic"),
        }

    def _sessions(self) -> list[diary.Session]:
        return [diary.read(path) for path in sorted((self.folder / "diaries").glob("*.diary"))]

    def _known(self) -> dict[str, int | str]:
        """What the diaries say by themselves."""
        sessions = self._sessions()
        endings = Counter(one.ended.partition(":")[0] or "killed" for one in sessions)
        return {
            "runs": len({one.run for one in sessions}),
            "deleted": len(self.crowd.deleted),
            "sessions of training programs": len(sessions),
            "how they ended": ", ".join(f"{often} {how}" for how, often in endings.items()),
            "logged": f"{sum(len(one.logged) for one in sessions):,}",
            "sent": f"{sum(len(one.sent) for one in sessions):,}",
            "acknowledged": f"{sum(len(one.acknowledged) for one in sessions):,}",
            "frames without an answer (a program or a connection ended)": sum(
                one.unanswered for one in sessions
            ),
            "frames kept after 40 s": sum(len(one.kept) for one in sessions),
        }

    def _violated(self, what: str) -> int:
        """So many of it, by what the violations say."""
        numbers = (re.search(rf"(\d+) {what}", one) for one in self.outcome.violations)
        return sum(int(found.group(1)) for found in numbers if found)

    def _blobs(self, run: str, stored: oracle.Stored) -> list[str]:
        """Artifacts that the store names and S3 does not have as they were, though the client said so."""
        acknowledged = {
            mark.removeprefix("artifact ")
            for path in (self.folder / "diaries").glob(f"{run}.*.diary")
            for mark in diary.read(path).acknowledged
            if mark.startswith("artifact ")
        }
        client, wrong = self.deployment.s3.client(), []
        for path in acknowledged:
            try:
                body = client.get_object(Bucket="matyan-artifacts", Key=f"{run}/{path}")[
                    "Body"
                ].read()
            except client.exceptions.NoSuchKey:
                body = b""
            if body != diary.content_of(run, path):
                wrong.append(path)
        return (
            [f"{run}: {len(wrong)} artifacts are not in S3 as they were: {wrong[:3]}"]
            if wrong
            else []
        )

    def _rows(self) -> list[str]:
        """What does not fit together in the store, in S3 and in Kafka."""
        deployment, found = self.deployment, []
        for run in self.crowd.deleted:
            keys = deployment.s3.keys(f"{run}/")
            if keys:
                found.append(f"{run}: deleted, and {len(keys)} of its objects are there")
        checked = deployment.command("check", check=None)
        if checked.returncode or checked.stdout:
            found.append(f"matyan check: {checked.stdout[:1000]}{checked.stderr[-500:]}")
        found += [
            f"{count} dead letters in {topic}"
            for topic, count in deployment.letters().items()
            if count
        ]
        return found


if __name__ == "__main__":
    sys.exit(main())
