"""Sequences of points and objects: the one package that knows how they are stored."""

from matyan.rules.sequences.sequences import (
    Entry,
    Growth,
    Layout,
    SequenceInfo,
    Sequences,
    SequenceWrites,
    open_layout,
)

__all__ = [
    "Entry",
    "Growth",
    "Layout",
    "SequenceInfo",
    "SequenceWrites",
    "Sequences",
    "open_layout",
]
