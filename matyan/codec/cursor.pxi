# The cursor: the only code that reads bytes through a pointer, be they a client's, a broker's or a store's.
# Each function checks the bounds, takes what is there and advances. At the end of the bytes it says so: by -1, by False, or
# by a ValueError in the binary formats. What the bytes mean is the affair of the other files.
#
# A Cursor and a Span only borrow. Whoever opens a cursor keeps the owner of the bytes (a bytes object, a buffer view, a
# Buffer that nobody grows meanwhile) alive for as long as this cursor, or a Span that was taken from it, is in use.
#
# Five loops run over bare pointers, for speed, each inside bounds that it has checked: `skip_plain`, `take_masked`,
# `take_planes`, `take_unmasked` and `put_span_of`.

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "matyan's codec is written for little-endian machines"
    #endif

    /* How many of the next STEP bytes stand before the first quote, backslash, control or non-ASCII byte. */
    #ifdef __SSE2__
    #include <emmintrin.h>
    #define MATYAN_STEP 16
    static inline int matyan_plain(const uint8_t *p) {
        const __m128i v = _mm_loadu_si128((const __m128i *)p);
        const __m128i special = _mm_or_si128(
            _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8(0x22)), _mm_cmpeq_epi8(v, _mm_set1_epi8(0x5C))),
            _mm_cmplt_epi8(v, _mm_set1_epi8(0x20)));  /* signed: bytes >= 0x80 are below too */
        return __builtin_ctz(_mm_movemask_epi8(special) | 0x10000);
    }
    #else
    #define MATYAN_STEP 8
    static inline int matyan_plain(const uint8_t *p) {
        const uint64_t ones = 0x0101010101010101u;
        uint64_t w, q, b, hit;
        memcpy(&w, p, 8);
        q = w ^ (ones * 0x22);
        b = w ^ (ones * 0x5C);
        /* A borrow makes a false hit only above a true one: the lowest is exact. */
        hit = (((q - ones) & ~q) | ((b - ones) & ~b) | ((w - ones * 0x20) & ~w) | w) & (ones * 0x80);
        return hit ? __builtin_ctzll(hit) >> 3 : 8;
    }
    #endif
    """
    int MATYAN_STEP
    int matyan_plain(const uint8_t *p) noexcept nogil

cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end
    const uint8_t *begin

cdef struct Span:
    # A piece of text that a cursor has passed.
    const uint8_t *start
    const uint8_t *stop


# --- opening -----------------------------------------------------------------------------------

cdef inline void cursor_over(Cursor *c, const void *data, Py_ssize_t size) noexcept nogil:
    """The one function that believes its caller: `size` bytes stand at `data`."""
    c.at = c.begin = <const uint8_t *>data
    c.end = c.begin + size


cdef inline void cursor_open(Cursor *c, bytes data) noexcept:
    cursor_over(c, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef inline int cursor_open_text(Cursor *c, str text) except -1:
    """Over the text's UTF-8, which lives as long as the text."""
    cdef Py_ssize_t size
    cdef const char *data = PyUnicode_AsUTF8AndSize(text, &size)
    cursor_over(c, data, size)
    return 0


cdef inline void cursor_in(Cursor *c, const Span *s) noexcept nogil:
    c.at = c.begin = s.start
    c.end = s.stop


# --- where it stands ---------------------------------------------------------------------------

cdef inline Py_ssize_t position(const Cursor *c) noexcept nogil:
    """How many bytes stand before the cursor."""
    return c.at - c.begin


cdef inline Py_ssize_t left(const Cursor *c) noexcept nogil:
    """How many bytes stand behind it."""
    return c.end - c.at


cdef inline void move_to(Cursor *c, const Cursor *other) noexcept nogil:
    """To where `other`, a copy of this cursor, has come."""
    c.at = other.at


cdef inline int peek(const Cursor *c) noexcept nogil:
    """The byte at the cursor, -1 at the end."""
    return c.at[0] if c.at < c.end else -1


cdef inline int peek_at(const Cursor *c, Py_ssize_t n) noexcept nogil:
    """The byte that stands `n` bytes behind the cursor, -1 behind the end."""
    return c.at[n] if n < c.end - c.at else -1


cdef inline bint peek_words(const Cursor *c, uint64_t *words) noexcept nogil:
    """The next sixteen bytes as two words; False when there are fewer."""
    if c.end - c.at < 16:
        return False
    memcpy(words, c.at, 16)
    return True


cdef inline bint stands_here(const Cursor *c, const char *text, Py_ssize_t size) noexcept nogil:
    return c.end - c.at >= size and memcmp(c.at, text, size) == 0


# --- taking ------------------------------------------------------------------------------------

cdef inline void advance(Cursor *c, Py_ssize_t n) noexcept nogil:
    """Over `n` bytes that a peek has shown. A cursor that went too far would stand at the end for all that reads."""
    c.at += n


