# Keys and values: FoundationDB's tuple layer (its design/tuple.md) and msgpack (its spec.md).
# Bytes only: which tuples and values exist is keys.py's and sequences.py's business.
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
    ON_STACK = 480


# --- a growing buffer: the one place that writes -------------------------------------------------

cdef struct Buffer:
    uint8_t *data
    Py_ssize_t size
    Py_ssize_t room
    uint8_t small[ON_STACK]  # so that a key costs no malloc


cdef inline void buffer_open(Buffer *b) noexcept:
    b.data = b.small
    b.size = 0
    b.room = ON_STACK


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
        if room <= ON_STACK:
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


cdef inline void put_big_endian(uint8_t *p, uint64_t number, int n) noexcept:
    while n > 0:
        n -= 1
        p[n] = <uint8_t>number
        number >>= 8


cdef inline uint64_t get_big_endian(const uint8_t *p, int n) noexcept:
    cdef uint64_t number = 0
    cdef int i
    for i in range(n):
        number = number << 8 | p[i]
    return number


cdef inline uint64_t bits_of(double value) noexcept:
    cdef uint64_t bits
    memcpy(&bits, &value, 8)
    return bits


cdef inline double double_of(uint64_t bits) noexcept:
    cdef double value
    memcpy(&value, &bits, 8)
    return value


# --- tuples --------------------------------------------------------------------------------------

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


cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end


cdef inline const uint8_t *cursor_take(Cursor *c, Py_ssize_t n) except NULL:
    # Check, take, advance: the only way to read.
    if n < 0 or n > c.end - c.at:
        raise ValueError("cut short")
    c.at += n
    return c.at - n


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


# --- msgpack -------------------------------------------------------------------------------------

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


cdef int msgpack_item(Buffer *b, item, int depth) except -1:
    cdef Py_ssize_t n
    cdef const char *text
    cdef int overflow = 0
    cdef long long number
    cdef uint64_t unsigned
    cdef uint8_t *p
    if isinstance(item, str):
        text = PyUnicode_AsUTF8AndSize(item, &n)
        msgpack_head(b, 0xA0, 32, 0xD9, 0xDA, n)
        buffer_bytes(b, text, n)
    elif item is None:
        buffer_byte(b, 0xC0)
    elif isinstance(item, bool):
        buffer_byte(b, 0xC3 if item else 0xC2)
    elif isinstance(item, int):
        number = PyLong_AsLongLongAndOverflow(item, &overflow)
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
    elif isinstance(item, float):
        put_msgpack_double(buffer_take(b, 9), item)
    elif isinstance(item, dict):
        if depth == 2 * NESTING:
            raise ValueError("nested too deep")
        msgpack_head(b, 0x80, 16, 0, 0xDE, len(item))
        for key, value in (<dict>item).items():
            msgpack_item(b, key, depth + 1)
            msgpack_item(b, value, depth + 1)
    elif isinstance(item, (list, tuple)):
        if depth == 2 * NESTING:
            raise ValueError("nested too deep")
        msgpack_head(b, 0x90, 16, 0, 0xDC, len(item))
        for value in item:
            msgpack_item(b, value, depth + 1)
    elif isinstance(item, bytes):
        n = PyBytes_GET_SIZE(item)
        msgpack_head(b, 0, 0, 0xC4, 0xC5, n)
        buffer_bytes(b, PyBytes_AS_STRING(item), n)
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
        msgpack_item(&b, item, 0)
        return buffer_value(&b)
    finally:
        buffer_close(&b)


def msgpack_float(double value):
    cdef uint8_t p[9]
    put_msgpack_double(p, value)
    return PyBytes_FromStringAndSize(<char *>p, 9)


def msgpack_int(int64_t value):
    cdef uint8_t p[9]
    cdef int n = put_msgpack_int(p, value)
    return PyBytes_FromStringAndSize(<char *>p, n)


# --- points and objects as val/step/epoch/time keys ------------------------------------------------

