# Client frames -> broker records: the contract's sections 1, 3 and 6.
# The schema of the messages stands once, in SCHEMA; what a value is stands in _codec_scan.pxi.
# Free values and strings are copied as they stand, typed numbers and times are normalised.

import re as _re

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer


MAX_ITEMS = 10_000
MAX_RECORD = 900 * 1024
MAX_KEY = 4_096
MAX_NAME = 512
MAX_BLOB_KEY = 1_024  # S3's limit
LOG_SEQUENCES = ("logs", "__log_records")

cdef enum Rule:
    STRING_RULE
    NAME_RULE      # a string of 1 to 512 bytes
    VALUE_RULE     # a number or a boolean, written as a float
    NUMBER_RULE    # a number, written as a float
    INT64_RULE
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
        ("epoch", INT64_RULE, REQUIRED | NULLABLE, ""),
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
        ("epoch", INT64_RULE, NULLABLE, "null"),
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
    ROW_ROOM = 8
    KIND_ROOM = 16
    TEXT_ROOM = 40
    ORDER_ROOM = 16

cdef struct Text:
    char data[TEXT_ROOM]
    Py_ssize_t size

cdef struct Row:
    int field
    int rule
    int flags
    Text member   # ,"name":
    Text default

cdef struct Kind:
    Text quoted   # "log_metric"
    int rows
    Row row[ROW_ROOM]

cdef Text field_table[FIELD_ROOM]  # each in its quotes
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
    if name not in field_index:
        field_index[name] = field_count
        set_text(&field_table[field_count], f'"{name}"')
        field_count += 1
    return field_index[name]


cdef int fill_tables() except -1:
    global kind_count
    cdef Row *row
    for kind, members in SCHEMA.items():
        set_text(&kind_table[kind_count].quoted, f'"{kind}"')
        for name, rule, flags, default in members:
            row = &kind_table[kind_count].row[kind_table[kind_count].rows]
            row.field = field_of(name)
            row.rule = rule
            row.flags = flags
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

# The fields of an object in the order in which the last such object had them: producers repeat
# themselves, so a member's name is mostly one comparison. A wrong guess costs a look-up, nothing else.
cdef struct Order:
    int field[ORDER_ROOM]


cdef inline int known_field(const Span *key) noexcept:
    """The field that a key without escapes names, or FIELD_ROOM."""
    cdef Py_ssize_t size = key.stop - key.start
    cdef int i
    for i in range(field_count):
        if field_table[i].size == size and memcmp(field_table[i].data, key.start, size) == 0:
            return i
    return FIELD_ROOM


cdef int scan_members(Scanner *c, Span *slots, Order *order) except -2:
    """At `{`: fills the slot of each known field, the last of equal names; -1 when it is no JSON."""
    cdef Span key
    cdef Span ignored
    cdef int field, i = 0
    cdef Text *guess
    for field in range(field_count):
        slots[field].shape = ABSENT
    c.p += 1
    skip_space(c)
    if c.p < c.end and c.p[0] == c'}':
        c.p += 1
        return 0
    while True:
        field = order.field[i]
        guess = &field_table[field]
        if field < FIELD_ROOM and take(c, guess.data, guess.size):
            skip_space(c)
            if c.p == c.end or c.p[0] != c':':
                return fail(c, "expected a colon")
            c.p += 1
            skip_space(c)
        else:
            key.flaw = SOUND
            key.escaped = 0
            if scan_key(c, &key) < 0:
                return -1
            if key.escaped:
                field = field_index.get(text_of(&key), FIELD_ROOM)
            else:
                field = known_field(&key)
            order.field[i] = field
        if i < ORDER_ROOM - 1:
            i += 1
        if scan_value(c, &slots[field] if field < FIELD_ROOM else &ignored) < 0:
            return -1
        skip_space(c)
        if c.p == c.end:
            return fail(c, "the text ends early")
        if c.p[0] == c',':
            c.p += 1
            skip_space(c)
        elif c.p[0] == c'}':
            c.p += 1
            return 0
        else:
            return fail(c, "expected a comma or the closing bracket")


# --- one record's text -------------------------------------------------------------------------

cdef struct Out:
    uint8_t *data
    Py_ssize_t size
    Py_ssize_t room


