# MurmurHash2 as Kafka's Java client has it (org.apache.kafka.common.utils.Utils.murmur2): by it a key finds its partition.


def murmur2(bytes key not None):
    cdef Cursor c
    cdef Py_ssize_t length = PyBytes_GET_SIZE(key)
    cdef uint32_t m = 0x5BD1E995, h = <uint32_t>0x9747B28C ^ <uint32_t>length, k
    cdef int i
    cursor_open(&c, key)
    while left(&c) >= 4:
        k = 0
        for i in range(4):
            k |= <uint32_t>next_byte(&c) << 8 * i
        k *= m
        k ^= k >> 24
        h = h * m ^ k * m
    if left(&c):
        for i in range(length & 3):
            h ^= <uint32_t>next_byte(&c) << 8 * i
        h *= m
    h ^= h >> 13
    h *= m
    return h ^ h >> 15
