# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Pure bytes <-> messages, records, packed keys and points.

Everything about formats lives here; no I/O, no settings, no policy: limits come in as arguments or are
the contract's constants. One bounds-checked cursor owns pointer arithmetic. Encode stands beside decode,
one family a file: columns (points in memory), json (frames and records), stream (frames as they arrive), tuples (keys and
msgpack), chunks (the packed layout), limits (of what is stored), frames (WebSocket).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Occurred
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.math cimport NAN, isfinite, isinf, llrint
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from datetime import datetime

include "codec/contract.pxi"
include "codec/buffer.pxi"
include "codec/cursor.pxi"
include "codec/columns.pxi"
include "codec/tuples.pxi"
include "codec/msgpack.pxi"
include "codec/compatible.pxi"
include "codec/chunks.pxi"
include "codec/json.pxi"
include "codec/times.pxi"
include "codec/schema.pxi"
include "codec/members.pxi"
include "codec/names.pxi"
include "codec/limits.pxi"
include "codec/messages.pxi"
include "codec/stream.pxi"
include "codec/records.pxi"
include "codec/websocket.pxi"
