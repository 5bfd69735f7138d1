# The buffer: where the codec writes. It owns its memory; a pointer into it dies with the next call that may grow it.
# `buffer_*` make room themselves; `put*` write where the caller has reserved room. Nothing foreign is read here.

cdef enum:
    ON_STACK_BYTES = 480
    SLACK_BYTES = 32  # reserved behind a text for copies of constant length (put_span_of)


cdef struct Buffer:
    uint8_t *data
    Py_ssize_t size
    Py_ssize_t room
    uint8_t small[ON_STACK_BYTES]  # so that a key costs no malloc


cdef inline void buffer_open(Buffer *b) noexcept:
    b.data = b.small
    b.size = 0
    b.room = ON_STACK_BYTES


cdef inline void buffer_close(Buffer *b) noexcept:
    if b.data != b.small:
        free(b.data)


cdef int buffer_grow(Buffer *b, Py_ssize_t more) except -1:
    return buffer_resize(b, max(2 * b.room, b.size + more))


cdef int buffer_resize(Buffer *b, Py_ssize_t room) except -1:
    # `room` is at least what is in it.
    cdef uint8_t *data
    room = max(room, 1)
    if b.data == b.small:
        if room <= ON_STACK_BYTES:
            return 0
        data = <uint8_t *>malloc(room)
        if data != NULL:
            memcpy(data, b.small, b.size)
    else:
        data = <uint8_t *>realloc(b.data, room)
    if data == NULL:
        raise MemoryError()
    b.data = data
    b.room = room
    return 0


cdef inline uint8_t *buffer_take(Buffer *b, Py_ssize_t n) except NULL:
    # n more bytes, to be written at once: the pointer dies with the next take.
    if b.size + n > b.room:
        buffer_grow(b, n)
    b.size += n
    return b.data + b.size - n


cdef inline int buffer_byte(Buffer *b, uint8_t byte) except -1:
    buffer_take(b, 1)[0] = byte
    return 0


cdef inline int buffer_bytes(Buffer *b, const void *data, Py_ssize_t n) except -1:
    memcpy(buffer_take(b, n), data, n)
    return 0


cdef inline bytes buffer_value(Buffer *b):
    return PyBytes_FromStringAndSize(<char *>b.data, b.size)


cdef inline int reserve(Buffer *b, Py_ssize_t more) except -1:
    if b.room - b.size < more:
        buffer_grow(b, more)
    return 0


cdef inline void put(Buffer *b, const void *data, Py_ssize_t size) noexcept:
    memcpy(b.data + b.size, data, size)
    b.size += size


cdef inline void put_big_endian(uint8_t *p, uint64_t number, int n) noexcept:
    while n > 0:
        n -= 1
        p[n] = <uint8_t>number
        number >>= 8


cdef inline uint64_t bits_of(double value) noexcept:
    cdef uint64_t bits
    memcpy(&bits, &value, 8)
    return bits


cdef inline double double_of(uint64_t bits) noexcept:
    cdef double value
    memcpy(&value, &bits, 8)
    return value
