"""What a soak says at its end: tables in Markdown, which a terminal shows as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.soak.samples import Disk, Life


@dataclass
class Outcome:
    """Grows while the soak goes on; what is known at any moment can be told."""

    began: bool = False
    """Whether everything has started, so that there is something to tell."""
    title: str = ""
    machine: str = ""
    minutes: float = 0.0
    violations: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What was broken, and when."""
    happened: Mapping[str, int] = field(default_factory=dict)
    """What became of the training programs."""
    counted: dict[str, int | str] = field(default_factory=dict)
    """What the oracle counted, by what it is."""
    lives: Sequence[Life] = ()
    disk: Sequence[Disk] = ()


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def markdown(outcome: Outcome) -> str:
    lines = [f"## {outcome.title}", "", outcome.machine, ""]
    lines += table(("counted", ""), outcome.counted.items())
    lines += ["", "What became of the training programs: " + _listed(outcome.happened), ""]
    lines += ["What was broken:", "", *(f"- {one}" for one in outcome.faults), ""]
    lines += table(
        (
            "process",
            "minutes",
            "memory, MiB, second quarter → last",
            "descriptors",
            "threads",
            "grew",
        ),
        (_row(life) for life in outcome.lives if life.samples),
    )
    if len(outcome.disk) > 1:
        lines += ["", *table(("disk, MiB", "at the start", "at the end"), _disk(outcome.disk))]
    lines += ["", *_verdict(outcome.violations)]
    return "\n".join(lines) + "\n"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{often} {what}" for what, often in sorted(counts.items())) or "nothing yet"


def _row(life: Life) -> list[str]:
    judged = life.judged() if life.ours else []
    cells = []
    for what, unit in (("memory", 2**20), ("descriptors", 1), ("threads", 1)):
        before, after = (median / unit for median in life.medians(what))
        cells.append(f"{before:,.0f} → {after:,.0f}")
    verdict = "yes" if life.faults() else "no" if "memory" in judged else "no (memory: too short)"
    return [
        life.name,
        f"{life.seconds / 60:.1f}",
        *cells,
        (verdict if judged else "lived too short" if life.ours else "not ours"),
    ]


def _disk(rows: Sequence[Disk]) -> Iterable[list[str]]:
    first, last = rows[0], rows[-1]
    for what, name in (("kafka", "Kafka, one broker"), ("store", "store"), ("blobs", "S3")):
        yield [
            name,
            *(f"{getattr(row, what) / 2**20:,.0f}" for row in (first, last)),
        ]


def _verdict(violations: Sequence[str]) -> list[str]:
    if not violations:
        return ["**No violation.**"]
    return [
        f"**{len(violations)} violations:**",
        "",
        *(f"- {' '.join(one.split())[:600]}" for one in violations),
    ]
