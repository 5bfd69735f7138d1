"""`check` and `reindex`: a walk over the whole store, page by page, each asked for by itself.

What is looked for and what is mended is `rules/audit`'s. A walk that ends early is begun again: what was mended stays so.
"""

from __future__ import annotations

from typing import Any

from matyan.jobs.lock import Lock
from matyan.jobs.runner import Ask, Report
from matyan.rules.audit.findings import KINDS, Finding
from matyan.service.terminal import clean


async def check(ask: Ask, lock: Lock, report: Report, *, repair: bool, only_indexes: bool) -> None:
    """Tells what breaks an invariant; `repair`: mends what can be derived. Its limit is one of findings."""
    cursor: list[Any] | None = None
    told: set[Finding] = set()  # a row and its twin are come across on two pages
    report.count("rows read", 0)
    while True:
        (answer,) = await ask(
            "job_check",
            held=[*lock],
            cursor=cursor,
            repair=repair and not report.dry_run,
            only_indexes=only_indexes,
        )
        report.count("rows read", answer["rows"])
        found = [*dict.fromkeys(Finding(*row) for row in answer["found"])]
        for finding in found:
            # Not told one by one: a store that an older version has written has it at each sequence.
            if not KINDS[finding.kind].is_damage:
                report.count("rows made" if finding.mended else "rows to be made")
        found = [finding for finding in found if KINDS[finding.kind].is_damage]
        for finding in report.take([one for one in found if one not in told]):
            _tell(report, finding)
        told.update(found)
        cursor = answer["cursor"]
        report.progress(f"{report.done['rows read']:,} rows")
        if cursor is None or report.is_spent:
            return


def _tell(report: Report, finding: Finding) -> None:
    about = KINDS[finding.kind].about
    report.count("mended" if finding.mended else "found")
    report.failed |= not finding.mended
    said = "mended: " if finding.mended else ""
    # Names are strangers', and a tab ends a column.
    run, place = clean(finding.run) or "–", clean(finding.place) or "–"
    report.line(f"{said}{finding.kind}\t{run}\t{place}\t{about}")
