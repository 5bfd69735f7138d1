# WebSocket frames (RFC 6455, section 5): the one that nearly every read of the ingest lane is, and masks. Everything else
# about the protocol is `frontier/wire.py`.


def text_message(bytes data not None) -> bytes | None:
    cdef Cursor c
    cdef int high, length
    cdef uint8_t mask[4]
    cursor_open(&c, data)
    # FIN and opcode 1 without a reserved bit; the mask bit.
    if not take_byte(&c, 0x81) or peek(&c) < 0x80:
        return None
    length = next_byte(&c) & 0x7F
    if length == 127:
        return None  # at least 64 KiB, more than one read
    if length == 126:
        high = next_byte(&c)
        length = high << 8 | next_byte(&c)
    if left(&c) != 4 + length:
        return None
    for high in range(4):
        mask[high] = <uint8_t>next_byte(&c)
    return take_unmasked(&c, length, mask)


def unmask(bytes data not None, Py_ssize_t begin, Py_ssize_t size, bytes mask not None, Py_ssize_t turn):
    cdef Cursor c
    cdef uint8_t turned[4]
    cdef int i
    if begin < 0 or size < 0 or begin > PyBytes_GET_SIZE(data) or size > PyBytes_GET_SIZE(data) - begin \
            or PyBytes_GET_SIZE(mask) != 4:
        raise ValueError("out of the bounds of the data or the mask")
    for i in range(4):
        turned[i] = mask[(turn + i) & 3]
    cursor_open(&c, data)
    advance(&c, begin)
    return take_unmasked(&c, size, turned)
