"""The commands on a real cluster and the session's broker, with topics of their own."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tests.kafka.deployment import Deployment
from tests.tracker import Service, environment, matyan


@dataclass
class OnCluster(Deployment):
    """A deployment whose store is the cluster's."""

    store: str = ""
    """Its name."""

    def worker(self, **env: str) -> AbstractContextManager[Service]:
        return self.running("ingest-worker", "--store", self.store, **env)

    def run(self, *words: str, check: int | None = 0, **env: str) -> Any:
        """A command on the store."""
        return matyan(
            *words, "--store", self.store, check=check, env=environment(**{**self.env, **env})
        )

    def asked(self, *words: str) -> Any:
        """What it prints with --json."""
        return json.loads(self.run(*words, "--json").stdout)

    def asked_lines(self, *words: str) -> list[Any]:
        return [json.loads(line) for line in self.run(*words).stdout.splitlines()]

    def points(self) -> dict[str, int]:
        """How many each run has; none before there is a store."""
        done = self.run("runs", "--counts", "--json", check=None)
        if "holds no store" in done.stderr:
            return {}
        assert done.returncode == 0, done
        return {row["run"]: row["points"] for row in json.loads(done.stdout)}
