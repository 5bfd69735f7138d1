# The one WebSocket frame that nearly every read of the ingest lane is: RFC 6455, section 5.2. Everything else about the
# protocol is the library's.


def text_message(bytes data) -> bytes | None:
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t length, head = 2
    # FIN and opcode 1 without a reserved bit; the mask bit.
    if size < 6 or p[0] != 0x81 or not p[1] & 0x80:
        return None
    length = p[1] & 0x7F
    if length == 126:
        if size < 8:
            return None
        length = p[2] << 8 | p[3]
        head = 4
    elif length == 127:
        return None  # at least 64 KiB, more than one read
    if size != head + 4 + length:
        return None
    cdef bytes payload = PyBytes_FromStringAndSize(NULL, length)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(payload)
    cdef uint32_t mask
    cdef uint64_t wide, word
    cdef Py_ssize_t i = 0
    memcpy(&mask, p + head, 4)
    wide = <uint64_t>mask << 32 | mask
    p += head + 4
    while i + 8 <= length:
        memcpy(&word, p + i, 8)
        word ^= wide
        memcpy(out + i, &word, 8)
        i += 8
    while i < length:
        out[i] = p[i] ^ (<uint8_t *>&mask)[i & 3]
        i += 1
    return payload
