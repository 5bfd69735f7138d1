# Chunks: up to 1,024 points of one sequence as one value (contract, section 4, the packed layout).
# What a chunk is; when chunks are written, merged and read is sequences.py's business.
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
    CHUNK_ROOM = 1024
    CHUNK_FORMAT = 1
    CHUNK_LEVEL = 3
    CHUNK_ORDERED = 4
    CHUNK_RAW_TIMES = 8
    CHUNK_FRACTIONS = 16

CHUNK_POINTS = CHUNK_ROOM


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


cdef inline int get_varint(Cursor *c, uint64_t *number) except -1:
    cdef uint64_t out = 0
    cdef int shift = 0
    cdef uint8_t byte
    while c.at < c.end:
        byte = c.at[0]
        c.at += 1
        if shift == 63 and byte > 1:
            break
        out |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            number[0] = out
            return 0
        shift += 7
        if shift > 63:
            break
    raise ValueError("cut short")


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


cdef int get_planes(Cursor *c, double *values, Py_ssize_t n) except -1:
    cdef uint64_t *bits = <uint64_t *>values
    cdef uint8_t mask = cursor_take(c, 1)[0]
    cdef const uint8_t *planes[8]
    cdef uint64_t same = 0
    cdef uint64_t one
    cdef Py_ssize_t i
    cdef int plane
    cdef int shift
    cdef const uint8_t *p
    for plane in range(8):
        planes[plane] = cursor_take(c, 1 if mask >> plane & 1 else n)
        if mask >> plane & 1:
            same |= <uint64_t>planes[plane][0] << (8 * plane)
    if mask == 0:
        for i in range(n):
            bits[i] = (
                planes[0][i]
                | <uint64_t>planes[1][i] << 8
                | <uint64_t>planes[2][i] << 16
                | <uint64_t>planes[3][i] << 24
                | <uint64_t>planes[4][i] << 32
                | <uint64_t>planes[5][i] << 40
                | <uint64_t>planes[6][i] << 48
                | <uint64_t>planes[7][i] << 56
            )
        return 0
    for i in range(n):
        bits[i] = same
    for plane in range(8):
        if not mask >> plane & 1:
            p = planes[plane]
            shift = 8 * plane
            for i in range(n):
                one = p[i]
                bits[i] |= one << shift
    return 0


