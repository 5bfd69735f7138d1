"""Quotas as they are written, and the bucket: what is paid for is never over the rate and the burst."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan.service.quotas import EXAMPLE, Bucket, Quota, print_size, read_quota


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        (
            "connections=10,bytes=1MB/s,messages=1000/s,blobs=10GB/day",
            Quota(10, 1_000_000, 1000, 10_000_000_000),
        ),
        (EXAMPLE, Quota(10, 1_000_000, 1000, 10_000_000_000)),
        ("connections=1", Quota(connections=1)),
        (" messages = 5 / s , connections = 2 ", Quota(2, None, 5)),
        ("bytes=1.5kB/s", Quota(bytes=1500)),
        ("bytes=1500 b/s", Quota(bytes=1500)),
        ("bytes=1mib/s", Quota(bytes=1 << 20)),
        ("blobs=0.5TiB/d", Quota(blobs=1 << 39)),
        ("blobs=0B/day", Quota(blobs=0)),
    ],
)
def test_a_quota_is_read(text: str, quota: Quota) -> None:
    assert read_quota(text) == quota
    assert read_quota(str(quota)) == quota


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is no limit; expected some of connections=10,"),
        ("connections", "'connections' is no limit"),
        ("connections=10,", "'' is no limit"),
        ("runs=5", "'runs=5' is no limit"),
        ("connections=0", "connections: '0' cannot be used; expected connections=10, at least 1"),
        ("connections=-1", "connections: '-1' cannot be used"),
        ("connections=1.5", "connections: '1.5' cannot be used"),
        ("connections=10/s", "connections: '10/s' cannot be used"),
        ("connections=", "connections: '' cannot be used"),
        ("messages=1000", "messages: '1000' cannot be used; expected messages=1000/s"),
        ("messages=1000/day", "messages: '1000/day' cannot be used; expected messages=1000/s"),
        ("bytes=1000/s", "bytes: '1000/s' cannot be used; expected bytes=1MB/s"),
        ("bytes=1XB/s", "bytes: '1XB/s' cannot be used"),
        ("bytes=1iB/s", "bytes: '1iB/s' cannot be used"),
        ("bytes=0.5B/s", "bytes: '0.5B/s' cannot be used"),
        ("bytes=1MB/day", "bytes: '1MB/day' cannot be used"),
        ("blobs=10GB/s", "blobs: '10GB/s' cannot be used; expected blobs=10GB/day"),
        ("blobs=9999TB/day", "blobs: '9999TB/day' cannot be used"),
        ("messages=\u0661/s", "cannot be used"),
        ("connections=1,connections=2", "connections is there twice"),
    ],
)
def test_what_is_no_quota_is_refused_with_what_is_allowed(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_quota(text)


amounts = st.none() | st.integers(1, 10**15)


@given(amounts, amounts, amounts, st.none() | st.integers(0, 10**15))
def test_every_quota_is_read_as_it_was_printed(
    connections: int | None, per_second: int | None, messages: int | None, blobs: int | None
) -> None:
    quota = Quota(connections, per_second, messages, blobs)
    if quota == Quota():
        assert str(quota) == ""
    else:
        assert read_quota(str(quota)) == quota


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1500, "1500B"), (10**10, "10GB"), (1 << 30, "1GiB"), (1, "1B")],
)
def test_a_size_is_printed_in_the_shortest_exact_way(size: int, text: str) -> None:
    assert print_size(size) == text


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    bucket = Bucket(100, burst_s=1, most_s=60)
    assert [bucket.take(50, now=10) for _ in range(4)] == [10, 10, 10.5, 11]
    assert bucket.take(50, now=11) == 11.5
    # Long after, a second's worth is saved up, and no more.
    assert [bucket.take(100, now=1000) for _ in range(2)] == [1000, 1001]


def test_what_is_owed_beyond_the_most_is_forgotten() -> None:
    bucket = Bucket(100, burst_s=1, most_s=60)
    assert bucket.take(10**9, now=0) == 60
    assert bucket.take(10**9, now=30) == 90
    assert bucket.take(100, now=91) == 91


@given(
    st.floats(1, 1e6),
    st.floats(0, 5),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_no_more_is_paid_for_than_the_rate_and_the_burst(
    rate: float, burst_s: float, steps: list[tuple[float, float]]
) -> None:
    """From any moment to any other, and everything is paid for in its order, at the latest when the whole is."""
    bucket = Bucket(rate, burst_s, most_s=math.inf)
    now, paid = 100.0, []
    for pause, share in steps:
        now += pause
        amount = share * rate
        due = bucket.take(amount, now)
        assert due >= now
        assert not paid or due >= paid[-1][0]
        paid.append((due, amount))
    total = sum(amount for _, amount in paid)
    assert paid[-1][0] <= now + total / rate + 1e-6
    for first in range(len(paid)):
        since = 0.0
        for due, amount in paid[first:]:
            since += amount
            begun = paid[first][0] - (paid[first][1] / rate)
            assert since <= rate * (due - begun + burst_s) * (1 + 1e-9) + 1e-6 * rate


@given(st.floats(1, 1e4), st.lists(st.floats(0.001, 0.5), min_size=1, max_size=20))
def test_closed_loops_together_have_the_rate(rate: float, shares: list[float]) -> None:
    """Clients that wait for their replies get the rate between them, whatever their frames' sizes, and not less."""
    bucket = Bucket(rate, burst_s=1, most_s=60)
    due = [0.0] * len(shares)
    taken = 0.0
    until = 30.0
    while (now := min(due)) < until:
        who = due.index(now)
        taken += shares[who] * rate
        due[who] = bucket.take(shares[who] * rate, now)
    waiting = sum(shares) * rate
    assert rate * until - waiting <= taken <= rate * (until + 1) + waiting + 1e-3 * rate
