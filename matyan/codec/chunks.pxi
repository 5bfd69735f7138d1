# Chunks: up to 1,024 points of one sequence as one value (contract, section 4, the packed layout).
# What a chunk is; when chunks are written, merged and read is rules/sequences's business.
#
# | part   | bytes                                                                                  |
# |--------|----------------------------------------------------------------------------------------|
# | format | 1: this table                                                                          |
# | flags  | bits 0–1 the level (how often the points were rewritten); bit 2: every step of the     |
# |        | sequence up to here is higher than the one before; bit 3: times are raw; bit 4: some    |
# |        | epochs have a fraction                                                                 |
# | count  | varint, 1 … 1,024                                                                      |
# | before | varint: points in the chunks in front of this one                                      |
# | steps  | the first; then runs (length, difference) until count − 1 differences are there        |
# | times  | microseconds since the epoch: the first, then the differences; raw: planes             |
# | epochs | runs (length · 2 + present), each run of present ones with its difference to the last; |
# |        | with bit 4: runs (length · 4 + kind) of none (0), of one integer (1), with its          |
# |        | difference to the last one, or of fractions (3), which follow as planes                 |
# | values | planes                                                                                 |
#
# A varint has seven bits a byte, lowest first, the top bit saying that more follow. Firsts and
# differences are zigzag varints of 64-bit arithmetic that wraps, so that every int64 fits.
# Planes: float64 with the bytes of one significance side by side, highest last; a bit mask says
# which planes hold one byte only, written once. So a constant costs 9 bytes, neighbours of similar
# size share their top bytes, and a compressing store finds runs; nothing is rounded, NaN payloads
# and −0.0 included.
# A time is kept as microseconds only if that gives the same bits back for every point of the chunk:
# so do all times that were written as text with at most six digits.

cdef enum:
    CHUNK_FORMAT = 1
    CHUNK_LEVEL = 3
    CHUNK_ORDERED = 4
    CHUNK_RAW_TIMES = 8
    CHUNK_FRACTIONS = 16


cdef inline uint8_t *put_varint(uint8_t *p, uint64_t number) noexcept:
    # At most 10 bytes; the caller has made room.
    while number >= 0x80:
        p[0] = <uint8_t>number | 0x80
        p += 1
        number >>= 7
    p[0] = <uint8_t>number
    return p + 1


cdef inline uint64_t zigzag(uint64_t number) noexcept:
    return number << 1 ^ (0 - (number >> 63))


cdef inline uint64_t unzigzag(uint64_t number) noexcept:
    return number >> 1 ^ (0 - (number & 1))


cdef uint8_t *put_planes(uint8_t *p, const double *values, Py_ssize_t n) noexcept:
    cdef const uint64_t *bits = <const uint64_t *>values
    cdef uint64_t differing = 0
    cdef uint8_t *mask = p
    cdef Py_ssize_t i
    cdef int plane
    for i in range(1, n):
        differing |= bits[i] ^ bits[0]
    mask[0] = 0
    p += 1
    for plane in range(8):
        if (differing >> (8 * plane)) & 0xFF:
            for i in range(n):
                p[i] = <uint8_t>(bits[i] >> (8 * plane))
            p += n
        else:
            mask[0] |= <uint8_t>(1 << plane)
            p[0] = <uint8_t>(bits[0] >> (8 * plane))
            p += 1
    return p


cdef inline bint as_microseconds(double time, int64_t *us) noexcept:
    # Up to 2^53 µs (the year 2255) every integer is a double, and so is its millionth the nearest one.
    cdef double scaled = time * 1e6
    if not -9007199254740992.0 < scaled < 9007199254740992.0:
        return False
    us[0] = llrint(scaled)
    return bits_of(<double>us[0] / 1e6) == bits_of(time)


cdef inline uint8_t *put_steps(uint8_t *p, const int64_t *steps, Py_ssize_t n) noexcept:
    cdef uint64_t difference
    cdef Py_ssize_t i = 1
    cdef Py_ssize_t run
    p = put_varint(p, zigzag(<uint64_t>steps[0]))
    while i < n:
        difference = <uint64_t>steps[i] - <uint64_t>steps[i - 1]
        run = 1
        while i + run < n and (
            <uint64_t>steps[i + run] - <uint64_t>steps[i + run - 1] == difference
        ):
            run += 1
        p = put_varint(p, run)
        p = put_varint(p, zigzag(difference))
        i += run
    return p


