# The schema of the messages: SCHEMA, the one place that states it, and C tables that are filled from it.
# How a message is judged by them stands in messages.pxi.

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

cdef struct Text:
    uint8_t data[TEXT_ROOM]
    Py_ssize_t size

cdef struct Field:
    Text quoted        # "name"
    uint64_t word[3]   # the same with its colon as words, and
    uint64_t mask[3]   # which of their bits count
    Py_ssize_t length  # with its colon

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


cdef inline bint is_text(const Span *s, const Text *text) noexcept nogil:
    return span_is(s, <const char *>text.data, text.size)


cdef inline bint is_named(const Value *name, const Text *quoted) noexcept nogil:
    """Whether a name is this one, however it is spelled."""
    if name.escaped:
        return spells(name, <const char *>quoted.data + 1, quoted.size - 2)
    return is_text(&name.text, quoted)


cdef inline void put_text(Buffer *out, const Text *text) noexcept:
    """Room is reserved, SLACK_BYTES included."""
    memcpy(out.data + out.size, text.data, TEXT_ROOM)  # a constant length is a few moves
    out.size += text.size


cdef int field_of(str name) except -1:
    global field_count
    cdef Field *field
    cdef Text with_colon
    cdef int i
    if name not in field_index:
        if field_count == FIELD_ROOM or len(name) > FIELD_SIZE:
            raise ValueError(name)
        field_index[name] = field_count
        field = &field_table[field_count]
        set_text(&field.quoted, f'"{name}"')
        memset(&with_colon, 0, sizeof(Text))
        set_text(&with_colon, f'"{name}":')
        field.length = with_colon.size
        for i in range(field.length):
            field.mask[i // 8] |= <uint64_t>0xFF << (8 * (i % 8))
        memcpy(field.word, with_colon.data, 24)
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
            row.most = {NAME_RULE: MAX_NAME_BYTES + 2, INT64_RULE: 18, EPOCH_RULE: 18}.get(rule, MAX_RECORD_BYTES)
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
