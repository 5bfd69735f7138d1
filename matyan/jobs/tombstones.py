"""`cleanup-tombstones`: forgets that runs were deleted, when nothing can bring them back any more.

A tombstone is what keeps a record of its run from making the run anew. So it stays as long as the log may hold such a record, and as
long as the run has objects, of which nothing else says that they are to go.
"""

from __future__ import annotations

import time
from typing import Final

from matyan.blobs.base import ListedBlobs
from matyan.jobs.lock import Lock
from matyan.jobs.runner import Ask, Report
from matyan.service.terminal import clean

_AT_ONCE: Final = 200
"""Tombstones of one transaction."""


async def cleanup_tombstones(
    ask: Ask,
    lock: Lock,
    report: Report,
    *,
    blobs: ListedBlobs,
    older_than_s: float,
    oldest_record: float | None,
) -> None:
    """
    Args:
        oldest_record: when the oldest record came that the log still has, epoch seconds; None: it has none.
    """
    before = time.time() - older_than_s
    if oldest_record is not None and oldest_record < before:
        report.line(
            "the log still has records of "
            f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(oldest_record))} UTC: tombstones of deletions after it stay"
        )
        before = oldest_record
    after: str | None = None
    while True:
        page = await ask("job_tombstones", after=after, before=before, limit=_AT_ONCE)
        if not page:
            return
        after = page[-1][0]
        bare = [(run, at) for run, at in page if not await _has_blobs(blobs, run)]
        report.count("tombstones kept for their objects", len(page) - len(bare))
        chosen = report.take(bare)
        if report.dry_run:
            for run, _ in chosen:
                report.line(f"would forget {clean(run)}")
            report.count("tombstones that would go", len(chosen))
        elif chosen:
            (gone,) = await ask("job_forget", held=[*lock], tombstones=[[*one] for one in chosen])
            report.count("tombstones gone", len(gone))
        report.progress(f"up to {after}")
        if report.is_spent:
            return


async def _has_blobs(blobs: ListedBlobs, run: str) -> bool:
    async for _ in blobs.pages(f"{run}/"):
        return True
    return False
