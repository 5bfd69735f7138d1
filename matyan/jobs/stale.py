"""`finish-stale`: ends runs that were not heard of for long, as `matyan finish` does it: when they were last heard of."""

from __future__ import annotations

import time

from matyan.errors import NotFound
from matyan.jobs.lock import Lock
from matyan.jobs.runner import Ask, Report
from matyan.service.terminal import clean


async def finish_stale(ask: Ask, lock: Lock, report: Report, *, older_than_s: float) -> None:
    before = time.time() - older_than_s
    rows = await ask("runs", heard_before=before)
    for done, row in enumerate(report.take(rows)):
        report.progress(f"{done} of {len(rows)} runs")
        run = row["run"]
        if report.dry_run:
            report.line(f"would finish {clean(run)}")
            report.count("runs that would be finished")
            continue
        try:
            # It may have gone on, or been deleted, since the list was made.
            (now,) = await ask("find", runs=[run])
            if not now["active"] or now["last_record"] is None or now["last_record"] >= before:
                continue
            (ended,) = await ask("finish", run=run, stale=True)
        except NotFound:
            continue
        if ended["was_active"]:
            report.line(f"finished {clean(run)}")
            report.count("runs finished")
