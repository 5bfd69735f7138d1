"""The states of a connection of the lane: what each means, and which may follow which.

A connection has two at a time, because they do not depend on each other: how near it is to its end (`Life`), and whether its
socket is read (`Reading`). No sockets, no clock and no frames here: `lane.py` acts on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class Life(Enum):
    """How near a connection is to its end; the last three in the words of RFC 6455, section 7.1."""

    OPEN = auto()
    DRAINING = auto()
    """The server is shutting down. Frames are still taken; when all are answered, the close frame is sent."""
    ENDING = auto()
    """The client sent a close frame, or broke a rule. No more frames are taken; the close frame waits until the replies are sent."""
    CLOSING = auto()
    """The close frame is sent. The client has a short time to end the connection by itself."""
    CLOSED = auto()
    """The socket is closed."""


class Reading(Enum):
    """Whether the socket is read, that is, stands among those that the lane waits for; if not, what for."""

    ON = auto()
    HELD_BACK = auto()
    """Backpressure: too many frames wait for their replies, or the client does not read the replies."""
    NO_ROOM = auto()
    """What was read waits until the budget of the process has room for it."""
    NO_TURN = auto()
    """What was read waits until others had a turn, or until a thread has looked at it."""


# By these names they cost the path of a frame nothing: Python 3.11 calls a function for each `Life.OPEN`.
OPEN: Final = Life.OPEN
DRAINING: Final = Life.DRAINING
ENDING: Final = Life.ENDING
CLOSING: Final = Life.CLOSING
CLOSED: Final = Life.CLOSED
ON: Final = Reading.ON
HELD_BACK: Final = Reading.HELD_BACK
NO_ROOM: Final = Reading.NO_ROOM
NO_TURN: Final = Reading.NO_TURN

LIFE_AFTER: Final[Mapping[Life, frozenset[Life]]] = {
    OPEN: frozenset({DRAINING, ENDING, CLOSING, CLOSED}),
    DRAINING: frozenset({ENDING, CLOSING, CLOSED}),
    ENDING: frozenset({CLOSING, CLOSED}),
    CLOSING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}
READING_AFTER: Final[Mapping[Reading, frozenset[Reading]]] = {
    ON: frozenset({HELD_BACK, NO_ROOM, NO_TURN}),
    HELD_BACK: frozenset({ON, NO_ROOM, NO_TURN}),
    # What waited is tried again before the socket is.
    NO_ROOM: frozenset({HELD_BACK}),
    NO_TURN: frozenset({HELD_BACK}),
}
