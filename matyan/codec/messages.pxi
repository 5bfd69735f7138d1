# Client frames -> broker records (contract, sections 1, 3 and 6). Free values and strings are copied as they stand; typed
# numbers and times are brought into one form. Which messages there are stands in schema.pxi, what a JSON value is in
# json.pxi, and what the store cannot hold in limits.pxi.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

cdef enum:
    LARGE_ITEM_BYTES = 1 << 20     # from here on, an item is scanned while other threads run
    RECORD_OVERHEAD_BYTES = 64     # of a bytes object and its place in a list
    REJECTED_OVERHEAD_BYTES = 512  # of a tuple and its reason

# The members that are stored in parts, and so may be as large as a message. Any other member is one stored value.
IN_PARTS = {
    ("log_custom_object", "value"),
    ("log_terminal_line", "line"),
    ("log_record", "message"),
    ("log_record", "logger_info"),
    ("log_record", "extra_args"),
}

cdef struct Work:
    # What is kept from one item of a frame to the next.
    Scanner scanner
    Members members
    Minute minute
    Buffer out            # the record of the current item
    int kind              # of the current item; -1: none yet
    int enveloped         # `out` begins with the envelope of this kind; -1: with none
    Py_ssize_t envelope   # the size of that envelope


cdef void work_open(Work *work) noexcept:
    work.kind = work.enveloped = -1
    minute_open(&work.minute)
    members_open(&work.members, 2, NULL)  # type and run id
    scanner_open(&work.scanner)
    buffer_open(&work.out)


cdef void work_close(Work *work) noexcept:
    scanner_close(&work.scanner)
    buffer_close(&work.out)


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


cdef str put_number(Buffer *out, const Row *row, const Value *value):
    """An integer or a boolean as a float."""
    if value.shape == INTEGER:
        if span_size(&value.text) > 300 and isinf(float_of(value)):
            return "out of the range of float64"
        if span_is(&value.text, b"-0", 2):
            put(out, b"0.0", 3)  # -0 is an integer, and integers have one zero
        else:
            put_span(out, &value.text)
            put(out, b".0", 2)
        return None
    if row.rule == VALUE_RULE and (value.shape == TRUE_ or value.shape == FALSE_):
        put(out, b"1.0" if value.shape == TRUE_ else b"0.0", 3)
        return None
    return f"expected {EXPECTED[row.rule]}"


cdef str put_integer(Buffer *out, const Row *row, const Value *value):
    """An integer that is long, or written as `5.0`; or an epoch with a fraction."""
    cdef int64_t number
    cdef uint8_t flags = 0
    cdef int found = epoch_of(value, &number, &flags) if row.rule == EPOCH_RULE else int64_of(value, &number)
    cdef bytes text
    if found == 2:
        return "out of the range of int64"
    if found == 0:
        return f"expected {EXPECTED[row.rule]}"
    if flags & FRACTION:
        put_span(out, &value.text)
        return None
    text = b"%d" % number
    put(out, PyBytes_AS_STRING(text), len(text))
    return None


cdef str put_time(Work *work, const Row *row, const Value *value):
    """A time with its offset, which is UTC where none is written."""
    cdef Buffer *out = &work.out
    cdef const Cursor *whole = &work.scanner.text
    cdef Cursor c
    cdef Span inner
    cdef bytes spelled
    cdef int64_t micros
    cdef int found = 0
    if value.shape == STRING:
        inner = unquoted(&value.text)
        if value.escaped:
            spelled = text_of(value).encode("ascii", "replace")
            inner = span_over(spelled)
            whole = &c
        cursor_in(&c, &inner)
        found = scan_time(&c, &work.minute, &micros)
    if found == 0:
        return f"expected {EXPECTED[row.rule]}"
    put(out, b'"', 1)
    put_span_of(out, &inner, whole)
    if found == 2:
        put(out, b"+00:00", 6)
    put(out, b'"', 1)
    return None


cdef str put_other(Work *work, const Row *row, const Value *value):
    """Appends a value that cannot be copied as it stands, or returns what is wrong with it."""
    cdef Py_ssize_t size
    if value.shape == ABSENT:
        if row.flags & REQUIRED:
            return "required"
        put_text(&work.out, &row.default)
        return None
    if row.rule == VALUE_RULE or row.rule == NUMBER_RULE:
        return put_number(&work.out, row, value)
    if row.rule == INT64_RULE or row.rule == EPOCH_RULE:
        return put_integer(&work.out, row, value)
    if row.rule == TIME_RULE:
        return put_time(work, row, value)
    if not row.copied >> value.shape & 1:
        return f"expected {EXPECTED[row.rule]}"
    if value.flaw:
        return FLAWS[value.flaw]
    if row.rule == NAME_RULE:
        size = len(text_of(value).encode())
        if not 1 <= size <= MAX_NAME_BYTES:
            return f"has {size:,} bytes; a name has 1 to {MAX_NAME_BYTES}"
    put_span(&work.out, &value.text)
    return None