cdef inline bint as_microseconds(double time, int64_t *us) noexcept:
    # Up to 2^53 µs (the year 2255) every integer is a double, and so is its millionth the nearest one.
    cdef double scaled = time * 1e6
    if not -9007199254740992.0 < scaled < 9007199254740992.0:
        return False
    us[0] = llrint(scaled)
    return bits_of(<double>us[0] / 1e6) == bits_of(time)


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
    cdef uint8_t *data
    cdef uint8_t *p
    cdef const int64_t *steps
    cdef const double *times
    cdef const int64_t *epochs
    cdef const uint8_t *flags
    cdef uint64_t difference
    cdef uint64_t latest
    cdef int64_t us
    cdef Py_ssize_t i
    cdef Py_ssize_t run
    cdef uint8_t *flags_at
    cdef uint8_t *times_at
    cdef uint8_t kind
    cdef uint8_t *epochs_at
    cdef int shift = 1
    cdef uint8_t small[1024]
    columns.need_steps()
    if begin < 0 or stop > columns.size or not 1 <= n <= CHUNK_ROOM:
        raise ValueError(f"a chunk holds 1 to {CHUNK_ROOM} points")
    if not 0 <= level <= CHUNK_LEVEL:
        raise ValueError("a level has two bits")
    # The worst case a point: a run of one for the step (12), 10 for the time, a run for the epoch (12), 8.
    data = &small[0]
    if 64 + n * 44 > <Py_ssize_t>sizeof(small):
        data = <uint8_t *>malloc(64 + n * 44)
        if data == NULL:
            raise MemoryError()
    try:
        data[0] = CHUNK_FORMAT
        data[1] = <uint8_t>level | (<uint8_t>CHUNK_ORDERED if ordered else 0)
        flags_at = data + 1
        p = put_varint(data + 2, n)
        p = put_varint(p, before)

        steps = columns.steps + begin
        p = put_varint(p, zigzag(<uint64_t>steps[0]))
        i = 1
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

        times = columns.times + begin
        times_at = p
        latest = 0
        for i in range(n):
            if not as_microseconds(times[i], &us):
                flags_at[0] |= CHUNK_RAW_TIMES
                p = put_planes(times_at, times, n)
                break
            p = put_varint(p, zigzag(<uint64_t>us - latest))
            latest = <uint64_t>us

        epochs = columns.epochs + begin
        flags = columns.flags + begin
        epochs_at = p
        latest = 0
        i = 0
        while i < n:
            kind = flags[i] & (HAS_EPOCH | FRACTION)
            if kind & FRACTION and not flags_at[0] & CHUNK_FRACTIONS:
                # The first one: all runs are written anew, with their kinds.
                flags_at[0] |= CHUNK_FRACTIONS
                shift = 2
                p = epochs_at
                latest = 0
                i = 0
                continue
            run = 1
            while i + run < n and flags[i + run] & (HAS_EPOCH | FRACTION) == kind and (
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

        p = put_planes(p, columns.values + begin, n)
        return PyBytes_FromStringAndSize(<char *>data, p - data)
    finally:
        if data != &small[0]:
            free(data)


cdef int chunk_open(Cursor *c, bytes chunk, uint8_t *flags, uint64_t *count, uint64_t *before) except -1:
    cdef const uint8_t *p
    c.at = <const uint8_t *>PyBytes_AS_STRING(chunk)
    c.end = c.at + PyBytes_GET_SIZE(chunk)
    p = cursor_take(c, 2)
    if p[0] != CHUNK_FORMAT:
        raise ValueError(f"unknown format {p[0]}")
    flags[0] = p[1]
    if flags[0] & ~(CHUNK_LEVEL | CHUNK_ORDERED | CHUNK_RAW_TIMES | CHUNK_FRACTIONS):
        raise ValueError("unknown flags")
    get_varint(c, count)
    get_varint(c, before)
    if not 1 <= count[0] <= CHUNK_ROOM:
        raise ValueError(f"{count[0]} points")
    return 0


def chunk_head(bytes chunk not None):
    cdef Cursor c
    cdef uint8_t flags
    cdef uint64_t count
    cdef uint64_t before
    chunk_open(&c, chunk, &flags, &count, &before)
    return flags & CHUNK_LEVEL, flags & CHUNK_ORDERED != 0, count, before


def decode_chunk(bytes chunk not None, Columns into not None):
    cdef Cursor c
    cdef uint8_t flags
    cdef uint64_t count
    cdef uint64_t before
    cdef uint64_t number
    cdef uint64_t run
    cdef uint64_t latest
    cdef Py_ssize_t n
    cdef Py_ssize_t i
    cdef Py_ssize_t stop
    cdef int64_t *steps
    cdef double *times
    cdef int64_t *epochs
    cdef int64_t ignored
    cdef uint8_t *marks
    cdef uint8_t kind
    cdef int shift
    chunk_open(&c, chunk, &flags, &count, &before)
    n = <Py_ssize_t>count
    # Written behind the end: a chunk that turns out bad leaves `into` as it was.
    into.reserve(into.size + n)
    steps = into.steps + into.size
    times = into.times + into.size
    epochs = into.epochs + into.size
    marks = into.flags + into.size

    get_varint(&c, &number)
    latest = unzigzag(number)
    steps[0] = <int64_t>latest
    i = 1
    while i < n:
        get_varint(&c, &run)
        get_varint(&c, &number)
        if run < 1 or run > <uint64_t>(n - i):
            raise ValueError("steps that do not add up")
        number = unzigzag(number)
        stop = i + <Py_ssize_t>run
        while i < stop:
            latest += number
            steps[i] = <int64_t>latest
            i += 1

    if flags & CHUNK_RAW_TIMES:
        get_planes(&c, times, n)
    else:
        latest = 0
        for i in range(n):
            get_varint(&c, &number)
            latest += unzigzag(number)
            times[i] = <double><int64_t>latest / 1e6

    latest = 0
    shift = 2 if flags & CHUNK_FRACTIONS else 1
    i = 0
    while i < n:
        get_varint(&c, &run)
        kind = <uint8_t>(run & (2 * shift - 1)) << 1
        stop = <Py_ssize_t>(run >> shift)
        if stop < 1 or stop > n - i:
            raise ValueError("epochs that do not add up")
        stop += i
        if kind == (HAS_EPOCH | FRACTION):
            get_planes(&c, <double *>(epochs + i), stop - i)
            while i < stop:
                if epoch_of_double(double_of(<uint64_t>epochs[i]), &ignored) != kind:
                    raise ValueError("a fraction that is none")
                marks[i] = HAS_STEP | kind
                i += 1
            continue
        number = 0
        if kind == HAS_EPOCH:
            get_varint(&c, &number)
            latest += unzigzag(number)
        elif kind:
            raise ValueError("epochs of an unknown kind")
        while i < stop:
            epochs[i] = <int64_t>latest if kind else 0
            marks[i] = HAS_STEP | kind
            i += 1

    get_planes(&c, into.values + into.size, n)
    if c.at != c.end:
        raise ValueError("bytes behind its end")
    into.size += n
