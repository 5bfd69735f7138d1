# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Pure bytes <-> messages, records, packed keys and points.

All that is known about formats lives here; no I/O, no settings, no policy. A limit is an argument, or the contract's
(codec/contract.pxi). One family a file, encode beside decode:

- contract: limits and names, each stated once
- buffer, cursor: writing and reading. One bounds-checked cursor does all the reading of foreign bytes.
- columns: points in memory; chunks and compatible: points as they are stored, in the two layouts
- tuples, msgpack: keys and values
- json, times: what a JSON text holds
- schema, members, names, limits: which messages there are, and what may stand in them
- messages, stream: a client's frame -> records, when it is there as a whole and while it arrives
- records: records -> what a worker applies
- rows: scanned rows -> what a reader sees of them
- tree_stream: what the read API answers
- websocket: the frames of RFC 6455, which are not the client's frames above
- murmur2: Kafka's hash of a key

Each file may use those that are included before it.
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
include "codec/shape.pxi"
include "codec/msgpack.pxi"
include "codec/summary.pxi"
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
include "codec/rows.pxi"
include "codec/tree_stream.pxi"
include "codec/websocket.pxi"
include "codec/murmur2.pxi"
