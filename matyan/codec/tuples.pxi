# Keys: FoundationDB's tuple layer (its design/tuple.md). Which tuples exist is keys.py's affair.
#
# | tuple code  | item                                                                           |
# |-------------|--------------------------------------------------------------------------------|
# | 00          | None (00 ff inside a nested tuple)                                             |
# | 01, 02      | bytes, str: 00 is escaped as 00 ff, a 00 ends                                  |
# | 05          | nested tuple, a 00 ends                                                        |
# | 0c … 1c     | integer of 14 − code bytes if negative (ones' complement), code − 14 otherwise |
# | 0b, 1d      | integer of more bytes, |n| ≥ 2^64 − 1: length byte (inverted in 0b), then bytes |
# | 21          | double, big endian, so turned that bytes sort like numbers                     |
# | 26, 27      | false, true                                                                    |
cdef enum:
    MAX_NESTING = 64  # deeper than any key or value of the contract (JSON depth 64 included)


cdef inline int bytes_of(uint64_t magnitude) noexcept:
    cdef int n = 0
    while magnitude:
        n += 1
        magnitude >>= 8
    return n


cdef inline int put_int64(uint8_t *p, int64_t number) noexcept:
    # At most 9 bytes; returns how many.
    cdef uint64_t magnitude
    cdef int n
    if number >= 0:
        n = bytes_of(<uint64_t>number)
        p[0] = 0x14 + n
        put_big_endian(p + 1, <uint64_t>number, n)
    else:
        magnitude = 0 - <uint64_t>number
        n = bytes_of(magnitude)
        p[0] = 0x14 - n
        put_big_endian(p + 1, ~magnitude, n)
    return n + 1


cdef int pack_int(Buffer *b, item) except -1:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(item, &overflow)
    cdef uint8_t *p
    cdef bytes digits
    cdef bint negative
    if overflow == 0:
        if number == -1 and PyErr_Occurred() != NULL:
            raise
        p = buffer_take(b, 9)
        b.size += put_int64(p, number) - 9
        return 0
    negative = overflow < 0
    digits = (-item if negative else item).to_bytes((item.bit_length() + 7) // 8, "big")
    if len(digits) > 255:
        raise ValueError("an integer of more than 255 bytes fits no key")
    # 2^64 − 1 has eight bytes and still stands in the long form: so does the tuple layer write it.
    if len(digits) == 8 and digits != b"\xff\xff\xff\xff\xff\xff\xff\xff":
        buffer_byte(b, 0x0C if negative else 0x1C)
    elif negative:
        buffer_byte(b, 0x0B)
        buffer_byte(b, <uint8_t>(len(digits) ^ 0xFF))
    else:
        buffer_byte(b, 0x1D)
        buffer_byte(b, <uint8_t>len(digits))
    if negative:
        digits = bytes([0xFF - digit for digit in digits])
    buffer_bytes(b, PyBytes_AS_STRING(digits), len(digits))
    return 0


cdef int pack_text(Buffer *b, uint8_t code, Cursor *c) except -1:
    cdef Span s
    buffer_byte(b, code)
    span_begin(&s, c)
    while skip_to(c, 0):
        advance(c, 1)
        span_end(&s, c)
        buffer_span(b, &s)
        buffer_byte(b, 0xFF)
        span_begin(&s, c)
    span_end(&s, c)
    buffer_span(b, &s)
    buffer_byte(b, 0)
    return 0


cdef int pack_item(Buffer *b, item, int depth) except -1:
    cdef Cursor text
    cdef uint64_t bits
    cdef uint8_t *p
    if isinstance(item, str):
        cursor_open_text(&text, item)
        pack_text(b, 0x02, &text)
    elif isinstance(item, bool):
        buffer_byte(b, 0x27 if item else 0x26)
    elif isinstance(item, int):
        pack_int(b, item)
    elif isinstance(item, float):
        bits = bits_of(item)
        p = buffer_take(b, 9)
        p[0] = 0x21
        # Negative: all bits turn, else the sign only.
        put_big_endian(p + 1, ~bits if bits >> 63 else bits ^ (<uint64_t>1 << 63), 8)
    elif isinstance(item, bytes):
        cursor_open(&text, item)
        pack_text(b, 0x01, &text)
    elif item is None:
        buffer_byte(b, 0)
        if depth:
            buffer_byte(b, 0xFF)
    elif isinstance(item, (tuple, list)):
        if depth == MAX_NESTING:
            raise ValueError("a tuple nested too deep for a key")
        buffer_byte(b, 0x05)
        for part in item:
            pack_item(b, part, depth + 1)
        buffer_byte(b, 0)
    else:
        raise TypeError(f"{type(item).__name__} has no place in a key")
    return 0


cdef bytes pack_after(bytes prefix, items):
    cdef Buffer b
    buffer_open(&b)
    try:
        buffer_bytes(&b, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix))
        for item in items:
            pack_item(&b, item, 0)
        return buffer_value(&b)
    finally:
        buffer_close(&b)


