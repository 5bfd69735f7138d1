# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Pure bytes <-> messages, records, packed keys and points.

Everything about formats lives here; no I/O, no settings, no policy: limits come in as arguments or are
the contract's constants. One bounds-checked cursor owns pointer arithmetic. Encode stands beside decode,
one family a file: columns (points in memory), json (frames and records), tuples (keys and msgpack), chunks
(the packed layout).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy

include "_codec_columns.pxi"
include "_codec_json.pxi"
include "_codec_tuples.pxi"
include "_codec_chunks.pxi"
