"""`matyan check`, `reindex`, `finish-stale`, `cleanup-orphan-blobs` and `cleanup-tombstones`: jobs, once or in a loop.

They choose engines and print; what a job does is its module's in `jobs/`. The names are the reference's, so that its cron entries go on.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import click
import trio

from matyan import reader
from matyan.blobs.base import ListedBlob, ListedBlobs
from matyan.cli.flags import KAFKA, S3, age, place_options, settings_flags
from matyan.errors import MatyanError
from matyan.jobs.check import check as check_job
from matyan.jobs.orphan_blobs import cleanup_orphan_blobs as orphan_blobs_job
from matyan.jobs.runner import Ask, Job, Report, Runner, again_and_again
from matyan.jobs.stale import finish_stale as stale_job
from matyan.jobs.tombstones import cleanup_tombstones as tombstones_job
from matyan.service import logs, telemetry, terminal
from matyan.service.health import Health
from matyan.service.logs import get_logger
from matyan.service.supervise import Task, run_service
from matyan.settings import Settings
from matyan.store.open import StoreName

_PROGRESS_S = 0.2
"""How often a terminal hears how far a job is."""

_LEAST_EVERY_S = 1.0

LOCKS = ("cleanup_job_lock_ttl_seconds",)
LOOPS = ("host", "metrics_port", "allowed_hosts", "tokens_file", "log_level")

log = get_logger()

Prepare = Callable[[Ask], Any]
"""Given what asks the store, awaited: the job. What it needs of other engines is found out here."""


def _job_options(*, dry_run: bool = True) -> Callable[[Any], Any]:
    """Those of every job; the command gets `run_job`, which takes the settings, its name and how it is prepared."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(
            *arguments: Any,
            store: StoreName,
            limit: int | None,
            every: float | None,
            dry_run: bool = False,
            **given: Any,
        ) -> int:
            run_job = partial(_run, store, limit, every, dry_run)
            found: int = command(*arguments, run_job=run_job, **given)
            return found

        options = [
            place_options,
            click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N alone."),
            click.option(
                "--every",
                type=age,
                metavar="AGE",
                help="Again and again, as a service: 10m, 1h, 1d. Default: once.",
            ),
        ]
        if dry_run:
            options.append(
                click.option(
                    "--dry-run", is_flag=True, help="Tell what would be done, and do nothing."
                )
            )
        for option in reversed(options):
            call = option(call)
        return call

    return decorate


def _run(
    store: StoreName,
    limit: int | None,
    every: float | None,
    dry_run: bool,
    settings: Settings,
    name: str,
    prepare: Prepare,
) -> int:
    async def job(ask: Ask, lock: Any, report: Report) -> None:
        made: Job = await prepare(ask)
        await made(ask, lock, report)

    if every is None:
        report = Report(_line, _Progress(), limit, dry_run)
        try:
            trio.run(_turn, settings, store, name, job, report)
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is not None:
                raise KeyboardInterrupt from None
            raise
        except MatyanError:
            # What was done before stands.
            if report.done:
                terminal.progress("")
                terminal.note(f"{name}, until it ended: {report.summary()}")
            raise
        finally:
            terminal.progress("")
        terminal.note(f"{name}: {report.summary()}")
        return int(report.failed)
    if every < _LEAST_EVERY_S:
        raise click.UsageError(f"--every: expected {_LEAST_EVERY_S:g} s at least.")
    return trio.run(_loop, settings, store, name, job, partial(_logged, limit, dry_run), every)


def _line(text: str) -> None:
    terminal.progress("")
    terminal.out(*text.split("\t"))


def _logged(limit: int | None, dry_run: bool) -> Report:
    return Report(lambda text: log.info(text), lambda text: None, limit, dry_run)