cdef inline int take_steps(Cursor *c, int64_t *steps, Py_ssize_t n) except -1:
    cdef uint64_t latest = 0, difference = 0, run = 0
    cdef Py_ssize_t i = 1
    cdef Py_ssize_t stop
    take_varint(c, &latest)
    latest = unzigzag(latest)
    steps[0] = <int64_t>latest
    while i < n:
        take_varint(c, &run)
        take_varint(c, &difference)
        if run < 1 or run > <uint64_t>(n - i):
            raise ValueError("steps that do not add up")
        difference = unzigzag(difference)
        stop = i + <Py_ssize_t>run
        while i < stop:
            latest += difference
            steps[i] = <int64_t>latest
            i += 1
    return 0


cdef inline uint8_t *put_times(uint8_t *p, const double *times, Py_ssize_t n, uint8_t *flags) noexcept:
    cdef uint8_t *begin = p
    cdef uint64_t latest = 0
    cdef int64_t us
    cdef Py_ssize_t i
    for i in range(n):
        if not as_microseconds(times[i], &us):
            flags[0] |= CHUNK_RAW_TIMES
            return put_planes(begin, times, n)
        p = put_varint(p, zigzag(<uint64_t>us - latest))
        latest = <uint64_t>us
    return p


cdef inline int take_times(Cursor *c, double *times, Py_ssize_t n, uint8_t flags) except -1:
    cdef uint64_t latest = 0, difference = 0
    cdef Py_ssize_t i
    if flags & CHUNK_RAW_TIMES:
        return take_planes(c, <uint64_t *>times, n)
    for i in range(n):
        take_varint(c, &difference)
        latest += unzigzag(difference)
        times[i] = <double><int64_t>latest / 1e6
    return 0


cdef inline uint8_t *put_epochs(
    uint8_t *p, const int64_t *epochs, const uint8_t *marks, Py_ssize_t n, uint8_t *flags
) noexcept:
    cdef uint64_t latest = 0
    cdef Py_ssize_t i
    cdef Py_ssize_t run
    cdef uint8_t kind
    cdef uint8_t any_ = 0
    cdef int shift = 1
    for i in range(n):
        any_ |= marks[i]
    if any_ & FRACTION:
        flags[0] |= CHUNK_FRACTIONS
        shift = 2
    i = 0
    while i < n:
        kind = marks[i] & (HAS_EPOCH | FRACTION)
        run = 1
        while i + run < n and marks[i + run] & (HAS_EPOCH | FRACTION) == kind and (
            kind != HAS_EPOCH or epochs[i + run] == epochs[i]
        ):
            run += 1
        p = put_varint(p, <uint64_t>run << shift | kind >> 1)
        if kind == HAS_EPOCH:
            p = put_varint(p, zigzag(<uint64_t>epochs[i] - latest))
            latest = <uint64_t>epochs[i]
        elif kind:
            p = put_planes(p, <const double *>(epochs + i), run)
        i += run
    return p


cdef inline int take_epochs(Cursor *c, int64_t *epochs, uint8_t *marks, Py_ssize_t n, uint8_t flags) except -1:
    """Fills the marks too, and each of them says that there is a step."""
    cdef uint64_t latest = 0, number = 0, run = 0
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t stop
    cdef uint8_t kind
    cdef int shift = 2 if flags & CHUNK_FRACTIONS else 1
    while i < n:
        take_varint(c, &run)
        kind = <uint8_t>(run & (2 * shift - 1)) << 1
        stop = <Py_ssize_t>(run >> shift)
        if stop < 1 or stop > n - i:
            raise ValueError("epochs that do not add up")
        stop += i
        if kind == (HAS_EPOCH | FRACTION):
            take_fractions(c, epochs + i, marks + i, stop - i)
            i = stop
            continue
        if kind == HAS_EPOCH:
            take_varint(c, &number)
            latest += unzigzag(number)
        elif kind:
            raise ValueError("epochs of an unknown kind")
        while i < stop:
            epochs[i] = <int64_t>latest if kind else 0
            marks[i] = HAS_STEP | kind
            i += 1
    return 0


