# JSON text: one bounds-checked cursor that scans values into spans, and what typed spans mean (numbers).
# No messages and no records here. A span points into the caller's buffer: it lives as long as the
# buffer that the cursor was opened on, and whoever opened it keeps that alive.
#
# What Python's json reads is read, `NaN`, `Infinity` and `-Infinity` too; anything else that RFC 8259
# forbids is an error of the whole text. Three flaws leave the text readable and are noted in the span:
# a lone surrogate, an integer that msgpack cannot hold, nesting that is too deep.

import json as _json

cdef extern from "Python.h":
    double PyOS_string_to_double(const char *s, char **end, void *overflow) except? -1.0

cdef enum:
    ABSENT = 0
    NULL_ = 1
    TRUE_ = 2
    FALSE_ = 3
    INTEGER = 4
    FLOAT = 5    # has a fraction or an exponent
    SPECIAL = 6  # NaN, Infinity, -Infinity
    STRING = 7
    ARRAY = 8
    OBJECT = 9

cdef enum:
    SOUND = 0
    LONE_SURROGATE = 1
    INTEGER_RANGE = 2
    TOO_DEEP = 3

FLAWS = (
    "",
    "a lone surrogate is not valid Unicode",
    "an integer is outside -2^63 ... 2^64-1",
    "nested deeper than 64",
)

cdef enum:
    MAX_DEPTH = 64

cdef struct Span:
    const uint8_t *start
    const uint8_t *stop
    uint8_t shape
    uint8_t flaw
    uint8_t escaped  # a string with escapes
    uint8_t empty    # an object or array without members

cdef struct Scanner:
    const uint8_t *p
    const uint8_t *end
    const uint8_t *begin
    const char *error    # set when the text is no JSON; p is where
    uint8_t *stack       # one byte a level: '{' or '['; malloc'd, grows
    Py_ssize_t room
    Py_ssize_t max_depth


cdef inline void scanner_open(Scanner *c) noexcept:
    c.p = c.end = c.begin = NULL
    c.error = NULL
    c.stack = NULL
    c.room = 0
    c.max_depth = MAX_DEPTH


cdef inline void scanner_at(Scanner *c, const uint8_t *text, Py_ssize_t size) noexcept:
    c.p = c.begin = text
    c.end = text + size
    c.error = NULL


cdef inline void scanner_close(Scanner *c) noexcept:
    free(c.stack)
    c.stack = NULL


cdef inline int fail(Scanner *c, const char *error) noexcept nogil:
    c.error = error
    return -1


cdef void skip_spaces(Scanner *c) noexcept nogil:
    while c.p < c.end and (c.p[0] == c' ' or c.p[0] == c'\n' or c.p[0] == c'\r' or c.p[0] == c'\t'):
        c.p += 1


cdef inline void skip_space(Scanner *c) noexcept nogil:
    if c.p < c.end and c.p[0] == c' ':  # what json.dumps writes
        c.p += 1
    if c.p < c.end and c.p[0] <= c' ':
        skip_spaces(c)


cdef inline bint take(Scanner *c, const char *text, Py_ssize_t size) noexcept nogil:
    """Advances over `text` when it stands here."""
    if c.end - c.p < size or memcmp(c.p, text, size) != 0:
        return False
    c.p += size
    return True


cdef inline int hex4(const uint8_t *p) noexcept nogil:
    """The value of four hex digits, -1 when they are none. The caller has checked the bounds."""
    cdef int value = 0
    cdef int i
    cdef uint8_t ch
    for i in range(4):
        ch = p[i]
        if c'0' <= ch <= c'9':
            value = value * 16 + ch - c'0'
        elif c'a' <= (ch | 0x20) <= c'f':
            value = value * 16 + (ch | 0x20) - c'a' + 10
        else:
            return -1
    return value


cdef int scan_escape(Scanner *c, Span *s) noexcept nogil:
    """At a backslash inside a string."""
    cdef int unit, low
    cdef uint8_t ch
    s.escaped = 1
    if c.end - c.p < 2:
        return fail(c, "a string does not end")
    ch = c.p[1]
    if ch != c'u':
        if not (ch == c'"' or ch == c'\\' or ch == c'/' or ch == c'b' or ch == c'f' or ch == c'n'
                or ch == c'r' or ch == c't'):
            return fail(c, "an unknown escape in a string")
        c.p += 2
        return 0
    if c.end - c.p < 6:
        return fail(c, "a string does not end")
    unit = hex4(c.p + 2)
    if unit < 0:
        return fail(c, "an unknown escape in a string")
    c.p += 6
    if unit < 0xD800 or unit > 0xDFFF:
        return 0
    if unit <= 0xDBFF and c.end - c.p >= 6 and c.p[0] == c'\\' and c.p[1] == c'u':
        low = hex4(c.p + 2)
        if 0xDC00 <= low <= 0xDFFF:
            c.p += 6
            return 0
    s.flaw = LONE_SURROGATE
    return 0