class _Progress:
    """Tells a terminal now and then how far a job is."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_S
            terminal.progress(text)


async def _turn(settings: Settings, store: StoreName, name: str, job: Job, report: Report) -> None:
    """One run. The store is open no longer: where nobody holds a data folder, others want it between two runs of a loop."""
    with ExitStack() as stack:
        opened = await trio.to_thread.run_sync(stack.enter_context, reader.open(str(store)))
        runner = Runner(name, job, _asking(opened), settings.cleanup_job_lock_ttl_seconds)
        await runner.once(report)


def _asking(opened: reader.Reader) -> Ask:
    async def ask(op: str, **arguments: Any) -> list[Any]:
        return await trio.to_thread.run_sync(
            lambda: [*opened.ask(op, **arguments)], abandon_on_cancel=True
        )

    return ask


async def _loop(
    settings: Settings,
    store: StoreName,
    name: str,
    job: Job,
    make_report: Callable[[], Report],
    every_s: float,
) -> int:
    from matyan.cli.workers import probes

    logs.configure(settings.log_level)
    telemetry.export_only_of("job")
    health = Health()
    turn = partial(_turn, settings, store, name, job)

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await again_and_again(name, turn, make_report, every_s)

    async def drain(deadline: float) -> int:
        return 0  # a job that is left goes on from the start the next time

    return await run_service(
        [*probes(settings, health, name), Task(name, run)],
        drain,
        health,
        drain_s=settings.shutdown_flush_timeout,
    )


# --- what a store keeps its blobs in, and its log --------------------------------------------------


class _HeldBlobs:
    """The blobs of a data folder, by whoever holds it."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def pages(self, prefix: str = "", after: str = "") -> AsyncIterator[Sequence[ListedBlob]]:
        while rows := await self._ask("job_blob_page", prefix=prefix, after=after):
            yield [ListedBlob(*row) for row in rows]
            after = rows[-1][0]

    async def delete(self, keys: Sequence[str]) -> int:
        await self._ask("job_delete_blobs", keys=[*keys])
        return len(keys)


async def _is_embedded(ask: Ask) -> bool:
    """Whether `matyan up` feeds the store, or would."""
    (place,) = await ask("job_place")
    return bool(place["is_tracker"])


async def _blobs(settings: Settings, ask: Ask) -> ListedBlobs:
    if await _is_embedded(ask):
        return _HeldBlobs(ask)
    from matyan.blobs.s3 import S3Blobs

    settings.refuse_development_values(S3)
    return S3Blobs(settings)


async def _is_applied(settings: Settings, ask: Ask, before: float) -> bool:
    """Whether every record that was sent before that time is in the store."""
    if await _is_embedded(ask):
        return True
    from matyan.broker.kafka.log_times import open_log_times

    settings.refuse_development_values(KAFKA)

    def topic_id() -> str:
        with open_log_times(settings) as times:
            return times.topic_id

    rows = await ask("job_offsets", topic_id=await trio.to_thread.run_sync(topic_id))

    def compare() -> bool:
        with open_log_times(settings) as times:
            return times.is_applied(dict(rows), before)

    return await trio.to_thread.run_sync(compare)


async def _oldest_record(settings: Settings, ask: Ask) -> float | None:
    if await _is_embedded(ask):
        return None  # what it has taken stands in the store, and nowhere else
    from matyan.broker.kafka.log_times import open_log_times

    settings.refuse_development_values(KAFKA)

    def ask_kafka() -> float | None:
        with open_log_times(settings) as times:
            return times.oldest()

    return await trio.to_thread.run_sync(ask_kafka)


# --- the commands ----------------------------------------------------------------------------------

RunJob = Callable[[Settings, str, Prepare], int]


@click.command()
@_job_options(dry_run=False)
@click.option("--repair", is_flag=True, help="Mend what other rows say how it should be.")
@settings_flags(*LOCKS, *LOOPS)
def check(settings: Settings, run_job: RunJob, repair: bool) -> int:
    """Look for damage in a store: rows that do not fit together.

    Walks over everything, beside whoever writes: indexes and their twins, counters, experiments and tags, attributes, traces,
    points, chunks and parts. Each finding is a line: its kind, its run, its place, what it means. With --repair, what can be derived
    from other rows is mended, and told; nothing else changes. Exit code 1: something is left that was not mended.

    \b
      matyan check
      matyan check --repair
      matyan check --every 1d --metrics-port 9095
    """

    async def prepare(ask: Ask) -> Job:
        return partial(check_job, repair=repair, only_indexes=False)

    return run_job(settings, "check", prepare)


