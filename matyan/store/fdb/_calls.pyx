# cython: language_level=3, boundscheck=False, wraparound=False
"""Calls of FoundationDB's C client (fdb_c.h) that are made for each row, or that wait: in one go, and without Python's lock.

Through ctypes each call gives the lock away: 12,000 of them took 68 ms beside a busy thread, one call for all of them 19. And
a callback of the client's network thread would hold up its other work until it got the lock: so nobody is called back, whoever
needs an answer waits for it in a thread of its own. The functions come as addresses from the library that the binding has loaded.
No keys and no policy; the pointers that are passed on belong to bytes which the caller holds meanwhile.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc

ctypedef const uint8_t* chars


cdef extern from *:
    """
    #pragma pack(push, 4)
    typedef struct {
        const uint8_t* key;
        int key_length;
        const uint8_t* value;
        int value_length;
    } matyan_fdb_pair;
    #pragma pack(pop)
    """
    ctypedef struct Pair "matyan_fdb_pair":
        chars key
        int key_length
        chars value
        int value_length


ctypedef void (*set_t)(void*, chars, int, chars, int) noexcept nogil
ctypedef void (*clear_t)(void*, chars, int) noexcept nogil
ctypedef void (*clear_range_t)(void*, chars, int, chars, int) noexcept nogil
ctypedef int (*option_t)(void*, int, chars, int) noexcept nogil
ctypedef int (*conflict_t)(void*, chars, int, chars, int, int) noexcept nogil
ctypedef void* (*commit_t)(void*) noexcept nogil
ctypedef void* (*on_error_t)(void*, int) noexcept nogil
ctypedef void* (*get_t)(void*, chars, int, int) noexcept nogil
ctypedef void* (*get_range_t)(
    void*, chars, int, int, int, chars, int, int, int, int, int, int, int, int, int
) noexcept nogil
ctypedef int (*wait_t)(void*) noexcept nogil
ctypedef void (*destroy_t)(void*) noexcept nogil
ctypedef int (*value_t)(void*, int*, chars*, int*) noexcept nogil
ctypedef int (*pairs_t)(void*, Pair**, int*, int*) noexcept nogil

# FDBNetworkOption and its like, from fdb_c_options.g.h.
cdef enum:
    NEXT_WRITE_NO_WRITE_CONFLICT_RANGE = 30
    CONFLICT_RANGE_WRITE = 1
    WANT_ALL = -2

cdef struct Write:
    chars key
    int key_length
    # NULL: it is cleared.
    chars value
    int value_length
    bint unranged


FUNCTIONS = (
    "fdb_transaction_set",
    "fdb_transaction_clear",
    "fdb_transaction_clear_range",
    "fdb_transaction_set_option",
    "fdb_transaction_add_conflict_range",
    "fdb_transaction_commit",
    "fdb_transaction_on_error",
    "fdb_transaction_get",
    "fdb_transaction_get_range",
    "fdb_future_block_until_ready",
    "fdb_future_get_error",
    "fdb_future_destroy",
    "fdb_future_get_value",
    "fdb_future_get_keyvalue_array",
)


cdef class Calls:
    """
    Args:
        addresses: of FUNCTIONS, in their order.
        failed: makes an exception of an error code.
    """

    cdef set_t _set
    cdef clear_t _clear
    cdef clear_range_t _clear_range
    cdef option_t _option
    cdef conflict_t _conflict
    cdef commit_t _commit
    cdef on_error_t _on_error
    cdef get_t _get
    cdef get_range_t _get_range
    cdef wait_t _wait
    cdef wait_t _error
    cdef destroy_t _destroy
    cdef value_t _value
    cdef pairs_t _pairs
    cdef object _failed

    def __init__(self, addresses, failed):
        cdef size_t[14] at = addresses
        self._set = <set_t>at[0]
        self._clear = <clear_t>at[1]
        self._clear_range = <clear_range_t>at[2]
        self._option = <option_t>at[3]
        self._conflict = <conflict_t>at[4]
        self._commit = <commit_t>at[5]
        self._on_error = <on_error_t>at[6]
        self._get = <get_t>at[7]
        self._get_range = <get_range_t>at[8]
        self._wait = <wait_t>at[9]
        self._error = <wait_t>at[10]
        self._destroy = <destroy_t>at[11]
        self._value = <value_t>at[12]
        self._pairs = <pairs_t>at[13]
        self._failed = failed

    cdef int _finish(self, void* future) noexcept nogil:
        """Waits; returns the future's error code, and destroys it."""
        cdef int code = self._wait(future)
        if code == 0:
            code = self._error(future)
        self._destroy(future)
        return code

    def commit(self, size_t transaction):
        """Commits and waits. Returns the error code, 0: it is durable."""
        cdef int code
        with nogil:
            code = self._finish(self._commit(<void*>transaction))
        return code

    def on_error(self, size_t transaction, int error):
        """Waits as long as the client wants to before another attempt. Returns 0, or the error code when there is to be none."""
        cdef int code
        with nogil:
            code = self._finish(self._on_error(<void*>transaction, error))
        return code

    def get(self, size_t transaction, bytes key, bint snapshot):
        """Begins to read the value of a key."""
        cdef Pending pending = Pending.__new__(Pending)
        pending._calls = self
        pending._destroy = self._destroy
        pending._future = self._get(
            <void*>transaction, <chars>PyBytes_AS_STRING(key), <int>PyBytes_GET_SIZE(key), snapshot
        )
        return pending

    def get_range(
        self, size_t transaction, bytes begin, bytes end, int limit, int target_bytes, bint snapshot, bint reverse
    ):
        """Begins to read the pairs of begin <= key < end: `limit` of them or about `target_bytes` at most (0: no such bound)."""
        cdef Pending pending = Pending.__new__(Pending)
        pending._calls = self
        pending._destroy = self._destroy
        # first_greater_or_equal of both keys, as FDB_KEYSEL_FIRST_GREATER_OR_EQUAL has it.
        pending._future = self._get_range(
            <void*>transaction,
            <chars>PyBytes_AS_STRING(begin), <int>PyBytes_GET_SIZE(begin), 0, 1,
            <chars>PyBytes_AS_STRING(end), <int>PyBytes_GET_SIZE(end), 0, 1,
            limit, target_bytes, WANT_ALL, 1, snapshot, reverse,
        )
        return pending

    def write(self, size_t transaction, list cleared, dict rows, set unranged, list ranges):
        """Hands a transaction's writes over.

        Args:
            cleared: ranges of keys (begin, end), which are cleared before anything is set.
            rows: keys and their values; None: the key is cleared.
            unranged: keys of `rows` that are to conflict with nothing.
            ranges: of keys, with which the transaction conflicts beside those of its rows.

        Returns the bytes of all keys and values.

        Raises:
            MemoryError
        """
        cdef void* tr = <void*>transaction
        cdef Py_ssize_t count = len(rows), i = 0
        cdef int64_t size = 0
        cdef Write* writes = <Write*>malloc((count or 1) * sizeof(Write))
        cdef bytes key, begin, end
        if writes is NULL:
            raise MemoryError
        try:
            for begin, end in cleared:
                self._clear_range(
                    tr, <chars>PyBytes_AS_STRING(begin), <int>PyBytes_GET_SIZE(begin),
                    <chars>PyBytes_AS_STRING(end), <int>PyBytes_GET_SIZE(end),
                )
                size += PyBytes_GET_SIZE(begin) + PyBytes_GET_SIZE(end)
            for begin, end in ranges:
                self._conflict(
                    tr, <chars>PyBytes_AS_STRING(begin), <int>PyBytes_GET_SIZE(begin),
                    <chars>PyBytes_AS_STRING(end), <int>PyBytes_GET_SIZE(end), CONFLICT_RANGE_WRITE,
                )
            for key, value in rows.items():
                writes[i].key = <chars>PyBytes_AS_STRING(key)
                writes[i].key_length = <int>PyBytes_GET_SIZE(key)
                size += writes[i].key_length
                if value is None:
                    writes[i].value = NULL
                else:
                    writes[i].value = <chars>PyBytes_AS_STRING(<bytes>value)
                    writes[i].value_length = <int>PyBytes_GET_SIZE(<bytes>value)
                    size += writes[i].value_length
                writes[i].unranged = key in unranged
                i += 1
            with nogil:
                for i in range(count):
                    if writes[i].unranged:
                        self._option(tr, NEXT_WRITE_NO_WRITE_CONFLICT_RANGE, NULL, 0)
                    if writes[i].value is NULL:
                        self._clear(tr, writes[i].key, writes[i].key_length)
                    else:
                        self._set(
                            tr, writes[i].key, writes[i].key_length, writes[i].value, writes[i].value_length
                        )
        finally:
            free(writes)
        return size