cdef Text lines_quoted
cdef Text log_records_quoted
set_text(&lines_quoted, f'"{LINES}"')
set_text(&log_records_quoted, f'"{LOG_RECORDS}"')


cdef bint is_log_sequence(const Value *name) noexcept:
    return is_named(name, &lines_quoted) or is_named(name, &log_records_quoted)


cdef str kind_flaw(Work *work, str run):
    """What a message must fulfil beyond its members' types."""
    cdef Value *slots = work.members.slot
    cdef Value *value
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
        value = &slots[<int>field_index[name]]
        if value.shape >= STRING and (kind, name) not in IN_PARTS:
            size = packed_size(value, MAX_VALUE_BYTES)
            if size > MAX_VALUE_BYTES:
                return too_large(name, size)
    return None


cdef class Validated:
    cdef readonly Py_ssize_t count
    cdef readonly list records
    cdef readonly list kinds
    cdef readonly list rejected

    def __cinit__(self):
        self.count = 0
        self.records = []
        self.kinds = []
        self.rejected = []


cdef Py_ssize_t keep_item(Validated result, Work *work, str reason) except -1:
    """What `validate_item` has found; returns the bytes that it takes."""
    cdef bytes record
    cdef Py_ssize_t index = result.count
    result.count += 1
    if reason is None:
        record = buffer_value(&work.out)
        result.records.append(record)
        result.kinds.append(work.kind)
        return PyBytes_GET_SIZE(record) + RECORD_OVERHEAD_BYTES
    result.rejected.append((index, KINDS[work.kind] if work.kind >= 0 else "", reason))
    return REJECTED_OVERHEAD_BYTES


class NotJSON(ValueError):
    pass


cdef int scan_item(Work *work, Value *other) noexcept nogil:
    """1: an object, whose members are in their slots; 0: another value; -1: no JSON."""
    if peek(&work.scanner.text) == c'{':
        return -1 if scan_members(&work.scanner, &work.members) < 0 else 1
    return -1 if scan_value(&work.scanner, other) < 0 else 0


cdef str oversize(Work *work):
    """Why the members that the record would hold are too much for it, before any of them is copied."""
    cdef const Kind *kind = &kind_table[work.kind]
    cdef Py_ssize_t size = 0
    cdef const Row *row
    cdef const Value *value
    cdef int i
    for i in range(kind.rows):
        row = &kind.row[i]
        value = &work.members.slot[row.field]
        if value.shape != ABSENT:
            if value.flaw and row.copied >> value.shape & 1:
                return named(row, FLAWS[value.flaw])
            size += span_size(&value.text)
    return too_large_record(size) if size > MAX_RECORD_BYTES else None


cdef str named(const Row *row, str reason):
    return f"{row.member.data[2:row.member.size - 2].decode()}: {reason}"


cdef str too_large_record(Py_ssize_t size):
    return f"the record takes {size:,} bytes; the limit of a message is {MAX_RECORD_BYTES // 1024} KiB ({MAX_RECORD_BYTES:,})"


cdef str put_payload(Work *work):
    """The item's members, in the schema's order and form, behind the envelope in `out`; or what is wrong with one."""
    cdef Buffer *out = &work.out
    cdef const Kind *kind = &kind_table[work.kind]
    cdef const Row *row
    cdef const Value *value
    cdef int i
    cdef str reason
    for i in range(kind.rows):
        row = &kind.row[i]
        value = &work.members.slot[row.field]
        if value.shape <= NULL_ and row.flags & OMITTED:
            continue
        put_text(out, &row.member)
        if row.copied >> value.shape & 1 and value.flaw == SOUND and row.least <= span_size(&value.text) <= row.most:
            put_span_of(out, &value.text, &work.scanner.text)
            continue
        reason = put_other(work, row, value)
        if reason is not None:
            return named(row, reason)
    # The first member's comma is the opening bracket.
    if out.size == work.envelope:
        out.size += 1
    out.data[work.envelope] = c'{'
    put(out, b"}}", 2)
    return None


