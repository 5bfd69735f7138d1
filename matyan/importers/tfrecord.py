"""Files of TFRecord framing, record by record, for as long as they are whole.

The format is described in TensorFlow's `tfrecord` tutorial: the length (8 bytes, little endian), its masked CRC-32C, the data, its
masked CRC-32C. Nothing is known here of what stands in the records.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from matyan.importers.protobuf import missing
from matyan.importers.source import CUT, Report

_HEAD: Final = struct.Struct("<QI")
_SUM: Final = struct.Struct("<I")
_BUFFER_BYTES: Final = 1 << 20


def checksum(extra: str) -> Callable[[bytes], int]:
    """The masked CRC-32C.

    Raises:
        ConfigurationError: the library is not installed.
    """
    try:
        import google_crc32c
    except ImportError:
        raise missing(extra, "google-crc32c") from None
    crc: Callable[[bytes], int] = google_crc32c.value

    def masked(data: bytes) -> int:
        found = crc(data)
        return (((found >> 15) | (found << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    return masked


def records(file: Path, masked: Callable[[bytes], int], report: Report) -> Iterator[bytes]:
    """The records of a file. One whose data is damaged is skipped; behind a damaged length nothing can be read.

    Raises:
        OSError: the file cannot be read.
    """
    at = 0
    with open(file, "rb", buffering=_BUFFER_BYTES) as opened:
        end = opened.seek(0, 2)
        opened.seek(0)
        read = opened.read
        while head := read(12):
            if len(head) < 12:
                report.leave_out(CUT, f"{file.name} at byte {at}")
                return
            length, sum_ = _HEAD.unpack(head)
            if masked(head[:8]) != sum_:
                report.damage(
                    "bytes behind a damaged record, which cannot be read",
                    f"{file.name} from byte {at}, {end - at} bytes",
                )
                return
            if length > end - at - 16:
                report.leave_out(CUT, f"{file.name} at byte {at}")
                return
            data = read(length)
            foot = read(4)
            if len(foot) < 4:
                report.leave_out(CUT, f"{file.name} at byte {at}")
                return
            if masked(data) != _SUM.unpack(foot)[0]:
                report.damage("damaged record (its checksum is wrong)", f"{file.name} at byte {at}")
            else:
                yield data
            at += length + 16
