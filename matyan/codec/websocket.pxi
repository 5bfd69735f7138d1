# WebSocket frames (RFC 6455, section 5): the one that nearly every read of the ingest lane is, and masks. Everything else
# about the protocol is `frontier/wire.py`.


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
    return unmasked(p + head + 4, length, p + head)


def unmask(bytes data not None, Py_ssize_t begin, Py_ssize_t size, bytes mask not None, Py_ssize_t turn):
    cdef uint8_t turned[4]
    cdef int i
    if begin < 0 or size < 0 or begin > PyBytes_GET_SIZE(data) or size > PyBytes_GET_SIZE(data) - begin \
            or PyBytes_GET_SIZE(mask) != 4:
        raise ValueError("out of the bounds of the data or the mask")
    for i in range(4):
        turned[i] = PyBytes_AS_STRING(mask)[(turn + i) & 3]
    return unmasked(<const uint8_t *>PyBytes_AS_STRING(data) + begin, size, turned)


cdef inline bytes unmasked(const uint8_t *p, Py_ssize_t length, const uint8_t *mask_bytes):
    cdef bytes payload = PyBytes_FromStringAndSize(NULL, length)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(payload)
    cdef uint32_t mask
    cdef uint64_t wide, word
    cdef Py_ssize_t i = 0
    memcpy(&mask, mask_bytes, 4)
    wide = <uint64_t>mask << 32 | mask
    while i + 8 <= length:
        memcpy(&word, p + i, 8)
        word ^= wide
        memcpy(out + i, &word, 8)
        i += 8
    while i < length:
        out[i] = p[i] ^ (<uint8_t *>&mask)[i & 3]
        i += 1
    return payload
