# Client frames -> broker records: the contract's sections 1, 3 and 6.
# Which messages there are stands in schema.pxi; what a value is, in json.pxi. Free values and strings are copied as they stand, typed numbers and times are normalised.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

cdef enum:
    MAX_ITEMS = 10000
    LARGE_ITEM = 1 << 20  # bytes that are not scanned with the interpreter held

LOG_SEQUENCES = ("logs", "__log_records")

# What may fill its message, since it is stored in parts; anything else is one stored value.
IN_PARTS = {
    ("log_custom_object", "value"),
    ("log_terminal_line", "line"),
    ("log_record", "message"),
    ("log_record", "logger_info"),
    ("log_record", "extra_args"),
}

cdef struct Work:
    Scanner scanner
    Members members
    Minute minute
    Buffer out            # the record of the item at hand
    int kind              # of the item at hand; -1: none yet
    int enveloped         # the kind whose envelope stands in `out`, up to
    Py_ssize_t envelope   # this byte


cdef inline int reserve(Buffer *out, Py_ssize_t more) except -1:
    if out.room - out.size < more:
        buffer_grow(out, more)
    return 0


# The puts write where room is reserved, SLACK included.

cdef inline void put(Buffer *out, const void *data, Py_ssize_t size) noexcept:
    memcpy(out.data + out.size, data, size)
    out.size += size


cdef inline void put_text(Buffer *out, const Text *text) noexcept:
    memcpy(out.data + out.size, text.data, TEXT_ROOM)  # a constant length is a few moves
    out.size += text.size


cdef inline void put_span(Buffer *out, const Span *s, const uint8_t *end) noexcept:
    """`end` is the end of the text that the span lies in."""
    cdef Py_ssize_t size = s.stop - s.start
    if size <= SLACK and end - s.start >= SLACK:
        memcpy(out.data + out.size, s.start, SLACK)
    else:
        memcpy(out.data + out.size, s.start, size)
    out.size += size


cdef int put_envelope(Work *work, bytes run, bytes timestamp) except -1:
    cdef Buffer *out = &work.out
    out.size = 0
    reserve(out, len(run) + len(timestamp) + 256)
    put(out, b'{"type":', 8)
    put_text(out, &kind_table[work.kind].quoted)
    put(out, b',"run_id":"', 11)
    put(out, PyBytes_AS_STRING(run), len(run))
    put(out, b'","timestamp":"', 15)
    put(out, PyBytes_AS_STRING(timestamp), len(timestamp))
    put(out, b'","payload":', 12)
    work.enveloped = work.kind
    work.envelope = out.size
    return 0


cdef str put_number(Buffer *out, const Row *row, const Span *s):
    """An integer or a boolean as a float."""
    cdef Py_ssize_t size = s.stop - s.start
    if s.shape == INTEGER:
        if size > 300 and isinf(float_of(s)):
            return "out of the range of float64"
        if size == 2 and s.start[0] == c'-' and s.start[1] == c'0':
            put(out, b"0.0", 3)  # -0 is an integer, and integers have one zero
        else:
            put(out, s.start, size)
            put(out, b".0", 2)
        return None
    if row.rule == VALUE_RULE and (s.shape == TRUE_ or s.shape == FALSE_):
        put(out, b"1.0" if s.shape == TRUE_ else b"0.0", 3)
        return None
    return f"expected {EXPECTED[row.rule]}"


cdef str put_integer(Buffer *out, const Row *row, const Span *s):
    """An integer that is long, or written as `5.0`; or an epoch with a fraction."""
    cdef int64_t number
    cdef uint8_t flags = 0
    cdef int found = epoch_of(s, &number, &flags) if row.rule == EPOCH_RULE else int64_of(s, &number)
    cdef bytes text
    if found == 2:
        return "out of the range of int64"
    if found == 0:
        return f"expected {EXPECTED[row.rule]}"
    if flags & FRACTION:
        put(out, s.start, s.stop - s.start)
        return None
    text = b"%d" % number
    put(out, PyBytes_AS_STRING(text), len(text))
    return None


cdef str put_time(Work *work, const Row *row, const Span *s):
    cdef Buffer *out = &work.out
    cdef int64_t micros
    cdef int found = 0
    cdef bytes text
    cdef const uint8_t *p = s.start
    cdef Py_ssize_t size = s.stop - s.start
    if s.shape == STRING:
        if s.escaped:
            text = b'"%b"' % text_of(s).encode("ascii", "replace")
            p = <const uint8_t *>PyBytes_AS_STRING(text)
            size = len(text)
        found = scan_time(p + 1, p + size - 1, &work.minute, &micros)
    if found == 0:
        return f"expected {EXPECTED[row.rule]}"
    put(out, p, size - 1)
    if found == 2:
        put(out, b'+00:00', 6)
    put(out, b'"', 1)
    return None


