# Client frames -> broker records: the contract's sections 1, 3 and 6.
# The schema of the messages stands once, in SCHEMA; what a value is stands in _codec_scan.pxi.
# Free values and strings are copied as they stand, typed numbers and times are normalised.

import re as _re

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer


cdef enum:
    MAX_ITEMS = 10000
    MAX_RECORD = 900 * 1024
    LARGE_ITEM = 1 << 20  # bytes that are not scanned with the interpreter held
    MAX_NAME = 512
    MAX_BLOB_KEY = 1024  # S3's limit

LOG_SEQUENCES = ("logs", "__log_records")

# What may fill its message, since it is stored in parts; anything else is one stored value.
IN_PARTS = {
    ("log_custom_object", "value"),
    ("log_terminal_line", "line"),
    ("log_record", "message"),
    ("log_record", "logger_info"),
    ("log_record", "extra_args"),
}

cdef enum Rule:
    STRING_RULE
    NAME_RULE      # a string of 1 to 512 bytes
    VALUE_RULE     # a number or a boolean, written as a float
    NUMBER_RULE    # a number, written as a float
    INT64_RULE
    EPOCH_RULE     # an integer, or a finite number with a fraction
    BOOL_RULE
    OBJECT_RULE
    ARRAY_RULE
    TIME_RULE

cdef enum:
    REQUIRED = 1
    NULLABLE = 2
    OMITTED = 4  # null or absent: no member of the payload

EXPECTED = {
    STRING_RULE: "a string",
    NAME_RULE: "a string",
    VALUE_RULE: "a number",
    NUMBER_RULE: "a number",
    INT64_RULE: "an integer",
    EPOCH_RULE: "a finite number",
    BOOL_RULE: "true or false",
    OBJECT_RULE: "an object",
    ARRAY_RULE: "an array",
    TIME_RULE: "an ISO 8601 date and time",
}

# kind -> its members in the payload's order: (name, rule, flags, default when absent)
SCHEMA = {
    "create_run": (
        ("client_datetime", TIME_RULE, REQUIRED, ""),
        ("force_resume", BOOL_RULE, 0, "false"),
    ),
    "log_metric": (
        ("name", NAME_RULE, REQUIRED, ""),
        ("value", VALUE_RULE, REQUIRED, ""),
        ("step", INT64_RULE, REQUIRED | NULLABLE, ""),
        ("epoch", EPOCH_RULE, REQUIRED | NULLABLE, ""),
        ("context", OBJECT_RULE, REQUIRED | NULLABLE, ""),
        ("dtype", STRING_RULE, REQUIRED | NULLABLE, ""),
        ("client_datetime", TIME_RULE, REQUIRED, ""),
    ),
    "log_hparams": (("value", OBJECT_RULE, REQUIRED, ""),),
    "finish_run": (("client_datetime", TIME_RULE, NULLABLE | OMITTED, ""),),
    "set_run_property": (
        ("name", STRING_RULE, NULLABLE | OMITTED, ""),
        ("description", STRING_RULE, NULLABLE | OMITTED, ""),
        ("archived", BOOL_RULE, NULLABLE | OMITTED, ""),
        ("experiment", NAME_RULE, NULLABLE | OMITTED, ""),
    ),
    "add_tag": (("tag_name", NAME_RULE, REQUIRED, ""),),
    "remove_tag": (("tag_name", NAME_RULE, REQUIRED, ""),),
    "log_custom_object": (
        ("name", NAME_RULE, REQUIRED, ""),
        ("value", OBJECT_RULE, REQUIRED, ""),
        ("step", INT64_RULE, NULLABLE, "null"),
        ("epoch", EPOCH_RULE, NULLABLE, "null"),
        ("context", OBJECT_RULE, NULLABLE, "null"),
        ("dtype", STRING_RULE, 0, '"custom"'),
        ("client_datetime", TIME_RULE, NULLABLE, "null"),
    ),
    "log_terminal_line": (
        ("line", STRING_RULE, REQUIRED, ""),
        ("step", INT64_RULE, REQUIRED, ""),
    ),
    "log_record": (
        ("message", STRING_RULE, REQUIRED, ""),
        ("level", INT64_RULE, REQUIRED, ""),
        ("timestamp", NUMBER_RULE, REQUIRED, ""),
        ("logger_info", ARRAY_RULE, NULLABLE | OMITTED, ""),
        ("extra_args", OBJECT_RULE, NULLABLE | OMITTED, ""),
    ),
    "blob_ref": (
        ("s3_key", STRING_RULE, REQUIRED, ""),
        ("artifact_path", STRING_RULE, REQUIRED, ""),
        ("content_type", STRING_RULE, 0, '"application/octet-stream"'),
    ),
}
KINDS = tuple(SCHEMA)