cdef int take_fractions(Cursor *c, int64_t *epochs, uint8_t *marks, Py_ssize_t n) except -1:
    cdef int64_t ignored
    cdef Py_ssize_t i
    take_planes(c, <uint64_t *>epochs, n)
    for i in range(n):
        if epoch_of_double(double_of(<uint64_t>epochs[i]), &ignored) != (HAS_EPOCH | FRACTION):
            raise ValueError("a fraction that is none")
        marks[i] = HAS_STEP | HAS_EPOCH | FRACTION
    return 0


def encode_chunk(
    Columns columns not None,
    Py_ssize_t begin=0,
    end=None,
    *,
    int level=0,
    bint ordered=False,
    uint64_t before=0,
):
    cdef Py_ssize_t stop = columns.size if end is None else end
    cdef Py_ssize_t n = stop - begin
    cdef uint8_t small[1024]
    cdef uint8_t *data = &small[0]
    cdef uint8_t *p
    columns.need_steps()
    if begin < 0 or stop > columns.size or not 1 <= n <= CHUNK_POINTS:
        raise ValueError(f"a chunk holds 1 to {CHUNK_POINTS} points")
    if not 0 <= level <= CHUNK_LEVEL:
        raise ValueError("a level has two bits")
    # The worst case a point: a run of one for the step (12), 10 for the time, a run for the epoch (12), 8.
    if 64 + n * 44 > <Py_ssize_t>sizeof(small):
        data = <uint8_t *>malloc(64 + n * 44)
        if data == NULL:
            raise MemoryError()
    try:
        data[0] = CHUNK_FORMAT
        data[1] = <uint8_t>level | (<uint8_t>CHUNK_ORDERED if ordered else 0)
        p = put_varint(data + 2, n)
        p = put_varint(p, before)
        p = put_steps(p, columns.steps + begin, n)
        p = put_times(p, columns.times + begin, n, data + 1)
        p = put_epochs(p, columns.epochs + begin, columns.flags + begin, n, data + 1)
        p = put_planes(p, columns.values + begin, n)
        return PyBytes_FromStringAndSize(<char *>data, p - data)
    finally:
        if data != &small[0]:
            free(data)


cdef struct ChunkHead:
    uint8_t flags
    uint64_t count
    uint64_t before


cdef int take_head_of_chunk(Cursor *c, ChunkHead *head) except -1:
    cdef int format_ = take_u8(c)
    head.flags = <uint8_t>take_u8(c)
    if format_ != CHUNK_FORMAT:
        raise ValueError(f"unknown format {format_}")
    if head.flags & ~(CHUNK_LEVEL | CHUNK_ORDERED | CHUNK_RAW_TIMES | CHUNK_FRACTIONS):
        raise ValueError("unknown flags")
    take_varint(c, &head.count)
    take_varint(c, &head.before)
    if not 1 <= head.count <= CHUNK_POINTS:
        raise ValueError(f"{head.count} points")
    return 0


def chunk_head(bytes chunk not None):
    cdef Cursor c
    cdef ChunkHead head
    cursor_open(&c, chunk)
    take_head_of_chunk(&c, &head)
    return head.flags & CHUNK_LEVEL, head.flags & CHUNK_ORDERED != 0, head.count, head.before


def decode_chunk(bytes chunk not None, Columns into not None):
    cdef Cursor c
    cdef ChunkHead head
    cdef Py_ssize_t n
    cursor_open(&c, chunk)
    take_head_of_chunk(&c, &head)
    n = <Py_ssize_t>head.count
    # Written behind the end: a chunk that turns out bad leaves `into` as it was.
    into.reserve(into.size + n)
    take_steps(&c, into.steps + into.size, n)
    take_times(&c, into.times + into.size, n, head.flags)
    take_epochs(&c, into.epochs + into.size, into.flags + into.size, n, head.flags)
    take_planes(&c, <uint64_t *>(into.values + into.size), n)
    if left(&c):
        raise ValueError("bytes behind its end")
    into.size += n
