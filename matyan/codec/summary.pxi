# The summary of a sequence: how many steps it has, and the first, lowest and highest of its finite values. It is exact as long
# as what is added stands behind all that was added before. When it is kept, and where, is rules/sequences's affair.

cdef class Summary:
    cdef readonly int64_t count
    cdef double first_
    cdef double min_
    cdef double max_
    cdef bint any_finite

    def __cinit__(self, int64_t count=0, first=None, min=None, max=None):
        self.count = count
        self.any_finite = first is not None
        if self.any_finite:
            self.first_, self.min_, self.max_ = first, min, max

    @property
    def first(self):
        return self.first_ if self.any_finite else None

    @property
    def min(self):
        return self.min_ if self.any_finite else None

    @property
    def max(self):
        return self.max_ if self.any_finite else None

    def add(self, Columns columns not None):
        cdef Py_ssize_t i
        cdef double value
        self.count += columns.size
        for i in range(columns.size):
            value = columns.values[i]
            if not isfinite(value):
                continue
            if not self.any_finite:
                self.any_finite = True
                self.first_ = self.min_ = self.max_ = value
            elif value < self.min_:
                self.min_ = value
            elif value > self.max_:
                self.max_ = value

    def add_entries(self, int64_t count):
        self.count += count

    def packed(self, int64_t last_step):
        cdef uint8_t data[46]
        cdef uint8_t *p = data
        p[0] = 0x95
        p += 1
        p += put_msgpack_int(p, last_step)
        p += put_msgpack_int(p, self.count)
        if self.any_finite:
            p += put_msgpack_double(p, self.first_)
            p += put_msgpack_double(p, self.min_)
            p += put_msgpack_double(p, self.max_)
        else:
            memset(p, 0xC0, 3)
            p += 3
        return PyBytes_FromStringAndSize(<char *>data, p - data)
