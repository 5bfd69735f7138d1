"""What follows from the deletion of an experiment or tag: its runs leave it, in transactions of a bounded size.

Which rows these are is `rules/removals.py`'s.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from matyan.errors import Expired
from matyan.keys import Keys
from matyan.rules.removals import parting
from matyan.store.base import Store

_AT_ONCE: Final = 100
"""Runs of one transaction: each has some ten rows that are read or written."""


async def part(store: Store, keys: Keys, family: str, uuid: str, now: float) -> None:
    """Takes all runs out of an experiment or tag, and its own rows away. Doing so again does no harm, nor does an end in between.

    family: "experiments" or "tags"; now: when it was deleted, epoch seconds.

    Raises:
        Unavailable: as `Store.transact_in_turns` does.
    """
    most = _AT_ONCE
    has_more = True
    while has_more:
        body = partial(parting, keys=keys, family=family, uuid=uuid, now=now, most=most)
        try:
            has_more = await store.transact_in_turns(body)
        except Expired:
            if most == 1:
                raise
            most = max(1, most // 4)