cdef inline int out_reserve(Out *out, Py_ssize_t more) except -1:
    cdef Py_ssize_t room
    cdef void *grown
    if out.room - out.size < more:
        room = 2 * (out.size + more)
        grown = realloc(out.data, room)
        if grown == NULL:
            raise MemoryError()
        out.data = <uint8_t *>grown
        out.room = room
    return 0


cdef inline void out_put(Out *out, const void *data, Py_ssize_t size) noexcept:
    """The caller has reserved the room."""
    memcpy(out.data + out.size, data, size)
    out.size += size


cdef Py_ssize_t packed_size(const Span *s) except -1:
    """How many bytes msgpack makes of a value; exact when that can matter, else only not too small."""
    # The longest growth is `1.,`-like: three characters of JSON for nine bytes.
    cdef Py_ssize_t most = 3 * (s.stop - s.start) + 5
    return most if most <= MAX_STORED // 2 else len(msgpack_value(loads(s)))


cdef str put_member(Out *out, const Row *row, const Span *s):
    """Appends the member's value; the reason when the value is not what the row says."""
    cdef int64_t number
    cdef int64_t micros
    cdef int found
    cdef Py_ssize_t size = s.stop - s.start
    cdef bytes text
    if row.rule == VALUE_RULE or row.rule == NUMBER_RULE:
        if s.shape == FLOAT or s.shape == SPECIAL:
            out_put(out, s.start, size)
            return None
        if s.shape == INTEGER:
            if size > 300 and float_of(s) in (float("inf"), float("-inf")):
                return "out of the range of float64"
            if size == 2 and s.start[0] == c'-' and s.start[1] == c'0':
                out_put(out, b"0.0", 3)  # -0 is an integer, and integers have one zero
                return None
            out_put(out, s.start, size)
            out_put(out, b".0", 2)
            return None
        if row.rule == VALUE_RULE and (s.shape == TRUE_ or s.shape == FALSE_):
            out_put(out, b"1.0" if s.shape == TRUE_ else b"0.0", 3)
            return None
    elif row.rule == INT64_RULE:
        if s.shape == INTEGER and size <= 18 and s.start[0] != c'-':
            out_put(out, s.start, size)
            return None
        found = int64_of(s, &number)
        if found == 2:
            return "out of the range of int64"
        if found == 1:
            text = b"%d" % number
            out_put(out, PyBytes_AS_STRING(text), len(text))
            return None
    elif row.rule == TIME_RULE:
        if s.shape == STRING:
            if s.escaped:
                text = _json.dumps(text_of(s), ensure_ascii=False).encode("utf-8", "surrogatepass")
                found = scan_time(
                    <const uint8_t *>PyBytes_AS_STRING(text) + 1,
                    <const uint8_t *>PyBytes_AS_STRING(text) + len(text) - 1, &micros,
                )
                if found:
                    out_put(out, PyBytes_AS_STRING(text), len(text) - 1)
            else:
                found = scan_time(s.start + 1, s.stop - 1, &micros)
                out_put(out, s.start, size - 1)
            if found:
                if found == 2:
                    out_put(out, b"+00:00", 6)
                out_put(out, b'"', 1)
                return None
    elif row.rule == BOOL_RULE:
        if s.shape == TRUE_ or s.shape == FALSE_:
            out_put(out, s.start, size)
            return None
    elif row.rule == STRING_RULE or row.rule == NAME_RULE:
        if s.shape == STRING:
            if s.flaw:
                return FLAWS[s.flaw]
            if row.rule == NAME_RULE and (size == 2 or size - 2 > MAX_NAME):
                found = len(text_of(s).encode())
                if not 1 <= found <= MAX_NAME:
                    return f"has {found:,} bytes; a name has 1 to {MAX_NAME}"
            out_put(out, s.start, size)
            return None
    elif s.shape == (OBJECT if row.rule == OBJECT_RULE else ARRAY):
        if s.flaw:
            return FLAWS[s.flaw]
        out_put(out, s.start, size)
        return None
    return f"expected {EXPECTED[row.rule]}"


cdef str too_large(str what, Py_ssize_t size):
    return f"{what}: {size:,} bytes as stored; the limit is {MAX_STORED:,}"