cdef str put_other(Work *work, const Row *row, const Span *s):
    """Appends a value that cannot be copied as it stands, or returns what is wrong with it."""
    cdef Py_ssize_t size
    if s.shape == ABSENT:
        if row.flags & REQUIRED:
            return "required"
        put_text(&work.out, &row.default)
        return None
    if row.rule == VALUE_RULE or row.rule == NUMBER_RULE:
        return put_number(&work.out, row, s)
    if row.rule == INT64_RULE or row.rule == EPOCH_RULE:
        return put_integer(&work.out, row, s)
    if row.rule == TIME_RULE:
        return put_time(work, row, s)
    if not row.copied >> s.shape & 1:
        return f"expected {EXPECTED[row.rule]}"
    if s.flaw:
        return FLAWS[s.flaw]
    if row.rule == NAME_RULE:
        size = len(text_of(s).encode())
        if not 1 <= size <= MAX_NAME:
            return f"has {size:,} bytes; a name has 1 to {MAX_NAME}"
    put_span(&work.out, s, s.stop)
    return None


cdef bint is_log_sequence(const Span *name):
    if name.escaped:
        return text_of(name) in LOG_SEQUENCES
    return name.start[1 : name.stop - name.start - 1] in (b"logs", b"__log_records")


cdef str kind_flaw(Work *work, str run):
    """What a message must fulfil beyond its members' types."""
    cdef Span *slots = work.members.slot
    cdef Py_ssize_t size
    kind = KINDS[work.kind]
    if kind == "blob_ref":
        path = text_of(&slots[ARTIFACT_PATH])
        flaw = check_artifact_path(run, path)
        if flaw is not None:
            return "artifact_path: " + flaw
        if text_of(&slots[S3_KEY]) != f"{run}/{path}":
            return "s3_key: expected run_id/artifact_path"
    if kind == "log_hparams":
        return hparams_flaw(&slots[VALUE], run)
    if kind == "log_custom_object":
        flaw = object_flaw(&slots[VALUE])
        if flaw is not None:
            return flaw
    for name, rule, _, _ in SCHEMA[kind]:
        if slots[<int>field_index[name]].shape >= STRING and (kind, name) not in IN_PARTS:
            size = packed_size(&slots[<int>field_index[name]], MAX_STORED)
            if size > MAX_STORED:
                return too_large(name, size)
    return None


cdef class Frame:
    cdef readonly Py_ssize_t count
    cdef readonly list records
    cdef readonly list kinds
    cdef readonly list rejected


class NotJSON(ValueError):
    pass


cdef int scan_item(Work *work, Span *junk) except -2 nogil:
    """1: an object, whose members are in their slots; 0: another value; -1: no JSON."""
    cdef Scanner *c = &work.scanner
    if c.p < c.end and c.p[0] == c'{':
        return -1 if scan_members(c, &work.members) < 0 else 1
    return -1 if scan_value(c, junk) < 0 else 0


cdef str oversize(Work *work):
    """Why the members that the record would hold are too much for it, before any of them is copied."""
    cdef const Kind *kind = &kind_table[work.kind]
    cdef Py_ssize_t size = 0
    cdef const Row *row
    cdef const Span *s
    cdef int i
    for i in range(kind.rows):
        row = &kind.row[i]
        s = &work.members.slot[row.field]
        if s.shape != ABSENT:
            if s.flaw and row.copied >> s.shape & 1:
                return named(row, FLAWS[s.flaw])
            size += s.stop - s.start
    return too_large_record(size) if size > MAX_RECORD else None


cdef str named(const Row *row, str reason):
    return f"{row.member.data[2:row.member.size - 2].decode()}: {reason}"


cdef str too_large_record(Py_ssize_t size):
    return f"the record takes {size:,} bytes; the limit of a message is 900 KiB ({MAX_RECORD:,})"


cdef str validate_item(Work *work, bytes run, bytes timestamp):
    """One item -> its record in `out` and None, or the reason; scanner.error when it is no JSON."""
    cdef Scanner *c = &work.scanner
    cdef Buffer *out = &work.out
    cdef const uint8_t *start = c.p
    cdef Py_ssize_t size
    cdef const Kind *kind
    cdef const Row *row
    cdef const Span *s
    cdef int i, scanned
    cdef str reason
    cdef Span junk
    if c.end - c.p > LARGE_ITEM:
        # Up to a second. What it means is found out when it is known to be small.
        with nogil:
            scanned = scan_item(work, &junk)
    else:
        scanned = scan_item(work, &junk)
    if scanned < 0:
        return None
    if scanned == 0:
        work.kind = -1
        return "expected an object"
    reason = find_kind(work)
    if reason is not None:
        return reason
    if c.p - start > MAX_RECORD:
        reason = oversize(work)
        if reason is not None:
            return reason
    if work.kind != work.enveloped:
        put_envelope(work, run, timestamp)
    out.size = work.envelope
    # What is added to the item's own text: defaults, `.0` and `+00:00`.
    reserve(out, (c.p - start) + 256 + SLACK)
    kind = &kind_table[work.kind]
    for i in range(kind.rows):
        row = &kind.row[i]
        s = &work.members.slot[row.field]
        if s.shape <= NULL_ and row.flags & OMITTED:
            continue
        put_text(out, &row.member)
        size = s.stop - s.start
        if row.copied >> s.shape & 1 and s.flaw == SOUND and row.least <= size <= row.most:
            put_span(out, s, c.end)
            continue
        reason = put_other(work, row, s)
        if reason is not None:
            return named(row, reason)
    # The first member's comma is the opening bracket.
    if out.size == work.envelope:
        out.size += 1
    out.data[work.envelope] = c'{'
    put(out, b"}}", 2)
    if work.kind == LOG_METRIC or work.kind == LOG_CUSTOM_OBJECT:
        s = &work.members.slot[CONTEXT]
        if (s.shape != OBJECT or s.empty) and is_log_sequence(&work.members.slot[NAME]):
            return "name: belongs to the run's own logs; choose another one, or a context"
    # First the size: what else is asked costs as much as there is.
    if out.size > MAX_RECORD:
        return too_large_record(out.size)
    # In a short item nothing can be too long.
    if c.p - start > MAX_KEY - 600 or work.kind == BLOB_REF or work.kind == LOG_HPARAMS:
        return kind_flaw(work, run.decode())
    return None


