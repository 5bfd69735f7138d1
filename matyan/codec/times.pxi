# Times: ISO 8601 texts as microseconds since the epoch, and back. Which member holds one is schema.pxi's affair.


cdef inline int two(const uint8_t *p) noexcept:
    """Two digits, or a value over any limit."""
    if is_digit(p[0]) and is_digit(p[1]):
        return (p[0] - c'0') * 10 + (p[1] - c'0')
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


cdef bint scan_minute(const uint8_t *p, Minute *minute) noexcept:
    """16 bytes `YYYY-MM-DD`, `T` or a space, `HH:MM`."""
    cdef int year, month, day, hour, length
    if p[4] != c'-' or p[7] != c'-' or p[13] != c':' or not (p[10] == c'T' or p[10] == c' '):
        return False
    year = two(p) * 100 + two(p + 2)
    month = two(p + 5)
    day = two(p + 8)
    hour = two(p + 11)
    if year < 1 or year > 9999 or month < 1 or month > 12 or hour > 23 or two(p + 14) > 59:
        return False
    if month == 2:
        length = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    else:
        length = 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31
    if day < 1 or day > length:
        return False
    minute.text[0] = word_at(p)
    minute.text[1] = word_at(p + 8)
    minute.count = (days_of(year, month, day) * 24 + hour) * 60 + two(p + 14)
    return True


cdef int scan_time(const uint8_t *p, const uint8_t *end, Minute *minute, int64_t *micros) noexcept:
    """`YYYY-MM-DD`, `T` or a space, `HH:MM[:SS[.fraction]]`, optional `Z` / `±hh:mm` / `±hhmm`.

    Sets microseconds since the epoch (no offset: UTC; digits behind the sixth are dropped).
    Returns 0 when it is no such text, 1 when it has an offset, 2 when it has none.
    """
    cdef int second = 0, hours, minutes, digits = 0
    cdef int64_t fraction = 0, offset = 0
    cdef bint minus
    if end - p < 16:
        return 0
    if (word_at(p) != minute.text[0] or word_at(p + 8) != minute.text[1]) and not scan_minute(p, minute):
        return 0
    p += 16
    if end - p >= 3 and p[0] == c':':
        second = two(p + 1)
        if second > 59:
            return 0
        p += 3
        if end - p >= 2 and p[0] == c'.' and is_digit(p[1]):
            p += 1
            while p < end and is_digit(p[0]):
                if digits < 6:
                    fraction = fraction * 10 + (p[0] - c'0')
                    digits += 1
                p += 1
            while digits < 6:
                fraction *= 10
                digits += 1
    if p < end and (p[0] == c'+' or p[0] == c'-'):
        minus = p[0] == c'-'
        p += 1
        if end - p < 4:
            return 0
        hours = two(p)
        p += 2
        if p[0] == c':':
            p += 1
        if end - p < 2:
            return 0
        minutes = two(p)
        p += 2
        if hours > 23 or minutes > 59:
            return 0
        offset = -(hours * 60 + minutes) if minus else hours * 60 + minutes
    elif p < end and p[0] == c'Z':
        p += 1
    elif p == end:
        micros[0] = (minute.count * 60 + second) * 1000000 + fraction
        return 2
    micros[0] = ((minute.count - offset) * 60 + second) * 1000000 + fraction
    return p == end


def parse_timestamp(text):
    cdef bytes data = text.encode() if isinstance(text, str) else text
    cdef const uint8_t *p = data
    cdef int64_t micros
    cdef Minute minute
    minute_open(&minute)
    if not scan_time(p, p + len(data), &minute, &micros):
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
