# The cursor: bounds-checked reading.

cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end


cdef inline const uint8_t *cursor_take(Cursor *c, Py_ssize_t n) except NULL:
    # Check, take, advance: the only way to read.
    if n < 0 or n > c.end - c.at:
        raise ValueError("cut short")
    c.at += n
    return c.at - n


cdef inline uint64_t get_big_endian(const uint8_t *p, int n) noexcept:
    cdef uint64_t number = 0
    cdef int i
    for i in range(n):
        number = number << 8 | p[i]
    return number
