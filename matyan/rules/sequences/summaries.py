"""The row that tells of a sequence what else only a read of all its points would: (…, "summary") of its trace.

It holds [last_step, count, first, min, max]: how many steps have a point or an object, and the first, lowest and highest of
the finite values, null each where there is none. Whoever appends behind the last step brings it up to date in the same
transaction. Whoever writes at a step before removes it, since what stood there may have been any of the three; so does not
a program that knows no such row, therefore it counts only where it names the last step that the trace names. Where it is
missing, whoever wants to know reads the points, until an audit's mend writes it anew.
"""

from __future__ import annotations

from math import isfinite

from matyan import readable
from matyan._codec import Summary


def summary_of(found: object, last_step: object) -> Summary | None:
    """What the row says whose value is `found`; None: nothing that counts where `last_step` is the last one."""
    if not isinstance(found, list) or len(found) != 5:
        return None
    step, count, *values = found
    if not readable.is_int64(step) or step != last_step or not readable.is_int64(count):
        return None
    if values == [None, None, None]:
        return Summary(count)
    if all(type(value) is float and isfinite(value) for value in values):
        return Summary(count, *values)
    return None