cdef inline int next_byte(Cursor *c) noexcept nogil:
    """The byte at the cursor, which advances over it; -1 at the end."""
    if c.at >= c.end:
        return -1
    c.at += 1
    return (c.at - 1)[0]


cdef inline void step_back(Cursor *c) noexcept nogil:
    """In front of the byte that was taken last."""
    if c.at > c.begin:
        c.at -= 1


cdef inline bint take_byte(Cursor *c, uint8_t byte) noexcept nogil:
    """Advances over `byte` when it stands here."""
    if c.at >= c.end or c.at[0] != byte:
        return False
    c.at += 1
    return True


cdef inline bint take_text(Cursor *c, const char *text, Py_ssize_t size) noexcept nogil:
    """Advances over `text` when it stands here."""
    if not stands_here(c, text, size):
        return False
    c.at += size
    return True


cdef inline bint take_same(Cursor *c, const Span *s) noexcept nogil:
    """Advances over the bytes of `s` when the same stand here."""
    return take_text(c, <const char *>s.start, s.stop - s.start)


cdef inline uint64_t word_at(const uint8_t *p) noexcept nogil:
    """Eight bytes, within bounds that `take_masked` has checked."""
    cdef uint64_t word
    memcpy(&word, p, 8)
    return word


cdef inline bint take_masked(Cursor *c, const uint64_t *word, const uint64_t *mask, Py_ssize_t size) noexcept nogil:
    """Advances over `size` bytes when the next three words are `word`, as far as the bits of `mask` count."""
    if c.end - c.at < 24 or (
        ((word_at(c.at) ^ word[0]) & mask[0])
        | ((word_at(c.at + 8) ^ word[1]) & mask[1])
        | ((word_at(c.at + 16) ^ word[2]) & mask[2])
    ):
        return False
    c.at += size
    return True


cdef inline bint is_digit(int byte) noexcept nogil:
    return <uint8_t>(byte - c'0') <= 9


cdef inline Py_ssize_t skip_digits(Cursor *c) noexcept nogil:
    """Over the decimal digits that stand here; returns how many."""
    cdef const uint8_t *start = c.at
    while c.at < c.end and is_digit(c.at[0]):
        c.at += 1
    return c.at - start


cdef inline void skip_plain(Cursor *c) noexcept nogil:
    """To the next quote, backslash, control or non-ASCII byte, or to the end."""
    cdef const uint8_t *p = c.at
    cdef const uint8_t *end = c.end
    cdef int plain
    while end - p >= MATYAN_STEP:
        plain = matyan_plain(p)
        p += plain
        if plain < MATYAN_STEP:
            c.at = p
            return
    while p < end and 0x20 <= p[0] < 0x80 and p[0] != c'"' and p[0] != c'\\':
        p += 1
    c.at = p


cdef inline bint skip_to(Cursor *c, uint8_t byte) noexcept nogil:
    """To the next `byte`; False, and to the end, when there is none."""
    cdef const uint8_t *found = NULL
    if c.at < c.end:
        found = <const uint8_t *>memchr(c.at, byte, c.end - c.at)
    c.at = found if found != NULL else c.end
    return found != NULL


# --- taking from a binary format: ValueError at its end --------------------------------------------

cdef int cut_short() except -1:
    raise ValueError("cut short")


cdef inline int take_u8(Cursor *c) except -1:
    if c.at >= c.end:
        return cut_short()
    c.at += 1
    return (c.at - 1)[0]


cdef inline bytes take_bytes(Cursor *c, Py_ssize_t n):
    if n < 0 or n > c.end - c.at:
        cut_short()
    c.at += n
    return PyBytes_FromStringAndSize(<const char *>c.at - n, n)


cdef inline int take_big_endian(Cursor *c, int n, uint64_t *number) except -1:
    cdef uint64_t value = 0
    cdef int i
    if n > c.end - c.at:
        return cut_short()
    for i in range(n):
        value = value << 8 | c.at[i]
    c.at += n
    number[0] = value
    return 0


cdef inline int take_varint(Cursor *c, uint64_t *number) except -1:
    """Seven bits a byte, lowest first; the top bit says that more follow."""
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
    return cut_short()