cdef int scan_utf8(Scanner *c) noexcept nogil:
    """At a byte >= 0x80 inside a string: one well-formed sequence (RFC 3629, no surrogates)."""
    cdef const uint8_t *p = c.p
    cdef Py_ssize_t left = c.end - p
    cdef uint8_t b = p[0]
    if 0xC2 <= b <= 0xDF:
        if left >= 2 and p[1] & 0xC0 == 0x80:
            c.p += 2
            return 0
    elif 0xE0 <= b <= 0xEF:
        if (left >= 3 and p[1] & 0xC0 == 0x80 and p[2] & 0xC0 == 0x80
                and not (b == 0xE0 and p[1] < 0xA0) and not (b == 0xED and p[1] > 0x9F)):
            c.p += 3
            return 0
    elif 0xF0 <= b <= 0xF4:
        if (left >= 4 and p[1] & 0xC0 == 0x80 and p[2] & 0xC0 == 0x80 and p[3] & 0xC0 == 0x80
                and not (b == 0xF0 and p[1] < 0x90) and not (b == 0xF4 and p[1] > 0x8F)):
            c.p += 4
            return 0
    return fail(c, "invalid UTF-8")


cdef int scan_string(Scanner *c, Span *s) noexcept nogil:
    """Behind the opening quote; leaves the cursor behind the closing one. The span holds both quotes."""
    cdef const uint8_t *p = c.p
    cdef int plain
    cdef uint8_t ch
    s.start = p - 1
    s.shape = STRING
    while True:
        while c.end - p >= MATYAN_STEP:
            plain = matyan_plain(p)
            p += plain
            if plain < MATYAN_STEP:
                break
        if p == c.end:
            c.p = p
            return fail(c, "a string does not end")
        ch = p[0]
        if ch == c'"':
            c.p = p + 1
            s.stop = p + 1
            return 0
        if ch == c'\\' or ch >= 0x80:
            c.p = p
            if (scan_escape(c, s) if ch == c'\\' else scan_utf8(c)) < 0:
                return -1
            p = c.p
        elif ch < 0x20:
            c.p = p
            return fail(c, "a control character in a string")
        else:
            p += 1


cdef inline bint is_digit(uint8_t ch) noexcept nogil:
    return <uint8_t>(ch - c'0') <= 9


cdef bint integer_flaw(const uint8_t *digits, Py_ssize_t count, bint negative) noexcept nogil:
    """Whether an integer of more than 18 digits leaves -2^63 ... 2^64-1."""
    cdef uint64_t value = 0
    cdef Py_ssize_t i
    if count > 20:
        return True
    for i in range(min(count, 19)):
        value = value * 10 + (digits[i] - c'0')
    if negative:
        return count > 19 or value > <uint64_t>1 << 63
    if count == 20:
        # 2^64-1 = 18446744073709551615
        return value > <uint64_t>1844674407370955161 or (
            value == <uint64_t>1844674407370955161 and digits[19] > c'5')
    return False


cdef int scan_number(Scanner *c, Span *s) noexcept nogil:
    """At a minus or a digit."""
    cdef const uint8_t *p = c.p
    cdef const uint8_t *end = c.end
    cdef const uint8_t *digits
    cdef Py_ssize_t count
    cdef bint negative = p[0] == c'-'
    s.start = p
    s.shape = INTEGER
    if negative:
        p += 1
        if p < end and p[0] == c'I':
            if not take(c, "-Infinity", 9):
                return fail(c, "unexpected text")
            s.stop = c.p
            s.shape = SPECIAL
            return 0
    digits = p
    while p < end and is_digit(p[0]):
        p += 1
    count = p - digits
    if count == 0:
        c.p = p
        return fail(c, "a number without digits")
    if digits[0] == c'0' and count > 1:
        c.p = p
        return fail(c, "a number with a leading zero")
    if p < end and p[0] == c'.':
        s.shape = FLOAT
        p += 1
        if p == end or not is_digit(p[0]):
            c.p = p
            return fail(c, "a number without digits behind its point")
        while p < end and is_digit(p[0]):
            p += 1
    if p < end and (p[0] | 0x20) == c'e':
        s.shape = FLOAT
        p += 1
        if p < end and (p[0] == c'+' or p[0] == c'-'):
            p += 1
        if p == end or not is_digit(p[0]):
            c.p = p
            return fail(c, "a number without digits in its exponent")
        while p < end and is_digit(p[0]):
            p += 1
    if s.shape == INTEGER and count > 18 and integer_flaw(digits, count, negative):
        s.flaw = INTEGER_RANGE
    c.p = p
    s.stop = p
    return 0


