"""Where a worker starts with a partition: the contract's rules (section 5) as a table, without a broker."""

from __future__ import annotations

from typing import Any

import pytest

from matyan.broker.kafka.admin import Place
from matyan.broker.kafka.start import (
    FedStore,
    require_own,
    takes_over,
    where_committed,
    where_to_start,
)
from matyan.errors import ConfigurationError, OffsetConflict

FED_STORE = FedStore("group", "store-1", "rocks:DIR")


def place(committed: int | None = None, **more: Any) -> Place:
    """A partition that keeps the records 10 to 29."""
    return Place(10, 30, committed, **{"is_ours": False, **more})


@pytest.mark.parametrize(
    ("stored", "found", "offset"),
    [
        pytest.param(None, place(), 10, id="nobody-was-here"),
        pytest.param(None, place(25, is_ours=True), 10, id="a-fresh-store-gets-all"),
        pytest.param(None, place(25), 25, id="it-takes-over"),
        pytest.param(None, place(10), 10, id="it-takes-over-at-the-first"),
        pytest.param(None, place(30), 30, id="it-takes-over-at-the-end"),
        pytest.param(17, place(), 17, id="stored"),
        pytest.param(10, place(), 10, id="stored-at-the-first"),
        pytest.param(30, place(), 30, id="stored-at-the-end"),
        pytest.param(17, place(12), 17, id="another-program-is-behind"),
        pytest.param(17, place(17), 17, id="another-program-is-as-far"),
        pytest.param(17, place(25, is_ours=True), 17, id="an-older-copy-of-the-store"),
        pytest.param(17, place(17, is_ours=True, store="store-1"), 17, id="its-own"),
    ],
)
def test_it_starts_at(stored: int | None, found: Place, offset: int) -> None:
    assert where_to_start("topic", 3, stored, found, FED_STORE) == offset


@pytest.mark.parametrize(
    ("stored", "found", "said"),
    [
        pytest.param(None, place(9), "--to start` begins with what there is", id="too-old"),
        pytest.param(None, place(31), "the committed one, 31, is not between", id="too-new"),
        pytest.param(31, place(), "beyond the topic's end 30", id="stored-beyond-the-end"),
        pytest.param(9, place(), "its retention removed 1 records", id="stored-too-old"),
        pytest.param(17, place(18), "the group group committed 18", id="another-program"),
    ],
)
def test_a_person_has_to_say(stored: int | None, found: Place, said: str) -> None:
    """The sentence names the partition, what contradicts, and the command that settles it."""
    with pytest.raises(OffsetConflict) as caught:
        where_to_start("topic", 3, stored, found, FED_STORE)
    text = str(caught.value)
    assert said in text
    assert text.startswith("topic [3]: ")
    assert "`matyan offsets reset --store rocks:DIR --partition 3 --to " in text


@pytest.mark.parametrize(
    ("stores", "fed_store", "is_refused"),
    [
        ({0: None, 1: "store-1"}, FED_STORE, False),
        ({0: None, 1: "store-2"}, FED_STORE, True),
        ({0: "store-2"}, FedStore("group"), False),
        ({}, FED_STORE, False),
    ],
)
def test_a_group_feeds_one_store(
    stores: dict[int, str | None], fed_store: FedStore, is_refused: bool
) -> None:
    """Another store's id is an error; none at all is of an older version, and the control worker has no store."""
    if not is_refused:
        require_own("topic", stores, fed_store)
        return
    with pytest.raises(ConfigurationError, match=r"store-2, with topic \[1\]"):
        require_own("topic", stores, fed_store)


def test_another_stores_partition_is_not_begun() -> None:
    with pytest.raises(ConfigurationError, match="feeds another store, store-2"):
        where_to_start("topic", 3, 17, place(17, is_ours=True, store="store-2"), FED_STORE)


@pytest.mark.parametrize(
    ("stored", "found", "expected"),
    [
        (None, place(25), True),
        (None, place(25, is_ours=True), False),
        (None, place(), False),
        (17, place(12), False),
    ],
)
def test_it_takes_over_only_from_another_program(
    stored: int | None, found: Place, expected: bool
) -> None:
    assert takes_over(stored, found) is expected


@pytest.mark.parametrize(
    ("committed", "offset"), [(None, 10), (9, 10), (10, 10), (25, 25), (30, 30), (31, 30)]
)
def test_without_stored_offsets_the_committed_one_decides(
    committed: int | None, offset: int
) -> None:
    """Within what the topic keeps: a control event that is handled twice does no harm, one that is missed would."""
    assert where_committed(place(committed)) == offset
