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
    NESTING = 64  # deeper than any key or value of the contract (JSON depth 64 included)


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


cdef int pack_text(Buffer *b, uint8_t code, const char *text, Py_ssize_t n) except -1:
    cdef const char *end = text + n
    cdef const char *zero
    buffer_byte(b, code)
    while True:
        zero = <const char *>memchr(text, 0, end - text)
        if zero == NULL:
            break
        buffer_bytes(b, text, zero - text)
        buffer_bytes(b, b"\x00\xff", 2)
        text = zero + 1
    buffer_bytes(b, text, end - text)
    buffer_byte(b, 0)
    return 0


cdef int pack_item(Buffer *b, item, int depth) except -1:
    cdef Py_ssize_t n
    cdef const char *text
    cdef uint64_t bits
    cdef uint8_t *p
    if isinstance(item, str):
        text = PyUnicode_AsUTF8AndSize(item, &n)
        pack_text(b, 0x02, text, n)
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
        pack_text(b, 0x01, PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
    elif item is None:
        buffer_byte(b, 0)
        if depth:
            buffer_byte(b, 0xFF)
    elif isinstance(item, (tuple, list)):
        if depth == NESTING:
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


cdef object unpack_text(Cursor *c):
    # Up to the 00 that no ff follows; the escapes are undone.
    cdef const uint8_t *begin = c.at
    cdef const uint8_t *zero
    cdef const uint8_t *scan = c.at
    cdef bint escaped = False
    cdef bytes out
    while True:
        zero = <const uint8_t *>memchr(scan, 0, c.end - scan)
        if zero == NULL:
            raise ValueError("cut short")
        if zero + 1 == c.end or zero[1] != 0xFF:
            break
        escaped = True
        scan = zero + 2
    c.at = zero + 1
    out = PyBytes_FromStringAndSize(<const char *>begin, zero - begin)
    return out.replace(b"\x00\xff", b"\x00") if escaped else out


cdef object unpack_long_int(Cursor *c, bint negative):
    cdef int n = cursor_take(c, 1)[0]
    cdef const uint8_t *p
    if negative:
        n ^= 0xFF
    p = cursor_take(c, n)
    number = int.from_bytes(PyBytes_FromStringAndSize(<const char *>p, n), "big")
    if negative:
        number = ((<object>1 << 8 * n) - 1) - number
    if number < 0xFFFFFFFFFFFFFFFF or (number.bit_length() + 7) // 8 != n:
        raise ValueError("an integer longer than need be")
    return -number if negative else number


cdef object unpack_item(Cursor *c, int depth):
    cdef uint8_t code = cursor_take(c, 1)[0]
    cdef uint64_t number
    cdef int n
    if code == 0x02:
        return unpack_text(c).decode("utf-8")
    if 0x14 <= code <= 0x1C:
        n = code - 0x14
        number = get_big_endian(cursor_take(c, n), n)
        if bytes_of(number) != n or number == 0xFFFFFFFFFFFFFFFF:
            raise ValueError("an integer longer than need be")
        return number
    if 0x0C <= code < 0x14:
        n = 0x14 - code
        number = ~get_big_endian(cursor_take(c, n), n)
        if n < 8:
            number &= (<uint64_t>1 << (8 * n)) - 1
        if bytes_of(number) != n or number == 0xFFFFFFFFFFFFFFFF:
            raise ValueError("an integer longer than need be")
        return -<object>number
    if code == 0x21:
        number = get_big_endian(cursor_take(c, 8), 8)
        return double_of(number ^ (<uint64_t>1 << 63) if number >> 63 else ~number)
    if code == 0x27:
        return True
    if code == 0x26:
        return False
    if code == 0x01:
        return unpack_text(c)
    if code == 0x00:
        if depth and cursor_take(c, 1)[0] != 0xFF:
            raise ValueError("cut short")
        return None
    if code == 0x05:
        if depth == NESTING:
            raise ValueError("nested too deep")
        parts = []
        while True:
            if cursor_take(c, 1)[0] == 0 and (c.at == c.end or c.at[0] != 0xFF):
                return tuple(parts)
            c.at -= 1
            parts.append(unpack_item(c, depth + 1))
    if code == 0x0B or code == 0x1D:
        return unpack_long_int(c, code == 0x0B)
    raise ValueError(f"{code:#04x} starts no item")


def unpack(bytes key not None, Py_ssize_t start=0):
    cdef Cursor c
    if start < 0 or start > PyBytes_GET_SIZE(key):
        raise ValueError("the start lies outside of the key")
    c.at = <const uint8_t *>PyBytes_AS_STRING(key) + start
    c.end = <const uint8_t *>PyBytes_AS_STRING(key) + PyBytes_GET_SIZE(key)
    items = []
    while c.at < c.end:
        items.append(unpack_item(&c, 0))
    return tuple(items)


def range_of(bytes prefix not None):
    return prefix + b"\x00", prefix + b"\xff"