cdef inline int scan_scalar(Scanner *c, Span *s) noexcept nogil:
    """At the first byte of a value that is no container."""
    cdef uint8_t ch
    if c.p == c.end:
        return fail(c, "the text ends early")
    ch = c.p[0]
    if ch == c'"':
        c.p += 1
        return scan_string(c, s)
    if ch == c'-' or is_digit(ch):
        return scan_number(c, s)
    s.start = c.p
    if take(c, "null", 4):
        s.shape = NULL_
    elif take(c, "true", 4):
        s.shape = TRUE_
    elif take(c, "false", 5):
        s.shape = FALSE_
    elif take(c, "NaN", 3) or take(c, "Infinity", 8):
        s.shape = SPECIAL
    else:
        return fail(c, "unexpected text")
    s.stop = c.p
    return 0


cdef inline int scan_key(Scanner *c, Span *key) noexcept nogil:
    """At the first byte of a member's name; leaves the cursor at its value."""
    if c.p == c.end or c.p[0] != c'"':
        return fail(c, "expected a member's name in quotes")
    c.p += 1
    if scan_string(c, key) < 0:
        return -1
    skip_space(c)
    if c.p == c.end or c.p[0] != c':':
        return fail(c, "expected a colon")
    c.p += 1
    skip_space(c)
    return 0


cdef int scan_container(Scanner *c, Span *s) noexcept nogil:
    """At `{` or `[`. Not recursive: the nesting is on the heap, and bounded by the text's length."""
    cdef Py_ssize_t depth = 0
    cdef Py_ssize_t room
    cdef void *grown
    cdef uint8_t opening
    cdef bint first
    cdef Span inner
    s.start = c.p
    s.shape = OBJECT if c.p[0] == c'{' else ARRAY
    inner.escaped = 0
    inner.flaw = SOUND
    while True:
        # At a value. Containers open until one is empty or a scalar is read.
        if c.p < c.end and (c.p[0] == c'{' or c.p[0] == c'['):
            if depth == c.room:
                room = 2 * c.room + 64
                grown = realloc(c.stack, room)
                if grown == NULL:
                    return fail(c, "nested too deep for this machine's memory")
                c.stack = <uint8_t *>grown
                c.room = room
            opening = c.p[0]
            c.stack[depth] = opening
            depth += 1
            if depth > c.max_depth:
                inner.flaw = TOO_DEEP
            c.p += 1
            skip_space(c)
            # ']' and '}' stand two behind their opening brackets.
            if c.p == c.end or c.p[0] != opening + 2:
                if opening == c'{' and scan_key(c, &inner) < 0:
                    return -1
                continue
            if depth == 1:
                s.empty = 1
        elif scan_scalar(c, &inner) < 0:
            return -1
        else:
            skip_space(c)
        # Behind a value, or at the bracket of an empty container: close what closes here.
        while True:
            if c.p == c.end:
                return fail(c, "the text ends early")
            opening = c.stack[depth - 1]
            if c.p[0] == opening + 2:
                c.p += 1
                depth -= 1
                if depth == 0:
                    s.stop = c.p
                    s.flaw = inner.flaw
                    return 0
                skip_space(c)
                continue
            if c.p[0] != c',':
                return fail(c, "expected a comma or the closing bracket")
            c.p += 1
            skip_space(c)
            if opening == c'{' and scan_key(c, &inner) < 0:
                return -1
            break


cdef inline int scan_value(Scanner *c, Span *s) noexcept nogil:
    """At the first byte of any value; fills `s` and leaves the cursor behind it."""
    s.flaw = SOUND
    s.escaped = 0
    s.empty = 0
    if c.p < c.end and (c.p[0] == c'{' or c.p[0] == c'['):
        return scan_container(c, s)
    return scan_scalar(c, s)


# --- what a span means -------------------------------------------------------------------------

cdef object raw_decode = _json.JSONDecoder().raw_decode


cdef object loads(const Span *s):
    """The value as Python's json reads it."""
    # Of a str and by its first step: `loads` of bytes looks for encodings and for what follows, in twice the time.
    return raw_decode(PyUnicode_DecodeUTF8(<char *>s.start, s.stop - s.start, "surrogatepass"))[0]


