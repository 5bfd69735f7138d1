"""The dead letters that stand in a data folder's store, as commands read them. Sending one again is the tracker's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from matyan.broker import local
from matyan.broker.base import StandingLetter
from matyan.errors import NotFound
from matyan.keys import Keys
from matyan.rules.queries import Row
from matyan.store.base import Snapshot


class Letters:
    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def rows(self, snap: Snapshot, *, limit: int | None = None) -> Iterator[Row]:
        """A row a dead letter, oldest first, without its bytes."""
        for standing in itertools.islice(local.dead_letters(snap, self._keys), limit):
            yield standing.row()

    def row(self, snap: Snapshot, *, id: int) -> Iterator[Row]:
        """One dead letter with its key and value."""
        standing = self.standing(snap, id=id)
        letter = standing.letter
        yield {**standing.row(), "key": letter.key, "value": letter.value}

    def standing(self, snap: Snapshot, *, id: int) -> StandingLetter[int]:
        """A dead letter as it stands in the store.

        Raises:
            NotFound: there is none of that number.
        """
        standing = local.dead_letter(snap, self._keys, id)
        if standing is None:
            raise NotFound(f"There is no dead letter {id}: `matyan dlq list` lists them.")
        return standing
