"""A data folder that Kafka feeds, as the commands see it: while its worker runs, and while none does."""

from __future__ import annotations

from matyan.errors import ConfigurationError
from matyan.folder.folder import DataFolder, finish_commands
from matyan.folder.kafka_changes import KafkaChanges, OpenProducer
from matyan.service.supervise import Task
from matyan.store.open import FolderName


class KafkaFolder:
    """
    Args:
        open_producer: a producer to the topic that feeds the folder's worker, which runs in this process; None: none runs,
            and the folder can only be read.
    """

    def __init__(self, folder: DataFolder, open_producer: OpenProducer | None) -> None:
        self._folder = folder
        self._open_producer = open_producer
        self._api = folder.api(KafkaChanges(folder, self._producer_for).writes())

    def tasks(self) -> list[Task]:
        return [
            Task("commands", self._api.serve),
            Task("compaction", self._folder.compaction.run),
        ]

    async def drain(self, deadline: float) -> int:
        """Waits for commands that are being answered; nothing is left undone."""
        await finish_commands(self._api)
        return 0

    def _producer_for(self, what: str) -> OpenProducer:
        """
        Raises:
            ConfigurationError: no worker runs that would apply the record.
        """
        if self._open_producer is None:
            raise ConfigurationError(
                f"The records of {self._folder.path} come from Kafka, and so must {what}: "
                f"start its worker first, with: matyan ingest-worker --store {FolderName(self._folder.path)}."
            )
        return self._open_producer