cdef str hparams_flaw(str run, value):
    """Why some leaf of an hparams tree cannot be stored: its key or its value is too long."""
    def size(element):
        if isinstance(element, int):
            return 1 + (element.bit_length() + 7) // 8
        data = element.encode()
        return 2 + len(data) + data.count(b"\0")

    base = size(run) + size("attrs") + size("__empty_dict__")
    waiting = [((), base, value)]
    while waiting:
        path, key, node = waiting.pop()
        if key > MAX_KEY:
            return f"value: a key takes {key:,} bytes with its path; the limit is {MAX_KEY:,}"
        if isinstance(node, dict):
            waiting.extend((path + (k,), key + size(k), v) for k, v in node.items())
        elif isinstance(node, list):
            waiting.extend((path + (i,), key + size(i), v) for i, v in enumerate(node))
        elif isinstance(node, str):
            packed = len(msgpack_value(node))
            if packed > MAX_STORED:
                return too_large("value: " + ".".join(map(str, path))[:100], packed)
            if len(path) == 2 and path[0] == "hparams":
                # It stands in the index, and twice with its run in the reverse index.
                key = size("_rev") + 2 * size(run) + size("hparam") + size(path[1]) + size(node)
                if key > MAX_KEY:
                    return (f"value: hparams.{path[1][:100]}: its index key takes {key:,} bytes; "
                            f"the limit is {MAX_KEY:,}")
    return None


cdef str kind_flaw(int kind, Span *slots, str run):
    """What a message must fulfil beyond its members' types."""
    cdef Py_ssize_t size
    cdef Span *name = &slots[NAME]
    cdef Span *context = &slots[CONTEXT]
    what = KINDS[kind]
    if what == "log_metric" or what == "log_custom_object":
        if name.start[1] == c'l' or name.start[1] == c'_' or name.escaped:
            if (context.shape != OBJECT or context.empty) and text_of(name) in LOG_SEQUENCES:
                return "name: belongs to the run's logs in the empty context; choose another one"
        if context.shape == OBJECT and packed_size(context) > MAX_STORED:
            return too_large("context", packed_size(context))
        if slots[DTYPE].shape == STRING and packed_size(&slots[DTYPE]) > MAX_STORED:
            return too_large("dtype", packed_size(&slots[DTYPE]))
    elif what == "log_hparams":
        # No key can be longer than the text and what stands around it.
        if slots[VALUE].stop - slots[VALUE].start > MAX_KEY - 600:
            return hparams_flaw(run, loads(&slots[VALUE]))
    elif what == "blob_ref":
        path = text_of(&slots[ARTIFACT_PATH])
        flaw = check_artifact_path(run, path)
        if flaw is not None:
            return "artifact_path: " + flaw
        if text_of(&slots[S3_KEY]) != f"{run}/{path}":
            return "s3_key: expected run_id/artifact_path"
        size = packed_size(&slots[CONTENT_TYPE]) if slots[CONTENT_TYPE].shape == STRING else 0
        if size + 1_100 > MAX_STORED:
            return too_large("content_type", size)
    elif what == "log_record":
        size = 64
        for field in ("message", "logger_info", "extra_args"):
            if slots[<int>field_index[field]].shape > NULL_:
                size += packed_size(&slots[<int>field_index[field]])
        if size > MAX_STORED:
            return too_large("message, logger_info and extra_args together", size)
    else:
        for member in SCHEMA[what]:
            if member[1] == STRING_RULE and slots[<int>field_index[member[0]]].shape == STRING:
                size = packed_size(&slots[<int>field_index[member[0]]])
                if size > MAX_STORED:
                    return too_large(member[0], size)
    return None


cdef class Frame:
    cdef readonly Py_ssize_t count
    cdef readonly list records
    cdef readonly list kinds
    cdef readonly list rejected


class NotJSON(ValueError):
    pass


cdef object not_json(Scanner *c):
    return NotJSON(f"the frame is not JSON: {c.error.decode()} at byte {c.p - c.begin}")


