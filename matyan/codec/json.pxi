# JSON: a scanner that finds where a value stands and what it is, and what numbers and strings mean.
# No messages and no records here: those are members.pxi, messages.pxi and records.pxi.
#
# What Python's json reads is read, `NaN`, `Infinity` and `-Infinity` too; anything else that RFC 8259
# forbids is an error of the whole text. Three flaws leave the text readable and are noted in the value:
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
    f"nested deeper than {MAX_DEPTH}",
)

cdef struct Value:
    Span text        # a string's with its quotes, a container's with its brackets
    uint8_t shape
    uint8_t flaw
    uint8_t escaped  # a string with escapes
    uint8_t empty    # an object or array without members

cdef struct Scanner:
    Cursor text
    const char *error  # set when the text is no JSON; the cursor stands where it is not
    uint8_t *stack     # one byte a level: '{' or '['; malloc'd, grows
    Py_ssize_t room


cdef inline void scanner_open(Scanner *scanner) noexcept:
    cursor_over(&scanner.text, b"", 0)
    scanner.error = NULL
    scanner.stack = NULL
    scanner.room = 0


cdef inline void scanner_close(Scanner *scanner) noexcept:
    free(scanner.stack)
    scanner.stack = NULL


cdef inline int fail(Scanner *scanner, const char *error) noexcept nogil:
    scanner.error = error
    return -1


cdef inline int fail_at(Scanner *scanner, const Cursor *place, const char *error) noexcept nogil:
    move_to(&scanner.text, place)
    return fail(scanner, error)


cdef int fail_list(Scanner *scanner, int following) noexcept nogil:
    """Behind `following`, which neither goes on with a list nor ends it."""
    if following < 0:
        return fail(scanner, "the text ends early")
    step_back(&scanner.text)
    return fail(scanner, "expected a comma or the closing bracket")


cdef void skip_spaces(Cursor *c) noexcept nogil:
    cdef int ch = peek(c)
    while ch == c' ' or ch == c'\n' or ch == c'\r' or ch == c'\t':
        advance(c, 1)
        ch = peek(c)


cdef inline void skip_space(Cursor *c) noexcept nogil:
    cdef int ch = peek(c)
    if ch == c' ':  # what json.dumps writes
        advance(c, 1)
        ch = peek(c)
    if 0 <= ch <= c' ':
        skip_spaces(c)


# --- strings -----------------------------------------------------------------------------------

cdef int take_hex4(Cursor *c) noexcept nogil:
    """The value of four hex digits; -1 when the bytes here are none."""
    cdef int value = 0
    cdef int i, ch
    for i in range(4):
        ch = next_byte(c)
        if is_digit(ch):
            value = value * 16 + ch - c'0'
        elif c'a' <= (ch | 0x20) <= c'f':
            value = value * 16 + (ch | 0x20) - c'a' + 10
        else:
            return -1
    return value


cdef int scan_escape(Scanner *scanner, Value *value) noexcept nogil:
    """At a backslash inside a string."""
    cdef Cursor text = scanner.text
    cdef int ch, unit, low
    value.escaped = 1
    advance(&text, 1)
    ch = next_byte(&text)
    if ch < 0 or (ch == c'u' and left(&text) < 4):
        return fail(scanner, "a string does not end")
    if ch != c'u':
        if not (ch == c'"' or ch == c'\\' or ch == c'/' or ch == c'b' or ch == c'f' or ch == c'n'
                or ch == c'r' or ch == c't'):
            return fail(scanner, "an unknown escape in a string")
        move_to(&scanner.text, &text)
        return 0
    unit = take_hex4(&text)
    if unit < 0:
        return fail(scanner, "an unknown escape in a string")
    move_to(&scanner.text, &text)
    if unit < 0xD800 or unit > 0xDFFF:
        return 0
    if unit <= 0xDBFF and take_text(&text, "\\u", 2):
        low = take_hex4(&text)
        if 0xDC00 <= low <= 0xDFFF:
            move_to(&scanner.text, &text)
            return 0
    value.flaw = LONE_SURROGATE
    return 0


cdef inline bint continues(int byte) noexcept nogil:
    """Whether a byte continues a UTF-8 sequence."""
    return byte & 0xC0 == 0x80


cdef bint take_utf8(Cursor *c) noexcept nogil:
    """Over one well-formed sequence (RFC 3629, no surrogates) that begins with a byte >= 0x80; False when there is none."""
    cdef int first = peek(c)
    cdef int second = peek_at(c, 1)
    cdef int size
    if 0xC2 <= first <= 0xDF:
        size = 2
    elif 0xE0 <= first <= 0xEF:
        if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F):
            return False
        size = 3
    elif 0xF0 <= first <= 0xF4:
        if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F):
            return False
        size = 4
    else:
        return False
    if not continues(second) or (size > 2 and not continues(peek_at(c, 2))) or (size > 3 and not continues(peek_at(c, 3))):
        return False
    advance(c, size)
    return True


