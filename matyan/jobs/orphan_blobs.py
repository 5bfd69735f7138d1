"""`cleanup-orphan-blobs`: deletes objects of deleted runs, and such as no record names.

They come of uploads by a URL that was signed before the run was deleted, of clients that ended between the signature and
their record, and of control events that were lost. An object that no record names is left alone as long as its record may still
come: for a day, and as long as the ingestion is that far behind.
"""

from __future__ import annotations

from collections.abc import Sequence

from matyan.blobs.base import ListedBlob, ListedBlobs
from matyan.errors import ConfigurationError
from matyan.jobs.lock import Lock
from matyan.jobs.runner import Ask, Report
from matyan.jobs.served import DELETED_RUN, UNNAMED
from matyan.service.terminal import clean


async def cleanup_orphan_blobs(
    ask: Ask,
    lock: Lock,
    report: Report,
    *,
    blobs: ListedBlobs,
    older_than_s: float,
    is_applied: bool,
) -> None:
    """
    Args:
        older_than_s: how long an object that no record names is left alone.
        is_applied: whether every record that was sent before that time is in the store.

    Raises:
        ConfigurationError: the store is empty, and every object would be an orphan.
    """
    (place,) = await ask("job_place")
    if place["is_empty"] and not await ask("job_tombstones", after=None, before=1e18, limit=1):
        raise ConfigurationError(
            "The store holds no run, so every object would be deleted: name the store that the objects belong to."
        )
    looked_at = 0
    async for page in blobs.pages():
        # Judged page by page, right before the deletion: nothing that is known of a run is old.
        verdicts = await ask("job_blobs", keys=[blob.key for blob in page])
        orphans = report.take(
            [
                blob
                for blob, verdict in zip(page, verdicts, strict=True)
                if verdict == DELETED_RUN
                or (verdict == UNNAMED and is_applied and blob.age_s >= older_than_s)
            ]
        )
        if orphans:
            await _delete(report, blobs, ask, lock, orphans)
        looked_at += len(page)
        report.progress(f"{looked_at:,} objects")
        if report.is_spent:
            break
    report.count("objects looked at", looked_at)
    if not is_applied:
        report.line(
            "objects that no record names were left alone: the ingestion is behind, and their records may still come"
        )


async def _delete(
    report: Report, blobs: ListedBlobs, ask: Ask, lock: Lock, orphans: Sequence[ListedBlob]
) -> None:
    for blob in orphans:
        report.line(f"{'would delete' if report.dry_run else 'deletes'} {clean(blob.key)}")
    if report.dry_run:
        report.count("objects that would be deleted", len(orphans))
        return
    await ask("job_require", held=[*lock])
    await blobs.delete([blob.key for blob in orphans])
    report.count("objects deleted", len(orphans))
    report.count("bytes freed", sum(blob.size for blob in orphans))