cdef str validate_item(
    Scanner *c, Span *slots, Order *order, Out *out, int *kind, bytes run, bytes timestamp
):
    """One item -> its record in `out` and None, or the reason; c.error when it is no JSON."""
    cdef const uint8_t *start = c.p
    cdef Kind *k
    cdef Row *row
    cdef Span *s
    cdef int i
    cdef bint first = True
    cdef str reason
    kind[0] = -1
    if c.p == c.end or c.p[0] != c'{':
        if scan_value(c, slots) < 0:
            return None
        return "expected an object"
    if scan_members(c, slots, order) < 0:
        return None
    s = &slots[TYPE]
    if s.shape == ABSENT:
        return "type: required"
    if s.shape != STRING:
        return "type: expected a string"
    for i in range(kind_count):
        k = &kind_table[i]
        if s.stop - s.start == k.quoted.size and memcmp(s.start, k.quoted.data, k.quoted.size) == 0:
            kind[0] = i
            break
    else:
        text = text_of(s)
        if text not in SCHEMA:
            return f"type: {ascii(text[:64])} is none of {', '.join(KINDS)}"
        kind[0] = KINDS.index(text)
    k = &kind_table[kind[0]]
    # What is added to the item's own text: the envelope, defaults, `.0` and `+00:00`.
    out.size = 0
    out_reserve(out, (c.p - start) + len(run) + len(timestamp) + 512)
    out_put(out, b'{"type":', 8)
    out_put(out, k.quoted.data, k.quoted.size)
    out_put(out, b',"run_id":"', 11)
    out_put(out, PyBytes_AS_STRING(run), len(run))
    out_put(out, b'","timestamp":"', 15)
    out_put(out, PyBytes_AS_STRING(timestamp), len(timestamp))
    out_put(out, b'","payload":{', 13)
    for i in range(k.rows):
        row = &k.row[i]
        s = &slots[row.field]
        if s.shape <= NULL_:
            if s.shape == ABSENT and row.flags & REQUIRED:
                reason = "required"
            elif s.shape == NULL_ and not row.flags & NULLABLE:
                reason = f"expected {EXPECTED[row.rule]}"
            elif row.flags & OMITTED:
                continue
            else:
                out_put(out, row.member.data + first, row.member.size - first)
                if s.shape == NULL_:
                    out_put(out, b"null", 4)
                else:
                    out_put(out, row.default.data, row.default.size)
                first = False
                continue
        else:
            out_put(out, row.member.data + first, row.member.size - first)
            first = False
            reason = put_member(out, row, s)
            if reason is None:
                continue
        return f"{row.member.data[2:row.member.size - 2].decode()}: {reason}"
    out_put(out, b"}}", 2)
    reason = kind_flaw(kind[0], slots, run.decode())
    if reason is None and out.size > MAX_RECORD:
        return f"the record takes {out.size:,} bytes; the limit of a message is 900 KiB ({MAX_RECORD:,})"
    return reason


def validate(frame, bytes run, bytes timestamp):
    cdef Frame result = Frame.__new__(Frame)
    cdef Py_buffer view
    cdef Scanner c
    cdef Out out
    cdef Order order
    cdef Span slots[FIELD_ROOM]
    cdef int kind, i
    cdef bint many
    cdef str reason
    result.count = 0
    result.records = []
    result.kinds = []
    result.rejected = []
    for i in range(ORDER_ROOM):
        order.field[i] = FIELD_ROOM
    out.data = NULL
    out.size = out.room = 0
    scanner_open(&c)
    # The view keeps the frame's bytes alive and in place until the end.
    PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
    try:
        scanner_at(&c, <const uint8_t *>view.buf, view.len)
        skip_space(&c)
        many = c.p < c.end and c.p[0] == c'['
        if many:
            c.p += 1
            skip_space(&c)
            if c.p < c.end and c.p[0] == c']':
                c.p += 1
                skip_space(&c)
                if c.p != c.end:
                    fail(&c, "unexpected text behind the frame's end")
                    raise not_json(&c)
                return result
        while True:
            if result.count == MAX_ITEMS:
                raise NotJSON(f"the frame holds more than {MAX_ITEMS:,} items; send smaller ones")
            reason = validate_item(&c, slots, &order, &out, &kind, run, timestamp)
            if c.error != NULL:
                raise not_json(&c)
            if reason is None:
                result.records.append(PyBytes_FromStringAndSize(<char *>out.data, out.size))
                result.kinds.append(kind)
            else:
                result.rejected.append((result.count, KINDS[kind] if kind >= 0 else "", reason))
            result.count += 1
            skip_space(&c)
            if many:
                if c.p < c.end and c.p[0] == c',':
                    c.p += 1
                    skip_space(&c)
                    continue
                if c.p == c.end or c.p[0] != c']':
                    fail(&c, "expected a comma or the closing bracket")
                    raise not_json(&c)
                c.p += 1
                skip_space(&c)
            if c.p != c.end:
                fail(&c, "unexpected text behind the frame's end")
                raise not_json(&c)
            return result
    finally:
        PyBuffer_Release(&view)
        scanner_close(&c)
        free(out.data)


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
