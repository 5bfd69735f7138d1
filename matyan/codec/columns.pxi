# Columns: metric points in memory, as C arrays that grow. Records, chunks and readers all use this one form.
# A Columns owns its memory, and nobody keeps a pointer into it over a call that may grow it. How points look as bytes
# stands in chunks.pxi and compatible.pxi.

cdef enum:
    # Chunks and epoch_mask() hold the two flags of an epoch, shifted right by one.
    HAS_STEP = 1
    HAS_EPOCH = 2
    FRACTION = 4  # the epoch's eight bytes are those of a float64; never without HAS_EPOCH


cdef inline uint8_t epoch_of_double(double number, int64_t *epoch) noexcept:
    """The flags of an epoch: an int64 where it is one, else the bits of a fraction; 0 when it is neither."""
    cdef uint64_t bits
    # What has a fraction lies well within int64.
    if not -9223372036854775808.0 <= number < 9223372036854775808.0:
        return 0
    epoch[0] = <int64_t>number
    if <double>epoch[0] == number:
        return HAS_EPOCH
    bits = bits_of(number)
    epoch[0] = <int64_t>bits
    return HAS_EPOCH | FRACTION


cdef int epoch_of_object(object number, int64_t *epoch) except -1:
    """The same for None (no flags), an int or a float."""
    cdef int flags = HAS_EPOCH
    epoch[0] = 0
    if number is None:
        return 0
    if not isinstance(number, float):
        epoch[0] = number
        return flags
    flags = epoch_of_double(number, epoch)
    if flags == 0:
        raise OverflowError("an epoch is an int64 or a finite number with a fraction")
    return flags


cdef inline object epoch_object(int64_t epoch, uint8_t flags):
    """The inverse."""
    if not flags & HAS_EPOCH:
        return None
    if flags & FRACTION:
        return double_of(<uint64_t>epoch)
    return epoch


def epoch_number(number):
    cdef int64_t epoch
    cdef int flags = epoch_of_object(number, &epoch)
    return epoch_object(epoch, <uint8_t>flags)


cdef inline Py_ssize_t rank_of(Py_ssize_t i, Py_ssize_t size, Py_ssize_t most) noexcept:
    """Which of `size` things in order the sample number `i` of `most` is: evenly by rank, the first and the last among them;
    half-way to the even one, as Python rounds. `most` is below `size`."""
    cdef Py_ssize_t whole, rest, twice
    if most == 1:
        return 0
    whole = i * (size - 1) // (most - 1)
    twice = 2 * (i * (size - 1) % (most - 1))
    if twice > most - 1 or (twice == most - 1 and whole % 2):
        whole += 1
    return whole


def sample_ranks(Py_ssize_t size, Py_ssize_t most):
    cdef Py_ssize_t i
    if size <= most:
        return list(range(size))
    return [rank_of(i, size, most) for i in range(most)]