cdef struct PointKeys:
    # prefix + field + room for the packed step, once for each of the four fields.
    uint8_t *data
    Py_ssize_t stride
    Py_ssize_t sizes[4]


FIELDS = (b"\x02val\x00", b"\x02step\x00", b"\x02epoch\x00", b"\x02time\x00")

cdef int point_keys_open(PointKeys *k, bytes prefix) except -1:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(prefix)
    cdef int field
    cdef bytes name
    k.stride = size + 16
    k.data = <uint8_t *>malloc(4 * k.stride)
    if k.data == NULL:
        raise MemoryError()
    for field in range(4):
        name = <bytes>FIELDS[field]
        memcpy(k.data + field * k.stride, PyBytes_AS_STRING(prefix), size)
        memcpy(k.data + field * k.stride + size, PyBytes_AS_STRING(name), len(name))
        k.sizes[field] = size + len(name)
    return 0


cdef inline bytes point_key(PointKeys *k, int field, const uint8_t *step, int n):
    cdef bytes key = PyBytes_FromStringAndSize(NULL, k.sizes[field] + n)
    cdef char *p = PyBytes_AS_STRING(key)
    memcpy(p, k.data + field * k.stride, k.sizes[field])
    memcpy(p + k.sizes[field], step, n)
    return key


cdef inline bytes packed_int(int64_t number):
    cdef uint8_t p[9]
    cdef int n = put_msgpack_int(p, number)
    return PyBytes_FromStringAndSize(<char *>p, n)


cdef inline bytes packed_double(double value):
    cdef uint8_t p[9]
    put_msgpack_double(p, value)
    return PyBytes_FromStringAndSize(<char *>p, 9)


cdef inline bytes packed_epoch(int64_t epoch, uint8_t flags):
    return packed_double(double_of(<uint64_t>epoch)) if flags & FRACTION else packed_int(epoch)


def compatible_points(bytes prefix not None, Columns columns not None, highest=None):
    cdef PointKeys k
    cdef Py_ssize_t i
    cdef uint8_t step[9]
    cdef int n
    cdef int64_t written = INT64_MAX if highest is None else highest
    cdef list pairs = []
    columns.need_steps()
    point_keys_open(&k, prefix)
    try:
        # In the order of the keys, as far as the steps ascend: a store that sorts them then has little to do.
        for i in range(columns.size):
            n = put_int64(step, columns.steps[i])
            if columns.flags[i] & HAS_EPOCH:
                pairs.append((point_key(&k, 2, step, n), packed_epoch(columns.epochs[i], columns.flags[i])))
            elif columns.steps[i] <= written:
                pairs.append((point_key(&k, 2, step, n), None))
        for i in range(columns.size):
            n = put_int64(step, columns.steps[i])
            pairs.append((point_key(&k, 1, step, n), packed_int(columns.steps[i])))
        for i in range(columns.size):
            n = put_int64(step, columns.steps[i])
            pairs.append((point_key(&k, 3, step, n), packed_double(columns.times[i])))
        for i in range(columns.size):
            n = put_int64(step, columns.steps[i])
            pairs.append((point_key(&k, 0, step, n), packed_double(columns.values[i])))
        return pairs
    finally:
        free(k.data)


def compatible_object(
    bytes prefix not None, int64_t step, epoch, double time, bytes value not None
):
    cdef PointKeys k
    cdef uint8_t packed[9]
    cdef int n = put_int64(packed, step)
    cdef int64_t number
    cdef int flags = epoch_of_object(epoch, &number)
    point_keys_open(&k, prefix)
    try:
        return [
            (point_key(&k, 0, packed, n), value),
            (point_key(&k, 1, packed, n), packed_int(step)),
            (point_key(&k, 2, packed, n), packed_epoch(number, <uint8_t>flags) if flags else None),
            (point_key(&k, 3, packed, n), packed_double(time)),
        ]
    finally:
        free(k.data)
