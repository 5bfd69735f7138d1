# Columns: metric points as growing C arrays, the one shape that records, chunks and readers share.
# It owns its memory; nobody keeps a pointer into it across a call that may grow it.

cdef enum:
    HAS_STEP = 1
    HAS_EPOCH = 2


cdef class Columns:
    cdef Py_ssize_t size
    cdef Py_ssize_t room
    cdef int64_t *steps
    cdef double *values
    cdef double *times
    cdef int64_t *epochs
    cdef uint8_t *flags
    cdef Py_ssize_t stepless  # how many points have no step of their own

    def __cinit__(self):
        self.size = 0
        self.room = 0
        self.stepless = 0
        self.steps = NULL
        self.values = NULL
        self.times = NULL
        self.epochs = NULL
        self.flags = NULL

    def __dealloc__(self):
        free(self.steps)
        free(self.values)
        free(self.times)
        free(self.epochs)
        free(self.flags)

    cdef int reserve(self, Py_ssize_t room) except -1:
        cdef void *p
        if room <= self.room:
            return 0
        if room < 2 * self.room:
            room = 2 * self.room
        if room < 8:
            room = 8
        p = realloc(self.steps, room * sizeof(int64_t))
        if p == NULL:
            raise MemoryError()
        self.steps = <int64_t *>p
        p = realloc(self.values, room * sizeof(double))
        if p == NULL:
            raise MemoryError()
        self.values = <double *>p
        p = realloc(self.times, room * sizeof(double))
        if p == NULL:
            raise MemoryError()
        self.times = <double *>p
        p = realloc(self.epochs, room * sizeof(int64_t))
        if p == NULL:
            raise MemoryError()
        self.epochs = <int64_t *>p
        p = realloc(self.flags, room * sizeof(uint8_t))
        if p == NULL:
            raise MemoryError()
        self.flags = <uint8_t *>p
        self.room = room
        return 0

    cdef inline int push(
        self, int64_t step, double value, double time, int64_t epoch, uint8_t flags
    ) except -1:
        if self.size == self.room:
            self.reserve(self.size + 1)
        self.steps[self.size] = step
        self.values[self.size] = value
        self.times[self.size] = time
        self.epochs[self.size] = epoch
        self.flags[self.size] = flags
        if not flags & HAS_STEP:
            self.stepless += 1
        self.size += 1
        return 0

    def append(self, step, double value, double time, epoch=None):
        cdef uint8_t flags = 0
        cdef int64_t s = 0
        cdef int64_t e = 0
        if step is not None:
            s = step
            flags |= HAS_STEP
        if epoch is not None:
            e = epoch
            flags |= HAS_EPOCH
        self.push(s, value, time, e, flags)

    def __len__(self):
        return self.size

    def rows(self):
        cdef Py_ssize_t i
        out = []
        for i in range(self.size):
            out.append((
                self.steps[i] if self.flags[i] & HAS_STEP else None,
                self.values[i],
                self.times[i],
                self.epochs[i] if self.flags[i] & HAS_EPOCH else None,
            ))
        return out