cdef int scan_string(Scanner *scanner, Value *value) noexcept nogil:
    """At the opening quote; leaves the cursor behind the closing one."""
    cdef Cursor text = scanner.text  # a copy can stay in registers
    cdef int ch
    span_begin(&value.text, &text)
    value.shape = STRING
    advance(&text, 1)
    while True:
        skip_plain(&text)
        ch = peek(&text)
        if ch == c'"':
            advance(&text, 1)
            span_end(&value.text, &text)
            move_to(&scanner.text, &text)
            return 0
        if ch < 0:
            return fail_at(scanner, &text, "a string does not end")
        if ch < 0x20:
            return fail_at(scanner, &text, "a control character in a string")
        move_to(&scanner.text, &text)
        if ch == c'\\':
            if scan_escape(scanner, value) < 0:
                return -1
        elif not take_utf8(&scanner.text):
            return fail(scanner, "invalid UTF-8")
        move_to(&text, &scanner.text)


# --- numbers -----------------------------------------------------------------------------------

cdef bint integer_flaw(Cursor digits, Py_ssize_t count, bint negative) noexcept nogil:
    """Whether an integer of more than 18 digits leaves -2^63 ... 2^64-1."""
    cdef uint64_t value = 0
    cdef Py_ssize_t i
    if count > 20:
        return True
    for i in range(min(count, 19)):
        value = value * 10 + (next_byte(&digits) - c'0')
    if negative:
        return count > 19 or value > <uint64_t>1 << 63
    if count == 20:
        # 2^64-1 = 18446744073709551615
        return value > <uint64_t>1844674407370955161 or (
            value == <uint64_t>1844674407370955161 and peek(&digits) > c'5')
    return False


cdef int scan_number(Scanner *scanner, Value *value) noexcept nogil:
    """At a minus or a digit."""
    cdef Cursor text = scanner.text
    cdef Cursor digits
    cdef Py_ssize_t count
    cdef bint negative
    span_begin(&value.text, &text)
    value.shape = INTEGER
    negative = take_byte(&text, c'-')
    if negative and peek(&text) == c'I':
        if not take_text(&scanner.text, "-Infinity", 9):
            return fail(scanner, "unexpected text")
        span_end(&value.text, &scanner.text)
        value.shape = SPECIAL
        return 0
    digits = text
    count = skip_digits(&text)
    if count == 0:
        return fail_at(scanner, &text, "a number without digits")
    if count > 1 and peek(&digits) == c'0':
        return fail_at(scanner, &text, "a number with a leading zero")
    if take_byte(&text, c'.'):
        value.shape = FLOAT
        if skip_digits(&text) == 0:
            return fail_at(scanner, &text, "a number without digits behind its point")
    if peek(&text) | 0x20 == c'e':
        value.shape = FLOAT
        advance(&text, 1)
        if not take_byte(&text, c'+'):
            take_byte(&text, c'-')
        if skip_digits(&text) == 0:
            return fail_at(scanner, &text, "a number without digits in its exponent")
    if value.shape == INTEGER and count > 18 and integer_flaw(digits, count, negative):
        value.flaw = INTEGER_RANGE
    span_end(&value.text, &text)
    move_to(&scanner.text, &text)
    return 0


# --- values ------------------------------------------------------------------------------------

cdef inline int scan_scalar(Scanner *scanner, Value *value) noexcept nogil:
    """At the first byte of a value that is no container."""
    cdef Cursor *c = &scanner.text
    cdef int ch = peek(c)
    if ch == c'"':
        return scan_string(scanner, value)
    if ch == c'-' or is_digit(ch):
        return scan_number(scanner, value)
    if ch < 0:
        return fail(scanner, "the text ends early")
    span_begin(&value.text, c)
    if take_text(c, "null", 4):
        value.shape = NULL_
    elif take_text(c, "true", 4):
        value.shape = TRUE_
    elif take_text(c, "false", 5):
        value.shape = FALSE_
    elif take_text(c, "NaN", 3) or take_text(c, "Infinity", 8):
        value.shape = SPECIAL
    else:
        return fail(scanner, "unexpected text")
    span_end(&value.text, c)
    return 0


cdef inline int scan_key(Scanner *scanner, Value *key) noexcept nogil:
    """At the first byte of a member's name; leaves the cursor at its value."""
    cdef Cursor *c = &scanner.text
    if peek(c) != c'"':
        return fail(scanner, "expected a member's name in quotes")
    if scan_string(scanner, key) < 0:
        return -1
    skip_space(c)
    if not take_byte(c, c':'):
        return fail(scanner, "expected a colon")
    skip_space(c)
    return 0