cdef class Pending:
    """A read that was begun: wait for it once or often, from one thread at a time."""

    cdef Calls _calls
    cdef void* _future
    # Its own: the garbage collector may have taken `_calls` away by the end.
    cdef destroy_t _destroy

    def __dealloc__(self):
        if self._future is not NULL:
            self._destroy(self._future)

    cdef int _wait(self) except -1:
        cdef int code
        with nogil:
            code = self._calls._wait(self._future)
            if code == 0:
                code = self._calls._error(self._future)
        if code:
            raise self._calls._failed(code)
        return 0

    def value(self):
        """What stands under the key, or None.

        Raises:
            what `Calls` was told: the read failed.
        """
        cdef int present = 0, length = 0
        cdef chars text = NULL
        self._wait()
        cdef int code = self._calls._value(self._future, &present, &text, &length)
        if code:
            raise self._calls._failed(code)
        return PyBytes_FromStringAndSize(<const char*>text, length) if present else None

    def pairs(self):
        """The pairs that were read, and whether there are more.

        Raises:
            what `Calls` was told: the read failed.
        """
        cdef Pair* rows = NULL
        cdef int count = 0, more = 0, i
        self._wait()
        cdef int code = self._calls._pairs(self._future, &rows, &count, &more)
        if code:
            raise self._calls._failed(code)
        cdef list found = []
        for i in range(count):
            found.append((
                PyBytes_FromStringAndSize(<const char*>rows[i].key, rows[i].key_length),
                PyBytes_FromStringAndSize(<const char*>rows[i].value, rows[i].value_length),
            ))
        return found, bool(more)
