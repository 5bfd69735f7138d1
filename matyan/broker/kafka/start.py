"""Where a worker starts with a partition, and when only a person can say: the contract's rules (section 5), as functions.

The one place that words what `matyan offsets reset` mends: the consumer asks when a partition is assigned, the worker
now and then, `matyan doctor` when it is called. Nothing here asks a broker or a store by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matyan.broker.kafka.admin import Place
from matyan.errors import ConfigurationError, OffsetConflict


@dataclass(frozen=True, slots=True)
class FedStore:
    """The store that a group's worker feeds."""

    group: str
    store_id: str = ""
    """Of the row ("store",); empty: there is none, such as the control worker's."""
    store: str = "STORE"
    """How a command line names it, quoted for a shell."""

    def reset(self, which: str, to: str) -> str:
        """The command that mends it."""
        return f"`matyan offsets reset --store {self.store} {which} --to {to}`"


def require_own(topic: str, stores: Mapping[int, str | None], fed_store: FedStore) -> None:
    """`stores`: by partition the id of the store whose worker committed last; None: it named none.

    Raises:
        ConfigurationError: another store's worker is of the same group.
    """
    if not fed_store.store_id:
        return
    others = {number: id for number, id in stores.items() if id not in (None, fed_store.store_id)}
    if others:
        number, other = min(others.items())
        raise ConfigurationError(
            f"The consumer group {fed_store.group} feeds another store, {other}, with {topic} [{number}], and "
            f"{fed_store.store} is {fed_store.store_id}: each of them would hold a part of the runs. Start the worker on "
            "that store; or, to go on with this one, stop all workers of the group and call "
            f"{fed_store.reset('--all-partitions', 'start')}; or name another group (MATYAN_INGESTION_GROUP)."
        )


def where_to_start(
    topic: str, partition: int, stored: int | None, found: Place, fed_store: FedStore
) -> int:
    """The offset at which the worker of a store begins with a partition.

    stored: the store's own offset; None: it has none of this partition.

    Raises:
        OffsetConflict: only a person can say what is right.
        ConfigurationError: it is another store's.
    """
    require_own(topic, {partition: found.store}, fed_store)
    low, high, committed = found.low, found.high, found.committed
    place = f"{topic} [{partition}]"

    def reset(to: str) -> str:
        return fed_store.reset(f"--partition {partition}", to)

    if stored is None:
        if committed is None or not takes_over(stored, found):
            # Ours without a stored offset: this store has never seen the topic, so it gets all of it.
            return low
        if not low <= committed <= high:
            raise OffsetConflict(
                f"{place}: the store knows no offset, and the committed one, {committed}, is not between the "
                f"topic's first and end offset, {low} and {high}: {reset('start')} begins with what there is."
            )
        return committed
    if stored > high:
        raise OffsetConflict(
            f"{place}: the stored offset {stored} is beyond the topic's end {high}: records were lost by the "
            f"broker, or the store belongs to another cluster; {reset('end')} goes on with what comes from now on, "
            "`--to start` applies again what there is."
        )
    if stored < low:
        raise OffsetConflict(
            f"{place}: the stored offset is {stored}, but the topic begins at {low}: its retention removed "
            f"{low - stored} records before they were stored; {reset('start')} accepts that."
        )
    if committed is not None and committed > stored and not found.is_ours:
        raise OffsetConflict(
            f"{place}: another program of the group {fed_store.group} committed {committed}, beyond the stored "
            f"offset {stored}: stop it; then {reset('stored')} applies those records here too, "
            "and `--to committed` skips them."
        )
    return stored


def takes_over(stored: int | None, found: Place) -> bool:
    """Whether the store has no offset of its own and goes on from the one that another program committed.

    Until something is stored, Kafka may not be told that offset as ours: it would say that the store has what stands
    before it.
    """
    return stored is None and found.committed is not None and not found.is_ours


def where_committed(found: Place) -> int:
    """Where a worker begins that stores no offset (the control worker): as near to the committed one as the topic allows."""
    committed = found.low if found.committed is None else found.committed
    return min(max(committed, found.low), found.high)
