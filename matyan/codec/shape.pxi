# A hash of the names that a packed tuple begins with. Not for an enemy: whoever makes two hashes meet hides names of their own.

def names_hash(bytes key not None, Py_ssize_t start=0):
    # FNV-1a, and the last steps of MurmurHash3 (fmix64), so that sums of hashes of similar names do not meet.
    cdef Cursor c
    cdef uint64_t h = 0xCBF29CE484222325, before = h
    cdef int byte
    if start < 0 or start > PyBytes_GET_SIZE(key):
        raise ValueError("the start lies outside of the key")
    cursor_open(&c, key)
    advance(&c, start)
    while peek(&c) == 0x02:
        before = h
        byte = next_byte(&c)
        while True:
            h = (h ^ <uint8_t>byte) * <uint64_t>0x100000001B3
            byte = next_byte(&c)
            if byte < 0 or (byte == 0 and peek(&c) != 0xFF):
                break
    if not left(&c):
        h = before
    h = (h ^ (h >> 33)) * <uint64_t>0xFF51AFD7ED558CCD
    h = (h ^ (h >> 33)) * <uint64_t>0xC4CEB9FE1A85EC53
    return h ^ (h >> 33)
