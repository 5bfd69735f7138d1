"""Tests of processes on a FoundationDB cluster: none of them is there without one (FDB_CLUSTER_FILE)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dev.broker import Broker
from tests import fdb
from tests.cluster.commands import OnCluster
from tests.cluster.places import empty
from tests.cluster.server import Server, server_of
from tests.kafka.deployment import deploy

collect_ignore_glob = [] if fdb.CLUSTER else ["test_*.py"]


@pytest.fixture(autouse=True)
def emptied() -> None:
    """The contract's directories are there once a cluster: each test begins without them."""
    empty(fdb.CLUSTER)


@pytest.fixture
def server() -> Iterator[Server]:
    """The cluster's server process, to be frozen and killed; it runs afterwards."""
    found = server_of(fdb.CLUSTER)
    yield found
    found.restore()


@pytest.fixture
def cluster(broker: Broker) -> OnCluster:
    """New topics, and no store in the cluster yet."""
    made = deploy(broker)
    return OnCluster(broker, made.env, made.ingestion, made.control, f"fdb:{fdb.CLUSTER}")
