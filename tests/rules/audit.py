"""Walks over a ledger's store: what is found there, and what a mend changes."""

from __future__ import annotations

from matyan.rules.audit.findings import Finding
from matyan.rules.audit.judges import Bench
from matyan.rules.audit.walk import Walk
from matyan.rules.sequences import Sequences
from matyan.rules.sequences.audit import SequenceAudit
from tests.ledger import Ledger


def findings(ledger: Ledger, *, mend: bool = False, only_indexes: bool = False) -> list[Finding]:
    """All that a walk finds, with the same cuts between transactions as the job makes."""
    sequences = SequenceAudit(ledger.keys, Sequences(ledger.keys, ledger.layout).layout)
    walk = Walk(ledger.keys, sequences, only_indexes=only_indexes)
    found: list[Finding] = []
    cursor = None
    while True:
        page = ledger.store.look(lambda snap, at=cursor: walk.page(snap, at))
        found += page.found
        suspects = page.suspects
        while suspects:
            told, suspects = ledger.store.commit(
                lambda tr, these=suspects: judged(ledger, sequences, tr, these, mend)
            )
            found += told
        cursor = page.next
        if cursor is None:
            return found


def judged(ledger, sequences, tr, suspects, mend):
    bench = Bench(ledger.keys, sequences, tr, tr if mend else None)
    return [one for suspect in suspects for one in bench.judge(suspect)], bench.again
