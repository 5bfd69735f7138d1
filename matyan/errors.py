"""One error class per reaction of the caller.

The texts of ConfigurationError and its kinds, NotFound, Unavailable and MatyanError are for a person, as those of click's errors
and of refused HTTP requests are: whole sentences that begin with a capital (or with the name that they are about), end with a full
stop and say what to do. What is put into a larger sentence or a reply is a fragment and stays one, small and without a stop: the
reasons of ValueError, InvalidRecord, Bug, RecordsRefused and QueueFull, and a field with what is wrong with it ("run_id: …").
`tests/test_sentences.py` holds the code to it.
"""

from __future__ import annotations


class MatyanError(Exception):
    """The base of every error that this package raises on purpose."""


class ConfigurationError(MatyanError):
    """The user must change a setting or the surroundings: print the sentence and exit with 2."""


class FolderInUse(ConfigurationError):
    """Another process holds the data folder: name it, or ask it.

    holder: what is known of that process, such as "process 123, running since 2026-01-02 03:04:05".
    """

    def __init__(self, text: str, holder: str = "another process") -> None:
        super().__init__(text)
        self.holder = holder


class NoStore(ConfigurationError):
    """There is no store yet where one was looked for: a worker makes it."""


class InvalidQuery(MatyanError):
    """A query that is none: mend it. str() is a sentence.

    place: the line of the query that it is about, and below it a mark; "": nobody knows.
    """

    def __init__(self, text: str, place: str = "") -> None:
        super().__init__(text)
        self.place = place


class NotFound(MatyanError):
    """What was asked for does not exist: say so and exit with 1."""


class Unavailable(MatyanError):
    """An engine (broker, store, blobs) cannot be used now: back off and try the same again."""


class LockLost(MatyanError):
    """Another process runs the same job now: stop, and exit with 1."""


class Expired(Unavailable):
    """A transaction or a snapshot took longer than the engine gives one: begin anew, with less in it."""


class QueueFull(MatyanError):
    """The producer's budget of bytes is used up: keep the frame and hand it over when there is room."""


class Fenced(MatyanError):
    """Another owner of the partition has committed: drop the batch and read the stored offset again."""


class OffsetConflict(ConfigurationError):
    """The stored offset of a partition and the broker's disagree in a way that only a person can settle: that partition
    stands still, and says so; the others go on."""


class RecordsRefused(MatyanError):
    """The broker has every record of a frame but these, which it will never take: name them to the client."""

    def __init__(self, text: str, records: frozenset[bytes]) -> None:
        super().__init__(text)
        self.records = records


class InvalidRecord(MatyanError):
    """This record can never be applied: it goes to the dead letters, alone."""


class Bug(MatyanError):
    """What a record met in our own code (its cause): the same is tried once more, and then the record, when it is
    alone, goes to the dead letters."""