@click.command()
@_job_options()
@settings_flags(*LOCKS, *LOOPS)
def reindex(settings: Settings, run_job: RunJob) -> int:
    """Make the indexes anew from what the runs hold: rows that are missing come, rows that nothing holds go.

    So come the rows that spare the web app a look at every run and every point, of which an older version has written none.

    Workers may run meanwhile. What is right is not touched, so it can be ended at any moment and begun again.

    \b
      matyan reindex --dry-run
      matyan reindex
    """

    async def prepare(ask: Ask) -> Job:
        return partial(check_job, repair=True, only_indexes=True)

    return run_job(settings, "reindex", prepare)


@click.command("finish-stale")
@_job_options()
@click.option(
    "--older-than",
    type=age,
    default="1d",
    show_default=True,
    metavar="AGE",
    help="Not heard of for so long.",
)
@settings_flags(*LOCKS, *LOOPS)
def finish_stale(settings: Settings, run_job: RunJob, older_than: float) -> int:
    """End active runs that were not heard of for long, as `matyan finish` does: when they were last heard of.

    A training that goes on is not stopped: what it still sends is stored.

    \b
      matyan finish-stale --older-than 2d --dry-run
      matyan finish-stale --every 1h
    """

    async def prepare(ask: Ask) -> Job:
        return partial(stale_job, older_than_s=older_than)

    return run_job(settings, "finish-stale", prepare)


@click.command("cleanup-orphan-blobs")
@_job_options()
@click.option(
    "--older-than",
    type=age,
    default="1d",
    show_default=True,
    metavar="AGE",
    help="How long an object that no record names is left alone: its record may still come.",
)
@settings_flags(*KAFKA, *S3, *LOCKS, *LOOPS)
def cleanup_orphan_blobs(settings: Settings, run_job: RunJob, older_than: float) -> int:
    """Delete objects of deleted runs, and such as no record names.

    Uploads by a URL that was signed before their run was deleted leave such objects, and clients that ended right after an
    upload. Objects under no run's id are not touched; the bucket, S3_BUCKET, must hold no other program's. While the ingestion
    is further behind than --older-than, only objects of deleted runs go.

    \b
      matyan cleanup-orphan-blobs --dry-run
      matyan cleanup-orphan-blobs --every 1d --s3-endpoint http://minio:9000
    """

    async def prepare(ask: Ask) -> Job:
        return partial(
            orphan_blobs_job,
            blobs=await _blobs(settings, ask),
            older_than_s=older_than,
            is_applied=await _is_applied(settings, ask, time.time() - older_than),
        )

    return run_job(settings, "cleanup-orphan-blobs", prepare)


@click.command("cleanup-tombstones")
@_job_options()
@settings_flags(*KAFKA, *S3, "tombstone_cleanup_older_than_hours", *LOCKS, *LOOPS)
def cleanup_tombstones(settings: Settings, run_job: RunJob) -> int:
    """Forget that runs were deleted, once nothing can bring them back.

    A tombstone keeps late records from making a deleted run anew. It goes when it is old enough, when the topic has no record left
    that is older than it, and when the run has no objects left.

    \b
      matyan cleanup-tombstones --dry-run
      matyan cleanup-tombstones --every 1d
      matyan cleanup-tombstones --tombstone-cleanup-older-than-hours 720
    """

    async def prepare(ask: Ask) -> Job:
        return partial(
            tombstones_job,
            blobs=await _blobs(settings, ask),
            older_than_s=settings.tombstone_cleanup_older_than_hours * 3_600,
            oldest_record=await _oldest_record(settings, ask),
        )

    return run_job(settings, "cleanup-tombstones", prepare)
