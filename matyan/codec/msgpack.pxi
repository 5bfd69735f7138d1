# Stored values: msgpack (its spec.md), encoded only: Python modules decode with the msgpack package.
# Which values exist is the affair of the modules in rules/.

cdef inline int put_msgpack_int(uint8_t *p, int64_t number) noexcept:
    # At most 9 bytes, the shortest form; returns how many.
    cdef int n
    if 0 <= number < 0x80 or -0x20 <= number < 0:
        p[0] = <uint8_t>number
        return 1
    if number >= 0:
        n = 0 if number < 0x100 else 1 if number < 0x10000 else 2 if number <= 0xFFFFFFFF else 3
        p[0] = 0xCC + n
    else:
        n = 0 if number >= -0x80 else 1 if number >= -0x8000 else 2 if number >= -0x80000000 else 3
        p[0] = 0xD0 + n
    put_big_endian(p + 1, <uint64_t>number, 1 << n)
    return 1 + (1 << n)


cdef inline int put_msgpack_double(uint8_t *p, double value) noexcept:
    p[0] = 0xCB
    put_big_endian(p + 1, bits_of(value), 8)
    return 9


cdef int msgpack_head(Buffer *b, uint8_t short_code, int short_room, uint8_t code8, uint8_t code16, size_t n) except -1:
    # The head of a string, an array or a map: the length in the code, or in 1, 2 or 4 bytes after it.
    cdef uint8_t *p
    if n < <size_t>short_room:
        buffer_byte(b, short_code | <uint8_t>n)
    elif code8 and n < 0x100:
        p = buffer_take(b, 2)
        p[0] = code8
        p[1] = <uint8_t>n
    elif n < 0x10000:
        p = buffer_take(b, 3)
        p[0] = code16
        put_big_endian(p + 1, n, 2)
    elif n <= 0xFFFFFFFF:
        p = buffer_take(b, 5)
        p[0] = code16 + 1
        put_big_endian(p + 1, n, 4)
    else:
        raise ValueError("too long for msgpack")
    return 0


cdef int pack_msgpack_text(Buffer *b, str item) except -1:
    cdef Cursor c
    cdef Span s
    cursor_open_text(&c, item)
    s = rest_of(&c)
    msgpack_head(b, 0xA0, 32, 0xD9, 0xDA, span_size(&s))
    return buffer_span(b, &s)


cdef int pack_msgpack_int(Buffer *b, item) except -1:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(item, &overflow)
    cdef uint64_t unsigned
    cdef uint8_t *p
    if overflow == 0:
        if number == -1 and PyErr_Occurred() != NULL:
            raise
        p = buffer_take(b, 9)
        b.size += put_msgpack_int(p, number) - 9
    else:
        unsigned = item  # OverflowError outside of −2^63 … 2^64−1
        p = buffer_take(b, 9)
        p[0] = 0xCF
        put_big_endian(p + 1, unsigned, 8)
    return 0


cdef int pack_msgpack(Buffer *b, item, int depth) except -1:
    cdef uint8_t *p
    if isinstance(item, str):
        pack_msgpack_text(b, item)
    elif item is None:
        buffer_byte(b, 0xC0)
    elif isinstance(item, bool):
        buffer_byte(b, 0xC3 if item else 0xC2)
    elif isinstance(item, int):
        pack_msgpack_int(b, item)
    elif isinstance(item, float):
        put_msgpack_double(buffer_take(b, 9), item)
    elif isinstance(item, dict):
        if depth == 2 * MAX_NESTING:
            raise ValueError("nested too deep")
        msgpack_head(b, 0x80, 16, 0, 0xDE, len(item))
        for key, value in (<dict>item).items():
            pack_msgpack(b, key, depth + 1)
            pack_msgpack(b, value, depth + 1)
    elif isinstance(item, (list, tuple)):
        if depth == 2 * MAX_NESTING:
            raise ValueError("nested too deep")
        msgpack_head(b, 0x90, 16, 0, 0xDC, len(item))
        for value in item:
            pack_msgpack(b, value, depth + 1)
    elif isinstance(item, bytes):
        msgpack_head(b, 0, 0, 0xC4, 0xC5, PyBytes_GET_SIZE(item))
        buffer_bytes(b, PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
    elif isinstance(item, datetime) and item.tzinfo is not None:
        # Ext type 1, nine bytes: a packed float of epoch seconds (contract, section 4).
        p = buffer_take(b, 12)
        p[0] = 0xC7
        p[1] = 9
        p[2] = 1
        put_msgpack_double(p + 3, item.timestamp())
    else:
        raise TypeError(f"{type(item).__name__} has no place in a value")
    return 0


def msgpack_value(item):
    cdef Buffer b
    buffer_open(&b)
    try:
        pack_msgpack(&b, item, 0)
        return buffer_value(&b)
    finally:
        buffer_close(&b)


cdef inline bytes packed_int(int64_t number):
    cdef uint8_t p[9]
    cdef int n = put_msgpack_int(p, number)
    return PyBytes_FromStringAndSize(<char *>p, n)


cdef inline bytes packed_double(double value):
    cdef uint8_t p[9]
    put_msgpack_double(p, value)
    return PyBytes_FromStringAndSize(<char *>p, 9)


def msgpack_float(double value):
    return packed_double(value)


def msgpack_int(int64_t value):
    return packed_int(value)
