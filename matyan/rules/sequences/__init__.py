"""Sequences of points and entries: the one package that knows how they are stored.

It hides the two layouts (contract, section 4) behind one interface; above it nobody sees a "val" key or a
chunk. No rule of a record's kind, no context and no index here: those are `records.py`'s and `indexes.py`'s.

| what                           | compatible                     | packed                                |
|--------------------------------|--------------------------------|---------------------------------------|
| points of log_metric           | val, step, epoch, time keys    | chunks of up to 1,024 points          |
| objects, log lines and records | val, step, epoch, time keys    | the same                              |
| what is over 90,000 bytes      | parts; val is its outline      | the same                              |
| dtype, last, last_step         | trace keys                     | the same                              |
| count, first, min, max         | one trace key: `summaries.py`  | the same                              |

How chunks grow (packed). A sequence's chunks are, in the order of their numbers and of the log:

    full full full … full   merged merged … (< 32)   fresh fresh … (< 32)

An append adds one fresh chunk. The fresh ones together become one merged chunk, the merged ones together full
ones, always the whole tail at once and under new numbers, so that what was written later always has the higher
number. So a point is written two or three times, and a read scans few keys.

Sequences that grow in step would all be due in the same transaction. Therefore a transaction rewrites a bounded
number of points (Growth.rewrite): a sequence is due from `early` chunks on and served while there is room, and
regardless at `latest`; after the first round they are spread.

`last` keeps the last finite value that stood at a then highest step; 0.0 until there is one.
The next free step is the highest one + 1, and at least 0; where the highest is 2^63-1, the one behind the highest step
that has a free one behind it (`free_steps.py`).
"""

from matyan.rules.sequences.layout import find_layout, open_layout
from matyan.rules.sequences.points import Growth
from matyan.rules.sequences.reads import SequenceInfo
from matyan.rules.sequences.sequences import Sequences
from matyan.rules.sequences.writes import Entry, SequenceWrites
from matyan.store.base import Layout

__all__ = [
    "Entry",
    "Growth",
    "Layout",
    "SequenceInfo",
    "SequenceWrites",
    "Sequences",
    "find_layout",
    "open_layout",
]