cdef str find_kind(Work *work):
    cdef const Span *s = &work.members.slot[TYPE]
    cdef const Text *quoted
    cdef int i
    if s.shape == STRING and work.kind >= 0:
        quoted = &kind_table[work.kind].quoted
        if s.stop - s.start == quoted.size and memcmp(s.start, quoted.data, quoted.size) == 0:
            return None
    work.kind = -1
    if s.shape == ABSENT:
        return "type: required"
    if s.shape != STRING:
        return "type: expected a string"
    if s.stop - s.start > MAX_KEY:
        return f"type: {s.stop - s.start:,} bytes, and none of {', '.join(KINDS)}"
    text = text_of(s)
    if text not in SCHEMA:
        return f"type: {ascii(text[:64])} is none of {', '.join(KINDS)}"
    work.kind = KINDS.index(text)
    return None


cdef int read_frame(Work *work, Frame result, bytes run, bytes timestamp) except -1:
    """All items; scanner.error when the frame is no JSON."""
    cdef Scanner *c = &work.scanner
    cdef str reason
    cdef bint many
    skip_space(c)
    many = c.p < c.end and c.p[0] == c'['
    if many:
        c.p += 1
        skip_space(c)
        if c.p < c.end and c.p[0] == c']':
            c.p += 1
            return 0
    while True:
        if result.count == MAX_ITEMS:
            return fail_limit()
        reason = validate_item(work, run, timestamp)
        if c.error != NULL:
            return 0
        if reason is None:
            result.records.append(buffer_value(&work.out))
            result.kinds.append(work.kind)
        else:
            result.rejected.append((result.count, KINDS[work.kind] if work.kind >= 0 else "", reason))
        result.count += 1
        if not many:
            return 0
        skip_space(c)
        if c.p < c.end and c.p[0] == c',':
            c.p += 1
            skip_space(c)
        elif c.p < c.end and c.p[0] == c']':
            c.p += 1
            return 0
        else:
            fail(c, "expected a comma or the closing bracket")
            return 0


cdef int fail_limit() except -1:
    raise NotJSON(f"the frame holds more than {MAX_ITEMS:,} items; send smaller ones")


def validate(frame, bytes run not None, bytes timestamp not None):
    cdef Frame result = Frame.__new__(Frame)
    cdef Py_buffer view
    cdef Work work
    cdef Scanner *c = &work.scanner
    result.count = 0
    result.records = []
    result.kinds = []
    result.rejected = []
    work.kind = work.enveloped = -1
    minute_open(&work.minute)
    members_open(&work.members, 2, NULL)  # type and run id
    # The view keeps the frame's bytes alive and in place until the end.
    PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
    scanner_open(c)
    buffer_open(&work.out)
    try:
        scanner_at(c, <const uint8_t *>view.buf, view.len)
        read_frame(&work, result, run, timestamp)
        if c.error == NULL:
            skip_space(c)
            if c.p != c.end:
                c.error = "unexpected text behind the end"
        if c.error != NULL:
            raise NotJSON(f"the frame is not JSON: {c.error.decode()} at byte {c.p - c.begin}")
        return result
    finally:
        PyBuffer_Release(&view)
        scanner_close(c)
        buffer_close(&work.out)


def error_reply(Frame frame):
    named = frame.rejected[:20]
    texts = [f"[{index}] {kind + ': ' if kind else ''}{reason}" for index, kind, reason in named]
    if len(frame.rejected) > len(named):
        texts.append("…")
    count = len(frame.rejected)
    return _json.dumps({
        "status": "error",
        "error": f"{count} of {frame.count} messages rejected: {'; '.join(texts)}",
        "accepted": frame.count - count,
        "rejected": [{"index": i, "type": kind, "reason": reason} for i, kind, reason in named],
    }, separators=(",", ":"), ensure_ascii=False).encode()