# --- the schema as C tables, filled once -------------------------------------------------------

cdef enum:
    FIELD_ROOM = 32
    FIELD_SIZE = 21   # of a name, so that it fits three words with its quotes and colon
    ROW_ROOM = 8
    KIND_ROOM = 16
    TEXT_ROOM = 32
    ORDER_ROOM = 16
    HEAD_ROOM = 3
    SLACK = 32      # room behind the text for copies of constant length

cdef struct Text:
    uint8_t data[TEXT_ROOM]
    Py_ssize_t size

cdef struct Field:
    Text name         # "name":
    uint64_t word[3]  # the same as words, and
    uint64_t mask[3]  # which of their bits count

cdef struct Row:
    int field
    int rule
    int flags
    int copied        # bit n: a value of shape n without a flaw is copied as it stands,
    Py_ssize_t least  # when its text has at least
    Py_ssize_t most   # and at most so many bytes
    Text member       # ,"name":
    Text default

cdef struct Kind:
    Text quoted   # "log_metric"
    int rows
    Row row[ROW_ROOM]

cdef Field field_table[FIELD_ROOM + 1]  # the last one matches no text
cdef Kind kind_table[KIND_ROOM]
cdef int field_count = 0
cdef int kind_count = 0
cdef dict field_index = {}


cdef int set_text(Text *text, str value) except -1:
    cdef bytes data = value.encode()
    if len(data) > TEXT_ROOM:
        raise ValueError(value)
    memcpy(text.data, PyBytes_AS_STRING(data), len(data))
    text.size = len(data)
    return 0