def pack(items, bytes prefix not None=b""):
    return pack_after(prefix, items)


def key_int(bytes prefix not None, int64_t number):
    cdef uint8_t packed[9]
    cdef int n = put_int64(packed, number)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(prefix)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, size + n)
    memcpy(PyBytes_AS_STRING(out), PyBytes_AS_STRING(prefix), size)
    memcpy(PyBytes_AS_STRING(out) + size, packed, n)
    return out


cdef object unpack_text(Cursor *c, bint is_str):
    """Up to the 00 that no ff follows; the escapes are undone."""
    cdef bytes data
    cdef Span s
    cdef bint escaped = False
    span_begin(&s, c)
    while True:
        if not skip_to(c, 0):
            cut_short()
        span_end(&s, c)
        advance(c, 1)
        if not take_byte(c, 0xFF):
            break
        escaped = True
    if is_str and not escaped:
        return span_text(&s, NULL)
    data = span_bytes(&s)
    if escaped:
        data = data.replace(b"\x00\xff", b"\x00")
    return data.decode("utf-8") if is_str else data


cdef object unpack_int(Cursor *c, int n, bint negative):
    """An integer of `n` bytes, at most 8."""
    cdef uint64_t number = 0
    take_big_endian(c, n, &number)
    if negative:
        number = ~number
        if n < 8:
            number &= (<uint64_t>1 << (8 * n)) - 1
    if bytes_of(number) != n or number == 0xFFFFFFFFFFFFFFFF:
        raise ValueError("an integer longer than need be")
    return -<object>number if negative else number


cdef object unpack_long_int(Cursor *c, bint negative):
    cdef int n = take_u8(c)
    if negative:
        n ^= 0xFF
    number = int.from_bytes(take_bytes(c, n), "big")
    if negative:
        number = ((<object>1 << 8 * n) - 1) - number
    if number < 0xFFFFFFFFFFFFFFFF or (number.bit_length() + 7) // 8 != n:
        raise ValueError("an integer longer than need be")
    return -number if negative else number


cdef object unpack_item(Cursor *c, int depth):
    cdef uint8_t code = <uint8_t>take_u8(c)
    cdef uint64_t number = 0
    if code == 0x02:
        return unpack_text(c, True)
    if 0x14 <= code <= 0x1C:
        return unpack_int(c, code - 0x14, False)
    if 0x0C <= code < 0x14:
        return unpack_int(c, 0x14 - code, True)
    if code == 0x21:
        take_big_endian(c, 8, &number)
        return double_of(number ^ (<uint64_t>1 << 63) if number >> 63 else ~number)
    if code == 0x27:
        return True
    if code == 0x26:
        return False
    if code == 0x01:
        return unpack_text(c, False)
    if code == 0x00:
        if depth and take_u8(c) != 0xFF:
            cut_short()
        return None
    if code == 0x05:
        if depth == MAX_NESTING:
            raise ValueError("nested too deep")
        return unpack_nested(c, depth + 1)
    if code == 0x0B or code == 0x1D:
        return unpack_long_int(c, code == 0x0B)
    raise ValueError(f"{code:#04x} starts no item")


cdef tuple unpack_nested(Cursor *c, int depth):
    """Items up to a 00 that no ff follows (00 ff is None)."""
    parts = []
    while peek(c) != 0 or peek_at(c, 1) == 0xFF:
        parts.append(unpack_item(c, depth))
    advance(c, 1)
    return tuple(parts)


def unpack(bytes key not None, Py_ssize_t start=0):
    cdef Cursor c
    if start < 0 or start > PyBytes_GET_SIZE(key):
        raise ValueError("the start lies outside of the key")
    cursor_open(&c, key)
    advance(&c, start)
    items = []
    while left(&c):
        items.append(unpack_item(&c, 0))
    return tuple(items)


def range_of(bytes prefix not None):
    return prefix + b"\x00", prefix + b"\xff"