cdef inline bint is_container(int ch) noexcept nogil:
    return ch == c'{' or ch == c'['


cdef inline uint8_t closing(int bracket) noexcept nogil:
    return <uint8_t>(bracket + 2)  # ']' and '}' stand two behind their opening brackets


cdef inline int open_bracket(Scanner *scanner, Py_ssize_t depth) noexcept nogil:
    """Over a bracket, which is kept on the stack; 1 when the container goes on with a value, 0 when it is empty."""
    cdef Py_ssize_t room
    cdef void *grown
    cdef int bracket = peek(&scanner.text)
    if depth == scanner.room:
        room = 2 * scanner.room + 64
        grown = realloc(scanner.stack, room)
        if grown == NULL:
            return fail(scanner, "nested too deep for this machine's memory")
        scanner.stack = <uint8_t *>grown
        scanner.room = room
    scanner.stack[depth] = <uint8_t>bracket
    advance(&scanner.text, 1)
    skip_space(&scanner.text)
    return peek(&scanner.text) != closing(bracket)


cdef inline Py_ssize_t close_brackets(Scanner *scanner, Py_ssize_t depth, Value *key) noexcept nogil:
    """Behind a value, or at the bracket of an empty container: closes what closes here, and goes on to the next value.
    Returns how many containers are open then, or -1."""
    cdef Cursor *c = &scanner.text
    cdef uint8_t opening
    cdef int following
    while True:
        opening = scanner.stack[depth - 1]
        following = next_byte(c)
        if following == c',':
            break
        if following != closing(opening):
            return fail_list(scanner, following)
        depth -= 1
        if depth == 0:
            return 0
        skip_space(c)
    skip_space(c)
    if opening == c'{' and scan_key(scanner, key) < 0:
        return -1
    return depth


cdef int scan_container(Scanner *scanner, Value *value) noexcept nogil:
    """At `{` or `[`. Not recursive: the nesting is on the heap, and bounded by the text's length."""
    cdef Cursor *c = &scanner.text
    cdef Py_ssize_t depth = 0
    cdef int goes_on
    cdef Value inner  # the key or scalar at hand; its flaws stay
    span_begin(&value.text, c)
    value.shape = OBJECT if peek(c) == c'{' else ARRAY
    inner.escaped = 0
    inner.flaw = SOUND
    while True:
        # At a value. Containers open until one is empty or a scalar is read.
        if is_container(peek(c)):
            goes_on = open_bracket(scanner, depth)
            if goes_on < 0:
                return -1
            depth += 1
            if depth > MAX_DEPTH:
                inner.flaw = TOO_DEEP
            if goes_on:
                if scanner.stack[depth - 1] == c'{' and scan_key(scanner, &inner) < 0:
                    return -1
                continue
            if depth == 1:
                value.empty = 1
        elif scan_scalar(scanner, &inner) < 0:
            return -1
        else:
            skip_space(c)
        depth = close_brackets(scanner, depth, &inner)
        if depth < 0:
            return -1
        if depth == 0:
            span_end(&value.text, c)
            value.flaw = inner.flaw
            return 0


cdef inline int scan_value(Scanner *scanner, Value *value) noexcept nogil:
    """At the first byte of any value; fills `value` and leaves the cursor behind it."""
    value.flaw = SOUND
    value.escaped = 0
    value.empty = 0
    if is_container(peek(&scanner.text)):
        return scan_container(scanner, value)
    return scan_scalar(scanner, value)


# --- what a value means ------------------------------------------------------------------------

cdef object raw_decode = _json.JSONDecoder().raw_decode


cdef object loads(const Value *value):
    """The value as Python's json reads it."""
    # Of a str and by its first step: `loads` of bytes looks for encodings and for what follows, in twice the time.
    return raw_decode(span_text(&value.text, "surrogatepass"))[0]


cdef str text_of(const Value *value):
    """A string's text; a lone surrogate stays one."""
    cdef Span inner
    if value.escaped:
        return loads(value)
    inner = unquoted(&value.text)
    return span_text(&inner, NULL)


cdef bint spells(const Value *value, const char *text, Py_ssize_t size) noexcept nogil:
    """Whether a string with escapes is this text of letters, digits and underscores: no object is made."""
    cdef Span inner = unquoted(&value.text)
    cdef Cursor c
    cdef Py_ssize_t i
    cdef int ch
    cursor_in(&c, &inner)
    for i in range(size):
        ch = next_byte(&c)
        if ch == c'\\':
            # Scanned before: what is not \u and four digits stands for none of these characters.
            ch = take_hex4(&c) if take_byte(&c, c'u') else -1
        if ch != text[i]:
            return False
    return left(&c) == 0


