"""Values that nobody is shown, and the files that they can be read from.

Which settings are secret is `settings.py`'s affair. Nothing here puts a value, or a part of a file, into an error.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from matyan.errors import ConfigurationError

MAX_FILE_BYTES: Final = 65_536
"""No secret that a service takes is as long; whoever names a device or a log by mistake hears it soon."""


class Secret:
    """A text that no repr, str, format or log shows; `reveal` gives it to the one who must have it.

    No dataclass: asdict and pretty printers would look into it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "(hidden)"


def read_file(variable: str, path: str) -> str:
    """The text of the file that `variable` names, without the line ends after it: editors and `echo` write one.

    Raises:
        ConfigurationError: it cannot be read, or holds no text.
    """
    text, trouble = read_small(path)
    if trouble:
        # Outside of every handler, whose exceptions can hold what was read. Nor is the path shown: to write the secret
        # itself into this variable is an easy mistake.
        raise ConfigurationError(
            f"{variable} names {trouble}: expected the path of a file that this user may read, with the secret in it, "
            "one line of UTF-8."
        )
    return text


def read_small(path: str) -> tuple[str, str]:
    """What a file of at most MAX_FILE_BYTES holds, and what is wrong with it: one of them is empty."""
    try:
        # Without waiting: to open a FIFO that nobody writes to would never end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return "", "something that is no regular file"
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return "", "no file that there is"
    except OSError as error:
        return "", f"a file that cannot be read ({error.strerror})"
    if len(data) > MAX_FILE_BYTES:
        return "", f"a file of more than {MAX_FILE_BYTES:,} bytes"
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        return "", "a file that is not UTF-8"
    return (text, "") if text.strip() else ("", "a file that is empty")