cdef str record_flaw(Work *work, bytes run, Py_ssize_t taken):
    """What is wrong with the record in `out` as a whole, whose item took `taken` bytes; or None."""
    cdef const Value *context
    if work.kind == LOG_METRIC or work.kind == LOG_CUSTOM_OBJECT:
        context = &work.members.slot[CONTEXT]
        if (context.shape != OBJECT or context.empty) and is_log_sequence(&work.members.slot[NAME]):
            return "name: belongs to the run's own logs; choose another one, or a context"
    # The size comes first: the other checks take time in proportion to it.
    if work.out.size > MAX_RECORD_BYTES:
        return too_large_record(work.out.size)
    # In an item this short nothing can be over its limit.
    if taken > MAX_KEY_BYTES - 600 or work.kind == BLOB_REF or work.kind == LOG_HPARAMS:
        return kind_flaw(work, run.decode())
    return None


cdef str validate_item(Work *work, bytes run, bytes timestamp):
    """One item -> its record in `out` and None, or the reason; scanner.error when it is no JSON."""
    cdef Cursor *c = &work.scanner.text
    cdef Py_ssize_t start = position(c)
    cdef Py_ssize_t taken
    cdef int scanned
    cdef str reason
    cdef Value other
    if left(c) > LARGE_ITEM_BYTES:
        # This takes up to a second, so the interpreter is let go. What the item means is looked at below, when its size is known.
        with nogil:
            scanned = scan_item(work, &other)
    else:
        scanned = scan_item(work, &other)
    if scanned < 0:
        return None
    if scanned == 0:
        work.kind = -1
        return "expected an object"
    reason = find_kind(work)
    if reason is not None:
        return reason
    taken = position(c) - start
    if taken > MAX_RECORD_BYTES:
        reason = oversize(work)
        if reason is not None:
            return reason
    if work.kind != work.enveloped:
        put_envelope(work, run, timestamp)
    work.out.size = work.envelope
    # What is added to the item's own text: defaults, `.0` and `+00:00`.
    reserve(&work.out, taken + 256 + SLACK_BYTES)
    reason = put_payload(work)
    return reason if reason is not None else record_flaw(work, run, taken)


cdef str find_kind(Work *work):
    cdef const Value *type_ = &work.members.slot[TYPE]
    if type_.shape == STRING and work.kind >= 0:
        if is_text(&type_.text, &kind_table[work.kind].quoted):
            return None
    work.kind = -1
    if type_.shape == ABSENT:
        return "type: required"
    if type_.shape != STRING:
        return "type: expected a string"
    if span_size(&type_.text) > MAX_KEY_BYTES:
        return f"type: {span_size(&type_.text):,} bytes, and none of {', '.join(KINDS)}"
    text = text_of(type_)
    if text not in SCHEMA:
        return f"type: {ascii(text[:64])} is none of {', '.join(KINDS)}"
    work.kind = KINDS.index(text)
    return None


cdef int read_frame(Work *work, Validated result, bytes run, bytes timestamp) except -1:
    """All items; scanner.error when the frame is no JSON."""
    cdef Scanner *scanner = &work.scanner
    cdef Cursor *c = &scanner.text
    cdef str reason
    cdef bint many
    skip_space(c)
    many = take_byte(c, c'[')
    if many:
        skip_space(c)
        if take_byte(c, c']'):
            return 0
    while True:
        if result.count == MAX_ITEMS:
            return fail_limit()
        reason = validate_item(work, run, timestamp)
        if scanner.error != NULL:
            return 0
        keep_item(result, work, reason)
        if not many:
            return 0
        skip_space(c)
        if take_byte(c, c']'):
            return 0
        if not take_byte(c, c','):
            fail(scanner, "expected a comma or the closing bracket")
            return 0
        skip_space(c)


cdef int fail_limit() except -1:
    raise NotJSON(f"the frame holds more than {MAX_ITEMS:,} items; send smaller ones")


def validate(frame, bytes run not None, bytes timestamp not None):
    cdef Validated result = Validated.__new__(Validated)
    cdef Py_buffer view
    cdef Work work
    cdef Scanner *scanner = &work.scanner
    work_open(&work)
    # The view keeps the frame's bytes alive and in place until the end.
    PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
    try:
        cursor_over(&scanner.text, view.buf, view.len)
        read_frame(&work, result, run, timestamp)
        if scanner.error == NULL:
            skip_space(&scanner.text)
            if left(&scanner.text):
                fail(scanner, "unexpected text behind the end")
        if scanner.error != NULL:
            raise NotJSON(f"the frame is not JSON: {scanner.error.decode()} at byte {position(&scanner.text)}")
        return result
    finally:
        PyBuffer_Release(&view)
        work_close(&work)


def error_reply(Validated frame):
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
