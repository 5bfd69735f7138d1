"""What can be wrong in a store: the kinds, what each means, and whether other rows tell what is right."""

from __future__ import annotations

from typing import Final, NamedTuple


class Kind(NamedTuple):
    """One way in which a store can be damaged."""

    about: str
    """For a person: what does not fit together."""
    derivable: bool
    """Whether other rows say what is right, at least mostly."""
    is_damage: bool = True
    """False: readers do without, and only a mend of the indexes looks for it."""


KINDS: Final = {
    # a run as a whole
    "deleted-run": Kind("a deleted run still has rows", True),
    "run-without-meta": Kind("a run has rows, and no created_at", True),
    "rows-without-run": Kind("activity, owner or shape of a run that is not there", True),
    "shape": Kind("a row says of a run that it has other parameters or sequences", True),
    "shape-missing": Kind("no row says which parameters and sequences a run has", True, False),
    # indexes
    "index-missing": Kind("what a run holds is not in an index, or not in its twin", True),
    "index-stale": Kind("an index row, or its twin, names what no run holds", True),
    # trees
    "leaf-beside-tree": Kind("a value stands beside others at one place of the attributes", True),
    "list-beside-object": Kind("list items stand beside named attributes", False),
    "context-missing": Kind("the context of a sequence is not stored", True),
    # sequences
    "trace-missing": Kind("a sequence has points, and no trace", True),
    "points-missing": Kind("a sequence has a trace, and no point", False),
    "last-step": Kind("a trace names another last step than the highest", True),
    "last-value": Kind("a trace names another last value than the point at the last step", True),
    "summary": Kind("a trace tells another count, first, lowest or highest than the points", True),
    "summary-missing": Kind("no trace tells the first, lowest and highest point", True, False),
    "field-without-value": Kind("a step, epoch or time of a point that is not there", True),
    "value-without-step": Kind("a point whose step row is missing or names another step", True),
    "value-without-time": Kind("a point without its time", False),
    "chunk-unreadable": Kind("a chunk of points cannot be read", False),
    "chunk-order": Kind("chunks do not follow each other as they say", False),
    "parts-without-value": Kind("parts of an object that is not there", True),
    "parts-incomplete": Kind("an object in parts of which some are missing", False),
    # experiments and tags
    "member-one-sided": Kind(
        "a run is in an experiment or has a tag by one row, and not by its twin", True
    ),
    "tag-row-left": Kind("a tag among a run's rows that it has not", True),
    "name-missing": Kind("an experiment or tag is not found by its name", True),
    "name-stale": Kind("a name of an experiment or tag leads to another one, or nowhere", True),
    "name-taken": Kind("two experiments or tags have one name", False),
    "counter": Kind("an experiment or tag counts other runs than it has", True),
}
"""Kind → what it means. Whoever reads findings by a program knows these names."""


class Finding(NamedTuple):
    """Something that does not hold."""

    kind: str
    """One of KINDS."""
    run: str
    """Whose rows they are; empty: no run's."""
    place: str
    """Where, for a person."""
    mended: bool
    """Whether it was put right, in the transaction that found it."""
