# The compatible layout: points and objects as val, step, epoch and time keys (contract, section 4).
# When they are written is rules/sequences's affair.

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
