# The cursor: bounds-checked reading.

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


cdef inline const uint8_t *cursor_take(Cursor *c, Py_ssize_t n) except NULL:
    # Check, take, advance: the only way to read.
    if n < 0 or n > c.end - c.at:
        raise ValueError("cut short")
    c.at += n
    return c.at - n


cdef inline uint64_t get_big_endian(const uint8_t *p, int n) noexcept:
    cdef uint64_t number = 0
    cdef int i
    for i in range(n):
        number = number << 8 | p[i]
    return number


cdef inline uint64_t word_at(const uint8_t *p) noexcept nogil:
    """Eight bytes; the caller has checked the bounds."""
    cdef uint64_t word
    memcpy(&word, p, 8)
    return word