cdef int field_of(str name) except -1:
    global field_count
    cdef Field *field
    cdef int i
    if name not in field_index:
        if field_count == FIELD_ROOM or len(name) > FIELD_SIZE:
            raise ValueError(name)
        field_index[name] = field_count
        field = &field_table[field_count]
        set_text(&field.name, f'"{name}":')
        for i in range(field.name.size):
            field.mask[i // 8] |= <uint64_t>0xFF << (8 * (i % 8))
        memcpy(field.word, field.name.data, 24)
        field_count += 1
    return field_index[name]


cdef int fill_tables() except -1:
    global kind_count
    cdef Row *row
    field_table[FIELD_ROOM].mask[0] = field_table[FIELD_ROOM].word[0] = <uint64_t>-1
    for kind, members in SCHEMA.items():
        set_text(&kind_table[kind_count].quoted, f'"{kind}"')
        for name, rule, flags, default in members:
            row = &kind_table[kind_count].row[kind_table[kind_count].rows]
            row.field = field_of(name)
            row.rule = rule
            row.flags = flags
            row.least = 3 if rule == NAME_RULE else 0
            row.most = {NAME_RULE: MAX_NAME + 2, INT64_RULE: 18, EPOCH_RULE: 18}.get(rule, MAX_RECORD)
            row.copied = {
                STRING_RULE: 1 << STRING,
                NAME_RULE: 1 << STRING,
                VALUE_RULE: 1 << FLOAT | 1 << SPECIAL,
                NUMBER_RULE: 1 << FLOAT | 1 << SPECIAL,
                INT64_RULE: 1 << INTEGER,
                EPOCH_RULE: 1 << INTEGER,
                BOOL_RULE: 1 << TRUE_ | 1 << FALSE_,
                OBJECT_RULE: 1 << OBJECT,
                ARRAY_RULE: 1 << ARRAY,
                TIME_RULE: 0,
            }[rule]
            if flags & NULLABLE and not flags & OMITTED:
                row.copied |= 1 << NULL_
            set_text(&row.member, f',"{name}":')
            set_text(&row.default, default)
            kind_table[kind_count].rows += 1
        kind_count += 1
    return 0


fill_tables()
cdef int TYPE = field_of("type")
cdef int RUN_ID = field_of("run_id")
cdef int TIMESTAMP = field_of("timestamp")
cdef int PAYLOAD = field_of("payload")
cdef int NAME = field_of("name")
cdef int VALUE = field_of("value")
cdef int STEP = field_of("step")
cdef int EPOCH = field_of("epoch")
cdef int CONTEXT = field_of("context")
cdef int DTYPE = field_of("dtype")
cdef int CLIENT_DATETIME = field_of("client_datetime")
cdef int S3_KEY = field_of("s3_key")
cdef int ARTIFACT_PATH = field_of("artifact_path")
cdef int CONTENT_TYPE = field_of("content_type")
cdef int LOG_METRIC = KINDS.index("log_metric")
cdef int LOG_CUSTOM_OBJECT = KINDS.index("log_custom_object")
cdef int LOG_HPARAMS = KINDS.index("log_hparams")
cdef int BLOB_REF = KINDS.index("blob_ref")

# One kind of object after the other, read from one buffer. Producers repeat themselves: a member's name
# mostly stands where it stood in the object before, so it costs one comparison, and the first members
# (type, run id, timestamp) often are the same bytes altogether. A wrong guess costs a look-up, nothing else.
cdef struct Members:
    Span slot[FIELD_ROOM + 1]  # of each field; what is unknown lands in the last
    uint64_t present           # bit n: slot n is not ABSENT
    uint8_t flaw               # of any value, known or not
    int order[ORDER_ROOM]      # the fields as they stood in the object before
    int alike                  # how many members the head has
    const uint8_t *head        # the last object's begin, up to its member number `alike`;
    Py_ssize_t head_size       # whoever scans keeps that object's bytes alive
    Span head_slot[HEAD_ROOM]
    int head_field[HEAD_ROOM]
    Members *inner             # what reads the object `payload`, or NULL


cdef void members_open(Members *m, int alike, Members *inner) noexcept:
    cdef int i
    for i in range(ORDER_ROOM):
        m.order[i] = FIELD_ROOM
    for i in range(FIELD_ROOM):
        m.slot[i].shape = ABSENT
    m.present = 0
    m.alike = alike
    m.head_size = 0
    m.inner = inner


cdef inline bint take_field(Scanner *c, const Field *field) noexcept nogil:
    """Advances over the field's name and colon when they stand here."""
    if c.end - c.p < 24 or (
        ((word_at(c.p) ^ field.word[0]) & field.mask[0])
        | ((word_at(c.p + 8) ^ field.word[1]) & field.mask[1])
        | ((word_at(c.p + 16) ^ field.word[2]) & field.mask[2])
    ):
        return False
    c.p += field.name.size
    return True


cdef int look_up(const Span *key) noexcept nogil:
    """The field that a key names, or FIELD_ROOM."""
    cdef Py_ssize_t size = key.stop - key.start
    cdef const Text *name
    cdef int i
    for i in range(field_count):
        name = &field_table[i].name
        if key.escaped:
            if spells(key, <const char *>name.data + 1, name.size - 3):
                return i
        elif name.size == size + 1 and memcmp(name.data, key.start, size) == 0:
            return i
    return FIELD_ROOM


cdef inline void forget(Members *m, uint64_t keep) noexcept nogil:
    """The slots that the object before had filled are ABSENT again."""
    cdef uint64_t stale = m.present & ~keep
    cdef int field = 0
    m.present = keep
    while stale:
        if stale & 1:
            m.slot[field].shape = ABSENT
        stale >>= 1
        field += 1


cdef inline int keep_head(Members *m, const uint8_t *start, Py_ssize_t size) noexcept nogil:
    cdef int i
    m.head = start
    m.head_size = size
    for i in range(m.alike):
        if m.inner != NULL and m.order[i] == PAYLOAD:
            m.head_size = 0  # it is more than its span
        m.head_field[i] = m.order[i]
        m.head_slot[i] = m.slot[m.order[i]]
    return 0


cdef inline int take_head(Scanner *c, Members *m, uint64_t *seen) noexcept nogil:
    """Fills the slots of the first members when they are the bytes that the last head had."""
    cdef Span *s
    cdef int i
    if m.head_size == 0 or c.end - c.p < m.head_size or memcmp(c.p, m.head, m.head_size) != 0:
        return 0
    for i in range(m.alike):
        s = &m.slot[m.head_field[i]]
        s[0] = m.head_slot[i]
        s.start = c.p + (s.start - m.head)
        s.stop = c.p + (s.stop - m.head)
        m.flaw |= s.flaw
        seen[0] |= <uint64_t>1 << m.head_field[i]
    m.present |= seen[0]
    c.p += m.head_size
    skip_space(c)
    return m.alike


cdef int scan_members(Scanner *c, Members *m) except -2 nogil:
    """At `{`: fills the slot of each known field, the last of equal names; -1 when it is no JSON."""
    cdef Span key
    cdef Span *s
    cdef const uint8_t *start = c.p
    cdef uint64_t seen = 0
    cdef int field, i
    m.flaw = SOUND
    i = take_head(c, m, &seen)
    if i == 0:
        c.p += 1
        skip_space(c)
        if c.p < c.end and c.p[0] == c'}':
            c.p += 1
            forget(m, 0)
            return 0
    while True:
        field = m.order[i]
        if take_field(c, &field_table[field]):
            skip_space(c)
        else:
            key.flaw = SOUND
            key.escaped = 0
            if scan_key(c, &key) < 0:
                return -1
            field = m.order[i] = look_up(&key)
        seen |= <uint64_t>1 << field
        m.present |= seen
        s = &m.slot[field]
        if field == PAYLOAD and m.inner != NULL and c.p < c.end and c.p[0] == c'{':
            s.start = c.p
            s.shape = OBJECT
            s.flaw = SOUND
            if scan_members(c, m.inner) < 0:
                return -1
            s.stop = c.p
        elif scan_value(c, s) < 0:
            return -1
        m.flaw |= s.flaw
        skip_space(c)
        if c.p == c.end:
            return fail(c, "the text ends early")
        if c.p[0] == c',':
            c.p += 1
            skip_space(c)
        elif c.p[0] == c'}':
            c.p += 1
            forget(m, seen)
            return 0
        else:
            return fail(c, "expected a comma or the closing bracket")
        if i < ORDER_ROOM - 1:
            i += 1
        if i == m.alike:
            keep_head(m, start, c.p - start)


# --- one frame's state -------------------------------------------------------------------------

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


_RUN_ID = _re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CONTROL = _re.compile("[\x00-\x1f\x7f-\x9f]")


def check_run_id(str run):
    if _RUN_ID.fullmatch(run) and run not in (".", ".."):
        return None
    return "a run id has 1 to 128 characters of A-Z a-z 0-9 _ . : - and is not . or .."


def check_artifact_path(str run, str path):
    try:
        size = len(f"{run}/{path}".encode())
    except UnicodeEncodeError:
        return FLAWS[LONE_SURROGATE]
    if size > MAX_BLOB_KEY:
        return f"takes {size:,} bytes with its run id; the limit is {MAX_BLOB_KEY:,}"
    if _CONTROL.search(path):
        return "holds a control character"
    if {".", ".."} & set(path.split("/")):
        return "holds a segment . or .."
    return None


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