cdef str text_of(const Span *s):
    """A string's text; a lone surrogate stays one."""
    if s.escaped:
        return loads(s)
    return s.start[1 : s.stop - s.start - 1].decode("utf-8")


cdef bint spells(const Span *s, const char *text, Py_ssize_t size) noexcept nogil:
    """Whether a string with escapes is this text of letters, digits and underscores: no object is made."""
    cdef const uint8_t *p = s.start + 1
    cdef const uint8_t *stop = s.stop - 1
    cdef Py_ssize_t i
    cdef int ch
    for i in range(size):
        if p >= stop:
            return False
        ch = p[0]
        if ch == c'\\':
            # Scanned before: what is not \u and four digits stands for none of these characters.
            ch = hex4(p + 2) if p[1] == c'u' else -1
            p += 6
        else:
            p += 1
        if ch != text[i]:
            return False
    return p == stop


cdef double POWERS[23]
POWERS[:] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
]


cdef double float_of(const Span *s) except? -1.0:
    """A number's float64, correctly rounded: Clinger's exact case, else Python's own conversion."""
    cdef const uint8_t *p = s.start
    cdef const uint8_t *stop = s.stop
    cdef uint64_t mantissa = 0
    cdef int64_t exponent = 0
    cdef int64_t written = 0
    cdef Py_ssize_t digits = 0
    cdef bint negative, minus
    cdef double value
    if s.shape == TRUE_:
        return 1.0
    if s.shape == FALSE_:
        return 0.0
    if s.shape == SPECIAL:
        if p[0] == c'N':
            return float("nan")
        return float("-inf") if p[0] == c'-' else float("inf")
    negative = p[0] == c'-'
    if negative:
        p += 1
    # Nineteen digits from the first that is not 0 fit the mantissa; of more it wraps, to anything.
    while p < stop and is_digit(p[0]):
        mantissa = mantissa * 10 + (p[0] - c'0')
        digits += 1
        p += 1
    if p < stop and p[0] == c'.':
        p += 1
        if mantissa == 0 and digits == 1:  # `0.`
            while p < stop and p[0] == c'0':
                exponent -= 1
                p += 1
        while p < stop and is_digit(p[0]):
            mantissa = mantissa * 10 + (p[0] - c'0')
            digits += 1
            exponent -= 1
            p += 1
    if p < stop:
        p += 1  # the e
        minus = p[0] == c'-'
        if minus or p[0] == c'+':
            p += 1
        while p < stop:
            if written < 1000000000000:  # more than a text has digits that could make up for it
                written = written * 10 + (p[0] - c'0')
            p += 1
        exponent += -written if minus else written
    if digits <= 19 and mantissa <= <uint64_t>1 << 53 and -22 <= exponent <= 22:
        value = <double>mantissa
        value = value / POWERS[-exponent] if exponent < 0 else value * POWERS[exponent]
        return -value if negative else value
    return float_slow(s)


cdef double float_slow(const Span *s) except? -1.0:
    cdef char[64] text  # PyOS_string_to_double wants a NUL behind the number
    cdef Py_ssize_t size = s.stop - s.start
    if size >= 64:
        return float(s.start[:size])
    memcpy(text, s.start, size)
    text[size] = 0
    return PyOS_string_to_double(text, NULL, NULL)


cdef int int64_of(const Span *s, int64_t *value) except -1:
    """1 when the span is an integer in int64 (`5.0` is one), 0 when not, 2 when it is out of range."""
    cdef const uint8_t *p = s.start
    cdef bint negative
    cdef uint64_t magnitude = 0
    cdef double number
    if s.shape == FLOAT:
        number = float_of(s)
        if not -9223372036854775808.0 <= number < 9223372036854775808.0:
            return 2
        value[0] = <int64_t>number
        return <double>value[0] == number
    if s.shape != INTEGER:
        return 0
    if s.flaw != SOUND:
        return 2
    negative = p[0] == c'-'
    if negative:
        p += 1
    while p < s.stop:
        magnitude = magnitude * 10 + (p[0] - c'0')
        p += 1
    if magnitude > <uint64_t>0x7FFFFFFFFFFFFFFF + negative:
        return 2
    value[0] = <int64_t>(0 - magnitude) if negative else <int64_t>magnitude
    return 1


cdef int epoch_of(const Span *s, int64_t *epoch, uint8_t *flags) except -1:
    """As int64_of, but a finite number with a fraction is an epoch too; `flags` say which it is."""
    cdef double number
    if s.shape != FLOAT:
        flags[0] = HAS_EPOCH
        return int64_of(s, epoch)
    number = float_of(s)
    flags[0] = epoch_of_double(number, epoch)
    return 1 if flags[0] else 2 if isfinite(number) else 0