cdef int take_planes(Cursor *c, uint64_t *out, Py_ssize_t n) except -1:
    """`n` numbers, a plane for each of their bytes, lowest first: see chunks.pxi, which writes them."""
    cdef uint8_t mask = <uint8_t>take_u8(c)
    cdef const uint8_t *planes[8]
    cdef const uint8_t *p
    cdef uint64_t same = 0
    cdef uint64_t one
    cdef Py_ssize_t i, size
    cdef int plane, shift
    for plane in range(8):
        size = 1 if mask >> plane & 1 else n
        if size > c.end - c.at:
            return cut_short()
        planes[plane] = c.at
        c.at += size
        if mask >> plane & 1:
            same |= <uint64_t>planes[plane][0] << (8 * plane)
    if mask == 0:
        for i in range(n):
            out[i] = (
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
        out[i] = same
    for plane in range(8):
        if not mask >> plane & 1:
            p = planes[plane]
            shift = 8 * plane
            for i in range(n):
                one = p[i]
                out[i] |= one << shift
    return 0


cdef inline bytes take_unmasked(Cursor *c, Py_ssize_t n, const uint8_t *mask_bytes):
    """`n` bytes, each xor its of the four mask bytes in turn."""
    cdef bytes payload
    cdef uint8_t *out
    cdef const uint8_t *p = c.at
    cdef uint32_t mask
    cdef uint64_t wide, word
    cdef Py_ssize_t i = 0
    if n < 0 or n > c.end - c.at:
        cut_short()
    payload = PyBytes_FromStringAndSize(NULL, n)
    out = <uint8_t *>PyBytes_AS_STRING(payload)
    memcpy(&mask, mask_bytes, 4)
    wide = <uint64_t>mask << 32 | mask
    while i + 8 <= n:
        memcpy(&word, p + i, 8)
        word ^= wide
        memcpy(out + i, &word, 8)
        i += 8
    while i < n:
        out[i] = p[i] ^ (<uint8_t *>&mask)[i & 3]
        i += 1
    c.at += n
    return payload


# --- spans -------------------------------------------------------------------------------------

cdef inline void span_begin(Span *s, const Cursor *c) noexcept nogil:
    s.start = c.at


cdef inline void span_end(Span *s, const Cursor *c) noexcept nogil:
    s.stop = c.at


cdef inline Span rest_of(const Cursor *c) noexcept nogil:
    """All that stands behind the cursor."""
    cdef Span s
    s.start = c.at
    s.stop = c.end
    return s


cdef inline void span_clear(Span *s) noexcept nogil:
    """Empty, and not NULL: memcmp and memcpy take no NULL, not even for no bytes."""
    s.start = s.stop = <const uint8_t *>b""


cdef inline Span span_over(bytes data) noexcept:
    """All of `data`, which the caller keeps alive."""
    cdef Span s
    s.start = <const uint8_t *>PyBytes_AS_STRING(data)
    s.stop = s.start + PyBytes_GET_SIZE(data)
    return s


cdef inline Py_ssize_t span_size(const Span *s) noexcept nogil:
    return s.stop - s.start


cdef inline int span_byte(const Span *s, Py_ssize_t n) noexcept nogil:
    """Byte number `n` (from 0), -1 when there are not so many."""
    return s.start[n] if n < s.stop - s.start else -1


cdef inline bytes span_bytes(const Span *s):
    return PyBytes_FromStringAndSize(<const char *>s.start, s.stop - s.start)


cdef inline str span_text(const Span *s, const char *errors):
    """Of UTF-8; `errors` as for bytes.decode, NULL for its default."""
    return PyUnicode_DecodeUTF8(<char *>s.start, s.stop - s.start, <char *>errors)


cdef inline Span unquoted(const Span *s) noexcept nogil:
    """Without its first and last byte: a string that was scanned has both quotes."""
    cdef Span inner = s[0]
    if s.stop - s.start >= 2:
        inner.start += 1
        inner.stop -= 1
    return inner


cdef inline Span span_moved(const Span *s, const Span *within, const Cursor *c) noexcept nogil:
    """As `s` stands in `within`, so in the bytes at the cursor, which are the same as those of `within`."""
    cdef Span moved
    moved.start = c.at + (s.start - within.start)
    moved.stop = c.at + (s.stop - within.start)
    return moved


cdef inline bint span_is(const Span *s, const char *text, Py_ssize_t size) noexcept nogil:
    return s.stop - s.start == size and memcmp(s.start, text, size) == 0


cdef inline bint same_text(const Span *a, const Span *b) noexcept nogil:
    return span_is(a, <const char *>b.start, b.stop - b.start)


cdef inline uint64_t last_word(const Span *s) noexcept nogil:
    """The last eight bytes, or what there is."""
    cdef Py_ssize_t size = min(s.stop - s.start, 8)
    cdef uint64_t word = 0
    memcpy(&word, s.stop - size, size)
    return word


cdef inline void span_copy(const Span *s, void *out) noexcept nogil:
    """The caller has room for it."""
    memcpy(out, s.start, s.stop - s.start)


cdef inline int buffer_span(Buffer *out, const Span *s) except -1:
    return buffer_bytes(out, s.start, s.stop - s.start)


cdef inline void put_span(Buffer *out, const Span *s) noexcept:
    """Room is reserved."""
    span_copy(s, out.data + out.size)
    out.size += s.stop - s.start


cdef inline void put_span_of(Buffer *out, const Span *s, const Cursor *c) noexcept:
    """The same, for a span in the cursor's bytes. Room is reserved, SLACK_BYTES included, since most spans are copied with
    that constant length: so the copy is a few instructions, and no call."""
    cdef Py_ssize_t size = s.stop - s.start
    if size <= SLACK_BYTES and c.end - s.start >= SLACK_BYTES:
        memcpy(out.data + out.size, s.start, SLACK_BYTES)
        out.size += size
    else:
        put_span(out, s)