cdef class Columns:
    cdef Py_ssize_t size
    cdef Py_ssize_t room
    cdef int64_t *steps
    cdef double *values
    cdef double *times
    cdef int64_t *epochs
    cdef uint8_t *flags
    cdef readonly Py_ssize_t stepless  # how many points have no step of their own

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
        cdef int64_t e
        if step is not None:
            s = step
            flags |= HAS_STEP
        flags |= epoch_of_object(epoch, &e)
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
                epoch_object(self.epochs[i], self.flags[i]),
            ))
        return out

    def extend(self, Columns other not None):
        self.take(other, 0, other.size)

    cdef int take(self, Columns other, Py_ssize_t begin, Py_ssize_t end) except -1:
        # other may be self: the arrays are read after reserve.
        cdef Py_ssize_t n = end - begin
        cdef Py_ssize_t i
        if n <= 0:
            return 0
        self.reserve(self.size + n)
        memcpy(self.steps + self.size, other.steps + begin, n * sizeof(int64_t))
        memcpy(self.values + self.size, other.values + begin, n * sizeof(double))
        memcpy(self.times + self.size, other.times + begin, n * sizeof(double))
        memcpy(self.epochs + self.size, other.epochs + begin, n * sizeof(int64_t))
        memcpy(self.flags + self.size, other.flags + begin, n * sizeof(uint8_t))
        if other.stepless:
            for i in range(self.size, self.size + n):
                if not self.flags[i] & HAS_STEP:
                    self.stepless += 1
        self.size += n
        return 0

    def fill_steps(self, int64_t next_step):
        cdef Py_ssize_t i
        cdef int64_t following = next_step
        cdef bint none_left = False  # INT64_MAX is taken
        # The first loop only looks: when the sequence is full, these columns stay as they were.
        for i in range(self.size):
            if not self.flags[i] & HAS_STEP:
                if none_left:
                    raise OverflowError("no free step is left after 2^63-1")
                none_left = following == INT64_MAX
                if not none_left:
                    following += 1
            elif self.steps[i] >= following:
                none_left = self.steps[i] == INT64_MAX
                following = INT64_MAX if none_left else self.steps[i] + 1
        following = next_step
        for i in range(self.size):
            if not self.flags[i] & HAS_STEP:
                self.steps[i] = following
                self.flags[i] |= HAS_STEP
            if self.steps[i] >= following and self.steps[i] < INT64_MAX:
                following = self.steps[i] + 1
        self.stepless = 0
        return following

    def follow(self, step, double value):
        cdef Py_ssize_t i
        cdef bint any_before = step is not None
        cdef int64_t highest = 0
        cdef bint ascending = True
        self.need_steps()
        if any_before:
            highest = step
        elif self.size == 0:
            raise ValueError("no points to follow")
        for i in range(self.size):
            if any_before and self.steps[i] <= highest:
                ascending = False
                if self.steps[i] < highest:
                    continue
            any_before = True
            highest = self.steps[i]
            if isfinite(self.values[i]):
                value = self.values[i]
        return highest, value, ascending

    cdef int need_steps(self) except -1:
        if self.stepless:
            raise ValueError("points without a step: fill_steps comes first")
        return 0

    cdef bint ascending(self):
        cdef Py_ssize_t i
        for i in range(1, self.size):
            if self.steps[i] <= self.steps[i - 1]:
                return False
        return True

    def merged(self):
        cdef Columns out = Columns()
        cdef Py_ssize_t i
        cdef Py_ssize_t j
        cdef Py_ssize_t *order
        self.need_steps()
        if self.size == 0:
            return out
        out.reserve(self.size)
        if self.ascending():
            out.take(self, 0, self.size)
            return out
        order = <Py_ssize_t *>malloc(2 * self.size * sizeof(Py_ssize_t))
        if order == NULL:
            raise MemoryError()
        self.sort(order, order + self.size)
        for i in range(self.size):
            j = order[i]
            # Of equal steps the sort keeps the log's order: the last one stands.
            if i + 1 < self.size and self.steps[order[i + 1]] == self.steps[j]:
                continue
            out.push(self.steps[j], self.values[j], self.times[j], self.epochs[j], self.flags[j])
        free(order)
        return out

    cdef void sort(self, Py_ssize_t *order, Py_ssize_t *spare) noexcept:
        # A stable natural merge sort of indices. Its input mostly consists of a few ascending parts (chunks, or a resumed
        # run that counts from 0 again). A pass merges them in pairs, so n parts take about log2(n) passes.
        cdef int64_t *steps = self.steps
        cdef Py_ssize_t n = self.size
        cdef Py_ssize_t i
        cdef Py_ssize_t begin
        cdef Py_ssize_t middle
        cdef Py_ssize_t end
        cdef Py_ssize_t left
        cdef Py_ssize_t right
        for i in range(n):
            order[i] = i
        while True:
            begin = 0
            while True:
                middle = begin + 1
                while middle < n and steps[order[middle]] >= steps[order[middle - 1]]:
                    middle += 1
                if middle >= n:
                    break
                end = middle + 1
                while end < n and steps[order[end]] >= steps[order[end - 1]]:
                    end += 1
                left = begin
                right = middle
                for i in range(begin, end):
                    if right >= end or (
                        left < middle and steps[order[left]] <= steps[order[right]]
                    ):
                        spare[i] = order[left]
                        left += 1
                    else:
                        spare[i] = order[right]
                        right += 1
                memcpy(order + begin, spare + begin, (end - begin) * sizeof(Py_ssize_t))
                begin = end
                if begin >= n:
                    break
            if begin == 0:
                return

    def between(self, begin, end):
        cdef Columns out = Columns()
        cdef Py_ssize_t i
        cdef int64_t low = INT64_MIN if begin is None else begin
        cdef int64_t high = 0 if end is None else end
        cdef bint open_end = end is None
        self.need_steps()
        for i in range(self.size):
            if self.steps[i] >= low and (open_end or self.steps[i] < high):
                out.push(self.steps[i], self.values[i], self.times[i], self.epochs[i], self.flags[i])
        return out

    def steps_bytes(self):
        self.need_steps()
        return PyBytes_FromStringAndSize(<char *>self.steps, self.size * sizeof(int64_t))

    def values_bytes(self):
        return PyBytes_FromStringAndSize(<char *>self.values, self.size * sizeof(double))

    def times_bytes(self):
        return PyBytes_FromStringAndSize(<char *>self.times, self.size * sizeof(double))

    def epochs_bytes(self):
        return PyBytes_FromStringAndSize(<char *>self.epochs, self.size * sizeof(int64_t))

    def epoch_mask(self):
        cdef Py_ssize_t i
        cdef bytes out = PyBytes_FromStringAndSize(NULL, self.size)
        cdef char *p = PyBytes_AS_STRING(out)
        for i in range(self.size):
            p[i] = (self.flags[i] & (HAS_EPOCH | FRACTION)) >> 1
        return out

    def sampled(self, Py_ssize_t most):
        cdef Columns out = Columns()
        cdef Py_ssize_t i, at
        if self.size <= most:
            out.take(self, 0, self.size)
            return out
        out.reserve(most)
        for i in range(most):
            at = rank_of(i, self.size, most)
            out.push(self.steps[at], self.values[at], self.times[at], self.epochs[at], self.flags[at])
        return out

    def sampled_of(self, Py_ssize_t before, Py_ssize_t total, Py_ssize_t most):
        cdef Columns out = Columns()
        cdef Py_ssize_t i, at
        for i in range(min(most, total)):
            at = (rank_of(i, total, most) if total > most else i) - before
            if at >= self.size:
                break
            if at >= 0:
                out.push(self.steps[at], self.values[at], self.times[at], self.epochs[at], self.flags[at])
        return out

    def steps_as_doubles(self):
        cdef Py_ssize_t i
        cdef bytes out = PyBytes_FromStringAndSize(NULL, self.size * sizeof(double))
        cdef double *p = <double *>PyBytes_AS_STRING(out)
        self.need_steps()
        for i in range(self.size):
            p[i] = <double>self.steps[i]
        return out

    def epochs_as_doubles(self):
        cdef Py_ssize_t i
        cdef bytes out = PyBytes_FromStringAndSize(NULL, self.size * sizeof(double))
        cdef double *p = <double *>PyBytes_AS_STRING(out)
        for i in range(self.size):
            if not self.flags[i] & HAS_EPOCH:
                p[i] = NAN
            elif self.flags[i] & FRACTION:
                p[i] = double_of(<uint64_t>self.epochs[i])
            else:
                p[i] = <double>self.epochs[i]
        return out