cdef double POWERS[23]
POWERS[:] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
]


cdef struct Decimal:
    # A number's digits and exponent, when both are small enough; else anything.
    uint64_t mantissa
    Py_ssize_t digits
    int64_t exponent
    bint negative


cdef inline void add_digits(Cursor *c, Decimal *decimal) noexcept nogil:
    """Nineteen digits from the first that is not 0 fit the mantissa; of more it wraps."""
    cdef int ch = peek(c)
    while is_digit(ch):
        decimal.mantissa = decimal.mantissa * 10 + (ch - c'0')
        decimal.digits += 1
        advance(c, 1)
        ch = peek(c)


cdef inline void read_decimal(const Value *value, Decimal *decimal) noexcept nogil:
    cdef Cursor c
    cdef Py_ssize_t whole
    cdef int64_t written = 0
    cdef bint minus
    cursor_in(&c, &value.text)
    decimal.mantissa = decimal.digits = decimal.exponent = 0
    decimal.negative = take_byte(&c, c'-')
    add_digits(&c, decimal)
    if take_byte(&c, c'.'):
        if decimal.mantissa == 0 and decimal.digits == 1:  # `0.`
            while take_byte(&c, c'0'):
                decimal.exponent -= 1
        whole = decimal.digits
        add_digits(&c, decimal)
        decimal.exponent -= decimal.digits - whole
    if left(&c):
        advance(&c, 1)  # the e
        minus = take_byte(&c, c'-')
        if not minus:
            take_byte(&c, c'+')
        while left(&c):
            if written < <int64_t>1000000000000:  # more than a text has digits that could make up for it
                written = written * 10 + (peek(&c) - c'0')
            advance(&c, 1)
        decimal.exponent += -written if minus else written


cdef double float_of(const Value *value) except? -1.0:
    """A number's float64, correctly rounded: Clinger's exact case, else Python's own conversion."""
    cdef Decimal decimal
    cdef double number
    if value.shape == TRUE_:
        return 1.0
    if value.shape == FALSE_:
        return 0.0
    if value.shape == SPECIAL:
        if span_byte(&value.text, 0) == c'N':
            return float("nan")
        return float("-inf") if span_byte(&value.text, 0) == c'-' else float("inf")
    read_decimal(value, &decimal)
    if decimal.digits <= 19 and decimal.mantissa <= <uint64_t>1 << 53 and -22 <= decimal.exponent <= 22:
        number = <double>decimal.mantissa
        if decimal.exponent < 0:
            number = number / POWERS[-decimal.exponent]
        else:
            number = number * POWERS[decimal.exponent]
        return -number if decimal.negative else number
    return float_slow(&value.text)


cdef double float_slow(const Span *text) except? -1.0:
    cdef char[64] number  # PyOS_string_to_double wants a NUL behind the number
    cdef Py_ssize_t size = span_size(text)
    if size >= 64:
        return float(span_bytes(text))
    span_copy(text, number)
    number[size] = 0
    return PyOS_string_to_double(number, NULL, NULL)


cdef int int64_of(const Value *value, int64_t *number) except -1:
    """1 when the value is an integer in int64 (`5.0` is one), 0 when not, 2 when it is out of range."""
    cdef Cursor c
    cdef bint negative
    cdef uint64_t magnitude = 0
    cdef double whole
    if value.shape == FLOAT:
        whole = float_of(value)
        if not -9223372036854775808.0 <= whole < 9223372036854775808.0:
            return 2
        number[0] = <int64_t>whole
        return <double>number[0] == whole
    if value.shape != INTEGER:
        return 0
    if value.flaw != SOUND:
        return 2
    cursor_in(&c, &value.text)
    negative = take_byte(&c, c'-')
    while left(&c):
        magnitude = magnitude * 10 + (next_byte(&c) - c'0')
    if magnitude > <uint64_t>0x7FFFFFFFFFFFFFFF + negative:
        return 2
    number[0] = <int64_t>(0 - magnitude) if negative else <int64_t>magnitude
    return 1


cdef int epoch_of(const Value *value, int64_t *epoch, uint8_t *flags) except -1:
    """As int64_of, but a finite number with a fraction is an epoch too; `flags` say which it is."""
    cdef double number
    if value.shape != FLOAT:
        flags[0] = HAS_EPOCH
        return int64_of(value, epoch)
    number = float_of(value)
    flags[0] = epoch_of_double(number, epoch)
    return 1 if flags[0] else 2 if isfinite(number) else 0
