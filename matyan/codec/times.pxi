# Times: ISO 8601 texts as microseconds since the epoch, and back. Which member holds one is schema.pxi's affair.


cdef inline int take_two(Cursor *c) noexcept:
    """Two digits, or a value over any limit."""
    cdef int tens = peek(c)
    cdef int ones = peek_at(c, 1)
    if is_digit(tens) and is_digit(ones):
        advance(c, 2)
        return (tens - c'0') * 10 + (ones - c'0')
    return 1000000


cdef int64_t days_of(int64_t year, int64_t month, int64_t day) noexcept:
    """Days since 1970-01-01 (the civil-calendar algorithm of howardhinnant.github.io/date_algorithms.html)."""
    cdef int64_t era, yoe, doy
    if month <= 2:
        year -= 1
    era = (year if year >= 0 else year - 399) // 400
    yoe = year - era * 400
    doy = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719468


cdef struct Minute:
    # The last `YYYY-MM-DDTHH:MM` that was read: neighbours in a batch share it.
    uint64_t text[2]
    int64_t count  # since the epoch


cdef inline void minute_open(Minute *minute) noexcept:
    memcpy(minute.text, b"1970-01-01T00:00", 16)
    minute.count = 0


cdef bint scan_minute(Cursor c, Minute *minute) noexcept:
    """`YYYY-MM-DD`, `T` or a space, `HH:MM`."""
    cdef uint64_t text[2]
    cdef int century, year, month, day, hour, count, length
    peek_words(&c, text)
    century = take_two(&c)
    year = century * 100 + take_two(&c)
    if not take_byte(&c, c'-'):
        return False
    month = take_two(&c)
    if not take_byte(&c, c'-'):
        return False
    day = take_two(&c)
    if not (take_byte(&c, c'T') or take_byte(&c, c' ')):
        return False
    hour = take_two(&c)
    if not take_byte(&c, c':'):
        return False
    count = take_two(&c)
    if year < 1 or year > 9999 or month < 1 or month > 12 or hour > 23 or count > 59:
        return False
    if month == 2:
        length = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    else:
        length = 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31
    if day < 1 or day > length:
        return False
    memcpy(minute.text, text, 16)
    minute.count = (days_of(year, month, day) * 24 + hour) * 60 + count
    return True


cdef inline int64_t take_micros(Cursor *c) noexcept:
    """The digits behind the seconds' point as microseconds; those behind the sixth are dropped."""
    cdef int64_t fraction = 0
    cdef int digits = 0
    while is_digit(peek(c)):
        if digits < 6:
            fraction = fraction * 10 + (peek(c) - c'0')
            digits += 1
        advance(c, 1)
    while digits < 6:
        fraction *= 10
        digits += 1
    return fraction


cdef int scan_time(const Cursor *begin, Minute *minute, int64_t *micros) noexcept:
    """`YYYY-MM-DD`, `T` or a space, `HH:MM[:SS[.fraction]]`, optional `Z` / `±hh:mm` / `±hhmm`, and nothing else.

    Sets microseconds since the epoch (no offset: UTC; digits behind the sixth are dropped).
    Returns 0 when it is no such text, 1 when it has an offset, 2 when it has none.
    """
    cdef Cursor text = begin[0]  # a copy can stay in registers
    cdef Cursor *c = &text
    cdef uint64_t words[2]
    cdef int second = 0, hours, minutes, sign
    cdef int64_t fraction = 0, offset = 0
    if not peek_words(c, words):
        return 0
    if (words[0] != minute.text[0] or words[1] != minute.text[1]) and not scan_minute(text, minute):
        return 0
    advance(c, 16)
    if take_byte(c, c':'):
        second = take_two(c)
        if second > 59:
            return 0
        if peek(c) == c'.' and is_digit(peek_at(c, 1)):
            advance(c, 1)
            fraction = take_micros(c)
    sign = next_byte(c)
    if sign == c'+' or sign == c'-':
        hours = take_two(c)
        take_byte(c, c':')
        minutes = take_two(c)
        if hours > 23 or minutes > 59:
            return 0
        offset = hours * 60 + minutes if sign == c'+' else -(hours * 60 + minutes)
    elif sign >= 0 and sign != c'Z':
        return 0
    micros[0] = ((minute.count - offset) * 60 + second) * 1000000 + fraction
    return 0 if left(c) else 2 if sign < 0 else 1


cdef inline int time_of(const Value *value, Minute *minute, int64_t *micros) noexcept:
    """As `scan_time`, of a string without escapes; 0 of anything else."""
    cdef Cursor c
    cdef Span inner
    if value.shape != STRING:
        return 0
    inner = unquoted(&value.text)
    cursor_in(&c, &inner)
    return scan_time(&c, minute, micros)


def parse_timestamp(text):
    cdef bytes data = text.encode() if isinstance(text, str) else text
    cdef Cursor c
    cdef int64_t micros
    cdef Minute minute
    minute_open(&minute)
    cursor_open(&c, data)
    if not scan_time(&c, &minute, &micros):
        raise ValueError(f"no ISO 8601 date and time: {text!r}")
    return <double>micros / 1e6


def format_timestamp(int64_t epoch_us):
    cdef int64_t seconds, fraction, days, era, doe, yoe, doy, mp, year, month, day
    fraction = epoch_us % 1000000
    if fraction < 0:  # C's remainder
        fraction += 1000000
    seconds = (epoch_us - fraction) // 1000000
    day = seconds % 86400
    if day < 0:
        day += 86400
    days = (seconds - day) // 86400 + 719468
    seconds = day
    era = (days if days >= 0 else days - 146096) // 146097
    doe = days - era * 146097
    yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    day = doy - (153 * mp + 2) // 5 + 1
    month = mp + 3 if mp < 10 else mp - 9
    year = yoe + era * 400 + (month <= 2)
    if not 1 <= year <= 9999:
        raise ValueError("the time is outside the years 1 to 9999")
    return b"%04d-%02d-%02dT%02d:%02d:%02d.%06dZ" % (
        year, month, day, seconds // 3600, seconds // 60 % 60, seconds % 60, fraction,
    )
